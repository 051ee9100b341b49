"""Checks for the exercises of chapter 1, kernel regression."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh
from d2lattn.exercises.language import _
from d2lattn.kernel_regression import NadarayaWatson
from d2lattn.masking import masked_softmax


def check_01_by_hand(answer: Any) -> Verdict:
    """Check the predictions at 1 and at 0 from measurements (0, 1) and (2, 5), bandwidth 1."""
    far = math.exp(-2)
    return check_numbers(
        answer,
        expected=[3.0, (1 + 5 * far) / (1 + far)],
        mistakes=[
            Mistake([3.0, 3.0], _("Your prediction at 0 ignores the question. Which measurement is "
                    "nearer to 0? See “Which measurements should a query believe?”")),
            Mistake([3.0, (5 + far) / (1 + far)], _("At 0 the weights are the wrong way round: the "
                    "nearer measurement has the larger score, so a score falls with the "
                    "distance.")),
            Mistake([6 * math.exp(-0.5), 1 + 5 * far], _("These are sums, not averages: divide the "
                    "exponentials by their sum, so that the weights add up to one.")),
            Mistake([3.0, 1 + 5 * far], _("At 0 the weights do not add up to one yet: divide by "
                    "the sum of the exponentials.")),
            Mistake([3.0, (1 + 5 * math.exp(-4)) / (1 + math.exp(-4))], _("At 0 you took the whole "
                    "squared distance as score; the Gaussian kernel has half of it.")),
            Mistake([3.0, (1 + 5 * math.exp(-1)) / (1 + math.exp(-1))], _("At 0 you took half the "
                    "distance as score; the Gaussian kernel has half the *squared* distance.")),
            Mistake([3.0, 1.0], _("At 0 you let the nearest measurement decide alone. The other "
                    "one is less loud, not silent.")),
        ],
        right=_("Two units away, a measurement is heard about a seventh as loudly, e⁻² times. At a "
                "distance of two bandwidths, that is so for every Gaussian kernel."),
    )  # fmt: skip


def check_01_triangular(answer: Any) -> Verdict:
    """Check the weights of the triangular kernel, ``answer(queries, keys, bandwidth)``."""

    def reference(queries: Tensor, keys: Tensor, bandwidth: float) -> Tensor:
        return NadarayaWatson(bandwidth, kernel="triangular").fit(keys, keys).weights(queries)

    def distances(queries: Tensor, keys: Tensor, bandwidth: float) -> Tensor:
        return (queries[:, None] - keys[None, :]).abs() / bandwidth

    def normalised(kernel: Tensor, axis: int = 1) -> Tensor:
        return kernel / kernel.sum(dim=axis, keepdim=True)

    random = fresh()
    few = torch.tensor([0.0, 0.5, 1.5])
    x = 4 * torch.rand(7, generator=random)
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([0.0]), few, 1.0),
            (torch.tensor([0.0, 1.0]), few, 2.0),
            (torch.tensor([5.0]), few, 1.0),
            (4 * torch.rand(5, generator=random), x, 0.7),
            (4 * torch.rand(3, generator=random), x.flip(0), 1.3),
        ],
        mistakes=[
            Mistake(lambda q, k, h: normalised(1 - distances(q, k, h)),
                    _("A measurement farther away than one bandwidth got a negative weight: the "
                      "kernel ends there, at zero.")),
            Mistake(lambda q, k, h: (1 - distances(q, k, h)).clamp(min=0).softmax(1),
                    _("You took the kernel itself as score. The softmax raises e to the power of "
                      "the score, so the score is the *logarithm* of the kernel.")),
            Mistake(lambda q, k, h: (1 - distances(q, k, h)).clamp(min=0).log().softmax(1),
                    _("A query that reaches no measurement has only scores of −∞, and their "
                      "softmax is 0/0. Give it weights of zero; see “What happens far from the "
                      "data?”")),
            Mistake(lambda q, k, h: normalised((1 - distances(q, k, h)).clamp(min=0)),
                    _("A query that reaches no measurement divides zero by zero. Give it weights "
                      "of zero; see “What happens far from the data?”")),
            Mistake(lambda q, k, h: (1 - distances(q, k, h)).clamp(min=0),
                    _("The weights of a row do not add up to one yet: the kernel has to be divided "
                      "by its sum over the keys.")),
            Mistake(lambda q, k, h: normalised((1 - distances(q, k, h)).clamp(min=0), axis=0),
                    _("The columns add up to one instead of the rows: a *query* shares out one "
                      "unit among the keys, so sum over the keys. See “What is the red picture?”")),
            Mistake(lambda q, k, h: (1 - distances(q, k, h)).clamp(min=0).log().softmax(0),
                    _("The softmax runs over the wrong axis: a *query* shares out one unit among "
                      "the keys. See “What is the red picture?”")),
            Mistake(lambda q, k, h: reference(q, k, 1.0),
                    _("The bandwidth has no influence: distances are measured in bandwidths.")),
            Mistake(lambda q, k, h: reference(q, k, 1 / h),
                    _("Distances are *divided* by the bandwidth: a wide kernel makes far things "
                      "near.")),
            Mistake(lambda q, k, h: normalised((1 - distances(q, k, h) ** 2).clamp(min=0)),
                    _("This is the Epanechnikov kernel, a parabola. A triangle has straight sides: "
                      "see “Does the shape of the kernel matter?”")),
            Mistake(lambda q, k, h: normalised((distances(q, k, h) <= 1).to(q.dtype)),
                    _("This is the boxcar: all neighbours weigh the same. In a triangle the nearer "
                      "one weighs more.")),
        ],
        right=_("A score of −∞ is a way of saying no, and the only one a softmax understands. "
                "Chapter 3 hides padding with it."),
    )  # fmt: skip


def check_01_leave_one_out(answer: Any) -> Verdict:
    """Check leave-one-out predictions with a Gaussian kernel, ``answer(x, y, bandwidth)``."""

    def scores(x: Tensor, bandwidth: float) -> Tensor:
        return -(((x[:, None] - x[None, :]) / bandwidth) ** 2) / 2

    def others(x: Tensor) -> Tensor:
        return ~torch.eye(len(x), dtype=torch.bool)

    def reference(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
        return masked_softmax(scores(x, bandwidth), mask=others(x)) @ y

    def shortcut(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
        weights = scores(x, bandwidth).softmax(1)
        own = weights.diagonal()
        return (weights @ y - own * y) / (1 - own)

    random = fresh()
    x = 5 * torch.rand(12, generator=random)
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([0.0, 1.0, 3.0]), torch.tensor([1.0, 2.0, 6.0]), 2.0),
            (x, torch.randn(12, generator=random), 0.8),
            (x[:5], torch.randn(5, generator=random), 1.7),
            (torch.tensor([0.0, 1.0, 3.0]), torch.tensor([1.0, 2.0, 6.0]), 0.05),
        ],
        mistakes=[
            Mistake(lambda x, y, h: scores(x, h).softmax(1) @ y,
                    _("Every measurement still vouches for itself: its distance to itself is zero, "
                      "and a score of 0 is the highest. See “Can the data choose the width?”")),
            Mistake(lambda x, y, h: (scores(x, h).softmax(1) * others(x)) @ y,
                    _("The diagonal was set to zero *after* the softmax, so the other weights no "
                      "longer add up to one. Leave the point out before.")),
            Mistake(lambda x, y, h: scores(x, h).masked_fill(~others(x), -1.0).softmax(1) @ y,
                    _("A score of −1 does not silence a measurement. Which score has weight "
                      "zero?")),
            Mistake(shortcut,
                    _("Your formula is right on paper and loses all digits here: the point's own "
                      "weight is rounded to one, and 0/0 is left. Mask the diagonal instead of "
                      "dividing.")),
            Mistake(lambda x, y, h: y - reference(x, y, h),
                    _("These are the residuals. The predictions are asked for.")),
            Mistake(lambda x, y, h: reference(x, y, h) - y,
                    _("These are residuals. The predictions are asked for.")),
            Mistake(lambda x, y, h: reference(x, y, math.sqrt(h)),
                    _("The bandwidth is not squared: distances are divided by it first, and "
                      "squared then.")),
            Mistake(lambda x, y, h: reference(x, y, h / math.sqrt(2)),
                    _("The factor ½ of the Gaussian kernel is missing, which makes it narrower "
                      "than it says.")),
            Mistake(lambda x, y, h: masked_softmax(scores(x, h), mask=others(x)).mT @ y,
                    _("The weights are transposed: row i belongs to the point that is predicted.")),
            Mistake(lambda x, y, h: (y.sum() - y) / (len(y) - 1),
                    _("This is the plain average of the others: the distances have no influence.")),
        ],
        right=_("As many models as there are points: one matrix with a forbidden diagonal holds "
                "them all."),
    )  # fmt: skip


def check_01_two_widths(answer: Any) -> Verdict:
    """Check weights with a bandwidth for each coordinate, ``answer(queries, keys, bandwidths)``."""

    def reference(queries: Tensor, keys: Tensor, bandwidths: Tensor) -> Tensor:
        u = (queries[:, None, :] - keys[None, :, :]) / bandwidths
        return (-(u**2).sum(-1) / 2).softmax(1)

    def each(queries: Tensor, keys: Tensor, bandwidths: Tensor) -> Tensor:
        return -(((queries[:, None, :] - keys[None, :, :]) / bandwidths) ** 2) / 2

    random = fresh()

    def points(count: int, axes: int) -> Tensor:
        return 2 * torch.rand(count, axes, generator=random)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
             torch.tensor([0.5, 2.0])),
            (points(4, 2), points(6, 2), torch.tensor([0.4, 1.5])),
            (points(5, 3), points(4, 3), torch.tensor([0.5, 1.0, 3.0])),
        ],
        mistakes=[
            Mistake(lambda q, k, h: (-(torch.cdist(q, k) / h.mean()) ** 2 / 2).softmax(1),
                    _("One width for all coordinates: you took the mean of the widths. Divide each "
                      "coordinate by its own *before* the squares are added.")),
            Mistake(lambda q, k, h: (-(torch.cdist(q, k) ** 2) / 2).softmax(1),
                    _("The widths have no influence. Divide each coordinate by its own.")),
            Mistake(lambda q, k, h: reference(q, k, h.sqrt()),
                    _("The widths are not squared: divide the difference first, and square then.")),
            Mistake(lambda q, k, h: reference(q, k, 1 / h),
                    _("A width divides: with a large one, a coordinate matters *less*.")),
            Mistake(lambda q, k, h: reference(q, k, h / math.sqrt(2)),
                    _("The factor ½ of the Gaussian kernel is missing.")),
            Mistake(lambda q, k, h: each(q, k, h).sum(-1).softmax(0),
                    _("The softmax runs over the queries: each *query* shares out one unit.")),
            Mistake(lambda q, k, h: each(q, k, h).sum(-1).exp(),
                    _("The weights of a row do not add up to one yet.")),
            Mistake(lambda q, k, h: each(q, k, h).softmax(1).prod(-1),
                    _("The product of two softmaxes is no softmax: its rows do not add up to one. "
                      "Add the scores of the coordinates first.")),
            Mistake(lambda q, k, h: each(q, k, h).softmax(1).mean(-1),
                    _("You averaged the weights of single coordinates, so being near in *one* is "
                      "enough. Add the scores first: then a key must be near in all.")),
            Mistake(lambda q, k, h: (-(each(q, k, h) * -2).sqrt().sum(-1) ** 2 / 2).softmax(1),
                    _("You added the distances and squared the sum. Square first, then add.")),
        ],
        right=_("Adding scores multiplies kernels. And a coordinate with a huge width is ignored: "
                "learning widths is learning what matters."),
    )  # fmt: skip


def check_01_more_data(answer: Any) -> Verdict:
    """Check by which factors the best width changes with 20 times the data, in 1 and in 4 axes."""

    def factors(power: float, more: float) -> list[float]:
        return [20**power, 20**more]

    return check_numbers(
        answer,
        expected=factors(-1 / 5, -1 / 8),
        mistakes=[
            Mistake(factors(1 / 5, 1 / 8), _("It shrinks: with more neighbours in reach, a smaller "
                    "window is enough for the noise to cancel.")),
            Mistake(factors(-1 / 4, -1 / 7), _("Count the powers of h again: the *squared* bias "
                    "grows like h⁴, and the variance like 1/(n h) in one dimension.")),
            Mistake(factors(-1 / 3, -1 / 6), _("The bias grows like h², so its *square* grows like "
                    "h⁴. You have h².")),
            Mistake(factors(-1 / 5, -1 / 5), _("The first is right. In four dimensions a window of "
                    "width h holds a share h⁴ of the data, not h.")),
            Mistake(factors(-4 / 5, -4 / 8), _("This is how the squared *error* falls. The width "
                    "falls more slowly.")),
            Mistake(factors(-1, -1), _("The width does not shrink as fast as the data grow: the "
                    "number of neighbours in reach must grow, too.")),
            Mistake(factors(-1 / 2, -1 / 2), _("That is how the error of a mean falls. Here two "
                    "errors compete: balance h⁴ against 1/(n h).")),
            Mistake(factors(-1, -1 / 4), _("You kept the number of neighbours in the window fixed. "
                    "Then the noise never cancels: balance h⁴ against 1/(n h).")),
        ],
        right=_("The squared error falls only like n^(−4/5), and in d dimensions like n^(−4/(4 + "
                "d)). A distance in many dimensions is a poor score: one reason to learn it."),
    )  # fmt: skip
