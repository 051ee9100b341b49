"""Run in a fresh process: how long one contestant takes, and how much memory above its inputs.

`python -m benchmarks.fresh '["additive", "d2lattn", {"length": 512}, 3]'` prints a JSON object.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MMAP_THRESHOLD = -3  # glibc's number for it: larger pieces are asked of the system, one by one


def peak_bytes(run: Callable[[], Any]) -> int:
    """The peak resident set while it runs, minus the resident set before."""
    before = _start_of_peak()
    run()
    return max(0, _peak() - before)


def keep_nothing_freed() -> None:
    """From now on, have freed memory given back at once, where the C library can be told so.

    It keeps some for later, more or less of it from run to run, which would count as if it were
    in use. Giving back takes time: not where the time is measured as well.
    """
    c = ctypes.CDLL(None)
    if hasattr(c, "mallopt"):
        c.mallopt(_MMAP_THRESHOLD, 2**16)


def _start_of_peak() -> int:
    """Give freed memory back, so that using it again is seen; begin a new peak; where it begins."""
    if not _STATUS.exists():
        return _peak()
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")
    return _peak()


def _peak() -> int:
    """The peak resident set of this process: on Linux since the last reset, else since its start.

    Not `getrusage` on Linux: there a process inherits the peak of the one that started it.
    """
    if _STATUS.exists():
        (line,) = (x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(request: str) -> None:
    """Warm up on a small work, so that no import and no start of threads is measured."""
    import torch

    from benchmarks.works import WARM_UP, WORKS

    name, contestant, sizes, repeats = json.loads(request)
    torch.manual_seed(0)
    WORKS[name](**{**sizes, "length": min(WARM_UP, sizes["length"])})[contestant]()
    run = WORKS[name](**sizes)[contestant]
    seconds: list[float] = []

    def timed() -> None:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)

    extra = peak_bytes(timed)
    for _ in range(repeats - 1):
        timed()
    print(json.dumps({"seconds": seconds, "extra_bytes": extra}))


if __name__ == "__main__":
    main(sys.argv[1])
