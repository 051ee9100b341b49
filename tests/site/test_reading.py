"""The built book in a browser: every page from disk and served, then what a reader does on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, ViewportSize

from tests.site.helpers import ABSENT, few_chinese
from tools.serving import DESK

PHONE = ViewportSize(width=360, height=780)


class Watched:
    """A page that remembers what went wrong on it."""

    def __init__(self, page: Page, home: str) -> None:
        self.page, self.wrong = page, list[str]()
        page.on("pageerror", lambda error: self.wrong.append(f"uncaught: {error}"))
        page.on("console", self._listen)
        page.on("requestfailed", self._miss)
        page.on("request", lambda request: self._look(request.url, home))

    def _listen(self, message: ConsoleMessage) -> None:
        meant = message.location["url"].endswith(ABSENT)  # the address that is not there
        if message.type in {"error", "warning"} and not meant:
            self.wrong.append(f"console: {message.text}")

    def _miss(self, request: Request) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # we left the page, that is all
            self.wrong.append(f"failed: {request.url}")

    def _look(self, url: str, home: str) -> None:
        if not url.startswith((home, "data:", "blob:")):
            self.wrong.append(f"asks elsewhere: {url}")


LOOK = """async () => {
    document.querySelectorAll("details").forEach(d => { d.open = true; });
    const undecoded = [];
    for (const image of document.images) {
        image.loading = "eager";
        await image.decode().catch(() => undecoded.push(image.src));
    }
    const ink = [...document.querySelectorAll("img.house-figure")].map(image => {
        const style = getComputedStyle(image);
        return [image.src, style.filter, style.backgroundColor];
    });
    const unreachable = [...document.querySelectorAll("a[href], button, input, summary, select")]
        .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled)
        .filter(e => e.tabIndex < 0 && !e.closest("[role=tablist], [role=radiogroup]"))
        .map(e => e.outerHTML.slice(0, 160));
    return {undecoded, ink, unreachable, theme: document.documentElement.dataset.theme};
}"""

Visits = dict[str, dict[str, Any]]  # what was seen, by page


@pytest.fixture(scope="module", params=["from disk in light", "served in dark"])
def visits(
    request: pytest.FixtureRequest, browser: Browser, site: Path, address: str,
    pages: list[Path], kinds: list[Path],
) -> Visits:  # fmt: skip
    """Every page, the one for wrong addresses too, at several widths and all that unfolds open.

    Of the listings of source only one at four widths; of the Chinese pages one of each kind served
    in dark. 320 px is also 1280 px at 400 % zoom, 640 px at 200 %.
    """
    served = request.param == "served in dark"
    home = address if served else site.as_uri()
    visited = few_chinese(pages[1:]) if served else kinds[1:]
    urls = [f"{home}/{path.relative_to(site)}" for path in visited]
    context = browser.new_context(
        viewport=PHONE if served else DESK, color_scheme="dark" if served else "light"
    )
    watched = Watched(context.new_page(), home)
    page, seen = watched.page, Visits()
    for url in [*urls, f"{home}/{ABSENT}"] if served else urls:
        watched.wrong = []
        page.goto(url, wait_until="load")
        page.keyboard.press("Tab")
        first = page.evaluate("document.activeElement.getAttribute('href')")
        visit = {**page.evaluate(LOOK), "first": first, "wide": []}
        for width in (360,) if served else (320, 640, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            wide = page.evaluate("document.documentElement.scrollWidth")
            visit["wide"] += [f"{wide} px in {width}"] if wide > width else []
        seen[url.removeprefix(home)] = {**visit, "wrong": watched.wrong}
    context.close()
    return seen


def collected(visits: Visits, what: str) -> str:
    return "\n".join(f"{name}: {fault}" for name in visits for fault in visits[name][what])


def test_no_error_and_no_request_elsewhere(visits: Visits) -> None:
    assert not collected(visits, "wrong")


def test_every_image_is_decoded(visits: Visits) -> None:
    assert not collected(visits, "undecoded")


def test_nothing_is_wider_than_the_window(visits: Visits) -> None:
    assert not collected(visits, "wide")


def test_everything_can_take_the_focus_the_way_to_the_text_first(visits: Visits) -> None:
    assert not collected(visits, "unreachable")
    assert {visit["first"] for visit in visits.values()} == {"#main-content"}


def test_figures_turn_light_in_dark_mode(visits: Visits) -> None:
    wrong, figures = [], 0
    for name, visit in visits.items():
        for image, filtered, ground in visit["ink"]:
            figures += 1
            if ("#house-dark" in filtered) != (visit["theme"] == "dark"):
                wrong.append(f"{name}: {image} has {filtered} in {visit['theme']}")
            if ground != "rgba(0, 0, 0, 0)":
                wrong.append(f"{name}: {image} on {ground}")
    assert len({visit["theme"] for visit in visits.values()}) == 1
    assert figures
    assert not wrong, "\n".join(wrong)


def test_the_first_page_leads_home(browser: Browser, site: Path, address: str) -> None:
    page = browser.new_page()
    for url in (f"{site.as_uri()}/index.html", f"{address}/"):
        page.goto(url)
        page.wait_for_url("**/book/index.html")
    page.close()


def test_a_wrong_address_says_so(browser: Browser, address: str) -> None:
    page = browser.new_page()
    answer = page.goto(f"{address}/{ABSENT}")
    assert answer
    assert answer.status == 404
    page.get_by_role("heading", name="No such page").wait_for()
    page.get_by_role("link", name="Masked softmax").first.click()
    page.wait_for_url(f"{address}/book/03-masked-softmax.html")
    page.close()


def test_the_theme_is_there_before_any_script_has_come(browser: Browser, address: str) -> None:
    """What is decided later moves lines of code that are on the screen already."""
    for wanted in ("dark", "light"):
        context = browser.new_context(color_scheme=wanted)
        page = context.new_page()
        page.route("**/*.js*", lambda route: route.abort())
        page.goto(f"{address}/book/index.html")
        assert page.locator("html").get_attribute("data-theme") == wanted
        context.close()


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
INSIDE = f"""() => [...document.querySelectorAll("{FOLDED}")].map(block =>
    [...block.children].find(e => e.localName !== "summary").checkVisibility())"""


def test_hints_solutions_and_options_open_by_keyboard_without_a_script_and_on_paper(
    browser: Browser, chapters: list[Path]
) -> None:
    context = browser.new_context(viewport=DESK, java_script_enabled=False)
    page = context.new_page()
    opened = 0
    for path in chapters:
        page.emulate_media(media="screen")
        page.goto(path.as_uri())
        shown = page.evaluate(INSIDE)
        assert not any(shown), path.name
        page.emulate_media(media="print")
        assert all(page.evaluate(INSIDE)), path.name
        page.emulate_media(media="screen")
        for index in range(min(4, len(shown))):  # a keystroke takes its time
            block = page.locator(FOLDED).nth(index)
            block.locator("summary").first.press("Enter")
            inside = block.locator(":scope > :not(summary)").first
            assert inside.is_visible(), f"{path.name}: {block.inner_text()[:60]} stays closed"
            opened += 1
    context.close()
    assert opened


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


# What a reader does


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=DESK, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    yield page
    context.close()


# A preview of what, and an element that must be in it
TARGETS = {
    "glossary.html#term-": "dd, p",
    "#fig-": "img",
    "#equation-": "mjx-container",
    "references.html#": "p",
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("hand", ["pointer", "focus"])
def test_resting_on_a_link_shows_where_it_leads(
    page: Page, address: str, target: str, hand: str
) -> None:
    """WCAG 1.4.13: what appears can be dismissed, can be pointed at, and stays."""
    page.goto(f"{address}/book/05-scaled-dot-product-attention.html")
    link = page.locator(f"article p a[href*='{target}']:not(.headerlink)").first
    preview = page.get_by_role("tooltip")
    rest(page, link, hand)
    preview.wait_for()
    assert link.get_attribute("aria-describedby") == preview.get_attribute("id")
    assert preview.locator(TARGETS[target]).count()
    page.wait_for_timeout(600)
    assert preview.is_visible()
    page.keyboard.press("Escape")
    preview.wait_for(state="detached")
    if hand == "focus":
        assert link.evaluate("link => link === document.activeElement")
        link.blur()
        link.focus()
        preview.wait_for()
        link.blur()
    else:
        page.mouse.move(1, 1)
        link.hover()
        preview.wait_for()
        box = preview.bounding_box()
        assert box
        page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
        page.wait_for_timeout(600)
        assert preview.is_visible(), "the pointer cannot be moved into it"
        page.mouse.move(1, 1)
    preview.wait_for(state="detached")


def rest(page: Page, link: Locator, hand: str) -> None:
    link.scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    if hand == "focus":
        link.focus()
    else:
        link.hover()


def test_from_disk_a_link_within_the_page_shows_where_it_leads(page: Page, site: Path) -> None:
    page.goto((site / "book" / "05-scaled-dot-product-attention.html").as_uri())
    page.locator("article p a[href^='#equation-']").first.focus()
    page.get_by_role("tooltip").locator("mjx-container").first.wait_for()


def test_code_is_copied_by_keyboard(page: Page, address: str) -> None:
    page.goto(f"{address}/book/01-kernel-regression.html", wait_until="load")
    code = page.locator("div.cell_input div.highlight").first
    code.locator("button.copybtn").press("Enter")
    page.locator("button.copybtn.success").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == code.locator("pre").inner_text().strip()
    assert "import" in copied


def test_a_dark_page_is_printed_as_the_light_one(browser: Browser, address: str) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(f"{address}/book/02-queries-keys-values.html")
    seen = [page.evaluate("document.documentElement.dataset.theme")]
    for event in ("beforeprint", "afterprint"):
        page.evaluate(f"dispatchEvent(new Event('{event}'))")
        seen.append(page.evaluate("document.documentElement.dataset.theme"))
    assert seen == ["dark", "light", "dark"]
    context.close()
