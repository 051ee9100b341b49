"""Checks for the exercises of chapter 8, long sequences."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh
from d2lattn.exercises.language import _
from d2lattn.streaming import merge_attention

State = tuple[Tensor, Tensor, Tensor]


def check_08_by_hand(answer: Any) -> Verdict:
    """Check sum and output after each of two tiles, then the result and the exponentials' sum."""
    first, second, end = [1.5, 6.0], [2.25, 8.0], [32 / 9, 18.0]
    return check_numbers(
        answer,
        expected=[first, second, end],
        mistakes=[
            Mistake([first, [3.0, 11.0], [11 / 3, 24.0]],
                    _("The first tile is right. When the largest exponential rises from 4 to 8, "
                      "all that came before has to shrink. See “Can a softmax be taken one piece "
                      "at a time?”")),
            Mistake([first, [3.0, 11.0], [11 / 3, 18.0]],
                    _("The first tile is right. When the largest exponential rises from 4 to 8, "
                      "all that came before has to shrink. See “Can a softmax be taken one piece "
                      "at a time?”")),
            Mistake([[1.5, 4.0], [2.25, 32 / 9], end],
                    _("Your outputs are o / l already. o is not divided before the end.")),
            Mistake([first, [1.5, 5.0], [10 / 3, 18.0]],
                    _("After the second tile l and o hold that tile alone: add it to what was "
                      "there, after shrinking it.")),
            Mistake([first, [2.25, 11.0], [44 / 9, 18.0]],
                    _("The sum shrinks, and so must the output, by the same factor.")),
            Mistake([first, [4.5, 17.0], [34 / 9, 36.0]],
                    _("You made the first tile larger. A new maximum makes what came before "
                      "smaller: the factor is the old largest exponential over the new one.")),
            Mistake([first, [1.5, 5.0], [10 / 3, 12.0]],
                    _("After the second tile l and o hold that tile alone: add it to what was "
                      "there, after shrinking it.")),
            Mistake([[6.0, 24.0], [18.0, 64.0], end],
                    _("These are the sums of the exponentials themselves. Divide by the largest "
                      "exponential so far: that is what keeps them from overflowing.")),
            Mistake([first, second, [8.0, 18.0]],
                    _("All but the result is right: it is o divided by l.")),
            Mistake([first, second, [32 / 9, 2.25]],
                    _("All but the last number is right. l is measured by the largest exponential: "
                      "multiply by it to get the sum of all.")),
            Mistake([first, second, [32 / 9, math.log(18)]],
                    _("All but the last number is right. The sum is asked for, not its "
                      "logarithm.")),
            Mistake([[1.5, 4.0], second, end],
                    _("In the first tile the output is o / l already. o is not divided yet.")),
        ],
        right=_("In one go: (4·3 + 2·6 + 8·3 + 4·4) / 18, the same 32/9. No order of tiles changes "
                "it."),
    )  # fmt: skip


