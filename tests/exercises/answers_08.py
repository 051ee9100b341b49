"""Right and wrong answers to the exercises of chapter 8."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn import Mask, merge_attention
from d2lattn.exercises import (
    check_08_blocks,
    check_08_by_hand,
    check_08_gradient,
    check_08_merge,
    check_08_one_tile,
    check_08_square,
)
from tests.exercises import Check

State = tuple[Tensor, Tensor, Tensor]


def by_anchor(m: Tensor, total: Tensor, o: Tensor, scores: Tensor, values: Tensor) -> State:
    top = torch.maximum(m, scores.max(dim=-1).values)
    safe = torch.where(top.isinf(), 0.0, top)
    old, new = torch.exp(m - safe), torch.exp(scores - safe.unsqueeze(-1))
    return top, old * total + new.sum(-1), old.unsqueeze(-1) * o + new @ values


def by_one_more_key(m: Tensor, total: Tensor, o: Tensor, scores: Tensor, values: Tensor) -> State:
    """What came before as one more key, with score m."""
    top = torch.cat([scores, m[:, None]], -1).amax(-1)
    kept = torch.nan_to_num(torch.exp(m - top), nan=0.0)
    raised = torch.nan_to_num(torch.exp(scores - top[:, None]), nan=0.0)
    return top, kept * total + raised.sum(-1), kept[:, None] * o + raised @ values


def unsafe(m: Tensor, total: Tensor, o: Tensor, scores: Tensor, values: Tensor) -> State:
    top = torch.maximum(m, scores.amax(-1))
    old, new = (m - top).exp(), (scores - top[:, None]).exp()
    return top, old * total + new.sum(-1), old[:, None] * o + new @ values


def without_shrinking(m: Tensor, total: Tensor, o: Tensor, s: Tensor, v: Tensor) -> State:
    top, of_tile, out = by_anchor(m, 0 * total, 0 * o, s, v)
    return top, total + of_tile, o + out


def output_kept(m: Tensor, total: Tensor, o: Tensor, s: Tensor, v: Tensor) -> State:
    top, new_total, _ = by_anchor(m, total, o, s, v)
    return top, new_total, o + by_anchor(m, total, 0 * o, s, v)[2]


def finished(m: Tensor, total: Tensor, o: Tensor, s: Tensor, v: Tensor) -> State:
    top, new_total, out = by_anchor(m, total, o, s, v)
    return top, new_total, out / new_total[:, None]


def this_tile_only(m: Tensor, total: Tensor, o: Tensor, s: Tensor, v: Tensor) -> State:
    raised = (s - s.amax(-1, keepdim=True)).exp()
    return s.amax(-1), raised.sum(-1), raised @ v


def by_package(outputs: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    output, logsumexp = merge_attention(list(zip(outputs, logs, strict=True)))
    return output, logsumexp


def by_loop(outputs: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    total = torch.logaddexp(logs[0], logs[0].new_full((), -math.inf))
    for log in logs[1:]:
        total = torch.logaddexp(total, log)
    base = total.masked_fill(total.isneginf(), 0.0)
    merged = sum((log - base).exp()[:, None] * out for out, log in zip(outputs, logs, strict=True))
    return merged, total


def softmax_of_parts(outputs: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    return (logs.softmax(0)[..., None] * outputs).sum(0), logs.logsumexp(0)


def raised_as_they_are(outputs: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    sums = logs.exp()
    return (sums[..., None] * outputs).sum(0) / sums.sum(0)[..., None], logs.logsumexp(0)


def by_autograd(scores: Tensor, values: Tensor, d_output: Tensor, d_log: Tensor) -> Tensor:
    leaf = scores.detach().clone().requires_grad_()
    results = leaf.softmax(-1) @ values, leaf.logsumexp(-1)
    return torch.autograd.grad(results, leaf, (d_output, d_log))[0]


def by_formula(scores: Tensor, values: Tensor, d_output: Tensor, d_log: Tensor) -> Tensor:
    weights = scores.softmax(-1)
    wish = d_output @ values.mT + d_log[:, None]
    return weights * (wish - (weights * (d_output @ values.mT)).sum(-1, keepdim=True))


def outer(x: Tensor) -> Tensor:
    return torch.einsum("ni,nj->nij", x, x).flatten(1)


def upper(x: Tensor) -> Tensor:
    i, j = torch.triu_indices(x.shape[1], x.shape[1])
    return x[:, i] * x[:, j] * torch.where(i == j, 1.0, math.sqrt(2.0))


BY_HAND = [[1.5, 6], [2.25, 8], [32 / 9, 18]]

RIGHT: list[tuple[Check, Any]] = [
    (check_08_by_hand, BY_HAND),
    (check_08_by_hand, torch.tensor(BY_HAND)),
    (check_08_by_hand, [(1.5, 6), (2.25, 8), (3.556, 18)]),
    (check_08_one_tile, by_anchor),
    (check_08_one_tile, by_one_more_key),
    (check_08_merge, by_package),
    (check_08_merge, by_loop),
    (check_08_gradient, by_autograd),
    (check_08_gradient, by_formula),
    (check_08_square, lambda q, k: (outer(q), outer(k))),
    (check_08_square, lambda q, k: [upper(q), upper(k)]),
]

WRONG: list[tuple[Check, Any, str]] = [
    (check_08_by_hand, [[1.5, 6], [3, 11], [11 / 3, 24]], "has to shrink"),
    (check_08_by_hand, [[1.5, 6], [2.25, 11], [44 / 9, 18]], "by the same factor"),
    (check_08_by_hand, [[6, 24], [18, 64], [32 / 9, 18]], "keeps them from overflowing"),
    (check_08_by_hand, [[1.5, 6], [2.25, 8], [8, 18]], "o divided by l"),
    (check_08_by_hand, [[1.5, 6], [2.25, 8], [32 / 9, 2.25]], "multiply by it"),
    (check_08_by_hand, [[1.5, 6], [1.5, 5], [10 / 3, 12]], "that tile alone"),
    (check_08_one_tile, without_shrinking, "keeps its size"),
    (check_08_one_tile, output_kept, "Both are measured"),
    (check_08_one_tile, finished, "after the last tile"),
    (check_08_one_tile, this_tile_only, "lost"),
    (check_08_one_tile, unsafe, "Parts without keys"),
    (check_08_merge, lambda o, logs: (o.mean(0), logs.logsumexp(0)), "counts the same"),
    (check_08_merge, lambda o, logs: (o.sum(0), logs.logsumexp(0)), "have to be averaged"),
    (check_08_merge, softmax_of_parts, "Parts without keys"),
    (check_08_merge, raised_as_they_are, "subtract the largest first"),
    (check_08_merge, lambda o, logs: (by_package(o, logs)[0], logs.exp().sum(0)), "logarithm"),
    (check_08_merge, lambda o, logs: (by_package(o, logs)[0], logs.max(0)[0]), "largest logsumexp"),
    (check_08_gradient, lambda s, v, d, log: by_formula(s, v, d, 0 * log), "is missing"),
    (check_08_gradient, lambda s, v, d, log: by_formula(s, v, d, -log), "sign of the logsumexp"),
    (
        check_08_gradient,
        lambda s, v, d, log: s.softmax(-1) * (d @ v.T + log[:, None]),
        "shares one",
    ),
    (check_08_gradient, lambda s, v, d, log: by_formula(s, v, d, 0 * log) + log[:, None], "not 1"),
    (check_08_gradient, lambda s, v, d, log: d @ v.T, "in the *weights*"),
    (check_08_square, lambda q, k: (q, k), "not its square"),
    (check_08_square, lambda q, k: (outer(q.mul_(2)) / 4, outer(k)), "changed in place"),
    (check_08_square, lambda q, k: (q**2, k**2), "mixed term"),
    (check_08_square, lambda q, k: (outer(outer(q)), outer(outer(k))), "squared twice"),
    (
        check_08_square,
        lambda q, k: ((q**2).sum(-1, keepdim=True), (k**2).sum(-1, keepdim=True)),
        "angle",
    ),
    (check_08_square, lambda q, k: q @ k.mT, "two tensors"),
    (check_08_square, lambda q, k: ((q @ k.mT) ** 2, torch.eye(len(k))), "queries alone"),
    (check_08_square, lambda q, k: (torch.eye(len(q)), (k @ q.mT) ** 2), "keys of the keys"),
]


def blocks_by_mask(tokens: int, size: int, before: int) -> int:
    pairs = Mask.window(before).dense(tokens, tokens)
    return int(pairs.view(tokens // size, size, -1, size).any(3).any(1).sum())


def blocks_by_loop(n: int, s: int, w: int) -> int:
    count = 0
    for start in range(0, n, s):
        first = max(0, start - w)
        count += start // s - first // s + 1
    return count


RIGHT += [(check_08_blocks, blocks_by_mask), (check_08_blocks, blocks_by_loop)]

WRONG += [
    (check_08_blocks, lambda n, s, w: n // s * (1 + math.ceil(w / s)), "before the first token"),
    (
        check_08_blocks,
        lambda n, s, w: sum(min(r, w // s) + 1 for r in range(n // s)),
        "only begins in",
    ),
    (
        check_08_blocks,
        lambda n, s, w: sum(min(r, math.ceil((w + 1) / s)) + 1 for r in range(n // s)),
        "own block",
    ),
    (check_08_blocks, lambda n, s, w: (n // s) * (n // s + 1) // 2, "blocks of a causal mask"),
    (check_08_blocks, lambda n, s, w: (n // s) ** 2, "all blocks"),
    (check_08_blocks, lambda n, s, w: int(Mask.window(w).dense(n, n).sum()), "pairs that count"),
]
