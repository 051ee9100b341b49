"""Gaussian kernels on a line or in a plane: sums from expansions in boxes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2lattn.groups import Group, flat, groups_of
from d2lattn.moments import Moments, Powers

__all__ = ["Expansions", "moments_in_boxes"]

# The widest box in bandwidths and the number of polynomials, by the number of features: each
# kernel then errs by less than 2e-14. In a plane wider boxes and more polynomials are faster.
_BOXES = {1: (1.0, 16), 2: (2.0, 20)}
_REACH = 9.0  # bandwidths; beyond, a kernel is below 3e-18
_MOST_NUMBERS = 2**19  # of coefficients, unless the points are as many


class _Axis(NamedTuple):
    """One feature, cut into boxes of equal width."""

    keys: Int[Tensor, " n"]  # in which box
    queries: Int[Tensor, " m"]
    keys_at: Float[Tensor, " n"]  # where in it, from -1 to 1
    queries_at: Float[Tensor, " m"]
    num: int


class Expansion(NamedTuple):
    """What boxes of one width hold, for every bandwidth that takes them."""

    axes: list[_Axis]
    coefficients: Float[Tensor, "*boxes_and_terms channels"]
    to_terms: Float[Tensor, "terms terms"]  # from values at the nodes
    groups: list[tuple[Group, list[Tensor]]]  # of keys that are the queries, with their polynomials


Expansions = dict[tuple[float, ...], Expansion]  # by the widths


def moments_in_boxes(
    queries: Float[Tensor, "m features"],
    keys: Float[Tensor, "n features"],
    values: Float[Tensor, "n channels"],
    bandwidth: Float[Tensor, " features"],
    powers: Sequence[Powers],
    kept: Expansions | None = None,
) -> Moments | None:
    r"""Sums of Gaussian kernels in time linear in the number of points and of boxes.

    .. math:: e^{-\frac12 (q - k)^2} \approx \sum_{s,t} T_s(q)\, A^{(o)}_{st}\, T_t(k)

    with Chebyshev polynomials T of the places in two boxes that are o boxes apart. What a box
    holds is first summed by the :math:`T_t` of its keys, then translated to every box within
    reach, axis by axis, and only then read at the queries. None for more than two features, and
    where the boxes would need much more room than the points.

    Bandwidths within a factor of two have boxes in common: where the keys ask for themselves,
    ``kept`` hands what the last ones held from one call to the next.

    References
    ----------
    Greengard and Strain, "The Fast Gauss Transform" (1991), with Chebyshev's polynomials for
    Hermite's.
    """
    features, channels = keys.shape[1], values.shape[1]
    if features not in _BOXES:
        return None
    widest, terms = _BOXES[features]
    ratios, reaches, widths = [], [], []
    for h, extent in zip(bandwidth.tolist(), _extents(keys), strict=True):
        # A power of two, so that no digit is lost where in a box a point is.
        width = 2.0 ** math.floor(math.log2(min(widest * h, extent) if extent > 0 else h))
        widths.append(width)
        ratios.append(width / h)
        reaches.append(math.ceil(_REACH * h / width))
    kept = kept if kept is not None and queries is keys else {}
    expansion = kept.get(tuple(widths))
    if expansion is None:
        kept.clear()
        # For every bandwidth that takes boxes of this width.
        farthest = [max(reach, math.ceil(2 * _REACH / widest)) for reach in reaches]
        of_keys = keys.unbind(-1)
        of_queries = of_keys if queries is keys else queries.unbind(-1)
        lines = zip(of_queries, of_keys, widths, farthest, strict=True)
        axes = [_axis(*line) for line in lines]
        room = max(_MOST_NUMBERS, 4 * terms * (len(keys) + len(queries)))
        numbers = math.prod(axis.num for axis in axes) * terms**features * channels
        if numbers * len(powers) > room:
            return None
        expansion = _expand(axes, values, terms, keep=queries is keys)
        kept[tuple(widths)] = expansion
    axes, coefficients, to_terms, groups = expansion
    reaches = [min(reach, axis.num - 1) for reach, axis in zip(reaches, axes, strict=True)]
    near = coefficients[(...,) + (0,) * features + (0,)]
    for feature, reach in enumerate(reaches):
        near = _within_reach(near, feature, reach)
    done: dict[Powers, Tensor] = {(): coefficients}
    for power in powers:
        for feature, (ratio, reach) in enumerate(zip(ratios, reaches, strict=True)):
            if power[: feature + 1] not in done:
                before = done[power[:feature]]
                done[power[: feature + 1]] = _translate(
                    before, feature, ratio, reach, power[feature], to_terms
                )
    there = torch.stack([done[power] for power in powers], dim=-2).flatten(0, features - 1)
    boxes_of_queries = flat([axis.queries for axis in axes], [axis.num for axis in axes])
    read = values.new_empty(len(queries), len(powers) * channels)
    for group, basis in groups or (
        (group, [_polynomials(axis.queries_at[group.points], terms) for axis in axes])
        for group in groups_of(boxes_of_queries)
    ):
        _read(read, group, basis, there.flatten(-2))
    sums = read.unflatten(-1, (len(powers), channels)).unbind(1)
    return Moments(dict(zip(powers, sums, strict=True)), near.flatten()[boxes_of_queries])


def _extents(points: Float[Tensor, "n features"]) -> list[float]:
    lowest, highest = points.aminmax(dim=0)
    return (highest - lowest).tolist()


def _axis(
    queries: Float[Tensor, " m"], keys: Float[Tensor, " n"], width: float, reach: int
) -> _Axis:
    origin = keys.amin()
    k = keys - origin
    q = k if queries is keys else queries - origin
    of_k = (k / width).floor()
    last = float(of_k.amax())
    # Whoever is beyond the reach of all keys sees nobody, wherever exactly.
    of_q = of_k if q is k else (q / width).floor().clamp(-reach - 1, last + reach + 1)
    k_at = 2 * (k / width - of_k) - 1
    q_at = k_at if q is k else (2 * (q / width - of_q) - 1).clamp(-1, 1)
    first = min(0, int(of_q.amin()))
    of_k, of_q = of_k.long() - first, of_q.long() - first
    num = int(torch.maximum(of_k.amax(), of_q.amax())) + 1
    if num > len(keys) + len(queries):  # leave out what is empty for more than the reach
        occupied = torch.cat([of_k, of_q]).unique()
        place = occupied.diff(prepend=occupied[:1]).clamp(max=reach + 1).cumsum(0)
        of_k, of_q = (place[torch.searchsorted(occupied, box)] for box in (of_k, of_q))
        num = int(place[-1]) + 1
    return _Axis(of_k, of_q, k_at, q_at, num)


def _polynomials(at: Float[Tensor, "*shape points"], terms: int) -> Tensor:
    """Chebyshev's polynomials at places from -1 to 1, shape ``(*shape, terms, points)``."""
    found = at.new_empty(*at.shape[:-1], terms, at.shape[-1])
    rows = found.unbind(-2)
    rows[0].fill_(1.0)
    rows[1].copy_(at)
    twice = 2 * at
    for i in range(2, terms):
        torch.mul(twice, rows[i - 1], out=rows[i]).sub_(rows[i - 2])
    return found


