"""Where the tests of the site find a browser, and what they say where there is none."""

from __future__ import annotations

import re

import pytest

from tests.site.helpers import required_chromium
from tools import serving
from tools.serving import ROOT


def test_without_a_browser_the_tests_say_what_they_leave_out(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setattr(serving, "system_chromium", lambda **_: None)
    monkeypatch.delenv("REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no Chromium .* no page was opened"):
        required_chromium()
    assert "s" in pytestconfig.option.reportchars, "pytest does not list what was skipped"


def test_where_a_browser_is_required_its_absence_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "system_chromium", lambda **_: None)
    monkeypatch.setenv("REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no Chromium"):
        required_chromium()


def test_continuous_integration_installs_and_requires_one() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    steps = [
        r"missing\+=\(chromium-headless-shell\)",
        r"missing\+=\(epubcheck\b",
        r"apt-get install .*\$\{missing",
        "^export REQUIRE_BROWSER=1 .*REQUIRE_EPUBCHECK=1",
        "^make test$",
    ]
    found = [re.search(step, script, re.MULTILINE) for step in steps]
    places = [match.start() for match in found if match]
    assert len(places) == len(steps)
    assert places == sorted(places)
