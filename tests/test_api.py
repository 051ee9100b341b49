"""The API page: its examples run, and it has every public name."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import d2lattn
from d2lattn import d2l, distributed

PAGE = Path(__file__).resolve().parents[1] / "book/api.md"


def test_the_examples_of_the_page_give_what_it_says() -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False, optionflags=options)
    assert failed == 0
    assert attempted > 10


def test_every_public_name_has_a_place_on_the_page() -> None:
    directives = re.findall(r"^.. auto(\w+):: ([\w.]+)", PAGE.read_text("utf-8"), re.MULTILINE)
    told = {name for kind, name in directives if kind != "module"}
    told |= {name.rpartition(".")[2] for kind, name in directives if kind == "module"}
    assert set(d2lattn.__all__) <= told
    assert set(d2l.__all__) <= told
    assert set(distributed.__all__) <= told
