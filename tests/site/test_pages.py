"""The built book, first as files, then in a browser.

pytest-xdist gives a module to one worker, so the slowest of all is one of its own: `test_access`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, ViewportSize

import d2lattn
from tests.site.serving import DESK

# Links that a reader may follow; everything else on a page must come with the book.
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "srcset"}
ONLY_NAMED = {"canonical", "author", "license"}

PHONE = ViewportSize(width=360, height=780)


@cache
def soup_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


# As files


def test_every_link_leads_somewhere(site: Path, pages: list[Path]) -> None:
    broken = []
    for path in pages:
        for link in soup_of(path).find_all("a", href=True):
            target, fragment = resolved(str(link["href"]), path)
            if target is None:
                continue
            if not target.exists() or not target.is_relative_to(site):
                broken.append(f"{path.relative_to(site)}: {link['href']} is no file")
            elif fragment and target.suffix == ".html" and not has_anchor(target, fragment):
                broken.append(f"{path.relative_to(site)}: {link['href']} has no such anchor")
    assert not broken, "\n".join(broken)


def resolved(address: str, page: Path) -> tuple[Path | None, str]:
    """The file that a link on a page means, and the anchor in it; no file if it is outside."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None, ""
    target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    return target, unquote(parts.fragment)


def has_anchor(page: Path, name: str) -> bool:
    return soup_of(page).find(id=name) is not None


def test_a_wrong_address_leads_back(site: Path) -> None:
    """The page for it is shown at any depth, so it says where everything is from the top."""
    soup = soup_of(site / "404.html")
    assert soup.select_one("article h1")
    for element, attribute in [("link", "href"), ("script", "src"), ("a", "href")]:
        for tag in soup.find_all(element, attrs={attribute: True}):
            path = urlsplit(str(tag[attribute])).path
            if path and not urlsplit(str(tag[attribute])).netloc:
                assert path.startswith("/"), path
                assert (site / unquote(path[1:])).exists(), path


def test_every_page_says_what_it_is_about(pages: list[Path]) -> None:
    seen = set()
    for path in pages[1:]:
        soup = soup_of(path)
        assert soup.title
        assert soup.find("html", lang="en")
        if path.parent.name == "book" and path.name != "references.html":
            for name in ("description", "og:title", "og:description"):
                tags = soup.select(f'meta[name="{name}"], meta[property="{name}"]')
                assert len(tags) == 1, f"{path.name}: {name}"
                assert str(tags[0]["content"]).strip()
                assert (name, tags[0]["content"]) not in seen, f"{path.name}: {name} is not its own"
                seen.add((name, tags[0]["content"]))
                assert not str(tags[0]["content"]).startswith("What you will do"), path.name


def test_a_chapter_says_how_long_it_takes_and_how_to_run_it(site: Path) -> None:
    chapters = sorted((site / "book").glob("0*.html"))
    assert chapters
    for path in chapters:
        line = soup_of(path).select_one("h1 + .house-meta")
        assert line, path.name
        assert "minutes to read" in line.text
        assert line.select_one("a[download]")


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
    documented = {
        str(element["id"]) for element in soup_of(site / "book" / "api.html").find_all(id=True)
    }
    public = {f"d2lattn.{name}" for name in d2lattn.__all__}
    public -= {"d2lattn.notebook", "d2lattn.plotting"}
    public |= {f"d2lattn.notebook.{name}" for name in d2lattn.notebook.__all__}
    public |= {
        f"d2lattn.plotting.{name}"
        for name in d2lattn.plotting.__all__
        if callable(getattr(d2lattn.plotting, name))
    }
    assert not public - documented


def test_the_glossary_says_what_is_chinese(site: Path) -> None:
    words = soup_of(site / "book" / "glossary.html").select("span.zh")
    assert words
    assert all(word.get("lang") == "zh-Hans" for word in words)


def test_the_site_stays_small(site: Path) -> None:
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert size < 25e6, f"{size / 1e6:.0f} MB"


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


# In a browser


class Watched:
    """A page that remembers what went wrong on it."""

    def __init__(self, page: Page, home: str) -> None:
        self.page, self.wrong = page, list[str]()
        page.on("pageerror", lambda error: self.wrong.append(f"uncaught: {error}"))
        page.on("console", self._listen)
        page.on("requestfailed", self._miss)
        page.on("request", lambda request: self._look(request.url, home))

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.wrong.append(f"console: {message.text}")

    def _miss(self, request: Request) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # we left the page, that is all
            self.wrong.append(f"failed: {request.url}")

    def _look(self, url: str, home: str) -> None:
        if not url.startswith((home, "data:", "blob:")):
            self.wrong.append(f"asks elsewhere: {url}")

    def open(self, url: str) -> None:
        self.page.goto(url, wait_until="load")
        self.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


