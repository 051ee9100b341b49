"""Texts as tokens, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from d2lattn.characters import BEGIN, END, PAD, Alphabet

ABC = Alphabet("cab")


def test_texts_come_back_as_they_were():
    texts = ["cab", "a", "bb"]
    for end in (False, True):
        tokens, lens = ABC.encode(texts, end=end)
        assert tokens.shape == (3, 3 + end)
        assert lens.tolist() == [3 + end, 1 + end, 2 + end]
        assert ABC.decode(tokens) == texts
        for row, length in zip(tokens, lens, strict=True):
            assert (row[length:] == PAD).all()
            assert (row[:length] != PAD).all()
            assert not end or row[length - 1] == END


def test_what_follows_an_end_and_what_is_no_character_is_left_out():
    assert ABC.decode(torch.tensor([[BEGIN, 3, END, 4], [4, PAD, 5, PAD]])) == ["a", "bc"]


def test_the_order_in_which_characters_are_named_does_not_matter():
    assert Alphabet("cab") == Alphabet("abc") == Alphabet(["b", "a", "c", "a"])
    assert hash(Alphabet("cab")) == hash(ABC)
    assert Alphabet("ab") != ABC
    assert len(ABC) == 6
    assert repr(ABC) == "Alphabet('abc')"


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "unknown": (
        lambda: ABC.encode(["ab", "ad"]),
        ValueError,
        r"texts\[1\] must consist of the characters 'abc'; got 'd' at 1 in 'ad'",
    ),
    "empty": (lambda: ABC.encode(["a", ""]), ValueError, r"texts\[1\] must have at least one char"),
    "no texts": (lambda: ABC.encode([]), ValueError, "texts must hold at least one text"),
    "a text": (lambda: ABC.encode("ab"), TypeError, "texts must be a list of texts; got the text"),
    "a number": (lambda: ABC.encode([1]), TypeError, r"texts\[0\] must be a text; got int"),  # type: ignore[list-item]
    "other tokens": (
        lambda: ABC.decode(torch.tensor([[6]])),
        ValueError,
        r"tokens must lie in \[0, 5\], those of this alphabet; got \[6\]",
    ),
    "negative": (lambda: ABC.decode(torch.tensor([[-1]])), ValueError, r"tokens must lie in"),
    "decimals": (lambda: ABC.decode(torch.tensor([[1.0]])), TypeError, "tokens must hold integers"),
    "one row": (lambda: ABC.decode(torch.tensor([3])), ValueError, "tokens must have shape"),
    "no characters": (lambda: Alphabet(""), ValueError, "characters must hold at least one"),
    "words": (
        lambda: Alphabet(["ab"]),
        ValueError,
        "characters must be single characters; got 'ab'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named(case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call()
