"""A stretch of the queries and a stretch of the keys of a mask, as a mask of its own."""

import torch
from jaxtyping import Bool
from torch import Tensor

from d2lattn.blocks import Block, Index
from d2lattn.restrictions.base import Columns, Restriction, Stretch


class Part(Restriction):
    """What a mask that is bound to all scores says of some, whose numbers start at 0."""

    parts = ("whole",)

    def __init__(
        self, whole: Restriction, shape: tuple[int, ...], rows: Stretch, columns: Stretch
    ) -> None:
        self.whole, self.shape, self.rows, self.stretch = whole, shape, rows, columns
        self.opaque, self.foreign = whole.opaque, whole.foreign

    def __repr__(self) -> str:
        return f"{self.whole!r}[{self.rows[0]}:{self.rows[1]}, {self.stretch[0]}:{self.stretch[1]}]"

    def _there(self, block: Block) -> Block:
        """The block as one of all scores."""
        return block._replace(
            shape=(*block.shape[:-2], *self.shape[-2:]),
            rows=_moved(block.rows, self.rows),
            columns=_moved(block.columns, self.stretch),
        )

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return self.whole.allowed(self._there(block), device)

    def hidden(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return self.whole.hidden(self._there(block), device)

    def hull(self, rows: Stretch, shape: tuple[int, ...]) -> Stretch:
        first, last = self.stretch
        there = rows[0] + self.rows[0], rows[1] + self.rows[0]
        start, stop = self.whole.hull(there, self.shape)
        start = min(max(start, first), last)
        return start - first, min(max(stop, start), last) - first

    def columns(self, block: Block, device: torch.device) -> Columns:
        return self.whole.columns(self._there(block), device)

    def is_triangle(self, block: Block, device: torch.device) -> bool:
        return self.whole.is_triangle(self._there(block), device)

    def edges(self, shape: tuple[int, ...]) -> list[int]:
        first, last = self.rows
        return [edge - first for edge in self.whole.edges(self.shape) if first < edge < last]

    def pattern(self, block: Block) -> int | None:
        return self.whole.pattern(self._there(block))


def _moved(index: Index, stretch: Stretch) -> Index:
    if isinstance(index, Tensor):
        return index + stretch[0]
    start, stop, _ = index.indices(stretch[1] - stretch[0])
    return slice(stretch[0] + start, stretch[0] + stop)
