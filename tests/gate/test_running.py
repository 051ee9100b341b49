"""A chapter is compared as Jupyter would show it in the end, and no cell fails unseen."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from tests.gate.compare import compare, join_streams
from tests.gate.running import Run, run_chapter
from tools.refresh import refresh

HELPERS = "from IPython.display import clear_output, display, update_display"


def notebook_of(*sources: str, **metadata: list[str]) -> NotebookNode:
    """The helpers, then these cells, the last of them with this metadata."""
    cells = [new_code_cell(source) for source in (HELPERS, *sources)]
    cells[-1].metadata.update(metadata)
    return new_notebook(cells=cells)


def shown(run: Run) -> list[list[object]]:
    """What a reader sees below each cell but the first."""
    return [
        [
            output.get("text") or output.get("data", {}).get("text/plain") or output.get("ename")
            for output in join_streams(cell.outputs)
        ]
        for cell in run.cells[1:]
    ]


ENDS = {
    "updated": (["h = display('loss 9', display_id=True)\nh.update('loss 1')"], [["'loss 1'"]]),
    "updated by a later cell": (
        ["h = display('loss 9', display_id=True)", "print('on')\nh.update('loss 1')"],
        [["'loss 1'"], ["on\n"]],
    ),
    "shown twice and updated": (
        ["for x in 1, 2:\n    display(x, display_id='a')\nupdate_display(3, display_id='a')"],
        [["3", "3"]],
    ),
    "updated, but never shown": (["update_display(1, display_id='b')\nprint(2)"], [["2\n"]]),
    "cleared": (["print(1)\ndisplay(2)\nclear_output()"], [[]]),
    "cleared, and shown again": (["print(1)\nclear_output()\nprint(2)"], [["2\n"]]),
    "cleared once there is more": (["print(1)\nclear_output(wait=True)\nprint(2)"], [["2\n"]]),
    "to be cleared, but nothing follows": (["print(1)\nclear_output(wait=True)"], [["1\n"]]),
    "to be cleared, but only updated": (
        ["h = display(1, display_id=True)\nclear_output(wait=True)\nh.update(2)"], [["2"]],
    ),
    "cleared, and updated too late": (
        ["h = display(1, display_id=True)\nclear_output()\nh.update(2)\nprint(3)"], [["3\n"]],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sources", "expected"), ENDS.values(), ids=ENDS)
def test_outputs_are_those_of_the_end(
    sources: list[str], expected: list[list[object]], tmp_path: Path
) -> None:
    run = run_chapter(notebook_of(*sources), tmp_path)
    assert shown(run) == expected
    assert run.failures == {}


def test_refreshing_stores_what_is_compared(tmp_path: Path) -> None:
    """All at once, one after the other: what was stored is what a later run shows."""
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook_of(*(s for sources, _ in ENDS.values() for s in sources)), path)
    assert refresh(path).rewritten
    stored = nbformat.read(path, as_version=4)
    fresh = run_chapter(stored, tmp_path).cells
    for old, new in zip(stored.cells, fresh, strict=True):
        assert compare(old.outputs, new.outputs) == []
    stale = stored.cells[1].outputs[0].data
    assert stale["text/plain"] == "'loss 1'"
    stale["text/plain"] = "'loss 9'"
    assert "9 became 1" in str(compare(stored.cells[1].outputs, fresh[1].outputs)[0])


FAILS = {
    "a magic that does not exist": ("%notmagic\nx = 0", "UsageError"),
    "a cell magic that does not exist": ("%%notmagic\nx = 0", "UsageError"),
    "such a magic, its message hidden": (
        "import sys\nsys.stderr = sys.stdout\n%notmagic", "UsageError",
    ),
    "an error": ("1 / 0", "ZeroDivisionError: division by zero"),
    "an error that is cleared": (
        "try:\n    1 / 0\nfinally:\n    clear_output(wait=True)", "ZeroDivisionError",
    ),
    "code that is none": ("x = = 1", "SyntaxError"),
    "a warning": ("import warnings\nwarnings.warn('careful')", "stderr"),
    "an exit": ("import sys\nsys.exit(1)", "SystemExit"),
    "a kernel that dies": ("import os\nos._exit(1)", "ended the run: Kernel died"),
    "a cell without end": ("import time\ntime.sleep(60)", "ended the run: A cell timed out"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "words"), FAILS.values(), ids=FAILS)
def test_a_cell_that_fails_is_named_and_those_after_it_run_or_say_why_not(
    source: str, words: str, tmp_path: Path
) -> None:
    failures = run_chapter(notebook_of(source, "print('after')"), tmp_path, timeout=4).failures
    assert words in failures.pop(2)
    if "ended" in words:
        assert failures.pop(3) == "was not reached: In [2] ended the run"
    assert failures == {}


def test_timings_may_change_but_not_fail(tmp_path: Path) -> None:
    cell = "import warnings\nwarnings.warn('careful')"
    assert "careful" in run_chapter(notebook_of(cell, tags=["timings"]), tmp_path).failures[2]


def test_an_error_that_a_cell_announces_is_its_output(tmp_path: Path) -> None:
    run = run_chapter(notebook_of("1 / 0", tags=["raises-exception"]), tmp_path)
    assert run.failures == {}
    assert shown(run) == [["ZeroDivisionError"]]


def test_no_tag_keeps_a_cell_from_running(tmp_path: Path) -> None:
    run = run_chapter(notebook_of("print(1)", tags=["skip-execution"]), tmp_path)
    assert shown(run) == [["1\n"]]


def test_agreement_without_a_tolerance_is_agreement_to_rounding() -> None:
    run = run_chapter(
        notebook_of(
            "import torch\n\none = torch.rand(5, dtype=torch.float64)",
            "torch.allclose(one, one.clone()), torch.allclose(one, one + 1e-7)",
            "[torch.allclose(one, one + 1e-7, atol=near) for near in (1e-6, 1e-9)]",
            "all(map(torch.allclose, [torch.ones(5)], [torch.ones(5) + 2e-6]))",
        ),
        Path(),
    )
    assert not run.failures
    assert shown(run)[1:] == [["(True, False)"], ["[True, False]"], ["True"]]
