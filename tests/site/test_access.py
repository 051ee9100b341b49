"""Accessibility: contrast that axe does not see, the keyboard, and rest for who asks for it."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tools.serving import DESK


def contrast(one: str, other: str) -> float:
    """By WCAG 2.2, of two colours as a browser computes them."""

    def luminance(colour: str) -> float:
        channels = [int(n) / 255 for n in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(map(operator.mul, (0.2126, 0.7152, 0.0722), linear))

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_way_back_to_the_top_can_be_read(page: Page, site: Path, theme: str) -> None:
    """It is hidden until somebody scrolls, so axe does not see it."""
    page.goto((site / "book" / "glossary.html").as_uri())
    page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    style = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    assert contrast(*page.locator("#pst-back-to-top").evaluate(style)) >= 4.5


def test_a_table_that_scrolls_says_so(page: Page, site: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto((site / "book" / "06-choosing-a-score.html").as_uri())
    tables = page.locator(".pst-scrollable-table-container").all()
    wide = [t for t in tables if t.evaluate("e => e.scrollWidth > e.clientWidth + 1")]
    assert wide
    for table in wide:
        attachment = table.evaluate("e => getComputedStyle(e).backgroundAttachment")
        assert attachment == "local, local, scroll, scroll"


# The keyboard


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    yield page
    context.close()


MARK = """() => {
    const reachable = [...document.querySelectorAll("a[href], button, input, summary, select")]
        .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled)
        .filter(e => e.type !== "radio" || e.checked);
    reachable.forEach((e, i) => { e.dataset.stop = i; });
    return reachable.length;
}"""
FOCUSED = """() => {
    const e = document.activeElement, style = getComputedStyle(e);
    let seen = 1;
    for (let up = e; up; up = up.parentElement) seen *= getComputedStyle(up).opacity;
    const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
    return {
        stop: e.dataset.stop, what: e.outerHTML.slice(0, 120), body: e === document.body,
        shown: seen > 0.5 && (ring || style.boxShadow !== "none"),
    };
}"""


@pytest.mark.parametrize("name", ["03-masked-softmax", "index", "api/scores"])
def test_tab_goes_through_everything_and_shows_where_it_is(
    page: Page, site: Path, name: str
) -> None:
    page.goto((site / "book" / f"{name}.html").as_uri(), wait_until="load")
    page.wait_for_timeout(300)
    count, reached, unseen = page.evaluate(MARK), set(), []
    for _ in range(2 * count):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUSED)
        if focus["body"]:
            break
        reached.add(focus["stop"])
        if not focus["shown"]:
            unseen.append(focus["what"])
    missed = [
        page.locator(f"[data-stop='{stop}']").evaluate("e => e.outerHTML.slice(0, 120)")
        for stop in sorted(set(map(str, range(count))) - reached, key=int)
    ]
    assert not missed, "\n".join(missed)
    assert not unseen, "\n".join(dict.fromkeys(unseen))


def test_the_search_opens_and_closes_by_keyboard(page: Page, address: str) -> None:
    page.goto(f"{address}/book/index.html", wait_until="load")
    page.keyboard.press("Control+k")
    field = page.locator("input[type=search]:focus")
    field.wait_for()
    page.keyboard.press("Escape")
    field.wait_for(state="detached")
    page.keyboard.press("Control+k")
    field.wait_for()
    page.keyboard.type("bandwidth")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=bandwidth*")


def test_the_theme_changes_by_keyboard(page: Page, address: str) -> None:
    page.goto(f"{address}/book/index.html", wait_until="load")
    before = page.locator("html").get_attribute("data-mode")
    page.locator(".theme-switch-button:visible").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("html").get_attribute("data-mode") != before


def test_on_a_phone_the_list_of_chapters_opens_and_closes_by_keyboard(
    page: Page, address: str
) -> None:
    page.set_viewport_size({"width": 360, "height": 780})
    page.goto(f"{address}/book/index.html", wait_until="load")
    chapter = page.locator("#pst-primary-sidebar-modal a, #pst-primary-sidebar a")
    chapter = chapter.filter(has_text="Masked softmax")
    assert not chapter.is_visible()
    page.locator("button.primary-toggle:visible").focus()
    page.keyboard.press("Enter")
    chapter.wait_for()
    page.keyboard.press("Escape")
    chapter.wait_for(state="hidden")


@pytest.mark.parametrize("name", ["index", "01-kernel-regression", "api/scores"])
def test_nothing_moves_where_the_reader_asks_for_rest(
    browser: Browser, site: Path, name: str
) -> None:
    context = browser.new_context(viewport=DESK, reduced_motion="reduce")
    page = context.new_page()
    page.goto((site / "book" / f"{name}.html").as_uri())
    moving = page.evaluate(
        """() => [...document.querySelectorAll("*")].filter(e => {
            const style = getComputedStyle(e);
            return parseFloat(style.transitionDuration) > 0.01 || style.scrollBehavior == "smooth"
                || (style.animationName != "none" && parseFloat(style.animationDuration) > 0.01);
        }).map(e => e.tagName + "." + e.className).slice(0, 20)"""
    )
    context.close()
    assert not moving
