"""What a fused kernel has to be called for: pieces of the scores that are full, or a triangle."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2lattn.blocks import EVERY, Block, parts_of_batch
from d2lattn.restrictions import Restriction, Stretch

# Scores of mixed pieces: more are cut again, as long as they have more than so many rows.
MIXED = 2**17
FEWEST_ROWS = 128
# Rows of a triangle that is worth cutting, one part for each thread.
TRIANGLE = 512
# A mask that has more stretches of columns in a strip is not followed into each.
MANY = 8
# Fewer scores of an element of the batch are not worth a call of their own.
WORTH_A_CALL = 2**16


class Kind(Enum):
    """Which scores of a piece count."""

    FULL = "all"
    TRIANGLE = "in row r those up to column r"
    MIXED = "as the mask says"


class Piece(NamedTuple):
    """A rectangle of the scores, and which of them count."""

    block: Block
    kind: Kind

    @property
    def area(self) -> int:
        rows, (start, stop) = self.block.rows, self.ends
        assert isinstance(rows, slice)
        return (rows.stop - rows.start) * (stop - start)

    @property
    def ends(self) -> Stretch:
        assert isinstance(self.block.columns, slice)
        return self.block.columns.start, self.block.columns.stop


def pieces(
    shape: tuple[int, ...], mask: Restriction | None, device: torch.device
) -> Iterator[Piece]:
    """Rectangles that hold every pair that counts once, and as few others as pays."""
    *batch, num_queries, num_keys = shape
    part: tuple[slice, ...] = (EVERY,) * len(batch)
    if mask is None:
        yield Piece(Block(shape, part, slice(0, num_queries), slice(0, num_keys)), Kind.FULL)
        return
    parts = [part]
    if any(tensor.shape[:-2].numel() > 1 for tensor in mask.tensors()):
        size = max(1, 4 * WORTH_A_CALL // (num_queries * num_keys))  # a look costs as well
        parts = list(parts_of_batch(tuple(batch), size))
    edges = [0, *sorted(set(mask.edges(shape))), num_queries]
    for part in parts:
        strip = _Strip(shape, mask, part, device, {})
        for rows in pairwise(edges):
            yield from strip.pieces(rows)


class _Strip(NamedTuple):
    """Some elements of the batch, whose rows are looked at a strip at a time."""

    shape: tuple[int, ...]
    mask: Restriction
    part: tuple[slice, ...]
    device: torch.device
    known: dict[tuple[Any, ...], list[tuple[int, int]]]

    def pieces(self, rows: Stretch, *, cut: bool = True) -> Iterator[Piece]:
        """The pieces of a strip; of thinner ones where the mask runs across it."""
        count = rows[1] - rows[0]
        start, stop = self.mask.hull(rows, self.shape)
        if count > FEWEST_ROWS and self.mask.opaque and count * (stop - start) > 8 * MIXED:
            yield from self._thinner(rows, 2)
            return
        found = list(self._runs(rows, (start, stop)))
        mixed = sum(piece.area for piece in found if piece.kind is Kind.MIXED)
        threads = max(2, torch.get_num_threads())
        if count > FEWEST_ROWS and mixed > MIXED:
            yield from self._thinner(rows, 2)
        elif (
            cut
            and count >= threads * TRIANGLE
            and any(piece.kind is Kind.TRIANGLE for piece in found)
        ):
            # As many triangles as threads: each takes one, and has as much to do.
            yield from self._thinner(rows, threads, cut=False)
        elif 9 * mixed >= 4 * sum(piece.area for piece in found) > 0:
            yield from _joined(found)
        else:
            yield from found

    def _thinner(self, rows: Stretch, parts: int, *, cut: bool = True) -> Iterator[Piece]:
        step = -(-(rows[1] - rows[0]) // parts)
        for first in range(*rows, step):
            yield from self.pieces((first, min(first + step, rows[1])), cut=cut)

    def _piece(self, rows: Stretch, columns: Stretch, kind: Kind) -> Piece:
        return Piece(Block(self.shape, self.part, slice(*rows), slice(*columns)), kind)

    def _runs(self, rows: Stretch, hull: Stretch) -> Iterator[Piece]:
        """Columns next to each other that are seen by all, or by some, of the rows."""
        stop, full = hull[0], None
        for state, count in self._states(self._piece(rows, hull, Kind.MIXED).block):
            start, stop = stop, stop + count
            if state == 1:
                # A triangle begins with a column that every row sees.
                triangle = self._piece(rows, (start - 1, stop), Kind.TRIANGLE)
                if full is not None and self.mask.is_triangle(triangle.block, self.device):
                    if full.area > rows[1] - rows[0]:
                        yield self._piece(rows, (full.ends[0], start - 1), Kind.FULL)
                    yield triangle
                    full = None
                    continue
            if full is not None:
                yield full
            full = self._piece(rows, (start, stop), Kind.FULL) if state == 2 else None
            if state == 1:
                yield self._piece(rows, (start, stop), Kind.MIXED)
        if full is not None:
            yield full

    def _states(self, block: Block) -> list[tuple[int, int]]:
        """How many columns in turn are seen by none (0), some (1) or all (2) of the rows."""
        pattern = self.mask.pattern(block)
        key = block.sizes, pattern
        if pattern is not None and key in self.known:
            return self.known[key]
        some, every = self.mask.columns(block, self.device)
        states, counts = (some.int() + every.int()).unique_consecutive(return_counts=True)
        found = list(zip(states.tolist(), counts.tolist(), strict=True))
        if len(found) > MANY:
            found = list(_fewer(found, WORTH_A_CALL // max(1, block.sizes[-2])))
        if pattern is not None:
            self.known[key] = found
        return found


def _fewer(runs: list[tuple[int, int]], few: int) -> Iterator[tuple[int, int]]:
    """Of many states that alternate, those of few columns as one that some rows see, where keys are
    left out or documents are scattered: every piece costs as much as so many scores."""
    for short, together in groupby(runs, lambda run: run[1] <= few):
        some = list(together)
        ends = [i for i, (state, _) in enumerate(some) if state > 0]
        if not short or not ends or ends[0] == ends[-1]:
            yield from some
            continue
        yield from some[: ends[0]]
        yield 1, sum(count for _, count in some[ends[0] : ends[-1] + 1])
        yield from some[ends[-1] + 1 :]


def _joined(found: list[Piece]) -> Iterator[Piece]:
    """Pieces that touch as one: not much is lost, and every call costs."""
    first, *others = found
    for piece in others:
        if piece.ends[0] == first.ends[1]:
            columns = slice(first.ends[0], piece.ends[1])
            first = Piece(first.block._replace(columns=columns), Kind.MIXED)
        else:
            yield first
            first = piece
    yield first


def groups(
    found: Iterator[Piece], mask: Restriction | None, elements: int
) -> Iterator[list[Piece]]:
    """Pieces that are computed together, with about so many tokens in all: of one size, and
    where they are mixed, with the same scores hidden."""
    waiting: dict[tuple[Any, ...], list[Piece]] = {}
    for piece in found:
        pattern = None
        if piece.kind is Kind.MIXED:
            pattern = None if mask is None else mask.pattern(piece.block)
            if pattern is None:
                yield [piece]
                continue
        sizes = piece.block.sizes
        key = piece.kind, sizes, pattern
        group = waiting.setdefault(key, [])
        group.append(piece)
        if len(group) * sum(sizes[-2:]) >= elements:
            yield waiting.pop(key)
    yield from waiting.values()


def bias(
    piece: Piece, mask: Restriction | None, like: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """What a mixed piece adds to its scores, and which of its queries it leaves without keys."""
    if mask is None or piece.kind is not Kind.MIXED:
        return None, None
    block = piece.block
    hidden = mask.hidden(block, like.device)
    batch = hidden.shape[:-2]
    if batch.numel() > 1:
        batch = torch.Size(block.sizes[:-2])
    hidden = hidden.expand(*batch, hidden.shape[-2], block.sizes[-1])
    hidden = hidden.reshape(-1, 1, *hidden.shape[-2:])
    added = like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
    return added, hidden.all(dim=-1)
