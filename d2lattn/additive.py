"""Additive attention: the score is a small neural network."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2lattn.attention import (
    Attention,
    Score,
    apply_linear,
    check_same_width,
    check_size,
)
from d2lattn.masking import at_least_float32, check_floating, check_tokens
from d2lattn.streaming import Pairs, PullBack, Tile

__all__ = ["AdditiveAttention", "AdditiveScore", "additive_score"]

# 2 MB in float32: with it, what is added up for a tile stays in a core's cache.
_ELEMENTS_OF_THE_BUFFER = 2**19


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
    if w_v.dtype != queries.dtype:
        raise TypeError(f"w_v must have the dtype of the queries, {queries.dtype}; got {w_v.dtype}")
    if w_v.shape != queries.shape[-1:]:
        raise ValueError(
            f"w_v must have shape ({queries.shape[-1]},), one weight for each hidden feature; "
            f"got {tuple(w_v.shape)}"
        )
    scores = _compare(at_least_float32(queries), at_least_float32(keys), w_v)
    return scores.to(queries.dtype)


def _compare(q: Tensor, k: Tensor, w_v: Tensor) -> Tensor:
    # (*batch, queries, keys, hidden)
    features = torch.tanh(q.unsqueeze(-2) + k.unsqueeze(-3))
    return features @ w_v.to(features.dtype)


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

    def __init__(self, key_size: int, query_size: int, num_hiddens: int) -> None:
        super().__init__()
        for name, size in (
            ("key_size", key_size), ("query_size", query_size), ("num_hiddens", num_hiddens),
        ):  # fmt: skip
            check_size(name, size)
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
        return _compare(q, k, self.w_v.weight.squeeze(0))

    def pairs(
        self, q: Float[Tensor, "batch queries hidden"], k: Float[Tensor, "batch keys hidden"]
    ) -> Pairs:
        """With the exponentials made once per token, wherever they can be made."""
        # Neither e^(2x) nor e^(-2x) may leave the range of normal numbers; their product may.
        limit = -math.log(torch.finfo(q.dtype).tiny)
        if all(bool((2 * x.abs() <= limit).all()) for x in (q, k)):
            return _ExponentialPairs(self, q, k)
        return super().pairs(q, k)


class _ExponentialPairs(Pairs):
    r"""Additive scores, with one exponential for each token instead of a tanh for each pair.

    .. math:: \tanh(q + k) = 1 - 2 r, \qquad r = \frac{1}{1 + e^{2q} e^{2k}}

    A buffer of a tile's r is used again and again.
    """

    def __init__(self, score: AdditiveScore, q: Tensor, k: Tensor) -> None:
        super().__init__(score, q, k)
        self.features = 1
        self.parameter = score.w_v.weight
        self.w_v = self.parameter.detach().to(q.dtype).squeeze(0)
        self.q, self.k = (2 * q).exp_(), (2 * k).exp_()
        self.buffer = q.new_empty(0)

    def scores(self, tile: Tile) -> Float[Tensor, "batch rows columns"]:
        q, k = self.q[tile.batch, tile.rows], self.k[tile.batch, tile.columns]
        scores = q.new_empty(*q.shape[:2], k.shape[1])
        for part, rows in self._parts(q, k):
            r = self._r(q[part, rows], k[part])
            torch.mv(r.flatten(0, -2), self.w_v, out=scores[part, rows].view(-1))
        return scores.mul_(-2.0).add_(self.w_v.sum())

    def vjp(self, tile: Tile) -> tuple[Float[Tensor, "batch rows columns"], PullBack]:
        q, k = self.q[tile.batch, tile.rows], self.k[tile.batch, tile.columns]

        def pull_back(d_scores: Tensor) -> tuple[Tensor | None, ...]:
            d_q, d_k, d_w = torch.empty_like(q), torch.zeros_like(k), q.new_zeros(1, q.shape[-1])
            for part, rows in self._parts(q, k):
                r, d = self._r(q[part, rows], k[part]), d_scores[part, rows]
                d_w.addmm_(d.reshape(1, -1), r.flatten(0, -2))
                slopes = r.addcmul_(r, r, value=-1.0).mul_(d.unsqueeze(-1))  # r - r^2
                d_q[part, rows] = slopes.sum(dim=-2)
                d_k[part] += slopes.sum(dim=-3)
            d_w = (d_scores.sum() - 2 * d_w).to(self.parameter.dtype)
            of_tokens = 4 * self.w_v
            of_score = (d_w if p is self.parameter else None for p in self.score.parameters())
            return d_q.mul_(of_tokens), d_k.mul_(of_tokens), *of_score

        return self.scores(tile), pull_back

    def _parts(self, q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
        """Slices of a tile's batch and rows, as many as the buffer has room for."""
        per_row = max(1, k.shape[1] * k.shape[2])
        rows = max(1, min(_ELEMENTS_OF_THE_BUFFER // per_row, q.shape[1]))
        size = max(1, _ELEMENTS_OF_THE_BUFFER // (rows * per_row)) if rows == q.shape[1] else 1
        for start in range(0, len(q), size):
            for row in range(0, q.shape[1], rows):
                yield slice(start, start + size), slice(row, row + rows)

    def _r(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch rows columns hidden"]:
        shape = (*q.shape[:2], *k.shape[1:])
        if self.buffer.numel() < math.prod(shape):
            self.buffer = q.new_empty(math.prod(shape))
        r = self.buffer[: math.prod(shape)].view(shape)
        torch.mul(q.unsqueeze(-2), k.unsqueeze(-3), out=r)
        return r.add_(1.0).reciprocal_()


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
