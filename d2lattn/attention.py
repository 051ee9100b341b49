"""The one formula: score every key, turn scores into weights, average the values."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from d2lattn.masking import (
    at_least_float32,
    check_device,
    check_masks,
    check_tokens,
    has_values,
    masked_softmax,
)
from d2lattn.streaming import (
    Pairs,
    ScoreFunction,
    check_scores,
    stream_attention,
    without_padding,
)

__all__ = ["Attention", "AttentionOutput", "Score"]

# Where the weights are not asked for, more scores than these are made one tile at a time.
_SCORES_AT_ONCE = 2**16


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


class Score(nn.Module):
    r"""A scoring function in two halves: what is done per token, and what is done per pair.

    .. math:: a(q, k) = \mathrm{compare}(\mathrm{project}(q), \mathrm{project}(k))

    Subclasses define :meth:`compare`, and :meth:`project` where there is something to do once
    for each token. Calling the module gives all scores, in the dtype of the queries.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """A new :meth:`compare` is not what the parent's shortcuts were derived from."""
        super().__init_subclass__(**options)
        if "compare" in vars(cls):
            for shortcut in ("as_dot_product", "pairs"):
                if shortcut not in vars(cls):
                    setattr(cls, shortcut, vars(Score)[shortcut])

    def project(
        self,
        queries: Float[Tensor, "*batch queries query_features"],
        keys: Float[Tensor, "*batch keys key_features"],
    ) -> tuple[
        Float[Tensor, "*batch queries hidden"],
        Float[Tensor, "*batch keys hidden"],
    ]:
        """Done once for each query and once for each key; by default nothing."""
        return queries, keys

    def compare(
        self,
        q: Float[Tensor, "*batch queries hidden"],
        k: Float[Tensor, "*batch keys hidden"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """Done once for each pair of a projected query and a projected key."""
        raise NotImplementedError(f"{type(self).__name__} must define compare(q, k)")

    def as_dot_product(
        self,
        q: Float[Tensor, "*batch queries hidden"],
        k: Float[Tensor, "*batch keys hidden"],
    ) -> tuple[Tensor, Tensor, float] | None:
        """Queries, keys and a scale whose dot product :meth:`compare` is; None if it is none."""
        return None

    def pairs(
        self,
        q: Float[Tensor, "batch queries hidden"],
        k: Float[Tensor, "batch keys hidden"],
    ) -> Pairs:
        """How streaming goes through all pairs; a subclass may know how to do it in less."""
        return Pairs(self, q, k)

    def forward(
        self,
        queries: Float[Tensor, "*batch queries query_features"],
        keys: Float[Tensor, "*batch keys key_features"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """All scores, shape ``(*batch, queries, keys)``."""
        check_tokens(queries=queries, keys=keys)
        q, k = self.project(queries, keys)
        return self.compare(at_least_float32(q), at_least_float32(k)).to(queries.dtype)


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
        if isinstance(score, type) or not callable(score):
            raise TypeError(
                f"score must be a function of (queries, keys) or a module, made with its "
                f"arguments; got {score!r}"
            )
        if isinstance(dropout, bool) or not isinstance(dropout, int | float):
            raise TypeError(f"dropout must be a number in [0, 1]; got {dropout!r}")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"dropout must be a probability in [0, 1]; got {dropout}")
        self.score = score
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "*batch queries query_features"],
        keys: Float[Tensor, "*batch keys key_features"],
        values: Float[Tensor, "*batch keys value_features"],
        valid_lens: Int[Tensor, "..."] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
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
            Whether to return the weights. Without them no tensor of the size
            queries x keys is held, neither forward nor backward: what is large goes through
            :func:`~d2lattn.stream_attention` (but not inside ``torch.compile`` and
            ``torch.vmap``, which make their own plans).

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
        check_tokens(queries=queries, keys=keys, values=values)
        shape = (*queries.shape[:-1], keys.shape[-2])
        check_masks(valid_lens, mask, shape, queries.device)
        streams = math.prod(shape) > _SCORES_AT_ONCE and has_values(queries)
        if streams and not need_weights:
            dropout = self.dropout.p if self.training else 0.0
            streamed = stream_attention(
                self.score, queries, keys, values, valid_lens, mask=mask, dropout=dropout
            )
            return AttentionOutput(streamed.output, None)
        queries, keys, values = without_padding(queries, keys, values, valid_lens, mask)
        q, k, compare = queries, keys, self.score
        if isinstance(self.score, Score):
            q, k = (at_least_float32(tokens) for tokens in self.score.project(queries, keys))
            compare = self.score.compare
        output, weights = self._attend(compare, q, k, values, valid_lens, mask)
        return AttentionOutput(output, weights.to(values.dtype) if need_weights else None)

    def _attend(
        self,
        compare: ScoreFunction,
        q: Tensor,
        k: Tensor,
        values: Tensor,
        valid_lens: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Score, masked softmax, weighted sum; the weights in at least float32."""
        scores = compare(q, k)  # (*batch, queries, keys)
        check_scores(scores, (*q.shape[:-1], k.shape[-2]))
        wide = torch.promote_types(at_least_float32(scores).dtype, values.dtype)
        weights = masked_softmax(scores.to(wide), valid_lens, mask=mask)
        weights = self.dropout(weights)
        output = weights @ values.to(wide)
        return output.to(values.dtype), weights


def check_same_width(queries: Tensor, keys: Tensor, remedy: str) -> None:
    """Raise a ValueError that says what to do unless queries and keys have as many features."""
    if queries.shape[-1] != keys.shape[-1]:
        raise ValueError(
            f"keys must have as many features as the queries, {queries.shape[-1]}; "
            f"got {keys.shape[-1]} ({remedy})"
        )


def check_size(name: str, size: int) -> None:
    """Raise an error that names the argument unless it is a positive integer."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{name} must be an integer; got {size!r}")
    if size < 1:
        raise ValueError(f"{name} must be at least 1; got {size}")


def apply_linear(
    name: str, tokens: Float[Tensor, "*batch tokens features"], layer: nn.Linear
) -> Float[Tensor, "*batch tokens hidden"]:
    """The layer's output, after a check that names the argument if the tokens do not fit it."""
    if tokens.shape[-1] != layer.in_features:
        raise ValueError(
            f"{name} must have the {layer.in_features} features that the layer was made for; "
            f"got {tokens.shape[-1]}"
        )
    device = tokens.device.type
    mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if tokens.dtype != layer.weight.dtype and not mixed:  # under autocast the layer casts
        raise TypeError(
            f"{name} must have the dtype of the layer, {layer.weight.dtype}; got {tokens.dtype}"
        )
    check_device(name, tokens, layer.weight.device)
    return layer(tokens)
