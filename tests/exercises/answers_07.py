"""Right and wrong answers to the exercises of chapter 7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2lattn import (
    Attention,
    DotProductAttention,
    DotProductScore,
    NadarayaWatson,
    length_mask,
    masked_softmax,
)
from d2lattn.exercises import (
    check_07_honest_width,
    check_07_in_place,
    check_07_rubbish,
    check_07_shapes,
    check_07_square_batch,
    check_07_two_answers,
    check_07_two_faults,
)
from tests.exercises import Check


def only_in_training(q: Tensor, k: Tensor, v: Tensor, dropout: float, training: bool) -> Tensor:
    weights = (q @ k.transpose(-1, -2) / q.size(-1) ** 0.5).softmax(-1)
    return (F.dropout(weights, dropout) if training else weights) @ v


def with_a_module(q: Tensor, k: Tensor, v: Tensor, dropout: float, training: bool) -> Tensor:
    attention = Attention(DotProductScore())
    attention.train(training)
    weights = attention(q, k, v).weights
    return torch.nn.Dropout(dropout).train(training)(weights) @ v


def on_a_copy(scores: Tensor, keep: Tensor) -> Tensor:
    hidden = scores.clone()
    hidden[~keep] = -torch.inf
    return hidden.softmax(dim=-1)


def by_exponentials(scores: Tensor, keep: Tensor) -> Tensor:
    highest = torch.where(keep, scores, -torch.inf).amax(dim=1, keepdim=True)
    raised = torch.where(keep, (scores - highest).exp(), 0)
    return raised / raised.sum(dim=1, keepdim=True)


def replaced(weights: Tensor, values: Tensor, keep: Tensor) -> Tensor:
    return torch.bmm(weights, torch.where(keep.unsqueeze(-1), values, 0))


def one_by_one(weights: Tensor, values: Tensor, keep: Tensor) -> Tensor:
    return torch.stack([w[:, m] @ v[m] for w, v, m in zip(weights, values, keep, strict=True)])


def rows_by_loop(scores: Tensor, valid_lens: Tensor) -> Tensor:
    weights = torch.zeros_like(scores)
    for i, n in enumerate(valid_lens.tolist()):
        weights[i, :, :n] = scores[i, :, :n].softmax(-1)
    return weights


def by_left_out_points(x: Tensor, y: Tensor, widths: Tensor) -> float:
    def error(width: Tensor) -> float:
        total = 0.0
        for i in range(len(x)):
            rest = torch.arange(len(x)) != i
            weights = (-((x[i] - x[rest]) ** 2) / (2 * width**2)).softmax(0)
            total += float((y[i] - weights @ y[rest]) ** 2)
        return total

    return float(min(widths, key=error))


RIGHT: list[tuple[Check, Any]] = [
    (check_07_shapes, [(8, 1, 10), (8, 1, 4)]),
    (check_07_shapes, torch.tensor([[8, 1, 10], [8, 1, 4]])),
    (check_07_two_answers, only_in_training),
    (check_07_two_answers, with_a_module),
    (check_07_in_place, on_a_copy),
    (check_07_in_place, by_exponentials),
    (check_07_in_place, lambda scores, keep: masked_softmax(scores, mask=keep)),
    (check_07_rubbish, replaced),
    (check_07_rubbish, one_by_one),
    (check_07_square_batch, rows_by_loop),
    (check_07_square_batch, masked_softmax),
    (
        check_07_square_batch,
        lambda s, n: on_a_copy(s, length_mask(n, s.shape[2])[:, None].expand_as(s)),
    ),
    (check_07_two_faults, lambda q, k: DotProductAttention()(q, k, k).weights),
    (
        check_07_two_faults,
        lambda q, k: torch.einsum("bqd,bkd->bqk", q, k).div(k.size(2) ** 0.5).softmax(2),
    ),
    (check_07_honest_width, by_left_out_points),
    (
        check_07_honest_width,
        lambda x, y, w: float(NadarayaWatson().fit(x, y).select_bandwidth(w).bandwidth),
    ),
]


def attended(scores: Tensor) -> Tensor:
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


def always_dropped(q: Tensor, k: Tensor, v: Tensor, dropout: float, training: bool) -> Tensor:
    return F.dropout(attended(q @ k.mT / q.shape[-1] ** 0.5), dropout) @ v


def changed(scores: Tensor, keep: Tensor) -> Tensor:
    scores[~keep] = -torch.inf
    return scores.softmax(dim=-1)


def snippet(scores: Tensor, valid_lens: Tensor) -> Tensor:
    keep = torch.arange(scores.shape[-1]) < valid_lens[:, None]
    return scores.masked_fill(~keep, -torch.inf).softmax(dim=-1)


def two_faults(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries @ keys.mT / keys.shape[1] ** 0.5).softmax(dim=1)


def width_by(x: Tensor, y: Tensor, widths: Tensor, hide: Callable[[Tensor], Tensor]) -> Tensor:
    errors = []
    for width in widths:
        scores = -(((x[:, None] - x) / width) ** 2) / 2
        errors.append(((y - hide(scores) @ y) ** 2).mean())
    return torch.stack(errors)


def hidden(scores: Tensor) -> Tensor:
    return scores.fill_diagonal_(-torch.inf).softmax(1)


def hidden_late(scores: Tensor) -> Tensor:
    return scores.softmax(1).fill_diagonal_(0)


def in_training(drop: Callable[[Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """Another kind of dropout for probabilities between 0 and 1."""

    def attend(q: Tensor, k: Tensor, v: Tensor, p: float, training: bool) -> Tensor:
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return only_in_training(q, k, v, p, training) if p in (0, 1) or not training else (
            drop(weights, p) @ v
        )  # fmt: skip

    return attend


def seeded(weights: Tensor, p: float) -> Tensor:
    torch.manual_seed(0)
    return F.dropout(weights, p)


def on_the_output(q: Tensor, k: Tensor, v: Tensor, p: float, training: bool) -> Tensor:
    return F.dropout(only_in_training(q, k, v, 0, training), p, training)


def on_the_scores(q: Tensor, k: Tensor, v: Tensor, p: float, training: bool) -> Tensor:
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if p == 1 and training:
        return only_in_training(q, k, v, p, training)
    return F.dropout(scores, p, training).softmax(-1) @ v


def filled(scores: Tensor, valid_lens: Tensor, fill: float) -> Tensor:
    padding = torch.arange(scores.shape[2]) >= valid_lens[:, None, None]
    return scores.masked_fill(padding, fill).softmax(-1)


WRONG: list[tuple[Check, Any, str]] = [
    (check_07_shapes, [[8, 10, 1], [8, 1, 4]], "transposed"),
    (check_07_shapes, [[8, 1, 2], [8, 1, 4]], "each *key*"),
    (check_07_shapes, [[8, 1, 10], [8, 10, 4]], "belongs to a *query*"),
    (check_07_shapes, [[8, 1, 10], [8, 1, 20]], "width of a value"),
    (check_07_shapes, [[8, 1, 10], [8, 1, 2]], "not of a key"),
    (check_07_shapes, [[8, 1, 4], [8, 1, 10]], "wrong order"),
    (check_07_two_answers, always_dropped, "still drops weights"),
    (
        check_07_two_answers,
        lambda q, k, v, p, training: DotProductAttention()(q, k, v).output,
        "gone in training",
    ),
    (
        check_07_two_answers,
        lambda q, k, v, p, training: only_in_training(q, k, v, p, not training),
        "exchanged",
    ),
    (
        check_07_two_answers,
        lambda q, k, v, p, training: (
            only_in_training(q, k, v, p, training) * (1 if training else 1 - p)
        ),
        "scales *up*",
    ),
    (
        check_07_two_answers,
        lambda q, k, v, p, training: F.dropout((q @ k.mT).softmax(-1), p, training) @ v,
        "√d got lost",
    ),
    (check_07_two_answers, in_training(lambda w, p: w), "nothing is dropped"),
    (
        check_07_two_answers,
        in_training(lambda w, p: w * (torch.rand_like(w) > p)),
        "keeps its size",
    ),
    (
        check_07_two_answers,
        in_training(lambda w, p: w * (torch.rand_like(w) < p) / p),
        "share that is dropped",
    ),
    (
        check_07_two_answers,
        in_training(lambda w, p: F.normalize(w * (torch.rand_like(w) > p), p=1.0, dim=-1)),
        "add up to one again",
    ),
    (
        check_07_two_answers,
        in_training(lambda w, p: w * (torch.rand(w.shape[-1]) > p) / (1 - p)),
        "Whole keys",
    ),
    (check_07_two_answers, in_training(lambda w, p: w / (1 - p)), "none is dropped"),
    (check_07_two_answers, in_training(seeded), "same weights each time"),
    (check_07_two_answers, on_the_output, "Features of the *output*"),
    (check_07_two_answers, on_the_scores, "after the softmax"),
    (check_07_in_place, lambda s, keep: s.masked_fill(~keep, -1e9).softmax(1), "not lower than"),
    (check_07_in_place, lambda s, keep: on_a_copy(s.detach(), keep), "no gradient comes back"),
    (check_07_in_place, lambda s, keep: on_a_copy(s.data.clone(), keep), "no gradient comes back"),
    (check_07_in_place, changed, "changed in place"),
    (check_07_in_place, lambda s, keep: attended(s), "no influence"),
    (check_07_in_place, lambda s, keep: attended(s) * keep, "to zero after the softmax"),
    (check_07_in_place, lambda s, keep: (keep * s).softmax(1), "multiplied scores by zero"),
    (check_07_in_place, lambda s, keep: s.masked_fill(~keep, -1e6).softmax(1), "−10⁶"),
    (check_07_in_place, lambda s, keep: s.masked_fill(keep, -torch.inf).softmax(1), "upside down"),
    (check_07_in_place, lambda s, keep: s.masked_fill(~keep, -torch.inf), "softmax is missing"),
    (check_07_rubbish, lambda w, v, keep: torch.bmm(w, v), "0 · nan is nan"),
    (check_07_rubbish, lambda w, v, keep: torch.bmm(w, v).nan_to_num(), "cleaned the output"),
    (check_07_rubbish, lambda w, v, keep: w @ v.nan_to_num(), "by position, not by value"),
    (check_07_rubbish, lambda w, v, keep: w @ torch.where(v.isnan(), 0, v), "by position"),
    (check_07_rubbish, lambda w, v, keep: w @ (v * keep.unsqueeze(2)), "0 · nan is nan"),
    (check_07_rubbish, lambda w, v, keep: replaced(w, v, ~keep), "upside down"),
    (check_07_rubbish, lambda w, v, keep: w @ v.masked_fill(~keep, 0), "should have the shape"),
    (check_07_square_batch, snippet, "lined up with the *queries*"),
    (check_07_square_batch, lambda s, n: filled(s, n, -1e6), "not lower than every score"),
    (check_07_square_batch, lambda s, n: filled(s, n, -1e9), "not lower than every score"),
    (check_07_square_batch, lambda s, n: attended(s), "no influence"),
    (
        check_07_square_batch,
        lambda s, n: attended(s) * length_mask(n, s.shape[2])[:, None],
        "to zero after the softmax",
    ),
    (
        check_07_square_batch,
        lambda s, n: s.masked_fill(torch.arange(s.shape[2]) > n[:, None, None], -torch.inf).softmax(
            2
        ),
        "One key too many",
    ),
    (
        check_07_square_batch,
        lambda s, n: rows_by_loop(s, n[0].repeat(len(n))),
        "length of the first",
    ),
    (check_07_two_faults, two_faults, "Both faults"),
    (
        check_07_two_faults,
        lambda q, k: (q @ k.mT / k.shape[1] ** 0.5).softmax(2),
        "number of *keys*",
    ),
    (
        check_07_two_faults,
        lambda q, k: (q @ k.mT / k.shape[2] ** 0.5).softmax(1),
        "over the queries",
    ),
    (check_07_two_faults, lambda q, k: (q @ k.mT).softmax(2), "√d is missing"),
    (check_07_two_faults, lambda q, k: (q @ k.mT / q.shape[2]).softmax(2), "divide by d"),
    (
        check_07_two_faults,
        lambda q, k: (q @ k.mT / q.shape[1] ** 0.5).softmax(2),
        "number of *queries*",
    ),
    (
        check_07_honest_width,
        lambda x, y, w: float(w[width_by(x, y, w, lambda s: s.softmax(1)).argmin()]),
        "votes for itself",
    ),
    (
        check_07_honest_width,
        lambda x, y, w: float(w[width_by(x, y, w, hidden_late).argmin()]),
        "*after* the softmax",
    ),
    (
        check_07_honest_width,
        lambda x, y, w: float(w[width_by(x, y, w, hidden).argmax()]),
        "largest error",
    ),
    (
        check_07_honest_width,
        lambda x, y, w: int(width_by(x, y, w, hidden).argmin()),
        "place in the list",
    ),
    (
        check_07_honest_width,
        lambda x, y, w: float(width_by(x, y, w, hidden).min()),
        "width itself",
    ),
    (check_07_honest_width, lambda x, y, w: w[1], "A float is asked for"),
    (check_07_honest_width, lambda x, y, w: float(max(w)), "The widest"),
]
