"""Building again, with whatever command and after whatever edit, gives the same site."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.serving import ROOT

CHAPTER = "book/03-masked-softmax.ipynb"  # with formulas, figures and a laboratory
PAGES = ["book/api", "book/references"]
EPUB = ["--builder", "custom", "--custom-builder", "epub"]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the book, by itself: a chapter, the package's pages, its listings."""
    folder = tmp_path_factory.mktemp("course")
    for name in ("book", "d2lattn"):
        ignored = shutil.ignore_patterns("__pycache__", "_build")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "_config.yml", folder)
    chapters = "".join(f"- file: {page}\n" for page in [CHAPTER.removesuffix(".ipynb"), *PAGES])
    contents = f"format: jb-book\nroot: book/index\nchapters:\n{chapters}"
    (folder / "_toc.yml").write_text(contents, encoding="utf-8")
    return folder


def build(course: Path, *options: str) -> dict[str, bytes]:
    """What a reader gets from the pages after a build; it may warn, as most pages are missing."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BOOK_")}
    command = "from jupyter_book.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "build", str(course), *options],
        cwd=course,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    site = course / "_build" / "html"
    files = (path for path in site.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(site)): path.read_bytes() for path in files}


def changed(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def test_building_again_gives_the_same_site(course: Path) -> None:
    (course / "_build" / "html").mkdir(parents=True)
    (course / "_build" / "html" / "notes.txt").write_text("a folder that Sphinx has not made")
    (course / "_build" / "downloads").mkdir()
    (course / "_build" / "downloads" / "course.epub").write_text("a book")
    first = build(course)
    assert first.pop("notes.txt")
    assert first["downloads/course.epub"] == b"a book"
    (course / "_build" / "html" / ".git").mkdir()
    assert changed(first, build(course)) == []
    assert (course / "_build" / "html" / ".git").is_dir()
    assert changed(first, build(course, *EPUB)) == []

    chapter, extra = course / CHAPTER, course / "book" / "extra.md"
    before, contents = chapter.read_text(encoding="utf-8"), (course / "_toc.yml").read_text()
    edited = re.sub(r"# [^#\n\"]+(?=\\n|\")", "# Another title", before, count=1)
    assert edited != before
    chapter.write_text(edited, encoding="utf-8")
    extra.write_text("# More\n\n$x^2$\n", encoding="utf-8")
    (course / "_toc.yml").write_text(contents + "- file: book/extra\n")
    other = build(course)
    assert b"Another title" in other[CHAPTER.replace(".ipynb", ".html")]
    assert "book/extra.html" in other
    assert "_static/book.css" in other
    extra.unlink()
    (course / "_toc.yml").write_text(contents)
    chapter.write_text(before, encoding="utf-8")
    assert changed(first, build(course)) == []
