"""Gaussian kernels on a line or in a plane: sums from expansions in boxes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2lattn.groups import Group, groups_of
from d2lattn.moments import Moments, Powers

__all__ = ["moments_in_boxes"]

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
    reach: int  # in boxes
    ratio: float  # of a box to the bandwidth


def moments_in_boxes(
    queries: Float[Tensor, "m features"],
    keys: Float[Tensor, "n features"],
    values: Float[Tensor, "n channels"],
    bandwidth: Float[Tensor, " features"],
    powers: Sequence[Powers],
) -> Moments | None:
    r"""Sums of Gaussian kernels in time linear in the number of points and of boxes.

    .. math:: e^{-\frac12 (q - k)^2} \approx \sum_{s,t} T_s(q)\, A^{(o)}_{st}\, T_t(k)

    with Chebyshev polynomials T of the places in two boxes that are o boxes apart. What a box
    holds is first summed by the :math:`T_t` of its keys, then translated to every box within
    reach, axis by axis, and only then read at the queries. None for more than two features, and
    where the boxes would need much more room than the points.

    References
    ----------
    Greengard and Strain, "The Fast Gauss Transform" (1991), with Chebyshev's polynomials for
    Hermite's.
    """
    features, channels = keys.shape[1], values.shape[1]
    if features not in _BOXES:
        return None
    widest, terms = _BOXES[features]
    of_keys = keys.unbind(-1)
    of_queries = of_keys if queries is keys else queries.unbind(-1)
    lines = zip(of_queries, of_keys, bandwidth.tolist(), strict=True)
    axes = [_axis(q, k, h, widest) for q, k, h in lines]
    boxes = [axis.num for axis in axes]
    room = max(_MOST_NUMBERS, 4 * terms * (len(keys) + len(queries)))
    if math.prod(boxes) * terms**features * channels * len(powers) > room:
        return None
    boxes_of_keys = _flat([axis.keys for axis in axes], boxes)
    coefficients = values.new_zeros(math.prod(boxes), *(terms,) * features, channels)
    expanded = []
    for group in groups_of(boxes_of_keys):
        basis = [_polynomials(axis.keys_at[group.points], terms) for axis in axes]
        _expand(coefficients, group, basis, values)
        if queries is keys and len(keys) <= _MOST_NUMBERS // terms:
            expanded.append((group, basis))
    coefficients = coefficients.unflatten(0, boxes)
    near = coefficients[(...,) + (0,) * features + (0,)]
    for feature, axis in enumerate(axes):
        near = _within_reach(near, feature, axis)
    done: dict[Powers, Tensor] = {(): coefficients}
    for power in powers:
        for feature, axis in enumerate(axes):
            if power[: feature + 1] not in done:
                before = done[power[:feature]]
                done[power[: feature + 1]] = _translate(before, feature, axis, power[feature])
    there = torch.stack([done[power] for power in powers], dim=-2).flatten(0, features - 1)
    boxes_of_queries = _flat([axis.queries for axis in axes], boxes)
    read = values.new_empty(len(queries), len(powers) * channels)
    for group, basis in expanded or (
        (group, [_polynomials(axis.queries_at[group.points], terms) for axis in axes])
        for group in groups_of(boxes_of_queries)
    ):
        _read(read, group, basis, there.flatten(-2))
    sums = read.unflatten(-1, (len(powers), channels)).unbind(1)
    return Moments(dict(zip(powers, sums, strict=True)), near.flatten()[boxes_of_queries])


def _axis(
    queries: Float[Tensor, " m"], keys: Float[Tensor, " n"], h: float, widest: float
) -> _Axis:
    origin = keys.amin()
    k = keys - origin
    q = k if queries is keys else queries - origin
    extent = float(k.amax())
    # A power of two, so that no digit is lost where in a box a point is.
    width = 2.0 ** math.floor(math.log2(min(widest * h, extent) if extent > 0 else h))
    reach = math.ceil(_REACH * h / width)
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
    return _Axis(of_k, of_q, k_at, q_at, num, min(reach, num - 1), width / h)


def _flat(boxes: Sequence[Int[Tensor, " n"]], shape: Sequence[int]) -> Int[Tensor, " n"]:
    """One number for each box of a grid."""
    flat = boxes[0]
    for box, num in zip(boxes[1:], shape[1:], strict=True):
        flat = flat * num + box
    return flat


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


def _expand(coefficients: Tensor, group: Group, basis: Sequence[Tensor], values: Tensor) -> None:
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


def _translate(coefficients: Tensor, feature: int, axis: _Axis, power: int) -> Tensor:
    """From the boxes of the keys to those of the queries, along one axis."""
    features = (coefficients.ndim - 1) // 2
    terms = coefficients.shape[-2]
    nodes = torch.arange(terms, dtype=coefficients.dtype, device=coefficients.device)
    nodes = torch.cos(torch.pi / terms * (nodes + 0.5))
    to_terms = _polynomials(nodes, terms).T * (2 / terms)
    to_terms[:, 0] /= 2
    offsets = torch.arange(-axis.reach, axis.reach + 1, device=nodes.device).view(-1, 1, 1)
    way = -axis.ratio * (offsets + (nodes.unsqueeze(-1) - nodes) / 2)  # from query to key
    kernels = way**power * torch.exp(-0.5 * way.square())
    matrices = to_terms.T @ kernels @ to_terms  # (offsets, terms of q, terms of k)
    source = coefficients.movedim((feature, features + feature), (0, -1)).contiguous()
    target = torch.zeros_like(source)
    for offset, matrix in zip(range(-axis.reach, axis.reach + 1), matrices, strict=True):
        here = slice(max(0, offset), axis.num + min(0, offset))
        from_ = slice(max(0, -offset), axis.num - max(0, offset))
        rows = source[from_].reshape(-1, terms)
        target[here].view(-1, terms).addmm_(rows, matrix.T)
    return target.movedim((0, -1), (feature, features + feature))


def _within_reach(near: Tensor, feature: int, axis: _Axis) -> Tensor:
    """Sums over the boxes that are translated to each box."""
    running = torch.cat([near.narrow(feature, 0, 1) * 0, near.cumsum(feature)], dim=feature)
    box = torch.arange(axis.num, device=near.device)
    first, last = (box - axis.reach).clamp(min=0), (box + axis.reach + 1).clamp(max=axis.num)
    return running.index_select(feature, last) - running.index_select(feature, first)
