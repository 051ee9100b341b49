"""The gate proves itself: each of these changes, made to a copy, turns it red.

Three tables, by what it takes to notice. A later chapter adds rows; a mutation finds its target
by what the target is, not by where it stands, and one that changes nothing is an error.
"""

from __future__ import annotations

import ast
import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.gate import hygiene
from tests.gate.compare import compare, is_glued
from tests.gate.pages import CODE_SPAN, ROLE, ROOT, Book, Page, notebook_page, prose, read_book
from tests.gate.timings import TIMINGS
from tools.refresh import refresh

Mutation = Callable[[NotebookNode], None]

CHAPTER = "01-*.ipynb"
FILES = ["d2lattn", "book", "tests", "conftest.py", "pyproject.toml", "Makefile", "README.md"]


@pytest.fixture(scope="module")
def chapter() -> Path:
    """The chapter that the mutations below are made for."""
    return next(ROOT.glob(f"book/{CHAPTER}"))


@pytest.fixture
def notebook(chapter: Path) -> NotebookNode:
    return nbformat.read(chapter, as_version=4)


# --- What to change ---------------------------------------------------------------------------


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def first(found: Iterator[Any], what: str) -> Any:
    """The first target, or a loud complaint: a mutation without a target proves nothing."""
    for target in found:
        return target
    raise LookupError(f"{CHAPTER} has no {what} to mutate: choose another target")


def outputs(notebook: NotebookNode, mime: str) -> Iterator[NotebookNode]:
    return (o for cell in code(notebook) for o in cell.outputs if mime in o.get("data", {}))


def figure_cell(notebook: NotebookNode) -> NotebookNode:
    cells = (c for c in code(notebook) if c.metadata.get("mystnb", {}).get("figure"))
    return first(cells, "figure with a caption")


def edit_figure(pattern: str, change: Callable[[re.Match[str]], str], what: str) -> Mutation:
    """Change the first match of a pattern in the first figure that has one."""

    def mutate(notebook: NotebookNode) -> None:
        drawn = outputs(notebook, "image/svg+xml")
        output = first((o for o in drawn if re.search(pattern, o.data["image/svg+xml"])), what)
        svg = output.data["image/svg+xml"]
        output.data["image/svg+xml"] = re.sub(pattern, change, svg, count=1)

    return mutate


def one_more(text: str) -> str:
    """The same text with its first decimal 1.5 times as large."""
    return re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]) * 1.5 + 0.1:.4f}", text, count=1)


def edit_glued_value(notebook: NotebookNode) -> None:
    mime = "application/papermill.record/text/plain"
    glued = (o for o in outputs(notebook, mime) if re.search(r"\d\.\d", o.data[mime]))
    output = first(glued, "glued decimal")
    output.data[mime] = one_more(output.data[mime])


