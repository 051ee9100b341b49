"""The book on paper and in electronic readers: nothing missing, nothing that needs a script."""

from __future__ import annotations

import posixpath
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit
from zipfile import ZipFile

import ebook
import pikepdf
import pytest
from bs4 import BeautifulSoup
from editions import UNDER
from fontTools.ttLib import TTFont
from playwright.sync_api import Browser, Page, ViewportSize

from tests.site.helpers import PUBLISHED, required_epubcheck
from tests.site.test_pages import parsed
from tools.pdf import book_on_paper, write_book
from tools.serving import build

HTML = "{http://www.w3.org/1999/xhtml}"
MATHML = "{http://www.w3.org/1998/Math/MathML}"
PACKAGE = "{http://www.idpf.org/2007/opf}"
TEXT_WIDTH = ViewportSize(width=620, height=900)  # of a sheet without its margins


def written(folder: Path, builder: str, *, chinese: bool = False) -> Path:
    """The book in another form, from what the pages' builds have read; by itself it is the same,
    as `test_building` sees."""
    result = build(folder, builder, PUBLISHED, chinese=chinese, was_read=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder / "_build" / builder


@pytest.fixture(scope="module")
def folder(site: Path) -> Path:
    written(site.parents[1], "epub")
    return written(site.parents[1], "singlehtml").parent


@pytest.fixture(scope="module")
def one_page(folder: Path) -> BeautifulSoup:
    text = (folder / "singlehtml" / "book" / "index.html").read_text(encoding="utf-8")
    return parsed(text)


# On paper


@pytest.fixture(scope="module")
def paper(folder: Path, browser: Browser) -> Iterator[Page]:
    with book_on_paper(folder / "singlehtml", browser) as page:
        page.set_viewport_size(TEXT_WIDTH)
        yield page


def test_every_figure_and_formula_is_printed(paper: Page, one_page: BeautifulSoup) -> None:
    for what in ("figure img", ".cell_output img", "mjx-container"):
        shown = paper.evaluate(
            "what => [...document.querySelectorAll(`article section ${what}`)].filter(e => {"
            " const box = e.getBoundingClientRect();"
            " return box.width > 2 && box.height > 2 && (e.tagName != 'IMG' || e.naturalWidth);"
            "}).length",
            what,
        )
        assert shown == len(one_page.select(f"article {what}")) > 0, what


def test_the_solutions_are_printed_at_the_end(paper: Page, one_page: BeautifulSoup) -> None:
    back = paper.locator("article > section:last-child")
    assert back.locator("> h2").inner_text() == "Solutions"
    solutions = len(one_page.select("details.solution"))
    assert back.locator("details.solution").count() == solutions > 40
    assert paper.locator("details.solution").count() == solutions
    folded = one_page.select("details.solution + .cell.tag_hide-cell")
    assert back.locator(".cell").count() == len(folded) > 20
    assert all(text.strip() for text in back.locator("details.solution > p").all_inner_texts())


def test_answers_to_quizzes_are_printed_with_the_solutions(paper: Page) -> None:
    assert paper.locator(".quiz").count() > 20
    assert paper.locator(".quiz details").count() == 0
    assert paper.locator(".solutions details.option").count() > 60
    counts = "(quizzes, what) => quizzes.map(quiz => quiz.querySelectorAll(what).length)"
    assert min(paper.locator(".quiz").evaluate_all(counts, ".choices > li")) >= 2
    assert set(paper.locator(".quiz").evaluate_all(counts, ".to-solution a")) == {1}


def test_what_a_check_says_before_there_is_an_answer_is_not_printed(paper: Page) -> None:
    assert paper.locator(".cell_output", has_text="Your turn.").count() == 0


def test_links_to_chapters_and_sections_have_room_for_a_page(paper: Page) -> None:
    assert paper.locator(".book-part a > .on-page").count() > 30


def test_links_on_paper_lead_to_a_place_in_the_book_or_to_the_web(paper: Page) -> None:
    links = paper.evaluate(
        "[...document.querySelectorAll('article a[href]')].map(e => e.getAttribute('href'))"
        ".filter(e => e[0] != '#' || !document.getElementById(decodeURIComponent(e.slice(1))))"
    )
    assert [link for link in links if not link.startswith("https://")] == []
    citations = paper.evaluate(
        "[...document.querySelectorAll('article a.reference')]"
        ".filter(e => /^\\d{4}$/.test(e.textContent) && e.getAttribute('href')[0] == '#')"
        ".map(e => document.getElementById(decodeURIComponent(e.hash.slice(1)))"
        ".closest('.book-part').querySelector('h2').textContent)"
    )
    assert len(citations) > 20
    assert all(title.startswith("References") for title in citations)


def test_nothing_is_wider_than_the_paper(paper: Page) -> None:
    assert paper.evaluate("document.documentElement.scrollWidth") <= TEXT_WIDTH["width"]
    wide = paper.evaluate(
        "width => [...document.querySelectorAll('article :is(pre, table, img, mjx-container)')]"
        ".filter(e => e.getBoundingClientRect().right > width + 1 || e.scrollWidth > width + 1)"
        ".map(e => e.outerHTML.slice(0, 200))",
        TEXT_WIDTH["width"],
    )
    assert wide == []


def test_what_needs_a_screen_is_not_printed(paper: Page) -> None:
    for what in ("button", ".headerlink", ".lab-body", ".house-meta", ".bd-sidebar", ".copybtn"):
        seen = paper.locator(what).evaluate_all("all => all.filter(e => e.checkVisibility())")
        assert seen == [], what
    assert paper.locator("article details:not([open])").count() == 0


SMALL = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<link rel="icon" href="data:image/svg+xml,
<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"><style>
.book-part { break-before: page } .book-title, .book-contents { break-after: page }</style></head>
<body><article><section><h1>The book</h1><div class="toctree-wrapper">
<span id="document-p/1"></span>
<section id="one"><h2>1. One</h2><section id="a"><h3>1.1. A</h3>
<p><a href="#document-p/2#a">B</a></p>
<div class="quiz"><p>Which?</p>
<details class="option"><summary>This</summary><p>Right.</p></details>
<details class="option"><summary>That</summary><p>Not quite.</p></details></div>
<div class="cell"><pre>check()</pre><div class="cell_output"><p>○ <b>Your turn.</b></p></div></div>
<details class="solution"><summary>The solution</summary><p>Because.</p></details></section>
</section>
<span id="document-p/2"></span><section id="one"><h2>2. Two</h2>
<section id="a"><h3>2.1. B</h3><p>More. <a href="#a">Here.</a> <a href="#document-p/1#a">A</a></p>
</section></section></div></section></article></body></html>"""


def test_the_contents_say_on_which_page_a_chapter_begins(tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.html").write_text(SMALL, encoding="utf-8")
    target = tmp_path / "book.pdf"
    with book_on_paper(tmp_path, browser) as page:
        write_book(page, target)
        entries = page.locator(".book-contents a").evaluate_all(
            "all => all.map(a => [...a.children].map(e => e.textContent))"
        )
        links = page.locator("section p:not(.to-solution) a")
        targets = links.evaluate_all("all => all.map(a => a.getAttribute('href'))")
        assert targets == ["#p/2--a", "#p/2--a", "#a"]
        assert links.all_inner_texts() == ["B (page 4)", "Here. (page 4)", "A (page 3)"]
        assert page.locator(".to-solution").all_inner_texts() == [
            "Answer: page 5",
            "Solution: page 5",
        ]
        assert page.locator(".choices > li").all_inner_texts() == ["This", "That"]
        assert page.locator(".solutions details.option").count() == 2
        assert page.get_by_text("Your turn").count() == 0
    assert entries == [
        ["1. One", "3"],
        ["1.1. A", "3"],
        ["2. Two", "4"],
        ["2.1. B", "4"],
        ["Solutions", "5"],
    ]
    with pikepdf.open(target) as book, book.open_outline() as outline:
        assert len(book.pages) == 5
        assert [item.title for item in outline.root[-1].children][-1] == "Solutions"


# In electronic readers


@pytest.fixture(scope="module")
def epub(folder: Path) -> dict[str, bytes]:
    [path] = (folder / "epub").glob("*.epub")
    with ZipFile(path) as archive:
        assert archive.namelist()[0] == "mimetype"
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def leaves(epub: dict[str, bytes]) -> dict[str, ElementTree.Element]:
    """Its pages; one that is not well-formed XML is an error."""
    pages = {name: ElementTree.fromstring(epub[name]) for name in epub if name.endswith(".xhtml")}
    assert len(pages) > 10
    return pages


def test_what_an_epub_declares_is_in_it_and_nothing_else(epub: dict[str, bytes]) -> None:
    items = ElementTree.fromstring(epub["content.opf"]).iter(f"{PACKAGE}item")
    declared = {unquote(item.attrib["href"]) for item in items}
    assert declared == set(epub) - {"mimetype", "META-INF/container.xml", "content.opf"}


def test_an_epub_has_no_script_and_asks_nobody(leaves: dict[str, ElementTree.Element]) -> None:
    for name, page in leaves.items():
        assert not list(page.iter(f"{HTML}script")), name
        for element in page.iter():
            if "src" in element.attrib:
                assert not urlsplit(element.attrib["src"]).netloc, name


def test_links_in_an_epub_lead_somewhere(
    epub: dict[str, bytes], leaves: dict[str, ElementTree.Element]
) -> None:
    anchors = {name: {e.get("id") for e in page.iter()} for name, page in leaves.items()}
    broken = []
    for name, page in leaves.items():
        for element in page.iter():
            for key in ("href", "src"):
                parts = urlsplit(element.attrib.get(key, ""))
                if parts.scheme:
                    continue
                folder = posixpath.dirname(name)
                path = posixpath.normpath(posixpath.join(folder, unquote(parts.path)))
                file = path if parts.path else name
                if file not in epub or (
                    parts.fragment and unquote(parts.fragment) not in anchors[file]
                ):
                    broken.append(f"{name}: {element.attrib[key]}")
    assert broken == []


def test_an_epub_has_every_figure_and_formula(
    epub: dict[str, bytes], leaves: dict[str, ElementTree.Element], one_page: BeautifulSoup
) -> None:
    formulas = [formula for page in leaves.values() for formula in page.iter(f"{MATHML}math")]
    assert len(formulas) == len(one_page.select("article mjx-container"))
    assert all(formula.get("alttext") for formula in formulas)
    assert not [e for formula in formulas for e in formula.iter(f"{MATHML}merror")]
    figures = [figure for page in leaves.values() for figure in page.iter(f"{HTML}figure")]
    assert len(figures) == len(one_page.select("article figure"))
    assert all(list(figure.iter(f"{HTML}img")) for figure in figures)
    items = ElementTree.fromstring(epub["content.opf"]).iter(f"{PACKAGE}item")
    said = {item.attrib["href"] for item in items if item.get("properties") == "mathml"}
    assert said == {name for name, page in leaves.items() if list(page.iter(f"{MATHML}math"))}


def test_the_contents_of_an_epub_name_chapters_and_sections(
    leaves: dict[str, ElementTree.Element],
) -> None:
    names = ["".join(link.itertext()) for link in leaves["nav.xhtml"].iter(f"{HTML}a")]
    assert "1. Kernel regression" in names
    assert "1.1. What was measured?" in names
    assert "Glossary" in names
    assert names[-1] == "Index"
    assert [name for name in names if "\\" in name or "$" in name] == []


def test_a_folded_cell_has_one_plain_title_in_an_epub() -> None:
    body = (
        '<summary a="b">\n<p class="collapsed">Code</p>\n<p class="expanded">Code</p>\n</summary>'
    )
    assert ebook.plain(body) == '<summary a="b">Code</summary>'
    assert ebook.plain("<summary>Plain</summary><p>x</p>") == "<summary>Plain</summary><p>x</p>"


def test_an_epub_holds_no_data_of_laboratories() -> None:
    assert ebook.plain('<div><script type="application/json">{\n}</script></div>') == "<div></div>"


def test_only_ids_that_nobody_uses_are_taken_from_a_drawing() -> None:
    drawing = '<image id="image1"/><use href="#image2"/><image id="image2"/>'
    assert ebook.valid(drawing) == drawing.replace(' id="image1"', "")


def test_a_drawing_names_no_file_elsewhere_and_has_no_path_of_nothing() -> None:
    drawing = '<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "a"\n "http://b">\n<svg>{}</svg>'
    paths = '<path id="space" transform="scale(2)"/><path id="a" d="M1 1"/>'
    assert ebook.valid(drawing.format(paths)) == (
        '<?xml version="1.0"?>\n<svg><path id="space" transform="scale(2)" d="M0 0"/>'
        '<path id="a" d="M1 1"/></svg>'
    )


@pytest.fixture(scope="module")
def chinese(site: Path) -> Path:
    [path] = written(site.parent / UNDER, "epub", chinese=True).glob("*.epub")
    return path


def test_a_chinese_epub_brings_its_characters(chinese: Path) -> None:
    with ZipFile(chinese) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert b"<dc:language>zh" in files["content.opf"]
    contents = ElementTree.fromstring(files["nav.xhtml"])
    names = ["".join(link.itertext()) for link in contents.iter(f"{HTML}a")]
    assert "1. 核回归" in names
    assert names[-1] == "索引"
    if not ebook.HAN_FONT.exists():
        pytest.skip(f"no {ebook.HAN_FONT.name} on this machine: the EPUB goes without it")
    font = TTFont(BytesIO(files["_static/han.woff"]))
    texts = [text.decode() for name, text in files.items() if name.endswith(".xhtml")]
    used = {sign for text in texts for sign in re.findall("[\u4e00-\u9fff]", text)}
    assert len(used) > 1000
    assert {ord(sign) for sign in used} <= font.getBestCmap().keys()
    assert len(files["_static/han.woff"]) < 2e6


@pytest.mark.parametrize("edition", ["English", "Chinese"])
def test_epubcheck_finds_nothing(folder: Path, chinese: Path, edition: str) -> None:
    program = required_epubcheck()
    [path] = [chinese] if edition == "Chinese" else (folder / "epub").glob("*.epub")
    # Starting is most of it: a compiler that thinks less is faster, and so is one thread.
    quick = "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"
    done = subprocess.run(
        ["java", *quick, "-jar", program, "--failonwarnings", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    assert "0 fatals / 0 errors / 0 warnings" in said
