"""Make nbval compare chapters as the gate does, wherever `pytest --nbval` runs.

nbval compares strings exactly, never compares PNG images, and lets a cell pass that was never
run. Here its comparison is replaced by :mod:`tests.gate.compare`, and what a cell stores must be
the result of running it. Methods are replaced on nbval's own class: a second collector would run
every chapter twice, and nbval's class cannot be swapped for a subclass (its `super()` breaks).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nbval.plugin import IPyNbCell

from tests.gate.compare import Output, compare, join_streams
from tests.gate.figures import keep_figures
from tests.gate.hygiene import stored_state
from tests.gate.measure import Tolerance
from tests.gate.pages import code_cells
from tests.gate.timings import TIMINGS

WHAT_TO_RUN = (
    "If the change is intended, run `make refresh` and read the diff before committing it."
)

_run_cell = IPyNbCell.runtest


def pytest_configure(config: pytest.Config) -> None:
    """Put the gate's comparison in the place of nbval's, and share the processor out."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:  # each runs kernels, whose threads would wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    IPyNbCell.runtest = _run
    IPyNbCell.compare_outputs = _compare
    IPyNbCell.repr_failure = _explain


def _run(item: Any) -> None:
    """Run a cell, compare its outputs, then ask whether they could have been stored so."""
    item.options["check"], item.options["skip"] = True, False  # no marker switches the gate off
    _run_cell(item)
    cells = code_cells(item.parent.nb.cells)
    problems = stored_state([cells[item.cell_num]], cells)
    if problems:
        item.raise_cell_error("was not stored as it ran", "\n".join(problems))


def _compare(item: Any, fresh: Sequence[Output], stored: Sequence[Output], *_: object) -> bool:
    if TIMINGS in item.cell.metadata.get("tags", []):
        return True
    differences = compare(stored, fresh, Tolerance.of(item.cell))
    lines = [f"- {difference}" for difference in differences]
    folder = _folder(item)
    if keep_figures(differences, join_streams(stored), join_streams(fresh), folder):
        lines.append(f"Stored, fresh and difference images are in {folder}")
    item.comparison_traceback = lines
    return not differences


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
