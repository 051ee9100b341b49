"""Right and wrong answers to the exercises of chapter 10."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises import (
    check_10_bias,
    check_10_by_hand,
    check_10_cache,
    check_10_heads,
    check_10_induction,
    check_10_turn,
)
from tests.exercises import Check


def by_matrices(tokens: Tensor, rates: Tensor) -> Tensor:
    out = torch.zeros_like(tokens)
    for p, token in enumerate(tokens):
        for m, rate in enumerate(rates.tolist()):
            c, s = math.cos(p * rate), math.sin(p * rate)
            turn = torch.tensor([[c, -s], [s, c]])
            out[p, 2 * m : 2 * m + 2] = turn @ token[2 * m : 2 * m + 2]
    return out


def by_complex(tokens: Tensor, rates: Tensor) -> Tensor:
    angles = torch.arange(len(tokens))[:, None] * rates
    numbers = torch.view_as_complex(tokens.clone().unflatten(-1, (-1, 2)))
    return torch.view_as_real(numbers * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def by_distances(queries: int, keys: int, slope: float) -> Tensor:
    return torch.tensor(
        [[-slope * abs(i + keys - queries - j) for j in range(keys)] for i in range(queries)]
    )


def by_last_rows(queries: int, keys: int, slope: float) -> Tensor:
    j = torch.arange(keys, dtype=torch.float32)
    return (-slope * (j[:, None] - j).abs())[keys - queries :]


def by_stacking(tokens: Tensor, heads: int) -> Tensor:
    return torch.stack(tokens.chunk(heads, dim=-1), dim=1)


def by_view(tokens: Tensor, heads: int) -> Tensor:
    b, n, _ = tokens.shape
    return tokens.reshape(b, n, heads, -1).permute(0, 2, 1, 3)


def by_diagonal(weights: Tensor, period: int) -> float:
    return weights.diagonal(1 - period)[1:].mean().item()


def by_loop(weights: Tensor, period: int) -> float:
    found = [float(weights[i, i - period + 1]) for i in range(period, len(weights))]
    return sum(found) / len(found)


RIGHT: list[tuple[Check, Any]] = [
    (check_10_by_hand, [[1, 0, -1], [0, -1, 0]]),
    (check_10_by_hand, torch.tensor([[1.0, 0.0, -1.0], [0.0, -1.0, 0.0]])),
    (check_10_turn, by_matrices),
    (check_10_turn, by_complex),
    (check_10_bias, by_distances),
    (check_10_bias, by_last_rows),
    (check_10_heads, by_stacking),
    (check_10_heads, by_view),
    (check_10_cache, lambda a, n, h, s, f: 2 * a * n * (h // s) * f),
    (check_10_cache, lambda a, n, h, s, f: 2 * a * n * h / s * f),
    (check_10_cache, lambda layers, n, h, s, f: sum(2 * n * f * (h // s) for _ in range(layers))),
    (check_10_induction, by_diagonal),
    (check_10_induction, by_loop),
]

WRONG: list[tuple[Check, Any, str]] = [
    (check_10_by_hand, [[1, 1, 1], [0, 0, 0]], "Nothing is turned"),
    (check_10_by_hand, [[1, 0, -1], [0, 1, 0]], "the wrong way"),
    (check_10_by_hand, [[1, 0, -1], [1, 0, -1]], "about the key (0, 1)"),
    (check_10_by_hand, [[1, -1, 1], [0, 0, 0]], "It is a quarter"),
    (check_10_turn, lambda t, r: by_matrices(t, -r), "clockwise"),
    (check_10_turn, lambda t, r: by_matrices(torch.cat([t[:1], t]), r)[1:], "position 0"),
    (
        check_10_turn,
        lambda t, r: by_matrices(t[:, [i // 2 + i % 2 * t.shape[1] // 2
                                       for i in range(t.shape[1])]], r)[
            :, [*range(0, t.shape[1], 2), *range(1, t.shape[1], 2)]],
        "neighbours are pairs",
    ),
    (check_10_turn, lambda t, r: t, "Nothing was turned"),
    (check_10_bias, lambda n, m, s: -by_distances(n, m, s), "scores higher"),
    (check_10_bias, lambda n, m, s: by_distances(m, m, s)[:n], "The last stands at the last"),
    (
        check_10_bias,
        lambda n, m, s: -s * (torch.arange(n)[:, None] + m - n - torch.arange(m)).float(),
        "no sign",
    ),
    (check_10_bias, lambda n, m, s: -by_distances(n, m, s).square() / s, "not squared"),
    (check_10_heads, lambda t, h: t.reshape(len(t), h, t.shape[1], -1), "mixed up"),
    (check_10_heads, lambda t, h: by_stacking(t, h).transpose(1, 2), "has to be swapped"),
    (
        check_10_heads,
        lambda t, h: torch.stack([t[..., i::h] for i in range(h)], dim=1),
        "not every other one",
    ),
    (check_10_heads, lambda t, h: torch.stack([t] * h, dim=1), "shared out"),
    (check_10_cache, lambda a, n, h, s, f: a * n * h // s * f, "both are kept"),
    (check_10_cache, lambda a, n, h, s, f: 2 * a * n * h * f, "shared their keys"),
    (check_10_cache, lambda a, n, h, s, f: 2 * n * h // s * f, "Every layer"),
    (check_10_cache, lambda a, n, h, s, f: 3 * a * n * h // s * f, "Queries are not kept"),
    (check_10_induction, lambda w, p: w.diagonal(-p).mean().item(), "one period back"),
    (
        check_10_induction,
        lambda w, p: sum(float(w[i, i - p - 1]) for i in range(p, len(w))) / (len(w) - p),
        "One place too early",
    ),
    (check_10_induction, lambda w, p: w[p:].diagonal(p - 1).mean().item(), "previous-token"),
    (check_10_induction, lambda w, p: w.diagonal(1 - p).mean().item(), "seen their token before"),
]  # fmt: skip
