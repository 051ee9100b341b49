"""The book, built once, and a browser to open it with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.site.serving import QUIET, build, reader_pages, served, system_chromium


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages."""
    folder = tmp_path_factory.mktemp("book")
    result = build(folder)
    if result.returncode:
        pytest.fail(f"`make book` fails:\n{result.stderr[-4000:]}", pytrace=False)
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    with served(site) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium. With REQUIRE_BROWSER set, its absence is a failure."""
    program = system_chromium()
    if program is None:
        message = "no Chromium on this machine: links were checked, but no page was opened"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pages(site: Path) -> list[Path]:
    """Every page that a reader can reach."""
    found = [site / "index.html", *reader_pages(site)]
    assert site / "book" / "index.html" in found
    return found


@pytest.fixture(scope="session")
def chapters(site: Path) -> list[Path]:
    return sorted((site / "book").glob("*.html"))
