"""Right and wrong answers to the exercises of chapter 4."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn import AdditiveScore, Attention
from d2lattn.exercises import (
    check_04_bound,
    check_04_by_hand,
    check_04_bytes,
    check_04_lost_matrix,
    check_04_rescue,
    check_04_same_weights,
    check_04_score,
)
from tests.exercises import Check


def by_einsum(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    q, k = torch.einsum("bqd,hd->bqh", queries, w_q), torch.einsum("bkd,hd->bkh", keys, w_k)
    return torch.einsum("bqkh,h->bqk", torch.tanh(q.unsqueeze(2) + k.unsqueeze(1)), w_v)


def pair_by_pair(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    return torch.stack([
        torch.stack([
            torch.stack([w_v.dot((w_q @ query + w_k @ key).tanh()) for key in some])
            for query in asked
        ])
        for asked, some in zip(queries, keys, strict=True)
    ])  # fmt: skip


def by_module(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    score = AdditiveScore(keys.shape[-1], queries.shape[-1], len(w_v))
    for layer, weight in ((score.W_q, w_q), (score.W_k, w_k), (score.w_v, w_v[None])):
        layer.weight.data = weight
    return score(queries, keys).detach()


def by_comparing(keys: Tensor, valid_lens: Tensor) -> bool:
    behind = torch.arange(keys.shape[1]) >= valid_lens[:, None]
    return bool(((keys == keys[:, :1]).all(dim=-1) | behind).all())


def by_trying(keys: Tensor, valid_lens: Tensor) -> bool:
    drawn = torch.randn(keys.shape[-1], generator=torch.Generator().manual_seed(0))
    attention = Attention(lambda q, k: (k * drawn).sum(-1).unsqueeze(-2))
    even = Attention(lambda q, k: torch.zeros(len(k), 1, k.shape[1]))
    inputs = keys[:, :1], keys, keys, valid_lens
    return torch.allclose(attention(*inputs).weights, even(*inputs).weights)


def stacked(queries: Tensor, keys: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    row = torch.softmax(keys @ (w_v @ w_k), dim=0)
    return torch.stack([row for _ in queries])


def any_matrix(queries: Tensor, keys: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    made_up = torch.ones(len(w_v), queries.shape[1])
    sums = (queries @ made_up.mT)[:, None] + (keys @ w_k.mT)[None]
    return (sums @ w_v).softmax(dim=-1)


t = math.tanh(1)
RIGHT: list[tuple[Check, Any]] = [
    (check_04_by_hand, (2.285, -0.762)),
    (check_04_by_hand, torch.tensor([3 * t, -t])),
    (check_04_score, by_einsum),
    (check_04_score, pair_by_pair),
    (check_04_score, by_module),
    (check_04_same_weights, by_comparing),
    (check_04_same_weights, by_trying),
    (check_04_lost_matrix, stacked),
    (check_04_lost_matrix, any_matrix),
    (check_04_rescue, ((2, 0), (0, -1))),
    (check_04_rescue, torch.tensor([[2.0, 0.0], [0.0, -1.0]])),
    (check_04_bound, [2.197, 4.552]),
    (check_04_bound, (math.log(9), math.log(8991**0.5))),
    (check_04_bytes, [16_384_000_000, 128_000_000]),
    (check_04_bytes, (16.4e9, 1.28e8)),
]


def projected(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor) -> tuple[Tensor, Tensor]:
    return (queries @ w_q.T).unsqueeze(2), (keys @ w_k.T).unsqueeze(1)


def without_tanh(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    q, k = projected(queries, keys, w_q, w_k)
    return (w_v * (q + k)).sum(-1)


def with_relu(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    q, k = projected(queries, keys, w_q, w_k)
    return (w_v * torch.relu(q + k)).sum(-1)


def unweighed(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    q, k = projected(queries, keys, w_q, w_k)
    return torch.tanh(q + k).sum(-1)


def squashed_apart(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    q, k = projected(queries, keys, w_q, w_k)
    return (w_v * (torch.tanh(q) + torch.tanh(k))).sum(-1)


def multiplied(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    q, k = projected(queries, keys, w_q, w_k)
    return torch.tanh(q * k) @ w_v


def keys_first(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    q, k = (queries @ w_q.T).unsqueeze(1), (keys @ w_k.T).unsqueeze(2)
    return torch.tanh(q + k) @ w_v


def within(keys: Tensor, valid_lens: Tensor, distance: float) -> bool:
    return all(
        torch.allclose(some[: int(n)], some[:1], rtol=0, atol=distance)
        for some, n in zip(keys, valid_lens, strict=True)
    )


def sum_of_all(keys: Tensor, valid_lens: Tensor) -> bool:
    return by_comparing(keys.sum(-1, keepdim=True), valid_lens)


def without_batch(keys: Tensor, valid_lens: Tensor) -> bool:
    rows = [row for some, n in zip(keys, valid_lens, strict=True) for row in some[: int(n)]]
    return all(torch.equal(row, rows[0]) for row in rows)


def up_to(keys: Tensor, valid_lens: Tensor) -> bool:
    return by_comparing(keys, valid_lens + 1)


WRONG: list[tuple[Check, Any, str]] = [
    (check_04_by_hand, [3, -1], "tanh is missing"),
    (check_04_by_hand, [2 * t, 0], "counts twice"),
    (check_04_by_hand, [math.tanh(2) + 2 * t, 3 * math.tanh(3)], "matrices are exchanged"),
    (check_04_by_hand, [t - 2 * t, 3 * t], "order is turned"),
    (check_04_by_hand, [math.tanh(3), math.tanh(-1)], "came last"),
    (check_04_by_hand, [math.tanh(3) + 2 * t, 3 * math.tanh(3)], "subtracted"),
    (check_04_by_hand, [0.9546, 0.0454], "These are weights"),
    (check_04_score, without_tanh, "tanh is missing"),
    (check_04_score, with_relu, "A relu"),
    (check_04_score, unweighed, "w_v has no influence"),
    (check_04_score, squashed_apart, "squashed queries and keys apart"),
    (check_04_score, multiplied, "multiplied the two"),
    (
        check_04_score,
        lambda q, k, a, b, w: w @ torch.tanh((q @ a.T)[:, :, None] + (k @ b.T)[:, None]),
        "w_v met the keys",
    ),
    (check_04_score, keys_first, "Queries and keys are exchanged"),
    (check_04_score, lambda q, k, a, b, w: by_einsum(q, k, a, b, w).softmax(-1), "These are weig"),
    (check_04_score, lambda q, k, a, b, w: by_einsum(q, k, b, a, w), "no shape complained"),
    (check_04_score, lambda q, k, a, b, w: torch.tanh(q @ a.T + k @ b.T) @ w, "Query 1 met key 1"),
    (
        check_04_score,
        lambda q, k, a, b, w: torch.tanh((q @ a)[:, :, None] + (k @ b)[:, None]) @ w,
        "inner axes",
    ),
    (check_04_same_weights, lambda keys, n: (keys == keys[:, :1]).all().item(), "valid length"),
    (check_04_same_weights, lambda keys, n: (keys == 1.0).all().item(), "nothing special"),
    (
        check_04_same_weights,
        lambda keys, n: (keys[0, : int(n[0])] == keys[0, 0]).all(),
        "makes a Python one",
    ),
    (check_04_same_weights, without_batch, "different examples"),
    (check_04_same_weights, sum_of_all, "same sum"),
    (check_04_same_weights, lambda keys, n: by_comparing(keys.abs(), n), "The result"),
    (check_04_same_weights, up_to, "One key too many"),
    (check_04_same_weights, lambda keys, n: by_comparing(keys, n - 1), "One key too few"),
    (check_04_same_weights, lambda keys, n: not by_comparing(keys, n), "other way round"),
    (check_04_same_weights, lambda keys, n: by_comparing(keys[..., :1], n), "one feature"),
    (check_04_same_weights, lambda keys, n: by_comparing(keys[..., -1:], n), "one feature"),
    (check_04_same_weights, lambda keys, n: within(keys, n, 0.9), "nearly equal"),
    (check_04_same_weights, lambda keys, n: within(keys, n, 0.01), "nearly equal"),
    (check_04_lost_matrix, lambda q, k, m, w: torch.softmax(k @ m.T @ w, 0), "This is one row"),
    (
        check_04_lost_matrix,
        lambda q, k, m, w: torch.softmax(torch.tanh(k @ m.T) @ w, 0).repeat(len(q), 1),
        "no tanh",
    ),
    (check_04_lost_matrix, lambda q, k, m, w: (k @ m.T @ w).repeat(len(q), 1), "These are scores"),
    (
        check_04_lost_matrix,
        lambda q, k, m, w: torch.ones(len(q), len(k)) / len(k),
        "do not all weigh the same",
    ),
    (
        check_04_lost_matrix,
        lambda q, k, m, w: torch.stack([(k @ m.T).sum(1).softmax(0)] * len(q)),
        "w_v has no influence",
    ),
    (check_04_lost_matrix, lambda q, k, m, w: stacked(q, k, m, w).T, "every query gets a row"),
    (check_04_rescue, [[1, 0], [0, -1]], "comes twice"),
    (check_04_rescue, [[2, 0], [0, 1]], "far keys would win"),
    (check_04_rescue, [[0, 2], [-1, 0]], "columns are exchanged"),
    (check_04_rescue, [[1, 0], [0, -0.5]], "Half of it"),
    (check_04_rescue, [[-2, 0], [0, 1]], "*farthest*"),
    (check_04_rescue, [2, 0, 0, -1], "Not as many numbers"),
    (check_04_bound, [4.394, 9.104], "Twice too large"),
    (check_04_bound, [2.2499, 4.5525], "not its own rival"),
    (check_04_bound, [0, 2.355], "upside down"),
    (check_04_bound, [1.0986, 1.0986], "number of keys has no influence"),
    (check_04_bound, [0.954, 1.977], "base 10"),
    (check_04_bytes, [4_096_000_000, 32_000_000], "counted numbers"),
    (check_04_bytes, [512_000_000, 4_000_000], "batch is missing"),
    (check_04_bytes, [128_000_000, 128_000_000], "fourth axis"),
    (check_04_bytes, [32_768_000_000, 256_000_000], "`float64`"),
    (check_04_bytes, [16.384, 0.128], "gigabytes"),
]
