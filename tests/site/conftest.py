"""The book, built once, and a browser to open it with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.site.helpers import PUBLISHED, required_chromium
from tools.serving import QUIET, build, reader_pages, served


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages. The first worker of pytest-xdist to ask builds for all."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, verdict = base / "site", base / "site.txt"
    try:
        folder.mkdir()
    except FileExistsError:
        wait_for(verdict)
    else:
        result = build(folder, edition=PUBLISHED)
        whole = verdict.with_suffix(".part")
        whole.write_text(result.stderr[-4000:] if result.returncode else "", encoding="utf-8")
        whole.replace(verdict)
    errors = verdict.read_text(encoding="utf-8")
    if errors:
        pytest.fail(f"`make book` fails:\n{errors}", pytrace=False)
    return folder / "_build" / "html"


def wait_for(path: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, "the worker that builds the book has not finished"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    with served(site) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = required_chromium()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pages(site: Path) -> list[Path]:
    """The first page, which leads to the home page, then every page that a reader can reach."""
    found = [site / "index.html", *reader_pages(site)]
    assert site / "book" / "index.html" in found
    return found


@pytest.fixture(scope="session")
def kinds(pages: list[Path]) -> list[Path]:
    """The same, with the longest listing of source for all of them, which are made alike."""
    listings = [path for path in pages if "_modules" in path.parts and path.name != "index.html"]
    longest = max(listings, key=lambda path: path.stat().st_size)
    return [path for path in pages if path not in listings or path == longest]


@pytest.fixture(scope="session")
def chapters(site: Path) -> list[Path]:
    return sorted((site / "book").glob("*.html"))
