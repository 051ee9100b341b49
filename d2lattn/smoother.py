"""What is smoothed, and how: measurements, a kernel, a bandwidth."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from d2lattn.boxes import Expansions
from d2lattn.masking import masked_softmax
from d2lattn.moments import local_weights

__all__ = ["Smoother"]


@dataclass(frozen=True)
class Smoother:
    """What is smoothed, and how, in float64; where it is not said otherwise, all weights are
    positive."""

    kernel: str
    degree: int
    bandwidth: Float[Tensor, " features"]
    keys: Float[Tensor, "n features"]
    values: Float[Tensor, "n outputs"]
    sample_weight: Float[Tensor, " n"] | None = None
    single: bool = False  # whether the data have no more digits than float32

    def of(self, some: Tensor) -> "Smoother":
        """The same of some of the measurements, or in another order."""
        weight = self.sample_weight
        return replace(
            self,
            keys=self.keys[some],
            values=self.values[some],
            sample_weight=None if weight is None else weight[some],
        )

    def at(self, bandwidth: Float[Tensor, " features"]) -> "Smoother":
        """The same with another bandwidth; what does not depend on it is found once."""
        other = replace(self, bandwidth=bandwidth)
        for name in ("table", "huge", "expansions", "spread"):
            vars(other)[name] = getattr(self, name)
        return other

    @cached_property
    def table(self) -> tuple[Float[Tensor, " outputs"], Float[Tensor, "n channels"]]:
        """The middle of the values, and what is summed: weights, and weights times values.

        What is averaged is small, measured from the middle, and so are its rounding errors. A
        median is not moved by a few huge values.
        """
        middle = self.values.median(dim=0).values
        ones = torch.ones_like(self.values[:, :1])
        table = torch.cat([ones, self.values - middle], dim=-1)
        weight = self.sample_weight
        return middle, table if weight is None else table * weight.unsqueeze(-1)

    @cached_property
    def huge(self) -> Bool[Tensor, " n"] | None:
        """Whose value is so large that its rounding error would show where its weight is none."""
        size = self.table[1][:, 1:].abs().amax(dim=-1)
        some = size > 0
        huge = size > 1e6 * size[some].median() if bool(some.any()) else some
        return huge if bool(huge.any()) else None

    @cached_property
    def expansions(self) -> Expansions:
        """What sums of kernels of several bandwidths have in common."""
        return {}

    @cached_property
    def units(self) -> Float[Tensor, " features"]:
        """See :func:`d2lattn.moments.local_weights`."""
        spread, varies = self.spread
        return torch.minimum(self.bandwidth.detach(), spread).masked_fill(~varies, math.inf)

    @cached_property
    def spread(self) -> tuple[Float[Tensor, " features"], Bool[Tensor, " features"]]:
        """Of the measurements that count: how far features go from their means, and which vary."""
        weight = self.sample_weight
        keys = self.keys if weight is None else self.keys[weight > 0]
        return keys.std(dim=0, correction=0), (keys != keys[:1]).any(dim=0)

    def weights(
        self,
        scores: Float[Tensor, "m n"],
        queries: Float[Tensor, "m features"],
        keys: Float[Tensor, "n features"] | Float[Tensor, "m n features"],
        allowed: Bool[Tensor, "m n"] | None,
        sample_weight: Float[Tensor, "m n"] | Float[Tensor, " n"] | None,
    ) -> tuple[Float[Tensor, "m n"], Bool[Tensor, " m"]]:
        """Weights of the measurements for each query, and who reaches any of them."""
        if sample_weight is not None:
            scores = scores + sample_weight.log()
        weights = masked_softmax(scores, mask=allowed)
        reached = weights.detach().sum(dim=-1) > 0
        if self.degree == 1:
            weights = local_weights(weights, keys - queries.unsqueeze(-2), self.units)
        return weights, reached
