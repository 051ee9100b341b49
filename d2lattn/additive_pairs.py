"""Additive scores of projected tokens: the formula, and the same with an exponential per token."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from d2lattn.blocks import at_once
from d2lattn.derivatives import Gradients, gradients_again
from d2lattn.ordinary import is_ordinary, wants_gradients

Features = list[tuple[Tensor, ...]]

# 4 MB in float32: enough for calls not to count, and not so much that it would leave the cache.
ELEMENTS_OF_THE_BUFFER = 2**20
LOG2_E = math.log2(math.e)
# Fewer pairs than these are not worth a call for each feature.
WORTH_A_CALL = 2**15


def compare_additively(
    q: Float[Tensor, "*batch queries hidden"],
    k: Float[Tensor, "*batch keys hidden"],
    w_v: Float[Tensor, " hidden"],
) -> Float[Tensor, "*batch queries keys"]:
    """The formula, without a tensor of queries x keys x hidden where autograd can do without.

    For a single query, as in a decoder's step, that tensor is as large as the keys.
    """
    single = q.shape[-2] == 1 and k.numel() <= ELEMENTS_OF_THE_BUFFER
    broadcast = not q.shape[-1] == k.shape[-1] == len(w_v)
    if single or broadcast or not is_ordinary(q, k) or 0 in (*q.shape, *k.shape):
        return compare_by_broadcasting(q, k, w_v)
    if have_exponentials(q, k):
        follow = wants_gradients(q, k, w_v)
        return (_Additive.apply if follow else scores_by_exponentials)(q, k, w_v)
    parts = q.split(max(1, at_once(ELEMENTS_OF_THE_BUFFER, q.device) // k.numel()), dim=-2)
    keep = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # only the tokens
    return torch.cat([keep(compare_by_broadcasting, some, k, w_v) for some in parts], dim=-2)


def compare_by_broadcasting(
    q: Float[Tensor, "*batch queries hidden"],
    k: Float[Tensor, "*batch keys hidden"],
    w_v: Float[Tensor, " hidden"],
) -> Float[Tensor, "*batch queries keys"]:
    """The formula as it stands, with a number for every pair and every hidden feature."""
    features = torch.tanh(q.unsqueeze(-2) + k.unsqueeze(-3))  # (*batch, queries, keys, hidden)
    return features @ w_v


def have_exponentials(q: Tensor, k: Tensor, factor: float = 2.0) -> bool:
    """Whether e to the power of these, times the factor, and products of two, are normal numbers,
    so that a weight or a gradient is a factor as well."""
    limit = -math.log(torch.finfo(q.dtype).tiny) / 2 / factor
    return all(abs(end.item()) <= limit for x in (q, k) for end in x.detach().aminmax())


def scores_by_exponentials(
    q: Float[Tensor, "*batch queries hidden"],
    k: Float[Tensor, "*batch keys hidden"],
    w_v: Float[Tensor, " hidden"],
) -> Float[Tensor, "*batch queries keys"]:
    r"""The formula with one exponential for each token instead of a tanh for each pair.

    .. math:: \tanh(q + k) = 1 - \frac{2 x}{x + z}, \qquad x = e^{-2q},\quad z = e^{2k}

    Many pairs go one feature after the other: the sum and the quotient are then cut alike between
    threads, and each finds what it wrote in its own cache. No product of matrices takes part: its
    threads and those of all else would wait for each other.
    """
    scores = w_v.sum().expand(*q.shape[:-1], k.shape[-2]).contiguous()
    sums = Sums(q, k)
    factors = -2.0 * w_v
    for some, (n,), of_queries, of_keys in sums.blocks(scores):
        if sums.features == 1:
            xs, zs = ([each for (each,) in features] for features in (of_queries, of_keys))
            add_quotients(some, xs, zs, factors.tolist(), n)
            continue
        of_features = factors.view(-1, 1, 1, 1).split(sums.features)
        for (x,), (z,), several in zip(of_queries, of_keys, of_features, strict=True):
            held = torch.add(x, z, out=n[: len(x)])
            some += torch.div(several * x, held, out=held).sum(dim=0)
    return scores


def add_quotients(
    scores: Float[Tensor, "batch queries keys"],
    xs: Sequence[Tensor],
    zs: Sequence[Tensor],
    factors: Sequence[float],
    room: Float[Tensor, "batch queries keys"],
) -> None:
    r"""Add :math:`f\,x / (x + z)` to the scores, one feature after the other."""
    add, add_quotient = torch.add, scores.addcdiv_  # looked up once
    for x, z, factor in zip(xs, zs, factors, strict=True):
        add_quotient(x, add(x, z, out=room), value=factor)


def scores_at_a_glance(
    queries: Float[Tensor, "batch queries query_size"],
    keys: Float[Tensor, "batch keys key_size"],
    w_q: Float[Tensor, "hidden query_size"],
    w_k: Float[Tensor, "hidden key_size"],
    w_v: Float[Tensor, "1 hidden"],
    veil: Float[Tensor, "batch 1 keys"] | None,
) -> Float[Tensor, "batch queries keys"] | None:
    r"""The scores of tokens that were not projected, and a veil added; None out of range.

    Nothing but calls of PyTorch, and of autograd not even a look: a product that gives
    :math:`-2 \log_2(e)\,W_q q` with each feature in a row becomes powers of two, which are sooner
    made than those of e, and scores begin with what is to be added.
    """
    batch, num_queries, num_keys = *queries.shape[:2], keys.shape[1]
    with torch.inference_mode():
        x = torch.bmm((-2.0 * LOG2_E * w_q).expand(batch, -1, -1), queries.mT)
        z = torch.bmm((2.0 * LOG2_E * w_k).expand(batch, -1, -1), keys.mT)
        if not have_exponentials(x, z, factor=1.0 / LOG2_E):
            return None
        xs, zs = x.exp2_().unsqueeze(-1).unbind(1), z.exp2_().unsqueeze(-2).unbind(1)
        start = w_v.sum() if veil is None else w_v.sum() + veil
        scores = start.expand(batch, num_queries, num_keys).contiguous()
        add_quotients(scores, xs, zs, (-2.0 * w_v[0]).tolist(), torch.empty_like(scores))
    return scores


class _Additive(torch.autograd.Function):
    """The same with its gradients. For these, features go together: a thread takes whole ones."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, w_v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, w_v)
        return scores_by_exponentials(q, k, w_v)

    @staticmethod
    def backward(ctx: Any, d_scores: Tensor) -> Gradients:
        q, k, w_v = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_ordinary(d_scores):

            def again(*inputs: Tensor) -> list[Tensor]:
                return [compare_by_broadcasting(*inputs)]

            return gradients_again(again, (q, k, w_v), ctx.needs_input_grad, [d_scores])
        sums = Sums(q, k, buffers=2, together=torch.get_num_threads())
        d_n, d_q, d_k = (torch.empty_like(y) for y in (sums.x, sums.x, sums.z))
        d_k.zero_()
        for some, rooms, of_queries, of_keys in sums.blocks(d_scores, [d_n, d_q], [d_k]):
            for (x, d_n_, d_q_), (z, d_k_) in zip(of_queries, of_keys, strict=True):
                n, spare = (room[: len(x)] for room in rooms)
                torch.add(x, z, out=n)
                shares = torch.div(some, n, out=spare)
                torch.mul(shares.sum(dim=-1, keepdim=True), x, out=d_n_)
                slopes = torch.div(shares.mul_(z), n, out=n)  # of x / (x + z), but for x
                torch.mul(slopes.sum(dim=-1, keepdim=True), x, out=d_q_)
                d_k_ += slopes.mul_(x).sum(dim=-2, keepdim=True)
        d_q, d_k = (4 * w_v * d.flatten(2).permute(1, 2, 0) for d in (d_q, d_k))
        d_w = d_scores.sum() - 2 * d_n.sum(dim=(1, 2, 3))
        return d_q.reshape(q.shape), d_k.reshape(k.shape), d_w


