"""The Chinese edition is in step: every piece has its words, made from today's English, and
nothing that both languages share differs between them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import words
from words import Piece, Words

from tools.translate import open_work
from tools.translation import faults, terms

PAGES = words.pages()
CHAPTER = Path("04-additive-attention.ipynb")
Page = tuple[list[Piece], dict[str, Words]]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_page_is_in_step(page: Path) -> None:
    found = [f"{name}: {fault}" for name, fault in open_work(page)]
    where = words.kept_in(page).relative_to(words.BOOK.parent)
    assert not found, "\n".join(
        [f"{where} (when the Chinese is right: `make translate-accept ARGS={page.stem}`)", *found]
    )


def test_every_page_of_the_contents_is_there() -> None:
    contents = (words.BOOK.parent / "_toc.yml").read_text(encoding="utf-8")
    named = {name.removeprefix("book/") for name in re.findall(r"(?:file|root): (\S+)", contents)}
    assert named == {str(page.with_suffix("")) for page in PAGES}
    kept = {path.relative_to(words.FOLDER) for path in words.FOLDER.rglob("*.md")}
    assert kept - {Path("terms.md")} == {page.with_suffix(".md") for page in PAGES}


# Mutations: what must turn red


@pytest.fixture
def chapter() -> Page:
    return words.pieces(CHAPTER), words.kept(CHAPTER)


def red(page: Page, name: str) -> str:
    """What the gate says of a piece, whose page is green otherwise."""
    found = dict[str, str]()
    for piece, fault in open_work(CHAPTER, *page):
        found[piece] = f"{found.get(piece, '')}{fault}\n"
    assert list(found) == [name], found
    return found[name]


def first(page: Page, part: str, chinese: str = "") -> str:
    """The name of the first piece that has something in it."""
    pieces, known = page
    return next(p.name for p in pieces if part in p.text and chinese in known[p.name].text)


def changed(page: Page, name: str, old: str, new: str) -> None:
    _, known = page
    assert old in known[name].text
    known[name] = replace(known[name], text=known[name].text.replace(old, new, 1))


def test_one_english_word_changed(chapter: Page) -> None:
    pieces, _ = chapter
    old = pieces[3]
    pieces[3] = Piece(old.name, old.text.replace(" the ", " this ", 1))
    assert pieces[3] != old
    assert "the English has changed" in red(chapter, old.name)


def test_a_glued_number_dropped(chapter: Page) -> None:
    name = first(chapter, "{glue:text}")
    role = re.search(r"\{glue:text\}`[^`]*`", chapter[1][name].text)
    assert role
    changed(chapter, name, role[0], "一些")
    assert "missing: role glue:text" in red(chapter, name)


def test_a_glued_number_in_another_form(chapter: Page) -> None:
    name = first(chapter, "{glue:text}", ":.3f`")
    changed(chapter, name, ":.3f`", ":.2f`")
    assert "not in the English: role glue:text" in red(chapter, name)


def test_a_formula_changed(chapter: Page) -> None:
    name = first(chapter, "$H = 2$")
    changed(chapter, name, "$H = 2$", "$H = 3$")
    assert "formula $H = 3$" in red(chapter, name)


def test_a_typed_number_changed() -> None:
    assert any("number 42" in fault for fault in faults("It took 41 steps.", "一共走了42步。"))
    assert not list(faults("It took 41 steps.", "一共走了41步。"))


@pytest.mark.parametrize(("role", "other"), [("键", "值"), ("值", "键"), ("查询", "键")])
def test_a_role_swapped(role: str, other: str) -> None:
    """Wherever it stands, also where both words are in the same sentence."""
    pieces, known = words.pieces(CHAPTER), words.kept(CHAPTER)
    pattern, tried = words.ROLES[role], 0
    for piece in pieces:
        for match in re.finditer(pattern, known[piece.name].text):
            text = known[piece.name].text
            swapped = text[: match.start()] + other + text[match.end() :]
            mutant = replace(known[piece.name], text=swapped)
            assert red(([piece], {piece.name: mutant}), piece.name), swapped
            tried += 1
            break
    assert tried > 5


def test_a_cell_left_in_english(chapter: Page) -> None:
    pieces, known = chapter
    piece = next(p for p in pieces if p.name.startswith("cell") and "## " in p.text)
    known[piece.name] = replace(known[piece.name], text=piece.text)
    assert "English left over" in red(chapter, piece.name)


def test_words_missing(chapter: Page) -> None:
    name = chapter[0][5].name
    del chapter[1][name]
    assert "no Chinese" in red(chapter, name)


def test_a_link_elsewhere(chapter: Page) -> None:
    name = first(chapter, "](", "](")
    link = re.search(r"\]\([^)]+\)", chapter[1][name].text)
    assert link
    changed(chapter, name, link[0], "](12-no-such-page.ipynb)")
    assert "link 12-no-such-page.ipynb" in red(chapter, name)


@pytest.mark.parametrize(
    ("chinese", "fault"),
    [
        ("这是一个查询,也是一句话。", "half-width"),
        ("这是查询 softmax的一行。", "gap"),
        ("这是softmax 查询的一行。", "gap"),
        ("这是**“查询”**softmax一行。", "bold"),
        ("查询去了 ，后来。", "gap"),
    ],
)
def test_typography(chinese: str, fault: str) -> None:
    assert any(fault in said for said in faults("A query and a softmax.", chinese))


def test_terms_are_those_of_the_table() -> None:
    assert any("带宽" in fault for fault in faults("The bandwidth.", "宽窄。"))
    assert any("查询 is not" in fault for fault in faults("It asks.", "查询在问。"))
    english = [term.english.pattern for term in terms()]
    assert len(set(english)) == len(english) > 60
