"""Run the benchmarks, print the table, say where it was saved. Arguments are pytest's."""

from __future__ import annotations

import json
import signal
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
    # An interrupt is for the part that runs, which saves what it has.
    signal.signal(signal.SIGINT, lambda *_: None)
    found: list[dict[str, Any]] = []
    failed = 0
    for part in PARTS:
        # Each in a fresh process: another's heap would be another machine.
        command = [
            *(sys.executable, "-m", "pytest", str(FOLDER / f"bench_{part}.py")),
            f"--config-file={FOLDER / 'pytest.ini'}",
            f"--benchmark-json={saved}",
            *arguments,
        ]
        status = subprocess.run(command, cwd=FOLDER.parent, check=False).returncode
        if saved.exists() and saved.stat().st_size:
            found.append(json.loads(saved.read_text(encoding="utf-8")))
        saved.unlink(missing_ok=True)
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            failed = status
        if status == pytest.ExitCode.INTERRUPTED:
            break
    if found:
        whole = {**found[0], "benchmarks": [run for part in found for run in part["benchmarks"]]}
        saved.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        print(report(OUTPUT))
        print(f"Saved in {OUTPUT}: bench.md, bench.svg, bench.json")
    return failed or (0 if found else int(pytest.ExitCode.NO_TESTS_COLLECTED))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