class Sums:
    """What x and z of all pairs and features add up to, some at a time, and room for it.

    Parameters
    ----------
    buffers
        For how many numbers of each pair and feature there is room.
    together
        How many features go together at the least, as far as there are so many.

    Attributes
    ----------
    x, z
        e^(-2q), shape ``(hidden, batch, queries, 1)``, and e^(2k), ``(hidden, batch, 1, keys)``.
    features
        How many go together; a single one comes without an axis of its own.
    """

    def __init__(self, q: Tensor, k: Tensor, buffers: int = 1, together: int = 1) -> None:
        x, z = (y.detach().reshape(-1, *y.shape[-2:]) for y in (q, k))
        (batch, num_queries, hidden), num_keys = x.shape, k.shape[-2]
        x = torch.mul(x, -2).exp_()
        z = torch.mul(z.mT, 2, out=z.new_empty(batch, hidden, num_keys)).exp_()  # keys in a row
        self.x, self.z = x.movedim(-1, 0).unsqueeze(-1), z.transpose(0, 1).unsqueeze(-2)
        room = at_once(ELEMENTS_OF_THE_BUFFER, q.device)
        share = room // together
        self.rows = max(1, min(share // num_keys, num_queries))
        pairs = self.rows * num_keys
        self.size = max(1, min(share // pairs, batch)) if self.rows == num_queries else 1
        pairs *= self.size
        alone = together == 1 and pairs >= WORTH_A_CALL
        self.features = 1 if alone else max(1, min(room // pairs, hidden))
        self.buffers = q.new_empty(buffers, self.features * pairs)

    def blocks(
        self, pairs: Tensor, of_queries: Sequence[Tensor] = (), of_keys: Sequence[Tensor] = ()
    ) -> Iterator[tuple[Tensor, list[Tensor], Features, Features]]:
        """Some pairs at a time: of a tensor of all pairs; a room in each buffer; and for some
        features after the others x, with what else has as many numbers, and z, with the like."""
        pairs = pairs.reshape(-1, *pairs.shape[-2:])
        alone = self.features == 1
        cut = torch.unbind if alone else partial(torch.split, split_size_or_sections=self.features)
        for start in range(0, len(pairs), self.size):
            part = slice(start, start + self.size)
            keys = [cut(y[:, part]) for y in (self.z, *of_keys)]
            for row in range(0, pairs.shape[1], self.rows):
                at = part, slice(row, row + self.rows)
                queries = [cut(y[:, *at]) for y in (self.x, *of_queries)]
                some = pairs[at]
                sizes = some.shape if alone else (self.features, *some.shape)
                rooms = [buffer[: math.prod(sizes)].view(sizes) for buffer in self.buffers]
                yield some, rooms, list(zip(*queries, strict=True)), list(zip(*keys, strict=True))
