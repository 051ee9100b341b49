"""Times taken in turns, memory in fresh processes, and how both grow with the length."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.works import OURS, WARM_UP, WORKS

ROOT = Path(__file__).resolve().parents[1]

# From where the linear part of memory can be seen to what takes seconds.
GROWTH: dict[str, dict[str, Any]] = {
    "dot product": {
        "work": "dot_product", "lengths": [4096, 8192, 16384, 32768], "batch": 1, "repeats": 3,
    },
    "additive": {
        "work": "additive", "lengths": [2048, 4096, 8192, 16384], "batch": 1, "hidden": 16,
    },
    "gaussian": {"work": "gaussian", "lengths": [12_500, 25_000, 50_000, 100_000]},
    "selection": {
        "work": "bandwidth", "lengths": [2500, 5000, 10_000, 20_000], "candidates": 2,
    },
    "compact": {
        "work": "compact", "lengths": [125_000, 250_000, 500_000, 1_000_000], "limit": 90.0,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A median, how far the single runs were from it, and how many there were."""

    value: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        return cls(median(values), min(values), max(values), len(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """How many times one is the other: run by run if they took turns, else by their medians."""
    if len(above) == len(below):
        return Estimate.of([a / b for a, b in zip(above, below, strict=True)])
    value = median(above) / median(below)
    return Estimate(
        value, min(above) / max(below), max(above) / min(below), min(len(above), len(below))
    )


def exponent(lengths: Sequence[int], amounts: Sequence[float]) -> float:
    """The slope of amounts against lengths, both in logarithms, by least squares."""
    if len(lengths) < 4:
        raise ValueError(f"lengths must be at least 4 for a slope; got {len(lengths)}")
    x, y = [math.log(n) for n in lengths], [math.log(max(a, 1e-9)) for a in amounts]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return rise / sum((a - middle_x) ** 2 for a in x)


def in_turns(
    benchmark: Any,
    work: str,
    rounds: int = 5,
    *,
    against: Sequence[str] = (),
    once: Sequence[str] = (),
    **sizes: Any,
) -> dict[str, list[float]]:
    """Seconds of ours and of others, in turns, so that a busy moment of the machine hits all.

    Ours is timed by pytest-benchmark; the others, in its `setup`, before each round. Those named
    in `once` are slow: each runs a single time, before a round of its own.
    """
    rounds = max(rounds, len(once))
    small = WORKS[work](**{**sizes, "length": min(WARM_UP, sizes["length"])})
    contestants = WORKS[work](**sizes)
    expected = small[OURS]()
    for name in (*against, *once):  # imports, threads, compilation; and no peer computes less
        if (found := small[name]()) is not None:
            torch.testing.assert_close(found, expected, rtol=0.05, atol=1e-3, msg=name)
    turns = [[*against, *once[i : i + 1]] for i in range(rounds)]
    times: dict[str, list[float]] = {name: [] for name in (OURS, *against, *once)}

    def the_others() -> None:
        for name in turns.pop(0):
            start = time.perf_counter()
            contestants[name]()
            times[name].append(time.perf_counter() - start)

    benchmark.pedantic(contestants[OURS], setup=the_others, rounds=rounds)
    times[OURS] = list(benchmark.stats.stats.data)
    benchmark.extra_info.setdefault("seconds", {})[work] = times
    return times


@dataclass(frozen=True)
class Fresh:
    """What a run in a fresh process took; nothing if it did not finish, and why."""

    seconds: tuple[float, ...] = ()
    extra_bytes: int = 0
    failure: str = ""


def fresh(
    work: str, contestant: str = OURS, *, repeats: int = 1, limit: float = 120.0, **sizes: Any
) -> Fresh:
    """Seconds and peak memory above the inputs, in a process of its own."""
    return _fresh(json.dumps([work, contestant, sizes, repeats]), limit)


@cache
def _fresh(request: str, limit: float) -> Fresh:
    command = [sys.executable, "-m", "benchmarks.fresh", request]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return Fresh(failure=f"stopped after {limit:.0f} s")
    if done.returncode < 0:  # by a signal, as where memory ends
        return Fresh(failure=f"killed by signal {-done.returncode}")
    if done.returncode > 0:
        raise RuntimeError(f"{request} failed:\n{done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    return Fresh(tuple(result["seconds"]), result["extra_bytes"])


@dataclass(frozen=True)
class Growth:
    """Fresh runs of a work at several lengths; the last one says why if they end too early."""

    lengths: tuple[int, ...]
    runs: tuple[Fresh, ...]

    @property
    def failure(self) -> str:
        last = self.runs[-1]
        return last.failure and f"{last.failure} at length {self.lengths[len(self.runs) - 1]}"

    @property
    def seconds(self) -> list[float]:
        return [median(run.seconds) for run in self.runs if not run.failure]

    @property
    def extra_bytes(self) -> list[int]:
        return [run.extra_bytes for run in self.runs if not run.failure]


def growth(work: str, lengths: Sequence[int], **options: Any) -> Growth:
    """The work at each length, shortest first, as far as it finishes."""
    runs: list[Fresh] = []
    for length in sorted(lengths):
        runs.append(fresh(work, length=length, **options))
        if runs[-1].failure:
            break
    return Growth(tuple(sorted(lengths)), tuple(runs))
