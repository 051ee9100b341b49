"""Processes on this machine that know each other, for a notebook or a test; gone when done."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from d2lattn.checks import check_sizes

__all__ = ["Processes"]


class GoneError(RuntimeError):
    """A process ended, or does not answer."""


class Processes:
    """Some processes of ``torch.distributed`` on this machine, which wait for work.

    They speak through gloo on the loopback, meet through a file in a temporary folder, use one
    thread each, and end with this object, with this process, or after an error.

    Parameters
    ----------
    count
        How many.
    timeout
        Seconds after which a process that waits for another gives up.
    threads
        Threads of each process.

    Raises
    ------
    RuntimeError
        If they cannot be started.

    Examples
    --------
    >>> def double(rank, number):
    ...     return rank, 2 * number
    >>> with Processes(1) as team:
    ...     team.run(double, 21)
    [(0, 42)]
    """

    def __init__(self, count: int, *, timeout: float = 60.0, threads: int = 1) -> None:
        check_sizes(count=count)
        self.count, self.timeout = count, timeout
        self._folder = tempfile.TemporaryDirectory(prefix="d2lattn-")
        tasks, answers = ([os.pipe() for _ in range(count)] for _ in range(2))
        theirs = [(task[0], answer[1]) for task, answer in zip(tasks, answers, strict=True)]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        }
        code = "import sys; from d2lattn.distributed.processes import _start; _start(sys.argv[1])"
        settings = json.dumps([theirs, timeout, threads, self._folder.name])
        mother = subprocess.Popen(
            [sys.executable, "-c", code, settings], env=environment, stdin=subprocess.DEVNULL,
            pass_fds=[end for pair in theirs for end in pair], start_new_session=True,
        )  # fmt: skip
        for end in (end for pair in theirs for end in pair):
            os.close(end)
        self._tasks = [os.fdopen(task[1], "wb") for task in tasks]
        self._answers = [os.fdopen(answer[0], "rb") for answer in answers]
        pipes: list[Any] = [*self._tasks, *self._answers]
        self._end = weakref.finalize(self, _end, mother, pipes, self._folder)
        deadline = time.monotonic() + 60 + timeout
        self.pids = [self._answer(rank, deadline) for rank in range(count)]
        if any(not isinstance(pid, int) for pid in self.pids):
            self.stop()
            raise RuntimeError(f"processes cannot be started: {self.pids}")

    def run(
        self, work: Callable[..., Any], *arguments: Any, patience: float | None = None
    ) -> list[Any]:
        """What ``work(rank, *arguments)`` returns in each process.

        Parameters
        ----------
        work
            A function of a module; or of a notebook, which is then sent as its source text and
            has to import what it uses.
        arguments
            The same for all; anything that pickles.
        patience
            Seconds to wait for the answers; by default twice the time-out, and a minute.

        Raises
        ------
        RuntimeError
            With every process's error, if one has any, or does not answer. Processes that ended
            or do not answer are gone then, and the others with them.
        """
        answers = self.attempt(work, *arguments, patience=patience)
        failed = [
            f"process {rank}: {x}" for rank, x in enumerate(answers) if isinstance(x, Exception)
        ]
        if failed:
            first = next(x for x in answers if isinstance(x, Exception))
            raise RuntimeError("\n".join(failed)) from first
        return answers

    def attempt(
        self, work: Callable[..., Any], *arguments: Any, patience: float | None = None
    ) -> list[Any]:
        """The same, with the exception of a process in place of its answer."""
        task = pickle.dumps((_portable(work), arguments))
        for rank in range(self.count):
            with suppress(OSError):  # it ended; what follows says so
                self._send(rank, task)
        deadline = time.monotonic() + (2 * self.timeout + 60 if patience is None else patience)
        answers = [self._answer(rank, deadline) for rank in range(self.count)]
        if any(isinstance(answer, GoneError) for answer in answers):
            self.stop()
        return answers

    def stop(self) -> None:
        """End the processes, now."""
        self._end()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _send(self, rank: int, message: Any) -> None:
        pickle.dump(message, self._tasks[rank])
        self._tasks[rank].flush()

    def _answer(self, rank: int, deadline: float) -> Any:
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([self._answers[rank]], [], [], left)
        if not ready:
            return GoneError(f"process {rank} does not answer")
        try:
            return pickle.load(self._answers[rank])
        except (EOFError, pickle.UnpicklingError):
            return GoneError(f"process {rank} ended")


def _end(
    mother: subprocess.Popen[bytes],
    pipes: list[Any],
    folder: tempfile.TemporaryDirectory[str],
) -> None:
    mother.terminate()  # she ends her children, and sees them off
    try:
        mother.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(mother.pid, signal.SIGKILL)
        mother.wait()
    for pipe in pipes:
        with suppress(OSError):  # what nobody will read
            pipe.close()
    folder.cleanup()


def _portable(work: Callable[..., Any]) -> Any:
    """A function as the other side can have it: by its name, or by its text."""
    module = sys.modules.get(work.__module__)
    if module is not sys.modules["__main__"] and getattr(module, work.__name__, None) is work:
        return work
    return textwrap.dedent(inspect.getsource(work)), work.__name__


def _start(settings: str) -> None:
    """Load what all need once, and divide."""
    import torch.distributed  # noqa: F401

    ends, *rest = json.loads(settings)
    children: set[int] = set()

    def kill(*_: object) -> None:
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, kill)
    for rank, (task, answer) in enumerate(ends):
        child = os.fork()
        children.add(child)
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for other in (end for pair in ends for end in pair if end not in (task, answer)):
                os.close(other)
            try:
                _serve(os.fdopen(task, "rb"), os.fdopen(answer, "wb"), rank, len(ends), *rest)
            finally:
                os._exit(0)  # without waiting for messages that nobody takes
    for end in (end for pair in ends for end in pair):
        os.close(end)
    while children:
        children.remove(os.wait()[0])


def _serve(
    tasks: BinaryIO, answers: BinaryIO, rank: int, count: int,
    timeout: float, threads: int, folder: str,
) -> None:  # fmt: skip
    """The life of a process: meet the others, then work until nobody asks any more."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(threads)
    if Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(Path(folder) / "store"), count)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=timeout)
    )
    pickle.dump(os.getpid(), answers)
    answers.flush()
    while True:
        try:
            task = pickle.load(tasks)
        except EOFError:
            return
        try:
            work, arguments = pickle.loads(task)
            if isinstance(work, tuple):
                text, name = work
                names: dict[str, Any] = {"__name__": "__main__"}
                exec(compile(text, f"<{name}>", "exec"), names)
                work = names[name]
            answer = pickle.dumps(work(rank, *arguments))
        except Exception as error:
            error.add_note(traceback.format_exc())
            try:
                answer = pickle.dumps(error)
                pickle.loads(answer)
            except Exception:
                answer = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        answers.write(answer)
        answers.flush()
