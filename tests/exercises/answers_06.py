"""Right and wrong answers to the exercises of chapter 6."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from d2lattn import AdditiveScore, dot_product_score, gaussian_score
from d2lattn.exercises import (
    check_06_bandwidth,
    check_06_bill,
    check_06_break_even,
    check_06_by_hand,
    check_06_choose,
    check_06_traffic,
)
from tests.exercises import Check

Bill = tuple[int, int, int]


def scored() -> list[torch.Tensor]:
    one, three = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    return [gaussian_score(one, three)[0], dot_product_score(one, three, scale=1.0)[0]]


def from_shapes(num_queries: int, num_keys: int, query_size: int, key_size: int, h: int) -> Bill:
    network = AdditiveScore(key_size, query_size, h)
    hidden = torch.empty(num_queries, num_keys, h, device="meta").numel()
    projected = num_queries * network.W_q.weight.numel() + num_keys * network.W_k.weight.numel()
    return sum(p.numel() for p in network.parameters()), projected + hidden, hidden


def by_loop(num_queries: int, num_keys: int, query_size: int, key_size: int, h: int) -> list[int]:
    products = sum(query_size * h for _ in range(num_queries))
    products += sum(key_size * h for _ in range(num_keys))
    tanhs = sum(h for _ in range(num_queries) for _ in range(num_keys))
    return [query_size * h + key_size * h + h, products + tanhs, tanhs]


def cancelled(num_queries: int, num_keys: int, width: int, value_width: int) -> float:
    return 1 / (1 / num_queries + 1 / num_keys)


RIGHT: list[tuple[Check, Any]] = [
    (check_06_by_hand, [[-1 / 2, -2, -13 / 2], [2, 8, 0]]),
    (check_06_by_hand, scored()),
    (check_06_bill, from_shapes),
    (check_06_bill, by_loop),
    (check_06_break_even, [512, 102]),
    (check_06_break_even, (512.0, 102.4)),
    (check_06_traffic, cancelled),
    (
        check_06_traffic,
        lambda m, n, d, c: (m * n * d + m * n * c) / (m * d + n * d + n * c + m * c),
    ),
    (check_06_bandwidth, lambda d: math.sqrt(math.sqrt(d))),
    (check_06_bandwidth, lambda d: math.exp(math.log(d) / 4)),
    (check_06_choose, (1, 2, 3, 4, 4)),
    (check_06_choose, torch.tensor([1, 2, 3, 4, 4])),
]


Count = Callable[[int, int, int, int, int], int]


def billed(
    parameters: Count = lambda m, n, a, b, h: h * (a + b + 1),
    products: Count = lambda m, n, a, b, h: h * (m * a + n * b + m * n),
    tanhs: Count = lambda m, n, a, b, h: m * n * h,
) -> Callable[..., Bill]:
    """A reader's bill, with one of the formulas gone wrong."""

    def answer(m: int, n: int, a: int, b: int, h: int) -> Bill:
        return parameters(m, n, a, b, h), products(m, n, a, b, h), tanhs(m, n, a, b, h)

    return answer


