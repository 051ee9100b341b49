"""Make nbval run and compare chapters as the gate does, wherever `pytest --nbval` runs.

nbval compares strings exactly, never compares PNG images, passes over outputs that are updated or
cleared, and lets a cell pass that was never run. Here a chapter runs by :mod:`tests.gate.running`
when its first cell is asked for, each cell is compared by :mod:`tests.gate.compare`, and what it
stores must be the result of running it. Methods are replaced on nbval's own classes: a second
collector would run every chapter twice, and they cannot be swapped for subclasses (their
`super()` breaks).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from tests.gate.compare import compare, join_streams
from tests.gate.figures import keep_figures
from tests.gate.hygiene import stored_state
from tests.gate.measure import Tolerance
from tests.gate.pages import Cell, code_cells
from tests.gate.running import Run, run_chapter
from tests.gate.timings import TIMINGS

WHAT_TO_RUN = (
    "If the change is intended, run `make refresh` and read the diff before committing it."
)


def pytest_configure(config: pytest.Config) -> None:
    """Put the gate's comparison in the place of nbval's, and share the processor out."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:  # each runs kernels, whose threads would wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    IPyNbFile.setup = lambda chapter: None  # which would start a kernel
    IPyNbFile.run = None  # what running the chapter gave, once it has run
    IPyNbCell.runtest = _test
    IPyNbCell.repr_failure = _explain


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Let garbage be looked for in what tests make, not among a million objects that stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def _test(item: Any) -> None:
    """Compare a cell's outputs, then ask whether they could have been stored so."""
    chapter = item.parent
    if chapter.run is None:
        timeout = int(item.config.option.nbval_cell_timeout)
        chapter.run = run_chapter(chapter.nb, Path(chapter.path).parent, timeout=timeout)
    run: Run = chapter.run
    stored, fresh = code_cells(chapter.nb.cells), run.cells[item.cell_num]
    cell = stored[item.cell_num]
    if cell.number in run.failures:
        item.raise_cell_error("does not run", run.failures[cell.number])
    if lines := _differences(cell, fresh, _folder(item)):
        item.raise_cell_error("Cell outputs differ", "\n".join(lines))
    if problems := stored_state([cell], stored):
        item.raise_cell_error("was not stored as it ran", "\n".join(problems))


def _differences(stored: Cell, fresh: Cell, folder: Path) -> list[str]:
    if TIMINGS in stored.tags:
        return []
    differences = compare(stored.outputs, fresh.outputs, Tolerance.of(stored.node))
    lines = [f"- {difference}" for difference in differences]
    if keep_figures(differences, join_streams(stored.outputs), join_streams(fresh.outputs), folder):
        lines.append(f"Stored, fresh and difference images are in {folder}")
    return lines


def _folder(item: Any) -> Path:
    chapter = Path(item.parent.path).stem
    return Path(item.config.rootpath) / "_build/gate" / chapter / f"cell-{item.cell_num + 1:02d}"


def _explain(item: Any, excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    """What an author needs: which cell, what moved, what to run."""
    error: Any = excinfo.value
    if not hasattr(error, "cell_num"):
        return f"{type(error).__name__} while running a cell: {error}"
    chapter = Path(item.parent.path).stem
    source = "\n".join(f"    {line}" for line in error.source.splitlines())
    return "\n".join(
        [
            f"{chapter}, In [{error.cell_num + 1}]: {error}",
            source,
            "",
            error.inner_traceback or "",
            WHAT_TO_RUN,
        ]
    )