def faults_of(page: Page) -> list[str]:
    """What a reader would see that is wrong."""
    return page.evaluate(
        """async () => {
        const wrong = [];
        for (const image of document.images) {
            image.loading = "eager";
            await image.decode().catch(() => wrong.push(`cannot be decoded: ${image.src}`));
        }
        for (const bad of document.querySelectorAll("mjx-merror"))
            wrong.push(`formula: ${bad.textContent}`);
        const formulas = document.querySelectorAll(".math").length;
        if (formulas && !document.querySelector("mjx-container"))
            wrong.push(`${formulas} formulas, none typeset`);
        const width = document.documentElement.scrollWidth;
        if (width > window.innerWidth)
            wrong.push(`${width} px wide in a window of ${window.innerWidth}`);
        return wrong;
    }"""
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_whole_on_a_phone(
    browser: Browser, site: Path, address: str, pages: list[Path], theme: str
) -> None:
    context = browser.new_context(viewport=PHONE)
    context.add_init_script(f"localStorage.setItem('mode', '{theme}')")
    watched = Watched(context.new_page(), address)
    for path in pages:
        if path == site / "index.html":  # only leads to the home page
            continue
        url = f"{address}/{path.relative_to(site)}"
        watched.open(url)
        watched.wrong += [f"{url}: {fault}" for fault in faults_of(watched.page)]
    context.close()
    assert not watched.wrong, "\n".join(watched.wrong)


def test_every_chapter_opens_from_disk(browser: Browser, site: Path, chapters: list[Path]) -> None:
    context = browser.new_context(viewport=DESK)
    watched = Watched(context.new_page(), site.as_uri())
    watched.page.goto((site / "index.html").as_uri())
    watched.page.wait_for_url("**/book/index.html")
    for path in chapters:
        watched.open(path.as_uri())
        watched.wrong += [f"{path.name}: {fault}" for fault in faults_of(watched.page)]
    context.close()
    assert not watched.wrong, "\n".join(watched.wrong)


def test_figures_turn_light_in_dark_mode(
    browser: Browser, site: Path, chapters: list[Path]
) -> None:
    context = browser.new_context(viewport=DESK)
    context.add_init_script("localStorage.setItem('mode', 'dark')")
    page = context.new_page()
    wrong = []
    for path in chapters:
        page.goto(path.as_uri())
        styles = page.locator("img.house-figure").evaluate_all(
            """images => images.map(image => {
                const style = getComputedStyle(image);
                return [image.src, style.filter, style.backgroundColor];
            })"""
        )
        wrong += [
            f"{path.name}: {image} has {seen} on {ground}"
            for image, seen, ground in styles
            if not seen.startswith("invert(") or ground != "rgba(0, 0, 0, 0)"
        ]
    context.close()
    assert not wrong, "\n".join(wrong)


TERMS = {
    "bandwidth": "Kernel regression",
    "softmax": "Masked softmax",
    "masking": "Masked softmax",
    "additive": "Additive attention",
    "bilinear": "Scaled dot-product attention",
    "saturates": "Scaled dot-product attention",
    "NadarayaWatson": "API reference",
    "epanechnikov": "Kernel regression",
    "leave-one-out": "Kernel regression",
    "query": "Queries, keys and values",
}


@pytest.mark.parametrize("term", TERMS)
def test_the_search_finds_a_term(browser: Browser, site: Path, term: str) -> None:
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q={term}")
    page.locator("ul.search li a", has_text=TERMS[term]).first.wait_for(timeout=10_000)
    assert page.locator("input[type=search]:visible").count() <= 2, "the page's own, the bar's"
    context.close()


FOLDED = "details:is(.hint, .solution, .option, .hide)"


def test_hints_solutions_and_options_open_by_keyboard_without_a_script(
    browser: Browser, chapters: list[Path]
) -> None:
    context = browser.new_context(viewport=DESK, java_script_enabled=False)
    page = context.new_page()
    opened = 0
    for path in chapters:
        page.goto(path.as_uri())
        for index in range(page.locator(FOLDED).count()):
            block = page.locator(FOLDED).nth(index)
            inside = block.locator(":scope > :not(summary)").first
            assert not inside.is_visible(), f"{path.name}: {block.inner_text()[:60]} is open"
            if index < 4:  # a keystroke takes its time
                block.locator("summary").first.press("Enter")
                assert inside.is_visible(), f"{path.name}: {block.inner_text()[:60]} stays closed"
                opened += 1
    context.close()
    assert opened


def test_hints_solutions_and_options_are_printed(browser: Browser, chapters: list[Path]) -> None:
    context = browser.new_context(viewport=DESK, java_script_enabled=False)
    page = context.new_page()
    page.emulate_media(media="print")
    for path in chapters:
        page.goto(path.as_uri())
        for block in page.locator(FOLDED).all():
            assert block.locator(":scope > :not(summary)").first.is_visible(), path.name
    context.close()


def test_the_theme_survives_the_way_to_the_next_page(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport=DESK, color_scheme="light")
    page = context.new_page()
    page.goto(f"{address}/book/index.html")
    theme = page.locator("html").get_attribute
    for _ in range(3):
        if theme("data-theme") == "dark":
            break
        page.locator(".bd-main .theme-switch-button").first.click()
    assert theme("data-theme") == "dark"
    page.locator("a.right-next").click()
    page.wait_for_url("**/01-kernel-regression.html")
    assert theme("data-theme") == "dark"
    context.close()


def test_nothing_is_wider_than_the_window(browser: Browser, site: Path, pages: list[Path]) -> None:
    """320 px is also 1280 px at 400 % zoom, 640 px at 200 %."""
    context = browser.new_context()
    page = context.new_page()
    wide = []
    for path in pages[1:]:
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        for width in (320, 640, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            seen = page.evaluate("document.documentElement.scrollWidth")
            if seen > width:
                wide.append(f"{path.relative_to(site)}: {seen} px in {width}")
    context.close()
    assert not wide, "\n".join(wide)


def test_resting_on_a_link_shows_where_it_leads(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    page.goto(f"{address}/book/05-scaled-dot-product-attention.html")
    preview = page.get_by_role("tooltip")
    term = page.locator("article a[href*='glossary.html#term-']").first
    term.hover()
    preview.wait_for()
    assert "attention score" in preview.inner_text()
    page.keyboard.press("Escape")
    preview.wait_for(state="detached")
    equation = page.locator("article p a[href^='#equation-']").first
    equation.focus()
    preview.wait_for()
    assert preview.locator("mjx-container").count()
    assert equation.get_attribute("aria-describedby") == preview.get_attribute("id")
    context.close()
