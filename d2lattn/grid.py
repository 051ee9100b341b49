"""Gaussian kernels in space: sums by way of a grid, where two narrower kernels make each one."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2lattn.groups import flat, groups_of
from d2lattn.moments import Moments, near_for_digits

__all__ = ["moments_on_a_grid"]

# By whether single precision is asked for: the spacing in bandwidths, and how many nodes beyond
# its box a point adds to.
_SPACING = {True: (0.57, 8), False: (0.42, 14)}
_NODES_OF_A_BOX = 8  # along an axis
_MOST_NUMBERS = 2**22
_FEWEST_POINTS = 32  # of a box, on average: fewer visit each other in less time


class _Grid(NamedTuple):
    """Places to which the points of a box, and those who look from there, are near."""

    numbers: Float[Tensor, "channels *nodes"]
    origin: Float[Tensor, " features"]
    bandwidth: Float[Tensor, " features"]
    spacing: float
    halo: int

    def near(
        self, points: Float[Tensor, "n features"], boxes: Int[Tensor, "n features"]
    ) -> Iterator[tuple[Int[Tensor, " some"], Tensor, Float[Tensor, "some features nodes"]]]:
        """Points that share a box, the numbers near them, and narrow kernels along each axis."""
        nodes = _NODES_OF_A_BOX + 2 * self.halo
        at = torch.arange(nodes, dtype=points.dtype, device=points.device) - self.halo + 0.5
        for group in groups_of(flat(boxes.T, (boxes.amax(dim=0) + 1).tolist())):
            first = boxes[group.points[:, 0]] * _NODES_OF_A_BOX
            corners = first.unsqueeze(1) * (self.spacing * self.bandwidth)
            places = (points[group.points] - self.origin - corners) / self.bandwidth
            ways = places.unsqueeze(-1) - at * self.spacing
            narrow = ways.to(self.numbers.dtype).square_().neg_().exp_()
            counts = group.there.sum(dim=1).tolist()
            for some, start, kernels, count in zip(
                group.points, first.tolist(), narrow, counts, strict=True
            ):
                here = (slice(None), *(slice(i, i + nodes) for i in start))
                yield some[:count], self.numbers[here], kernels[:count]


def moments_on_a_grid(
    queries: Float[Tensor, "m features"],
    keys: Float[Tensor, "n features"],
    values: Float[Tensor, "n channels"],
    bandwidth: Float[Tensor, " features"],
    *,
    single: bool,
) -> Moments | None:
    r"""Sums of Gaussian kernels in time linear in the number of points.

    .. math:: e^{-\frac12 (q - k)^2} \Bigl(1 \pm 2 e^{-\pi^2 / 2 \delta^2}\Bigr)
        = \delta \sqrt{2 / \pi} \sum_g e^{-(q - g)^2} e^{-(g - k)^2}

    along each axis, with places g that are :math:`\delta` apart: keys leave their values on the
    grid, and queries find them there. All terms of a kernel are positive, so that no digit is
    lost, and single precision is exact enough, if it is asked for. None where the grid would be
    large, or most of it empty.

    References
    ----------
    Trefethen and Weideman, "The Exponentially Convergent Trapezoidal Rule" (2014).
    """
    spacing, halo = _SPACING[single]
    features, channels = keys.shape[1], values.shape[1]
    reach = spacing * (halo + 0.5)  # bandwidths to the first node that is left out
    lowest, highest = keys.aminmax(dim=0)
    if queries is not keys:  # whoever is beyond both reaches sees nobody, wherever exactly
        beyond = 2 * reach * bandwidth
        queries = queries.clamp(lowest - beyond, highest + beyond)
        lowest = torch.minimum(lowest, queries.amin(dim=0))
        highest = torch.maximum(highest, queries.amax(dim=0))
    width = _NODES_OF_A_BOX * spacing * bandwidth
    num = [
        math.floor(n) + 1 for n in ((highest - lowest) / width).clamp(max=_MOST_NUMBERS).tolist()
    ]
    shape = [_NODES_OF_A_BOX * n + 2 * halo for n in num]
    if channels * math.prod(shape) > _MOST_NUMBERS:
        return None
    of_keys = ((keys - lowest) / width).long()
    of_queries = of_keys if queries is keys else ((queries - lowest) / width).long()
    boxes = flat(torch.cat([of_keys, of_queries]).T, num)
    if 2 * _FEWEST_POINTS * len(boxes.unique()) > len(boxes):
        return None
    numbers = values.new_zeros(channels, *shape, dtype=torch.float32 if single else None)
    grid = _Grid(numbers, lowest, bandwidth, spacing, halo)
    for some, numbers, near in grid.near(keys, of_keys):
        left = (values[some].unsqueeze(-1).to(near) * near[:, :1]).flatten(1)
        numbers += (left.T @ _of_the_rest(near)).view_as(numbers)
    grid.numbers.mul_((spacing * math.sqrt(2 / math.pi)) ** features)
    sums = values.new_empty(len(queries), channels)
    for some, numbers, near in grid.near(queries, of_queries):
        rows = _of_the_rest(near) @ numbers.flatten(0, 1).flatten(1).T
        sums[some] = (rows.unflatten(-1, (channels, -1)) * near[:, :1]).sum(dim=-1).to(sums)
    error = 2 * features * math.exp(-0.5 * (math.pi / spacing) ** 2)
    # Either point may be so near the end of its nodes.
    lost = 2 * math.sqrt(2) * features * math.exp(-(reach**2)) * float(values[:, 0].sum())
    return Moments({(0,) * features: sums}, near_for_digits(sums[:, 0], error, lost, single=single))


def _of_the_rest(near: Float[Tensor, "some features nodes"]) -> Float[Tensor, "some products"]:
    """Products of the kernels along all axes but the first."""
    product = near[:, 1]
    for kernels in near.unbind(1)[2:]:
        product = (product.unsqueeze(-1) * kernels.unsqueeze(-2)).flatten(1)
    return product
