"""Trying a reader's answer: run it, compare it, and say which mistake it looks like."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.guard import own_functions
from d2lattn.exercises.language import _
from d2lattn.exercises.running import MOST_KEPT, Result, Trial, accepts, run
from d2lattn.exercises.words import (
    called,
    described,
    difference,
    enumerated,
    explained,
    got,
    joined,
)


@dataclass(frozen=True)
class Verdict:
    """What a check says about an answer: right, wrong, or (``right`` is None) not there yet.

    Examples
    --------
    >>> Verdict(False, "Divide by the sum.")
    ✗ Not yet. Divide by the sum.
    """

    right: bool | None
    message: str
    printed: str = ""  # what the answer wrote while it was tried, or its beginning

    def __bool__(self) -> bool:
        return bool(self.right)

    def __repr__(self) -> str:
        printed = _("It printed:")
        said = f"\n{printed}\n{self.printed}" if self.printed else ""
        heads = {
            True: _("Right. {message}"),
            False: _("Not yet. {message}"),
            None: _("Your turn. {message}"),
        }
        return f"{_MARKS[self.right]} {heads[self.right].format(message=self.message)}{said}"

    def _repr_markdown_(self) -> str:
        lines = "\n".join(f"    {line}" for line in self.printed.splitlines())
        printed = _("It printed:")
        said = f"\n\n{printed}\n\n{lines}" if self.printed else ""
        heads = {
            True: _("**Right.** {message}"),
            False: _("**Not yet.** {message}"),
            None: _("**Your turn.** {message}"),
        }
        return f"{_MARKS[self.right]} {heads[self.right].format(message=self.message)}{said}"


_MARKS = {True: "✓", False: "✗", None: "○"}


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: what it computes, and what to say to somebody who made it.

    ``wrong`` is a function of the same arguments as the answer, or the wrong number itself.
    """

    wrong: Any
    message: str


def fresh() -> torch.Generator:
    """A generator for cases that nobody knows beforehand, whatever seed a reader has set."""
    generator = torch.Generator()
    generator.seed()
    return generator


