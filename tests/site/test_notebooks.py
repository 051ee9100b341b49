"""The plain edition: what a learner downloads, in a program for notebooks that is not ours."""

from __future__ import annotations

import ast
import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import edition
import nbformat
import pytest
from bs4 import BeautifulSoup, Tag
from interface import ENGLISH
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.gate.compare import compare
from tests.gate.measure import Tolerance
from tests.gate.pages import ROOT, code_cells
from tests.gate.running import run_chapter
from tests.site.helpers import PUBLISHED
from tests.site.test_pages import parsed, soup_of
from tools import notebooks

QUICK = "02-queries-keys-values"  # runs in seconds
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
UNSAID = re.compile(r"\{[\w:.+-]+\}`|^\([\w-]+\)=$|\]\{|^\$\$ ?\(|^:::|^```+\{", re.MULTILINE)


def plain(site: Path, name: str) -> NotebookNode:
    notebook = nbformat.read(site / "_sources" / "book" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.fixture(scope="module", params=CHAPTERS)
def chapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def notebook(site: Path, chapter: str) -> NotebookNode:
    return plain(site, chapter)


@pytest.fixture(scope="module")
def page(site: Path, chapter: str) -> BeautifulSoup:
    return soup_of(site / "book" / f"{chapter}.html")


@pytest.fixture(scope="module")
def shown(notebook: NotebookNode) -> BeautifulSoup:
    """A notebook as nbconvert shows it: Markdown as Jupyter has it, without code and drawings,
    which are most of it and say nothing here."""
    texts = deepcopy(notebook)
    for cell in texts.cells:
        if cell.cell_type == "code":
            cell.source = ""
            cell.outputs = [output for output in cell.outputs if not is_drawing(output)]
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(texts)
    return parsed(body)


def is_drawing(output: NotebookNode) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


@cache
def written(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def words(tag: Tag | BeautifulSoup) -> str:
    return " ".join(tag.get_text().split())


def test_nothing_is_left_that_only_the_book_understands(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not UNSAID.search(cell.source), f"{cell.id}: {cell.source}"
        elif not cell.metadata.get("jupyter", {}).get("source_hidden"):
            assert not re.search(r"\b(glue|show_lab)\b", cell.source), cell.id
        text = str(cell.get("outputs", ""))
        assert 'class="lab"' not in text, "a laboratory without its script"


def test_every_link_of_a_notebook_leads_somewhere(site: Path, shown: BeautifulSoup) -> None:
    names = {str(element["id"]) for element in shown.find_all(id=True)}
    links = shown.select(".text_cell a[href]:not(.anchor-link)")
    assert len(links) > 5
    for link in links:
        address = str(link["href"])
        assert words(link), f"nothing to click on: {link}"
        if address.startswith("#"):
            assert unquote(address[1:]) in names, address
        elif address.startswith(PUBLISHED["BOOK_URL"]):
            parts = urlsplit(address.removeprefix(PUBLISHED["BOOK_URL"]))
            target = site / parts.path[1:]
            assert target.is_file(), address
            fragment = unquote(parts.fragment)
            assert not fragment or f'id="{fragment}"' in written(target), address
        else:
            assert address.startswith("https://"), address


def test_figures_have_the_captions_and_numbers_of_the_page(
    chapter: str, notebook: NotebookNode, page: BeautifulSoup, shown: BeautifulSoup
) -> None:
    here = words(shown)
    captions = page.select("article figure figcaption .caption-number")
    for number in captions:
        assert f"{words(number)}." in here, number
    drawn = [cell for cell in notebook.cells if cell.id.endswith("-caption")]
    stored = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4)
    figures = [cell for cell in stored.cells if "figure" in cell.metadata.get("mystnb", {})]
    assert len(drawn) == len(figures) > 0
    assert len(captions) >= len(figures)


def test_the_text_of_a_notebook_is_that_of_the_page(
    page: BeautifulSoup, shown: BeautifulSoup
) -> None:
    """Every number, name and word that a role stands for, where there is no formula beside it."""

    def letters(text: str) -> str:
        return re.sub(r"[^\w.,%]+", " ", text.replace("’", "'")).strip()

    here = letters(words(shown))
    paragraphs = [
        letters(words(paragraph))
        for paragraph in page.select("article section > p")
        if not paragraph.select_one(".math, [download]")
    ]
    assert len(paragraphs) > 10
    assert [text for text in paragraphs if text not in here] == []


def test_quizzes_hints_and_solutions_fold(
    notebook: NotebookNode, page: BeautifulSoup, shown: BeautifulSoup
) -> None:
    folded = page.select("article details:is(.hint, .solution, .option)")
    assert len(shown.select("details > summary")) == len(folded) > 4
    for cell in notebook.cells:
        if cell.id.endswith(("-solution", "-quoted")):
            assert cell.metadata.jupyter.source_hidden


def test_an_exercise_can_be_started_without_the_chapter(notebook: NotebookNode) -> None:
    starts = [cell for cell in notebook.cells if cell.id.endswith("-start")]
    assert starts
    for cell in starts:
        tree = ast.parse(cell.source)
        verdict = tree.body.pop()
        assert isinstance(verdict, ast.Expr)
        space = {"__name__": "__main__"}
        exec(compile(tree, cell.id, "exec"), space)
        answer = eval(compile(ast.Expression(verdict.value), cell.id, "eval"), space)
        assert not answer, cell.id
        assert "torch" in space


def test_a_plain_notebook_runs_and_shows_what_the_page_shows(site: Path, tmp_path: Path) -> None:
    notebook = plain(site, QUICK)
    stored = nbformat.read(ROOT / "book" / f"{QUICK}.ipynb", as_version=4)
    originals = {cell.id: cell for cell in stored.cells}
    run = run_chapter(notebook, tmp_path)
    assert run.failures == {}
    for old, new in zip(code_cells(notebook.cells), run.cells, strict=True):
        if old.node.id.endswith("-quoted"):  # nobody sees what it notes
            continue
        tolerance = Tolerance.of(originals.get(old.node.id, old.node))
        assert not compare(old.outputs, new.outputs, tolerance), old.node.id


def test_the_first_cell_installs_the_package_of_this_fork(site: Path) -> None:
    first = plain(site, QUICK).cells[0]
    assert first.cell_type == "code"
    where = f"{PUBLISHED['BOOK_REPOSITORY_URL']}/archive/main.zip"
    assert f'%pip install --quiet "d2lattn[notebook] @ {where}"' in first.source
    assert 'if find_spec("d2lattn") is None:' in first.source


# The folder of `make notebooks`


def test_a_reader_s_work_is_never_overwritten(site: Path, tmp_path: Path) -> None:
    assert notebooks.put(site, tmp_path) == []
    assert {path.stem for path in tmp_path.glob("*.ipynb")} == set(CHAPTERS)
    mine, ran = (tmp_path / f"{name}.ipynb" for name in (QUICK, CHAPTERS[0]))
    worked = nbformat.read(mine, as_version=4)
    worked.cells[-1].source += "\nMy answer."
    nbformat.write(worked, mine)
    executed = nbformat.read(ran, as_version=4)
    executed.cells[0].outputs = [new_output("stream", text="installed")]
    nbformat.write(executed, ran)
    assert notebooks.put(site, tmp_path) == [mine.name]
    assert "My answer." in mine.read_text(encoding="utf-8")
    assert nbformat.read(ran, as_version=4).cells[0].outputs == []


def test_the_folder_says_what_to_install(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://index.example/cpu")
    notebooks.put(site, tmp_path)
    lines = (tmp_path / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "--extra-index-url https://index.example/cpu"
    assert lines[1].startswith("d2lattn[notebook] @ https://github.com/someone/course/")


# What becomes of a cell


VOICE = edition.Voice(say=str.upper, caption=lambda name, text: f"{name}: {text}", words=ENGLISH)


def made_of(source: str, name: str = "a", *others: NotebookNode) -> list[str]:
    cells = edition.plain_cells([new_code_cell(source, id=name), *others], VOICE)
    return [cell.source for cell in cells[1:]]


def test_what_only_the_text_asks_for_is_set_apart() -> None:
    teaching, quoted = made_of("a = 1\nb = a + 1\nc = b * 2\nglue('c', c)\nprint(a)")
    assert teaching == "a = 1\nprint(a)"
    assert quoted.endswith("b = a + 1\nc = b * 2\nglue('c', c)")


def test_what_another_cell_asks_for_stays() -> None:
    teaching, quoted = made_of("a = 1\nglue('a', a)", "a", new_code_cell("print(a)", id="b"))[:2]
    assert teaching == "a = 1"
    assert quoted.endswith("\n\nglue('a', a)")


def test_a_loop_no_longer_quotes() -> None:
    loop = "for n in range(3):\n    print(n)\n    name = f'n-{n}'\n    glue(name, n)"
    assert made_of(loop) == ["for n in range(3):\n    print(n)"]


def test_a_cell_of_numbers_alone_is_folded_whole() -> None:
    [only] = made_of("glue('a', 1)")
    assert only.startswith("# @title Numbers")


def test_helpers_of_the_page_are_not_imported() -> None:
    head = "from d2lattn.notebook import (\n    glue,\n    show_source,\n)\n"
    teaching, _ = made_of(head + "show_source(print)\nglue('a', 1)")
    assert teaching == "from d2lattn.notebook import show_source\nshow_source(print)"


def test_a_laboratory_says_where_it_is() -> None:
    figure = {"mystnb": {"figure": {"name": "fig-lab", "caption": "A lab."}}}
    cells = [
        new_code_cell("show_lab('x', {}, figure='fig-lab')", id="data"),
        new_code_cell("show(1)", id="lab", metadata=figure),
    ]
    texts = [cell.source for cell in edition.plain_cells(cells, VOICE)[1:]]
    assert texts == ["show(1)", f"fig-lab: A lab. {ENGLISH['lab']}"]


def test_a_solution_says_what_it_stands_on() -> None:
    cells = [
        new_code_cell("import math\nimport torch\nx = 1", id="before"),
        new_code_cell("answer = ...\nprint(answer)", id="exercise-1-start"),
        new_code_cell("answer = math.sqrt(x)\nprint(answer)", id="exercise-1-solution"),
        new_code_cell("y = torch.ones(x)", id="exercise-2-solution"),
    ]
    _, start, solution, thought = (
        cell.source for cell in edition.plain_cells(cells, VOICE) if cell.id != "setup"
    )
    assert start == "import math\nimport torch\n\nanswer = ...\nprint(answer)"
    assert solution.startswith("# Uses x of the cells above")
    assert thought == f"{solution.splitlines()[0]}\nimport torch\n\ny = torch.ones(x)"


def test_the_digest_of_a_notebook_is_that_of_its_cells() -> None:
    one = new_notebook(cells=[new_markdown_cell("a", id="a")])
    other = new_notebook(cells=[new_markdown_cell("b", id="a")])
    assert notebooks.digest(one) != notebooks.digest(other)
