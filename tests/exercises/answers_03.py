"""Right and wrong answers to the exercises of chapter 3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2lattn import causal_mask, length_mask, masked_softmax
from d2lattn.exercises import (
    check_03_by_hand,
    check_03_gradient,
    check_03_left_padding,
    check_03_masked_softmax,
    check_03_window,
)
from tests.exercises import Check


def allowed(scores: Tensor, valid_lens: Tensor) -> Tensor:
    return torch.arange(scores.shape[-1]) < valid_lens.view(-1, 1, 1, 1)


def by_division(scores: Tensor, valid_lens: Tensor) -> Tensor:
    hidden = torch.where(allowed(scores, valid_lens), scores, -torch.inf)
    top = hidden.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    raised = (hidden - top).exp()
    return raised / raised.sum(-1, keepdim=True).clamp(min=1)  # the largest term is 1


def by_package(scores: Tensor, valid_lens: Tensor) -> Tensor:
    return masked_softmax(scores, valid_lens[:, None].expand(scores.shape[:2]))


def by_loop(scores: Tensor, valid_lens: Tensor) -> Tensor:
    weights = torch.zeros_like(scores)
    for i, n in enumerate(valid_lens.tolist()):
        weights[i, ..., :n] = scores[i, ..., :n].softmax(-1)
    return weights


def by_autograd(weights: Tensor, i: int) -> Tensor:
    scores = weights.log().requires_grad_()
    return torch.autograd.grad(scores.softmax(0)[i], scores)[0]


def unit(weights: Tensor, i: int) -> Tensor:
    return torch.eye(len(weights), dtype=weights.dtype)[i]


BY_HAND = [[2 / 3, 1 / 3, 0], [0.25, 0.125, 0.625], [1, 0, 0], [0, 0, 0]]

RIGHT: list[tuple[Check, Any]] = [
    (check_03_by_hand, BY_HAND),
    (check_03_by_hand, torch.tensor(BY_HAND)),
    (check_03_by_hand, [(0.667, 0.333, 0), (0.25, 0.125, 0.625), (1, 0, 0), (0, 0, 0)]),
    (check_03_masked_softmax, by_division),
    (check_03_masked_softmax, by_package),
    (check_03_masked_softmax, by_loop),
    (check_03_window, lambda n, r: causal_mask(n, n) & ~causal_mask(n, n).tril(-r - 1)),
    (check_03_window, lambda n, r: torch.ones(n, n).tril().triu(-r).bool()),
    (check_03_left_padding, lambda n, k: length_mask(n, k).flip(-1)),
    (check_03_left_padding, lambda n, k: ~length_mask(k - n, k)),
    (
        check_03_gradient,
        lambda w, i: (torch.diag(w) - torch.outer(w, w))[i],
    ),
    (check_03_gradient, by_autograd),
]


def filled(scores: Tensor, valid_lens: Tensor, fill: float) -> Tensor:
    hidden = scores.clone()
    hidden[~allowed(scores, valid_lens).expand_as(scores)] = fill
    return hidden.softmax(-1)


def like_three_axes(scores: Tensor, valid_lens: Tensor) -> Tensor:
    mask = torch.arange(scores.shape[-1]) < valid_lens[:, None, None]
    return masked_softmax(scores, mask=mask)


def like_one_axis(scores: Tensor, valid_lens: Tensor) -> Tensor:
    mask = torch.arange(scores.shape[-1]) < valid_lens
    return masked_softmax(scores, mask=mask)


def in_place(scores: Tensor, valid_lens: Tensor) -> Tensor:
    scores[~allowed(scores, valid_lens).expand_as(scores)] = -torch.inf
    return scores.softmax(-1)


def hidden_in_place(scores: Tensor, valid_lens: Tensor) -> Tensor:
    return scores.masked_fill_(~allowed(scores, valid_lens), -torch.inf).softmax(-1)


def raised_as_they_are(scores: Tensor, valid_lens: Tensor) -> Tensor:
    raised = scores.exp() * allowed(scores, valid_lens)
    return raised / raised.sum(-1, keepdim=True)


def divided_afterwards(scores: Tensor, valid_lens: Tensor) -> Tensor:
    raised = (scores - scores.amax(-1, keepdim=True)).exp() * allowed(scores, valid_lens)
    return (raised / raised.sum(-1, keepdim=True)).nan_to_num(0.0)


def by_slices(valid_lens: Tensor, num_keys: int) -> Tensor:
    mask = torch.zeros(len(valid_lens), num_keys, dtype=torch.bool)
    for row, n in zip(mask, valid_lens.tolist(), strict=True):
        row[-n:] = True
    return mask


WRONG: list[tuple[Check, Any, str]] = [
    (check_03_by_hand, [[0.25, 0.125, 0], BY_HAND[1], [0.25, 0, 0], [0] * 3], "after the softmax"),
    (check_03_by_hand, [[0.5, 0.25, 0.25], BY_HAND[1], [0.5, 0.25, 0.25], [0.333] * 3], "e⁰ is 1"),
    (check_03_by_hand, [*BY_HAND[:3], [0.333] * 3], "even weights"),
    (check_03_by_hand, [*BY_HAND[:3], BY_HAND[1]], "“no mask”"),
    (check_03_by_hand, [BY_HAND[1], BY_HAND[1], BY_HAND[0], BY_HAND[2]], "One key too many"),
    (check_03_by_hand, [[2, 1, 0], [2, 1, 5], [2, 0, 0], [0] * 3], "the exponentials"),
    (check_03_by_hand, [[1, 0, 0], [0.286, 0, 0.714], [1, 0, 0], [0] * 3], "second key"),
    (check_03_by_hand, [[0, 0.167, 0.833], BY_HAND[1], [0, 0, 1], [0] * 3], "from the front"),
    (check_03_by_hand, [*BY_HAND[:3], [float("nan")] * 3], "0/0"),
    (check_03_by_hand, [[0.575, 0.425, 0], [0.31, 0.23, 0.461], *BY_HAND[2:]], "natural"),
    (check_03_by_hand, [[0.67, 0.33, 0], [0.25, 0.13, 0.63], *BY_HAND[2:]], "too few"),
    (check_03_by_hand, [*BY_HAND[:2], [0, 1, 0], [0] * 3], "row 3, number 1"),
    (check_03_by_hand, [[0.667, 0.333], BY_HAND[1], [1], []], "equally many"),
    (check_03_masked_softmax, raised_as_they_are, "a sum that can be 0"),
    (check_03_masked_softmax, divided_afterwards, "too late"),
    (
        check_03_masked_softmax,
        lambda s, n: by_division(s, n) * (torch.arange(s.shape[2]) < n[:, None])[:, None, :, None],
        "padding queries",
    ),
    (check_03_masked_softmax, lambda s, n: s.softmax(3), "no influence"),
    (check_03_masked_softmax, lambda s, n: allowed(s, n) * s.softmax(3), "after the softmax"),
    (check_03_masked_softmax, lambda s, n: (s * allowed(s, n)).softmax(3), "e⁰ is 1"),
    (check_03_masked_softmax, lambda s, n: filled(s, n, -torch.inf), "become `nan`"),
    (check_03_masked_softmax, lambda s, n: filled(s, n, -1e6), "−10⁶"),
    (check_03_masked_softmax, lambda s, n: filled(s, n, -1e9), "large negative fill"),
    (check_03_masked_softmax, lambda s, n: filled(s, n, torch.finfo(s.dtype).min), "lowest finite"),
    (
        check_03_masked_softmax,
        lambda s, n: s.masked_fill(~allowed(s, n), -torch.inf).softmax(2).nan_to_num(0.0),
        "over the queries",
    ),
    (
        check_03_masked_softmax,
        lambda s, n: by_division(s, n.clamp(max=s.shape[-1] - 1) + 1),
        "many",
    ),
    (
        check_03_masked_softmax,
        lambda s, n: masked_softmax(s, mask=~allowed(s, n).expand_as(s)),
        "inverted",
    ),
    (check_03_masked_softmax, like_three_axes, "lined up"),
    (check_03_masked_softmax, like_one_axis, "lined up with the keys"),
    (check_03_masked_softmax, in_place, "in place"),
    (check_03_masked_softmax, hidden_in_place, "in place"),
    (check_03_window, lambda n, r: torch.ones(n, n).triu().tril(r).bool(), "future"),
    (check_03_window, lambda n, r: torch.ones(n, n).triu(-r).tril(r).bool(), "both ways"),
    (check_03_window, lambda n, r: causal_mask(n, n), "whole causal mask"),
    (check_03_window, lambda n, r: torch.ones(n, n).tril().triu(1 - r).bool(), "too few"),
    (check_03_window, lambda n, r: torch.ones(n, n).tril().triu(-r), "boolean"),
    (check_03_window, lambda n, r: torch.ones(n, n).tril(-1).triu(-r).bool(), "itself"),
    (check_03_window, lambda n, r: causal_mask(n, n).triu(-2), "whatever `reach` is"),
    (check_03_window, lambda n, r: torch.ones(n, n).tril(r).bool(), "no end"),
    (check_03_left_padding, lambda n, k: torch.arange(k) < n[:, None], "pads at the end"),
    (check_03_left_padding, lambda n, k: torch.arange(k) > k - n[:, None], "too few"),
    (check_03_left_padding, lambda n, k: length_mask(k - n, k), "inverted"),
    (check_03_left_padding, lambda n, k: torch.arange(k) > n[:, None] - 1, "n − ℓ are padding"),
    (check_03_left_padding, lambda n, k: length_mask(n, k).flip(-1).mT, "transposed"),
    (check_03_left_padding, by_slices, "−0 is 0"),
    (check_03_left_padding, lambda n, k: torch.arange(k) >= max(n) - n[:, None], "the longest"),
    (check_03_left_padding, lambda n, k: torch.arange(k) >= k - n, "axis of their own"),
    (check_03_left_padding, lambda n, k: length_mask(n, k).flip(-1) / 1, "boolean"),
    (check_03_gradient, lambda w, i: -w * w[i], "own score"),
    (check_03_gradient, lambda w, i: w[i] * (1 - w[i]) * unit(w, i), "other scores"),
    (check_03_gradient, lambda w, i: w - w**2, "*its own* score"),
    (check_03_gradient, lambda w, i: w[i] * (w - unit(w, i)), "sign"),
    (check_03_gradient, lambda w, i: unit(w, i) - w, "*logarithm*"),
    (check_03_gradient, lambda w, i: w * w[i], "with a plus"),
    (check_03_gradient, lambda w, i: w[i] * (w + unit(w, i)), "the other way"),
    (check_03_gradient, lambda w, i: w[i] - w[i] * w, "no other"),
    (check_03_gradient, lambda w, i: by_autograd(w.softmax(0), i), "the softmax already"),
]
