"""The built book as files: links, descriptions, sizes, and what a fork fills in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag
from PIL import Image

import d2lattn
from d2lattn import exercises, measure, notebook
from tests.site.helpers import PUBLISHED, is_chinese
from tools.serving import ROOT

# Links that a reader may follow; everything else on a page must come with the book.
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "srcset"}
ONLY_NAMED = {"canonical", "author", "license", "alternate"}
CODE = re.compile(r"<pre\b.*?</pre>", re.DOTALL)
COLOUR = re.compile(r'<span class="[a-z][a-z0-9]{0,2}">([^<]*)</span>')  # as Pygments writes it


def parsed(text: str) -> BeautifulSoup:
    """A page without what no rule asks for, three of four elements: the boxes of which formulas
    are drawn, and the colours of code."""
    text = re.sub(r"<mjx-math\b.*?</mjx-math>", "", text, flags=re.DOTALL)
    text = CODE.sub(lambda code: COLOUR.sub(r"\1", code[0]), text)
    return BeautifulSoup(text, "html.parser")


@cache
def soup_of(path: Path) -> BeautifulSoup:
    return parsed(path.read_text(encoding="utf-8"))


@cache
def anchors(path: Path) -> set[str]:
    return {str(element["id"]) for element in soup_of(path).find_all(id=True)}


def test_every_link_leads_somewhere(site: Path, pages: list[Path]) -> None:
    broken = []
    for path in pages:
        for link in soup_of(path).find_all("a", href=True):
            target, fragment = resolved(str(link["href"]), path)
            if target is None:
                continue
            if not target.exists() or not target.is_relative_to(site):
                broken.append(f"{path.relative_to(site)}: {link['href']} is no file")
            elif fragment and target.suffix == ".html" and fragment not in anchors(target):
                broken.append(f"{path.relative_to(site)}: {link['href']} has no such anchor")
    assert not broken, "\n".join(broken)


def resolved(address: str, page: Path) -> tuple[Path | None, str]:
    """The file that a link on a page means, and the anchor in it; no file if it is outside."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None, ""
    target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    return target, unquote(parts.fragment)


def test_a_wrong_address_leads_back(site: Path) -> None:
    """The page for it is shown at any depth, so it says where everything is from the top."""
    soup = soup_of(site / "404.html")
    assert soup.select_one("article h1")
    for element, attribute in [("link", "href"), ("script", "src"), ("a", "href")]:
        for tag in soup.find_all(element, attrs={attribute: True}):
            parts = urlsplit(str(tag[attribute]))
            if parts.path and not parts.netloc:
                assert parts.path.startswith("/course/"), parts.path
                assert (site / unquote(parts.path).removeprefix("/course/")).exists(), parts.path


def test_every_page_says_what_it_is_about(pages: list[Path]) -> None:
    seen = set()
    for path in pages[1:]:
        soup = soup_of(path)
        assert soup.title
        assert soup.find("html", lang="zh-CN" if is_chinese(path) else "en")
        if path.parent.name != "book":  # listings and indices
            continue
        for name in ("description", "og:title", "og:description"):
            tags = soup.select(f'meta[name="{name}"], meta[property="{name}"]')
            assert len(tags) == 1, f"{path.name}: {name}"
            content = str(tags[0]["content"]).strip()
            assert content
            assert (name, content) not in seen, f"{path.name}: {name} is not its own"
            seen.add((name, content))
            assert not content.startswith(("What you will do", "你要做什么")), path.name


def test_every_page_has_a_picture_for_where_it_is_shared(site: Path, pages: list[Path]) -> None:
    for path in pages[1:]:
        if path.parent.name == "book":
            picture = soup_of(path).select_one('meta[property="og:image"]')
            assert picture, path.name
            assert picture["content"] == f"{PUBLISHED['BOOK_URL']}/_static/social.png"
            assert soup_of(path).select_one('meta[property="og:image:alt"][content]')
    with Image.open(site / "_static" / "social.png") as image:
        assert image.size == (1200, 630)


def test_the_map_for_search_engines_lists_what_is_there(site: Path) -> None:
    text = (site / "sitemap.xml").read_text(encoding="utf-8")
    listed = set(re.findall(r"<loc>(.*?)</loc>", text))
    written = {f"{PUBLISHED['BOOK_URL']}/book/{p.name}" for p in (site / "book").glob("*.html")}
    assert written <= listed
    for url in listed:
        assert (site / url.removeprefix(PUBLISHED["BOOK_URL"] + "/")).is_file(), url


def test_every_page_leads_to_its_source_and_to_a_report(site: Path) -> None:
    repository = PUBLISHED["BOOK_REPOSITORY_URL"]
    for path in sorted((site / "book").glob("*.html")):
        links = {str(link["href"]) for link in soup_of(path).select("a[href]")}
        edit = [link for link in links if link.startswith(f"{repository}/edit/main/")]
        assert len(edit) == 1, path.name
        source = ROOT / edit[0].removeprefix(f"{repository}/edit/main/")
        assert source.is_file()
        assert source.stem == path.stem
        assert any(link.startswith(f"{repository}/issues/new") for link in links), path.name


def test_the_pages_follow_each_other_as_in_the_list(site: Path) -> None:
    home = site / "book" / "index.html"
    listed = [
        target
        for link in soup_of(home).select("nav.bd-links a[href]")
        if (target := resolved(str(link["href"]), home)[0])
    ]
    forward = walk(home, "a.right-next")
    assert forward == list(dict.fromkeys([home, *listed]))
    assert walk(forward[-1], "a.left-prev") == forward[::-1]


def walk(page: Path, direction: str) -> list[Path]:
    """The pages that one link after the other leads to."""
    way = [page]
    while link := soup_of(way[-1]).select_one(direction):
        target = resolved(str(link["href"]), way[-1])[0]
        assert target
        assert target not in way
        way.append(target)
    return way


