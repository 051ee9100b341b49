"""A block of the scores: some queries and some keys, of some of the batch."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from d2lattn.checks import check_broadcasts

Index = slice | Tensor  # of an axis: a stretch, or numbers of any of it
EVERY = slice(None)


class Block(NamedTuple):
    """Where some scores stand among all scores ``(*batch, queries, keys)``.

    Attributes
    ----------
    shape
        The shape of all scores.
    batch
        A slice of each batch axis.
    rows, columns
        Which queries and which keys.
    """

    shape: tuple[int, ...]
    batch: tuple[slice, ...]
    rows: Index
    columns: Index

    @staticmethod
    def whole(shape: tuple[int, ...]) -> "Block":
        """All scores."""
        return Block(tuple(shape), (EVERY,) * (len(shape) - 2), EVERY, EVERY)

    def cut(self, tensor: Tensor) -> Tensor:
        """What a tensor that broadcasts to all scores says of these; an axis of 1 stays."""
        if self.is_whole:
            return tensor
        parts = (*self.batch, self.rows, self.columns)[len(self.shape) - tensor.ndim :]
        for axis, part in enumerate(parts):
            if isinstance(part, slice):
                if part != slice(None) and tensor.shape[axis] != 1:
                    tensor = tensor[(slice(None),) * axis + (part,)]
            elif tensor.shape[axis] != 1:
                tensor = tensor.index_select(axis, part)
        return tensor

    def tokens(self, tokens: Tensor, index: Index) -> Tensor:
        """Some tokens, ``(*batch, tokens, features)``, of these elements of the batch."""
        if isinstance(index, slice):
            return tokens[(*self.batch, index)]
        return tokens[self.batch].index_select(-2, index)

    def positions(
        self, device: torch.device
    ) -> tuple[Int[Tensor, "rows 1"], Int[Tensor, "1 columns"]]:
        """Where queries and keys stand: the last query at the last key."""
        *_, num_queries, num_keys = self.shape
        i = _numbers(self.rows, num_queries, device) + (num_keys - num_queries)
        return i.unsqueeze(-1), self.of_columns(device).unsqueeze(0)

    def of_positions(self, name: str, found: Tensor) -> Tensor:
        """What a function of these positions returned, if it broadcasts to these scores of all the
        batch: cut to these. An error speaks of all scores, however they are cut."""
        sizes = (*self.shape[:-2], *self.sizes[-2:])
        try:
            check_broadcasts(name, found, sizes)
        except ValueError:
            like = list(found.shape)
            for axis in (-2, -1):
                if found.ndim >= -axis and like[axis] == sizes[axis]:
                    like[axis] = self.shape[axis]
            check_broadcasts(name, torch.empty(like, device="meta"), self.shape)
            raise
        return self._replace(rows=EVERY, columns=EVERY).cut(found)

    def of_columns(self, device: torch.device) -> Int[Tensor, " columns"]:
        """The numbers of its keys, which are their positions."""
        return _numbers(self.columns, self.shape[-1], device)

    def within(self, batch: tuple[slice, ...], rows: Int[Tensor, " rows"]) -> "Block":
        """Some of its own elements and rows, in its own numbers."""
        parts = []
        for mine, other, count in zip(self.batch, batch, self.shape, strict=False):
            first = mine.indices(count)[0]
            start, stop, _ = other.indices(len(range(count)[mine]))
            parts.append(slice(first + start, first + stop))
        numbers = _numbers(self.rows, self.shape[-2], rows.device)
        return self._replace(batch=tuple(parts), rows=numbers[rows])

    @property
    def is_whole(self) -> bool:
        """Whether it was made as all scores."""
        return self.columns is EVERY and self.rows is EVERY and all(x is EVERY for x in self.batch)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of these scores."""
        axes = zip((*self.batch, self.rows, self.columns), self.shape, strict=True)
        return tuple(
            (n if x == slice(None) else len(range(n)[x])) if isinstance(x, slice) else len(x)
            for x, n in axes
        )


def _numbers(index: Index, count: int, device: torch.device) -> Int[Tensor, " count"]:
    if isinstance(index, Tensor):
        return index.to(device)
    if index == slice(None):
        return torch.arange(count, device=device)
    start, stop, _ = index.indices(count)
    return torch.arange(start, stop, device=device)


def at_once(elements: int, device: torch.device) -> int:
    """How many elements to work on together, of which a core's cache holds ``elements``.

    A graphics card has nothing to do most of the time unless it is given many more.
    """
    return elements if device.type == "cpu" else 32 * elements


def parts_of_batch(batch: tuple[int, ...], size: int) -> Iterator[tuple[slice, ...]]:
    """Slices of the batch axes with up to ``size`` elements each, in the order of memory."""
    axis, whole = len(batch), 1  # the axes from here on are taken whole
    while axis > 0 and whole * batch[axis - 1] <= size:
        axis -= 1
        whole *= batch[axis]
    step = max(1, size // max(1, whole)) if axis > 0 else 1
    for outer in product(*(range(n) for n in batch[: max(0, axis - 1)])):
        fixed = tuple(slice(i, i + 1) for i in outer)
        rest = (EVERY,) * (len(batch) - axis)
        if axis == 0:
            yield rest
        for start in range(0, batch[axis - 1], step) if axis else ():
            yield (*fixed, slice(start, min(start + step, batch[axis - 1])), *rest)
