"""What the tests of the site open, and with what."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from editions import UNDER

from tools import serving

# The edition that the tests open: a fork's, published under a path of its own.
PUBLISHED = {
    "BOOK_URL": "https://someone.github.io/course",
    "BOOK_REPOSITORY_URL": "https://github.com/someone/course",
}
ABSENT = "no/such/page.html"  # so deep that relative links would fail


ONE_OF_EACH_KIND = {"index", "03-masked-softmax", "glossary", "masks", "search"}
EPUBCHECK = Path("/usr/share/java/epubcheck.jar")  # where Debian's package has it


def is_chinese(page: Path) -> bool:
    return UNDER in page.parts


def few_chinese(pages: list[Path]) -> list[Path]:
    """Of the Chinese pages, which are made as the English ones, one of each kind for all."""
    return [path for path in pages if not is_chinese(path) or path.stem in ONE_OF_EACH_KIND]


def required_chromium() -> str:
    """The system's Chromium, for a test. With REQUIRE_BROWSER set, its absence is a failure."""
    message = "no Chromium on this machine: links were checked, but no page was opened"
    return required(serving.system_chromium(windowless=True), message, "REQUIRE_BROWSER")


def required_epubcheck() -> str:
    """EPUBCheck, for a test. With REQUIRE_EPUBCHECK set, its absence is a failure."""
    found = str(EPUBCHECK) if EPUBCHECK.exists() and shutil.which("java") else None
    return required(
        found, "no EPUBCheck on this machine: the EPUB is as we read it", "REQUIRE_EPUBCHECK"
    )


def required(program: str | None, message: str, variable: str) -> str:
    if program is None:
        if os.environ.get(variable):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return program
