"""From sums of kernels to averages and straight lines, and whether the sums carry the digits."""

from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Moments", "Powers", "average", "local_weights", "near_for_digits", "powers_of"]

Powers = tuple[int, ...]  # one exponent for each feature

_DETERMINED = 1e-8  # the least variance of the places of a line, in squared units
_ENOUGH = 1e-4  # of the weight that is near must be left, so that the sums keep ten digits


class Moments(NamedTuple):
    r"""For every query :math:`\sum_i K_i\, u_i^p\, [w_i, w_i y_i]`, with u the way to key i.

    The way is measured in bandwidths, and :math:`K(0) = 1`. ``near`` is the weight of all keys
    that were visited: rounding errors are a few spacings of it.
    """

    sums: Mapping[Powers, Float[Tensor, "m channels"]]
    near: Float[Tensor, " m"]


def powers_of(features: int, degree: int) -> list[Powers]:
    """The powers that averages (degree 0) or straight lines (degree 1) are made of."""
    return [
        tuple(chosen.count(feature) for feature in range(features))
        for order in range(2 * degree + 1)
        for chosen in combinations_with_replacement(range(features), order)
    ]


def near_for_digits(
    total: Float[Tensor, " m"], error: float, lost: float, *, single: bool
) -> Float[Tensor, " m"]:
    """What to call ``near``, so that good sums keep ten digits, or those of single precision.

    Parameters
    ----------
    total
        Sums of kernels, of which a query's own may be taken out later.
    error
        Of each kernel, relative to itself.
    lost
        The most that kernels of far points, which were left out, can add to a sum.
    """
    digits = 4e-6 if single else 1e-10
    return (error * total).clamp(min=lost) / (digits * _ENOUGH)


def average(
    moments: Moments, degree: int, units: Float[Tensor, " features"]
) -> tuple[Float[Tensor, "m outputs"], Bool[Tensor, " m"]]:
    """Averages or values of local lines, and where the sums are good for ten digits.

    ``units`` are those of :func:`local_weights`, in bandwidths.
    """
    features = len(units)
    everything = moments.sums[(0,) * features]
    total = everything[:, 0]
    good = total > _ENOUGH * moments.near
    total = torch.where(good, total, 1.0)
    mean = everything[:, 1:] / total.unsqueeze(-1)
    if degree == 0:
        return mean, good

    def moment(*along: int) -> Float[Tensor, "m channels"]:
        powers = tuple(along.count(feature) for feature in range(features))
        scale = torch.stack([units[feature] for feature in along]).prod()
        return moments.sums[powers] / (total * scale).unsqueeze(-1)

    first = torch.stack([moment(i) for i in range(features)], dim=1)  # (m, features, channels)
    way, with_values = first[..., 0], first[..., 1:]
    second = torch.stack(
        [torch.stack([moment(i, j)[:, 0] for j in range(features)], -1) for i in range(features)], 1
    )
    spread = second - way.unsqueeze(-1) * way.unsqueeze(-2)
    slope, _, least = _slope(spread, way, units)
    good &= least > 1e-2 * (1 + second.diagonal(dim1=-2, dim2=-1).sum(dim=-1))
    along = with_values - way.unsqueeze(-1) * mean.unsqueeze(-2)
    return mean + (slope.unsqueeze(-2) @ along).squeeze(-2), good


def local_weights(
    weights: Float[Tensor, "m n"],
    ways: Float[Tensor, "m n features"],
    units: Float[Tensor, " features"],
) -> Float[Tensor, "m n"]:
    r"""The weights of a local line: :math:`l_i = \alpha_i (1 + (x - \bar x)^\top C^{-1}
    (x_i - \bar x))`, with the mean and covariance of the places under the weights.

    They may be negative. Where the line is not determined, the weights stay as they were.

    Parameters
    ----------
    weights
        Non-negative weights, which sum to one, or are all zero.
    ways
        From each query to each key.
    units
        For each feature the smaller of the bandwidth and the spread of all keys: what is far
        from flat in these units is a line. A feature that never varies has an infinite unit.
    """
    z = ways / units
    way = torch.einsum("mn,mnd->md", weights, z)
    z = z - way.unsqueeze(-2)
    spread = torch.einsum("mn,mnd,mne->mde", weights, z, z)
    slope, determined, _ = _slope(spread, way, units)
    return weights * (1 + determined.unsqueeze(-1) * torch.einsum("mnd,md->mn", z, slope))


def _slope(
    spread: Float[Tensor, "m features features"],
    way: Float[Tensor, "m features"],
    units: Float[Tensor, " features"],
) -> tuple[Float[Tensor, "m features"], Bool[Tensor, " m"], Float[Tensor, " m"]]:
    """Minus the way over the spread, where the line is determined, and the least variance."""
    identity = torch.eye(len(units), dtype=spread.dtype, device=spread.device)
    spread = spread + identity * units.isinf()
    if len(units) == 1:
        least = spread.detach()[:, 0, 0]
    else:
        least = torch.linalg.eigvalsh(spread.detach()).amin(dim=-1)
    determined = least > _DETERMINED
    spread = torch.where(determined[:, None, None], spread, identity)
    if len(units) == 1:
        return -way / spread[:, 0], determined, least
    return -torch.linalg.solve(spread, way), determined, least
