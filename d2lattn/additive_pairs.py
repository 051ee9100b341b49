"""Additive scores of projected tokens: the formula, and the same with an exponential per token."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.blocks import at_once
from d2lattn.checks import is_ordinary
from d2lattn.derivatives import Gradients, gradients_again

__all__ = ["Denominators", "compare_additively", "compare_by_broadcasting"]

# 4 MB in float32: enough for calls not to count, and not so much that it would leave the cache.
ELEMENTS_OF_THE_BUFFER = 2**20


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
