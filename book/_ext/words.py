"""The words of another edition: what of a page is to be translated, and where it is kept.

English is the source. A page of the book is a row of *pieces*, each with a name: a Markdown cell,
the caption or the description of a figure, a section of a Markdown page, a term of the glossary.
`book/zh/` keeps the Chinese of each piece under its name, with a short digest of the English that
it translates. `tools.translate` says what is missing or stale; the build puts the words in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

BOOK = Path(__file__).resolve().parents[1]
FOLDER = BOOK / "zh"

ENTRY = re.compile(r"^<!-- (\w+: .+?) \| (.+?) -->\n", re.MULTILINE)
FENCE = re.compile(r"^(`{3,}|~{3,}|:{3,}).*?^\1[ ]*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,3} .+$", re.MULTILINE)
GLOSSARY = re.compile(r"(?<=^```\{glossary\}\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """Some English of a page, by the name under which its translation is kept."""

    name: str  # such as "cell: markdown-02"
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Words:
    """The translation of a piece, and what it was when somebody found it right."""

    text: str
    stamp: str  # see `stamp`


# A slip between these three reads well and is wrong, so the number of each is kept.
ROLES = {
    "查询": "查询",
    "键": "(?<![关按])键(?!盘)",
    "值": "(?<![数均阈极对大小真初价期峰尔])值(?!得)",
}


def stamp(piece: Piece, text: str) -> str:
    """What stands beside the name of a piece: the digest of its English, the Chinese's roles."""
    counts = [f"{word} {len(re.findall(pattern, text))}" for word, pattern in ROLES.items()]
    return f"{piece.digest} {' '.join(counts)}"


def pages() -> list[Path]:
    """The pages of the book, as paths from its folder."""
    found = [*BOOK.glob("*.ipynb"), *BOOK.glob("*.md"), *BOOK.glob("api/*.md")]
    return sorted(path.relative_to(BOOK) for path in found)


def kept_in(page: Path) -> Path:
    return (FOLDER / page).with_suffix(".md")


def kept(page: Path) -> dict[str, Words]:
    """The translation of each piece of a page; nothing where there is none."""
    path = kept_in(page)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before, *rest = ENTRY.split(text)
    if before.strip():
        raise ValueError(f"{path}: words before the first entry: {before.strip()[:60]!r}")
    names = rest[::3]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{path}: twice there: {', '.join(twice)}")
    entries = zip(names, rest[1::3], rest[2::3], strict=True)
    return {name: Words(words.strip("\n"), stamped) for name, stamped, words in entries}


def written(entries: dict[str, Words]) -> str:
    """A file of words, as `kept` reads it."""
    return "\n".join(
        f"<!-- {name} | {words.stamp} -->\n{words.text}\n" for name, words in entries.items()
    )


# What is to be translated


def pieces(page: Path) -> list[Piece]:
    """All that a reader reads on a page, in its order."""
    found = list[Piece]()

    def note(name: str, text: str) -> str:
        found.append(Piece(name, text))
        return text

    exchanged(page, (BOOK / page).read_text(encoding="utf-8"), note)
    return found


def exchanged(page: Path, source: str, other: Callable[[str, str], str]) -> str:
    """The source of a page with other words: what `other` makes of each piece and its name."""
    if page.suffix == ".ipynb":
        notebook = nbformat.reads(source, as_version=4)
        for cell in notebook.cells:
            _exchange_cell(cell, other)
        return nbformat.writes(notebook)
    return "".join(_exchanged_sections(source, other))


def _exchange_cell(cell: Any, other: Callable[[str, str], str]) -> None:
    if cell.cell_type == "markdown":
        cell.source = other(f"cell: {cell.id}", cell.source)
        return
    shown = cell.metadata.get("mystnb", {})
    for kind, place, key in (("caption", "figure", "caption"), ("alt", "image", "alt")):
        if place in shown and key in shown[place]:
            shown[place][key] = other(f"{kind}: {cell.id}", shown[place][key])


def _exchanged_sections(source: str, other: Callable[[str, str], str]) -> Iterator[str]:
    """A Markdown page, cut before its headings, and a glossary before its terms."""
    fences = [(match.start(), match.end()) for match in FENCE.finditer(source)]
    starts = [
        match.start()
        for match in HEADING.finditer(source)
        if not any(a < match.start() < b for a, b in fences)
    ]
    titles = list[str]()
    for start, stop in zip(starts, [*starts[1:], len(source)], strict=True):
        section = source[start:stop]
        title = section.partition("\n")[0].lstrip("# ")
        titles.append(title)
        name = f"section: {title}" + (f" ({n})" if (n := titles.count(title)) > 1 else "")
        terms = GLOSSARY.search(section)
        if not terms:
            yield _exchanged(section, name, other)
            continue
        yield _exchanged(section[: terms.start()], name, other)
        yield "\n".join(
            _exchanged(term, f"term: {term.partition(chr(10))[0]}", other)
            for term in re.split(r"(?<=\n)\n(?=\S)", terms[1])
        )
        yield section[terms.end() :]


def _exchanged(text: str, name: str, other: Callable[[str, str], str]) -> str:
    """With the white space around it as it was."""
    inside = text.strip("\n")
    before, after = text[: len(text) - len(text.lstrip("\n"))], text[len(text.rstrip("\n")) :]
    return before + other(name, inside) + after
