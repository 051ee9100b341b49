"""Whether a tag may be published: `python -m tools.tag v0.1.0`.

The package, its citation, its book and its changelog must name the version that the tag names.
It asks the files, so that a release need not install PyTorch to learn its own number.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version(root: Path = ROOT) -> str:
    """What ``d2lattn.__version__`` is."""
    text = (root / "d2lattn" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+?)"', text, re.MULTILINE)
    if not found:
        raise LookupError('d2lattn/__init__.py must say __version__ = "..."; it does not')
    return found[1]


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """What keeps the tag from being published, a line for each."""
    number = version(root)
    found = []
    if tag != f"v{number}":
        found.append(f"the tag must be v{number}, as d2lattn.__version__ says; got {tag}")
    for file, line in (
        ("CITATION.cff", f"version: {number}"),
        ("_config.yml", f'version: "{number.rpartition(".")[0]}"'),  # of the book
        ("CHANGELOG.md", f"## [{number}]"),
    ):
        text = (root / file).read_text(encoding="utf-8")
        if not re.search(rf"^ *{re.escape(line)}(?!\S)", text, re.MULTILINE):
            found.append(f"{file} must have a line `{line}`")
    return found


def main(tag: str) -> int:
    found = problems(tag)
    print(*found or [f"{tag} may be published"], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.tag TAG")
    sys.exit(main(sys.argv[1]))
