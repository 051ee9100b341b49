"""The one formula: score every key, turn scores into weights, average the values."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from d2lattn.checks import (
    check_dropout,
    check_scoring_function,
    check_tokens,
    fit_together,
    result_dtype,
)
from d2lattn.engine.attend import at_a_glance, attend
from d2lattn.masks import Mask, restriction
from d2lattn.score import ScoreFunction

__all__ = ["Attention", "AttentionOutput"]


class AttentionOutput(NamedTuple):
    """What :class:`Attention` returns.

    Attributes
    ----------
    output
        Weighted averages of the values, shape ``(*batch, queries, value_features)``.
    weights
        Attention weights, shape ``(*batch, queries, keys)``, or None if they were not asked for.
    """

    output: Float[Tensor, "*batch queries value_features"]
    weights: Float[Tensor, "*batch queries keys"] | None


class Attention(nn.Module):
    r"""Attention pooling with any scoring function.

    .. math::
        f(q) = \sum_j \alpha_j v_j, \qquad
        \alpha = \mathrm{masked\_softmax}\bigl(a(q, k_1), \dots, a(q, k_n)\bigr)

    Parameters
    ----------
    score
        The scoring function: a module such as :class:`~d2lattn.GaussianScore`, or any function
        that takes queries ``(*batch, queries, features)`` and keys ``(*batch, keys, features)``
        to scores ``(*batch, queries, keys)``.
    dropout
        Probability, in [0, 1], with which a weight is dropped in training mode; the others are
        scaled up by ``1 / (1 - dropout)``.

    Raises
    ------
    TypeError
        If the score cannot be called, or the dropout is not a number.
    ValueError
        If the dropout is not a probability.

    Examples
    --------
    >>> import torch
    >>> attention = Attention(lambda queries, keys: queries @ keys.mT)
    >>> keys, values = torch.eye(2), torch.tensor([[10.0], [20.0]])
    >>> output, weights = attention(torch.zeros(1, 2), keys, values)
    >>> output, weights
    (tensor([[15.]]), tensor([[0.5000, 0.5000]]))

    References
    ----------
    Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate" (2015); Zhang et al., *Dive into Deep Learning* (2023), "Attention Pooling".
    """

    def __init__(self, score: ScoreFunction, dropout: float = 0.0) -> None:
        super().__init__()
        check_scoring_function(score)
        check_dropout(dropout)
        self.score = score
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "*batch queries query_features"],
        keys: Float[Tensor, "*batch keys key_features"],
        values: Float[Tensor, "*batch keys value_features"],
        valid_lens: Int[Tensor, "..."] | None = None,
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        need_weights: bool = True,
    ) -> AttentionOutput:
        """Average the values, weighted by how well each key scores.

        Parameters
        ----------
        queries, keys, values
            One floating dtype, one device, the same batch axes (any number, also none); as
            many values as keys. Not modified.
        valid_lens, mask
            Which keys may be attended to, as in :func:`~d2lattn.masked_softmax`. A key that no
            query may attend to has no influence, whatever it and its value hold, and gets a
            gradient of exactly 0. A query without keys gets output 0.
        need_weights
            Whether to return the weights. Without them no tensor of the size queries x keys is
            held, neither forward nor backward, unless the score is a plain function or somebody
            listens to it (a hook): see :func:`~d2lattn.stream_attention`. The output is the same.

        Returns
        -------
        AttentionOutput
            ``(output, weights)`` in the dtype of the inputs, computed in at least float32.
            The weights are those that were used, after dropout.

        Raises
        ------
        TypeError
            If an input is not a floating-point tensor, dtypes differ, or the score returns
            no tensor.
        ValueError
            If shapes or devices do not fit, or the score returns something of another shape.
        """
        if not fit_together(queries, keys, values):
            check_tokens(queries=queries, keys=keys, values=values)
        found = at_a_glance(self, queries, keys, values, valid_lens, mask, need_weights)
        if found is not None:
            return AttentionOutput(found.output, found.weights if need_weights else None)
        shape = (*queries.shape[:-1], keys.shape[-2])
        allowed = restriction(valid_lens, mask, shape, queries.device)
        dtype = result_dtype(queries, keys, values)
        found = attend(
            self.score, queries, keys, values, allowed, self.dropout, need_weights=need_weights
        )
        weights = found.weights.to(dtype) if need_weights and found.weights is not None else None
        return AttentionOutput(found.output.to(dtype), weights)
