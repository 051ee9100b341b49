"""Texts as sequences of numbers, one for each character."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from d2lattn.checks import check_integers

__all__ = ["BEGIN", "END", "PAD", "Alphabet"]

PAD, BEGIN, END = 0, 1, 2  # tokens that are no character


class Alphabet:
    """The characters that a model knows, numbered; 0, 1 and 2 are padding, begin and end.

    Parameters
    ----------
    characters
        Each counts once; they are numbered in the order of their code points.

    Raises
    ------
    TypeError, ValueError
        If there are none, or one is no single character.

    Examples
    --------
    >>> alphabet = Alphabet("abc")
    >>> tokens, lens = alphabet.encode(["cab", "a"])
    >>> tokens, lens
    (tensor([[5, 3, 4],
            [3, 0, 0]]), tensor([3, 1]))
    >>> alphabet.decode(tokens)
    ['cab', 'a']
    """

    def __init__(self, characters: Iterable[str]) -> None:
        found = sorted(set(characters))
        for character in found:
            if not isinstance(character, str) or len(character) != 1:
                raise ValueError(f"characters must be single characters; got {character!r}")
        if not found:
            raise ValueError("characters must hold at least one character; got none")
        self.characters = "".join(found)
        self._number = {character: 3 + i for i, character in enumerate(found)}

    def __len__(self) -> int:
        """How many tokens there are, with padding, begin and end."""
        return 3 + len(self.characters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alphabet) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __repr__(self) -> str:
        return f"Alphabet({self.characters!r})"

    def encode(
        self, texts: Sequence[str], *, end: bool = False
    ) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, " batch"]]:
        """Tokens, padded to the longest text, and valid lengths.

        Parameters
        ----------
        texts
            At least one, none of them empty.
        end
            Whether each text is followed by the token of the end, as what is written is.

        Raises
        ------
        TypeError
            If a text is none, or ``texts`` is one.
        ValueError
            If a text is empty, or has a character that is not in the alphabet.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of texts; got the text {texts!r}")
        if len(texts) == 0:
            raise ValueError("texts must hold at least one text; got none")
        rows = []
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{i}] must be a text; got {type(text).__name__}")
            if not text:
                raise ValueError(f"texts[{i}] must have at least one character; got ''")
            for place, character in enumerate(text):
                if character not in self._number:
                    raise ValueError(
                        f"texts[{i}] must consist of the characters {self.characters!r}; "
                        f"got {character!r} at {place} in {text!r}"
                    )
            rows.append([*map(self._number.__getitem__, text), *[END] * end])
        lens = torch.tensor([len(row) for row in rows])
        width = max(map(len, rows))
        return torch.tensor([row + [PAD] * (width - len(row)) for row in rows]), lens

    def decode(self, tokens: Int[Tensor, "batch tokens"]) -> list[str]:
        """The characters of each row up to its end; what is no character is left out.

        Raises
        ------
        TypeError
            If the tokens are not integers.
        ValueError
            If they are not in rows, or a token has no character in this alphabet.
        """
        check_integers("tokens", tokens)
        if tokens.ndim != 2:
            raise ValueError(f"tokens must have shape (batch, tokens); got {tuple(tokens.shape)}")
        texts = []
        for row in tokens.tolist():
            row = row[: row.index(END)] if END in row else row
            if max(row, default=0) >= len(self) or min(row, default=0) < 0:
                raise ValueError(
                    f"tokens must lie in [0, {len(self) - 1}], those of this alphabet; got {row}"
                )
            texts.append("".join(self.characters[token - 3] for token in row if token >= 3))
        return texts
