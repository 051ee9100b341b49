"""What can be seen wrong with a page without running it.

Every check takes pages and returns sentences, each naming the cell and what to do.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import nbformat

from tests.gate.compare import GLUED, is_compared, is_glued
from tests.gate.exercises import exercises, questions
from tests.gate.names import names
from tests.gate.pages import LINK, ROLE, Book, Cell, Page, prose, without_targets
from tests.gate.timings import TIMINGS, untimely

MOST_BYTES = 1_500_000
MOST_COLUMNS = 79  # fits on a phone
SHORTEST_WORDS = 30  # a caption or alt text with fewer characters says nothing

Check = Callable[[Page, Book], list[str]]


def execution(page: Page, book: Book) -> list[str]:
    """Stored outputs are those of one run from top to bottom, without errors."""
    return stored_state(page.code, page.code)


def stored_state(cells: list[Cell], all_code: list[Cell]) -> list[str]:
    """What shows that some of a notebook's cells do not hold the results of a clean run."""
    order = [cell.number for cell in all_code if not cell.is_empty]
    found = []
    for cell in cells:
        count = cell.node.get("execution_count")
        expected = order.index(cell.number) + 1 if not cell.is_empty else None
        if count is None and expected is not None:
            found.append(f"{cell.where} was never run: run `make refresh`")
        elif count != expected:
            found.append(
                f"{cell.where} was run out of order: its execution count is {count}, "
                f"not {expected}: run `make refresh`"
            )
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in cell.tags:
                found.append(f"{cell.where} stores an error, {output.ename}: {output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{cell.where} stores stderr: {output.text.strip()[:80]!r}")
    return found


def notebook_file(page: Page, book: Book) -> list[str]:
    """A valid, small notebook with cell ids, for the kernel `python3`."""
    if not page.is_notebook:
        return []
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            nbformat.validate(page.raw)
        except (nbformat.ValidationError, Warning) as error:
            found.append(f"is not a valid notebook: {str(error).splitlines()[0]}")
    if any("id" not in cell for cell in page.raw.get("cells", [])):
        found.append("has cells without id: save it as nbformat 4.5")
    size = page.path.stat().st_size if page.path.exists() else 0
    if size > MOST_BYTES:
        found.append(f"has {size / 1e6:.2f} MB; at most {MOST_BYTES / 1e6} MB may be committed")
    kernel = page.raw.get("metadata", {}).get("kernelspec", {}).get("name")
    if kernel != "python3":
        found.append(f"asks for the kernel {kernel!r}, which readers may not have: use 'python3'")
    return found


def code_style(page: Page, book: Book) -> list[str]:
    """Lines fit on a phone, and none ends in a semicolon, which nbval does not honour."""
    found = []
    for cell in page.code:
        for number, line in enumerate(cell.source.splitlines(), start=1):
            if len(line) > MOST_COLUMNS:
                found.append(f"{cell.where}, line {number} has {len(line)} characters")
        if cell.source.rstrip().endswith(";"):
            found.append(f"{cell.where} ends in `;`, which hides its output here but not in tests")
    return found


def outputs_are_compared(page: Page, book: Book) -> list[str]:
    """Nothing stored escapes the comparison, except timings in cells that say so."""
    found = []
    for cell in page.code:
        tags = {tag for tag in cell.tags if tag.startswith("nbval-")}
        comments = re.findall(r"#\s*((?:NBVAL|PYTEST_VALIDATE)_\w+)", cell.source)
        for marker in sorted(tags) + comments:
            found.append(f"{cell.where} carries {marker}; only the tag `{TIMINGS}` is allowed")
        for output in cell.outputs:
            for mime in output.get("data", {}):
                if not is_compared(mime):
                    found.append(f"{cell.where} stores {mime}, which nothing compares")
        if TIMINGS in cell.tags:
            found += [f"{cell.where}, tagged `{TIMINGS}`, {what}" for what in untimely(cell)]
    return found


_DECIMAL = re.compile(r"(?<![\w.])\d*\.\d+(?:[eE][-+]?\d+)?(?![\d]|\.\d)")
_VERSIONED = (
    "Python|PyTorch|Jupyter Book|NumPy|[Mm]atplotlib|statsmodels|CC BY|CC BY-SA|[Vv]ersions?"
    "|[Cc]hapters?|[Ss]ections?"  # of other books; ours have names
)
_NEXT = r"(?:,| and| or| to|–)\s*"
_VERSION = re.compile(rf"\b(?:{_VERSIONED})\s+v?\d+(?:\.\d+)+(?:{_NEXT}v?\d+(?:\.\d+)+)*")


def decimals(page: Page, book: Book) -> list[str]:
    """A decimal in prose is an input of the code, or a glued result; nobody types results."""
    constants = (node.value for cell in page.code for node in ast.walk(cell.tree)
                 if isinstance(node, ast.Constant))  # fmt: skip
    inputs = {
        Decimal(repr(n))
        for n in constants
        if isinstance(n, int | float) and not isinstance(n, bool)
    }
    found = []
    for where, passage in page.passages():
        text = _VERSION.sub("", without_targets(prose(passage)))
        for number in _DECIMAL.findall(text):
            if Decimal(number) not in inputs:
                remedy = (
                    "No number can be glued there: say it in words"
                    if where.endswith("alt text")
                    else f"Glue it: glue(…), then {{glue:text}}`{page.name}::name:.3f`"
                )
                found.append(
                    f"{where}: {number} is typed into prose, and no code of this page has it. "
                    + remedy
                )
    return found


