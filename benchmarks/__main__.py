"""Run the benchmarks, print the table, say where it was saved. Arguments are pytest's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.report import report

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER.parent / "_build" / "bench"


def main(arguments: list[str]) -> int:
    """0 if every benchmark ran, whether or not its targets were met."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    saved = OUTPUT / "bench.json"
    saved.unlink(missing_ok=True)
    status = pytest.main(
        [
            *(str(FOLDER / f"bench_{part}.py") for part in ("targets", "processes")),
            f"--config-file={FOLDER / 'pytest.ini'}",
            f"--benchmark-json={saved}",
            *arguments,
        ]
    )
    if saved.exists() and saved.stat().st_size:
        print(report(OUTPUT))
        print(f"Saved in {OUTPUT}: bench.md, bench.svg, bench.json")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
