"""Accessibility of every page: axe's rules, the keyboard, and rest for who asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from tests.site.serving import DESK


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, site: Path, pages: list[Path], theme: str) -> None:
    context = browser.new_context(viewport=DESK, reduced_motion="reduce")
    context.add_init_script(f"localStorage.setItem('mode', '{theme}')")
    page = context.new_page()
    found = []
    for path in pages[1:]:
        page.goto(path.as_uri(), wait_until="load")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.wait_for_timeout(300)  # the theme makes scrolling regions reachable a little late
        for fault in Axe().run(page).response["violations"]:
            if fault["id"] == "empty-table-header":  # axe does not see formulas, readers do
                fault["nodes"] = [
                    node
                    for node in fault["nodes"]
                    if not page.locator(f"{node['target'][0]} math").count()
                ]
                if not fault["nodes"]:
                    continue
            where = "; ".join(node["html"][:160] for node in fault["nodes"][:3])
            found.append(f"{path.relative_to(site)}: {fault['id']} ({fault['impact']}): {where}")
    context.close()
    assert not found, "\n".join(found)


def test_the_keyboard_reaches_everything(browser: Browser, site: Path, pages: list[Path]) -> None:
    """Every link, button and control can take the focus, and shows that it has it."""
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    lost = []
    for path in pages[1:]:
        page.goto(path.as_uri(), wait_until="load")
        lost += [
            f"{path.relative_to(site)}: {element}"
            for element in page.evaluate(
                """() => [...document.querySelectorAll("a[href], button, input, summary, select")]
                .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled)
                .filter(e => e.tabIndex < 0 && !e.closest("[role=tablist], [role=radiogroup]"))
                .map(e => e.outerHTML.slice(0, 160))"""
            )
        ]
        page.keyboard.press("Tab")
        first = page.evaluate("document.activeElement.getAttribute('href')")
        if first != "#main-content":
            lost.append(f"{path.relative_to(site)}: Tab leads to {first} first")
    context.close()
    assert not lost, "\n".join(lost)


def test_nothing_moves_where_the_reader_asks_for_rest(browser: Browser, site: Path) -> None:
    context = browser.new_context(viewport=DESK, reduced_motion="reduce")
    page = context.new_page()
    page.goto((site / "book" / "01-kernel-regression.html").as_uri())
    moving = page.evaluate(
        """() => [...document.querySelectorAll("*")].filter(e => {
            const style = getComputedStyle(e);
            return parseFloat(style.transitionDuration) > 0.01 || style.scrollBehavior == "smooth"
                || (style.animationName != "none" && parseFloat(style.animationDuration) > 0.01);
        }).map(e => e.tagName + "." + e.className).slice(0, 20)"""
    )
    context.close()
    assert not moving