def edit_printed_number(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        for output in [] if TIMINGS in cell.metadata.get("tags", []) else cell.outputs:
            where, key = (
                (output, "text") if "text" in output else (output.get("data"), "text/plain")
            )
            if where and not is_glued(output) and re.search(r"\d\.\d", where.get(key, "")):
                where[key] = one_more(where[key])
                return
    raise LookupError(f"{CHAPTER} prints no decimal")


def clear_outputs(notebook: NotebookNode) -> None:
    first((cell for cell in code(notebook) if cell.outputs), "output").outputs = []


def clear_count(notebook: NotebookNode) -> None:
    code(notebook)[-1].execution_count = None


def type_a_result(notebook: NotebookNode) -> None:
    notebook.cells.append(new_markdown_cell("The error is 0.123456, which is small."))


def say_in_caption(notebook: NotebookNode) -> None:
    figure_cell(notebook).metadata.mystnb.figure["caption"] += " The error is 0.123456."


def remove_alt(notebook: NotebookNode) -> None:
    del figure_cell(notebook).metadata.mystnb.image["alt"]


def remove_caption(notebook: NotebookNode) -> None:
    del figure_cell(notebook).metadata.mystnb.figure["caption"]


def add_figure(notebook: NotebookNode) -> None:
    cell = copy.deepcopy(figure_cell(notebook))
    cell.metadata.mystnb.figure["name"] = "fig-nobody-mentions"
    notebook.cells.append(cell)


def ignore_outputs(notebook: NotebookNode) -> None:
    code(notebook)[-1].metadata.tags = ["nbval-ignore-output"]


def rename_glued(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace(".ipynb::", ".ipynb::no-")


# --- Seen without running anything ------------------------------------------------------------

STATIC: dict[str, tuple[Mutation, hygiene.Check, str]] = {
    "a decimal result in prose": (type_a_result, hygiene.decimals, "0.123456 is typed into"),
    "one in a caption": (say_in_caption, hygiene.decimals, "figure caption: 0.123456"),
    "a removed alt text": (remove_alt, hygiene.figures, "no alt text"),
    "a removed caption": (remove_caption, hygiene.figures, "no caption"),
    "an unmentioned figure": (add_figure, hygiene.figures, "no text refers to the figure"),
    "a cleared count": (clear_count, hygiene.execution, "was never run"),
    "an ignored output": (ignore_outputs, hygiene.outputs_are_compared, "nbval-ignore-output"),
    "a glued name nobody gave": (rename_glued, hygiene.glue, "glues no `no-"),
}


def book_with(chapter: Path, notebook: NotebookNode) -> tuple[Page, Book]:
    page = notebook_page(chapter, notebook)
    pages = [page if other.path == chapter else other for other in read_book().pages]
    return page, Book(ROOT, pages)


@pytest.mark.parametrize(("mutate", "check", "words"), STATIC.values(), ids=STATIC)
def test_hygiene_turns_red(
    chapter: Path, notebook: NotebookNode, mutate: Mutation, check: hygiene.Check, words: str
) -> None:
    before = check(*book_with(chapter, notebook))
    mutate(notebook)
    found = [finding for finding in check(*book_with(chapter, notebook)) if finding not in before]
    assert words in "\n".join(found)


# --- Seen by comparing stored outputs with fresh ones -----------------------------------------

STORED: dict[str, tuple[Mutation, str]] = {
    "a vertex moved by a point": (
        edit_figure(
            r"(?<=\nL )[\d.]+(?= [\d.]+ \nL )", lambda x: str(float(x[0]) + 1), "path"
        ),
        "moved by 1 pt at vertex",
    ),
    "a colour": (
        edit_figure(r"(?<=stroke: #)(?!123456)[0-9a-f]{6}", lambda _: "123456", "colour"),
        "#123456 became",
    ),
    "a label": (
        edit_figure(r"(?<=<!-- )[^-<>]+(?= -->)", lambda _: "another", "label"),
        'label "another" became',
    ),
    "a glued value": (edit_glued_value, "glued value"),
    "a printed number": (edit_printed_number, "numbers moved"),
    "a cleared output": (clear_outputs, "stored are none"),
}  # fmt: skip


@pytest.mark.parametrize(("mutate", "words"), STORED.values(), ids=STORED)
def test_comparison_turns_red(notebook: NotebookNode, mutate: Mutation, words: str) -> None:
    """What a run gives is what is stored unmutated: `test_an_unmutated_copy_is_green`."""
    fresh = copy.deepcopy(notebook)
    mutate(notebook)
    pairs = zip(code(notebook), code(fresh), strict=True)
    found = [str(d) for old, new in pairs for d in compare(old.outputs, new.outputs)]
    assert words in "\n".join(found)
    assert len(found) == 1, "more than what was mutated has changed"


# --- Seen by running pytest on a copy ---------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the working tree, without what building leaves behind."""
    for name in FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "_build")
            )
        else:
            shutil.copy(source, tmp_path)
    return tmp_path


def shorten(chapter: Path, share: float) -> None:
    """Leave the beginning, where what a mutation changes is noticed."""
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells = notebook.cells[: int(share * len(notebook.cells))]
    nbformat.write(notebook, chapter)


@pytest.fixture
def short(tree: Path) -> Path:
    """A copy whose chapter to mutate is short."""
    shorten(next(tree.glob(f"book/{CHAPTER}")), 1 / 3)
    return tree


