"""Leave-one-out losses of bandwidths, and their gradients."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from d2lattn.extras import Tick
from d2lattn.moments import average
from d2lattn.plainly import smooth_plainly
from d2lattn.smoother import Smoother
from d2lattn.smoothing import smooth, sums_of_others

__all__ = ["LeaveOneOut"]

_PAIRS_HELD = 2**18  # pairs whose squared distances are kept for all bandwidths, on a line
_NUMBERS_HELD = 2**23  # the most, in space


class LeaveOneOut:
    r"""The mean squared leave-one-out residual as a function of the bandwidth.

    .. math:: \ell(h) = \frac{\sum_i w_i\, (y_i - \hat f_{-i}(x_i))^2}{\sum_i w_i}

    averaged over outputs; infinite where a compact kernel leaves a point without neighbours.
    """

    def __init__(self, smoother: Smoother, tick: Tick | None = None) -> None:
        self.smoother, self.tick = smoother, tick
        n, features = smoother.keys.shape
        weight = smoother.sample_weight
        ones = torch.ones_like(smoother.keys[:, 0])
        self._weight = (ones if weight is None else weight) / (
            n if weight is None else weight.sum()
        )
        room = _PAIRS_HELD if features == 1 else _NUMBERS_HELD // features
        self._pairs = None
        if smoother.kernel == "gaussian" and smoother.degree == 0 and n * n <= room:
            self._pairs = _Pairs(smoother)

    @property
    def is_smooth(self) -> bool:
        """Whether there is a gradient everywhere."""
        return self.smoother.kernel == "gaussian"

    def __call__(self, bandwidths: Sequence[Float[Tensor, "..."]]) -> list[float]:
        return [self._loss(h) for h in bandwidths]

    def _loss(self, bandwidth: Float[Tensor, "..."]) -> float:
        smoother = self._at(bandwidth)
        if self._pairs is not None:
            output = self._pairs.average(smoother.bandwidth)
            reached = None
        else:
            output, reached = smooth(smoother, smoother.keys, leave_out=True)
        if self.tick is not None:
            self.tick(1)
        if reached is not None and not bool(reached.all()):
            return math.inf
        return float(self._mean_square(smoother.values - output))

    def with_gradient(
        self, bandwidth: Float[Tensor, " features"]
    ) -> tuple[float, Float[Tensor, " features"]]:
        r"""The loss and its gradient in the logarithms of the bandwidths.

        .. math:: \frac{\partial \hat f_{-i}}{\partial \log h_d}
            = \frac{\sum_j w_j K_{ij} u_{ijd}^2 (y_j - \hat f_{-i})}{\sum_j w_j K_{ij}}

        for averages with a Gaussian kernel, from sums of kernels or from pairs.
        """
        smoother = self._at(bandwidth)
        n, features = smoother.keys.shape
        output = torch.empty_like(smoother.values)
        slope = output.new_empty(features, *output.shape)
        left = torch.ones(n, dtype=torch.bool, device=output.device)
        if self._pairs is not None:
            output, slope = self._pairs.average_with_slope(smoother.bandwidth)
            left[:] = False
        elif smoother.degree == 0 and (found := _slope_by_sums(smoother)) is not None:
            output, slope, good = found
            left = ~good
        residuals = (smoother.values - output)[~left]
        share = self._weight[~left].unsqueeze(-1) / output.shape[1]
        loss = float((share * residuals.square()).sum())
        gradient = -2 * (share * residuals * slope[:, ~left]).sum(dim=(1, 2))
        if bool(left.any()):
            rest, more = self._with_gradient_plainly(smoother, left)
            loss, gradient = loss + rest, gradient + more
        if self.tick is not None:
            self.tick(1)
        return loss, gradient

    def _with_gradient_plainly(
        self, smoother: Smoother, which: Bool[Tensor, " n"]
    ) -> tuple[float, Float[Tensor, " features"]]:
        """Some measurements' part, by automatic differentiation of the plain formula."""
        log_h = smoother.bandwidth.log().requires_grad_()
        loss = 0.0
        rows = which.nonzero().squeeze(-1)
        with torch.enable_grad():
            at = smoother.at(log_h.exp())
            for some, output, _ in smooth_plainly(at, at.keys, rows, leave_out=True):
                residuals = smoother.values[some] - output
                share = self._weight[some].unsqueeze(-1) / output.shape[1]
                part = (share * residuals.square()).sum()
                part.backward(retain_graph=True)
                loss += float(part.detach())
        assert log_h.grad is not None
        return loss, log_h.grad

    def _at(self, bandwidth: Float[Tensor, "..."]) -> Smoother:
        keys = self.smoother.keys
        return self.smoother.at(bandwidth.to(keys).expand(keys.shape[1]))

    def _mean_square(self, residuals: Float[Tensor, "n outputs"]) -> Float[Tensor, ""]:
        return (self._weight.unsqueeze(-1) * residuals.square()).sum() / residuals.shape[1]


class _Pairs:
    """Averages with a Gaussian kernel from squared distances that serve all bandwidths."""

    def __init__(self, smoother: Smoother) -> None:
        keys = smoother.keys
        squares = (keys.T.unsqueeze(-1) - keys.T.unsqueeze(-2)).square_()
        squares.diagonal(dim1=-2, dim2=-1)[:] = math.inf  # a point may not attend to itself
        self.squares, self.values = squares, smoother.values
        self.log_weight = None
        if smoother.sample_weight is not None:
            self.log_weight = smoother.sample_weight.log()

    def average(self, h: Float[Tensor, " features"]) -> Float[Tensor, "n outputs"]:
        return self._weights(h) @ self.values

    def average_with_slope(
        self, h: Float[Tensor, " features"]
    ) -> tuple[Float[Tensor, "n outputs"], Float[Tensor, "features n outputs"]]:
        weights = self._weights(h)
        output = weights @ self.values
        slopes = []
        for squares, factor in zip(self.squares, h.square().reciprocal(), strict=True):
            parts = weights * squares.nan_to_num(posinf=0.0) * factor
            slopes.append(parts @ self.values - parts.sum(dim=-1, keepdim=True) * output)
        return output, torch.stack(slopes)

    def _weights(self, h: Float[Tensor, " features"]) -> Float[Tensor, "n n"]:
        factors = -0.5 * h.square().reciprocal()
        scores = self.squares[0] * factors[0]
        for squares, factor in zip(self.squares[1:], factors[1:], strict=True):
            scores.add_(squares, alpha=float(factor))
        if self.log_weight is not None:
            scores += self.log_weight
        scores -= scores.amax(dim=-1, keepdim=True)
        weights = scores.exp_()
        return weights.div_(weights.sum(dim=-1, keepdim=True))


def _slope_by_sums(
    smoother: Smoother,
) -> tuple[Float[Tensor, "n outputs"], Float[Tensor, "features n outputs"], Tensor] | None:
    """Averages of the others, their slopes in log h, and where the sums are good for both."""
    features = smoother.keys.shape[1]
    one = (0,) * features
    along = [tuple(2 * (i == feature) for i in range(features)) for feature in range(features)]
    found = sums_of_others(smoother, [one, *along])
    if found is None:
        return None
    middle, moments = found
    output, good = average(moments, 0, smoother.units)
    total = torch.where(good.unsqueeze(-1), moments.sums[one][:, :1], 1.0)
    slope = torch.stack(
        [(moments.sums[p][:, 1:] - moments.sums[p][:, :1] * output) / total for p in along]
    )
    return output + middle, slope, good
