"""How time and memory grow with the length, of every method; what the plot shows."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.measure import GROWTH, growth
from benchmarks.telling import Tell, in_fresh_processes, tell_growth


@pytest.mark.parametrize("method", ["dot product", "additive", "gaussian", "compact"])
def test_growth(benchmark: Any, tell: Tell, method: str) -> None:
    grown = in_fresh_processes(benchmark, growth, **GROWTH[method])
    benchmark.extra_info["growth"] = {
        "method": method,
        "lengths": grown.lengths[: len(grown.seconds)],
        "seconds": grown.seconds,
        "extra_bytes": grown.extra_bytes,
    }
    work, part = "growth of time with length", {"part": method}
    tell_growth(tell, work, "exponent at most 2.1", "time", grown, **part)
    tell_growth(tell, work, "of memory at most 1.1", "memory", grown, **part)
