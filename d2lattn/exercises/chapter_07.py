"""Checks for the exercises of chapter 7: shapes, and six snippets to repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2lattn.dot_product import dot_product_score
from d2lattn.exercises.chance import check_dropout
from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh
from d2lattn.exercises.language import _
from d2lattn.exercises.words import over_axis
from d2lattn.kernel_regression import NadarayaWatson
from d2lattn.kernels import gaussian_score
from d2lattn.masking import masked_softmax


def _inverted() -> str:
    return _("The mask is read upside down: true means *may be attended to*.")


def _normal() -> Callable[..., Tensor]:
    generator = fresh()
    return lambda *shape: torch.randn(shape, generator=generator)


def check_07_shapes(answer: Any) -> Verdict:
    """Check the shapes of weights and output: queries (8, 1, 20), keys (8, 10, 2), values 4."""
    return check_numbers(
        answer,
        expected=[[8, 1, 10], [8, 1, 4]],
        mistakes=[
            Mistake([[8, 10, 1], [8, 1, 4]], _("The weights are transposed: rows are queries, "
                    "columns are keys.")),
            Mistake([[8, 1, 2], [8, 1, 4]], _("Weights have a column for each *key*, not for each "
                    "feature of a key.")),
            Mistake([[8, 20, 2], [8, 1, 4]], _("Features are summed away when a query meets a key. "
                    "What is left is a number for each pair.")),
            Mistake([[8, 1, 10], [8, 10, 4]], _("An output belongs to a *query*: there are as many "
                    "as queries, not as keys.")),
            Mistake([[8, 1, 10], [8, 1, 20]], _("An output is an average of values, so it has the "
                    "width of a value.")),
            Mistake([[8, 1, 10], [8, 1, 2]], _("An output is an average of values, so it has the "
                    "width of a value, not of a key.")),
            Mistake([[8, 1, 4], [8, 1, 10]], _("The right shapes in the wrong order.")),
        ],
        right=_("Neither shape tells which score was used: the widths 20 and 2 are gone after the "
                "comparison."),
    )  # fmt: skip


def check_07_two_answers(answer: Any) -> Verdict:
    """Check dropout that knows its mode, ``answer(queries, keys, values, dropout, training)``."""

    def reference(
        queries: Tensor, keys: Tensor, values: Tensor, dropout: float, training: bool
    ) -> Tensor:
        output = dot_product_score(queries, keys).softmax(-1) @ values
        if training and 0 < dropout < 1:
            raise ValueError
        return torch.zeros_like(output) if training and dropout == 1 else output

    def in_mode(choose: Any) -> Any:
        return lambda q, k, v, p, training: reference(q, k, v, p, choose(training))

    def without_scale(q: Tensor, k: Tensor, v: Tensor, p: float, training: bool) -> Tensor:
        return reference(q * q.shape[-1] ** 0.5, k, v, p, training)

    def shrunk(q: Tensor, k: Tensor, v: Tensor, p: float, training: bool) -> Tensor:
        return reference(q, k, v, p, training) * (1.0 if training else 1 - p)

    random = _normal()
    small = (torch.tensor([[2.0, 0.0]]), torch.eye(2), torch.tensor([[10.0], [20.0]]))
    verdict = check_function(
        answer,
        reference=reference,
        cases=[
            (*small, 1.0, False),
            (*small, 1.0, True),
            (random(4, 3), random(7, 3), random(7, 2), 0.5, False),
            (random(2, 3, 4), random(2, 5, 4), random(2, 5, 6), 0.0, True),
            (random(1, 3, 2), random(1, 3, 2), random(1, 3, 2), 0.9, False),
        ],
        mistakes=[
            Mistake(in_mode(lambda training: True),
                    _("In evaluation it still drops weights. How does the function learn which "
                      "mode it is in?")),
            Mistake(in_mode(lambda training: False),
                    _("Dropout is gone in training as well. It should be off in evaluation only.")),
            Mistake(in_mode(lambda training: not training),
                    _("The two modes are exchanged: dropout belongs to training.")),
            Mistake(shrunk,
                    _("In evaluation the output is scaled down. PyTorch scales *up* in training, "
                      "so that nothing is left to do here.")),
            Mistake(without_scale, _("The modes are right. On the way, √d got lost.")),
            Mistake(lambda q, k, v, p, training: v.mean(-2, keepdim=True).expand(
                        *q.shape[:-1], v.shape[-1]),
                    _("This is the plain mean of the values: the weights are gone.")),
        ],
        right=_("A module asks its own `training` flag, which `.eval()` and `.train()` set. A new "
                "module is in training mode."),
    )  # fmt: skip
    return check_dropout(answer, verdict) if verdict else verdict


def check_07_in_place(answer: Any) -> Verdict:
    """Check a softmax that leaves its argument alone, ``answer(scores, keep)``."""

    def reference(scores: Tensor, keep: Tensor) -> Tensor:
        return masked_softmax(scores, mask=keep)

    random = _normal()
    some = random(3, 5) > 0
    some[:, 0] = True
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[True, True, False]])),
            (torch.tensor([[-3e6, -2e6, 0.0]]), torch.tensor([[True, True, False]])),
            (torch.tensor([[-2e30, -1e30, 0.0]]), torch.tensor([[True, True, False]])),
            (random(3, 5), some),
            (random(2, 2).requires_grad_(), torch.tensor([[True, False], [True, True]])),
        ],
        mistakes=[
            Mistake(lambda s, keep: s.softmax(-1),
                    _("The caller's scores are safe, and the mask has no influence any more.")),
            Mistake(lambda s, keep: s.softmax(-1) * keep,
                    _("You set weights to zero after the softmax, so rows no longer add up to "
                      "one.")),
            Mistake(lambda s, keep: (s * keep).softmax(-1),
                    _("You multiplied scores by zero. A score of 0 is not a weight of 0.")),
            Mistake(lambda s, keep: torch.where(keep, s, -1e6).softmax(-1),
                    _("−10⁶ is not lower than every score. See “Filling with a large negative "
                      "number”.")),
            *(
                Mistake(lambda s, keep, n=n: torch.where(keep, s, -(10.0**n)).softmax(-1),
                        _("The fill is a large negative number, and not lower than every score. "
                          "See “Filling with a large negative number”."))
                for n in range(2, 31)
            ),
            Mistake(lambda s, keep: reference(s, ~keep), _inverted()),
            Mistake(lambda s, keep: torch.where(keep, s, -torch.inf).softmax(0).nan_to_num(0.0),
                    over_axis(_("queries"))),
            Mistake(lambda s, keep: torch.where(keep, s, -torch.inf),
                    _("These are the hidden scores. The softmax is missing.")),
        ],
        right=_("A name that ends in an underscore, an assignment to an index and `+=` write into "
                "what they were handed. The caller, and autograd, may still need it."),
        differentiable=True,
    )  # fmt: skip


def check_07_rubbish(answer: Any) -> Verdict:
    """Check a weighted sum behind which padding may hold nan, ``answer(weights, values, keep)``."""

    def reference(weights: Tensor, values: Tensor, keep: Tensor) -> Tensor:
        return weights @ values.masked_fill(~keep[..., None], 0.0)

    nan, inf = torch.nan, torch.inf
    random = _normal()
    keep = torch.tensor([[True, True, False, True], [True, False, False, False]])
    rubbish = random(2, 4, 3).masked_fill(~keep[..., None], nan)
    shared = torch.tensor([0.5, 0.5, 0.0]).expand(1, 1, 3)
    two = torch.tensor([[True, True, False]])
    return check_function(
        answer,
        reference=reference,
        cases=[
            (shared, torch.tensor([[[2.0], [4.0], [nan]]]), two),
            (shared, torch.tensor([[[2.0], [nan], [6.0]]]), two),
            (shared, torch.tensor([[[2.0], [4.0], [inf]]]), two),
            (masked_softmax(random(2, 5, 4), mask=keep[:, None]), rubbish, keep),
            (random(3, 2, 6).softmax(-1), random(3, 6, 2), torch.ones(3, 6, dtype=torch.bool)),
        ],
        mistakes=[
            Mistake(lambda w, v, keep: w @ v,
                    _("0 · nan is nan. A weight of 0 does not silence a value: the value itself "
                      "has to go before it is multiplied.")),
            Mistake(lambda w, v, keep: (w @ v).nan_to_num(0.0),
                    _("You cleaned the output. The answer of the valid values is lost with it: "
                      "clean the padding, before the sum.")),
            Mistake(lambda w, v, keep: (w @ v).nan_to_num(0.0, 0.0, 0.0),
                    _("You cleaned the output. The answer of the valid values is lost with it: "
                      "clean the padding, before the sum.")),
            Mistake(lambda w, v, keep: w @ v.nan_to_num(0.0),
                    _("A *valid* value that is nan now counts as 0, and nobody will notice. Clean "
                      "by position, not by value.")),
            Mistake(lambda w, v, keep: w @ v.nan_to_num(0.0, 0.0, 0.0),
                    _("A *valid* value that is nan now counts as 0, and nobody will notice. Clean "
                      "by position, not by value.")),
            Mistake(lambda w, v, keep: w @ (v * keep[..., None]),
                    _("You multiplied padding by zero, and 0 · nan is nan: replace it instead.")),
            Mistake(lambda w, v, keep: reference(w, v, ~keep), _inverted()),
            Mistake(lambda w, v, keep: (w * keep[:, None]) @ v,
                    _("The weights of padding are 0 already. The trouble lies in the values.")),
        ],
        right=_("The same care is due in the other direction: a gradient of padding is 0 · nan as "
                "well, unless the value was replaced."),
    )  # fmt: skip


def check_07_square_batch(answer: Any) -> Verdict:
    """Check weights with one length for each batch element, ``answer(scores, valid_lens)``."""

    def reference(scores: Tensor, valid_lens: Tensor) -> Tensor:
        return masked_softmax(scores, valid_lens)

    def allowed(scores: Tensor, valid_lens: Tensor) -> Tensor:
        return (torch.arange(scores.shape[-1]) < valid_lens[:, None, None]).expand_as(scores)

    def filled(scores: Tensor, valid_lens: Tensor, axis: int) -> Tensor:
        hidden = torch.where(allowed(scores, valid_lens), scores, -torch.inf)
        return hidden.softmax(axis).nan_to_num(0.0)

    def for_queries(scores: Tensor, valid_lens: Tensor) -> Tensor:
        places = torch.arange(scores.shape[-1]) < valid_lens[:, None]
        return masked_softmax(scores, mask=places.expand_as(scores))

    random = _normal()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.zeros(2, 2, 3), torch.tensor([1, 3])),
            (torch.tensor([[[0.0, 1.0]]]), torch.tensor([1])),
            (torch.tensor([[[-3e6, -2e6, 0.0]]]), torch.tensor([2])),
            (torch.tensor([[[-2e30, -1e30, 0.0]]]), torch.tensor([2])),
            (random(3, 2, 4), torch.tensor([1, 2, 4])),
            (random(3, 3, 3), torch.tensor([3, 1, 2])),
            (random(1, 5, 6), torch.tensor([4])),
        ],
        mistakes=[
            Mistake(for_queries,
                    _("The lengths are lined up with the *queries*, and a batch of as many "
                      "elements hides it. Which axis does a length belong to?")),
            Mistake(lambda s, n: s.softmax(-1), _("The lengths have no influence.")),
            Mistake(lambda s, n: s.softmax(-1) * allowed(s, n),
                    _("You set weights to zero after the softmax, so rows no longer add up to "
                      "one.")),
            Mistake(lambda s, n: reference(s, (n + 1).clamp(max=s.shape[-1])),
                    _("One key too many: a place is valid if its number, from 0, is *less* than "
                      "the length.")),
            Mistake(lambda s, n: masked_softmax(s, mask=~allowed(s, n)), _inverted()),
            *(
                Mistake(lambda s, n, fill=fill: torch.where(allowed(s, n), s, fill).softmax(-1),
                        _("The fill is a large negative number, and not lower than every score. "
                          "See “Filling with a large negative number”."))
                for fill in (-(10.0**power) for power in range(2, 31))
            ),
            Mistake(lambda s, n: filled(s, n, -2), over_axis(_("queries"))),
            Mistake(lambda s, n: filled(s, n, 0), over_axis(_("batch"))),
            Mistake(lambda s, n: reference(s, n[:1].expand(len(s))),
                    _("Every batch element gets the length of the first.")),
        ],
        right=_("A test with a batch of 2 and 3 queries would have raised an error at once. Let "
                "all sizes of a test differ."),
    )  # fmt: skip


def check_07_two_faults(answer: Any) -> Verdict:
    """Check weights of scaled dot products in a batch, ``answer(queries, keys)``."""

    def reference(queries: Tensor, keys: Tensor) -> Tensor:
        return weights(queries, keys, queries.shape[-1] ** -0.5)

    def weights(queries: Tensor, keys: Tensor, scale: float, axis: int = -1) -> Tensor:
        return (queries @ keys.mT * scale).softmax(axis)

    random = _normal()
    queries = torch.tensor([[[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 2.0, 0.0]]])
    keys = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 3.0, 0.0]]])
    return check_function(
        answer,
        reference=reference,
        cases=[
            (queries, keys),
            (random(2, 3, 5), random(2, 7, 5)),
            (random(4, 4, 4), random(4, 4, 4)),
            (random(3, 1, 8), random(3, 2, 8)),
        ],
        mistakes=[
            Mistake(lambda q, k: weights(q, k, k.shape[1] ** -0.5, 1),
                    _("Both faults are still there: look at the axis of the softmax, and at which "
                      "size stands under the root.")),
            Mistake(lambda q, k: weights(q, k, k.shape[1] ** -0.5),
                    _("The axis is right. Under the root stands the number of *keys*; see “Which "
                      "shape does each tensor have?”")),
            Mistake(lambda q, k: weights(q, k, q.shape[1] ** -0.5),
                    _("The axis is right. Under the root stands the number of *queries*; see "
                      "“Which shape does each tensor have?”")),
            Mistake(lambda q, k: weights(q, k, q.shape[0] ** -0.5),
                    _("The axis is right. Under the root stands the size of the *batch*; see "
                      "“Which shape does each tensor have?”")),
            Mistake(lambda q, k: weights(q, k, q.shape[-1] ** -0.5, 1), over_axis(_("queries"))),
            Mistake(lambda q, k: weights(q, k, q.shape[-1] ** -0.5, 0), over_axis(_("batch"))),
            Mistake(lambda q, k: weights(q, k, 1.0), _("The scale is gone: √d is missing.")),
            Mistake(lambda q, k: weights(q, k, 1 / q.shape[-1]),
                    _("You divide by d. It is the square root that keeps the spread.")),
            Mistake(lambda q, k: weights(q, k, q.shape[-1] ** 0.5),
                    _("You multiply by √d instead of dividing by it.")),
            Mistake(lambda q, k: q @ k.mT * q.shape[-1] ** -0.5,
                    _("These are scores. The softmax is missing.")),
        ],
        right=_("Counted from the end, −1 means keys for a softmax and features for a vector, with "
                "any number of batch axes in front."),
    )  # fmt: skip


def check_07_honest_width(answer: Any) -> Verdict:
    """Check the bandwidth with the least leave-one-out error, ``answer(x, y, widths)``."""

    def left_out(x: Tensor, y: Tensor, h: Tensor) -> Tensor:
        return NadarayaWatson(float(h)).fit(x, y).loo_residuals()

    def seen(x: Tensor, y: Tensor, h: Tensor) -> Tensor:
        return y - NadarayaWatson(float(h)).fit(x, y).predict(x)

    def zeroed(x: Tensor, y: Tensor, h: Tensor) -> Tensor:
        weights = gaussian_score(x[:, None], x[:, None], float(h)).softmax(-1)
        return y - (weights - weights.diagonal().diag()) @ y

    def errors(residuals: Any, x: Tensor, y: Tensor, widths: Tensor) -> Tensor:
        return torch.stack([residuals(x, y, h).square().mean() for h in widths])

    def chosen_by(residuals: Any) -> Any:
        return lambda x, y, widths: float(widths[errors(residuals, x, y, widths).argmin()])

    def reference(x: Tensor, y: Tensor, widths: Tensor) -> float:
        return float(widths[errors(left_out, x, y, widths).argmin()])

    x = torch.linspace(0, 5, 25)
    noise = torch.tensor([0.5, -0.5]).repeat(13)[:25]  # neighbours are off in turn
    waves = (2 * x).sin() + noise
    random = fresh()
    unit = 0.5 + torch.rand((), generator=random)  # of length: the choice is the same in any
    order = torch.randperm(4, generator=random)
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.arange(6.0), torch.tensor([0.0, 3.0, 2.0, 5.0, 4.0, 7.0]),
             torch.tensor([1.0, 0.25, 4.0])),
            (x, waves, torch.tensor([2.0, 0.25, 0.03125, 1.0])),
            (x, 3 + waves, torch.tensor([0.5, 1.0, 0.0625, 2.0])),
            (x.flip(0), x.flip(0) / 2, torch.tensor([1.0, 0.25, 0.5])),
            (x, noise, torch.tensor([0.125, 4.0, 0.5])),
            (unit * x, waves, unit * torch.tensor([0.03125, 2.0, 0.25, 1.0])[order]),
        ],
        mistakes=[
            Mistake(chosen_by(seen),
                    _("Every point still votes for itself, so the narrowest width wins. See "
                      "“Judging a smoother by the points it has seen”.")),
            Mistake(lambda x, y, widths: float(widths.max()), _("The widest has won: is it a "
                    "*minimum* of errors, and of which?")),
            Mistake(lambda x, y, widths: float(widths[errors(left_out, x, y, widths).argmax()]),
                    _("This width has the largest error of all.")),
            Mistake(lambda x, y, widths: int(errors(left_out, x, y, widths).argmin()),
                    _("This is the place in the list. The width that stands there is asked for.")),
            Mistake(lambda x, y, widths: float(errors(left_out, x, y, widths).min()),
                    _("This is the error of the best width. The width itself is asked for.")),
            Mistake(chosen_by(zeroed),
                    _("You took a point's own weight away *after* the softmax, so what is left "
                      "does not add up to one. Hide its score.")),
            Mistake(lambda x, y, widths: float(widths[len(widths) // 2]),
                    _("The middle of the list is no choice. Compare errors.")),
        ],
        right=_("A point that may not attend to itself has to be guessed by its neighbours, and "
                "that is what a smoother is for."),
    )  # fmt: skip
