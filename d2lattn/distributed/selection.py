"""The choice of a bandwidth from measurements on many processes: losses, slopes, where to look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2lattn.bandwidth import least, minimise, minimise_by_feature
from d2lattn.distributed.everybody import exchange, quantiles, total
from d2lattn.distributed.measurements import Measurements
from d2lattn.distributed.nearest import gaps
from d2lattn.distributed.peers import Peers
from d2lattn.distributed.ring import attend_by_each, ring_attention
from d2lattn.extras import Tick
from d2lattn.kernels import KernelScore
from d2lattn.masks import Mask

__all__ = ["OTHERS", "select"]

OTHERS = ~Mask.window(0)  # who leaves itself out


def select(
    peers: Peers,
    kernel: str,
    own: Measurements,
    ndim: int,
    candidates: Sequence[Tensor] | None,
    tick: Tick | None = None,
) -> Float[Tensor, "..."]:
    """The bandwidth with the least leave-one-out loss of all, or the best of the candidates."""
    losses = _SharedLosses(peers, kernel, own, tick)
    points = own.places
    if candidates is not None:
        best = least(losses, candidates)
    elif ndim == 1 and points.shape[1] > 1:
        _extent(peers, points)
        spread = _spread(peers, points)
        best = minimise_by_feature(losses, spread, _low(peers, points / spread))
    else:
        extent, low = _extent(peers, points), _low(peers, points)
        if kernel != "gaussian" and points.shape[1] == 1:  # below, somebody is alone
            _, to_point = gaps(peers, points)
            alone = float(to_point.amax()) if len(points) else 0.0
            low = max(low, *(most for (most,) in exchange(peers, [alone])))
        best = minimise(losses, low, 10 * extent)
    if math.isinf(best.loss):
        raise ValueError(
            f"candidates must reach from each point to another; with the {kernel} kernel even "
            f"{best.bandwidth.tolist()} leaves a point without neighbours"
        )
    return best.bandwidth


class _SharedLosses:
    r"""The mean squared leave-one-out residual of all, as a function of the bandwidth.

    .. math:: \ell(h) = \frac{\sum_p \sum_{i \in p} w_i\, r_i(h)^2}{\sum_p \sum_{i \in p} w_i}

    On every process the same numbers, to the last digit: all of them decide alike.
    """

    def __init__(self, peers: Peers, kernel: str, own: Measurements, tick: Tick | None) -> None:
        self.peers, self.kernel, self.own, self.tick = peers, kernel, own, tick
        self.keys = own.keys
        (weight,) = total(peers, [float(own.weight.sum())])
        self.divisor = weight * own.values.shape[1]

    @property
    def is_smooth(self) -> bool:
        """Whether there is a gradient everywhere."""
        return self.kernel == "gaussian"

    def __call__(self, bandwidths: Sequence[Tensor]) -> list[float]:
        own = self.own
        scores = [own.score(KernelScore(self.kernel, h)) for h in bandwidths]
        found = attend_by_each(self.peers, scores, own.places, self.keys, own.values, OTHERS)
        squares = [
            math.inf if bool((log == -math.inf).any()) else float(self._square(output))
            for output, log in found
        ]
        self._tried(len(bandwidths))
        return [square / self.divisor for square in total(self.peers, squares)]

    def with_gradient(
        self, bandwidth: Float[Tensor, " features"]
    ) -> tuple[float, Float[Tensor, " features"]]:
        """The loss and its gradient in the logarithms of the bandwidths."""
        kernel = KernelScore(self.kernel, bandwidth, learnable=True)
        kernel.log_bandwidth = nn.Parameter(bandwidth.log())  # in float64
        with torch.enable_grad():
            output, _ = ring_attention(
                self.own.score(kernel), self.own.places, self.keys, self.own.values,
                mask=OTHERS, group=self.peers.group,
            )  # fmt: skip
            square = self._square(output)
            (slope,) = torch.autograd.grad(square, kernel.log_bandwidth)
        self._tried(1)
        loss, *slopes = total(self.peers, [float(square.detach()), *slope.tolist()])
        return loss / self.divisor, bandwidth.new_tensor(slopes) / self.divisor

    def _tried(self, count: int) -> None:
        if self.tick is not None:
            self.tick(count)

    def _square(self, output: Float[Tensor, "n outputs"]) -> Float[Tensor, ""]:
        return (self.own.weight.unsqueeze(-1) * (self.own.values - output).square()).sum()


def _extent(peers: Peers, points: Float[Tensor, "n features"]) -> float:
    """How far the farthest are apart."""
    ends = torch.cat([(-points).amax(dim=0), points.amax(dim=0)]).tolist() if len(points) else None
    found = exchange(peers, ends or [-math.inf] * (2 * points.shape[1]))
    low, high = torch.tensor(found, dtype=torch.float64).amax(dim=0).chunk(2)
    extent = float((low + high).amax())
    if extent == 0:
        raise ValueError(
            "x must vary to select a bandwidth; got one place only, for which every bandwidth "
            "is as good as any other"
        )
    return extent


def _low(peers: Peers, points: Float[Tensor, "n features"]) -> float:
    """Less than the distance of close neighbours."""
    to_place, _ = gaps(peers, points)
    return float(quantiles(peers, to_place.unsqueeze(-1), _count(peers, points), [0.1])) / 4


def _spread(peers: Peers, points: Float[Tensor, "n features"]) -> Float[Tensor, " features"]:
    """How far apart the middle half is, or of which half is in one place a standard deviation."""
    n = _count(peers, points)
    low, high = quantiles(peers, points, n, [0.25, 0.75])
    mean = points.new_tensor(total(peers, points.sum(dim=0).tolist())) / n
    squares = points.new_tensor(total(peers, (points - mean).square().sum(dim=0).tolist()))
    spread = torch.where(high > low, high - low, (squares / (n - 1)).sqrt())
    return torch.where(spread > 0, spread, 1.0)


def _count(peers: Peers, points: Tensor) -> int:
    return int(total(peers, [float(len(points))])[0])
