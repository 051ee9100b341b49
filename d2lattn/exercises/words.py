"""What a check says about errors, results and arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.language import _
from d2lattn.exercises.running import PATIENCE, OutOfTimeError, plain

MOST_NUMBERS = 9  # a larger tensor is described by its shape
MOST_LETTERS = 200  # of an error's message


def joined(*sentences: str) -> str:
    """Sentences one after the other, without those that are empty."""
    said = filter(None, sentences)
    return reduce(lambda one, other: _("{one} {other}").format(one=one, other=other), said)


def enumerated(names: Iterable[str]) -> str:
    return reduce(lambda one, other: _("{one} and {other}").format(one=one, other=other), names)


def over_axis(axis: str) -> str:
    """What to say to somebody whose softmax runs over another axis than the keys."""
    return _("The softmax runs over the {axis}: the weights of one query, over the *keys*, add up "
             "to one.").format(axis=axis)  # fmt: skip


def called(function: Any) -> str:
    """The name of a function, or another word for it."""
    name = getattr(type(function), "__name__", "") if isinstance(function, torch.nn.Module) else ""
    name = getattr(function, "__name__", name or "answer")
    return name if isinstance(name, str) else "answer"


def explained(error: BaseException) -> str:
    """An error in the reader's function, in words."""
    try:
        text = str(error).strip().partition("\n")[0][:MOST_LETTERS]
    except Exception:
        text = _("an error that cannot be shown")
    if isinstance(error, OutOfTimeError):
        endless = _("No result after {seconds:.0f} seconds: is there a loop that never ends?")
        return endless.format(seconds=PATIENCE)
    if isinstance(error, NotImplementedError):
        return _("Nothing written yet: replace the line that raises `NotImplementedError`.")
    if isinstance(error, NameError):
        unknown = _("A name is not known: {error}. Is it spelt, defined and imported?")
        return unknown.format(error=text)
    if isinstance(error, MemoryError):
        return _("It asks for more memory than there is.")
    if isinstance(error, RecursionError):
        return _("The function calls itself without end.")
    for part, meaning in _meanings().items():
        if part in text:
            return meaning
    kind, said = type(error).__name__, text.rstrip(".")
    stopped = _("It stops with `{kind}`: {error}.") if said else _("It stops with `{kind}`.")
    return stopped.format(kind=kind, error=said)


def _meanings() -> dict[str, str]:
    """A part of an error's message: what it means."""
    return {
        "leaf Variable that requires grad": _("An argument was changed in place, and autograd "
            "forbids it: work on a copy."),
        "without overflow": _("The fill does not fit: half precision has no number as large as "
            "that."),
        "must match": _("Two shapes do not fit: write down the shape of each step, and see which "
            "axis needs a `None`."),
        "cannot be multiplied": _("Two shapes do not fit: in a matrix product the inner axes must "
            "agree."),
        "same dtype": _("Two kinds of numbers meet: give what you make the `dtype` of the "
            "arguments."),
        "Dimension out of range": _("There are fewer axes than you count: −1 is always the last "
            "one."),
        "invalid for input of size": _("A reshape asks for another number of elements than there "
            "are."),
    }  # fmt: skip


def difference(value: Any, want: Any) -> str:
    """What can be said about a wrong result without knowing the mistake."""
    if not isinstance(want, Tensor):
        wrong_kind = not isinstance(value, type(want) | int | float)
        if wrong_kind:
            found = _("got a tensor") if isinstance(value, Tensor) else got(value)
            asked = _("A {kind} is asked for; {got}.")
            return asked.format(kind=type(want).__name__, got=found)
        return _("The result is not right; {got}.").format(got=got(value))
    if not isinstance(value, Tensor):
        return _("A tensor is asked for; {got}.").format(got=got(value))
    if value.shape != want.shape:
        turned = value.ndim == 2 and value.mT.shape == want.shape
        hint = _("Rows are queries, columns are keys.") if turned else ""
        wrong = _("The result should have the shape {shape}; {got}.")
        return joined(wrong.format(shape=tuple(want.shape), got=got(value)), hint)
    if value.dtype != want.dtype:
        wrong = _("The result should be of type `{wanted}`; it is `{given}`.")
        return wrong.format(wanted=want.dtype, given=value.dtype)
    if bool((value != value).any()):
        return _("There is `nan` in the result: something is 0/0 or ∞ − ∞.")
    return _("The numbers are not right; {got}.").format(got=got(value))


def got(thing: Any) -> str:
    if isinstance(thing, Tensor) and thing.numel() > MOST_NUMBERS:
        return _("yours has the shape {shape}").format(shape=tuple(thing.shape))
    thing = plain(thing)
    shown = _shown(thing) if isinstance(thing, Tensor) else repr(thing)[:60]
    return _("got {thing}").format(thing=shown)


def _shown(thing: Any) -> str:
    if isinstance(thing, Tensor):
        return _shown(thing.detach().tolist())
    if isinstance(thing, list):
        return f"[{', '.join(map(_shown, thing))}]"
    if isinstance(thing, float):
        return f"{thing:.3g}"
    return str(thing)


def described(signature: inspect.Signature, args: tuple[Any, ...]) -> str:
    """The arguments of one call, by name: what a reader can type in to see it happen."""
    pairs = zip(signature.parameters, args, strict=False)
    said = [
        _("{name} of shape {shape}").format(name=name, shape=tuple(thing.shape))
        if isinstance(thing, Tensor) and thing.numel() > MOST_NUMBERS
        else f"{name} = {_shown(thing)}{_kind(thing)}"
        for name, thing in pairs
    ]
    return f"`{', '.join(said)}`"


def _kind(thing: Any) -> str:
    half = isinstance(thing, Tensor) and thing.dtype in (torch.float16, torch.bfloat16)
    return f" ({str(thing.dtype).removeprefix('torch.')})" if half else ""
