"""The built book in a browser: what a reader does on a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from tests.site.helpers import ABSENT
from tools.serving import DESK


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


KINDS = "hint", "solution", "option", "hide"
FOLDED = f"details:is({', '.join(f'.{kind}' for kind in KINDS)})"
INSIDE = f"""() => [...document.querySelectorAll("{FOLDED}")].map(block =>
    [...block.children].find(e => e.localName !== "summary").checkVisibility())"""


def test_hints_solutions_and_options_open_by_keyboard_without_a_script_and_on_paper(
    browser: Browser, chapters: list[Path]
) -> None:
    """All are folded and printed; the first on a page is opened, and one of each kind."""
    context = browser.new_context(viewport=DESK, java_script_enabled=False)
    page = context.new_page()
    left = set(KINDS)
    for path in chapters:
        page.goto(path.as_uri())
        shown = page.evaluate(INSIDE)
        assert not any(shown), path.name
        page.emulate_media(media="print")
        assert all(page.evaluate(INSIDE)), path.name
        page.emulate_media(media="screen")
        first = [page.locator(FOLDED).first] if shown else []
        kinds = [kind for kind in left if page.locator(f"details.{kind}").count()]
        for block in [*first, *(page.locator(f"details.{kind}").last for kind in kinds)]:
            block.locator("summary").first.press("Enter")
            inside = block.locator(":scope > :not(summary)").first
            assert inside.is_visible(), f"{path.name}: {block.inner_text()[:60]} stays closed"
        left -= set(kinds)
    context.close()
    assert not left


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


@pytest.mark.parametrize("hand", ["pointer", "focus"])
def test_resting_on_a_link_shows_where_it_leads(page: Page, address: str, hand: str) -> None:
    """WCAG 1.4.13: what appears can be dismissed, can be pointed at, and stays."""
    page.goto(f"{address}/book/05-scaled-dot-product-attention.html")
    preview = page.get_by_role("tooltip")
    for target, inside in TARGETS.items():
        link = page.locator(f"article p a[href*='{target}']:not(.headerlink)").first
        rest(page, link, hand)
        preview.wait_for()
        assert link.get_attribute("aria-describedby") == preview.get_attribute("id")
        assert preview.locator(inside).count(), target
        page.wait_for_timeout(600)
        assert preview.is_visible(), target
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
            assert preview.is_visible(), f"{target}: the pointer cannot be moved into it"
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
