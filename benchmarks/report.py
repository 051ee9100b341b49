"""What pytest-benchmark saved, as one table and one plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, Self

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import Estimate

_SCALES = {
    "s": [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
    "B": [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")],
}


@dataclass(frozen=True)
class Line:
    """One measurement of a work beside its target; without a limit it is told, not judged."""

    work: str
    target: str = ""
    part: str = ""  # which of several cases or peers, where the target does not say it
    measured: Estimate | None = None
    unit: str = ""  # "×", "s", "B" (bytes), or nothing for an exponent
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The line that `dataclasses.asdict` made into a record."""
        found = record["measured"]
        return cls(**{**record, "measured": found and Estimate(**found)})

    @property
    def share(self) -> float | None:
        """How much of what the target allows was used: met up to 1."""
        if self.measured is None:
            return None
        value = self.measured.value
        if self.at_most is not None:
            return value / self.at_most
        return self.at_least / value if self.at_least is not None else None

    @property
    def met(self) -> str:
        if self.at_most is None and self.at_least is None:
            return "–"
        if self.share is None:
            return "not measured" if self.note.startswith("skipped") else "not met"
        return "met" if self.share <= 1 else "not met"

    @property
    def result(self) -> str:
        """The median; how far single runs were from it, and how many there were."""
        if self.measured is None:
            return "–"
        text = quantity(self.measured.value, self.unit)
        if self.measured.runs == 1:
            return text
        low, high = (quantity(x, self.unit) for x in (self.measured.low, self.measured.high))
        return f"{text} ({low} to {high}, {self.measured.runs} runs)"

    @property
    def cells(self) -> list[str]:
        target = ": ".join(text for text in (self.target, self.part) if text)
        limit = self.at_most if self.unit == "B" else None
        if limit is not None:
            target += f" ({quantity(limit, 'B')})"
        return [self.work, target, self.result, self.met, self.note]


HEADER = ["work", "target", "measured", "met", "what was compared"]


def quantity(value: float, unit: str) -> str:
    """Three digits and a unit that suits them."""
    for scale, name in _SCALES.get(unit, []):
        if value >= scale:
            return f"{_three_digits(value / scale)} {name}"
    return f"{_three_digits(value)} {unit}".rstrip()


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.{max(0, min(4, 2 - math.floor(math.log10(abs(value)))))}f}"


def lines_of(saved: Mapping[str, Any]) -> list[Line]:
    """All lines, those of one work together."""
    found = [
        Line.of(record)
        for run in saved["benchmarks"]
        for record in run["extra_info"].get("lines", [])  # none where it was interrupted
    ]
    works = list(dict.fromkeys(line.work for line in found))
    return sorted(found, key=lambda line: works.index(line.work))


def machine_of(saved: Mapping[str, Any]) -> str:
    """What the numbers were measured on."""
    machine, when = saved["machine_info"], saved["datetime"][:16]
    return (
        f"{machine['cpu'].get('brand_raw', machine['machine'])}, {machine['cores']} cores, "
        f"{machine['threads']} threads, load {machine['load']:.1f} before; "
        f"torch {machine['torch']}, Python {machine['python_version']}; {when}. "
        "Medians, with the lowest and highest run. Times of one line are from the same process, "
        "in turns; memory is the peak resident set of a fresh process minus what it held before."
    )


def as_markdown(lines: Iterable[Line]) -> str:
    """The table."""
    rows = [HEADER, ["---"] * len(HEADER), *_grouped(lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def as_text(lines: Iterable[Line]) -> str:
    """The table for a terminal: a work, and below it its targets, in columns."""
    rows = list(_grouped(lines))
    widths = [max(len(row[i]) for row in [HEADER, *rows]) for i in (1, 2, 3)]
    told: list[str] = []
    for work, *cells, note in rows:
        if work:
            told += ["", work]
        columns = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        told.append(f"  {columns}  {note}".rstrip())
    return "\n".join(told) + "\n"


def _grouped(lines: Iterable[Line]) -> Iterable[list[str]]:
    """Cells, with a work named only once."""
    before = ""
    for line in lines:
        work, *rest = line.cells
        yield ["" if work == before else work, *rest]
        before = work


def draw(lines: Sequence[Line], saved: Mapping[str, Any], path: Path) -> None:
    """How much of each target was used, and how time and memory grow."""
    judged = [line for line in lines if line.share]
    curves = [run["extra_info"].get("growth") for run in saved["benchmarks"]]
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12, 1.5 + 0.42 * max(9, len(judged))), layout="constrained")
        axes = figure.subplot_mosaic([["targets", "seconds"], ["targets", "extra_bytes"]])
        _draw_shares(axes["targets"], judged)
        for name, label in (("seconds", "seconds"), ("extra_bytes", "extra memory, bytes")):
            for curve in filter(None, curves):
                axes[name].plot(curve["lengths"], curve[name], "o-", label=curve["method"])
            axes[name].set(xlabel="length", ylabel=label, xscale="log", yscale="log")
            if any(curves):
                axes[name].legend(frameon=False)
        figure.savefig(path)


def _draw_shares(ax: Axes, lines: Sequence[Line]) -> None:
    """Bars from what the target allows: to the left where it was met, else to the right."""
    places = range(len(lines))
    beyond = [(line.share or 1.0) - 1.0 for line in lines]
    colours = ["tab:blue" if line.met == "met" else "tab:orange" for line in lines]
    ax.barh(places, beyond, left=1.0, color=colours, height=0.6)
    names = [fill(f"{line.cells[0]} — {line.cells[1]}".replace("`", ""), 70) for line in lines]
    ax.set_yticks(places, names, fontsize=6)
    ax.invert_yaxis()
    ax.axvline(1.0, color="black", linewidth=1)
    ax.set(
        xscale="log", xlabel="share of what the target allows; met to the left of the line, at 1"
    )


def report(folder: Path) -> str:
    """Write the table and the plot beside the numbers; return the table for a terminal."""
    saved = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    lines, machine = lines_of(saved), machine_of(saved)
    (folder / "bench.md").write_text(f"{as_markdown(lines)}\n{machine}\n", encoding="utf-8")
    draw(lines, saved, folder / "bench.svg")
    return f"{as_text(lines)}\n{machine}\n"
