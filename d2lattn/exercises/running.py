"""Running a reader's function: it may stop with an error, never end, or return anything at all."""

from __future__ import annotations

import ctypes
import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from d2lattn.exercises.guard import Printed, own_functions, surroundings_kept
from d2lattn.exercises.language import _

PATIENCE = 3.0  # seconds for all cases together
MOST_KEPT = 1_000_000  # numbers of a tensor that are copied
MOST_ITEMS = 10_000
DEEPEST = 20


class OutOfTimeError(BaseException):
    """Raised inside an answer that takes too long; ``except Exception`` does not catch it."""


Result = tuple[Any, BaseException | None]


@dataclass(frozen=True)
class Odd:
    """Something returned that no check can compare: its kind, and how it shows itself."""

    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Trial:
    """What became of an answer: results, arguments as it left them, and what else it did."""

    results: list[Result] = field(default_factory=list)  # up to the first error
    left: list[tuple[Any, ...]] = field(default_factory=list)
    printed: str = ""
    replaced: list[str] = field(default_factory=list)  # functions that others use, too


def run(function: Callable[..., Any], cases: Sequence[tuple[Any, ...]]) -> Trial:
    """Try a function on every case, in a thread that can be given up."""
    results: list[Result] = []
    left: list[tuple[Any, ...]] = []
    printed, replaced = Printed(), list[str]()

    def work() -> None:
        try:
            for args in cases:
                result = plain(function(*args))
                left.append(tuple(map(plain, args)))
                results.append((result, None))
        except BaseException as error:
            results.append((None, error))

    worker = threading.Thread(target=work, daemon=True)
    with own_functions(replaced), surroundings_kept(printed):
        worker.start()
        try:
            worker.join(PATIENCE)
        finally:  # also if the reader interrupts
            _stop(worker)
    finished = list(results)
    if worker.is_alive():  # stuck outside Python, or catching everything: leave it behind
        finished.append((None, OutOfTimeError()))
    return Trial(finished, left, printed.shown(), replaced)


def _stop(worker: threading.Thread) -> None:
    """Raise an error inside a thread, a few times, in case that it catches everything."""
    for _attempt in range(10):
        if not worker.is_alive() or worker.ident is None:
            break
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(worker.ident), ctypes.py_object(OutOfTimeError)
        )
        worker.join(0.05)


def plain(thing: Any, depth: int = 0) -> Any:
    """The same as an object of Python's or PyTorch's own kinds, which compares as they do."""
    if thing is None or thing is ... or isinstance(thing, bool):
        return thing
    if isinstance(thing, Tensor):
        return _plain_tensor(thing)
    if isinstance(thing, Integral):
        return int(thing)
    if isinstance(thing, Real | Decimal):
        return float(thing)
    if isinstance(thing, str):
        return str.__str__(thing)
    if isinstance(thing, list | tuple):
        if depth == DEEPEST or len(thing) > MOST_ITEMS:
            return Odd(_("a {kind} without end").format(kind=type(thing).__name__))
        items = [plain(item, depth + 1) for item in thing]
        return items if isinstance(thing, list) else tuple(items)
    try:
        text = str(repr(thing))
    except Exception:
        text = _object(thing)
    return Odd(" ".join(text.split())[:60])


def _object(thing: Any) -> str:
    return _("an object of type {kind}").format(kind=type(thing).__name__)


def _plain_tensor(thing: Tensor) -> Any:
    try:
        with torch._C.DisableTorchFunctionSubclass():
            tensor = thing.as_subclass(Tensor)
            kind = tensor.device.type if tensor.device.type != "cpu" else str(tensor.layout)
            if kind != "torch.strided" or tensor.is_quantized:
                other = _("a tensor of another kind ({kind})")
                return Odd(other.format(kind=kind.removeprefix("torch.")))
            return tensor.clone() if tensor.numel() <= MOST_KEPT else tensor
    except Exception:
        return Odd(_object(thing))


def accepts(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    called = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        inspect.signature(called).bind(*args)
    except TypeError:
        return False
    except Exception:  # built-in functions may have no signature
        pass
    return True
