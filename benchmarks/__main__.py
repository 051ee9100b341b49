"""Run the benchmarks, print the table, say where it was saved. Arguments are pytest's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import report

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER.parent / "_build" / "bench"
PARTS = ("attention", "regression", "growth", "processes")


def main(arguments: list[str]) -> int:
    """0 if every benchmark ran, whether or not its targets were met."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    saved = OUTPUT / "bench.json"
    saved.unlink(missing_ok=True)
    whole: dict[str, Any] = {}
    failed = 0
    for part in PARTS:
        # Each in a fresh process: another's heap would be another machine.
        found = OUTPUT / f"{part}.json"
        command = [
            *(sys.executable, "-m", "pytest", str(FOLDER / f"bench_{part}.py")),
            f"--config-file={FOLDER / 'pytest.ini'}",
            f"--benchmark-json={found}",
            *arguments,
        ]
        status = subprocess.run(command, cwd=FOLDER.parent, check=False).returncode
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            failed = status
        if found.exists() and found.stat().st_size:
            some = json.loads(found.read_text(encoding="utf-8"))
            whole.setdefault("benchmarks", []).extend(some["benchmarks"])
            whole = {**some, **whole}
        found.unlink(missing_ok=True)
    if whole:
        saved.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        print(report(OUTPUT))
        print(f"Saved in {OUTPUT}: bench.md, bench.svg, bench.json")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
