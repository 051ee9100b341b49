"""Additive attention: the score is a small neural network."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2lattn.attention import Attention
from d2lattn.blocks import Block, at_once
from d2lattn.checks import (
    at_least_float32,
    check_floating,
    check_same_width,
    check_sizes,
    check_tokens,
    is_ordinary,
)
from d2lattn.derivatives import Gradients, gradients_again
from d2lattn.score import Pairs, Score, apply_linear, is_linear

__all__ = ["AdditiveAttention", "AdditiveScore", "additive_score"]

# 4 MB in float32: enough for calls not to count, and not so much that it would leave the cache.
ELEMENTS_OF_THE_BUFFER = 2**20


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
    q, k = at_least_float32(queries), at_least_float32(keys)
    return compare_additively(q, k, w_v.to(q.dtype)).to(queries.dtype)


def compare_additively(
    q: Float[Tensor, "*batch queries hidden"],
    k: Float[Tensor, "*batch keys hidden"],
    w_v: Float[Tensor, " hidden"],
) -> Float[Tensor, "*batch queries keys"]:
    """The formula, without a tensor of queries x keys x hidden where autograd can do without.

    For a single query, as in a decoder's step, that tensor is as large as the keys.
    """
    single = q.shape[-2] == 1 and k.numel() <= ELEMENTS_OF_THE_BUFFER
    if single or not is_ordinary(q, k) or 0 in (*q.shape, *k.shape):
        return compare_by_broadcasting(q, k, w_v)
    return _Additive.apply(q, k, w_v)


def compare_by_broadcasting(
    q: Float[Tensor, "*batch queries hidden"],
    k: Float[Tensor, "*batch keys hidden"],
    w_v: Float[Tensor, " hidden"],
) -> Float[Tensor, "*batch queries keys"]:
    """The formula as it stands, with a number for every pair and every hidden feature."""
    features = torch.tanh(q.unsqueeze(-2) + k.unsqueeze(-3))  # (*batch, queries, keys, hidden)
    return features @ w_v


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
        if is_linear(self.w_v) and self.w_v.bias is None:
            return compare_additively(q, k, self.w_v.weight.squeeze(0).to(q.dtype))
        features = torch.tanh(q.unsqueeze(-2) + k.unsqueeze(-3))
        weight = getattr(self.w_v, "weight", features)
        if isinstance(weight, Tensor):  # a quantized layer has a method here
            features = features.to(weight.dtype)
        return self.w_v(features).squeeze(-1)

    def pairs(self, q: Tensor, k: Tensor) -> Pairs | None:
        """With the vector of now."""
        if not is_linear(self.w_v) or self.w_v.bias is not None:
            return None
        w_v = self.w_v.weight.squeeze(0).to(q.dtype)
        return Pairs(partial(_compare_block, w_v), (w_v,))


def _compare_block(w_v: Tensor, q: Tensor, k: Tensor, block: Block) -> Tensor:
    return compare_additively(q, k, w_v)


class _Additive(torch.autograd.Function):
    r"""Additive scores, with one exponential for each token instead of a tanh for each pair.

    .. math:: \tanh(q + k) = 1 - \frac{2}{n}, \qquad n = 1 + e^{2q} e^{2k}

    A buffer of some pairs' n is used again and again. No product of matrices takes part: its
    threads and those of all else would wait for each other, each time anew.
    """

    @staticmethod
    def forward(q: Tensor, k: Tensor, w_v: Tensor) -> Tensor:
        scores = q.new_empty(*q.shape[:-1], k.shape[-2])
        flat = scores.view(-1, *scores.shape[-2:])
        for part, rows, n in Denominators(q, k).parts():
            torch.sum(torch.div(w_v, n, out=n), dim=-1, out=flat[part, rows])
        return scores.mul_(-2.0).add_(w_v.sum())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, d_scores: Tensor) -> Gradients:
        q, k, w_v = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_ordinary(d_scores):

            def again(*inputs: Tensor) -> list[Tensor]:
                return [compare_by_broadcasting(*inputs)]

            return gradients_again(again, (q, k, w_v), ctx.needs_input_grad, [d_scores])
        d_q, d_k, d_w = (x.new_zeros(x.shape) for x in (q, k, w_v))
        d_scores = d_scores.reshape(-1, *d_scores.shape[-2:])
        flat_q, flat_k = (x.view(-1, *x.shape[-2:]) for x in (d_q, d_k))
        denominators = Denominators(q, k, buffers=2)
        spare = torch.empty_like(denominators.buffer)
        for part, rows, n in denominators.parts():
            shares = spare[: n.numel()].view(n.shape)
            torch.div(d_scores[part, rows].unsqueeze(-1), n, out=shares)
            d_w += shares.sum(dim=-3).sum(dim=(0, 1))
            slopes = torch.addcdiv(shares, shares, n, value=-1.0, out=n)  # (1 - 1 / n) / n
            flat_q[part, rows] = slopes.sum(dim=-2)
            flat_k[part] += slopes.sum(dim=-3)
        return d_q.mul_(4 * w_v), d_k.mul_(4 * w_v), d_scores.sum() - 2 * d_w


class Denominators:
    """The n of all pairs, some at a time, in a buffer that may be written to.

    Where an exponential or its inverse would leave the range of normal numbers, n is made of the
    tanh.
    """

    def __init__(self, q: Tensor, k: Tensor, buffers: int = 1) -> None:
        q, k = (x.detach().reshape(-1, *x.shape[-2:]) for x in (q, k))
        # Neither e^(2x) nor e^(-2x) may leave the range of normal numbers; their product may.
        limit = -math.log(torch.finfo(q.dtype).tiny)
        ends = torch.stack([end for x in (q, k) for end in x.aminmax()]).tolist()
        self.by_exponentials = all(2 * abs(end) <= limit for end in ends)
        self.q, self.k = ((2 * x).exp_() if self.by_exponentials else x for x in (q, k))
        self.one = q.new_ones(())
        batch, num_queries, _ = q.shape
        per_row = k[0].numel()
        room = at_once(ELEMENTS_OF_THE_BUFFER, q.device) // buffers
        self.rows = max(1, min(room // per_row, num_queries))
        self.size = max(1, room // (self.rows * per_row)) if self.rows == num_queries else 1
        self.buffer = q.new_empty(min(self.size, batch) * self.rows * per_row)

    def parts(self) -> Iterator[tuple[slice, slice, Float[Tensor, "batch rows columns hidden"]]]:
        """Slices of the batch and the queries, as many as the buffer has room for, and their n."""
        for start in range(0, len(self.q), self.size):
            part = slice(start, start + self.size)
            k = self.k[part].unsqueeze(-3)
            for row in range(0, self.q.shape[1], self.rows):
                some = slice(row, row + self.rows)
                q = self.q[part, some].unsqueeze(-2)
                shape = (*q.shape[:2], *k.shape[-2:])
                n = self.buffer[: math.prod(shape)].view(shape)
                if self.by_exponentials:
                    torch.addcmul(self.one, q, k, out=n)
                else:
                    torch.add(q, k, out=n).tanh_().neg_().add_(1.0)
                    n.reciprocal_().mul_(2.0)
                yield part, some, n


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
