"""Every page of the book passes every check that needs no running; each check can fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)

from tests.gate import hygiene
from tests.gate.names import names
from tests.gate.pages import ROOT, Book, Page, notebook_page, prose, read_book, without_targets

BOOK = read_book()


@pytest.mark.parametrize("check", hygiene.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("page", BOOK.pages, ids=lambda page: page.name)
def test_page(page: Page, check: hygiene.Check) -> None:
    found = check(page, BOOK)
    assert not found, f"{page.name}:\n" + "\n".join(f"- {finding}" for finding in found)


def test_the_book_has_chapters() -> None:
    assert any(page.is_notebook for page in BOOK.pages)


CAPTION = "The narrower the kernel, the nearer the neighbours that count."
ALT = "Two curves through fifty points, one smooth and one with many turns."


def figure(**changes: Any) -> dict[str, Any]:
    words = {"caption": CAPTION, "name": "fig-a", "alt": ALT} | changes
    return {
        "mystnb": {
            "figure": {"caption": words["caption"], "name": words["name"]},
            "image": {"alt": words["alt"]},
        }
    }


def drawing() -> Any:
    return new_output("display_data", {"image/svg+xml": "<svg/>", "text/plain": "<Figure>"})


def glued(name: str, value: float) -> Any:
    prefix = "application/papermill.record/"
    return new_output(
        "display_data",
        {f"{prefix}text/plain": repr(value)},
        metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
    )


def printed(text: str, name: str = "stdout") -> Any:
    return new_output("stream", name=name, text=text)


def chapter(*cells: Any) -> tuple[Page, Book]:
    """A small notebook, run and in order, as the only page of a book."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = cell.execution_count or count
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    raw = new_notebook(cells=list(cells), metadata={"kernelspec": kernel})
    page = notebook_page(Path(ROOT / "book/01-made-up.ipynb"), raw)
    return page, Book(ROOT, [page])


def prose_page(*texts: str, code: str = "noise = 0.5", outputs: Any = ()) -> tuple[Page, Book]:
    cell = new_code_cell(code, outputs=list(outputs))
    return chapter(cell, *map(new_markdown_cell, texts))


def figure_page(
    mention: str = "{numref}`fig-a`", copies: int = 1, **changes: Any
) -> tuple[Page, Book]:
    """A notebook with a figure, and a text that refers to it."""
    drawn = [
        new_code_cell("1", metadata=figure(**changes), outputs=[drawing()]) for _ in range(copies)
    ]
    return chapter(*drawn, new_markdown_cell(mention))


GOOD = [
    prose_page("Noise of 0.5 and of $0.50$, `noise = 0.5`, as {glue:text}`01-x.ipynb::a:.2f`."),
    prose_page(
        "Python 3.11 to 3.13, section 7.10, torch 2.13.0, [CC BY 4.0](https://a.org/1.5), v1.2.3."
    ),
    prose_page("```python\nx = 0.123\n```\n\n```{figure} a.svg\n:width: 1.5em\n```"),
]


@pytest.mark.parametrize(("page", "book"), GOOD)
def test_inputs_versions_and_code_blocks_are_no_typed_results(page: Page, book: Book) -> None:
    assert hygiene.decimals(page, book) == []


