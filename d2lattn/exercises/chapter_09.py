"""Checks for the exercises of chapter 9, learning to align."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh, whole
from d2lattn.exercises.language import _
from d2lattn.masking import length_mask, masked_softmax


def check_09_by_hand(answer: Any) -> Verdict:
    """Check the weights and the context of one step, with padding behind two outputs."""
    weights, context = [0.25, 0.75, 0.0], [6.0, 1.0, 5.0]
    return check_numbers(
        answer,
        expected=[weights, context],
        mistakes=[
            Mistake([[0.125, 0.375, 0.5], [53.0, 50.5, 52.5]],
                    _("The third output is padding, and half of the context comes from it. The sum "
                      "runs over what is valid.")),
            Mistake([weights, [53.0, 50.5, 52.5]],
                    _("The weights are right. The context is the average of the outputs with "
                      "*these* weights.")),
            Mistake([[0.125, 0.375, 0.0], [3.0, 0.5, 2.5]],
                    _("The weights of padding are 0, but the others have to add up to one: divide "
                      "by the sum of the exponentials that are valid.")),
            Mistake([[1.0, 3.0, 0.0], [24.0, 4.0, 20.0]],
                    _("These are exponentials, not weights: divide by their sum.")),
            Mistake([[0.5, 0.5, 0.0], [4.0, 2.0, 6.0]],
                    _("That would be the average of both. The second one scores higher.")),
            Mistake([[0.75, 0.25, 0.0], [2.0, 3.0, 7.0]], _("The weights have changed places.")),
        ],
        right=_("Whatever the padding holds, the context is the same: that is what a mask is for."),
    )  # fmt: skip


def check_09_last_state(answer: Any) -> Verdict:
    """Check the outputs at the last valid tokens, ``answer(outputs, valid_lens)``."""

    def reference(outputs: Tensor, valid_lens: Tensor) -> Tensor:
        return outputs[torch.arange(len(outputs)), valid_lens - 1]

    def at(outputs: Tensor, index: Tensor) -> Tensor:
        return outputs[torch.arange(len(outputs)), index.clamp(0, outputs.shape[1] - 1)]

    def masked(outputs: Tensor, valid_lens: Tensor) -> Tensor:
        valid = length_mask(valid_lens, outputs.shape[1])
        return outputs * valid.unsqueeze(-1)

    draw = fresh()
    count = torch.arange(1.0, 13).view(2, 3, 2)
    lens = torch.randint(1, 6, (4,), generator=draw)
    return check_function(
        answer,
        reference=reference,
        cases=[
            (count, torch.tensor([1, 3])),
            (count, torch.tensor([2, 2])),
            (torch.randn(4, 5, 3, generator=draw), lens),
            (torch.randn(1, 7, 4, generator=draw), torch.tensor([7])),
        ],
        mistakes=[
            Mistake(lambda o, lens: o[:, -1],
                    _("You take the last row, which is padding in all but the longest sequence. "
                      "See “Three ways to get padding wrong”.")),
            Mistake(lambda o, lens: at(o, lens),
                    _("One too far: a sequence of length 3 ends at position 2.")),
            Mistake(lambda o, lens: o[:, 0], _("That is the first token of each sequence.")),
            Mistake(lambda o, lens: masked(o, lens).sum(1) / lens.unsqueeze(-1),
                    _("That is the mean of the valid outputs. The last one of them is wanted.")),
            Mistake(lambda o, lens: masked(o, lens)[:, -1],
                    _("Zeros where there is padding are no state either. Fetch the row of the last "
                      "valid token, another one for each sequence.")),
        ],
        right=_("It works for the way there. On the way back a recurrent encoder has to *start* at "
                "the last valid token, which no fetching afterwards can mend."),
    )  # fmt: skip


def check_09_loss(answer: Any) -> Verdict:
    """Check the mean cross-entropy without padding, ``answer(logits, targets, valid_lens)``."""

    def each(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits.mT, targets, reduction="none")

    def valid(targets: Tensor, lens: Tensor) -> Tensor:
        return length_mask(lens, targets.shape[1])

    def reference(logits: Tensor, targets: Tensor, valid_lens: Tensor) -> Tensor:
        return each(logits, targets)[valid(targets, valid_lens)].mean()

    draw = fresh()
    steps = whole(draw, 4, 6)
    targets = torch.tensor([[1, 2], [2, 0]])
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.eye(3)[torch.tensor([[1, 1], [2, 1]])] * 2, targets, torch.tensor([2, 1])),
            (torch.randn(2, 2, 3, generator=draw), targets, torch.tensor([2, 1])),
            (
                3 * torch.randn(4, steps, 5, generator=draw),
                torch.randint(1, 5, (4, steps), generator=draw),
                torch.tensor([1, steps, 2, 3]),
            ),
        ],
        mistakes=[
            Mistake(lambda x, y, lens: each(x, y).mean(),
                    _("The padding is in the mean: the model would be taught to write it. See "
                      "“Three ways to get padding wrong”.")),
            Mistake(lambda x, y, lens: (each(x, y) * valid(y, lens)).mean(),
                    _("The padding adds nothing, but it is still counted in the divisor.")),
            Mistake(lambda x, y, lens: (each(x, y) * valid(y, lens)).sum(),
                    _("That is the sum. Divide by how many tokens there are.")),
            Mistake(lambda x, y, lens: ((each(x, y) * valid(y, lens)).sum(1) / lens).mean(),
                    _("Every sequence counts the same here, however short: a token of a short one "
                      "counts for more. Every *token* should count the same.")),
            Mistake(lambda x, y, lens: -reference(x, y, lens),
                    _("The sign: a loss is small where the right token is likely.")),
            Mistake(lambda x, y, lens: (each(x, y) * valid(y, lens)).sum() / len(y),
                    _("You divided by the number of sequences. Divide by the number of tokens.")),
        ],
        right=_("With that, one more column of padding changes nothing, and neither does what "
                "stands in it."),
    )  # fmt: skip


def check_09_told(answer: Any) -> Verdict:
    """Check what teacher forcing tells each step, ``answer(targets, begin)``."""

    def reference(targets: Tensor, begin: int) -> Tensor:
        return torch.cat([torch.full_like(targets[:, :1], begin), targets[:, :-1]], dim=1)

    draw = fresh()
    many = torch.randint(2, 20, (3, whole(draw, 4, 7)), generator=draw)
    return check_function(
        answer,
        reference=reference,
        cases=[(torch.tensor([[5, 6, 2]]), 1), (torch.tensor([[3, 2], [4, 2]]), 9), (many, 1)],
        mistakes=[
            Mistake(lambda y, begin: y,
                    _("Each step is told the token that it should write. It would learn to copy "
                      "it, and have nothing to copy when nobody knows the answer.")),
            Mistake(lambda y, begin: torch.cat([y[:, 1:], torch.full_like(y[:, :1], begin)], 1),
                    _("Shifted the wrong way: each step is told the token *after* its own.")),
            Mistake(lambda y, begin: torch.cat([torch.full_like(y[:, :1], begin), y], 1),
                    _("One too many: as many tokens are told as are written. The last one is told "
                      "to nobody.")),
            Mistake(lambda y, begin: y.roll(1, 1),
                    _("The first step is told the last token. Nothing was written before it: tell "
                      "it the beginning.")),
            Mistake(lambda y, begin: torch.cat([torch.full_like(y[:1], begin), y[:-1]], 0),
                    _("You shifted the sequences, not the steps: axis 0 is the batch.")),
            Mistake(lambda y, begin: torch.full_like(y, begin),
                    _("Every step is told the beginning: only the first one is.")),
        ],
        right=_("When nobody knows the answer, the model's own token takes the place of the right "
                "one. That is the only difference between teaching and writing."),
    )  # fmt: skip


def check_09_on_field(answer: Any) -> Verdict:
    """Check the mean weight on the right places, ``answer(weights, places)``.

    ``places`` is 1 where a key belongs to what a step writes, 0 elsewhere; rows may be empty.
    """

    def reference(weights: Tensor, places: Tensor) -> Tensor:
        counted = places.sum(-1) > 0
        return (weights * places).sum(-1)[counted].mean()

    def hits(weights: Tensor, places: Tensor) -> Tensor:
        counted = places.sum(-1) > 0
        best = places.gather(-1, weights.argmax(-1, keepdim=True)).squeeze(-1)
        return best[counted].mean()

    draw = fresh()
    steps = whole(draw, 4, 6)
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])
    places = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    fields = one_hot(torch.randint(3, (7,), generator=draw), 3).to(torch.get_default_dtype()).T
    rows = fields[torch.randint(3, (steps,), generator=draw)]
    rows[0], rows[1] = 0.0, fields.sum(0)  # one writes a hyphen, one has every key
    return check_function(
        answer,
        reference=reference,
        cases=[
            (weights, places),
            (torch.eye(3), torch.tensor([[1.0, 1.0, 0.0]] * 2 + [[0.0, 0.0, 0.0]])),
            ((2 * torch.randn(steps, 7, generator=draw)).softmax(-1), rows),
        ],
        mistakes=[
            Mistake(lambda w, p: (w * p).sum(-1).mean(),
                    _("A step that writes a hyphen has no right place, and is counted as a "
                      "failure. Leave it out of the mean.")),
            Mistake(hits,
                    _("You count how often the *largest* weight lies right. The weight itself is "
                      "asked for.")),
            Mistake(lambda w, p: (w * p).sum(),
                    _("That is the sum over all steps. Divide by how many steps have a place.")),
            Mistake(lambda w, p: (w * p).sum() / p.sum(),
                    _("You divided by the number of places. A field of four characters may share "
                      "one whole weight: sum inside a step, then average over the steps.")),
            Mistake(lambda w, p: (w * p).mean(),
                    _("You averaged over the keys as well. The weights inside a field add up.")),
        ],
        right=_("One number from 0 to 1, and it needs no picture."),
    )  # fmt: skip


def check_09_monotonic(answer: Any) -> Verdict:
    """Check weights that never look back, ``answer(scores)`` of shape (steps, keys)."""

    def walk(scores: Tensor, *, strict: int = 0, masked: bool = True, front: bool = False) -> Any:
        start, rows = 0, []
        positions = torch.arange(scores.shape[-1])
        for row in scores:
            start = min(start, scores.shape[-1] - 1)
            seen = positions <= start if front else positions >= start
            weights = masked_softmax(row, mask=seen)
            rows.append(weights)
            start = int((weights if masked else row).argmax()) + strict
        return torch.stack(rows)

    def reference(scores: Tensor) -> Tensor:
        return walk(scores)

    draw = fresh()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]),),
            (torch.tensor([[0.0, 1.0, 0.0], [5.0, 0.0, 1.0], [0.0, 9.0, 0.0]]),),
            (2 * torch.randn(5, 9, generator=draw),),
            (900 + torch.randn(3, 4, generator=draw),),
            (torch.tensor([[0.0, 200.0, 0.0], [300.0, 0.0, 1.0]]),),
        ],
        mistakes=[
            Mistake(lambda s: s.softmax(-1), _("The second step looks back: nothing is masked.")),
            Mistake(lambda s: walk(s, strict=1),
                    _("A step may look again at the very key where the one before looked: two "
                      "digits may come from one word.")),
            Mistake(lambda s: walk(s, masked=False),
                    _("You start each step at the largest *score* of the one before, which may "
                      "have been hidden from it. Start at the largest weight.")),
            Mistake(lambda s: walk(s, front=True),
                    _("The mask is turned round: what is hidden lies *before* the place.")),
            Mistake(lambda s: s.softmax(-1) * (walk(s) > 0),
                    _("The weights that are left do not add up to one: mask before the softmax.")),
            Mistake(lambda s: torch.stack([
                        masked_softmax(row, mask=torch.arange(s.shape[-1]) >= i)
                        for i, row in enumerate(s)
                    ]) if s.shape[0] <= s.shape[1] else s.softmax(-1),
                    _("That moves on one key with every step, wherever the steps look.")),
        ],
        right=_("For `2005/3/4` that is enough. For `4 March 2005` it is not: the year comes first "
                "in an ISO date and last in the text. A score that only moves on would never find "
                "the day."),
    )  # fmt: skip


def check_09_beam(answer: Any) -> Verdict:
    """Check one step of a beam search, ``answer(so_far, steps, size)``.

    Returned are parents, tokens and the log-probabilities, the best first.
    """

    def best(totals: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        found, which = totals.flatten().topk(size)
        return which // totals.shape[-1], which % totals.shape[-1], found

    def reference(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        return best(so_far.unsqueeze(-1) + steps, size)

    def one_each(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        values, tokens = (so_far.unsqueeze(-1) + steps).max(-1)
        order = values.argsort(descending=True)[:size]
        return order, tokens[order], values[order]

    def of_the_best(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        parent = int(so_far.argmax())
        values, tokens = (so_far[parent] + steps[parent]).topk(min(size, steps.shape[-1]))
        return torch.full_like(tokens, parent), tokens, values

    def swapped(so_far: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        parents, tokens, values = reference(so_far, steps, size)
        return tokens, parents, values

    draw = fresh()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (
                torch.tensor([0.6, 0.4]).log(),
                torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.0625, 0.8375]]).log(),
                2,
            ),
            (
                torch.tensor([0.7, 0.3]).log(),
                torch.tensor([[0.5, 0.4, 0.1], [0.3, 0.3125, 0.3875]]).log(),
                2,
            ),
            (
                torch.randn(3, generator=draw).log_softmax(-1),
                torch.randn(3, 6, generator=draw).log_softmax(-1),
                3,
            ),
        ],
        mistakes=[
            Mistake(lambda so_far, steps, size: best(steps, size),
                    _("What was likely so far does not count here. The log-probability of a "
                      "sequence is the sum of all its steps.")),
            Mistake(one_each,
                    _("Each beginning keeps exactly one child. The best may be two children of the "
                      "same one.")),
            Mistake(of_the_best, _("Only the best beginning has children here. That is greedy.")),
            Mistake(swapped, _("Parents and tokens have changed places.")),
            Mistake(lambda so_far, steps, size: best(so_far.unsqueeze(-1) * steps, size),
                    _("Log-probabilities add up. Multiplied, two negative numbers become a "
                      "positive one.")),
            Mistake(lambda so_far, steps, size: best(-(so_far.unsqueeze(-1) + steps), size),
                    _("The sign: a log-probability is better the nearer it is to 0.")),
        ],
        right=_("Repeat it until everything has ended, and carry the hidden state of each parent "
                "along."),
    )  # fmt: skip
