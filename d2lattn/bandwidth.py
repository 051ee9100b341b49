"""Choosing a bandwidth: leave-one-out losses, and where to look for the least."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.neighbours import distance_to_nearest

__all__ = [
    "Choice",
    "Losses",
    "gaussian_losses",
    "least",
    "minimise",
    "minimise_by_feature",
    "reach_of_a_gaussian",
    "sensible_range",
    "without_copies",
]

_PAIRS_OF_A_TILE = 2**18


def without_copies(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The data, or the smaller set of which they are exact copies."""
    rows, copies = torch.cat([x, y], dim=-1).unique(dim=0, return_counts=True)
    if int(copies.min()) == 1:
        return x, y
    rows = rows.repeat_interleave(copies // copies.min(), dim=0)
    return rows[:, : x.shape[-1]], rows[:, x.shape[-1] :]


def sensible_range(x: Float[Tensor, "n features"]) -> tuple[float, float]:
    """From less than the distance of close neighbours to much more than that of the farthest."""
    points = x.unique(dim=0)
    if points.shape[-1] == 1:
        gaps = distance_to_nearest(points.squeeze(-1), points.squeeze(-1), leave_out=True)
    else:
        gaps = torch.stack([_gap_to_nearest(points, i) for i in range(len(points))])
    extent = (points.amax(dim=0) - points.amin(dim=0)).amax()
    return float(gaps.quantile(0.1)) / 4, float(extent) * 10


def _gap_to_nearest(points: Float[Tensor, "n features"], i: int) -> Float[Tensor, ""]:
    gaps = (points - points[i]).abs().amax(dim=-1)
    return gaps[gaps > 0].amin()


class Choice(NamedTuple):
    loss: float
    bandwidth: Tensor


Losses = Callable[[Sequence[Tensor]], list[float]]


def least(losses: Losses, grid: Sequence[Tensor]) -> Choice:
    found = losses(grid)
    best = min(range(len(grid)), key=found.__getitem__)
    return Choice(found[best], grid[best])


def minimise(losses: Losses, low: float, high: float, *, start: int = 40, zoom: int = 8) -> Choice:
    """Minimum over a geometric grid that is then made finer, again and again, around its best."""
    grid = torch.logspace(math.log10(low), math.log10(high), start, dtype=torch.float64)
    for _ in range(zoom):
        found = losses(list(grid))
        best = min(range(len(grid)), key=found.__getitem__)
        around = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
        grid = torch.logspace(math.log10(around[0]), math.log10(around[1]), 9, dtype=torch.float64)
    return least(losses, list(grid))


def minimise_by_feature(
    losses: Losses, points: Float[Tensor, "n features"], *, sweeps: int = 5
) -> Choice:
    """One common factor of the spreads first, then each feature in turn until nothing moves."""
    spread = points.std(dim=0)
    spread = torch.where(spread > 0, spread, 1.0)

    def of_factors(factors: Sequence[Tensor]) -> list[float]:
        return losses([factor * spread for factor in factors])

    best = minimise(of_factors, *sensible_range(points / spread), zoom=2)
    best = Choice(best.loss, best.bandwidth * spread)
    for _ in range(sweeps):
        before = best.loss
        for feature in range(len(spread)):

            def along(
                values: Sequence[Tensor], h: Tensor = best.bandwidth, feature: int = feature
            ) -> list[float]:
                return losses([h.index_fill(0, torch.tensor(feature), float(v)) for v in values])

            extent = float(points[:, feature].amax() - points[:, feature].amin()) or 1.0
            found = minimise(along, extent * 1e-3, extent * 10, start=20, zoom=5)
            index = torch.tensor(feature)
            h = best.bandwidth.index_fill(0, index, float(found.bandwidth))
            best = Choice(found.loss, h)
        if best.loss > before * (1 - 1e-6):
            break
    return best


@torch.no_grad()
def gaussian_losses(
    x: Float[Tensor, "n features"],
    y: Float[Tensor, "n outputs"],
    bandwidths: Sequence[Tensor],
    tick: Callable[[float], Any],
) -> list[float]:
    """Mean squared leave-one-out residuals, from distances that serve all the bandwidths.

    Kernels over their sum, without a maximum; nan for a bandwidth where the sum is too small
    for that anywhere. A pair is visited once, in one dimension only if it is in reach.
    """
    n = len(x)
    factors = [-0.5 / float(h) ** 2 for h in bandwidths]
    reach = [math.inf] * len(bandwidths)
    if x.shape[-1] == 1:
        order = x.squeeze(-1).argsort()
        x, y = x[order], y[order]
        line = x.squeeze(-1)
        nearest = distance_to_nearest(line, line, leave_out=True).amax()
        reach = [math.hypot(float(nearest), float(h) * reach_of_a_gaussian(n)) for h in bandwidths]
    tiny = torch.finfo(x.dtype).tiny
    lowest = math.log(tiny) + 2.0  # so that no kernel is a denormal number
    values = torch.cat([y - y.mean(dim=0), torch.ones_like(y[:, :1])], dim=-1).T.contiguous()
    sums = x.new_zeros(len(bandwidths), *values.shape)
    num_rows = max(1, _PAIRS_OF_A_TILE // n)
    for start in range(0, n, num_rows):
        stop = min(start + num_rows, n)
        squares = x.new_zeros(())
        for feature in x.T:
            squares = squares + (feature[start:stop, None] - feature[start:]).square_()
        squares.fill_diagonal_(math.inf)
        for total, factor, far in zip(sums, factors, reach, strict=True):
            if math.isfinite(far):
                last = int(torch.searchsorted(line, line[stop - 1] + far, right=True))
                exponents = squares[:, : last - start] * factor
            else:
                last, exponents = n, (squares * factor).clamp_(min=lowest)
            kernels = exponents.exp_()
            total[:, start:stop] += values[:, start:last] @ kernels.T
            total[:, stop:last] += values[:, start:stop] @ kernels[:, stop - start :]
        tick((stop - start) / n)
    residuals = values[:-1] - sums[:, :-1] / sums[:, -1:]
    losses = residuals.square().mean(dim=(1, 2))
    return losses.masked_fill((sums[:, -1] < math.sqrt(tiny)).any(dim=-1), math.nan).tolist()


def reach_of_a_gaussian(n: int, digits: float = 37.0) -> float:
    """In bandwidths: beyond, n Gaussian kernels together weigh e^-digits of the nearest one."""
    return math.sqrt(2 * (math.log(n) + digits))
