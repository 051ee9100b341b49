"""Who is nearest, when places live on several processes: blocks of them go round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2lattn.distributed.everybody import exchange
from d2lattn.distributed.measurements import Measurements
from d2lattn.distributed.peers import Peers
from d2lattn.distributed.rounds import Rounds

__all__ = ["averages_of_nearest", "gaps"]

_PAIRS_AT_ONCE = 2**20


def gaps(peers: Peers, points: Float[Tensor, "n features"]) -> tuple[Tensor, Tensor]:
    """From own points to the nearest other place, and to the nearest other point: in the feature
    in which they are farthest apart."""
    to_place, to_point = points.new_full((2, len(points)), math.inf)

    def work(number: int, others: Tensor) -> None:
        for rows in _some(len(points), others):
            far = (points[rows].unsqueeze(1) - others).abs().amax(dim=-1)
            away = far.masked_fill(far == 0, math.inf).amin(dim=-1)
            to_place[rows] = torch.minimum(to_place[rows], away)
            if number == peers.rank:
                far[torch.arange(len(rows), device=rows.device), rows] = math.inf
            to_point[rows] = torch.minimum(to_point[rows], far.amin(dim=-1))

    _go_round(peers, len(points), points, work)
    return to_place, to_point


def averages_of_nearest(
    peers: Peers,
    queries: Float[Tensor, "m features"],
    bandwidth: Float[Tensor, " features"],
    own: Measurements,
) -> Float[Tensor, "m outputs"]:
    """For own queries the average of the nearest measurements of all, in bandwidths."""
    features = queries.shape[1]
    nearest = queries.new_full((len(queries), 1), math.inf)
    weights = torch.zeros_like(nearest)
    sums = own.values.new_zeros(len(queries), own.values.shape[1])

    def work(number: int, others: Tensor) -> None:
        places, weight, values = (
            others[:, :features],
            others[:, features],
            others[:, features + 1 :],
        )
        for rows in _some(len(queries), others):
            ways = (places - queries[rows].unsqueeze(1)) / bandwidth
            distance = ways.square().sum(dim=-1)
            closest = distance.amin(dim=-1, keepdim=True)
            share = (distance == closest) * weight
            before, now = (closest >= nearest[rows], closest <= nearest[rows])
            sums[rows] = before * sums[rows] + now * (share @ values)
            weights[rows] = before * weights[rows] + now * share.sum(dim=-1, keepdim=True)
            nearest[rows] = torch.minimum(nearest[rows], closest)

    block = torch.cat([own.places, own.weight.unsqueeze(-1), own.values], dim=-1)
    _go_round(peers, len(queries), block, work)
    return sums / weights


def _some(count: int, others: Tensor) -> Iterator[Int[Tensor, " rows"]]:
    """Numbers of a few points at a time, so that pairs of them with others are not too many."""
    numbers = torch.arange(count, device=others.device)
    return iter(numbers.split(max(1, _PAIRS_AT_ONCE // max(1, others.numel()))))


def _go_round(
    peers: Peers,
    asking: int,
    block: Float[Tensor, "n columns"],
    work: Callable[[int, Tensor], None],
) -> None:
    """Everybody's block comes by, where there are own points that ask for it."""
    columns = block.shape[1]
    ask, hold = zip(*exchange(peers, [float(asking), float(len(block))]), strict=True)
    needs = [[theirs > 0 and n > 0 for n in hold] for theirs in ask]
    rounds = Rounds(peers, [int(n) * columns for n in hold], needs, block.new_empty(0))
    rounds.ring(
        lambda _, row: row.copy_(block.reshape(-1)),
        lambda number, row: work(number, row.view(-1, columns)),
    )
    peers.close(rounds.trouble)
