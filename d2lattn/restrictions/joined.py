"""Masks made of masks."""

import torch
from jaxtyping import Bool
from torch import Tensor

from d2lattn.blocks import Block
from d2lattn.restrictions.base import Columns, Restriction, Stretch


class Both(Restriction):
    """What two masks allow."""

    parts = ("one", "other")

    def __init__(self, one: Restriction, other: Restriction) -> None:
        self.one, self.other = one, other
        self.opaque = one.opaque or other.opaque
        self.foreign = one.foreign or other.foreign

    def __repr__(self) -> str:
        return f"({self.one!r} & {self.other!r})"

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        axes = (mask.batch_of(num_queries) for mask in (self.one, self.other))
        return tuple(torch.broadcast_shapes(*axes))

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        return Both(self.one.bind(shape, device), self.other.bind(shape, device))

    def bind_to_heads(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        return Both(*(mask.bind_to_heads(shape, device) for mask in (self.one, self.other)))

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return self.one.allowed(block, device) & self.other.allowed(block, device)

    def hull(self, rows: Stretch, shape: tuple[int, ...]) -> Stretch:
        (a, b), (c, d) = (mask.hull(rows, shape) for mask in (self.one, self.other))
        return max(a, c), max(a, c, min(b, d))

    def columns(self, block: Block, device: torch.device) -> Columns:
        one, other = (mask.columns(block, device) for mask in (self.one, self.other))
        return one[0] & other[0], one[1] & other[1]

    def is_triangle(self, block: Block, device: torch.device) -> bool:
        triangles = [mask.is_triangle(block, device) for mask in (self.one, self.other)]
        return any(triangles) and all(
            triangle or bool(mask.columns(block, device)[1].all())
            for triangle, mask in zip(triangles, (self.one, self.other), strict=True)
        )

    def edges(self, shape: tuple[int, ...]) -> list[int]:
        return self.one.edges(shape) + self.other.edges(shape)


class Inverse(Restriction):
    """What a mask does not allow."""

    parts = ("inner",)

    def __init__(self, inner: Restriction) -> None:
        self.inner = inner
        self.opaque, self.foreign = inner.opaque, inner.foreign

    def __repr__(self) -> str:
        return f"~{self.inner!r}"

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        return self.inner.batch_of(num_queries)

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        return Inverse(self.inner.bind(shape, device))

    def bind_to_heads(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        return Inverse(self.inner.bind_to_heads(shape, device))

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return self.inner.hidden(block, device)

    def columns(self, block: Block, device: torch.device) -> Columns:
        some, every = self.inner.columns(block, device)
        return ~every, ~some

    def edges(self, shape: tuple[int, ...]) -> list[int]:
        return self.inner.edges(shape)
