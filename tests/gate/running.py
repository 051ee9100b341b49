"""Run a chapter as Jupyter does, and keep what it shows in the end.

An output may be updated or cleared after it was sent, by a later cell too. So a chapter runs as a
whole, in nbclient, which follows Jupyter in this; nbval, a cell at a time, would pass over it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from traitlets import default

from tests.gate.pages import Cell, code_cells

CELL_TIMEOUT = 120  # seconds, where nobody says otherwise
STRICT = Path(__file__).with_name("strict.py")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class _ThisPython(KernelSpecManager):
    """Knows the Python that runs this and no other, whatever kernels are installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


class _KernelManager(AsyncKernelManager):
    @default("kernel_spec_manager")
    def _this_python(self) -> KernelSpecManager:
        return _ThisPython()


@dataclass(frozen=True)
class Run:
    """A chapter that has run, to its end or to the cell where its kernel died."""

    cells: list[Cell]  # those with code
    failures: dict[int, str] = field(default_factory=dict)  # what went wrong, by a cell's number


def run_chapter(
    notebook: NotebookNode,
    folder: Path,
    *,
    timeout: int = CELL_TIMEOUT,
    done: Callable[[], object] = lambda: None,
) -> Run:
    """Run a copy of a notebook in its own folder with this Python."""
    with ThreadPoolExecutor(1) as pool:  # where no browser's event loop is in the way
        return pool.submit(_run_chapter, notebook, folder, timeout, done).result()


def _run_chapter(
    notebook: NotebookNode, folder: Path, timeout: int, done: Callable[[], object]
) -> Run:
    fresh = nbformat.from_dict(notebook)
    replies: dict[int, dict[str, Any]] = {}

    def executed(cell_index: int, execute_reply: dict[str, Any], **_: Any) -> None:
        replies[cell_index] = execute_reply["content"]
        done()

    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        fresh,
        kernel_name="python3",
        kernel_manager_class=_KernelManager,
        timeout=timeout,
        allow_errors=True,  # what fails is told apart below, for every cell
        skip_cells_with_tag="",
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
        on_cell_executed=executed,
        extra_arguments=[
            f"--IPKernelApp.exec_lines=__import__('runpy').run_path({str(STRICT)!r})['begin']()"
        ],
    )
    end = ""
    try:
        client.execute(stderr=subprocess.DEVNULL)  # of the kernel itself, which is chatty
    except (CellTimeoutError, DeadKernelError) as error:
        end = str(error) or type(error).__name__
    return Run(code_cells(fresh.cells), _failures(fresh, replies, end))


def _failures(fresh: NotebookNode, replies: dict[int, dict[str, Any]], end: str) -> dict[int, str]:
    """What each cell died of: a magic that does not exist is no error that a cell displays."""
    places = [index for index, cell in enumerate(fresh.cells) if cell.cell_type == "code"]
    failures, ended = {}, ""
    for index, cell in zip(places, code_cells(fresh.cells), strict=True):
        reply = replies.get(index)
        if cell.is_empty:
            continue
        if reply is None:
            failures[cell.number] = ended or f"ended the run: {end}"
            ended = ended or f"was not reached: {cell.where} ended the run"
        elif reply["status"] != "ok" and "raises-exception" not in cell.tags:
            failures[cell.number] = _said(reply)
        elif text := "".join(o.text for o in cell.outputs if o.get("name") == "stderr"):
            failures[cell.number] = f"writes to stderr, which no page may show:\n{text}"
    return failures


def _said(reply: dict[str, Any]) -> str:
    """Name, message and traceback of what a cell died of."""
    lines = [f"stops with {reply.get('ename', reply['status'])}: {reply.get('evalue', '')}"]
    return _COLOURS.sub("", "\n".join([*lines, *reply.get("traceback", [])]))
