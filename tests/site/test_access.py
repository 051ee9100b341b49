"""Accessibility: axe's rules on every page, the keyboard, and rest for who asks for it."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.site.helpers import ABSENT, few_chinese
from tools.serving import DESK

# All that the theme decides: colours, and which of two images of a pair is there.
OF_COLOUR = ["color-contrast", "link-in-text-block", "image-alt"]
# Contrast takes axe most of its time, nearly the same for the thousandth word of a kind as for the
# first. So it looks at one text of each kind: tags, classes and styles up to the top are equal, and
# so are rows of a table that take turns. What no rule can see is out of its way: the characters of
# formulas, half of all elements, are drawn by the style sheet, have no text and only looks as
# attributes, and leave a box of their size; of words of code of one kind only the text stays.
DISTINCT = """() => {
    axe.configure({rules: [{id: "color-contrast", selector: "[data-distinct]"}]});
    const seen = new Set(), distinct = [], others = [];
    const says = e => e.matches("input, select") ||
        [...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    for (const e of document.querySelectorAll("body *:not(mjx-math *)")) {
        if (!says(e) || !e.checkVisibility()) continue;
        let kind = "";
        for (let up = e; up; up = up.parentElement)
            kind += [up.localName, up.getAttribute("class"), up.getAttribute("style"),
                     /^(pst|house)-/.test(up.id) && up.id, up.rowIndex % 2] + "; ";
        (seen.has(kind) ? others : distinct).push(e);
        seen.add(kind);
    }
    const told = /^(?:id|role|tabindex|href|lang|dir|title|alt|on.*|aria-(?!hidden$).*)$/;
    const plain = e => ![...e.attributes].some(attribute => told.test(attribute.name));
    const formulas = [...document.querySelectorAll("mjx-math")]
        .filter(e => !e.textContent.trim() && [...e.querySelectorAll("*")].every(plain))
        .map(e => [e, e.offsetWidth, e.offsetHeight]);
    // Only now: after each change the next look would lay the page out again.
    for (const [e, width, height] of formulas) {
        e.replaceChildren();
        e.style.cssText += `; display: inline-block; width: ${width}px; height: ${height}px`;
    }
    others.filter(e => e.matches("pre span") && !e.firstElementChild && plain(e))
        .forEach(e => e.replaceWith(...e.childNodes));
    document.querySelectorAll("pre").forEach(e => e.normalize());
    distinct.forEach(e => { e.dataset.distinct = ""; });
    return seen.size;
}"""
DARK = "document.documentElement.dataset.theme = 'dark'"


def faults(page: Page, **options: Any) -> list[str]:
    options["resultTypes"] = ["violations"]
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{fault['id']} ({fault['impact']}): "
        + "; ".join(node["html"][:160] for node in fault["nodes"][:3])
        for fault in found["violations"]
    ]


def test_axe_finds_nothing(browser: Browser, site: Path, address: str, kinds: list[Path]) -> None:
    """Every rule in light, then those that depend on the theme in dark, all that unfolds open."""
    context = browser.new_context(viewport=DESK, reduced_motion="reduce", color_scheme="light")
    page = context.new_page()
    found = []
    for url in [f"{address}/{ABSENT}", *(path.as_uri() for path in few_chinese(kinds[1:]))]:
        page.goto(url, wait_until="load")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.wait_for_timeout(300)  # the theme makes scrolling regions reachable a little late
        page.evaluate(Axe().axe_script)
        assert page.evaluate(DISTINCT)
        seen = faults(page, rules={"target-size": {"enabled": True}})  # of WCAG 2.2
        page.evaluate(DARK)
        seen += [f"in dark, {fault}" for fault in faults(page, runOnly=OF_COLOUR)]
        found += [f"{url.removeprefix(site.as_uri())}: {fault}" for fault in seen]
    context.close()
    assert not found, "\n".join(found)


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
