"""Right and wrong answers to the exercises of chapter 5."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2lattn import DotProductAttention, dot_product_score
from d2lattn.exercises import (
    check_05_bilinear,
    check_05_by_hand,
    check_05_cosine_scale,
    check_05_distance,
    check_05_limit,
    check_05_multi_query,
    check_05_pixels,
)
from tests.exercises import Check


def with_a_coordinate(queries: Tensor, keys: Tensor, bandwidth: float) -> Tensor:
    q, k = queries / bandwidth, keys / bandwidth
    q = torch.cat([q, torch.ones(len(q), 1)], dim=1)
    k = torch.cat([k, -0.5 * (k**2).sum(1, keepdim=True)], dim=1)
    return q @ k.T


def from_distances(queries: Tensor, keys: Tensor, bandwidth: float) -> Tensor:
    squares = -0.5 * torch.cdist(queries, keys) ** 2
    return (squares + 0.5 * queries.square().sum(1)[:, None]) / bandwidth**2


def keys_first(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    return torch.matmul(queries, (keys @ weight).transpose(-2, -1))


def by_einsum(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("...jc,cb,...ib->...ij", keys, weight, queries)


def only_the_best(scores: Tensor) -> Tensor:
    best = scores.amax(-1, keepdim=True)
    return scores.masked_fill(scores < best, -torch.inf).softmax(-1)


def counted(scores: Tensor) -> Tensor:
    rows = []
    for row in scores:
        winners = [float(score == max(row)) for score in row]
        rows.append([w / sum(winners) for w in winners])
    return torch.tensor(rows)


def repeated(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    heads = queries.shape[1]
    k, v = (x.unsqueeze(1).repeat(1, heads, 1, 1) for x in (keys, values))
    return F.scaled_dot_product_attention(queries, k, v)


class MultiQuery(nn.Module):
    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attention = DotProductAttention()
        return torch.stack([attention(q, keys, values)[0] for q in queries.unbind(1)], dim=1)


def flattened(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    rows = DotProductAttention()(queries.flatten(1, 2), keys, values).output
    return rows.unflatten(1, queries.shape[1:3])


RIGHT: list[tuple[Check, Any]] = [
    (check_05_by_hand, [0.804, 11.96, 10]),
    (check_05_by_hand, torch.tensor([0.8044, 11.956, 10.0])),
    (check_05_distance, with_a_coordinate),
    (check_05_distance, from_distances),
    (check_05_bilinear, keys_first),
    (check_05_bilinear, by_einsum),
    (check_05_limit, only_the_best),
    (check_05_limit, counted),
    (check_05_multi_query, repeated),
    (check_05_multi_query, MultiQuery()),
    (check_05_multi_query, flattened),
    (check_05_pixels, (7, 4)),
    (check_05_pixels, torch.tensor([7.0, 4.0])),
    (check_05_cosine_scale, lambda n, w: math.log(math.sqrt((n - 1) / (1 / w - 1)))),
    (check_05_cosine_scale, lambda n, w: (math.log(w) - math.log1p(-w) + math.log(n - 1)) / 2),
]


def length(x: Tensor) -> Tensor:
    return torch.einsum("ij,ij->i", x, x)


def shared(queries: Tensor, keys: Tensor, scale: float, axis: int = -1) -> Tensor:
    return torch.einsum("bhqd,bkd->bhqk", queries, keys).mul(scale).softmax(axis)


def lined_up_with_heads(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(queries, keys, values)


def one_hot(scores: Tensor) -> Tensor:
    return F.one_hot(scores.argmax(dim=1), scores.shape[1]).to(scores.dtype)


WRONG: list[tuple[Check, Any, str]] = [
    (check_05_by_hand, [0.881, 11.19, 10], "*scaled* score"),
    (check_05_by_hand, [0.731, 12.69, 10], "square root"),
    (check_05_by_hand, [0.944, 10.56, 10], "multiplied by √d"),
    (check_05_by_hand, [0.1956, 18.04, 20], "wrong way round"),
    (check_05_by_hand, [1.414, 11.96, 10], "The first number is the score"),
    (check_05_by_hand, [0.804, 11.96, 1195.6], "multiplies the scores"),
    (check_05_by_hand, [0.804, 11.96, 15], "more equal"),
    (check_05_by_hand, [0.804, 12.5, 10], "number 2"),
    (check_05_distance, lambda q, k, h: dot_product_score(q, k, scale=1.0), "product alone"),
    (check_05_distance, lambda q, k, h: q / h @ (k / h).T, "product alone"),
    (check_05_distance, lambda q, k, h: -(torch.cdist(q / h, k / h) ** 2) / 2, "query's own"),
    (check_05_distance, lambda q, k, h: (q @ k.T - length(k)) / h**2, "twice too large"),
    (check_05_distance, lambda q, k, h: (q @ k.T + length(k) / 2) / h**2, "wrong sign"),
    (
        check_05_distance,
        lambda q, k, h: (q @ k.T - length(k).sqrt() / 2) / h**2,
        "*squared* norm",
    ),
    (
        check_05_distance,
        lambda q, k, h: (q @ k.T - length(q).unsqueeze(1) / 2) / h**2,
        "the query's term",
    ),
    (check_05_distance, lambda q, k, h: q @ k.T - length(k) / 2, "bandwidth has no influence"),
    (check_05_distance, lambda q, k, h: (q @ k.T - length(k) / 2) / h, "not squared"),
    (check_05_distance, lambda q, k, h: (q @ k.T - length(k) / 2) * h**2, "*divides*"),
    (check_05_distance, lambda q, k, h: q @ k.T / h**2 - length(k) / 2, "Only the product"),
    (check_05_distance, lambda q, k, h: 2 * q @ k.T - length(k), "twice too large"),
    (check_05_distance, lambda q, k, h: from_distances(q, k, h).softmax(1), "before the softmax"),
    (check_05_bilinear, lambda q, k, w: q @ w @ k.mT, "turned round"),
    (check_05_bilinear, lambda q, k, w: q @ w.reshape(q.shape[-1], -1) @ k.mT, "turned round"),
    (check_05_bilinear, lambda q, k, w: torch.matmul(q, k.mT), "no influence"),
    (check_05_bilinear, lambda q, k, w: k @ w @ q.mT, "transposed"),
    (check_05_bilinear, lambda q, k, w: keys_first(q, k, w).softmax(-1), "before the softmax"),
    (check_05_bilinear, lambda q, k, w: keys_first(q, k, w) / q.shape[-1] ** 0.5, "its scale"),
    (check_05_bilinear, lambda q, k, w: dot_product_score(q @ w.mT, k), "its scale"),
    (
        check_05_bilinear,
        lambda q, k, w: (q @ w.mT)[..., :, None, :].add(k[..., None, :, :]).sum(-1),
        "added here",
    ),
    (check_05_limit, one_hot, "Two best keys share"),
    (check_05_limit, lambda s: (s == s.max(1, keepdim=True).values).float(), "get one each"),
    (check_05_limit, lambda s: s.exp() / s.exp().sum(1, keepdim=True), "before anything grows"),
    (check_05_limit, lambda s: (s * 0).softmax(1), "goes to *zero*"),
    (check_05_limit, lambda s: (s * 100).softmax(1), "limit is asked for"),
    (check_05_limit, lambda s: (s * 1e4).softmax(1), "limit is asked for"),
    (check_05_limit, lambda s: (s * 1e6).softmax(1), "limit is asked for"),
    (check_05_limit, lambda s: (s * 1e9).softmax(1), "limit is asked for"),
    (check_05_limit, lambda s: only_the_best(s.T).T, "each key"),
    (check_05_limit, lambda s: (s * -1e6).softmax(1), "lowest score"),
    (check_05_limit, lambda s: (s * torch.inf).softmax(1), "`nan`"),
    (check_05_multi_query, lined_up_with_heads, "lined up with the *heads*"),
    (check_05_multi_query, lambda q, k, v: shared(q, k, 1.0) @ v[:, None], "scale is missing"),
    (
        check_05_multi_query,
        lambda q, k, v: shared(q, k, 1 / q.shape[3]) @ v[:, None],
        "divided by d",
    ),
    (
        check_05_multi_query,
        lambda q, k, v: shared(q, k, k.shape[1] ** -0.5) @ v[:, None],
        "number of *keys*",
    ),
    (
        check_05_multi_query,
        lambda q, k, v: shared(q, k, (q.shape[1] * q.shape[3]) ** -0.5) @ v[:, None],
        "Which d is it?",
    ),
    (
        check_05_multi_query,
        lambda q, k, v: shared(q, k, q.shape[3] ** -0.5, 2) @ v[:, None],
        "over the queries",
    ),
    (
        check_05_multi_query,
        lambda q, k, v: shared(q, k, q.shape[3] ** -0.5, 1) @ v[:, None],
        "over the heads",
    ),
    (check_05_multi_query, lambda q, k, v: repeated(q, k, v).mean(1), "Keep their axis"),
    (check_05_multi_query, lambda q, k, v: repeated(q, k, v).permute(0, 2, 1, 3), "places"),
    (check_05_pixels, [144, 144], "mean 0 and variance 1"),
    (check_05_pixels, [1, 4], "product of the variances"),
    (check_05_pixels, [16, 4], "take off the square"),
    (check_05_pixels, [7, 7], "only the keys"),
    (check_05_pixels, [7, 12], "component of the query"),
    (check_05_pixels, [7, 3], "mean of its *square*"),
    (check_05_pixels, [4, 7], "wrong order"),
    (check_05_pixels, [0.0486, 0.0278], "for one component"),
    (check_05_cosine_scale, lambda n, w: math.log((n - 1) * w / (1 - w)), "How far apart"),
    (check_05_cosine_scale, lambda n, w: math.log(n * w / (1 - w)) / 2, "not its own rival"),
    (check_05_cosine_scale, lambda n, w: math.log(w / (1 - w)) / 2, "single rival"),
    (check_05_cosine_scale, lambda n, w: math.log((n - 1) * w) / 2, "1 − weight"),
    (check_05_cosine_scale, lambda n, w: math.log10((n - 1) * w / (1 - w)) / 2, "base 10"),
    (check_05_cosine_scale, lambda n, w: (n - 1) * w / (1 - w), "*exponential*"),
    (check_05_cosine_scale, lambda n, w: torch.tensor(0.5), "A float is asked for"),
]
