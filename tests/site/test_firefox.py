"""The pages in another browser: no error, nothing wider than a phone, laboratories that answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site.bidi import Firefox, firefox, system_firefox
from tests.site.test_labs import PAGES

RIGHT = "\ue014"  # the key
STATE = """[...document.querySelectorAll(".lab-body")].map(body => [body.innerText,
    ...[...body.querySelectorAll("svg, input")].map(e => e.innerHTML + e.value + e.checked)])"""
CONTROLS = '[...document.querySelectorAll(".lab-body :is(input, button)")]'
MIDDLE = """(e => { e.scrollIntoView({block: "center", behavior: "instant"});
    const box = e.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2]; })"""
# Said of a formula that is laid out before all of it has arrived; the finished page is right.
HALF_LOADED = "Invalid markup: Incorrect number of children"


def errors(browser: Firefox) -> list[str]:
    """What was wrong since the last question."""
    found, browser.wrong = browser.wrong, []
    return [message for message in found if not message.startswith(HALF_LOADED)]


def opened(browser: Firefox, site: Path, lab: str) -> None:
    browser.resize(1280, 1000)
    errors(browser)
    browser.open((site / "book" / f"{PAGES[lab]}.html").as_uri())
    assert changes(browser, 'document.querySelector(".lab-body") !== null', False, seconds=10)


def changes(browser: Firefox, what: str, before: object, seconds: float = 3.0) -> bool:
    """Whether the answer to a question becomes another one soon."""
    end = time.monotonic() + seconds
    while browser.ask(what) == before:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    program = system_firefox()
    if program is None:
        message = "no Firefox on this machine: the pages were opened in Chromium only"
        if os.environ.get("REQUIRE_FIREFOX"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    with firefox(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_no_page_errs_or_scrolls_sideways(browser: Firefox, pages: list[Path]) -> None:
    found = []
    errors(browser)
    for path in pages[1:]:  # the first one leaves for the home page while it is looked at
        if "_modules" in path.parts:  # listings of code: one page many times
            continue
        browser.resize(360, 800)
        browser.open(path.as_uri())
        for width in (360, 1280):
            browser.resize(width, 800)
            wide = browser.ask("document.documentElement.scrollWidth")
            if wide > width:
                found.append(f"{path.name} is {wide} wide on a screen of {width}")
        found += [f"{path.name}: {message}" for message in errors(browser)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("lab", PAGES)
def test_every_control_of_a_laboratory_answers(browser: Firefox, site: Path, lab: str) -> None:
    opened(browser, site, lab)
    controls = browser.ask(f"{CONTROLS}.map(e => [e.type, e.checked])")
    assert ["range", False] in controls
    # Sliders first: a button that brings a case back must have something to bring back.
    for number, (kind, chosen) in sorted(enumerate(controls), key=lambda c: c[1][0] != "range"):
        control = f"{CONTROLS}[{number}]"
        if chosen or browser.ask(f"{control}.disabled"):
            continue
        before = browser.ask(STATE)
        if kind == "range":
            browser.ask(f"{control}.focus()")
            browser.press(RIGHT)
        else:
            browser.drag(browser.ask(f"{MIDDLE}({control})"))
        assert changes(browser, STATE, before), browser.ask(f"{control}.outerHTML")
    assert not errors(browser)


@pytest.mark.parametrize("lab", ["kernel-regression", "scores"])
def test_the_query_follows_the_pointer(browser: Firefox, site: Path, lab: str) -> None:
    opened(browser, site, lab)
    value = 'document.querySelector(".lab-body input[type=range]").value'
    before = browser.ask(value)
    x, y = browser.ask(f'{MIDDLE}(document.querySelector(".lab-body svg"))')
    browser.drag((x, y), (x + 20, y), (x + 60, y))
    assert changes(browser, value, before)
    assert not errors(browser)
