"""Checks for the exercises of chapter 11, beyond one machine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh
from d2lattn.exercises.language import _
from d2lattn.streaming import merge_attention

Pair = tuple[Tensor, Tensor]


def check_11_by_hand(answer: Any) -> Verdict:
    """Check the output and the sum of exponentials of three processes' parts."""
    return check_numbers(
        answer,
        expected=[5.0, 8.0],
        mistakes=[
            Mistake([6.0, 8.0], _("This is the average of the three outputs. A process counts as "
                    "much as its exponentials add up to. See “What must travel?”")),
            Mistake([18.0, 8.0], _("The outputs are added up. They are averages: average them.")),
            Mistake([40.0, 8.0], _("These are the exponentials times the outputs, added up. Divide "
                    "by what all exponentials add up to.")),
            Mistake([5.0, math.log(8)], _("The output is right. The sum of the exponentials is "
                    "asked for, not its logarithm.")),
            Mistake([5.0, 5.0], _("The output is right. The sum of all exponentials is that of the "
                    "three processes' sums.")),
            Mistake([20 / 3, 3.0], _("One process is missing: the last block counts too.")),
            Mistake([20 / 3, 8.0], _("One process is missing in the output: the last block counts "
                    "too.")),
        ],
        right=_("And it is the same in any order: (1·8 + 2·6 + 5·4) / 8 = 40/8. Nobody had to know "
                "another's keys."),
    )  # fmt: skip


