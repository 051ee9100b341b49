"""Additive attention: the score is a small neural network."""

from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2lattn.additive_pairs import WORTH_A_CALL, compare_additively, scores_at_a_glance
from d2lattn.attention import Attention
from d2lattn.checks import (
    at_least_float32,
    check_dtype,
    check_floating,
    check_same_width,
    check_sizes,
    check_tokens,
)
from d2lattn.engine.probe import pairs_by_trial
from d2lattn.ordinary import is_ordinary, wants_gradients
from d2lattn.score import Glance, Pairs, Score, apply_linear, is_untouched, only_weight

__all__ = ["AdditiveAttention", "AdditiveScore", "additive_score"]


def additive_score(
    queries: Float[Tensor, "*batch queries hidden"],
    keys: Float[Tensor, "*batch keys hidden"],
    w_v: Float[Tensor, " hidden"],
) -> Float[Tensor, "*batch queries keys"]:
    r"""Score of projected queries and keys: a weighted sum of saturating features.

    .. math:: a(q, k) = w_v^\top \tanh(q + k)

    Parameters
    ----------
    queries, keys
        :math:`W_q q` and :math:`W_k k`: one floating dtype, the same batch axes and features.
    w_v
        One weight for each hidden feature.

    Returns
    -------
    Tensor
        Attention scores in the dtype of the queries, computed in at least float32.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.

    Examples
    --------
    >>> q, k = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, -1.0], [100.0, 100.0]])
    >>> additive_score(q, k, torch.tensor([1.0, 2.0]))
    tensor([[0., 3.]])

    References
    ----------
    Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate" (2015), appendix A.1.2.
    """
    check_tokens(queries=queries, keys=keys)
    check_same_width(queries, keys, "project both to the same number of hidden features first")
    check_floating("w_v", w_v)
    check_dtype("w_v", w_v, queries.dtype)
    if w_v.shape != queries.shape[-1:]:
        raise ValueError(
            f"w_v must have shape ({queries.shape[-1]},), one weight for each hidden feature; "
            f"got {tuple(w_v.shape)}"
        )
    q, k = at_least_float32(queries), at_least_float32(keys)
    return compare_additively(q, k, w_v.to(q.dtype)).to(queries.dtype)


