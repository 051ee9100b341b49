"""What a check says about errors, results and arguments."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.running import PATIENCE, OutOfTimeError, plain

MOST_NUMBERS = 9  # a larger tensor is described by its shape
MOST_LETTERS = 200  # of an error's message

_MEANINGS = {  # a part of an error's message: what it means
    "leaf Variable that requires grad": "An argument was changed in place, and autograd forbids "
    "it: work on a copy.",
    "without overflow": "The fill does not fit: half precision has no number as large as that.",
    "must match": "Two shapes do not fit: write down the shape of each step, and see which axis "
    "needs a `None`.",
    "cannot be multiplied": "Two shapes do not fit: in a matrix product the inner axes must agree.",
    "same dtype": "Two kinds of numbers meet: give what you make the `dtype` of the arguments.",
    "Dimension out of range": "There are fewer axes than you count: −1 is always the last one.",
    "invalid for input of size": "A reshape asks for another number of elements than there are.",
}


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
        text = "an error that cannot be shown"
    if isinstance(error, OutOfTimeError):
        return f"No result after {PATIENCE:.0f} seconds: is there a loop that never ends?"
    if isinstance(error, NotImplementedError):
        return "Nothing written yet: replace the line that raises `NotImplementedError`."
    if isinstance(error, NameError):
        return f"A name is not known: {text}. Is it spelt, defined and imported?"
    if isinstance(error, MemoryError):
        return "It asks for more memory than there is."
    if isinstance(error, RecursionError):
        return "The function calls itself without end."
    for part, meaning in _MEANINGS.items():
        if part in text:
            return meaning
    said = text.rstrip(".")
    return f"It stops with `{type(error).__name__}`" + (f": {said}." if said else ".")


def difference(value: Any, want: Any) -> str:
    """What can be said about a wrong result without knowing the mistake."""
    if not isinstance(want, Tensor):
        wrong_kind = not isinstance(value, type(want) | int | float)
        if wrong_kind:
            found = "got a tensor" if isinstance(value, Tensor) else got(value)
            return f"A {type(want).__name__} is asked for; {found}."
        return f"The result is not right; {got(value)}."
    if not isinstance(value, Tensor):
        return f"A tensor is asked for; {got(value)}."
    if value.shape != want.shape:
        turned = value.ndim == 2 and value.mT.shape == want.shape
        hint = " Rows are queries, columns are keys." if turned else ""
        return f"The result should have the shape {tuple(want.shape)}; {got(value)}.{hint}"
    if value.dtype != want.dtype:
        return f"The result should be of type `{want.dtype}`; it is `{value.dtype}`."
    if bool((value != value).any()):
        return "There is `nan` in the result: something is 0/0 or ∞ − ∞."
    return f"The numbers are not right; {got(value)}."


def got(thing: Any) -> str:
    if isinstance(thing, Tensor) and thing.numel() > MOST_NUMBERS:
        return f"yours has the shape {tuple(thing.shape)}"
    thing = plain(thing)
    return f"got {_shown(thing) if isinstance(thing, Tensor) else repr(thing)[:60]}"


def _shown(thing: Any) -> str:
    if isinstance(thing, Tensor) and thing.numel() > MOST_NUMBERS:
        return f"of shape {tuple(thing.shape)}"
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
        f"{name} {_shown(thing)}"
        if _shown(thing).startswith("of ")
        else f"{name} = {_shown(thing)}{_kind(thing)}"
        for name, thing in pairs
    ]
    return f"`{', '.join(said)}`"


def _kind(thing: Any) -> str:
    half = isinstance(thing, Tensor) and thing.dtype in (torch.float16, torch.bfloat16)
    return f" ({str(thing.dtype).removeprefix('torch.')})" if half else ""
