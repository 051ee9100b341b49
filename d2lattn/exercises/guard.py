"""What an answer may change while it runs, and how it is put back.

An answer shares the reader's Python with the check that judges it. So functions that the check
relies on are their own while it runs, and a replacement is found; settings and generators are as
they were afterwards; what is printed is kept, up to a length.
"""

from __future__ import annotations

import builtins
import io
import math
import operator
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from types import ModuleType
from typing import Any

import torch

from d2lattn.exercises import language

MOST_PRINTED = 1000  # characters
WRAPPED_LATE = "manual_seed"  # which PyTorch itself replaces, once it compiles

_KEPT: dict[Any, dict[str, Any]] = {
    owner: dict(vars(owner))
    for owner in (builtins, math, torch, torch.Tensor, torch.linalg, torch.nn.functional)
}


class Printed(io.StringIO):
    """The beginning of what is written to it."""

    def write(self, text: str) -> int:
        room = MOST_PRINTED + 1 - self.tell()
        super().write(text[: max(0, room)])
        return len(text)

    def shown(self) -> str:
        text = self.getvalue()
        return f"{text[:MOST_PRINTED]}…" if len(text) > MOST_PRINTED else text.rstrip()


@contextmanager
def own_functions(replaced: list[str]) -> Iterator[None]:
    """Every function that a check relies on is its own; write down which were replaced inside.

    What a reader has replaced before is out of force inside, and in force again afterwards.
    """
    ours = {**{owner: dict(vars(owner)) for owner in _own_namespaces()}, **_KEPT}
    readers = _put_back(ours)
    try:
        yield
    finally:
        replaced += [name for _, name, _ in _put_back(ours)]
    for owner, name, value in readers:
        _set(owner, name, value)


@contextmanager
def surroundings_kept(printed: Printed) -> Iterator[None]:
    """Settings and generators are afterwards as they were; keep what is printed."""
    settings = [(get, put, get()) for get, put in _SETTINGS]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(redirect_stdout(printed))
        stack.enter_context(redirect_stderr(printed))
        try:
            yield
        finally:
            for get, put, value in settings:
                if get() != value:  # to set some of them takes seconds, the first time
                    put(value)


_MISSING = object()
_Change = tuple[Any, str, Any]  # where a name stood, the name, what it was


def _own_namespaces() -> list[Any]:
    """The modules of the package and the classes made in them."""
    modules = [m for name, m in list(sys.modules.items()) if f"{name}.".startswith("d2lattn.")]
    classes = [
        thing
        for module in modules
        for thing in vars(module).values()
        if isinstance(thing, type) and thing.__module__ == module.__name__
    ]
    return [*modules, *classes]


def _put_back(
    kept: dict[Any, dict[str, Any]],
    # An answer may have replaced these, too.
    callable: Callable[..., bool] = callable,
    isinstance: Callable[..., bool] = isinstance,
    copied: Callable[..., list[Any]] = list,
    vars: Callable[..., Any] = vars,
    all: Callable[..., bool] = all,
    map: Callable[..., Any] = map,
    same: Callable[..., bool] = operator.is_,
) -> list[_Change]:
    """Give every function its own name again; return what stood there instead."""
    changes: list[_Change] = []
    for owner, names in kept.items():
        now = vars(owner)
        if now.keys() == names.keys() and all(map(same, map(now.get, names), names.values())):
            continue  # as nearly always
        for name, thing in copied(names.items()):
            found = now.get(name, _MISSING)
            if found is not thing and callable(thing) and name != WRAPPED_LATE:
                changes.append((owner, name, found))
                _set(owner, name, thing)
        for name, thing in copied(now.items()):
            # What hides a function of a class's base, or one of Python's own.
            shadow = not isinstance(owner, ModuleType) or name in _KEPT[builtins]
            if name not in names and shadow and callable(thing) and owner is not builtins:
                changes.append((owner, name, thing))
                _set(owner, name, _MISSING)
    return changes


def _set(
    owner: Any,
    name: str,
    value: Any,
    setattr: Callable[..., None] = setattr,
    delattr: Callable[..., None] = delattr,
) -> None:
    if value is _MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def _set_deterministic(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


def _flag(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _numpy_state() -> Any:
    """The state of NumPy's generator, so that two of them can be compared."""
    if "numpy" not in sys.modules:
        return None
    name, keys, *rest = sys.modules["numpy"].random.get_state()
    return name, tuple(keys.tolist()), *rest


def _set_numpy_state(state: Any) -> None:
    if state is not None:
        sys.modules["numpy"].random.set_state(state)


# What can be asked, and set again.
_SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.is_warn_always_enabled, torch.set_warn_always),
    (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _set_deterministic,
    ),
    _flag(torch.backends.cudnn, "deterministic"),
    _flag(torch.backends.cudnn, "benchmark"),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (random.getstate, random.setstate),
    (lambda: vars(language).get("spoken"), partial(setattr, language, "spoken")),
    (_numpy_state, _set_numpy_state),
]