class AdditiveScore(Score):
    r"""A network with one hidden layer that compares queries and keys of any width.

    .. math:: a(q, k) = w_v^\top \tanh(W_q q + W_k k)

    Parameters
    ----------
    key_size, query_size, num_hiddens
        Numbers of features of a key, of a query, and of the hidden layer.

    Attributes
    ----------
    W_q, W_k, w_v : torch.nn.Linear
        Bias-free, named as in D2L: weights trained there can be copied in.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer.

    Examples
    --------
    >>> score = AdditiveScore(key_size=2, query_size=20, num_hiddens=8)
    >>> score(torch.randn(2, 1, 20), torch.randn(2, 10, 2)).shape
    torch.Size([2, 1, 10])

    References
    ----------
    Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate" (2015), appendix A.1.2.
    """

    few: ClassVar[int] = 2**19  # as many as a block has of other sizes

    def __init__(self, key_size: int, query_size: int, num_hiddens: int) -> None:
        super().__init__()
        check_sizes(key_size=key_size, query_size=query_size, num_hiddens=num_hiddens)
        self.W_k = nn.Linear(key_size, num_hiddens, bias=False)
        self.W_q = nn.Linear(query_size, num_hiddens, bias=False)
        self.w_v = nn.Linear(num_hiddens, 1, bias=False)

    def project(
        self,
        queries: Float[Tensor, "*batch queries query_size"],
        keys: Float[Tensor, "*batch keys key_size"],
    ) -> tuple[
        Float[Tensor, "*batch queries hidden"],
        Float[Tensor, "*batch keys hidden"],
    ]:
        """W_q q and W_k k."""
        q = apply_linear("queries", queries, self.W_q)
        k = apply_linear("keys", keys, self.W_k)
        return q, k

    def compare(
        self,
        q: Float[Tensor, "*batch queries hidden"],
        k: Float[Tensor, "*batch keys hidden"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """tanh of the sum of every pair, weighted by w_v."""
        w_v = self._vector(q)
        if w_v is not None:
            return compare_additively(q, k, w_v)
        features = torch.tanh(q.unsqueeze(-2) + k.unsqueeze(-3))
        parameters = (x for x in self.w_v.parameters() if x.is_floating_point())
        return self.w_v(features.to(next(parameters, features).dtype)).squeeze(-1)

    def at_a_glance(self, queries: Tensor, keys: Tensor) -> Glance | None:
        """With layers as they were made, where no gradient follows."""
        few = min(queries.shape[1], keys.shape[1]) < 16  # are projected sooner with those of others
        number = queries.shape[0] * queries.shape[1] * keys.shape[1]
        if few or not WORTH_A_CALL <= number <= self.few or not is_untouched(self, AdditiveScore):
            return None
        w_q, w_k, w_v = (only_weight(layer) for layer in (self.W_q, self.W_k, self.w_v))
        if w_q is None or w_k is None or w_v is None:
            return None
        hidden, of_queries, of_keys = w_v.numel(), queries.shape[-1], keys.shape[-1]
        plain = (
            is_ordinary(w_q, w_k, w_v)
            and torch._C._len_torch_function_stack() == 0  # nobody looks for calls of layers
            and w_q.dtype == w_k.dtype == w_v.dtype == keys.dtype
            and w_q.device == w_k.device == w_v.device == keys.device
            and (w_q.shape, w_k.shape) == ((hidden, of_queries), (hidden, of_keys))
            and w_v.shape == (1, hidden)
            and not wants_gradients(queries, keys, w_q, w_k, w_v)
        )
        return partial(scores_at_a_glance, queries, keys, w_q, w_k, w_v) if plain else None

    def pairs(self, q: Tensor, k: Tensor) -> Pairs | None:
        """With the vector of now; after a trial, if it is not one as it was made."""
        w_v = self._vector(q)
        if w_v is None:
            return pairs_by_trial(self, q, k)
        return Pairs(lambda q, k, block: compare_additively(q, k, w_v), (w_v,), times=2)

    def _vector(self, q: Tensor) -> Tensor | None:
        """The vector that the last layer is, if it is nothing else."""
        weight = only_weight(self.w_v)
        if weight is None or weight.shape != (1, q.shape[-1]):
            return None
        return weight.squeeze(0).to(q.dtype)


class AdditiveAttention(Attention):
    r"""Additive attention, with D2L's order of arguments.

    .. math:: f(q) = \sum_j \mathrm{softmax}_j\bigl(w_v^\top \tanh(W_q q + W_k k_j)\bigr)\, v_j

    Parameters
    ----------
    key_size, query_size, num_hiddens
        Numbers of features of a key, of a query, and of the hidden layer.
    dropout
        Probability with which a weight is dropped in training mode.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or the dropout is not a probability.

    Examples
    --------
    >>> attention = AdditiveAttention(key_size=2, query_size=20, num_hiddens=8)
    >>> q, k, v = torch.randn(2, 1, 20), torch.ones(2, 10, 2), torch.arange(40.0).view(1, 10, 4)
    >>> attention(q, k, v.repeat(2, 1, 1), torch.tensor([2, 6])).output.round().int()
    tensor([[[ 2,  3,  4,  5]],
    <BLANKLINE>
            [[10, 11, 12, 13]]], dtype=torch.int32)

    References
    ----------
    Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate" (2015), appendix A.1.2.
    """

    def __init__(
        self,
        key_size: int,
        query_size: int,
        num_hiddens: int,
        dropout: float = 0.0,
    ) -> None:
        score = AdditiveScore(key_size, query_size, num_hiddens)
        super().__init__(score, dropout)
