"""The API pages: their examples run, and every public name has a place on one of them."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import d2lattn
from d2lattn import d2l, distributed

BOOK = Path(__file__).resolve().parents[1] / "book"
PAGES = sorted((BOOK / "api").glob("*.md"))
WITH_EXAMPLES = [page for page in PAGES if ">>>" in page.read_text("utf-8")]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_give_what_it_says(page: Path) -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, attempted = doctest.testfile(str(page), module_relative=False, optionflags=options)
    assert failed == 0
    assert attempted > 1


def test_every_page_is_in_the_table_of_floors() -> None:
    listed = re.findall(
        r"^\| \[\]\(api/([\w-]+)\)", (BOOK / "api.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(listed) == [page.stem for page in PAGES]


def test_every_public_name_has_a_place_on_a_page() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    directives = re.findall(r"^.. auto(\w+):: ([\w.]+)", text, re.MULTILINE)
    told = {name for kind, name in directives if kind != "module"}
    told |= {name.rpartition(".")[2] for kind, name in directives if kind == "module"}
    assert set(d2lattn.__all__) <= told
    assert set(d2l.__all__) <= told
    assert set(distributed.__all__) <= told
