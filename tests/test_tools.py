"""The tools run without pytest, where `make` says; and the gate runs without the tools."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.report import Visit, printed

ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted(path.stem for path in ROOT.glob("tools/[a-z]*.py"))
WITHOUT_PYTEST = """
import importlib, sys
sys.modules |= dict.fromkeys(["pytest", "_pytest", "nbval", "hypothesis"])  # as if not there
for tool in sys.argv[1:]:
    importlib.import_module(f"tools.{tool}")
"""


def test_no_tool_needs_pytest() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYTEST, *TOOLS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_makefile_calls_tools_that_are_there() -> None:
    called = re.findall(r"-m ([\w.]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    ours = {name for name in called if name.partition(".")[0] in ("tools", "tests", "benchmarks")}
    assert {"tools.refresh", "tools.pdf", "tools.report"} <= ours
    for name in ours:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


def test_a_chapter_can_be_checked_where_the_tools_are_not() -> None:
    """`pytest some.ipynb` loads the gate: it stands on `tests/` alone."""
    for path in (ROOT / "conftest.py", *ROOT.glob("tests/gate/*.py")):
        if path.name.startswith("test_"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "tools" not in {name.partition(".")[0] for name in names}, path.name


GOOD = Visit(kilobytes=300, requests=12, paint=1.25, shift=0.001, lab=None)
SLOW = Visit(kilobytes=300, requests=12, paint=2.5, shift=0.001, lab=40)


@pytest.mark.parametrize(
    ("visits", "size", "met"),
    [({"a": GOOD}, 10.0, True), ({"a": GOOD, "b": SLOW}, 10.0, False), ({"a": GOOD}, 40.0, False)],
)
def test_the_report_of_the_site_names_every_target_that_is_missed(
    visits: dict[str, Visit], size: float, met: bool
) -> None:
    table, all_met = printed(visits, size, downloads=14.5, seconds=20.0)
    assert all_met is met
    assert ("not met" in table) is not met
    assert "| a | 300 | 12 | 1.25 | 0.001 | – |" in table
    assert "14.5 MB" in table
