"""Choosing a bandwidth: leave-one-out losses, where to look for the least, and the search."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.extras import Tick
from d2lattn.kernel_formulas import Bandwidth, check_bandwidth
from d2lattn.losses import LeaveOneOut
from d2lattn.neighbours import distance_to_nearest
from d2lattn.smoother import Smoother

__all__ = ["select"]

Losses = Callable[[Sequence[Tensor]], list[float]]


class Search(Protocol):
    """Losses that may have a slope to follow."""

    @property
    def is_smooth(self) -> bool: ...

    def __call__(self, bandwidths: Sequence[Tensor], /) -> list[float]: ...

    def with_gradient(self, bandwidth: Tensor, /) -> tuple[float, Tensor]: ...


class Choice(NamedTuple):
    loss: float
    bandwidth: Float[Tensor, "..."]


def select(
    smoother: Smoother,
    ndim: int,
    candidates: Iterable[Bandwidth] | Tensor | None = None,
    tick: Tick | None = None,
) -> Float[Tensor, "..."]:
    """The bandwidth with the least leave-one-out loss, or the best of the candidates.

    With ``ndim`` 0 it is a number, with 1 one number for each feature. Raises as
    :meth:`d2lattn.NadarayaWatson.select_bandwidth`.
    """
    smoother = _worth_a_choice(smoother)
    losses = LeaveOneOut(smoother, tick)
    points = smoother.keys
    if candidates is not None:
        best = least(losses, check_candidates(candidates, points.shape[1]))
    elif ndim == 0 or points.shape[1] == 1:
        low, high = _sensible_range(points)
        if smoother.degree == 1:  # of neighbours on a lattice, the next ones still tilt a line
            low /= 2
        if smoother.kernel != "gaussian" and points.shape[1] == 1:  # below, somebody is alone
            line = points.squeeze(-1)
            low = max(low, float(distance_to_nearest(line, line, leave_out=True).amax()))
        best = minimise(losses, low, high)
    else:
        spread = _spread(points)
        best = minimise_by_feature(losses, spread, _sensible_range(points / spread)[0])
    if math.isinf(best.loss):
        raise ValueError(
            f"candidates must reach from each point to another; with the {smoother.kernel} "
            f"kernel even {best.bandwidth.tolist()} leaves a point without neighbours"
        )
    return in_form(best.bandwidth, ndim, points.shape[1])


def in_form(bandwidth: Tensor, ndim: int, features: int) -> Float[Tensor, "..."]:
    """A bandwidth of its own, with a number for each feature if there was one (``ndim`` 1)."""
    return (bandwidth.expand((features,) * ndim) if bandwidth.ndim == 0 else bandwidth).clone()


def _worth_a_choice(smoother: Smoother) -> Smoother:
    """The measurements that count, thinned out, on a line in order; or an error that says why no
    bandwidth can be chosen by them."""
    if smoother.sample_weight is not None:
        smoother = smoother.of(smoother.sample_weight > 0)
    smoother = smoother.of(_without_copies(smoother))
    if smoother.keys.shape[1] == 1:
        smoother = smoother.of(smoother.keys.squeeze(-1).argsort(stable=True))
    if len(smoother.keys) < 3:
        raise ValueError(
            f"x must hold at least 3 different measurements to select a bandwidth; "
            f"got {len(smoother.keys)}"
        )
    for name, data in (("x", smoother.keys), ("y", smoother.values)):
        if bool((data == data[0]).all()):
            raise ValueError(
                f"{name} must vary to select a bandwidth; got only {data[0].tolist()}, "
                "for which every bandwidth is as good as any other"
            )
    return smoother


def check_candidates(candidates: Iterable[Bandwidth] | Tensor, features: int) -> list[Tensor]:
    if not isinstance(candidates, Iterable) or getattr(candidates, "ndim", 1) == 0:
        raise TypeError(f"candidates must be several bandwidths; got {candidates!r}")
    grid = [
        check_bandwidth(f"candidates[{i}]", h, features).detach().double()
        for i, h in enumerate(candidates)
    ]
    if not grid:
        raise ValueError("candidates must hold at least one bandwidth; got none")
    return grid


def _without_copies(smoother: Smoother) -> Tensor:
    """Which measurements make the smaller set of which all are exact copies."""
    parts = [smoother.keys, smoother.values]
    if smoother.sample_weight is not None:
        parts.append(smoother.sample_weight.unsqueeze(-1))
    rows = torch.cat(parts, dim=-1)
    number = torch.arange(len(rows), device=rows.device)
    order = number.clone()
    for column in rows.T.flip(0):
        order = order[column[order].argsort(stable=True)]
    rows = rows[order]
    starts = torch.cat([number[:1] == 0, (rows[1:] != rows[:-1]).any(dim=-1)])
    copies = number[starts].diff(append=number.new_tensor([len(rows)]))
    least = int(copies.min())
    if least == 1:
        return number
    number = number - number[starts].repeat_interleave(copies)
    return order[number < (copies // least).repeat_interleave(copies)].sort().values


def _sensible_range(points: Float[Tensor, "n features"]) -> tuple[float, float]:
    """From less than the distance of close neighbours to much more than that of the farthest."""
    points = points.unique(dim=0)
    if points.shape[1] == 1:
        gaps = distance_to_nearest(points.squeeze(-1), points.squeeze(-1), leave_out=True)
    else:  # of some: all would take all pairs
        some = points[torch.linspace(0, len(points) - 1, min(len(points), 200)).long()]
        gaps = torch.stack([_gap_to_nearest(points, point) for point in some])
    extent = (points.amax(dim=0) - points.amin(dim=0)).amax()
    return float(gaps.quantile(0.1)) / 4, float(extent) * 10


def _gap_to_nearest(points: Tensor, point: Float[Tensor, " features"]) -> Float[Tensor, ""]:
    gaps = (points - point).abs().amax(dim=-1)
    return gaps[gaps > 0].amin()


def least(losses: Losses, grid: Sequence[Tensor]) -> Choice:
    found = losses(grid)
    best = min(range(len(grid)), key=found.__getitem__)
    return Choice(found[best], grid[best])


def minimise(
    losses: Losses, low: float, high: float, *, start: int = 60, valleys: int = 3, zoom: int = 8
) -> Choice:
    """Minimum over a geometric grid that is made finer, again and again, in its best valleys."""
    grid = _geometric(low, high, start)
    found = losses(list(grid))
    padded = [math.inf, *found, math.inf]
    bottoms = [i for i in range(start) if padded[i] >= padded[i + 1] <= padded[i + 2]]
    best = Choice(found[0], grid[0])
    for i in sorted(bottoms, key=found.__getitem__)[:valleys]:
        around, there = grid, i
        for _ in range(zoom):
            lower, upper = around[max(0, there - 1)], around[min(len(around) - 1, there + 1)]
            around = _geometric(float(lower), float(upper), 9)
            values = losses(list(around))
            there = min(range(9), key=values.__getitem__)
            best = min(best, Choice(values[there], around[there]), key=lambda choice: choice.loss)
            if max(values) <= min(values) * (1 + 1e-13):
                break
    return best


def _geometric(low: float, high: float, num: int) -> Float[Tensor, " num"]:
    return torch.logspace(math.log10(low), math.log10(high), num, dtype=torch.float64)


def _spread(points: Float[Tensor, "n features"]) -> Float[Tensor, " features"]:
    spread = points.quantile(0.75, dim=0) - points.quantile(0.25, dim=0)  # stray values or not
    spread = torch.where(spread > 0, spread, points.std(dim=0))
    return torch.where(spread > 0, spread, 1.0)


def minimise_by_feature(losses: Search, spread: Float[Tensor, " features"], low: float) -> Choice:
    """A common factor of the spreads, then each feature in turn, then all of them at once."""

    def of_factors(factors: Sequence[Tensor]) -> list[float]:
        return losses([factor * spread for factor in factors])

    best = minimise(of_factors, low, 100.0, start=24, valleys=1, zoom=1)
    starts = [Choice(best.loss, best.bandwidth * spread)]
    best = starts[0]
    for _ in range(2):
        for feature in range(len(spread)):
            grid = [best.bandwidth.clone() for _ in range(12)]
            for h, value in zip(grid, _geometric(0.02, 50.0, 12), strict=True):
                h[feature] = value * spread[feature]
            best = min(best, least(losses, grid), key=lambda choice: choice.loss)
    starts.append(best)
    if losses.is_smooth:
        starts = [_polish(losses, start) for start in starts]
    else:  # steps and kinks: no slope to follow
        starts = [_in_turn(losses, start) for start in starts]
    return min(starts, key=lambda choice: choice.loss)


def _polish(losses: Search, start: Choice) -> Choice:
    """Quasi-Newton steps on the logarithms of the bandwidths, with the exact gradient."""
    if not 0 < start.loss < math.inf:
        return start
    log_h = start.bandwidth.log().requires_grad_()
    best = start
    steps = torch.optim.LBFGS(
        [log_h], max_iter=60, tolerance_grad=1e-9, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        nonlocal best
        h = log_h.detach().exp()
        if not bool(((log_h - start.bandwidth.log()).abs() < 20).all()):  # a step into nowhere
            log_h.grad = torch.zeros_like(log_h)
            return 1e9
        loss, slope = losses.with_gradient(h)
        best = min(best, Choice(loss, h), key=lambda choice: choice.loss)
        log_h.grad = slope / start.loss
        return loss / start.loss

    steps.step(closure)
    return best


def _in_turn(losses: Losses, best: Choice, *, sweeps: int = 5) -> Choice:
    """Each feature in turn, until nothing moves."""
    for _ in range(sweeps):
        before = best.loss
        for feature in range(len(best.bandwidth)):

            def along(
                values: Sequence[Tensor], h: Tensor = best.bandwidth, feature: int = feature
            ) -> list[float]:
                which = torch.tensor(feature)
                return losses([h.index_fill(0, which, float(value)) for value in values])

            here = float(best.bandwidth[feature])
            found = minimise(along, here / 30, here * 30, start=20, valleys=1, zoom=5)
            if found.loss < best.loss:
                h = best.bandwidth.index_fill(0, torch.tensor(feature), float(found.bandwidth))
                best = Choice(found.loss, h)
        if best.loss > before * (1 - 1e-6):
            break
    return best
