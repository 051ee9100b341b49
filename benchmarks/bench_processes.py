"""Rows on attention over several processes. `make bench ARGS="-k processes"` runs them alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import processes as work
from benchmarks.measure import Estimate, ratio
from benchmarks.report import quantity
from benchmarks.telling import Tell
from d2lattn.distributed import Processes

SPEED = "2 processes of one thread each against one of one thread, 16 384 × 64, dot product"
ROUNDING = "ring of 8, error against float64"
MEMORY = "memory of each process"
BYTES = "bytes sent"
FEWER = {"full": (False, 1.8), "causal zig-zag": (True, 1.7)}


def in_processes(benchmark: Any, count: int, run: Any, *arguments: Any) -> list[Any]:
    """What they answer; pytest-benchmark's clock only brackets it."""
    with Processes(count, timeout=120) as team:
        return benchmark.pedantic(team.run, args=(run, *arguments), rounds=1)


@pytest.mark.parametrize("part", FEWER)
def test_processes_speed(benchmark: Any, tell: Tell, part: str) -> None:
    causal, at_least = FEWER[part]
    found = in_processes(benchmark, 2, work.attend_in_turns, 16_384, 64, causal, 5)[0]
    ring, alone = (list(times) for times in zip(*found, strict=True))
    note = f"{quantity(min(alone), 's')} against {quantity(min(ring), 's')}"
    target = f"at least {at_least} × faster"
    tell(
        SPEED, target=target, part=part, at_least=at_least, unit="×",
        measured=ratio(alone, ring), note=note,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_processes_rounding(benchmark: Any, tell: Tell, dtype: torch.dtype) -> None:
    ours, theirs = in_processes(benchmark, 8, work.errors, dtype)[0]
    tell(
        ROUNDING, target="at most 1.2 × one process's", part=str(dtype)[6:],
        at_most=1.2, unit="×", measured=Estimate.of([ours / theirs]),
        note=f"{ours:.1e} against {theirs:.1e}",
    )  # fmt: skip


def test_processes_memory(benchmark: Any, tell: Tell) -> None:
    length, width, n = 16_384, 64, 4
    found = in_processes(benchmark, n, work.memory, length, width, 5)
    block = 2 * length // n * width * 4  # keys and values, float32
    ring, one = [float(max(x)) for x in zip(*(ring for ring, _ in found), strict=True)], found[0][1]
    tell(
        MEMORY, target="1/n of one process's plus one block in flight", part="n = 4",
        at_most=one / n + block, unit="B", measured=Estimate.of(ring),
        note=f"above the inputs; a block {quantity(block, 'B')}, one process {quantity(one, 'B')}",
    )  # fmt: skip


def test_processes_bytes(benchmark: Any, tell: Tell) -> None:
    length, width, n = 1000, 16, 4
    found = in_processes(benchmark, n, work.traffic, length, width)
    block = length // n * 2 * width * 4
    parts = [
        sent / (blocks * block)
        for of_one in found
        for sent, blocks in zip(of_one, (n - 1, 2 * n - 1), strict=True)
    ]
    tell(
        BYTES, target="exactly (n − 1) and (2 n − 1) blocks, there and back", at_most=1,
        unit="×", measured=Estimate.of([max(x for part in parts for x in (part, 1 / part))]),
        note="the formula's bytes",
    )  # fmt: skip
