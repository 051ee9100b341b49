"""Points that are together in boxes, as padded matrices of about equal boxes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Group", "flat", "groups_of"]

_POINTS_OF_A_GROUP = 2**14  # what is made of them stays in cache


class Group(NamedTuple):
    """Some boxes and their points, padded with any points that are not ``there``."""

    which: Int[Tensor, " boxes"]
    points: Int[Tensor, "boxes points"]
    there: Bool[Tensor, "boxes points"]

    def write(self, to: Tensor, numbers: Tensor) -> None:
        """Numbers of the points, ``(boxes, points, ...)``, to their rows of ``to``."""
        kept = self.there.flatten().nonzero().squeeze(-1)
        rows = self.points.flatten().index_select(0, kept)
        to.index_copy_(0, rows, numbers.flatten(0, 1).index_select(0, kept))


def flat(boxes: Sequence[Int[Tensor, " n"]] | Tensor, shape: Sequence[int]) -> Int[Tensor, " n"]:
    """One number for each box of a grid, from those along the axes; a row's follow each other."""
    number = boxes[0]
    for box, num in zip(boxes[1:], shape[1:], strict=True):
        number = number * num + box
    return number


def groups_of(box: Int[Tensor, " n"], *, most: int | None = 1024) -> Iterator[Group]:
    """All points once, in linear memory however unequal the boxes are.

    Parameters
    ----------
    box
        For each point the number of its box.
    most
        Cut boxes into pieces of at most so many points; None: never.
    """
    n = len(box)
    order = torch.arange(n, device=box.device)
    if not bool((box[1:] >= box[:-1]).all()):
        order = box.argsort(stable=True)
        box = box[order]
    which, counts = box.unique_consecutive(return_counts=True)
    first = counts.cumsum(0) - counts
    if most is not None and int(counts.amax()) > most:
        pieces = (counts + most - 1) // most
        which = which.repeat_interleave(pieces)
        number = torch.arange(len(which), device=box.device) - (
            pieces.cumsum(0) - pieces
        ).repeat_interleave(pieces)
        left = counts.repeat_interleave(pieces) - number * most
        first = first.repeat_interleave(pieces) + number * most
        counts = left.clamp(max=most)
    sizes = torch.frexp(counts.double()).exponent  # alike: within a factor of two
    for size in sizes.unique().tolist():
        alike = (sizes == size).nonzero().squeeze(-1)
        widest = int(counts[alike].amax())
        places = torch.arange(widest, device=box.device)
        for some in alike.split(max(1, _POINTS_OF_A_GROUP // widest)):
            there = places < counts[some].unsqueeze(-1)
            points = (first[some].unsqueeze(-1) + places).clamp(max=n - 1)
            yield Group(which[some], order[points], there)
