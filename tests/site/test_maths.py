"""Formulas set by book/_ext/maths.py, in the engine that the build uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import maths
import pytest
from docutils import nodes
from docutils.utils import new_document


@pytest.fixture(scope="module")
def typesetter() -> Iterator[Any]:
    typesetter = maths.Typesetter()
    yield typesetter
    typesetter.close()


def test_a_formula_is_seen_and_heard(typesetter: Any) -> None:
    formula = typesetter.html(r"\frac{q}{\sqrt d}", False)
    assert "<mjx-mfrac>" in formula
    assert "<mjx-assistive-mml" in formula
    assert "<mfrac>" in formula
    assert 'aria-hidden="true"' in formula


def test_an_electronic_book_gets_mathml_alone(typesetter: Any) -> None:
    formula = typesetter.mathml(r"\frac{q}{\sqrt d}", True)
    assert formula.startswith("<math ")
    assert "mjx-container" not in formula


def test_letters_of_all_kinds_survive_in_an_electronic_book(typesetter: Any) -> None:
    formula = typesetter.portable(r"\mathbb{R}\mathbb{E}\mathcal{N}\mathbf{Q}x", False)
    assert [letter for letter in "ℝ𝔼𝒩𝐐" if letter not in formula] == []
    assert "<mi>x</mi>" in formula
    assert '<mi class="query">𝐐</mi>' in formula


def test_names_and_bars_are_spaced_as_in_print_in_an_electronic_book(typesetter: Any) -> None:
    assert 'rspace="0.167em"' in typesetter.portable(r"\log c", False)
    assert "rspace" not in typesetter.portable(r"\log(c)", False)
    assert typesetter.portable("|u| < 1", False).count('lspace="0em" rspace="0em">|') == 2


def test_the_styles_cover_what_was_set(typesetter: Any) -> None:
    typesetter.html(r"\alpha", False)
    assert "1D6FC" in typesetter.styles()


@pytest.mark.parametrize("tex", [r"\frac{1}", r"\nosuchcommand", "a_b_c"])
def test_a_faulty_formula_is_an_error(typesetter: Any, tex: str) -> None:
    assert "<mjx-merror" in typesetter.html(tex, False)
    assert "<merror" in typesetter.mathml(tex, False)


@pytest.mark.parametrize("form", ["html", "mathml"])
def test_what_a_page_defines_holds_on_that_page_alone(typesetter: Any, form: str) -> None:
    said = getattr(typesetter, form)
    typesetter.turn_to("first")
    before = said(r"\vec a", False)
    said(r"\newcommand{\house}{h}\renewcommand{\vec}[1]{\mathbf{#1}}", False)
    typesetter.turn_to("first")
    assert "merror" not in said(r"\house", False)
    typesetter.turn_to("second")
    assert "merror" in said(r"\house", False)
    assert said(r"\vec a", False) == before
    typesetter.turn_to("first")
    assert "merror" in said(r"\house", False)


@pytest.mark.parametrize(
    ("tex", "roles"),
    [
        (r"q^\top k_i + 2 \bar k", ["query q", "key k", "key k"]),
        (r"e^{a(q, k_j)} v_j", ["query q", "key k", "value v"]),
        (r"\mathbf{Q} \mathbf{K}^\top \mathbf{V}", ["query Q", "key K", "value V"]),
        (r"W_q + w_v \odot \sum_k a_{ik} + \sum_{k=1}^n K(u)", []),
    ],
)
def test_queries_keys_and_values_have_their_colour(
    typesetter: Any, tex: str, roles: list[str]
) -> None:
    found = re.findall(r'<mi[^>]* class="(\w+)">(\w+)', typesetter.mathml(tex, True))
    assert [" ".join(each) for each in found] == roles
    shown = re.findall(r'<mjx-mi class="[^"]*\b(query|key|value)"', typesetter.html(tex, True))
    assert shown == [role.split()[0] for role in roles]


def test_a_formula_stays_with_its_comma_and_its_bracket() -> None:
    document = new_document("page")
    q, k = nodes.math("", "q"), nodes.math("", "k")
    document += nodes.paragraph("", "", nodes.Text("a ("), q, nodes.Text(") of "), k)
    maths.StayTogether(document).run()
    (together,) = document.findall(nodes.inline)
    assert together.astext() == "(q)"
    assert document.astext() == "a (q) of k"


@pytest.mark.parametrize(
    ("tex", "words"),
    [
        ("k_1", "k sub 1"),
        (r"q^\top k", "q transposed k"),
        (r"-\tfrac12 \lVert k \rVert^2", "minus 1 over 2 double bar k double bar squared"),
    ],
)
def test_a_short_formula_has_words(typesetter: Any, tex: str, words: str) -> None:
    assert maths.spoken(typesetter.mathml(tex, False)) == words
