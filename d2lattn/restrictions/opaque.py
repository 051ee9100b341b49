"""Masks that can only be known by looking at every pair."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from d2lattn.blocks import Block
from d2lattn.checks import check_broadcasts, check_device
from d2lattn.restrictions.base import Restriction


class Where(Restriction):
    """Where a function of positions is true."""

    opaque = foreign = True

    def __init__(self, predicate: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.predicate = predicate

    def __repr__(self) -> str:
        return f"Mask.where({getattr(self.predicate, '__name__', self.predicate)})"

    def bind_to_heads(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        return Where(partial(_for_heads, self.predicate, len(shape)))

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        i, j = block.positions(device)
        found = self.predicate(i, j)
        if not isinstance(found, Tensor) or found.dtype != torch.bool:
            got = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"predicate must return a boolean tensor; got {got}")
        found = block.of_positions("what predicate returns", found)
        return found[(None,) * (len(block.shape) - found.ndim)]


def _for_heads(
    predicate: Callable[[Tensor, Tensor], Tensor], axes: int, i: Tensor, j: Tensor
) -> Any:
    found = predicate(i, j)
    return found.unsqueeze(-3) if isinstance(found, Tensor) and 2 < found.ndim < axes else found


class Booleans(Restriction):
    """A boolean tensor that broadcasts to the scores."""

    parts = ("boolean",)
    opaque = True

    def __init__(self, boolean: Bool[Tensor, "..."]) -> None:
        self.boolean = boolean

    def __repr__(self) -> str:
        return f"Mask.tensor({tuple(self.boolean.shape)})"

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        return tuple(self.boolean.shape[:-2])

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        check_device("mask", self.boolean, device)
        check_broadcasts("mask", self.boolean, shape)
        return Booleans(self.boolean[(None,) * (len(shape) - self.boolean.ndim)])

    def bind_to_heads(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        if self.boolean.ndim >= len(shape):
            return self.bind(shape, device)
        bound = self.bind((*shape[:-3], *shape[-2:]), device)
        assert isinstance(bound, Booleans)
        return Booleans(bound.boolean.unsqueeze(-3))

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return block.cut(self.boolean)
