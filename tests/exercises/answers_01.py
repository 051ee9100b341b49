"""Right and wrong answers to the exercises of chapter 1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn import GaussianScore, NadarayaWatson, gaussian_score, log_kernel, masked_softmax
from d2lattn.exercises import (
    check_01_by_hand,
    check_01_leave_one_out,
    check_01_more_data,
    check_01_triangular,
    check_01_two_widths,
)
from tests.exercises import Check


def by_division(queries: Tensor, keys: Tensor, bandwidth: float) -> Tensor:
    kernel = torch.relu(1 - torch.cdist(queries[:, None], keys[:, None]) / bandwidth)
    total = kernel.sum(dim=1, keepdim=True)
    return kernel / torch.where(total > 0, total, 1)


def by_loop(queries: Tensor, keys: Tensor, bandwidth: float) -> Tensor:
    rows = []
    for query in queries:
        row = torch.stack([max(1 - abs(query - key) / bandwidth, 0 * key) for key in keys])
        rows.append(row / row.sum() if row.sum() > 0 else row)
    return torch.stack(rows)


def by_package(queries: Tensor, keys: Tensor, bandwidth: float) -> Tensor:
    return masked_softmax(log_kernel((queries[:, None] - keys) / bandwidth, "triangular"))


def others_only(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    predictions = []
    for i in range(len(x)):
        rest = [j for j in range(len(x)) if j != i]
        weights = (-((x[i] - x[rest]) ** 2) / (2 * bandwidth**2)).softmax(0)
        predictions.append(weights @ y[rest])
    return torch.stack(predictions)


def from_residuals(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    return y - NadarayaWatson(bandwidth).fit(x, y).loo_residuals()


def divided(queries: Tensor, keys: Tensor, bandwidths: Tensor) -> Tensor:
    return (-torch.cdist(queries / bandwidths, keys / bandwidths).square() / 2).softmax(-1)


def multiplied(queries: Tensor, keys: Tensor, bandwidths: Tensor) -> Tensor:
    u = (queries.unsqueeze(1) - keys.unsqueeze(0)) / bandwidths
    kernel = (-(u**2) / 2).exp().prod(dim=2)
    return kernel / kernel.sum(dim=1, keepdim=True)


def by_score(queries: Tensor, keys: Tensor, bandwidths: Tensor) -> Tensor:
    return masked_softmax(gaussian_score(queries, keys, bandwidths))


RIGHT: list[tuple[Check, Any]] = [
    (check_01_by_hand, (3, 1.477)),
    (check_01_by_hand, torch.tensor([3.0, 1.4768])),
    (check_01_triangular, by_division),
    (check_01_triangular, by_loop),
    (check_01_triangular, by_package),
    (check_01_leave_one_out, others_only),
    (check_01_leave_one_out, from_residuals),
    (check_01_two_widths, divided),
    (check_01_two_widths, multiplied),
    (check_01_two_widths, by_score),
    (check_01_more_data, [0.549, 0.688]),
    (check_01_more_data, (0.55, 0.6876)),
]


def triangle(queries: Tensor, keys: Tensor, bandwidth: float) -> Tensor:
    return 1 - (queries.unsqueeze(1) - keys).abs() / bandwidth


def gauss(x: Tensor, bandwidth: float) -> Tensor:
    return GaussianScore(bandwidth)(x[:, None], x[:, None]).detach()


def zero_diagonal(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    weights = gauss(x, bandwidth).softmax(1)
    weights.fill_diagonal_(0)
    return weights @ y


def zero_score(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    scores = gauss(x, bandwidth)
    scores.fill_diagonal_(0)
    return scores.softmax(1) @ y


def one_pass(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    weights = gauss(x, bandwidth).softmax(1)
    own = weights.diagonal()
    return y - (y - weights @ y) / (1 - own)


def square(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries[:, None] - keys[None]) ** 2


WRONG: list[tuple[Check, Any, str]] = [
    (check_01_by_hand, [3, 3], "ignores the question"),
    (check_01_by_hand, [3, 4.523], "wrong way round"),
    (check_01_by_hand, [3, 1.6767], "divide by the sum"),
    (check_01_by_hand, [3, 1.0719], "has half of it"),
    (check_01_by_hand, [3, 1], "not silent"),
    (check_01_by_hand, [2, 1.477], "number 1"),
    (check_01_triangular, lambda q, k, h: triangle(q, k, h).relu().softmax(1), "*logarithm*"),
    (check_01_triangular, lambda q, k, h: torch.log(triangle(q, k, h).relu()).softmax(1), "−∞"),
    (check_01_triangular, lambda q, k, h: triangle(q, k, h).relu(), "add up to one yet"),
    (
        check_01_triangular,
        lambda q, k, h: triangle(q, k, h).relu() / triangle(q, k, h).relu().sum(0),
        "columns",
    ),
    (
        check_01_triangular,
        lambda q, k, h: triangle(q, k, h) / triangle(q, k, h).sum(1, keepdim=True),
        "negative weight",
    ),
    (check_01_triangular, lambda q, k, h: by_loop(q, k, 1.0), "no influence"),
    (check_01_triangular, lambda q, k, h: by_loop(q, k, 1 / h), "*divided*"),
    (
        check_01_triangular,
        lambda q, k, h: NadarayaWatson(h, kernel="epanechnikov").fit(k, k).weights(q),
        "Epanechnikov",
    ),
    (
        check_01_triangular,
        lambda q, k, h: NadarayaWatson(h, kernel="boxcar").fit(k, k).weights(q),
        "boxcar",
    ),
    (check_01_triangular, lambda q, k, h: by_loop(q, k, h).mT, "Rows are queries"),
    (check_01_leave_one_out, lambda x, y, h: gauss(x, h).softmax(1) @ y, "vouches for itself"),
    (check_01_leave_one_out, zero_diagonal, "*after* the softmax"),
    (check_01_leave_one_out, zero_score, "0 is the highest"),
    (check_01_leave_one_out, one_pass, "right on paper"),
    (check_01_leave_one_out, lambda x, y, h: y - others_only(x, y, h), "residuals"),
    (check_01_leave_one_out, lambda x, y, h: others_only(x, y, h**0.5), "not squared"),
    (check_01_leave_one_out, lambda x, y, h: others_only(x, y, h / 2**0.5), "½"),
    (check_01_two_widths, lambda q, k, h: (-square(q, k).sum(-1) / 2).softmax(1), "no influence"),
    (
        check_01_two_widths,
        lambda q, k, h: (-(square(q, k) / h).sum(-1) / 2).softmax(1),
        "not squared",
    ),
    (check_01_two_widths, lambda q, k, h: (-(square(q / h, k / h)).sum(-1)).softmax(1), "½"),
    (
        check_01_two_widths,
        lambda q, k, h: (-square(q / h, k / h).sum(-1) / 2).softmax(0),
        "over the queries",
    ),
    (
        check_01_two_widths,
        lambda q, k, h: (-square(q / h, k / h) / 2).softmax(1).prod(-1),
        "product of two softmaxes",
    ),
    (
        check_01_two_widths,
        lambda q, k, h: (-square(q * h, k * h).sum(-1) / 2).softmax(1),
        "A width divides",
    ),
    (check_01_more_data, [1.82, 1.454], "shrinks"),
    (check_01_more_data, [0.473, 0.652], "powers of h"),
    (check_01_more_data, [0.549, 0.549], "h⁴ of the data"),
    (check_01_more_data, [0.05, 0.473], "number of neighbours"),
    (check_01_more_data, [1 / math.sqrt(20)] * 2, "two errors compete"),
]