def _expand(axes: list[_Axis], values: Tensor, terms: int, *, keep: bool) -> Expansion:
    boxes = [axis.num for axis in axes]
    coefficients = values.new_zeros(math.prod(boxes), *(terms,) * len(axes), values.shape[1])
    groups = []
    for group in groups_of(flat([axis.keys for axis in axes], boxes)):
        basis = [_polynomials(axis.keys_at[group.points], terms) for axis in axes]
        _add(coefficients, group, basis, values)
        if keep and len(values) <= _MOST_NUMBERS // terms:
            groups.append((group, basis))
    to_terms = _polynomials(_nodes(terms, values), terms).T * (2 / terms)
    to_terms[:, 0] /= 2
    return Expansion(axes, coefficients.unflatten(0, boxes), to_terms, groups)


def _nodes(terms: int, like: Tensor) -> Float[Tensor, " terms"]:
    """Chebyshev's places from -1 to 1."""
    numbers = torch.arange(terms, dtype=like.dtype, device=like.device)
    return torch.cos(torch.pi / terms * (numbers + 0.5))


def _add(coefficients: Tensor, group: Group, basis: Sequence[Tensor], values: Tensor) -> None:
    """Add the sums over the group's keys of polynomials times values, box by box."""
    some = values[group.points] * group.there.unsqueeze(-1)  # (boxes, points, channels)
    if len(basis) == 1:
        found = basis[0] @ some
    else:
        parts = [(basis[0] * v.unsqueeze(-2)) @ basis[1].mT for v in some.unbind(-1)]
        found = torch.stack(parts, dim=-1)
    coefficients.index_add_(0, group.which, found)


def _read(read: Tensor, group: Group, basis: Sequence[Tensor], coefficients: Tensor) -> None:
    """Write the expansions of the group's boxes at its queries."""
    terms = coefficients.shape[1]
    there = coefficients[group.which]  # (boxes, terms..., numbers)
    if len(basis) == 1:
        found = basis[0].mT @ there
    else:
        rows = (basis[1].mT @ there.movedim(1, 2).flatten(2)).unflatten(-1, (terms, -1))
        found = (rows * basis[0].mT.unsqueeze(-1)).sum(dim=2)
    group.write(read, found)


def _translate(
    coefficients: Tensor,
    feature: int,
    ratio: float,
    reach: int,
    power: int,
    to_terms: Float[Tensor, "terms terms"],
) -> Tensor:
    """From the boxes of the keys to those of the queries, along one axis."""
    features = (coefficients.ndim - 1) // 2
    source = coefficients.movedim((feature, features + feature), (0, -1)).contiguous()
    num, terms = source.shape[0], source.shape[-1]
    nodes = _nodes(terms, coefficients)
    offsets = torch.arange(-reach, reach + 1, device=nodes.device).view(-1, 1, 1)
    way = -ratio * (offsets + (nodes.unsqueeze(-1) - nodes) / 2)  # from query to key
    kernels = way**power * torch.exp(-0.5 * way.square())
    matrices = to_terms.T @ kernels @ to_terms  # (offsets, terms of q, terms of k)
    target = torch.zeros_like(source)
    of_keys, of_queries = source.view(-1, terms), target.view(-1, terms)
    rows = len(of_keys) // num  # of a box
    for offset, matrix in zip(range(-reach, reach + 1), matrices.mT, strict=True):
        here = slice(max(0, offset) * rows, min(num, num + offset) * rows)
        from_ = slice(max(0, -offset) * rows, min(num, num - offset) * rows)
        of_queries[here].addmm_(of_keys[from_], matrix)
    return target.movedim((0, -1), (feature, features + feature))


def _within_reach(near: Tensor, feature: int, reach: int) -> Tensor:
    """Sums over the boxes that are translated to each box."""
    running = torch.cat([near.narrow(feature, 0, 1) * 0, near.cumsum(feature)], dim=feature)
    num = near.shape[feature]
    box = torch.arange(num, device=near.device)
    first, last = (box - reach).clamp(min=0), (box + reach + 1).clamp(max=num)
    return running.index_select(feature, last) - running.index_select(feature, first)