def check_11_traffic(answer: Any) -> Verdict:
    """Check the bytes that a process sends, ``answer(tokens, key_size, value_size, processes)``."""

    def reference(tokens: int, key_size: int, value_size: int, processes: int) -> int:
        return (processes - 1) * (tokens // processes) * (key_size + value_size) * 4

    def of(hops: float, share: float, features: int, size: int = 4) -> int:
        return int(hops * share * features * size)

    tokens, width, n = (8 * x for x in torch.randint(2, 9, (3,), generator=fresh()).tolist())
    return check_function(
        answer,
        reference=reference,
        cases=[(4, 1, 1, 2), (8, 2, 1, 4), (12, 3, 5, 1), (n * tokens, width, 2 * width, n)],
        mistakes=[
            Mistake(lambda t, k, v, n: of(n, t // n, k + v),
                    _("After n − 1 hops a block has been everywhere: the last process does not "
                      "send it home again.")),
            Mistake(lambda t, k, v, n: of(n - 1, t, k + v),
                    _("A process sends one block at a time, its n-th of the tokens, not all of "
                      "them.")),
            Mistake(lambda t, k, v, n: of(n - 1, t // n, k),
                    _("The values are missing: keys and values travel together.")),
            Mistake(lambda t, k, v, n: of(n - 1, t // n, k + v, 1),
                    _("These are numbers. Each of them is four bytes.")),
            Mistake(lambda t, k, v, n: n * of(n - 1, t // n, k + v),
                    _("This is what all processes send together. Each of them sends an n-th of "
                      "it.")),
            Mistake(lambda t, k, v, n: of(1, t // n, k + v),
                    _("This is one hop. A process passes on every block but the one that ends with "
                      "it.")),
            Mistake(lambda t, k, v, n: of(n - 1, t // n, 2 * k + v),
                    _("Queries stay at home. Only keys and values travel.")),
        ],
        right=_("With many processes that is nearly all keys and values, however many there are: "
                "more processes make each do less, but do not let each send less."),
    )  # fmt: skip


def check_11_zigzag(answer: Any) -> Verdict:
    """Check the two stretches of a process, ``answer(tokens, processes, rank)``."""

    def reference(tokens: int, processes: int, rank: int) -> list[int]:
        return stretches(tokens, processes, rank, 2 * processes - 1 - rank)

    def stretches(tokens: int, processes: int, first: int, last: int) -> list[int]:
        size = tokens // (2 * processes)
        return [first * size, (first + 1) * size, last * size, (last + 1) * size]

    n, size = torch.randint(3, 40, (2,), generator=fresh()).tolist()
    return check_function(
        answer,
        reference=reference,
        cases=[(4, 1, 0), (8, 2, 0), (8, 2, 1), (24, 3, 2), (2 * n * size, n, n - 2)],
        mistakes=[
            Mistake(lambda t, n, r: stretches(t, n, r, 2 * n - r),
                    _("The second stretch is one too far: the last of 2n stretches has the number "
                      "2n − 1. See “Who waits?”")),
            Mistake(lambda t, n, r: stretches(t, n, 2 * r, 2 * r + 1),
                    _("These two stretches are neighbours: that is the contiguous layout.")),
            Mistake(lambda t, n, r: stretches(t, n, r, n + r),
                    _("The second half is dealt out in the same order as the first, so that the "
                      "last process still has the most to do. Turn it round.")),
            Mistake(lambda t, n, r: stretches(t, n, 2 * n - 1 - r, r),
                    _("The right stretches, but the late one first. Tokens keep their order.")),
            Mistake(lambda t, n, r: stretches(t, n, r, n - 1 - r),
                    _("The sequence is cut into twice as many stretches as there are processes.")),
        ],
        right=_("Early queries see few keys and late ones many: a pair of stretches always has the "
                "same work."),
    )  # fmt: skip


def check_11_tree(answer: Any) -> Verdict:
    """Check how many rounds it takes to join everybody's parts, ``answer(processes)``."""

    def reference(processes: int) -> int:
        return (processes - 1).bit_length()

    many = int(torch.randint(70, 500, (), generator=fresh()))
    return check_function(
        answer,
        reference=reference,
        cases=[(2,), (4,), (3,), (1,), (5,), (8,), (1000,), (many,)],
        mistakes=[
            Mistake(lambda n: n - 1,
                    _("That is a chain, one after the other. In a round every two can be joined at "
                      "the same time.")),
            Mistake(lambda n: n.bit_length() - 1,
                    _("A process that finds no partner in a round is still there in the next: "
                      "round up.")),
            Mistake(lambda n: n // 2,
                    _("That is how many joins the first round has. How many rounds are there?")),
            Mistake(lambda n: n.bit_length(),
                    _("With 2, 4 or 8 processes you count one round too many.")),
            Mistake(lambda n: 2 * (n - 1).bit_length(),
                    _("This is the way there and back. Only the joining is asked for.")),
        ],
        right=_("A thousand processes need ten rounds. That works since merging is associative: "
                "parts of parts can be joined."),
    )  # fmt: skip


def check_11_without_keys(answer: Any) -> Verdict:
    """Check how two parts are joined, ``answer(output, log, other_output, other_log)``."""

    def reference(output: Tensor, log: Tensor, other: Tensor, other_log: Tensor) -> Pair:
        output, log = merge_attention([(output, log), (other, other_log)])
        return output, log

    def shared(o: Tensor, share: Tensor, other: Tensor, rest: Tensor, log: Tensor) -> Pair:
        return share[:, None] * o + rest[:, None] * other, log

    def by_sigmoid(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
        return shared(o, (a - b).sigmoid(), other, (b - a).sigmoid(), torch.logaddexp(a, b))

    def unshifted(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
        total = a.exp() + b.exp()
        return shared(o, a.exp() / total, other, b.exp() / total, total.log())

    def without_log(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
        return reference(o, a, other, b)[0], torch.maximum(a, b)

    def averaged(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
        return (o + other) / 2, torch.logaddexp(a, b)

    def added(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
        return o + other, torch.logaddexp(a, b)

    def turned(o: Tensor, a: Tensor, other: Tensor, b: Tensor) -> Pair:
        return reference(other, a, o, b)

    none = -math.inf
    draw = fresh()
    one, three = torch.tensor([[1.0]]), torch.tensor([[3.0]])

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (one, torch.tensor([0.0]), three, torch.tensor([0.0])),
            (one, torch.tensor([3.0]).log(), three, torch.tensor([0.0])),
            (normal(3, 2), normal(3), normal(3, 2), normal(3)),
            (normal(3, 2), normal(3) + 900, normal(3, 2), normal(3) + 900),
            (one, torch.tensor([1.0]), 0 * one, torch.tensor([none])),
            (0 * one, torch.tensor([none]), three, torch.tensor([1.0])),
            (0 * one, torch.tensor([none]), 0 * one, torch.tensor([none])),
        ],
        mistakes=[
            Mistake(averaged, _("Both parts count the same. Each counts as much as its "
                    "exponentials add up to.")),
            Mistake(added, _("The outputs are averages: a sum of them is too large.")),
            Mistake(turned, _("The shares are exchanged: each output got the other's.")),
            Mistake(without_log, _("The output is right. The larger logsumexp is not that of all "
                    "keys.")),
            Mistake(unshifted, _("The exponentials overflow, or add up to nothing. Subtract the "
                    "larger logsumexp first.")),
            Mistake(by_sigmoid, _("Where neither part has keys, −∞ minus −∞ is nan. See “A process "
                    "without keys”.")),
        ],
        right=_("A process without keys sends 0 and −∞, and nobody needs to know."),
    )  # fmt: skip
