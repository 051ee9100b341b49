"""Trying a reader's answer: run it, compare it, and say which mistake it looks like."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.running import accepts, run
from d2lattn.exercises.words import described, difference, explained, got


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

    def __bool__(self) -> bool:
        return bool(self.right)

    def __repr__(self) -> str:
        return f"{_MARKS[self.right]} {_HEADS[self.right]} {self.message}"

    def _repr_markdown_(self) -> str:
        return f"{_MARKS[self.right]} **{_HEADS[self.right]}** {self.message}"


_MARKS = {True: "✓", False: "✗", None: "○"}
_HEADS = {True: "Right.", False: "Not yet.", None: "Your turn."}


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: what it computes, and what to say to somebody who made it.

    ``wrong`` is a function of the same arguments as the answer, or the wrong number itself.
    """

    wrong: Any
    message: str


def check_function(
    answer: Any,
    *,
    reference: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    mistakes: Sequence[Mistake],
    right: str,
) -> Verdict:
    """Compare a reader's function with ``reference`` on every case, the smallest first.

    The reference's parameters name the arguments in what is said. The cases are tuples of
    arguments, made anew for each check. On the first case that differs, the mistake that
    computes the same names the trouble; of several, the one that agrees on most cases.
    """
    if not callable(answer):
        return Verdict(False, f"Hand over the function itself, without calling it; {got(answer)}.")
    wanted = inspect.signature(reference)
    call = f"`{getattr(answer, '__name__', 'answer')}({', '.join(wanted.parameters)})`"
    if not accepts(answer, cases[0]):
        return Verdict(False, f"It is called as {call}, and cannot take these arguments.")
    copies = [tuple(map(_copy, args)) for args in cases]
    results = run(answer, copies)
    for args, after, (value, error) in zip(cases, copies, results, strict=False):
        where = f"Try {described(wanted, args)}."
        if error is not None:
            return Verdict(False, f"{explained(error)} {where}")
        if value is None or value is ...:
            return Verdict(None, f"Let {call} return its result.")
        if not all(map(_same, args, after)):
            return Verdict(False, f"An argument was changed in place: work on a copy. {where}")
        want = reference(*map(_copy, args))
        if not _same(value, want):
            looks_like = [
                mistake
                for mistake in mistakes
                if _computes(mistake, args, value) and not _computes(mistake, args, want)
            ]
            if not looks_like:
                return Verdict(False, f"{difference(value, want)} {where}")
            tried = [(inputs, given) for inputs, (given, _) in zip(cases, results, strict=False)]
            best = max(looks_like, key=lambda m: sum(_computes(m, *case) for case in tried))
            return Verdict(False, f"{best.message} {where}")
    return Verdict(True, right)


def check_numbers(
    answer: Any,
    *,
    expected: Any,
    mistakes: Sequence[Mistake],
    right: str,
    tolerance: float = 0.005,
) -> Verdict:
    """Compare numbers worked out by hand with ``expected``, to a few digits."""
    exact = _numbers(expected)
    if _has_gaps(answer):
        return Verdict(None, "Put your answer in place of the dots.")
    try:
        given = _numbers(answer)
    except RuntimeError:
        return Verdict(False, "All rows need equally many numbers: write the zeros, too.")
    except (TypeError, ValueError):
        return Verdict(False, f"The answer is made of numbers; {got(answer)}.")
    if given.shape != exact.shape:
        want = f"{exact.numel()} in the shape {tuple(exact.shape)}" if exact.ndim else "one"
        return Verdict(False, f"Not as many numbers as asked for: {want}; {got(given)}.")

    def close(other: Tensor) -> bool:
        return torch.allclose(given, other, rtol=tolerance, atol=tolerance / 5, equal_nan=True)

    if close(exact):
        return Verdict(True, right)
    for mistake in mistakes:
        if close(_numbers(mistake.wrong).expand_as(exact)):
            return Verdict(False, mistake.message)
    near = (given - exact).abs() <= tolerance / 5 + tolerance * exact.abs()
    names = {1: ["number"], 2: ["row", "number"]}.get(exact.ndim, [])
    place = (~near).nonzero()[0].tolist()
    first = [f"{name} {i + 1}" for name, i in zip(names, place, strict=False)]
    where = f" Look at {', '.join(first)} again." if first else ""
    return Verdict(False, f"That is not it.{where} A hint may help.")


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
        return abs(one - other) <= 1e-6 + 1e-6 * abs(other)
    return type(one) is type(other) and bool(one == other)


def _computes(mistake: Mistake, args: tuple[Any, ...], value: Any) -> bool:
    """Whether this mistake, too, would have given this value."""
    try:
        return _same(value, mistake.wrong(*map(_copy, args)))
    except (RuntimeError, IndexError, TypeError, ValueError):
        return False  # not every mistake is possible on every case


def _numbers(answer: Any) -> Tensor:
    if isinstance(answer, list | tuple):
        return torch.stack([_numbers(number) for number in answer])
    if isinstance(answer, str | bool) or callable(answer):
        raise TypeError
    return torch.as_tensor(answer).detach().double()


def _has_gaps(answer: Any) -> bool:
    inside = isinstance(answer, list | tuple) and any(map(_has_gaps, answer))
    return answer is None or answer is ... or inside