BAD: list[tuple[str, Callable[..., list[str]], tuple[Page, Book], str]] = [
    ("a typed result", hygiene.decimals, prose_page("The error is 0.123."), "0.123 is typed"),
    ("one in maths", hygiene.decimals, prose_page("So $h = 0.123x$."), "0.123 is typed"),
    ("one in code", hygiene.decimals, prose_page("So `h = 0.123`."), "0.123 is typed"),
    ("one in a note", hygiene.decimals, prose_page("```{note}\nIt is .123\n```"), ".123 is typed"),
    (
        "one in a caption",
        hygiene.decimals,
        chapter(new_code_cell("1", metadata=figure(caption=CAPTION + " It is 0.123."))),
        "In [1], figure caption: 0.123",
    ),
    (
        "a cell never run",
        hygiene.execution,
        (lambda page: (page[0].code[0].node.update(execution_count=None), page)[1])(prose_page()),
        "In [1] was never run",
    ),
    (
        "a cell out of order",
        hygiene.execution,
        chapter(new_code_cell("1"), new_code_cell("2", execution_count=7)),
        "its execution count is 7, not 2",
    ),
    (
        "a stored error",
        hygiene.execution,
        prose_page(outputs=[new_output("error", ename="E", evalue="no", traceback=[])]),
        "stores an error, E: no",
    ),
    (
        "a warning",
        hygiene.execution,
        prose_page(outputs=[printed("careful", "stderr")]),
        "stores stderr: 'careful'",
    ),
    ("a long line", hygiene.code_style, prose_page(code="x" * 80), "line 1 has 80 characters"),
    ("a semicolon", hygiene.code_style, prose_page(code="x = 1;"), "ends in `;`"),
    (
        "an output that nothing compares",
        hygiene.outputs_are_compared,
        prose_page(outputs=[new_output("display_data", {"application/x": "?"})]),
        "application/x, which nothing compares",
    ),
    (
        "a tag that ignores outputs",
        hygiene.outputs_are_compared,
        chapter(new_code_cell("1", metadata={"tags": ["nbval-ignore-output"]})),
        "carries nbval-ignore-output",
    ),
    (
        "a comment that skips a cell",
        hygiene.outputs_are_compared,
        prose_page(code="# NBVAL_SKIP\nx = 1"),
        "carries NBVAL_SKIP",
    ),
    (
        "a result among timings",
        hygiene.outputs_are_compared,
        chapter(
            new_code_cell("1", metadata={"tags": ["timings"]}, outputs=[printed("error 0.3\n")])
        ),
        "prints more than times",
    ),
    (
        "a glued result among timings",
        hygiene.outputs_are_compared,
        chapter(new_code_cell("1", metadata={"tags": ["timings"]}, outputs=[glued("mse", 0.3)])),
        "glues `mse`",
    ),
    (
        "no caption",
        hygiene.figures,
        figure_page(caption=""),
        "no caption",
    ),
    (
        "no alt text",
        hygiene.figures,
        figure_page(alt=""),
        "no alt text",
    ),
    (
        "alt text that repeats the caption",
        hygiene.figures,
        figure_page(alt=CAPTION),
        "repeats the caption",
    ),
    (
        "no name",
        hygiene.figures,
        figure_page(name=""),
        "no name fig-",
    ),
    (
        "a figure that no text mentions",
        hygiene.figures,
        figure_page(mention="nothing"),
        "no text refers to the figure",
    ),
    (
        "two figures of one name",
        hygiene.figures,
        figure_page(copies=2),
        "2 figures of the book are called fig-a",
    ),
    ("a Markdown image", hygiene.figures, prose_page("![](a.svg)"), "image a.svg has no alt"),
    (
        "a figure directive",
        hygiene.figures,
        prose_page("```{figure} a.svg\n:name: fig-b\n\nCaption.\n```"),
        "image a.svg has no alt",
    ),
    ("a short glue", hygiene.glue, prose_page("{glue:text}`mse:.2f`"), "with its path"),
    (
        "a value nobody glued",
        hygiene.glue,
        prose_page("{glue:text}`01-made-up.ipynb::mse:.2f`", outputs=[glued("mae", 0.3)]),
        "glues no `mse`",
    ),
    (
        "a format that does not fit",
        hygiene.glue,
        prose_page("{glue:text}`01-made-up.ipynb::mse:d`", outputs=[glued("mse", 0.3)]),
        "cannot be written as 'd'",
    ),
    ("a broken link", hygiene.links, prose_page("[a](99-no.ipynb)"), "99-no.ipynb, which does"),
    ("an old name", names, prose_page("See `old_softmax`."), "`old_softmax` is mentioned but"),
    ("an old method", names, prose_page("`NadarayaWatson.guess(x)`"), "NadarayaWatson.guess"),
    ("an old argument", names, prose_page("`Attention(dropping=0)`"), "dropping"),
    ("an old keyword", names, prose_page("Say `dropping=0`."), "nothing is called dropping"),
    ("an old torch name", names, prose_page("`torch.softmaxx`"), "torch.softmaxx"),
    ("an old role", names, prose_page("{py:func}`d2lattn.old`"), "does not exist"),
    ("an old import", names, prose_page(code="from d2lattn import old"), "imports old from"),
    ("an old file", names, prose_page("In `d2lattn/old.py`."), "no such file"),
    ("an old target", names, prose_page("Run `make old`."), "no target old"),
]


@pytest.mark.parametrize(("check", "page_and_book", "words"), [row[1:] for row in BAD],
                         ids=[row[0] for row in BAD])  # fmt: skip
def test_finds(check: hygiene.Check, page_and_book: tuple[Page, Book], words: str) -> None:
    found = check(*page_and_book)
    assert found
    assert all(words in finding for finding in found)


def test_names_that_exist_pass() -> None:
    text = """`masked_softmax`, `NadarayaWatson.predict`, `model.fit(x, y)`, `d2lattn.masking`,
    `torch.softmax`, `Attention(score)`, `need_weights=False`, `(*batch, queries, keys)`,
    `README.md`, `valid_lens`, `None`, `float16`, `q @ k.T`, `nan`, `d2lattn/masking.py`,
    `F.pad(x)`, `tests/gate/`, `noise`,
    {py:class}`~d2lattn.NadarayaWatson`, `.predict()`, `make test`"""
    code = "import torch.nn.functional as F\nfrom d2lattn import NadarayaWatson\nnoise = model = 1"
    assert names(*prose_page(text, code=code)) == []


def test_times_memory_and_ratios_may_be_printed_among_timings() -> None:
    text = "float32, n=4000\nplain 12.3 ms\nfused: 0.9 ms, 13.6×, 4.2 MB\n"
    cell = new_code_cell("1", metadata={"tags": ["timings"]})
    cell.outputs = [printed(text), glued("fused_ratio", 13.6)]
    assert hygiene.outputs_are_compared(*chapter(cell)) == []


def test_a_missing_id_another_kernel_and_a_large_file_are_found(tmp_path: Path) -> None:
    raw = new_notebook(cells=[new_markdown_cell("text")])
    del raw.cells[0]["id"]
    path = tmp_path / "a.ipynb"
    path.write_bytes(b" " * (hygiene.MOST_BYTES + 1))
    found = hygiene.notebook_file(notebook_page(path, raw), Book(tmp_path, []))
    for words in ("valid", "without id", "1.50 MB", "kernel None"):
        assert any(words in finding for finding in found), words


def test_prose_keeps_what_is_read_and_nothing_else() -> None:
    text = "A\n```{note} Title\n:class: x\nB {math}`c` [d](e)\n```\n% f\n```\ng\n```\n<i j=k>l</i>"
    assert without_targets(prose(text)).split() == ["A", "Title", "B", "c", "d", "l"]
