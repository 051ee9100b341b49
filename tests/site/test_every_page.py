"""Every page in a browser, opened once from disk and once served: what can be wrong on any page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, ViewportSize

from tests.site.axe import Inspector
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
    in dark and with axe. 320 px is also 1280 px at 400 % zoom, 640 px at 200 %.
    """
    served = request.param == "served in dark"
    home = address if served else site.as_uri()
    visited = few_chinese(pages[1:]) if served else kinds[1:]
    urls = [f"{home}/{path.relative_to(site)}" for path in visited]
    absent = f"{home}/{ABSENT}"
    inspected = {absent} if served else {path.as_uri() for path in few_chinese(visited)}
    context = browser.new_context(
        viewport=PHONE if served else DESK, color_scheme="dark" if served else "light"
    )
    watched, inspector = Watched(context.new_page(), home), Inspector()
    page, seen = watched.page, Visits()
    for url in [*urls, absent] if served else urls:
        watched.wrong = []
        page.set_viewport_size(PHONE if served else DESK)
        page.goto(url, wait_until="load")
        page.keyboard.press("Tab")
        first = page.evaluate("document.activeElement.getAttribute('href')")
        visit = {**page.evaluate(LOOK), "first": first, "wide": [], "wrong": watched.wrong}
        for width in (360,) if served else (1280, 768, 640, 320):
            page.set_viewport_size({"width": width, "height": 800})
            wide = page.evaluate("document.documentElement.scrollWidth")
            visit["wide"] += [f"{wide} px in {width}"] if wide > width else []
        watched.wrong = []  # axe tries to read style sheets, which it may not from disk
        visit["inaccessible"] = faults(page, inspector) if url in inspected else []
        seen[url.removeprefix(home)] = visit
    context.close()
    return seen


def faults(page: Page, inspector: Inspector) -> list[str]:
    """What axe finds on a page in light and in dark, at the width of a desk, nothing moving."""
    page.emulate_media(reduced_motion="reduce", color_scheme="light")
    page.evaluate("document.activeElement.blur()")
    page.set_viewport_size(DESK)
    page.wait_for_timeout(400)  # the theme makes scrolling regions reachable a little late
    found = inspector.faults(page)
    page.emulate_media(reduced_motion="no-preference")
    return found


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


def test_axe_finds_nothing(visits: Visits) -> None:
    """Every rule in light, then those that depend on the theme in dark, all that unfolds open."""
    found = collected(visits, "inaccessible")
    assert not found, found