def check_08_one_tile(answer: Any) -> Verdict:
    """Check the online softmax over one tile, ``answer(top, total, sums, scores, values)``."""

    def reference(
        top: Tensor, total: Tensor, sums: Tensor, scores: Tensor, values: Tensor
    ) -> State:
        return step(top, total, sums, scores, values)

    def step(
        m: Tensor, total: Tensor, o: Tensor, scores: Tensor, values: Tensor, **change: bool
    ) -> State:
        new = scores.amax(-1) if change.get("forgetful") else torch.maximum(m, scores.amax(-1))
        anchor = new if change.get("unsafe") else new.masked_fill(new == -math.inf, 0.0)
        shrink = (m - anchor).exp()
        if change.get("inverse"):
            shrink = (anchor - m).exp()
        raised = (scores - anchor[:, None]).exp()
        if change.get("unraised"):
            raised = scores.exp()
        of_total = torch.ones_like(shrink) if change.get("still") else shrink
        of_output = of_total if not change.get("half") else torch.ones_like(shrink)
        return new, of_total * total + raised.sum(-1), of_output[:, None] * o + raised @ values

    def nothing(m: Tensor, o: Tensor) -> State:
        return torch.full_like(m, -math.inf), torch.zeros_like(m), torch.zeros_like(o)

    def divided(*args: Tensor) -> State:
        m, total, o = step(*args)
        return m, total, o / total[:, None]

    def hidden(*args: Tensor) -> State:
        return step(*args, unsafe=True)

    def one_maximum(m: Tensor, total: Tensor, o: Tensor, scores: Tensor, values: Tensor) -> State:
        top = torch.maximum(m, scores.amax(-1)).amax().expand_as(m)
        shrink, raised = (m - top).exp(), (scores - top[:, None]).exp()
        return top, shrink * total + raised.sum(-1), shrink[:, None] * o + raised @ values

    none, log = -math.inf, math.log
    start = torch.tensor([none]), torch.tensor([0.0]), torch.tensor([[0.0]])
    later = torch.tensor([log(2)]), torch.tensor([1.5]), torch.tensor([[6.0]])
    empty = torch.tensor([[none, none]])
    draw = fresh()
    m, scores = (torch.randn(*shape, generator=draw) for shape in ((3,), (3, 5)))
    o, values = (torch.randn(*shape, generator=draw) for shape in ((3, 4), (5, 4)))
    two = torch.tensor([[1.0], [3.0]])
    return check_function(
        answer,
        reference=reference,
        cases=[
            (*start, torch.tensor([[0.0, 0.0]]), two),
            (*later, torch.tensor([[log(4), log(4)]]), two),
            (*later, torch.tensor([[0.0, 0.0]]), two),
            (m, torch.ones(3), o, scores, values),
            (m, m.exp(), o, 1000 * scores, values),
            (m - 50, m.exp(), o, scores[:, :1], values[:1]),
            (*start, empty, two),
            (*later, empty, two),
        ],
        mistakes=[
            Mistake(lambda *args: step(*args, still=True),
                    _("What came before keeps its size. When the maximum rises, it has to shrink. "
                      "See “Can a softmax be taken one piece at a time?”")),
            Mistake(lambda *args: step(*args, half=True),
                    _("`total` shrinks when the maximum rises, and `sums` does not. Both are "
                      "measured by it.")),
            Mistake(lambda *args: step(*args, inverse=True),
                    _("The factor for what came before is upside down: the new maximum is the "
                      "larger one, so the factor is at most one.")),
            Mistake(lambda *args: step(*args, forgetful=True),
                    _("You take the maximum of this tile alone. An earlier one may be larger.")),
            Mistake(lambda *args: step(*args, unraised=True),
                    _("The new scores are raised as they are. Subtract the new maximum first.")),
            Mistake(lambda *args: divided(*args),
                    _("`sums` is divided by `total` already. That is done once, after the last "
                      "tile.")),
            Mistake(one_maximum,
                    _("Each query has a maximum of its own; you take one for all of them.")),
            Mistake(lambda m, total, o, scores, values: step(*nothing(m, o), scores, values),
                    _("Only this tile is in the result: what came before is lost.")),
            Mistake(hidden,
                    _("As long as no key was allowed, the maximum is −∞, and −∞ minus −∞ is nan. "
                      "See “Parts without keys”.")),
        ],
        right=_("Start with −∞, 0 and 0, take in any number of tiles, divide: that is attention "
                "over as many keys as you like."),
    )  # fmt: skip


