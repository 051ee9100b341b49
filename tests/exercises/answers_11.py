"""Right and wrong answers to the exercises of chapter 11."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn.distributed.layout import planned
from d2lattn.exercises import (
    check_11_by_hand,
    check_11_traffic,
    check_11_tree,
    check_11_without_keys,
    check_11_zigzag,
)
from d2lattn.streaming import merge_attention
from tests.exercises import Check

Pair = tuple[Tensor, Tensor]


def by_anchor(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
    top = torch.maximum(a, b)
    top = torch.where(top.isinf(), 0.0, top)
    one, two = (a - top).exp(), (b - top).exp()
    total = (one + two).clamp(min=1e-30)
    joined = (one[:, None] * o + two[:, None] * other) / total[:, None]
    return joined, top + (one + two).log()


def by_package(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
    output, log = merge_attention([(other, b), (o, a)])
    return output, log


def by_sigmoid(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
    share = torch.sigmoid(a - b)[:, None]
    return share * o + (1 - share) * other, torch.logaddexp(a, b)


def as_they_are(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
    total = a.exp() + b.exp()
    return (a.exp()[:, None] * o + b.exp()[:, None] * other) / total[:, None], total.log()


def by_loop(processes: int) -> int:
    rounds = 0
    while processes > 1:
        processes, rounds = -(-processes // 2), rounds + 1
    return rounds


def by_plan(tokens: int, processes: int, rank: int) -> list[int]:
    return [end for stretch in planned(tokens, processes, "zigzag")[rank] for end in stretch]


def by_size(tokens: int, processes: int, rank: int) -> tuple[int, ...]:
    s = tokens // processes // 2
    return rank * s, rank * s + s, tokens - (rank + 1) * s, tokens - rank * s


RIGHT: list[tuple[Check, Any]] = [
    (check_11_by_hand, [5, 8]),
    (check_11_by_hand, torch.tensor([5.0, 8.0])),
    (check_11_traffic, lambda t, k, v, n: 4 * (k + v) * (t - t // n)),
    (check_11_traffic, lambda t, k, v, n: sum(4 * (k + v) * t // n for _ in range(n - 1))),
    (check_11_zigzag, by_plan),
    (check_11_zigzag, by_size),
    (check_11_tree, by_loop),
    (check_11_tree, lambda n: math.ceil(math.log2(n))),
    (check_11_without_keys, by_anchor),
    (check_11_without_keys, by_package),
]

WRONG: list[tuple[Check, Any, str]] = [
    (check_11_by_hand, [6, 8], "average of the three"),
    (check_11_by_hand, [18, 8], "They are averages"),
    (check_11_by_hand, [40, 8], "Divide"),
    (check_11_by_hand, [5, math.log(8)], "not its logarithm"),
    (check_11_by_hand, [20 / 3, 3], "last block"),
    (check_11_traffic, lambda t, k, v, n: 4 * (k + v) * t, "home again"),
    (check_11_traffic, lambda t, k, v, n: 4 * (k + v) * t * (n - 1), "n-th of the tokens"),
    (check_11_traffic, lambda t, k, v, n: 4 * k * t // n * (n - 1), "values are missing"),
    (check_11_traffic, lambda t, k, v, n: (k + v) * t // n * (n - 1), "four bytes"),
    (check_11_traffic, lambda t, k, v, n: 4 * (k + v) * (t // n), "one hop"),
    (check_11_zigzag, lambda t, n, r: by_size(t, n, r)[2:] + by_size(t, n, r)[:2], "late one"),
    (
        check_11_zigzag,
        lambda t, n, r: (
            [t // n * r, t // n * r + t // n // 2] * 1
            + [t // n * r + t // n // 2, t // n * (r + 1)]
        ),
        "neighbours",
    ),
    (
        check_11_zigzag,
        lambda t, n, r: [*by_size(t, n, r)[:2], *(t // 2 + x for x in by_size(t, n, r)[:2])],
        "Turn it round",
    ),
    (
        check_11_zigzag,
        lambda t, n, r: [*by_size(t, n, r)[:2], *(x + t // n // 2 for x in by_size(t, n, r)[2:])],
        "one too far",
    ),
    (check_11_tree, lambda n: n - 1, "chain"),
    (check_11_tree, lambda n: int(math.log2(n)), "round up"),
    (check_11_tree, lambda n: n // 2, "first round"),
    (check_11_tree, lambda n: 2 * by_loop(n), "there and back"),
    (check_11_without_keys, by_sigmoid, "nan"),
    (check_11_without_keys, as_they_are, "overflow"),
    (
        check_11_without_keys,
        lambda o, a, p, b: ((o + p) / 2, torch.logaddexp(a, b)),
        "count the same",
    ),
    (
        check_11_without_keys,
        lambda o, a, p, b: (by_anchor(o, a, p, b)[0], torch.maximum(a, b)),
        "larger logsumexp",
    ),
]
