"""Building again, with whatever command and after whatever edit, gives the same site."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools.serving import ROOT

CHAPTER = "book/03-masked-softmax.ipynb"
CACHES = shutil.ignore_patterns("__pycache__")
CELLS = re.compile(r"markdown-0.|code-0.|quiz-1|lab-mask\b|lab-mask-|exercise-1-|markdown-70")
FORMS = ("epub", "singlehtml")
PAGES = {  # as small as a book can be that has all that the extensions look for
    "_toc.yml": f"""format: jb-book
root: book/index
chapters:
- file: {CHAPTER.removesuffix(".ipynb")}
- file: book/package
- file: book/references
""",
    "book/index.md": "# A course\n\n```{figure} _static/pipeline.svg\n:alt: Arrows.\n\nIt.\n```\n",
    "book/package.md": "# Its names\n\n```{eval-rst}\n.. automodule:: d2lattn\n   :members:\n```\n",
    "book/references.md": (ROOT / "book" / "references.md").read_text(encoding="utf-8"),
    "d2lattn/__init__.py": 'def score(q, k):\n    r"""How :math:`q` goes with :math:`k`."""\n',
}


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small book with this one's settings: some cells of a chapter, among them formulas,
    figures and a laboratory, and a package that is imported in no time, with its listing."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "book").mkdir()
    for name in ("_ext", "_labs", "_search", "_static", "_templates"):
        shutil.copytree(ROOT / "book" / name, folder / "book" / name, ignore=CACHES)
    (folder / "book" / "zh").mkdir()
    words = CHAPTER.replace("book/", "book/zh/").replace(".ipynb", ".md")
    for name in ("_config.yml", "book/references.bib", "book/zh/config.yml", words):
        shutil.copy(ROOT / name, folder / name)
    for name, text in PAGES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    chapter = nbformat.read(ROOT / CHAPTER, as_version=4)
    chapter.cells = [cell for cell in chapter.cells if CELLS.match(cell.id)]
    nbformat.write(chapter, folder / CHAPTER)
    return folder


def build(course: Path, form: str = "html", **environment: str) -> dict[str, bytes]:
    """What a reader gets from a build; it may warn, as most pages are missing."""
    others = {key: value for key, value in os.environ.items() if not key.startswith("BOOK_")}
    command = "from jupyter_book.cli.main import main; main()"
    kind = ["--builder", "custom", "--custom-builder", form] if form != "html" else []
    done = subprocess.run(
        [sys.executable, "-c", command, "build", str(course), *kind],
        cwd=course,
        # An EPUB says when it was made.
        env={**others, "SOURCE_DATE_EPOCH": "1800000000", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("0 added, 0 changed, 0 removed" in done.stdout) == ("BOOK_WAS_READ" in environment)
    return written(course, form)


def written(course: Path, form: str = "html") -> dict[str, bytes]:
    """The files of a form, but for the archive of an EPUB, which keeps the time of each."""
    site = course / "_build" / form
    files = (path for path in site.rglob("*") if path.is_file() and path.name[0] != ".")
    found = {str(path.relative_to(site)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if form != "epub" or ".epub" not in name}


def changed(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def test_building_again_gives_the_same_site(course: Path) -> None:
    (course / "_build" / "html").mkdir(parents=True)
    (course / "_build" / "html" / "notes.txt").write_text("a folder that Sphinx has not made")
    (course / "_build" / "downloads").mkdir()
    (course / "_build" / "downloads" / "course.epub").write_text("a book")
    first = build(course)
    assert first.pop("notes.txt")
    assert {"_static/labs/masked-softmax.js", "_modules/d2lattn.html"} <= first.keys()
    assert b"<mjx-container" in first[CHAPTER.replace(".ipynb", ".html")]
    assert first["downloads/course.epub"] == b"a book"
    assert "有效".encode() in first[f"zh/{CHAPTER.replace('.ipynb', '.html')}"]

    chapter, extra = course / CHAPTER, course / "book" / "extra.md"
    before, contents = chapter.read_text(encoding="utf-8"), (course / "_toc.yml").read_text()
    edited = re.sub(r"# [^#\n\"]+(?=\\n|\")", "# Another title", before, count=1)
    assert edited != before
    chapter.write_text(edited, encoding="utf-8")
    extra.write_text("# More\n\n$x^2$\n", encoding="utf-8")
    (course / "_toc.yml").write_text(contents + "- file: book/extra\n")
    (course / "_build" / "html" / ".git").mkdir()
    other = build(course)
    assert (course / "_build" / "html" / ".git").is_dir()
    assert b"Another title" in other[CHAPTER.replace(".ipynb", ".html")]
    assert other.keys() >= {"zh/book/extra.html", "zh/_static/book.css"}
    assert "book/extra.html" in other
    assert "_static/book.css" in other

    read_for_pages = {form: build(course, form, BOOK_WAS_READ="1") for form in FORMS}
    for form, files in read_for_pages.items():
        assert b"Another title" in b"".join(files.values())
        assert changed(files, build(course, form)) == [], form
    assert changed(other, written(course)) == []

    extra.unlink()
    (course / "_toc.yml").write_text(contents)
    chapter.write_text(before, encoding="utf-8")
    assert changed(first, build(course)) == []