def run_pytest(tree: Path, *arguments: str) -> tuple[int, str]:
    """Run the copy's tests with the copy's package, in kernels too."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    environment["PYTHONPATH"] = str(tree)
    quick = ["-p", "no:hypothesispytest"]  # which takes a second to import
    command = [sys.executable, "-m", "pytest", *quick, "-x", "-q", "--color=no", *arguments]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def substitute(path: Path, pattern: str, replacement: str) -> None:
    text = path.read_text(encoding="utf-8")
    changed = re.sub(pattern, replacement, text)
    if changed == text:
        raise LookupError(f"{path.name} has nothing like {pattern} to mutate")
    path.write_text(changed, encoding="utf-8")


def edit_notebook(mutate: Mutation) -> Callable[[Path], None]:
    """Change the chapter of a copy. Its assertions go: the comparison alone has to notice."""

    def mutate_tree(tree: Path) -> None:
        path = next(tree.glob(f"book/{CHAPTER}"))
        notebook = nbformat.read(path, as_version=4)
        mutate(notebook)
        for cell in code(notebook):
            cell.source = re.sub(r"^assert .*", "", cell.source, flags=re.MULTILINE)
        nbformat.write(notebook, path)

    return mutate_tree


def edit_code(change: Callable[[str], str]) -> Mutation:
    """Change the first cell that can be changed, without running it."""

    def mutate(notebook: NotebookNode) -> None:
        cells = (cell for cell in code(notebook) if change(cell.source) != cell.source)
        cell = first(cells, "cell with such code")
        cell.source = change(cell.source)

    return mutate


def widen_bandwidth(source: str) -> str:
    """One curve gets another bandwidth."""
    return re.sub(r"(?<=bandwidth=)\d+(\.\d+)?", lambda h: str(float(h[0]) * 1.01), source, count=1)


def recolour_a_point(source: str) -> str:
    """A point of the figure that a cell shows as its last expression turns green."""
    tree = ast.parse(source)
    if not (tree.body and isinstance(tree.body[-1], ast.Expr) and "show_regression(" in source):
        return source
    last = ast.unparse(tree.body[-1])
    above = "\n".join(source.splitlines()[: tree.body[-1].lineno - 1])
    return f"""{above}
mutated = {last}
points = (mutated.axes[0].collections or mutated.axes[0].lines)[0]
if hasattr(points, "get_offsets"):
    colours = points.get_facecolor().repeat(len(points.get_offsets()), axis=0)
    colours[0] = (0, 1, 0, 1)
    points.set_facecolor(colours)
else:  # points drawn as the markers of a line share their colour
    points.set_markerfacecolor("#00ff00")
mutated"""


def scale_exponent(tree: Path) -> None:
    """Every `-0.5 *` of the package's kernels that stands before a distance."""
    edit_notebook(lambda notebook: None)(tree)
    substitute(tree / "d2lattn/kernel_formulas.py", r"-0\.5 \* (?!math)", "-0.505 * ")


# What is changed in a chapter at once, and how each is told.
EDITED: dict[str, tuple[Mutation, list[str]]] = {
    "another bandwidth": (edit_code(widen_bandwidth), ["moved"]),
    "another colour of a point": (edit_code(recolour_a_point), ["#00ff00"]),
    "a stored figure": (
        STORED["a colour"][0],
        ["#123456 became", "difference images are in", "_build/gate/"],
    ),
}


def edit_thrice(notebook: NotebookNode) -> None:
    for mutate, _ in EDITED.values():
        mutate(notebook)


@pytest.mark.parametrize("mutated", ["the package", "the chapter"])
def test_pytest_turns_red(short: Path, mutated: str) -> None:
    words = ["moved"]
    if mutated == "the package":
        scale_exponent(short)
    else:
        edit_notebook(edit_thrice)(short)
        words = ["image/svg+xml", *(word for _, said in EDITED.values() for word in said)]
    path = next(short.glob(f"book/{CHAPTER}"))
    status, message = run_pytest(short, "--maxfail=9", str(path))
    assert status == pytest.ExitCode.TESTS_FAILED, message
    for expected in [*words, "Cell outputs differ", "In [", "make refresh", "read the diff"]:
        assert expected in message, message
    if mutated == "the chapter":
        kept = {path.name for path in short.glob("_build/gate/*/cell-*/*.svg")}
        assert {"stored.svg", "fresh.svg", "difference.svg"} <= kept


# Cells of a small chapter: what each shows in the end, what an author stored, what is said of it.
SMALL: dict[str, tuple[str, str, str, str]] = {
    "an update": ("h = display('loss 9', display_id=True)\nh.update('loss 1')",
                  "'loss 1'", "'loss 9'", "9 became 1"),
    "an update by a later cell": ("h = display('step 2', display_id=True)",
                                  "'step 3'", "'step 2'", "2 became 3"),
    "that later cell": ("h.update('step 3')", "", "'step 3'", "running the cell gives none"),
    "an output that is cleared": ("display('early')\nclear_output()",
                                  "", "'early'", "running the cell gives none"),
    "one that gives way": ("display('early')\nclear_output(wait=True)\ndisplay('late')",
                           "'late'", "'early'", '"\'early\'" became "\'late\'"'),
    "a small number": ("display(1.2e-9)", "1.2e-09", "7.9e-09", "7.9e-09 became 1.2e-09"),
    "a magic that is none": ("%notmagic\nx = 0", "UsageError", "", "UsageError: Line magic"),
}  # fmt: skip