def check_08_merge(answer: Any) -> Verdict:
    """Check the merging of parts, ``answer(outputs, logsumexps)``, with the parts in front."""

    def reference(outputs: Tensor, logsumexps: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(merge_attention(zip(outputs, logsumexps, strict=True)))  # type: ignore[return-value]

    def shared(
        outputs: Tensor, shares: Tensor, logsumexps: Tensor, log: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        log = logsumexps.logsumexp(0) if log is None else log
        return (shares[..., None] * outputs).sum(0), log

    def outputs_of(*rows: list[list[float]]) -> Tensor:
        return torch.tensor(rows)

    none = -math.inf
    draw = fresh()
    many = torch.randn(4, 5, 2, generator=draw), 3 * torch.randn(4, 5, generator=draw)
    return check_function(
        answer,
        reference=reference,
        cases=[
            (outputs_of([[6.0]], [[3.0]]), torch.tensor([[4.0], [8.0]]).log()),
            (outputs_of([[2.0], [1.0]], [[4.0], [5.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])),
            many,
            (many[0][:, :4, :1], many[1][:, :4] + 900),
            (outputs_of([[2.0]], [[0.0]]), torch.tensor([[1.0], [none]])),
            (outputs_of([[0.0]], [[0.0]]), torch.tensor([[none], [none]])),
        ],
        mistakes=[
            Mistake(lambda o, logs: shared(o, torch.ones_like(logs) / len(logs), logs),
                    _("Every part counts the same. A part counts as much as its exponentials add "
                      "up to. See “Can pieces that never met be joined?”")),
            Mistake(lambda o, logs: shared(o, torch.ones_like(logs), logs),
                    _("The outputs are added up. They are averages, so they have to be averaged.")),
            Mistake(lambda o, logs: shared(o, logs / logs.sum(0), logs),
                    _("You weigh by the logsumexps themselves. They are logarithms: raise them.")),
            Mistake(lambda o, logs: shared(o, logs.softmax(-1), logs),
                    _("The softmax runs over the queries. It is the parts that share.")),
            Mistake(lambda o, logs: shared(o, logs.softmax(0), logs, logs.sum(0)),
                    _("The output is right. The sums of exponentials are added up, not their "
                      "logarithms.")),
            Mistake(lambda o, logs: shared(o, logs.softmax(0), logs, logs.exp().sum(0)),
                    _("The output is right. The second result is the sum itself; its logarithm is "
                      "wanted.")),
            Mistake(lambda o, logs: shared(o, logs.softmax(0), logs, logs.amax(0)),
                    _("The output is right. The largest logsumexp is not that of all keys.")),
            Mistake(lambda o, logs: shared(o, logs.exp() / logs.exp().sum(0), logs),
                    _("The exponentials overflow, or add up to nothing: subtract the largest "
                      "first.")),
            Mistake(lambda o, logs: shared(o, logs.softmax(0), logs),
                    _("A query that no part has keys for gets nan. See “Parts without keys”.")),
        ],
        right=_("Since the result is a pair of the same kind, it can be merged again: with the "
                "next tile, the next core, the next machine."),
    )  # fmt: skip


def check_08_gradient(answer: Any) -> Verdict:
    """Check d scores from output and logsumexp's, ``answer(scores, values, d_output, d_log)``."""

    def reference(scores: Tensor, values: Tensor, d_output: Tensor, d_log: Tensor) -> Tensor:
        return gradient(scores, values, d_output, d_log)

    def gradient(
        scores: Tensor, values: Tensor, d_output: Tensor, shift: Tensor, row: float = 1.0
    ) -> Tensor:
        weights = scores.softmax(-1)
        wish = d_output @ values.mT
        mean = (d_output * (weights @ values)).sum(-1, keepdim=True)
        return weights * (wish - row * mean + shift[:, None])

    zero = torch.zeros(1, 2)
    values = torch.tensor([[1.0], [3.0]])
    draw = fresh()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (zero, values, torch.ones(1, 1), torch.zeros(1)),
            (zero, values, torch.zeros(1, 1), torch.ones(1)),
            (normal(3, 5), normal(5, 2), normal(3, 2), normal(3)),
            (normal(6, 2), normal(2, 4), normal(6, 4), normal(6)),
            (normal(2, 3) + 1000, normal(3, 1), normal(2, 1), normal(2)),
        ],
        mistakes=[
            Mistake(lambda s, v, d, log: gradient(s, v, d, 0 * log),
                    _("The gradient that arrives at the logsumexp is missing. What is the "
                      "derivative of a logsumexp in one of its scores?")),
            Mistake(lambda s, v, d, log: gradient(s, v, d, -log),
                    _("The sign of the logsumexp's part: a larger score makes it larger.")),
            Mistake(lambda s, v, d, log: gradient(s, v, d, log, row=0.0),
                    _("A row shares one whole: what one weight gains the others lose. Subtract the "
                      "average over the row. See “Where does the gradient get the weights from?”")),
            Mistake(lambda s, v, d, log: gradient(s, v, d, 0 * log) + log[:, None],
                    _("The derivative of the logsumexp in a score is not 1. Only all scores raised "
                      "by one raise it by one: together they share that.")),
            Mistake(lambda s, v, d, log: -gradient(s, v, d, log),
                    _("The sign is turned round everywhere.")),
            Mistake(lambda s, v, d, log: d @ v.mT + 0 * log[:, None],
                    _("This is the gradient in the *weights*. The softmax stands between them and "
                      "the scores.")),
        ],
        right=_("So the logsumexp's gradient only shifts what is subtracted from each row. The "
                "package adds it there, and pays nothing for it."),
    )  # fmt: skip


def check_08_square(answer: Any) -> Verdict:
    """Check a disguise of the squared dot product, ``answer(q, k)`` -> wider q and k."""

    def reference(q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT).square()

    def compared(q: Tensor, k: Tensor) -> Any:
        as_given = q.clone(), k.clone()  # an answer may change its arguments, and hears of that
        result = answer(q, k)
        if result is None or result is ...:
            return None
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise TypeError(_("return two tensors, the wider queries and the wider keys"))
        wide_q, wide_k = result
        for alone, wide in (
            (answer(as_given[0].clone(), -2 * as_given[1])[0], wide_q),
            (answer(-2 * as_given[0], as_given[1].clone())[1], wide_k),
        ):
            if alone.shape != wide.shape or not torch.allclose(alone, wide):
                raise ValueError(_("the wider queries are made of the queries alone, the wider "
                                   "keys of the keys"))  # fmt: skip
        return wide_q @ wide_k.mT

    one, unit = torch.tensor([[3.0]]), torch.tensor([[1.0, 1.0]])
    draw = fresh()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    compared.__name__ = getattr(answer, "__name__", "answer")
    return check_function(
        compared if callable(answer) else answer,
        reference=reference,
        cases=[
            (one, torch.tensor([[2.0]])),
            (unit, torch.tensor([[1.0, 2.0]])),
            (normal(4, 3), normal(5, 3)),
            (normal(2, 6), normal(1, 6)),
        ],
        mistakes=[
            Mistake(lambda q, k: q @ k.mT, _("The dot product of your vectors is q·k, not its "
                    "square.")),
            Mistake(lambda q, k: q.square() @ k.square().mT,
                    _("The squares of the features are not enough: (q₁k₁ + q₂k₂)² has a mixed "
                      "term, 2 q₁k₁q₂k₂.")),
            Mistake(lambda q, k: (q.square() @ k.square().mT + (q @ k.mT).square()) / 2,
                    _("Each mixed term stands in the square twice: once as q₁q₂, once as q₂q₁.")),
            Mistake(lambda q, k: q.square().sum(-1)[:, None] * k.square().sum(-1),
                    _("This is ‖q‖² ‖k‖², which does not know the angle between the two.")),
            Mistake(lambda q, k: (q @ k.mT).pow(4), _("You squared twice: this is the fourth "
                    "power.")),
            Mistake(lambda q, k: 2 * (q @ k.mT).square(), _("Twice too much: each pair of "
                    "different features counts once in each order, and a feature with itself "
                    "once.")),
        ],
        right=_("The vectors have d² entries, or d(d + 1)/2 if each mixed product stands there "
                "once, times √2. Every power of q·k is a dot product, at a price that grows with "
                "its degree."),
    )  # fmt: skip


def check_08_blocks(answer: Any) -> Verdict:
    """Check how many blocks of a causal window are not empty, ``answer(tokens, size, before)``."""

    def reference(tokens: int, size: int, before: int) -> int:
        back = -(-before // size)  # blocks, begun ones included
        return sum(min(row, back) + 1 for row in range(tokens // size))

    def rows_times(blocks: int, tokens: int, size: int) -> int:
        return tokens // size * blocks

    def of_a_row(blocks: int, tokens: int, size: int) -> int:
        return sum(min(row + 1, blocks) for row in range(tokens // size))

    rows, before = torch.randint(9, 99, (2,), generator=fresh()).tolist()
    return check_function(
        answer,
        reference=reference,
        cases=[
            *[(8, 2, 1), (8, 2, 2), (12, 4, 5), (64, 8, 0), (64, 16, 63), (1024, 64, 255)],
            (16 * rows, 16, before),
        ],
        mistakes=[
            Mistake(lambda n, s, w: rows_times(-(-w // s) + 1, n, s),
                    _("Nothing lies before the first token: the first rows of blocks have fewer "
                      "blocks than the others.")),
            Mistake(lambda n, s, w: of_a_row(w // s + 1, n, s),
                    _("A block that the window only begins in counts as well: the first query of a "
                      "block looks `before` keys back, whatever the blocks.")),
            Mistake(lambda n, s, w: of_a_row(-(-(w + 1) // s) + 1, n, s),
                    _("The query's own key lies in the query's own block, which you counted "
                      "already: `before` keys lie before it, not one more.")),
            Mistake(lambda n, s, w: of_a_row(-(-w // s), n, s),
                    _("The block on the diagonal is missing: every query sees its own key.")),
            Mistake(lambda n, s, w: of_a_row(n, n, s),
                    _("These are the blocks of a causal mask. What lies before the window is empty "
                      "as well.")),
            Mistake(lambda n, s, w: (n // s) ** 2, _("These are all blocks, the empty ones too.")),
            Mistake(lambda n, s, w: sum(min(i, w) + 1 for i in range(n)),
                    _("These are the pairs that count. Count the blocks that hold one of them.")),
        ],
        right=_("As long as the window stays, twice the tokens make twice the blocks and not four "
                "times as many."),
    )  # fmt: skip
