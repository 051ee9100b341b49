"""Are these outputs still what the code gives? The one comparison of gate and refresh."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.gate.measure import Tolerance, image_differences, text_differences
from tests.gate.svg import svg_differences

Output = Mapping[str, Any]  # a notebook's output, as nbformat reads it and kernels send it

GLUED = "application/papermill.record/"  # prefix of the mime types of a glued value

COMPARERS: dict[str, Callable[[str, str, Tolerance], list[str]]] = {
    "text/plain": text_differences,
    "text/html": text_differences,
    "text/latex": text_differences,
    "text/markdown": text_differences,
    "image/svg+xml": svg_differences,
    "image/png": image_differences,
    "image/jpeg": image_differences,
}


@dataclass(frozen=True)
class Difference:
    """One thing that changed, in words."""

    output: int  # position of the output in its cell
    mime: str
    text: str

    def __str__(self) -> str:
        return f"output {self.output + 1}, {self.mime}: {self.text}"


def is_compared(mime: str) -> bool:
    """Whether anything would notice that an output of this type changed."""
    return mime.removeprefix(GLUED) in COMPARERS


def is_glued(output: Output) -> bool:
    """Whether an output is a value that prose quotes."""
    return any(mime.startswith(GLUED) for mime in output.get("data", {}))


def compare(
    stored: Sequence[Output], fresh: Sequence[Output], tolerance: Tolerance | None = None
) -> list[Difference]:
    """List what differs between a cell's stored outputs and those of running it now."""
    stored, fresh = join_streams(stored), join_streams(fresh)
    old, new = list(map(_kind, stored)), list(map(_kind, fresh))
    if old != new:
        changed = [n for n, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]]
        at = changed[0] if changed else min(len(old), len(new))
        text = f"stored are {_listing(old)}; running the cell gives {_listing(new)}"
        return [Difference(at, "number and kind of outputs", text)]
    return [
        Difference(position, mime, text)
        for position, pair in enumerate(zip(stored, fresh, strict=True))
        for mime, text in _compare_output(*pair, tolerance or Tolerance())
    ]


def join_streams(outputs: Sequence[Output]) -> list[Output]:
    """Join consecutive writes to one stream, which come in pieces as the clock has it."""
    joined: list[dict[str, Any]] = []
    for output in map(dict, outputs):
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and output["name"] == last.get("name"):
            last["text"] += output["text"]
        else:
            joined.append(output)
    for output in joined:
        if output["output_type"] == "stream":  # keep what a carriage return leaves visible
            output["text"] = re.sub(r"^.*\r(?=[^\n])", "", output["text"], flags=re.MULTILINE)
    return list(joined)


def _compare_output(
    stored: Output, fresh: Output, tolerance: Tolerance
) -> Iterator[tuple[str, str]]:
    if stored["output_type"] == "stream":
        for text in text_differences(stored["text"], fresh["text"], tolerance):
            yield stored["name"], text
    elif stored["output_type"] == "error":
        for text in text_differences(stored["evalue"], fresh["evalue"], tolerance):
            yield stored["ename"], text
    else:
        old, new = (output.get("metadata", {}).get("scrapbook") for output in (stored, fresh))
        if old != new:
            yield "glued name", f"{old} became {new}"
        for mime in sorted(stored["data"]):
            if not is_compared(mime):
                yield mime, "nothing compares this type"
                continue
            comparer = COMPARERS[mime.removeprefix(GLUED)]
            glued = f'glued value "{_glued_name(stored)}": ' if mime.startswith(GLUED) else ""
            for text in comparer(stored["data"][mime], fresh["data"][mime], tolerance):
                yield mime, glued + text


def _glued_name(output: Output) -> str:
    return str(output.get("metadata", {}).get("scrapbook", {}).get("name", "nothing"))


def _kind(output: Output) -> str:
    """What an output is, apart from its content."""
    if output["output_type"] == "stream":
        return str(output["name"])
    if output["output_type"] == "error":
        return str(output["ename"])
    return f"{output['output_type']} ({', '.join(sorted(output['data']))})"


def _listing(kinds: list[str]) -> str:
    return f"{len(kinds)} ({'; '.join(kinds)})" if kinds else "none"
