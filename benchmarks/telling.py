"""From what was measured to lines of the table.

What runs in fresh processes is only bracketed by pytest-benchmark's clock, which saves what else
was measured beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.measure import Estimate, Fresh, Growth, exponent, ratio
from benchmarks.report import quantity
from benchmarks.works import OURS

Tell = Callable[..., None]
Times = dict[str, list[float]]


def faster(times: Times, peer: str) -> dict[str, Any]:
    """How many times faster ours is than a peer."""
    return {"measured": ratio(times[peer], times[OURS]), "unit": "×", "note": _both(times, peer)}


def slower(times: Times, peer: str) -> dict[str, Any]:
    """How many times the time of a peer, or of a floor, ours takes."""
    return {"measured": ratio(times[OURS], times[peer]), "unit": "×", "note": _both(times, peer)}


def growing(times: Times, peer: str, factor: float) -> dict[str, Any]:
    """The exponent of time, from turns with a peer whose length is that many times shorter."""
    turns = zip(times[OURS], times[peer], strict=True)
    steps = [math.log(ours / shorter) / math.log(factor) for ours, shorter in turns]
    return {"measured": Estimate.of(steps), "note": _both(times, peer)}


def _both(times: Times, peer: str) -> str:
    ours, other = (quantity(median(times[name]), "s") for name in (OURS, peer))
    return f"{ours} against {other}" + (", run once" if len(times[peer]) == 1 else "")


def in_fresh_processes(
    benchmark: Any, measure: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    """What a measurement found that was made elsewhere."""
    return benchmark.pedantic(measure, args=args, kwargs=options, rounds=1)


def tell_growth(tell: Tell, work: str, target: str, what: str, grown: Growth, **line: Any) -> None:
    """The exponent of time or memory."""
    amounts, unit, at_most = (
        (grown.seconds, "s", 2.1) if what == "time" else (grown.extra_bytes, "B", 1.1)
    )
    if not grown.failure:
        line["measured"] = Estimate.of([exponent(grown.lengths, amounts)])
    found = ", ".join(quantity(amount, unit) for amount in amounts)
    lengths = ", ".join(f"{length:,}".replace(",", " ") for length in grown.lengths)
    line["note"] = grown.failure or f"{found} at {lengths}"
    tell(work, target=target, at_most=at_most, **line)


def tell_time(tell: Tell, work: str, target: str, at_most: float, run: Fresh) -> None:
    """Seconds, if it finished."""
    measured = None if run.failure else Estimate.of(run.seconds)
    tell(work, target=target, at_most=at_most, unit="s", measured=measured, note=run.failure)


def tell_memory(tell: Tell, work: str, target: str, at_most: float, run: Fresh) -> None:
    """Bytes, if it finished."""
    measured = None if run.failure else Estimate.of([run.extra_bytes])
    seconds = f"in {quantity(median(run.seconds), 's')}" if run.seconds else ""
    note = run.failure or seconds
    tell(work, target=target, at_most=at_most, unit="B", measured=measured, note=note)
