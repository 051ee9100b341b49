"""Cells of timings: run, never compared, and therefore allowed to hold nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.gate.compare import is_glued
from tests.gate.pages import Cell

TIMINGS = "timings"  # the tag of a cell whose outputs no other machine repeats

_UNIT = r"(?:ns|µs|μs|us|ms|s|min|kB|MB|GB|KiB|MiB|GiB|×|x|times)"
_QUANTITY = re.compile(rf"(?:×\s*[\d.]+|[\d.]+(?:e[-+]?\d+)?\s*{_UNIT})(?!\w)")
_UNIT_IN_NAME = re.compile(
    r"(?:^|_)(?:seconds|ms|us|ns|ratio|speedup|times|mb|gb|kb)$", re.IGNORECASE
)


def untimely(cell: Cell) -> Iterator[str]:
    """What a cell of timings prints that is no time, memory or ratio."""
    for output in cell.outputs:
        if is_glued(output):
            name = output.metadata.get("scrapbook", {}).get("name", "")
            if not _UNIT_IN_NAME.search(name):
                yield f"glues `{name}`, whose name ends in no unit (such as `_ms`, `_ratio`)"
            continue
        if any(mime.startswith("image/") for mime in output.get("data", {})):
            continue
        text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for number, line in enumerate(text.splitlines()):
            rest = _QUANTITY.sub("", line)
            heading = number == 0 and _QUANTITY.search(text)
            if _has_number(rest) or (rest == line and line.strip() and not heading):
                yield f"prints more than times, memory and ratios: {line.strip()!r}"


def _has_number(text: str) -> bool:
    """Whether a word is a number; `n=4000` and `float32` are labels."""
    words = (word.strip("()[],:;%+-") for word in text.split())
    return any(re.fullmatch(r"[\d.,]*\d[\d.,]*(?:e[-+]?\d+)?", word) for word in words)
