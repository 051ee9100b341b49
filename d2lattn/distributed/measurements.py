"""Measurements of this process that count, as the keys and values of attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.blocks import Block
from d2lattn.kernels import KernelScore
from d2lattn.score import Pairs, Score

__all__ = ["Measurements"]


@dataclass(frozen=True)
class Measurements:
    """Places, what was measured there, and how much that counts, all in float64."""

    places: Float[Tensor, "n features"]
    values: Float[Tensor, "n outputs"]
    weight: Float[Tensor, " n"]
    weighted: bool  # if not, all weights are 1

    @staticmethod
    def of(
        places: Float[Tensor, "n features"],
        values: Float[Tensor, "n outputs"],
        weight: Float[Tensor, " n"] | None,
    ) -> Measurements:
        places, values = places.double(), values.double()
        if weight is None:
            return Measurements(places, values, torch.ones_like(places[:, 0]), False)
        some = weight > 0
        return Measurements(places[some], values[some], weight[some].double(), True)

    @property
    def keys(self) -> Float[Tensor, "n features"]:
        """The places; how much a measurement counts is a last feature."""
        if not self.weighted:
            return self.places
        return torch.cat([self.places, self.weight.log().unsqueeze(-1)], dim=-1)

    def score(self, kernel: KernelScore) -> Score:
        return _Weighted(kernel) if self.weighted else kernel


class _Weighted(Score):
    """A kernel of places, and the logarithm of how much a measurement counts, a key's last
    feature."""

    def __init__(self, kernel: KernelScore) -> None:
        super().__init__()
        self.kernel = kernel

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return self.kernel.compare(q, k[..., :-1]) + k[..., -1].unsqueeze(-2)

    def pairs(self, q: Tensor, k: Tensor) -> Pairs:
        below = self.kernel.pairs(q, k[..., :-1])

        def compare(q: Tensor, k: Tensor, block: Block) -> Tensor:
            return below.compare(q, k[..., :-1], block) + k[..., -1].unsqueeze(-2)

        return below._replace(compare=compare)

    def as_dot_product(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float] | None:
        found = self.kernel.as_dot_product(q, k[..., :-1])
        if found is None:
            return None
        long_q, long_k, scale = found
        one = torch.ones_like(long_q[..., :1])
        logs = k[..., -1:].to(long_k.dtype) / scale
        return torch.cat([long_q, one], dim=-1), torch.cat([long_k, logs], dim=-1), scale

    def mixes_tokens(self) -> bool:
        return self.kernel.mixes_tokens()
