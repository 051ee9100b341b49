"""Which points of a line are near which: so that only pairs that count are visited."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Window", "cover", "distance_to_nearest"]


class Window(NamedTuple):
    """Some queries that lie together (rows), and the keys that any of them reaches (columns)."""

    rows: slice
    columns: slice


def cover(
    queries: Float[Tensor, " queries"],
    keys: Float[Tensor, " keys"],
    reach: Float[Tensor, " queries"],
    span: float,
    rows: int,
) -> Iterator[Window]:
    r"""Cover all pairs with :math:`|q_i - k_j| \le \mathrm{reach}_i`, and not many others.

    Parameters
    ----------
    queries, keys
        Sorted coordinates.
    reach
        How far each query sees.
    span
        Queries of one window are at most so far apart, if they are more than ``rows``.
    rows
        The least number of queries in a window, but for the last.
    """
    start = 0
    while start < len(queries):
        stop = int(torch.searchsorted(queries, queries[start] + span, right=True))
        stop = min(max(stop, start + rows), len(queries))
        far = reach[start:stop].amax()
        first = int(torch.searchsorted(keys, queries[start] - far))
        last = int(torch.searchsorted(keys, queries[stop - 1] + far, right=True))
        yield Window(slice(start, stop), slice(first, last))
        start = stop


def distance_to_nearest(
    queries: Float[Tensor, " queries"], keys: Float[Tensor, " keys"], *, leave_out: bool = False
) -> Float[Tensor, " queries"]:
    """How far the nearest key is; to leave out is the own key of queries that are the keys."""
    at = torch.searchsorted(keys, queries) if not leave_out else torch.arange(len(keys))
    below, above = at - 1, at + leave_out
    last = len(keys) - 1
    to_below = (queries - keys[below.clamp(0, last)]).masked_fill(below < 0, torch.inf)
    to_above = (keys[above.clamp(0, last)] - queries).masked_fill(above > last, torch.inf)
    return torch.minimum(to_below, to_above)
