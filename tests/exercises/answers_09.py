"""Right and wrong answers to the exercises of chapter 9."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2lattn import masked_softmax
from d2lattn.exercises import (
    check_09_beam,
    check_09_by_hand,
    check_09_last_state,
    check_09_loss,
    check_09_monotonic,
    check_09_on_field,
    check_09_told,
)
from tests.exercises import Check

BY_HAND = [[0.25, 0.75, 0.0], [6.0, 1.0, 5.0]]


def by_gather(outputs: Tensor, lens: Tensor) -> Tensor:
    index = (lens - 1).view(-1, 1, 1).expand(-1, 1, outputs.shape[-1])
    return outputs.gather(1, index).squeeze(1)


def by_loop(outputs: Tensor, lens: Tensor) -> Tensor:
    return torch.stack([row[n - 1] for row, n in zip(outputs, lens.tolist(), strict=True)])


def valid(x: Tensor, lens: Tensor) -> Tensor:
    return torch.arange(x.shape[1]) < lens[:, None]


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)


def by_ignoring(logits: Tensor, targets: Tensor, lens: Tensor) -> Tensor:
    hidden = targets.masked_fill(~valid(targets, lens), -100)
    return F.cross_entropy(logits.flatten(0, 1), hidden.flatten())


def by_sum(logits: Tensor, targets: Tensor, lens: Tensor) -> Tensor:
    return (losses(logits, targets) * valid(targets, lens)).sum() / lens.sum()


def by_pad(targets: Tensor, begin: int) -> Tensor:
    return F.pad(targets, (1, 0), value=begin)[:, :-1]


def by_roll(targets: Tensor, begin: int) -> Tensor:
    told = targets.roll(1, dims=1)
    told[:, 0] = begin
    return told


def by_steps(weights: Tensor, places: Tensor) -> Tensor:
    found = [row @ place for row, place in zip(weights, places, strict=True) if place.any()]
    return torch.stack(found).mean()


def by_division(weights: Tensor, places: Tensor) -> Tensor:
    return (weights * places).sum() / places.any(dim=-1).sum()


def by_mask(scores: Tensor) -> Tensor:
    at, rows = 0, []
    for row in scores:
        hidden = row.clone()
        hidden[:at] = -torch.inf
        rows.append(hidden.softmax(-1))
        at = int(rows[-1].argmax())
    return torch.stack(rows)


def masked_too_late(scores: Tensor) -> Tensor:
    at, rows = 0, []
    for row in scores:
        left = row.softmax(-1) * (torch.arange(len(row)) >= at)
        rows.append(left / left.sum())
        at = int(rows[-1].argmax())
    return torch.stack(rows)


def by_slices(scores: Tensor) -> Tensor:
    at, weights = 0, torch.zeros_like(scores)
    for t in range(len(scores)):
        weights[t, at:] = scores[t, at:].softmax(-1)
        at = int(weights[t].argmax())
    return weights


def strictly_on(scores: Tensor) -> Tensor:
    at, rows = 0, []
    for row in scores:
        rows.append(masked_softmax(row, mask=torch.arange(len(row)) >= at))
        at = min(int(rows[-1].argmax()) + 1, len(row) - 1)
    return torch.stack(rows)


def by_scores(scores: Tensor) -> Tensor:
    starts = [0, *scores.argmax(-1).tolist()]
    return torch.stack([
        masked_softmax(row, mask=torch.arange(len(row)) >= at)
        for row, at in zip(scores, starts, strict=False)
    ])  # fmt: skip


def by_topk(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    totals = so_far[:, None] + steps
    values, index = totals.view(-1).topk(size)
    return index.div(steps.shape[1], rounding_mode="floor"), index % steps.shape[1], values


def by_sorting(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    every = [
        (float(so_far[b] + steps[b, v]), b, v)
        for b in range(steps.shape[0])
        for v in range(steps.shape[1])
    ]
    chosen = sorted(every, reverse=True)[:size]
    values, parents, tokens = (torch.tensor(column) for column in zip(*chosen, strict=True))
    return parents, tokens, values


def greedy_child(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    values, tokens = (so_far[:, None] + steps).max(-1)
    order = values.argsort(descending=True)
    return order[:size], tokens[order][:size], values[order][:size]


def forgetful(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    return by_topk(0 * so_far, steps, size)


def exchanged(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    parents, tokens, values = by_topk(so_far, steps, size)
    return tokens, parents, values


def only_the_best(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    values, tokens = (so_far[0] + steps[0]).topk(size)
    return torch.zeros_like(tokens), tokens, values


RIGHT: list[tuple[Check, Any]] = [
    (check_09_by_hand, BY_HAND),
    (check_09_by_hand, [torch.tensor(BY_HAND[0]), torch.tensor(BY_HAND[1])]),
    (check_09_last_state, by_gather),
    (check_09_last_state, by_loop),
    (check_09_loss, by_ignoring),
    (check_09_loss, by_sum),
    (check_09_told, by_pad),
    (check_09_told, by_roll),
    (check_09_on_field, by_steps),
    (check_09_on_field, by_division),
    (check_09_monotonic, by_mask),
    (check_09_monotonic, by_slices),
    (check_09_beam, by_topk),
    (check_09_beam, by_sorting),
]

WRONG: list[tuple[Check, Any, str]] = [
    (check_09_by_hand, [[0.125, 0.375, 0.5], [53, 50.5, 52.5]], "is padding"),
    (check_09_by_hand, [[0.125, 0.375, 0], [3, 0.5, 2.5]], "add up to one"),
    (check_09_by_hand, [[1, 3, 0], [24, 4, 20]], "exponentials, not weights"),
    (check_09_by_hand, [[0.75, 0.25, 0], [2, 3, 7]], "changed places"),
    (check_09_last_state, lambda o, lens: o[:, -1], "last row"),
    (check_09_last_state, lambda o, lens: o[:, 0], "first token"),
    (
        check_09_last_state,
        lambda o, lens: by_gather(o, (lens + 1).clamp(max=o.shape[1])),
        "too far",
    ),
    (
        check_09_last_state,
        lambda o, lens: (o * valid(o, lens)[..., None]).sum(1) / lens[:, None],
        "mean of the valid",
    ),
    (check_09_loss, lambda x, y, lens: losses(x, y).mean(), "taught to write it"),
    (check_09_loss, lambda x, y, lens: (losses(x, y) * valid(y, lens)).mean(), "divisor"),
    (check_09_loss, lambda x, y, lens: (losses(x, y) * valid(y, lens)).sum(), "is the sum"),
    (
        check_09_loss,
        lambda x, y, lens: ((losses(x, y) * valid(y, lens)).sum(1) / lens).mean(),
        "should count the same",
    ),
    (check_09_told, lambda y, begin: y, "learn to copy"),
    (check_09_told, lambda y, begin: F.pad(y, (0, 1), value=begin)[:, 1:], "wrong way"),
    (check_09_told, lambda y, begin: F.pad(y, (1, 0), value=begin), "One too many"),
    (check_09_told, lambda y, begin: y.roll(1, dims=1), "the last token"),
    (check_09_on_field, lambda w, p: (w * p).sum(-1).mean(), "hyphen"),
    (check_09_on_field, lambda w, p: (w * p).sum(), "sum over all steps"),
    (check_09_on_field, lambda w, p: (w * p).sum() / p.sum(), "number of places"),
    (check_09_on_field, lambda w, p: (w * p).mean(), "over the keys"),
    (check_09_monotonic, lambda s: s.softmax(-1), "looks back"),
    (check_09_monotonic, strictly_on, "look again"),
    (check_09_monotonic, masked_too_late, "`nan`"),
    (check_09_monotonic, by_scores, "hidden from it"),
    (check_09_monotonic, lambda s: s.softmax(-1) * (by_mask(s) > 0), "add up to one"),
    (check_09_beam, forgetful, "so far does not count"),
    (check_09_beam, greedy_child, "exactly one child"),
    (check_09_beam, only_the_best, "That is greedy"),
    (check_09_beam, exchanged, "changed places"),
]