@pytest.mark.parametrize("mutated", [False, True], ids=["as shown", "mutated"])
def test_what_a_cell_shows_in_the_end_is_what_counts(tree: Path, mutated: bool) -> None:
    sources = ["from IPython.display import clear_output, display"]
    cells = [new_code_cell(sources[0], execution_count=1)]
    rows = {name: row for name, row in SMALL.items() if mutated or row[1] != "UsageError"}
    for count, (source, shown, stored, _) in enumerate(rows.values(), start=2):
        text = stored if mutated else shown
        outputs = [new_output("display_data", data={"text/plain": text})] if text else []
        cells.append(new_code_cell(source, execution_count=count, outputs=outputs))
    nbformat.write(new_notebook(cells=cells), tree / "book/99-small.ipynb")
    status, message = run_pytest(tree, "--maxfail=99", "book/99-small.ipynb")
    if not mutated:
        assert status == pytest.ExitCode.OK, message
        return
    assert f"{len(rows)} failed, 1 passed" in message
    for name, (*_, words) in rows.items():
        assert words in message, name


# What goes wrong inside the package, and the chapter that must notice.
PACKAGE: dict[str, tuple[str, str, str, str]] = {
    "no square root of d": (
        "dot_product.py", r"1\.0 / math\.sqrt\(q\.shape\[-1\]\)", "1.0", "05",
    ),
    "queries and keys through each other's layer": (
        "additive.py", r"(self\.W_q = nn\.Linear\()query_size(.*)", r"\1key_size\2", "04",
    ),
    "relu for tanh": ("additive_pairs.py", r"torch\.tanh\(", "torch.relu(", "04"),
    "a softmax over the queries": (
        "engine/plain.py", r"\.softmax\(dim=-1\)", ".softmax(dim=-2)", "03",
    ),
    "a length too long by one": (
        "restrictions/regular.py", r"\(device\) >= block", "(device) > block", "03",
    ),
    "dropout forgotten": (
        "engine/plain.py",
        r"used = weights if dropout is None else dropout\(weights\)",
        "used = weights",
        "04",
    ),
    "each key's weight on another's value": (
        "engine/plain.py", r"\(used, values\)", "(used, values.flip(-2))", "02",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "pattern", "replacement", "number"), PACKAGE.values(), ids=PACKAGE
)
def test_a_mistake_in_the_package_turns_a_chapter_red(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    pattern: str,
    replacement: str,
    number: str,
) -> None:
    """By the comparison alone, which pytest uses too: `test_pytest_turns_red`."""
    substitute(tree / "d2lattn" / module, pattern, replacement)
    chapter = next(tree.glob(f"book/{number}-*.ipynb"))
    shorten(chapter, 3 / 5)
    monkeypatch.setenv("PYTHONPATH", str(tree))
    report = refresh(chapter, write=False)
    assert report.error or report.rewritten


def test_a_renamed_function_that_prose_mentions_turns_the_copy_red(tree: Path) -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in tree.glob("d2lattn/**/*.py")}
    public = set(re.findall(r"^ *def ([a-z]\w+)\(", "\n".join(sources.values()), re.MULTILINE))
    passages = (prose(text) for page in read_book(tree).pages for _, text in page.passages())
    spans = (span[2] for text in passages for span in CODE_SPAN.finditer(ROLE.sub("", text)))
    name = first((span for span in spans if span in public), "mention of a public function")
    for path, text in sources.items():
        path.write_text(re.sub(rf"\b{name}\b", f"{name}_2", text), encoding="utf-8")
    status, message = run_pytest(tree, "tests/gate/test_hygiene.py", "-k", "test_page and names")
    assert status == pytest.ExitCode.TESTS_FAILED, message
    assert f"`{name}` is mentioned but d2lattn has no such name" in message


def test_an_unmutated_copy_is_green(short: Path) -> None:
    """The whole chapter is: it is one of the tests."""
    status, message = run_pytest(short, *map(str, short.glob(f"book/{CHAPTER}")))
    assert status == pytest.ExitCode.OK, message
