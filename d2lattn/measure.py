"""How long a piece of code takes, and how much memory: what the chapters' measurements stand on."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

__all__ = ["each_in_milliseconds", "milliseconds", "peak_bytes"]


def each_in_milliseconds(
    run: Callable[[], Any],
    repeats: int = 5,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The times of several calls, after one that only warms up: what :func:`milliseconds` sums up.

    Examples
    --------
    >>> times = each_in_milliseconds(lambda: sum(range(1000)), repeats=3)
    >>> len(times), 0 < min(times) <= max(times)
    (3, True)
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1; got {repeats}")
    run()
    spent = []
    for _ in range(repeats):
        start = clock()
        run()
        spent.append(1e3 * (clock() - start))
    return spent


def milliseconds(
    run: Callable[[], Any],
    repeats: int = 5,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The median time of several calls, after one that only warms up.

    Parameters
    ----------
    run
        What to time; called once more than it is timed.
    repeats
        How many calls are timed.
    clock
        Tells seconds: by default those that pass. With ``time.process_time`` only those count
        that this process computes, on all its threads together, whatever else the machine does.

    Returns
    -------
    float
        Milliseconds for one call.

    Raises
    ------
    ValueError
        If nothing would be timed.

    Examples
    --------
    >>> milliseconds(lambda: sum(range(1000))) < milliseconds(lambda: sum(range(100_000)))
    True
    """
    return median(each_in_milliseconds(run, repeats, clock=clock))


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most memory that the tensors which ``run`` makes take at any one time, on the CPU.

    Counted by PyTorch's profiler, to the byte and the same every time; not what the operating
    system lends.

    Parameters
    ----------
    run
        What to watch; called once.

    Returns
    -------
    int
        Bytes above what was held before.

    Examples
    --------
    >>> import torch
    >>> peak_bytes(lambda: torch.zeros(1000, dtype=torch.float64).exp())
    16000
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