WRONG: list[tuple[Check, Any, str]] = [
    (check_06_by_hand, [[-1, -4, -13], [2, 8, 0]], "*half*"),
    (check_06_by_hand, [[0.5, 2, 6.5], [2, 8, 0]], "mind the sign"),
    (check_06_by_hand, [[-0.5, -1, -1.803], [2, 8, 0]], "*squared* distance"),
    (check_06_by_hand, [[0.607, 0.135, 0.0015], [2, 8, 0]], "one step too far"),
    (check_06_by_hand, [[-0.5, -2, -6.5], [1.414, 5.657, 0]], "without a scale"),
    (check_06_by_hand, [[-0.5, -2, -6.5], [1, 1, 0]], "cosines"),
    (check_06_by_hand, [[2, 8, 0], [-0.5, -2, -6.5]], "wrong order"),
    (check_06_bill, billed(parameters=lambda m, n, a, b, h: h * a + h * b), "`w_v` is missing"),
    (
        check_06_bill,
        billed(parameters=lambda m, n, a, b, h: h * a + h * b + 1),
        "one number for each hidden",
    ),
    (
        check_06_bill,
        billed(parameters=lambda m, n, a, b, h: h * (a + 1) + h * (b + 1) + h),
        "no bias",
    ),
    (check_06_bill, billed(parameters=lambda m, n, a, b, h: a * b + h), "two matrices"),
    (
        check_06_bill,
        billed(products=lambda m, n, a, b, h: m * n * (h * a + h * b + h)),
        "for every *pair*",
    ),
    (
        check_06_bill,
        billed(products=lambda m, n, a, b, h: m * a * h + n * b * h),
        "comparison is free",
    ),
    (
        check_06_bill,
        billed(products=lambda m, n, a, b, h: m * n * h),
        "two projections are missing",
    ),
    (
        check_06_bill,
        billed(products=lambda m, n, a, b, h: m * b * h + n * a * h + m * n * h),
        "exchanged",
    ),
    (
        check_06_bill,
        billed(products=lambda m, n, a, b, h: m * a * h + n * b * h + m * n),
        "one for each hidden feature",
    ),
    (
        check_06_bill,
        billed(products=lambda m, n, a, b, h: m * a * h + m * n * h),
        "keys are projected as well",
    ),
    (check_06_bill, billed(tanhs=lambda m, n, a, b, h: m * n), "*and* each hidden feature"),
    (check_06_bill, billed(tanhs=lambda m, n, a, b, h: m * h + n * h), "of the *sum*"),
    (check_06_bill, billed(tanhs=lambda m, n, a, b, h: n**2 * h), "queries times keys"),
    (check_06_break_even, [512, 170], "*both* queries and keys"),
    (check_06_break_even, [512, 128], "comparison has to be paid"),
    (check_06_break_even, [512, 512], "fewer hidden"),
    (check_06_break_even, [512, 103], "round down"),
    (check_06_break_even, [256, 102], "*feature*"),
    (check_06_break_even, [500, 102], "number 1"),
    (check_06_traffic, lambda m, n, d, c: m * n * d / ((m + n) * (d + c)), "Only the scores"),
    (
        check_06_traffic,
        lambda m, n, d, c: m * n * (d + c) / (m * d + n * d + n * c),
        "output has to be written",
    ),
    (
        check_06_traffic,
        lambda m, n, d, c: m * n * (d + c) / ((m + n) * (d + c) + m * n),
        "table of weights travel",
    ),
    (check_06_traffic, lambda m, n, d, c: (m + n) / (m * n), "upside down"),
    (check_06_traffic, lambda m, n, d, c: 1.0, "again for every pair"),
    (check_06_traffic, lambda m, n, d, c: 1.0 * m * n * (d + c), "work alone"),
    (check_06_traffic, lambda m, n, d, c: m * n * d * c / ((m + n) * (d + c)), "add up"),
    (check_06_bandwidth, lambda d: math.sqrt(d), "*fall* with the width"),
    (check_06_bandwidth, lambda d: d, "Far too wide"),
    (check_06_bandwidth, lambda d: 1, "grows with d"),
    (check_06_bandwidth, lambda d: 1 / d**0.25, "Upside down"),
    (check_06_bandwidth, lambda d: (3 * d / 2) ** 0.25, "variance 1 for every width"),
    (check_06_bandwidth, lambda d: d**0.125, "fourth power"),
    (check_06_choose, [2, 2, 3, 4, 4], "*far* positions"),
    (check_06_choose, [1, 4, 3, 4, 4], "8000 times 8000"),
    (check_06_choose, [1, 2, 2, 4, 4], "vectors of one width"),
    (check_06_choose, [1, 2, 3, 3, 4], "linear in the query"),
    (check_06_choose, [1, 2, 3, 4, 1], "nearest of all"),
    (check_06_choose, [1, 2, 3, 2, 1], "number 4"),
]
