"""Run chapters again and store only the outputs that really changed.

    python -m tools.refresh [--check] [CHAPTER ...]

"Really" means: by the comparison that the tests use. A notebook whose outputs are all still
true stays as it is, byte for byte, on whatever machine this runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from tqdm import tqdm

from tests.gate.compare import compare, join_streams
from tests.gate.measure import Tolerance
from tests.gate.pages import ROOT, Cell, code_cells, read_page
from tests.gate.running import run_chapter
from tests.gate.timings import TIMINGS

_VOLATILE = {"execution", "collapsed", "ExecuteTime", "jupyter"}  # metadata of a cell


@dataclass(frozen=True)
class Report:
    """What became of a chapter."""

    chapter: str
    cells: int  # with code
    rewritten: list[int]  # as numbered by Jupyter
    tidied: bool = False  # counts or metadata were wrong
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"{self.chapter}: not written\n{self.error}"
        if self.rewritten:
            which = ", ".join(map(str, self.rewritten))
            return (
                f"{self.chapter}: outputs of {len(self.rewritten)} of {self.cells} cells "
                f"rewritten (In {which})"
            )
        return f"{self.chapter}: {'counts and metadata tidied' if self.tidied else 'unchanged'}"


def refresh(path: Path, *, write: bool = True, done: Callable[[], object] = lambda: None) -> Report:
    """Run a chapter and rewrite what changed."""
    stored = nbformat.read(path, as_version=4)
    cells = code_cells(stored.cells)
    run = run_chapter(stored, path.parent, done=done)
    for number, what in run.failures.items():
        message = f"{cells[number - 1].where} {what}"
        return Report(path.stem, len(cells), [], error=message)
    pairs = list(zip(cells, run.cells, strict=True))
    rewritten = [old.number for old, new in pairs if _update_outputs(old, new)]
    tidied = [_tidy(old.node, new.node.execution_count) for old, new in pairs]
    tidied.append(stored.metadata.pop("widgets", None) is not None)
    if write and (rewritten or any(tidied)):
        nbformat.write(stored, path)
    return Report(path.stem, len(cells), rewritten, any(tidied))


def _update_outputs(old: Cell, new: Cell) -> bool:
    """Put the fresh outputs into a stored cell if they differ; tell whether they did."""
    if TIMINGS in old.tags and old.outputs:
        return False  # another run never repeats them
    if not compare(old.outputs, new.outputs, Tolerance.of(old.node)):
        return False
    old.node.outputs = [nbformat.from_dict(output) for output in join_streams(new.outputs)]
    return True


def _tidy(cell: NotebookNode, count: int | None) -> bool:
    """Correct the execution count and drop metadata that changes with every run."""
    wrong = cell.execution_count != count
    cell.execution_count = count
    for output in cell.outputs:
        if output.output_type == "execute_result" and output.execution_count != count:
            wrong, output.execution_count = True, count
    folded = {"jupyter"} if "hide-cell" in cell.metadata.get("tags", []) else set()
    for key in (_VOLATILE - folded) & cell.metadata.keys():
        wrong = True
        del cell.metadata[key]
    return wrong


def refresh_all(paths: list[Path], *, write: bool = True) -> list[Report]:
    """Refresh chapters side by side, one kernel for each core."""
    total = sum(len(read_page(path).code) for path in paths)
    with (
        tqdm(total=total, unit="cell", leave=False, disable=None) as progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        jobs = [pool.submit(refresh, path, write=write, done=progress.update) for path in paths]
        return [job.result() for job in jobs]


def main(arguments: list[str] | None = None) -> int:
    """Refresh the chapters named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m tools.refresh", description=__doc__)
    parser.add_argument("chapters", nargs="*", help="names or paths; all chapters by default")
    parser.add_argument("--check", action="store_true", help="write nothing, fail on changes")
    options = parser.parse_args(arguments)
    found = [_find(chapter) for chapter in options.chapters]
    reports = refresh_all(found or sorted(ROOT.glob("book/*.ipynb")), write=not options.check)
    print(*reports, sep="\n")
    changed = any(report.rewritten or report.tidied for report in reports)
    return int(any(report.error for report in reports) or (options.check and changed))


def _find(chapter: str) -> Path:
    """A chapter by its path, or by how its name begins: `01` will do."""
    if Path(chapter).is_file():
        return Path(chapter).resolve()
    found = sorted(ROOT.glob(f"book/{chapter}*.ipynb"))
    if len(found) != 1:
        sys.exit(f"{len(found)} chapters in {ROOT / 'book'} are called {chapter}…; name one")
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
