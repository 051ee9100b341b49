"""Refreshing rewrites what changed and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.refresh import main, refresh, refresh_all

CELLS = [
    "import time",
    "print('the same')",
    "value = 0.5\nvalue",
    "print(value + 1e-9, 'and', value)",
]


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a notebook that has been run by refreshing it, written without any outputs."""
    path = tmp_path_factory.mktemp("verified") / "a.ipynb"
    cells = [new_markdown_cell("Text"), *map(new_code_cell, CELLS)]
    cells.append(new_code_cell("print(time.time(), 's')", metadata={"tags": ["timings"]}))
    nbformat.write(new_notebook(cells=cells), path)
    assert str(refresh(path)) == "a: outputs of 4 of 5 cells rewritten (In 2, 3, 4, 5)"
    return path.read_text()


@pytest.fixture
def chapter(verified: str, tmp_path: Path) -> Path:
    path = tmp_path / "a.ipynb"
    path.write_text(verified)
    return path


def edit(path: Path, cell: int, **changes: Any) -> None:
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[cell].update(changes)
    nbformat.write(notebook, path)


def test_a_verified_notebook_stays_byte_identical(chapter: Path, verified: str) -> None:
    chapter.write_text(verified.replace('"metadata": {}', '"metadata":  {}', 1))  # not our format
    before = chapter.read_bytes()
    assert str(refresh(chapter)) == "a: unchanged"
    assert chapter.read_bytes() == before


def test_only_what_changed_is_rewritten(chapter: Path, verified: str) -> None:
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells[2].outputs[0].text = "something else\n"
    notebook.cells[4].outputs[0].text = "0.500000002 and 0.5\n"  # another machine's noise
    notebook.cells[3].execution_count = 9
    notebook.cells[3].metadata.execution = {"iopub.execute_input": "2026-11-22"}
    nbformat.write(notebook, chapter)
    assert refresh(chapter, write=False).rewritten == [2]
    assert "something else" in chapter.read_text()
    assert refresh(chapter).rewritten == [2]
    noise = verified.replace("0.500000001 and", "0.500000002 and")
    assert chapter.read_text() == noise


def test_a_solution_stays_folded_in_jupyter(chapter: Path) -> None:
    folded = {"tags": ["hide-cell"], "jupyter": {"source_hidden": True}}
    edit(chapter, 2, metadata=folded)
    edit(chapter, 3, metadata={"jupyter": {"source_hidden": True}})  # only how somebody left it
    refresh(chapter)
    cells = nbformat.read(chapter, as_version=4).cells
    assert (cells[2].metadata, cells[3].metadata) == (folded, {})


def test_an_error_writes_nothing_and_says_where(
    chapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(chapter, 3, source="value = 1 / 0")
    before = chapter.read_bytes()
    assert main([str(chapter)]) == 1
    assert chapter.read_bytes() == before
    message = capsys.readouterr().out
    assert "a: not written" in message
    assert "ZeroDivisionError: division by zero" in message
    assert "value = 1 / 0" in message


def test_warnings_are_errors_and_checking_writes_nothing(chapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.ipynb"
    other.write_bytes(chapter.read_bytes())
    edit(chapter, 3, source="import warnings; warnings.warn('careful'); value = 0.5")
    edit(other, 2, outputs=[])
    first, second = refresh_all([chapter, other], write=False)
    assert "In [3] writes to stderr" in first.error
    assert second.rewritten == [2]
    assert nbformat.read(other, as_version=4).cells[2].outputs == []
