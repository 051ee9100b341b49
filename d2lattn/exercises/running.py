"""Running a reader's function: it may stop with an error, never end, or change its surroundings."""

from __future__ import annotations

import ctypes
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

PATIENCE = 3.0  # seconds for all cases together


class OutOfTimeError(BaseException):
    """Raised inside an answer that takes too long; ``except Exception`` does not catch it."""


Result = tuple[Any, BaseException | None]


def run(function: Callable[..., Any], cases: Sequence[tuple[Any, ...]]) -> list[Result]:
    """The results up to the first error, worked out in a thread that can be given up."""
    results: list[Result] = []

    def work() -> None:
        try:
            for args in cases:
                results.append((function(*args), None))
        except BaseException as error:
            results.append((None, error))

    worker = threading.Thread(target=work, daemon=True)
    with _state_kept():
        worker.start()
        try:
            worker.join(PATIENCE)
        finally:  # also if the reader interrupts
            _stop(worker)
    finished = list(results)
    if worker.is_alive():  # stuck outside Python, or catching everything: leave it behind
        finished.append((None, OutOfTimeError()))
    return finished


def _stop(worker: threading.Thread) -> None:
    """Raise an error inside a thread, a few times, in case that it catches everything."""
    for _ in range(10):
        if not worker.is_alive() or worker.ident is None:
            break
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(worker.ident), ctypes.py_object(OutOfTimeError)
        )
        worker.join(0.05)


@contextmanager
def _state_kept() -> Iterator[None]:
    """Whatever the answer does to PyTorch's default type and generator is undone."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def accepts(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    called = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        inspect.signature(called).bind(*args)
    except TypeError:
        return False
    except ValueError:  # built-in functions may have no signature
        pass
    return True