def figures(page: Page, book: Book) -> list[str]:
    """Every figure has a caption, alt text, and a name by which the text refers to it."""
    named = Counter(
        cell.figure.get("name") for page in book.pages for cell in page.code if cell.figure
    )
    text = "\n".join(passage for page in book.pages for _, passage in page.passages())
    found = []
    for cell in page.code:
        drawn = [o for o in cell.outputs if any(m.startswith("image/") for m in o.get("data", {}))]
        if not drawn:
            continue
        if len(drawn) > 1:
            found.append(f"{cell.where} draws {len(drawn)} figures that share one caption")
        caption, name = cell.figure.get("caption", ""), cell.figure.get("name", "")
        if len(caption) < SHORTEST_WORDS:
            found.append(f"{cell.where}: the figure has no caption (mystnb.figure.caption)")
        if len(cell.alt) < SHORTEST_WORDS:
            found.append(f"{cell.where}: the figure has no alt text (mystnb.image.alt)")
        elif cell.alt.strip() == caption.strip():
            found.append(f"{cell.where}: the alt text repeats the caption: say what is to be seen")
        if not name.startswith("fig-"):
            found.append(f"{cell.where}: the figure has no name fig-… (mystnb.figure.name)")
        elif named[name] > 1:
            found.append(f"{cell.where}: {named[name]} figures of the book are called {name}")
        elif not re.search(rf"(?:\{{(?:numref|ref)\}}`[^`]*|\]\(#?){re.escape(name)}\b(?!-)", text):
            found.append(f"{cell.where}: no text refers to the figure: {{numref}}`{name}`")
    for where, passage in page.passages():
        for link in LINK.finditer(passage):
            if link["bang"] and len(link["text"]) < SHORTEST_WORDS:
                found.append(f"{where}: the image {link['target']} has no alt text")
        for figure in re.finditer(
            r"^([`:]{3,})\{(?:figure|image)\} (.+)\n((?:.*\n)*?)\1", passage, re.MULTILINE
        ):
            alt = re.search(r"^\s*:alt:\s*(.*)$", figure[3], re.MULTILINE)
            if not alt or len(alt[1]) < SHORTEST_WORDS:
                found.append(f"{where}: the image {figure[2]} has no alt text (:alt:)")
    return found


_GLUE_PATH = re.compile(r"(?P<page>[\w./-]+\.ipynb)::(?P<name>[\w.-]+?):(?P<format>[^:]*)")


def glue(page: Page, book: Book) -> list[str]:
    """Glued numbers are named by their path, exist, and can be formatted as asked."""
    found = []
    for where, passage in page.passages():
        for role in ROLE.finditer(passage):
            if role["role"].split(":")[0] != "glue":
                continue
            path = _GLUE_PATH.fullmatch(role["body"])
            if not path:
                found.append(
                    f"{where}: write {role[0]} with its path and a format, as in "
                    "{glue:text}`01-name.ipynb::mse:.2f`"
                )
                continue
            source = book.page(Path(path["page"]).name)
            values = _glued_values(source) if source else {}
            if path["name"] not in values:
                found.append(f"{where}: {path['page']} glues no `{path['name']}`")
            elif not _can_format(values[path["name"]], path["format"]):
                value = values[path["name"]]
                found.append(f"{where}: {value} cannot be written as {path['format']!r}")
    return found


def _glued_values(page: Page) -> dict[str, str]:
    return {
        output.metadata.get("scrapbook", {}).get("name", ""): output.data.get(
            f"{GLUED}text/plain", ""
        )
        for cell in page.code
        for output in cell.outputs
        if is_glued(output)
    }


def _can_format(value: str, wanted: str) -> bool:
    try:
        format(ast.literal_eval(value), wanted)
    except (ValueError, SyntaxError):
        return False
    return True


_EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:|#|$")


def links(page: Page, book: Book) -> list[str]:
    """Links to files lead somewhere. (Sphinx checks labels and anchors.)"""
    found = []
    for where, passage in page.passages():
        text = prose(passage)
        targets = [link["target"] for link in LINK.finditer(text)]
        targets += [
            re.sub(r".*<(.*)>$", r"\1", role["body"])
            for role in ROLE.finditer(text)
            if role["role"] == "doc"
        ]
        labels = set(re.findall(r"^\(([\w-]+)\)=", "\n".join(_texts(book)), re.MULTILINE))
        for target in targets:
            path = target.split("#")[0]
            if _EXTERNAL.match(target) or path in labels or path.startswith("fig-"):
                continue
            base = page.path.parent
            if not any((base / f"{path}{end}").exists() for end in ("", ".md", ".ipynb")):
                found.append(f"{where}: the link leads to {target}, which does not exist")
    return found


def _texts(book: Book) -> Iterator[str]:
    return (passage for page in book.pages for _, passage in page.passages())


CHECKS: list[Check] = [
    execution,
    notebook_file,
    code_style,
    outputs_are_compared,
    decimals,
    figures,
    glue,
    links,
    names,
    exercises,
    questions,
]
