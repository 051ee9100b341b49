"""`make notebooks`: the chapters in the plain edition, in a folder that runs by itself.

    python -m tools.notebooks SITE FOLDER

The build makes them (`book/_ext/plain.py`). Here they get company: what installs their package,
and how to begin. A notebook in which somebody has worked is theirs and stays as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

README = """# Attention Scoring Functions: the notebooks

The chapters of the book as plain Jupyter notebooks, made from it; changes belong there.

    pip install jupyterlab
    jupyter lab

The first cell of each notebook installs what it needs, where it is missing.

中文版的笔记本在文件夹`zh`里。
"""


def put(site: Path, folder: Path) -> list[str]:
    """Copy the plain edition of a built site; tell which notebooks stay, as they are a reader's."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, needs = [], ""
    for source in sorted(site.glob("**/_sources/book/*.ipynb")):
        notebook = nbformat.read(source, as_version=4)
        needs = needs or requirement(notebook)
        target = folder / source.relative_to(site).parents[2] / source.name  # the Chinese in zh
        target.parent.mkdir(exist_ok=True)
        if target.exists() and is_changed(nbformat.read(target, as_version=4)):
            kept.append(str(target.relative_to(folder)))
            continue
        notebook.metadata["edition"] = digest(notebook)
        nbformat.write(notebook, target)
    (folder / "README.md").write_text(README, encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(needs), encoding="utf-8")
    return kept


def digest(notebook: NotebookNode) -> str:
    """Of what somebody may have written. Outputs come back by themselves."""
    text = "\0".join(f"{cell.cell_type} {cell.source}" for cell in notebook.cells)
    return hashlib.sha256(text.encode()).hexdigest()


def is_changed(notebook: NotebookNode) -> bool:
    return bool(notebook.metadata.get("edition") != digest(notebook))


def requirement(notebook: NotebookNode) -> str:
    """What the first cell of a notebook would install."""
    found = re.search(r'%pip install \S+ "(.+)"', notebook.cells[0].source)
    return found[1] if found else ""


def requirements(needs: str) -> str:
    """For Binder, with the index that the environment names, such as one of smaller PyTorches."""
    index = os.environ.get("PIP_EXTRA_INDEX_URL", "").strip()
    return (f"--extra-index-url {index}\n" if index else "") + f"{needs}\n"


def main(site: Path, folder: Path) -> int:
    kept = put(site, folder)
    print(f"The notebooks: {folder}/")
    if kept:
        print(f"You have changed {', '.join(kept)}: left as they are. Without them, new ones come.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
