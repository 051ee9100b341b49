"""Right and wrong answers to the exercises of chapter 2."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.nn.functional import cosine_similarity

from d2lattn import Attention, DotProductScore
from d2lattn.exercises import (
    check_02_backwards,
    check_02_by_hand,
    check_02_counted,
    check_02_fair,
    check_02_key_gradient,
    check_02_shapes,
)
from tests.exercises import Check


def by_ratio(weights: Tensor) -> Tensor:
    return torch.log(weights / weights.max(dim=-1, keepdim=True).values)


def row_by_row(weights: Tensor) -> Tensor:
    if weights.ndim > 1:
        return torch.stack([row_by_row(row) for row in weights])
    return torch.stack([weight.log() - max(weights).log() for weight in weights])


def copied(scores: Tensor, counts: Tensor, values: Tensor) -> Tensor:
    weights = scores.repeat_interleave(counts, dim=1).softmax(dim=1)
    return weights @ values.repeat_interleave(counts, dim=0)


def shifted(scores: Tensor, counts: Tensor, values: Tensor) -> Tensor:
    scores = scores.masked_fill(counts == 0, -math.inf)
    loud = counts * (scores - scores.amax(dim=1, keepdim=True)).exp()
    return (loud @ values) / loud.sum(dim=1, keepdim=True)


def shifted_by_all(scores: Tensor, counts: Tensor, values: Tensor) -> Tensor:
    loud = counts * (scores - scores.amax(dim=1, keepdim=True)).exp()  # also of who counts not
    return (loud @ values) / loud.sum(dim=1, keepdim=True)


def one_by_one(queries: Tensor, keys: Tensor, values: Tensor, sharpness: float) -> Tensor:
    rows = [cosine_similarity(query, keys, dim=-1) for query in queries.unsqueeze(1)]
    return (sharpness * torch.stack(rows)).softmax(-1) @ values


def by_attention(queries: Tensor, keys: Tensor, values: Tensor, sharpness: float) -> Tensor:
    q, k = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-12) for x in (queries, keys))
    return Attention(DotProductScore(sharpness))(q, k, values).output


def automatic(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
    def output(key: Tensor) -> Tensor:
        moved = torch.cat([keys[:j], key[None], keys[j + 1 :]])
        return (s * moved @ query).softmax(0) @ values

    return jacobian(output, keys[j])


def by_softmax(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
    alpha = (s * keys @ query).softmax(0)
    in_score = torch.diag(alpha) - torch.outer(alpha, alpha)
    return (values.T @ in_score[:, j])[:, None] * (s * query)[None, :]


RIGHT: list[tuple[Check, Any]] = [
    (check_02_by_hand, ((3, 2), (5.5, 5))),
    (check_02_by_hand, torch.tensor([[3.0, 2.0], [11 / 2, 5.0]])),
    (check_02_shapes, [(8, 4, 10, 20), (8, 4, 10, 20), (8, 4, 10, 32)]),
    (check_02_shapes, torch.tensor([[8, 4, 10, 20], [8, 4, 10, 20], [8, 4, 10, 32]])),
    (check_02_backwards, by_ratio),
    (check_02_backwards, row_by_row),
    (check_02_counted, copied),
    (check_02_counted, shifted),
    (check_02_fair, one_by_one),
    (check_02_fair, by_attention),
    (check_02_key_gradient, automatic),
    (check_02_key_gradient, by_softmax),
]


def soft(scores: Tensor, values: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-1) @ values


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-9)


def two_steps(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
    alpha = torch.softmax(s * (keys @ query), dim=0)
    return alpha[j] * (1 - alpha[j]) * values[j][:, None] * s * query


def forgets_the_others(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
    return (s * (keys @ query)).softmax(0)[j] * values[j][:, None] * s * query


def in_the_query(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
    return jacobian(lambda q: (s * keys @ q).softmax(0) @ values, query)


def in_the_value(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
    return jacobian(lambda v: (s * keys @ query).softmax(0) @ v, values)[:, j]


def padded(of_both: float, of_each: float) -> Callable[..., Tensor]:
    """Cosines with something added, so that nothing is divided by zero."""

    def look_up(q: Tensor, k: Tensor, v: Tensor, sharpness: float) -> Tensor:
        lengths = (q.norm(dim=1)[:, None] + of_each) * (k.norm(dim=1) + of_each)
        return soft(sharpness * q @ k.T / (lengths + of_both), v)

    return look_up


WRONG: list[tuple[Check, Any, str]] = [
    (check_02_by_hand, [[2, 4], [4, 5.333]], "without asking the scores"),
    (check_02_by_hand, [[12, 8], [44, 40]], "sums, not averages"),
    (check_02_by_hand, [[4, 0], [8, 8]], "not silent"),
    (check_02_by_hand, [[3, 2], [7, 6]], "does not come on top"),
    (check_02_by_hand, [[1, 6], [5, 6]], "wrong way round"),
    (check_02_by_hand, [[4.394, 0], [15.48, 11.09]], "scores as weights"),
    (check_02_shapes, [[8, 4, 20, 10], [8, 4, 20, 10], [8, 4, 10, 32]], "turned"),
    (check_02_shapes, [[8, 4, 10, 20], [8, 4, 10, 20], [8, 4, 10, 64]], "as wide as a value"),
    (check_02_shapes, [[8, 4, 10, 20], [8, 4, 10, 20], [8, 4, 20, 32]], "Every *query*"),
    (check_02_shapes, [[8, 4, 10, 64], [8, 4, 10, 20], [8, 4, 10, 32]], "one number for each pair"),
    (check_02_shapes, [[8, 10, 20], [8, 10, 20], [8, 10, 32]], "Not as many"),
    (check_02_backwards, torch.log, "what may be added"),
    (check_02_backwards, lambda w: w.log() - w.max().log(), "own largest score"),
    (check_02_backwards, lambda w: w.log2() - w.log2().amax(-1, keepdim=True), "base 2"),
    (check_02_backwards, lambda w: w / w.max(-1, keepdim=True).values, "divided weights"),
    (check_02_backwards, lambda w: by_ratio(w + 1e-9), "out with a finite score"),
    (check_02_backwards, lambda w: by_ratio(w.clamp(min=1e-12)), "out with a finite score"),
    (check_02_backwards, lambda w: by_ratio(w + 1e-5), "out with a finite score"),
    (check_02_backwards, lambda w: by_ratio(w + torch.finfo(w.dtype).eps), "a finite score"),
    (check_02_backwards, lambda w: by_ratio(w.clamp(min=1e-30)), "out with a finite score"),
    (check_02_backwards, lambda w: w.log() - w.log().mean(-1, True), "add up to 0"),
    (check_02_counted, lambda s, c, v: soft(s, v), "no influence"),
    (check_02_counted, shifted_by_all, "`nan`"),
    (check_02_counted, lambda s, c, v: soft(s + (c + 1e-6).log(), v), "not right"),
    (check_02_counted, lambda s, c, v: soft(c * s, v), "e²ᵃ"),
    (check_02_counted, lambda s, c, v: soft(s + c, v), "which single exponential"),
    (check_02_counted, lambda s, c, v: soft(s, c[:, None] * v), "no longer add up to one"),
    (check_02_counted, lambda s, c, v: soft(s + torch.log1p(c), v), "plus one"),
    (
        check_02_counted,
        lambda s, c, v: (c * s.exp()) @ v / (c * s.exp()).sum(-1, True),
        "∞/∞",
    ),
    (
        check_02_counted,
        lambda s, c, v: (c * s.exp() / (c * s.exp()).sum()) @ v,
        "denominator of its own",
    ),
    (check_02_counted, lambda s, c, v: torch.softmax(s + c.log(), 0) @ v, "over the queries"),
    (check_02_counted, lambda s, c, v: (s + c.log()).softmax(-1), "These are the weights"),
    (check_02_fair, lambda q, k, v, s: soft(s * q @ k.T, v), "these are dot products"),
    (check_02_fair, lambda q, k, v, s: soft(s * unit(q) @ k.T, v), "Only the queries"),
    (check_02_fair, lambda q, k, v, s: soft(s * q @ unit(k).T, v), "The keys are fair now"),
    (
        check_02_fair,
        lambda q, k, v, s: soft(
            s * (q / q.norm(dim=-1, keepdim=True)) @ (k / k.norm(dim=-1, keepdim=True)).T, v
        ),
        "by decree",
    ),
    (check_02_fair, padded(1e-8, 0), "added a small number to the norms"),
    (check_02_fair, padded(1e-6, 0), "added a small number to the norms"),
    (check_02_fair, padded(0, 1e-3), "added a small number to the norms"),
    (check_02_fair, lambda q, k, v, s: soft(unit(q) @ unit(k).T, v), "no influence"),
    (check_02_fair, lambda q, k, v, s: soft(unit(q) @ unit(k).T / s, v), "*multiplies*"),
    (check_02_fair, lambda q, k, v, s: soft(s * q @ k.T / q.norm() / k.norm(), v), "whole table"),
    (check_02_fair, lambda q, k, v, s: s * soft(unit(q) @ unit(k).T, v), "after the softmax"),
    (check_02_fair, lambda q, k, v, s: (s * unit(q) @ unit(k).T).softmax(0) @ v, "the queries"),
    (check_02_key_gradient, forgets_the_others, "left the others as they are"),
    (check_02_key_gradient, two_steps, "key's own value"),
    (check_02_key_gradient, in_the_query, "derivative in the *query*"),
    (check_02_key_gradient, in_the_value, "derivative in the *value*"),
    (check_02_key_gradient, lambda *args: -by_softmax(*args), "sign is turned"),
    (check_02_key_gradient, lambda *args: by_softmax(*args).T, "exchanged"),
    (check_02_key_gradient, lambda q, k, v, s, j: by_softmax(q, k, v, s, j) / s, "scale is miss"),
    (
        check_02_key_gradient,
        lambda q, k, v, s, j: math.sqrt(s) * by_softmax(q, k, v, 1.0, j),
        "not right",
    ),
    (
        check_02_key_gradient,
        lambda q, k, v, s, j: s * by_softmax(q, k, v, 1.0, j),
        "made without the scale",
    ),
]