def test_a_chapter_says_how_long_it_takes_and_how_to_run_it(site: Path) -> None:
    chapters = sorted((site / "book").glob("[01]*-*.html"))
    assert chapters
    for path in chapters:
        line = soup_of(path).select_one("h1 + .house-meta")
        assert line, path.name
        assert "minutes to read" in line.text
        notebook = line.select_one("a[download]")
        assert notebook
        stored = (path.parent / str(notebook["href"])).resolve()
        assert stored == site / "_sources" / "book" / f"{path.stem}.ipynb"
        for place in ("mybinder.org/v2/gh", "colab.research.google.com/github"):
            assert line.select_one(f"a[href^='https://{place}/someone/course/']"), place
        launched = [str(a["href"]) for a in soup_of(path).select("a[href^='https://mybinder']")]
        assert all("/notebooks?" in address for address in launched), "not the source"


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: list[Path]) -> None:
    outside = []
    for path in pages:
        for name, attribute in LOADS.items():
            for element in soup_of(path).find_all(name):
                address = str(element.get(attribute) or "")
                parts = urlsplit(address)
                if parts.scheme == "data" or ONLY_NAMED & set(element.get("rel") or []):
                    continue
                if parts.scheme or parts.netloc:
                    outside.append(f"{path.relative_to(site)}: {address}")
                elif address and not (path.parent / unquote(parts.path)).exists():
                    outside.append(f"{path.relative_to(site)}: {address} is missing")
    assert not outside, "\n".join(outside)


def test_style_sheets_load_nothing_from_elsewhere(site: Path) -> None:
    outside = [
        f"{sheet.relative_to(site)}: {address}"
        for sheet in site.rglob("*.css")
        for address in re.findall(
            r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)",
            sheet.read_text(encoding="utf-8"),
        )
    ]
    assert not outside, "\n".join(outside)


def images(pages: list[Path]) -> Iterator[tuple[Path, Tag]]:
    for path in pages:
        article = soup_of(path).select_one("article")
        for image in article.select("img") if article else ():
            yield path, image


def test_every_image_is_described(site: Path, pages: list[Path]) -> None:
    bare = []
    for path, image in images(pages):
        alt = str(image.get("alt") or "")
        if len(alt) < 30 or Path(str(image["src"])).stem in alt or "_images/" in alt:
            bare.append(f"{path.relative_to(site)}: {image['src']} has the description {alt!r}")
    assert not bare, "\n".join(bare)


def test_every_figure_takes_part_in_dark_mode(site: Path, pages: list[Path]) -> None:
    stubborn = [
        f"{path.relative_to(site)}: {image['src']}"
        for path, image in images(pages)
        if not {"house-figure", "dark-light"} <= set(image.get("class") or [])
    ]
    assert not stubborn, "\n".join(stubborn)


def test_the_home_page_opens_from_the_top(site: Path) -> None:
    refresh = soup_of(site / "index.html").find("meta", attrs={"http-equiv": "Refresh"})
    assert isinstance(refresh, Tag)
    assert str(refresh["content"]).endswith("url=book/index.html")


def test_the_reference_covers_every_public_name(site: Path) -> None:
    documented = set[str]().union(*map(anchors, (site / "book" / "api").glob("*.html")))
    public = {f"d2lattn.{name}" for name in d2lattn.__all__}
    public -= {"d2lattn.notebook", "d2lattn.plotting"}
    for module in (notebook, measure, exercises):
        public |= {f"{module.__name__}.{name}" for name in module.__all__}
    public |= {
        f"d2lattn.plotting.{name}"
        for name in d2lattn.plotting.__all__
        if callable(getattr(d2lattn.plotting, name))
    }
    assert not public - documented


def test_chinese_words_say_that_they_are_chinese(site: Path, pages: list[Path]) -> None:
    assert soup_of(site / "book" / "glossary.html").select("span.zh")
    silent = [
        f"{path.relative_to(site)}: {words}"
        for path in pages
        for words in soup_of(path).find_all(string=re.compile("[\u4e00-\u9fff]"))
        if not words.find_parent(lang=re.compile("^zh"))
    ]
    assert not silent, "\n".join(silent)


def test_the_site_stays_small(site: Path) -> None:
    """Without PDF and EPUB, which are there after `make pdf` and `make epub`."""
    files = [path for path in site.rglob("*") if path.is_file() and path.parent.name != "downloads"]
    size = sum(path.stat().st_size for path in files)
    assert size < 40e6, f"{size / 1e6:.0f} MB"


def test_a_page_asks_for_one_style_sheet_and_few_scripts(site: Path, pages: list[Path]) -> None:
    for path in pages:
        if path == site / "index.html":
            continue
        soup = soup_of(path)
        sheets = [str(link["href"]) for link in soup.select("link[rel=stylesheet]")]
        assert len(sheets) <= 2, f"{path.name}: {sheets}"
        scripts = list(soup.select("script[src]"))
        assert all(script.has_attr("defer") for script in scripts), path.name
        assert len(scripts) <= 4, f"{path.name}: {scripts}"


def test_every_formula_is_set(pages: list[Path]) -> None:
    bare = [
        f"{path.name}: {formula}"
        for path in pages
        for formula in soup_of(path).select(".math")
        if not formula.select_one("mjx-container mjx-assistive-mml math")
    ]
    assert not bare, "\n".join(bare)


def test_every_image_reserves_its_room(site: Path, pages: list[Path]) -> None:
    for path, image in images(pages):
        assert image.get("width"), f"{path.relative_to(site)}: {image['src']}"
        assert image.get("height"), f"{path.relative_to(site)}: {image['src']}"
