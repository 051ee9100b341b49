"""What the tests of the site open, and with what."""

from __future__ import annotations

import os

import pytest

from tools import serving

# The edition that the tests open: a fork's, published under a path of its own.
PUBLISHED = {
    "BOOK_URL": "https://someone.github.io/course",
    "BOOK_REPOSITORY_URL": "https://github.com/someone/course",
}
ABSENT = "no/such/page.html"  # so deep that relative links would fail


def required_chromium() -> str:
    """The system's Chromium, for a test. With REQUIRE_BROWSER set, its absence is a failure."""
    program = serving.system_chromium()
    if program is None:
        message = "no Chromium on this machine: links were checked, but no page was opened"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return program
