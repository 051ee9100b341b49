"""A few numbers of every process, and order statistics of numbers that stay where they are."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2lattn.distributed.layout import swap
from d2lattn.distributed.peers import Peers

__all__ = ["exchange", "order_statistics", "quantiles", "total"]


def exchange(peers: Peers, own: list[float]) -> list[list[float]]:
    """As many numbers of every process, in the order of the processes."""
    mine = torch.tensor(own, dtype=torch.float64, device=peers.device)
    room = [torch.empty_like(mine) for _ in range(peers.size)]
    return [numbers.tolist() for numbers in swap(peers, [mine] * peers.size, room)]


def total(peers: Peers, own: list[float]) -> list[float]:
    """Everybody's numbers, added up: on every process in the same order, to the last digit."""
    return [math.fsum(numbers) for numbers in zip(*exchange(peers, own), strict=True)]


def order_statistics(
    peers: Peers, numbers: Float[Tensor, "n columns"], ranks: list[int]
) -> Float[Tensor, "ranks columns"]:
    """Of each column of everybody's float64 numbers the smallest (rank 0) and so on.

    By bisection on how many are not above: only counts travel.
    """
    own = _ordered(numbers.contiguous().view(torch.int64))
    columns = own.shape[1]
    low = [-(2**63)] * (len(ranks) * columns)
    high = [2**63 - 1] * (len(ranks) * columns)
    wanted = [rank + 1 for rank in ranks for _ in range(columns)]
    while low != high:
        middle = [(a + b) // 2 for a, b in zip(low, high, strict=True)]
        tries = torch.tensor(middle, device=own.device).view(len(ranks), 1, columns)
        below = total(peers, (own <= tries).sum(dim=1).flatten().tolist())
        enough = [count >= want for count, want in zip(below, wanted, strict=True)]
        high = [m if x else h for x, m, h in zip(enough, middle, high, strict=True)]
        low = [a if x else m + 1 for x, m, a in zip(enough, middle, low, strict=True)]
        low = [min(a, b) for a, b in zip(low, high, strict=True)]
    found = _ordered(torch.tensor(low, device=own.device))
    return found.view(torch.float64).view(len(ranks), columns)


def _ordered(bits: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Between the bits of numbers and integers in the order of the numbers, there or back."""
    return torch.where(bits < 0, bits ^ (2**63 - 1), bits)


def quantiles(
    peers: Peers, numbers: Float[Tensor, "n columns"], count: int, shares: list[float]
) -> Float[Tensor, "shares columns"]:
    """As :func:`torch.quantile`, of everybody's numbers, of which there are so many."""
    places = [share * (count - 1) for share in shares]
    ranks = [rank for place in places for rank in (math.floor(place), math.ceil(place))]
    found = order_statistics(peers, numbers, ranks).unflatten(0, (len(shares), 2))
    part = found.new_tensor([place % 1.0 for place in places]).unsqueeze(-1)
    return found[:, 0].lerp(found[:, 1], part)