def whole(random: torch.Generator, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``."""
    return int(torch.randint(low, high + 1, (), generator=random))


def check_function(
    answer: Any,
    *,
    reference: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    mistakes: Sequence[Mistake],
    right: str,
    differentiable: bool = False,
) -> Verdict:
    """Compare a reader's function with ``reference`` on every case, the smallest first.

    The reference's parameters name the arguments in what is said. The cases are tuples of
    arguments: fixed ones that can be worked out by hand, then some that are drawn afresh. On the
    first case that differs, the mistake that computes the same names the trouble; of several, the
    one that agrees on most cases. A ``differentiable`` answer hands gradients on.
    """
    if not callable(answer):
        itself = _("Hand over the function itself, without calling it; {got}.")
        return Verdict(False, itself.format(got=got(answer)))
    wanted = inspect.signature(reference)
    call = f"`{called(answer)}({', '.join(wanted.parameters)})`"
    if not accepts(answer, cases[0]):
        refused = _("It is called as {call}, and cannot take these arguments.")
        return Verdict(False, refused.format(call=call))

    def judged(trial: Trial) -> Verdict:
        for case, (args, (value, error)) in enumerate(zip(cases, trial.results, strict=False)):
            where = _("Try {arguments}.").format(arguments=described(wanted, args))
            if error is not None:
                return Verdict(False, joined(explained(error), where))
            if value is None or value is ...:
                return Verdict(None, _("Let {call} return its result.").format(call=call))
            if not all(map(_same, args, trial.left[case])):
                changed = _("An argument was changed in place: work on a copy.")
                return Verdict(False, joined(changed, where))
            want = reference(*map(_copy, args))
            if not _same(value, want):
                message = _diagnosed(case, value, want, mistakes, cases, trial.results)
                return Verdict(False, joined(message, where))
            if differentiable and _needs_gradient(want) and not _needs_gradient(value):
                cut_off = _("The numbers are right, but no gradient comes back: somewhere on the "
                            "way the result is cut off from its argument, as `detach`, `.data` "
                            "and `no_grad` do.")  # fmt: skip
                return Verdict(False, joined(cut_off, where))
        return Verdict(True, right)

    return try_out(answer, cases, judged)


def try_out(
    answer: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    judged: Callable[[Trial], Verdict],
) -> Verdict:
    """Run an answer on copies of the cases and judge what came of it."""
    with own_functions([]):
        trial = run(answer, [tuple(map(_copy, args)) for args in cases])
        if trial.replaced:
            names = enumerated([f"`{name}`" for name in dict.fromkeys(trial.replaced[:3])])
            became = _("While it ran, {names} became something else, which this check needs as it "
                       "is. It is put back.")  # fmt: skip
            verdict = Verdict(False, became.format(names=names))
        else:
            verdict = judged(trial)
        return replace(verdict, printed=trial.printed)


def _diagnosed(
    case: int,
    value: Any,
    want: Any,
    mistakes: Sequence[Mistake],
    cases: Sequence[tuple[Any, ...]],
    results: Sequence[Result],
) -> str:
    """What to say about a wrong result: a mistake that computes the same, here and where the
    answer is right."""
    tried = [(inputs, given) for inputs, (given, error) in zip(cases, results, strict=False)]
    looks_like = [
        mistake
        for mistake in mistakes
        if all(_computes(mistake, *one) for one in tried[: case + 1])
        and not _computes(mistake, cases[case], want)
    ]
    if not looks_like:
        return difference(value, want)
    return max(looks_like, key=lambda m: sum(_computes(m, *one) for one in tried)).message


def check_numbers(
    answer: Any,
    *,
    expected: Any,
    mistakes: Sequence[Mistake],
    right: str,
    tolerance: float = 0.005,
) -> Verdict:
    """Compare numbers worked out by hand with ``expected``, to a few digits."""
    if isinstance(answer, dict | set):
        return Verdict(False, _("This is a {kind}. Hand over its numbers alone, as a list, in the "
                       "order asked for.").format(kind=type(answer).__name__))  # fmt: skip
    exact = _numbers(expected)
    trial = run(lambda: _without_numpy(answer), [()])
    plain, error = trial.results[0]
    if error is not None:
        return Verdict(False, joined(_("The answer is made of numbers."), explained(error)))
    if _has_gaps(plain):
        return Verdict(None, _("Put your answer in place of the dots."))
    try:
        given = _numbers(plain)
    except RuntimeError:
        filled = _("All rows need equally many numbers: write the zeros, too.")
        return Verdict(False, joined(_ragged(plain), filled))
    except TypeError as kind:
        numbers = _("The answer is made of numbers; {got}.")
        return Verdict(False, numbers.format(got=got(kind.args[0])))
    if given.shape != exact.shape:
        many = _("Not as many numbers as asked for: {count} in the shape {shape}; {got}.")
        asked = many if exact.ndim else _("Not as many numbers as asked for: one; {got}.")
        shape = tuple(exact.shape)
        said = asked.format(count=exact.numel(), shape=shape, got=got(given))
        return Verdict(False, said)

    def close(other: Tensor) -> bool:
        return torch.allclose(given, other, rtol=tolerance, atol=tolerance / 5, equal_nan=True)

    if close(exact):
        return Verdict(True, right)
    for mistake in mistakes:
        if close(_numbers(mistake.wrong).expand_as(exact)):
            return Verdict(False, mistake.message)
    near = (given - exact).abs() <= tolerance / 5 + tolerance * exact.abs()
    places = [i + 1 for i in (~near).nonzero()[0].tolist()]
    look = {
        1: _("Look at number {number} again."),
        2: _("Look at row {row}, number {number} again."),
    }.get(exact.ndim, "")
    where = look.format(number=places[-1], row=places[0]) if look else ""
    return Verdict(False, joined(_("That is not it."), where, _("A hint may help.")))


def _copy(thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return thing.detach().clone().requires_grad_(thing.requires_grad)
    return thing


def _same(one: Any, other: Any) -> bool:
    """Equal up to rounding; tensors also in shape and type."""
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not one.is_floating_point():
            return torch.equal(one, other)
        near = {torch.float64: 1e-8, torch.float32: 1e-4}.get(one.dtype, 4e-3)
        return torch.allclose(one, other, rtol=near, atol=near / 10, equal_nan=True)
    if isinstance(other, float) and isinstance(one, int | float):
        return abs(_float(one) - other) <= 1e-6 + 1e-6 * abs(other)
    if isinstance(one, float) and type(other) is int:  # a whole number, by a division
        return one == other
    return type(one) is type(other) and bool(one == other)


def _needs_gradient(thing: Any) -> bool:
    return isinstance(thing, Tensor) and thing.requires_grad


def _computes(mistake: Mistake, args: tuple[Any, ...], value: Any) -> bool:
    """Whether this mistake, too, would have given this value."""
    try:
        return _same(value, mistake.wrong(*map(_copy, args)))
    except (ArithmeticError, RuntimeError, IndexError, TypeError, ValueError):
        return False  # not every mistake is possible on every case


def _from_numpy(thing: Any) -> bool:
    return type(thing).__module__ == "numpy" and hasattr(thing, "tolist")


def _without_numpy(answer: Any) -> Any:
    """Numbers of numpy, or lists of them, as Python's."""
    if isinstance(answer, list | tuple):
        return [x.tolist() if _from_numpy(x) else x for x in answer]
    return answer.tolist() if _from_numpy(answer) else answer


def _numbers(answer: Any) -> Tensor:
    """A tensor of numbers; a ``TypeError`` that holds what is none."""
    if isinstance(answer, list | tuple):
        return torch.stack(list(map(_numbers, answer))) if answer else torch.zeros(0)
    if isinstance(answer, Tensor) and not answer.is_complex() and answer.numel() <= MOST_KEPT:
        return answer.detach().double()
    if not isinstance(answer, int | float) or isinstance(answer, bool):
        raise TypeError(answer)
    return torch.tensor(_float(answer), dtype=torch.float64)


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


def _ragged(answer: Any) -> str:
    """Which row has another length than the first."""
    lengths = [len(row) if isinstance(row, list | tuple) else None for row in answer]
    other = next((i for i, length in enumerate(lengths) if length != lengths[0]), 0)
    if lengths[0] is None or lengths[other] is None or not other:
        return ""
    return _("Row 1 has {first} and row {number} has {other}.").format(
        first=lengths[0], number=other + 1, other=lengths[other]
    )


def _has_gaps(answer: Any) -> bool:
    inside = isinstance(answer, list | tuple) and any(map(_has_gaps, answer))
    return answer is None or answer is ... or inside
