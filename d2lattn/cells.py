"""Compact kernels on a line: sums over windows, from sums over cells."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2lattn.groups import groups_of
from d2lattn.moments import Moments

__all__ = ["moments_in_cells", "window"]

_WIDTH = 31 / 32  # of a cell, in bandwidths: a window's half never begins and ends inside one cell

_QUERIES_AT_ONCE = 2**14  # what is made of them stays in cache

# The kernel as a polynomial of u, by side: the coefficients of 1, |u| and u^2.
_POLYNOMIALS = {
    "boxcar": (1.0, 0.0, 0.0),
    "triangular": (1.0, -1.0, 0.0),
    "epanechnikov": (1.0, 0.0, -1.0),
}


def window(
    queries: Float[Tensor, " m"], keys: Float[Tensor, " n"], h: float
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    r"""The first and one past the last of the sorted keys with :math:`|q - k| \le h`.

    The difference is what is compared, not the key with :math:`q - h`, which is rounded.
    """
    n = len(keys)
    first = torch.searchsorted(keys, queries - h)
    last = torch.searchsorted(keys, queries + h, right=True)

    def key(index: Tensor) -> Tensor:
        return keys[index.clamp(0, n - 1)]

    # Rounding moves either end by few keys, but for copies: those are passed at one stride.
    while bool((more := (first > 0) & (queries - key(first - 1) <= h)).any()):
        first[more] = torch.searchsorted(keys, key(first[more] - 1))
    while bool((less := (first < last) & (queries - key(first) > h)).any()):
        first[less] = torch.searchsorted(keys, key(first[less]), right=True)
    while bool((more := (last < n) & (key(last) - queries <= h)).any()):
        last[more] = torch.searchsorted(keys, key(last[more]), right=True)
    while bool((less := (last > first) & (key(last - 1) - queries > h)).any()):
        last[less] = torch.searchsorted(keys, key(last[less] - 1))
    return first, torch.maximum(first, last)


def moments_in_cells(
    kernel: str,
    degree: int,
    queries: Float[Tensor, " m"],
    keys: Float[Tensor, " n"],
    values: Float[Tensor, "n channels"],
    h: float,
) -> Moments:
    r"""Sums of a compact kernel over sorted keys, in time linear in their number.

    Inside its window a kernel is a polynomial of the way to the key, and a window is the end of
    one cell, whole cells, and the beginning of another. Sums of powers start again in each cell
    and nothing is subtracted, so that a huge value disturbs nobody whose window it is not in.
    """
    order = max(i for i, c in enumerate(_POLYNOMIALS[kernel]) if c) + 2 * degree
    cells = _Cells(keys, values, h, order)
    parts = [_smooth(kernel, degree, cells, some) for some in queries.split(_QUERIES_AT_ONCE)]
    sums, near = zip(*parts, strict=True)
    joined = torch.cat(sums, dim=1)
    return Moments({(p,): joined[p] for p in range(2 * degree + 1)}, torch.cat(near))


def _smooth(
    kernel: str, degree: int, cells: "_Cells", queries: Float[Tensor, " m"]
) -> tuple[Float[Tensor, "powers m channels"], Float[Tensor, " m"]]:
    first, last = window(queries, cells.keys, cells.h)
    sides = [(first, last, 1.0)]
    if kernel == "triangular":
        middle = torch.searchsorted(cells.keys, queries).clamp(first, last)
        sides = [(first, middle, -1.0), (middle, last, 1.0)]
    sums = queries.new_zeros(2 * degree + 1, len(queries), cells.channels)
    near = queries.new_zeros(len(queries))
    for start, stop, sign in sides:
        powers = cells.sums(queries, start, stop)
        near += powers[0][:, 0]
        for p, total in enumerate(sums):
            for i, c in enumerate(_POLYNOMIALS[kernel]):
                if c:
                    total += c * sign**i * powers[p + i]
    return sums, near


class _Cells:
    """Sums of powers of the way from a place in each cell, from either end of the cell."""

    def __init__(
        self, keys: Float[Tensor, " n"], values: Float[Tensor, "n channels"], h: float, order: int
    ) -> None:
        self.keys, self.h, self.order, self.channels = keys, h, order, values.shape[1]
        cell = ((keys - keys[0]) / (h * _WIDTH)).floor()
        _, self.cell, counts = cell.unique_consecutive(return_inverse=True, return_counts=True)
        self.last = counts.cumsum(0) - 1
        self.first = self.last + 1 - counts
        self.origin = keys[self.first]
        self.up_to = values.new_empty(len(keys), (order + 1) * self.channels)
        self.down_to = torch.empty_like(self.up_to)
        for group in groups_of(self.cell, most=None):
            which, points, there = group
            way = ((keys[points] - self.origin[which].unsqueeze(-1)) / h).unsqueeze(-1)
            powers = [values[points] * there.unsqueeze(-1)]
            for _ in range(order):
                powers.append(powers[-1] * way)
            table = torch.cat(powers, dim=-1)  # (cells, points, powers * channels)
            group.write(self.up_to, table.cumsum(dim=1))
            # Padding is 0 and comes last, so that it adds nothing on the way back either.
            group.write(self.down_to, table.flip(1).cumsum(dim=1).flip(1))

    def sums(
        self, queries: Float[Tensor, " m"], first: Int[Tensor, " m"], last: Int[Tensor, " m"]
    ) -> list[Float[Tensor, "m channels"]]:
        r"""For every query :math:`\sum u^p` over keys ``first`` to ``last``, p from 0 on."""
        some = last > first
        first, final = first.clamp(max=len(self.keys) - 1), (last - 1).clamp(min=0)
        left, right = self.cell[first], self.cell[final]
        alone = left == right  # then the window is the beginning, the end or all of one cell
        begins = ~alone | (first == self.first[left])
        found = self._moved(queries, self.up_to, final, right, some & begins)
        found += self._moved(queries, self.down_to, first, left, some & ~(alone & begins))
        between = left + 1
        while bool((inside := some & (between < right)).any()):
            between = torch.minimum(between, right)
            found += self._moved(queries, self.up_to, self.last[between], between, inside)
            between = between + 1
        return list(found.unbind(0))

    def _moved(
        self, queries: Tensor, running: Tensor, at: Tensor, cell: Tensor, which: Tensor
    ) -> Float[Tensor, "powers m channels"]:
        """Running sums, moved from the place in their cell to the queries that they serve."""
        rows = running.index_select(0, at).masked_fill_(~which.unsqueeze(-1), 0.0)
        back = ((self.origin[cell] - queries) / self.h).unsqueeze(-1)
        moved = list(rows.unflatten(1, (self.order + 1, self.channels)).unbind(1))
        for p in range(self.order):  # (way + back)^p, a power at a time
            for q in range(self.order, p, -1):
                moved[q] = moved[q] + back * moved[q - 1]
        return torch.stack(moved)
