"""Checks for the exercises of chapter 3, masked softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh, whole
from d2lattn.exercises.language import _
from d2lattn.exercises.words import joined, over_axis
from d2lattn.masking import length_mask, masked_softmax


def check_03_by_hand(answer: Any) -> Verdict:
    """Check the weights of scores log 2, 0 and log 5 with valid lengths 2, 3, 1 and 0."""
    whole = [2 / 8, 1 / 8, 5 / 8]
    one, none = [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    return check_numbers(
        answer,
        expected=[[2 / 3, 1 / 3, 0.0], whole, one, none],
        mistakes=[
            Mistake([[2 / 8, 1 / 8, 0.0], whole, [2 / 8, 0.0, 0.0], none],
                    _("You set weights to zero after the softmax, so the rows do not add up to "
                      "one. See “First attempt”.")),
            Mistake([[2 / 4, 1 / 4, 1 / 4], whole, [2 / 4, 1 / 4, 1 / 4], [1 / 3] * 3],
                    _("You gave padding the score 0, and e⁰ is 1. Its exponential has to be 0.")),
            Mistake([[2 / 3, 1 / 3, 0.0], whole, one, [1 / 3] * 3],
                    _("All but the last are right. With length 0 nobody may be attended to, and "
                      "even weights are attention to padding. See “What should a query get that "
                      "has nothing to attend to?”")),
            Mistake([[2 / 3, 1 / 3, 0.0], whole, one, whole],
                    _("All but the last are right. Length 0 does not mean “no mask”: nobody may be "
                      "attended to.")),
            Mistake([whole, whole, [2 / 3, 1 / 3, 0.0], one],
                    _("One key too many: a place is valid if its number, from 0, is *less* than "
                      "the length.")),
            Mistake([[math.log(2), 0.0, 0.0], [math.log(2), 0.0, math.log(5)],
                     [math.log(2), 0.0, 0.0], none],
                    _("These are scores. Raise e to their power and divide by the sum.")),
            Mistake([[2.0, 1.0, 0.0], [2.0, 1.0, 5.0], [2.0, 0.0, 0.0], none],
                    _("These are the exponentials. Divide each by the sum of those that take "
                      "part.")),
            Mistake([one, [2 / 7, 0.0, 5 / 7], one, none],
                    _("You gave the second key the weight 0. Its score is 0, and e⁰ is 1.")),
            Mistake([[0.0, 1 / 6, 5 / 6], whole, [0.0, 0.0, 1.0], none],
                    _("You kept the last keys. A valid length counts from the front.")),
            Mistake([[2 / 3, 1 / 3, 0.0], whole, one, [math.nan] * 3],
                    _("All but the last are right. Its sum is 0 and 0/0 is `nan`, so the row needs "
                      "a decision. See “What should a query get that has nothing to attend to?”")),
            Mistake([[0.575, 0.425, 0.0], [0.310, 0.229, 0.461], one, none],
                    _("You took logarithms to base 10. Here log is the natural one: e to the power "
                      "of log 2 is 2.")),
            Mistake([[0.67, 0.33, 0.0], [0.25, 0.13, 0.63], one, none],
                    _("Two digits are too few. Let Python divide: write 1 / 3.")),
        ],
        right=_("Hiding the third key multiplied both others by the same number, 8/3: a mask "
                "changes how much there is to share, never the ratio of two valid weights."),
    )  # fmt: skip


def check_03_masked_softmax(answer: Any) -> Verdict:
    """Check weights of 4-D scores, ``answer(scores, valid_lens)``, one length for each batch."""

    def reference(scores: Tensor, valid_lens: Tensor) -> Tensor:
        return masked_softmax(scores, mask=allowed(scores, valid_lens))

    def allowed(scores: Tensor, valid_lens: Tensor) -> Tensor:
        return length_mask(valid_lens, scores.shape[-1])[:, None, None, :].expand_as(scores)

    def filled(scores: Tensor, valid_lens: Tensor, fill: float, axis: int = -1) -> Tensor:
        hidden = scores.clone()
        hidden[~allowed(scores, valid_lens)] = fill
        return hidden.softmax(axis)

    def left_over(scores: Tensor, valid_lens: Tensor, least: float) -> Tensor:
        """What a softmax leaves to the valid keys, divided by its sum."""
        kept = scores.softmax(-1) * allowed(scores, valid_lens)
        return kept / kept.sum(-1, keepdim=True).clamp(min=least)

    def asked(scores: Tensor, valid_lens: Tensor) -> Tensor:
        return length_mask(valid_lens.clamp(max=scores.shape[-2]), scores.shape[-2])[
            :, None, :, None
        ]

    def over(axis: int) -> Any:
        def wrong(scores: Tensor, valid_lens: Tensor) -> Tensor:
            return filled(scores, valid_lens, -math.inf, axis).nan_to_num(0.0)

        return wrong

    def aligned(*shape: int) -> Any:
        """The lengths laid along an axis where they do not belong."""

        def wrong(scores: Tensor, valid_lens: Tensor) -> Tensor:
            places = torch.arange(scores.shape[-1]) < valid_lens.reshape(shape)
            return masked_softmax(scores, mask=places.expand_as(scores))

        return wrong

    lined_up = _("The lengths are lined up with the {axis}. They belong to the batch: give them a "
                 "shape that broadcasts to (batch, heads, queries, keys).")  # fmt: skip
    empty = _("See “What should a query get that has nothing to attend to?”")
    random = fresh()

    def scores(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([2])),
            (torch.zeros(2, 2, 2, 2), torch.tensor([2, 1])),
            (torch.zeros(1, 1, 2, 2), torch.tensor([2])),
            (torch.zeros(1, 1, 1, 2), torch.tensor([0])),
            (torch.tensor([[[[-2e6, -2e6, 0.0]]]]), torch.tensor([2])),
            (torch.zeros(2, 1, 1, 2, dtype=torch.float16), torch.tensor([1, 0])),
            (scores(2, 3, 4, 5), torch.tensor([5, 3])),
            (scores(3, 3, 3, 6), torch.tensor([1, 6, 0])),
            (scores(3, 2, 1, 4).requires_grad_(), torch.tensor([2, 4, 3])),
        ],
        mistakes=[
            Mistake(lambda s, n: s.softmax(-1),
                    _("The mask has no influence: padding still takes its share.")),
            Mistake(lambda s, n: s.softmax(-1) * allowed(s, n),
                    _("You set weights to zero after the softmax, so a row no longer adds up to "
                      "one. Act on the scores. See “First attempt”.")),
            Mistake(lambda s, n: left_over(s, n, 0.0),
                    _("You divide by a sum that can be 0: in a row with no valid key, and where "
                      "the exponentials of all valid scores are rounded to 0. Hide padding before "
                      "the softmax. See “First attempt”.")),
            Mistake(lambda s, n: left_over(s, n, 1e-9),
                    _("Padding is taken out too late. Where its score is by far the largest, the "
                      "exponentials of the valid scores are rounded to 0, and no division brings "
                      "them back. See “First attempt”.")),
            Mistake(lambda s, n: reference(s, n) * asked(s, n),
                    _("You emptied the rows of padding queries, too. A valid length hides keys, "
                      "and says nothing about who asks. See “How do I read a padded heat map?”")),
            Mistake(lambda s, n: (s * allowed(s, n)).softmax(-1),
                    _("You multiplied scores by zero. A score of 0 is not a weight of 0, since e⁰ "
                      "is 1. See “Why is there padding at all?”")),
            Mistake(lambda s, n: filled(s, n, -math.inf),
                    joined(_("A row with no valid key has become `nan`: all its scores are −∞."),
                           empty)),
            Mistake(lambda s, n: filled(s, n, -1e6),
                    _("−10⁶ is not lower than every score, and a row with no valid key attends "
                      "evenly to padding. See the four breaks of the second attempt.")),
            Mistake(lambda s, n: filled(s, n, -1e9),
                    joined(_("With a large negative fill, a row with no valid key attends evenly "
                             "to padding; half precision has no such number."), empty)),
            Mistake(lambda s, n: filled(s, n, torch.finfo(s.dtype).min),
                    joined(_("The lowest finite number is still a number: a row with no valid key "
                             "attends evenly to padding."), empty)),
            Mistake(lambda s, n: filled(s, n, -1e6) * (n > 0)[:, None, None, None],
                    _("−10⁶ is not lower than every score. See “Break 1”.")),
            Mistake(lambda s, n: reference(s, (n + 1).clamp(max=s.shape[-1])),
                    _("One key too many: a place is valid if its number, from 0, is *less* than "
                      "the length. See “Which places are real?”")),
            Mistake(lambda s, n: masked_softmax(s, mask=~allowed(s, n)),
                    _("The mask is inverted: true should mean *may be attended to*.")),
            Mistake(over(-2), over_axis(_("queries"))),
            Mistake(over(1), over_axis(_("heads"))),
            Mistake(over(0), over_axis(_("batch"))),
            Mistake(aligned(-1), lined_up.format(axis=_("keys"))),
            Mistake(aligned(-1, 1), lined_up.format(axis=_("queries"))),
            Mistake(aligned(-1, 1, 1), lined_up.format(axis=_("heads"))),
        ],
        right=_("Heads and queries share the lengths of their batch element, and a row without "
                "keys is silent. Weights of padding are exactly 0, whatever their scores are."),
    )  # fmt: skip


def check_03_window(answer: Any) -> Verdict:
    """Check the mask of a window, ``answer(num_words, reach)``: oneself and the words before."""

    def difference(num_words: int) -> Tensor:
        place = torch.arange(num_words)
        return place[:, None] - place[None, :]

    def reference(num_words: int, reach: int) -> Tensor:
        return (difference(num_words) >= 0) & (difference(num_words) <= reach)

    random = fresh()
    drawn = whole(random, 8, 40), whole(random, 3, 6)
    return check_function(
        answer,
        reference=reference,
        cases=[(3, 1), (1, 2), (5, 0), (5, 2), (9, 2), (7, 4), drawn],
        mistakes=[
            Mistake(lambda n, r: reference(n, r).mT.contiguous(),
                    _("The window looks into the future: rows are queries, columns are keys, and "
                      "query minus key must not be negative.")),
            Mistake(lambda n, r: difference(n).abs() <= r,
                    _("The window looks both ways. Only the words *before* are asked for.")),
            Mistake(lambda n, r: difference(n) >= 0,
                    _("This is the whole causal mask: the window has no end yet.")),
            Mistake(lambda n, r: reference(n, 2),
                    _("The window has the same length whatever `reach` is.")),
            Mistake(lambda n, r: difference(n) >= -r,
                    _("The past has no end, and some of the future is seen. Query minus key must "
                      "lie between 0 and `reach`.")),
            Mistake(lambda n, r: difference(n) <= r,
                    _("The past is limited, but the future is open.")),
            Mistake(lambda n, r: reference(n, r - 1),
                    _("One word too few: itself *and* `reach` words before it are `reach` + 1.")),
            Mistake(lambda n, r: reference(n, r + 1), _("One word too many in the past.")),
            Mistake(lambda n, r: (difference(n) > 0) & (difference(n) <= r),
                    _("A word does not see itself yet.")),
            Mistake(lambda n, r: ~reference(n, r),
                    _("The mask is inverted: true means *may be attended to*.")),
            Mistake(lambda n, r: reference(n, r).int(),
                    _("The places are right, but a mask is boolean: numbers could be taken for "
                      "scores.")),
            Mistake(lambda n, r: reference(n, r).to(torch.get_default_dtype()),
                    _("The places are right, but a mask is boolean: numbers could be taken for "
                      "scores.")),
        ],
        right=_("A row has at most `reach` + 1 keys, however long the text is: the cost grows with "
                "the length and not with its square, for a program that computes only those."),
    )  # fmt: skip


def check_03_left_padding(answer: Any) -> Verdict:
    """Check the mask of sentences that end together, ``answer(valid_lens, num_keys)``."""

    def reference(valid_lens: Tensor, num_keys: int) -> Tensor:
        return torch.arange(num_keys) >= num_keys - valid_lens[:, None]

    random = fresh()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([1]), 3),
            (torch.tensor([0, 3]), 3),
            (torch.tensor([2, 3, 5, 9]), 9),
            (torch.tensor([4, 1, 2, 3]), 4),
            (torch.randint(8, (5,), generator=random), whole(random, 7, 12)),
        ],
        mistakes=[
            Mistake(length_mask,
                    _("This pads at the end. At the front, the *first* places are padding.")),
            Mistake(lambda n, k: torch.arange(k) > k - n[:, None],
                    _("One real place too few: with n keys, the first real place has the number n "
                      "− ℓ itself.")),
            Mistake(lambda n, k: torch.arange(k) >= k - n[:, None] - 1,
                    _("One place too many: a padding place got in at the front.")),
            Mistake(lambda n, k: torch.arange(k) >= n[:, None],
                    _("You hide ℓ places. ℓ places are real, and n − ℓ are padding.")),
            Mistake(lambda n, k: torch.arange(k) >= n.max() - n[:, None],
                    _("You count from the longest sentence of the batch. A row has `num_keys` "
                      "places, which may be more.")),
            Mistake(lambda n, k: reference(n, k) | (n == 0)[:, None],
                    _("With length 0 you let in every place. A slice `[-0:]` is the whole row, "
                      "since −0 is 0.")),
            Mistake(lambda n, k: torch.arange(k) >= k - n,
                    _("The lengths are lined up with the keys. Give them an axis of their own, so "
                      "that every sentence gets a row.")),
            Mistake(lambda n, k: ~reference(n, k),
                    _("The mask is inverted: true means *may be attended to*.")),
            Mistake(lambda n, k: reference(n, k).to(torch.get_default_dtype()),
                    _("The places are right, but a mask is boolean: numbers could be taken for "
                      "scores.")),
            Mistake(lambda n, k: reference(n, k).int(),
                    _("The places are right, but a mask is boolean: numbers could be taken for "
                      "scores.")),
            Mistake(lambda n, k: reference(n, k).mT.contiguous(),
                    _("The mask is transposed: one *row* for each sentence.")),
        ],
        right=_("Padded at the front, the last word of every sentence stands in the last column. "
                "Programs that continue texts like that: the next word goes to the same place for "
                "all."),
    )  # fmt: skip


def check_03_gradient(answer: Any) -> Verdict:
    """Check the gradient of the weight number i in the scores, ``answer(weights, i)``."""

    def reference(weights: Tensor, i: int) -> Tensor:
        return weights[i] * (unit(weights, i) - weights)

    def unit(weights: Tensor, i: int) -> Tensor:
        return (torch.arange(len(weights)) == i).to(weights.dtype)

    random = fresh()
    padded = torch.randn(6, generator=random).softmax(0) * torch.tensor([1, 1, 1, 0, 0, 1])
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([0.5, 0.25, 0.25]), 0),
            (torch.tensor([0.75, 0.25, 0.0]), 1),
            (torch.tensor([0.0, 1.0]), 0),
            (torch.randn(7, generator=random).softmax(0), 4),
            (padded / padded.sum(), 2),
        ],
        mistakes=[
            Mistake(lambda w, i: -w[i] * w,
                    _("The weight's own score is missing: raising it raises the numerator as "
                      "well.")),
            Mistake(lambda w, i: w[i] * w,
                    _("A product of two weights, but with a plus: another score that rises makes "
                      "the sum larger and this weight smaller. And its own score stands in the "
                      "numerator as well.")),
            Mistake(lambda w, i: w[i] * (unit(w, i) + w),
                    _("The numerator's part is right. The sum in the denominator works the other "
                      "way: where it grows, the weight falls.")),
            Mistake(lambda w, i: w[i] * (1 - w),
                    _("The 1 comes from the numerator, which contains the weight's own score and "
                      "no other.")),
            Mistake(lambda w, i: reference(w.softmax(0), i),
                    _("You took a softmax of the weights. They are the softmax already.")),
            Mistake(lambda w, i: w[i] * unit(w, i),
                    _("The sum in the denominator contains *all* scores, so every valid one "
                      "matters.")),
            Mistake(lambda w, i: w[i] * (1 - w[i]) * unit(w, i),
                    _("The other scores are missing: when another key rises, this one falls.")),
            Mistake(lambda w, i: w * (1 - w),
                    _("This is the derivative of each weight in *its own* score. One weight in all "
                      "the scores is asked for.")),
            Mistake(lambda w, i: -reference(w, i),
                    _("The sign is the wrong way round: a higher score means a higher weight.")),
            Mistake(lambda w, i: unit(w, i) - w,
                    _("This is the gradient of the *logarithm* of the weight. Multiply by the "
                      "weight.")),
        ],
        right=_("The entries add up to zero, since moving all scores together moves no weight. And "
                "a masked key, with weight 0, gets exactly 0."),
    )  # fmt: skip
