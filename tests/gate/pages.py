"""The pages of the book as the checks see them: cells, and the words a reader reads."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4.rwbase import rejoin_lines

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cell:
    """A cell, or a whole Markdown page, and how an author would call it."""

    where: str  # "In [5]", "the text below In [5]"
    node: NotebookNode
    number: int = 0  # of a code cell, counted from 1 as Jupyter does

    @property
    def is_code(self) -> bool:
        return bool(self.node.cell_type == "code")

    @property
    def is_empty(self) -> bool:
        return not self.node.source.strip()

    @property
    def source(self) -> str:
        return str(self.node.source)

    @property
    def tags(self) -> set[str]:
        return set(self.node.metadata.get("tags", []))

    @property
    def outputs(self) -> list[NotebookNode]:
        return list(self.node.get("outputs", []))

    @property
    def figure(self) -> dict[str, Any]:
        """Caption and name, which MyST-NB reads from the cell's metadata."""
        return dict(self.node.metadata.get("mystnb", {}).get("figure", {}))

    @property
    def alt(self) -> str:
        return str(self.node.metadata.get("mystnb", {}).get("image", {}).get("alt", ""))

    @cached_property
    def tree(self) -> ast.Module:
        """The code, without IPython's magics; empty if it is none."""
        lines = re.sub(r"^\s*[%!].*$", "pass", self.source, flags=re.MULTILINE)
        try:
            return ast.parse(lines)
        except SyntaxError:
            return ast.Module(body=[], type_ignores=[])


@dataclass(frozen=True)
class Page:
    """A notebook or a Markdown file of the book."""

    path: Path
    cells: list[Cell]
    raw: dict[str, Any] = field(default_factory=dict)  # a notebook's JSON as it stands on disk

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_notebook(self) -> bool:
        return self.path.suffix == ".ipynb"

    @property
    def code(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.is_code]

    def passages(self) -> Iterator[tuple[str, str]]:
        """Everything written to be read: where it stands, and its Markdown."""
        for cell in self.cells:
            if cell.node.cell_type == "markdown":
                yield cell.where, cell.source
            elif cell.is_code:
                yield f"{cell.where}, figure caption", str(cell.figure.get("caption", ""))
                yield f"{cell.where}, alt text", cell.alt


@dataclass(frozen=True)
class Book:
    """All pages, and the repository around them."""

    root: Path
    pages: list[Page]

    def page(self, name: str) -> Page | None:
        return next((page for page in self.pages if page.name == name), None)


def read_book(root: Path = ROOT) -> Book:
    """Read every page of the book that belongs to a working tree."""
    paths = sorted([*root.glob("book/*.ipynb"), *root.glob("book/*.md")])
    return Book(root, [read_page(path) for path in paths])


def read_page(path: Path) -> Page:
    """Read a notebook or a Markdown file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return Page(path, [Cell("the text", NotebookNode(cell_type="markdown", source=text))])
    return notebook_page(path, json.loads(text))


def notebook_page(path: Path, raw: dict[str, Any]) -> Page:
    """A page from the JSON of a notebook."""
    nodes = rejoin_lines(nbformat.from_dict(raw)).cells
    return Page(path, label_cells(nodes), raw)


def label_cells(nodes: list[NotebookNode]) -> list[Cell]:
    """Name cells as a reader of the notebook sees them."""
    cells, number = [], 0
    for node in nodes:
        if node.cell_type == "code":
            number += 1
            cells.append(Cell(f"In [{number}]", node, number))
        else:
            where = f"the text below In [{number}]" if number else "the text above In [1]"
            cells.append(Cell(where, node))
    return cells


def code_cells(nodes: list[NotebookNode]) -> list[Cell]:
    """The cells with code, numbered from 1."""
    return [cell for cell in label_cells(nodes) if cell.is_code]


# --- Markdown ---------------------------------------------------------------------------------

ROLE = re.compile(r"\{(?P<role>[\w:.+-]+)\}(?P<ticks>`+)(?P<body>[^`]+?)(?P=ticks)")
CODE_SPAN = re.compile(r"(?<![`}])(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"(?P<bang>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]*)[^()]*\)")
_FENCE = re.compile(r"^\s*(?P<fence>`{3,}|~{3,}|:{3,})\s*(?P<directive>\{[^{}]+\})?(?P<rest>.*)$")
_OPTION = re.compile(r"^\s*:[\w-]+:")
_NOT_PROSE = {"code", "code-block", "code-cell", "literalinclude", "eval-rst", "raw", "mermaid"}
_PATH_ARGUMENT = {"figure", "image", "include", "download", "tableofcontents", "bibliography"}


def prose(markdown: str) -> str:
    """Markdown without code blocks, directive options, comments, HTML tags and front matter."""
    text = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    lines: list[str] = []
    fences: list[tuple[str, bool]] = []  # the opening fence, and whether it holds code
    options = False  # directly below the opening of a directive
    for line in text.splitlines():
        found = _FENCE.match(line)
        inside_code = bool(fences) and fences[-1][1]
        if fences and re.fullmatch(rf"\s*{fences[-1][0]}{fences[-1][0][0]}*\s*", line):
            fences.pop()
            lines.append("")
            continue
        if inside_code:
            line = ""
        elif found:
            directive = (found["directive"] or "").strip("{}")
            is_code = directive in _NOT_PROSE or (not directive and found["fence"][0] != ":")
            fences.append((found["fence"], is_code))
            options = not is_code
            line = found["rest"] if options and directive not in _PATH_ARGUMENT else ""
        elif options and _OPTION.match(line):
            line = ""
        else:
            options = False
        lines.append("" if line.startswith("%") else line)
    return re.sub(r"</?[a-zA-Z][^<>]*>", "", "\n".join(lines))


def without_targets(text: str) -> str:
    """Prose as it is read: no role that inserts or points, no link targets, no addresses."""

    def spoken(role: re.Match[str]) -> str:
        name = role["role"].split(":")[0]
        return role["body"] if name in {"math", "abbr", "term", "sup", "sub"} else ""

    text = LINK.sub(lambda link: link["text"], ROLE.sub(spoken, text))
    return re.sub(r"<?\bhttps?://[^\s>)\]]+>?", "", text)
