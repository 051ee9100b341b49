"""Checks for the exercises of chapter 10, heads and positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh, whole
from d2lattn.exercises.language import _


def check_10_by_hand(answer: Any) -> Verdict:
    """Check the scores of (1, 0) with (1, 0) and (0, 1), a quarter turn a position."""
    return check_numbers(
        answer,
        expected=[[1.0, 0.0, -1.0], [0.0, -1.0, 0.0]],
        mistakes=[
            Mistake([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
                    _("Nothing is turned yet: these are plain dot products.")),
            Mistake([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]],
                    _("The key (1, 0) is right. For (0, 1) the turn goes the wrong way: a key one "
                      "place further on is turned counterclockwise.")),
            Mistake([[1.0, 0.0, -1.0], [1.0, 0.0, -1.0]],
                    _("The second row is about the key (0, 1), which starts a quarter turn "
                      "ahead.")),
            Mistake([[1.0, -1.0, 1.0], [0.0, 0.0, 0.0]],
                    _("You turned by half a turn for each position. It is a quarter.")),
        ],
        right=_("Only the distance entered, so every other pair of places gives the same."),
    )  # fmt: skip


def check_10_turn(answer: Any) -> Verdict:
    """Check the turning of pairs of features by their positions, ``answer(tokens, rates)``."""

    def turned(tokens: Tensor, rates: Tensor, sign: float = 1.0, first: int = 0) -> Tensor:
        angles = sign * (torch.arange(len(tokens)) + first)[:, None] * rates
        x, y = tokens[:, 0::2], tokens[:, 1::2]
        cos, sin = angles.cos(), angles.sin()
        return torch.stack([x * cos - y * sin, x * sin + y * cos], -1).flatten(-2)

    def reference(tokens: Tensor, rates: Tensor) -> Tensor:
        return turned(tokens, rates)

    def halves(tokens: Tensor, rates: Tensor) -> Tensor:
        angles = torch.arange(len(tokens))[:, None] * rates
        x, y = tokens.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([x * cos - y * sin, x * sin + y * cos], -1)

    def shrunk(tokens: Tensor, rates: Tensor) -> Tensor:
        angles = torch.arange(len(tokens))[:, None] * rates
        return tokens * angles.cos().repeat_interleave(2, -1)

    draw = fresh()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([math.pi / 2])),
            (torch.tensor([[1.0, 0.0, 0.0, 1.0]]).repeat(3, 1), torch.tensor([1.0, 0.5])),
            (torch.randn(5, 6, generator=draw), torch.rand(3, generator=draw)),
        ],
        mistakes=[
            Mistake(lambda t, r: turned(t, r, sign=-1.0),
                    _("You turn clockwise. In the first feature of a pair, the minus sign belongs "
                      "to the sine of the second.")),
            Mistake(lambda t, r: turned(t, r, first=1),
                    _("The first token stands at position 0, so it is not turned.")),
            Mistake(halves,
                    _("You paired the first half of the features with the second. Here neighbours "
                      "are pairs.")),
            Mistake(shrunk, _("The tokens shrink. A turn mixes the two features of a pair.")),
            Mistake(lambda t, r: t, _("Nothing was turned.")),
        ],
        right=_("Every pair keeps its length, and the first token is as it was."),
    )  # fmt: skip


def check_10_bias(answer: Any) -> Verdict:
    """Check the table of ALiBi, ``answer(queries, keys, slope)``."""

    def table(queries: int, keys: int, shift: int | None = None) -> Tensor:
        i = torch.arange(queries)[:, None] + (keys - queries if shift is None else shift)
        return (i - torch.arange(keys)).to(torch.get_default_dtype())

    def reference(queries: int, keys: int, slope: float) -> Tensor:
        return -slope * table(queries, keys).abs()

    draw = fresh()
    slope = torch.rand((), generator=draw).item()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (2, 2, 1.0), (1, 3, 0.5), (2, 5, 0.25),
            (whole(draw, 3, 6), whole(draw, 7, 9), slope),
        ],
        mistakes=[
            Mistake(lambda n, m, s: s * table(n, m).abs(),
                    _("What is far scores higher in yours. A slope pulls down.")),
            Mistake(lambda n, m, s: -s * table(n, m, 0).abs(),
                    _("You let the first query stand at the first key. The last stands at the "
                      "last.")),
            Mistake(lambda n, m, s: -s * table(n, m),
                    _("Keys after the query get a bonus. The distance has no sign.")),
            Mistake(lambda n, m, s: -s * table(n, m).square(),
                    _("The distance enters as it is, not squared.")),
            Mistake(lambda n, m, s: -s * table(m, n, 0).mT.abs(),
                    _("You let the first query stand at the first key. The last stands at the "
                      "last.")),
            Mistake(lambda n, m, s: (-s * table(n, m).abs()).mT,
                    _("Rows are queries, columns are keys.")),
        ],
        right=_("A query beside a cache of keys gets the last row, and it is the right one."),
    )  # fmt: skip


def check_10_heads(answer: Any) -> Verdict:
    """Check the cut of tokens into heads, ``answer(tokens, heads)``."""

    def reference(tokens: Tensor, heads: int) -> Tensor:
        return tokens.unflatten(-1, (heads, -1)).transpose(-3, -2)

    draw = fresh()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.arange(8.0).reshape(1, 2, 4), 2),
            (torch.arange(24.0).reshape(2, 3, 4), 2),
            (torch.randn(2, 6, 6, generator=draw), 3),
        ],
        mistakes=[
            Mistake(lambda t, h: t.reshape(t.shape[0], h, t.shape[1], -1),
                    _("The numbers of different tokens are mixed up: first give the features two "
                      "axes, then swap.")),
            Mistake(lambda t, h: t.unflatten(-1, (h, -1)),
                    _("The heads come before the tokens: an axis has to be swapped.")),
            Mistake(lambda t, h: t.unflatten(-1, (-1, h)).permute(0, 3, 1, 2),
                    _("A head gets neighbouring features, not every other one.")),
            Mistake(lambda t, h: t.unsqueeze(1).expand(-1, h, -1, -1),
                    _("Every head has all features in yours. They are shared out.")),
        ],
        right=_("Now a batch of heads looks to a score as any batch does."),
    )  # fmt: skip


def check_10_cache(answer: Any) -> Verdict:
    """Check the numbers in a cache, ``answer(layers, tokens, heads, shared, features)``."""

    def reference(layers: int, tokens: int, heads: int, shared: int, features: int) -> int:
        return 2 * layers * tokens * heads // shared * features

    draw = fresh()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (1, 10, 4, 2, 3),
            (2, 100, 8, 4, 64),
            (whole(draw, 3, 9), whole(draw, 50, 99), 12, 3, whole(draw, 5, 9)),
        ],
        mistakes=[
            Mistake(lambda a, n, h, s, f: a * n * h // s * f,
                    _("Keys alone, or values alone: both are kept.")),
            Mistake(lambda a, n, h, s, f: 2 * a * n * h * f,
                    _("That many would be kept if no heads shared their keys and values.")),
            Mistake(lambda a, n, h, s, f: 2 * n * h // s * f,
                    _("Every layer has keys and values of its own.")),
            Mistake(lambda a, n, h, s, f: 2 * a * n * s * f,
                    _("Several query heads share one head of keys: divide by how many.")),
            Mistake(lambda a, n, h, s, f: 3 * a * n * h // s * f,
                    _("Queries are not kept: nobody asks an old question again.")),
        ],
        right=_("Queries are not in it: each is asked once."),
    )  # fmt: skip


def check_10_induction(answer: Any) -> Verdict:
    """Check the induction score of a table of weights, ``answer(weights, period)``."""

    def mean(weights: Tensor, period: int, back: int) -> float:
        rows = torch.arange(period, len(weights))
        return weights[rows, rows - back].mean().item()

    def reference(weights: Tensor, period: int) -> float:
        return mean(weights, period, period - 1)

    def normal(n: int, draw: torch.Generator) -> Tensor:
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
        return torch.randn(n, n, generator=draw).masked_fill(hidden, -math.inf).softmax(-1)

    draw = fresh()
    perfect = torch.eye(4)
    perfect[2], perfect[3] = torch.eye(4)[1], torch.eye(4)[2]
    return check_function(
        answer,
        reference=reference,
        cases=[(perfect, 2), (normal(6, draw), 3), (normal(10, draw), 4)],
        mistakes=[
            Mistake(lambda w, p: mean(w, p, p),
                    _("That is the weight on the same token, one period back. The one after it is "
                      "wanted: it says what comes next.")),
            Mistake(lambda w, p: mean(w, p, p + 1),
                    _("One place too early: the token *after* the earlier one is wanted.")),
            Mistake(lambda w, p: mean(w, p, 1),
                    _("That is the score of a previous-token head.")),
            Mistake(lambda w, p: w[range(p - 1, len(w)), range(len(w) - p + 1)].mean().item(),
                    _("Only queries that have seen their token before count: from `period` on.")),
            Mistake(lambda w, p: mean(w, p, p - 1) * (len(w) - p),
                    _("That is the sum. The mean is wanted.")),
        ],
        right=_("It needs no picture, and it can rank a thousand heads."),
    )  # fmt: skip
