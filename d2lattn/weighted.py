"""How much each measurement counts for each prediction, by the plain formula."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d2lattn.attention import Attention
from d2lattn.biased import Biased
from d2lattn.fitted import Fitted, columns

__all__ = ["Weighted"]

_PAIRS_OF_A_BLOCK = 2**17


class Weighted(Fitted):
    """What was fitted, and its effective weights: all at once, or of some queries at a time."""

    def weights(self, x: Float[Tensor, "m *features"]) -> Float[Tensor, "m n"]:
        """How much each measurement counts for each prediction, ``weights(x) @ y``.

        Raises as :meth:`predict`.
        """
        queries, keys, values = self._queries_keys_values(x)
        weights = self._attention()(queries, keys, values).weights
        return self._straighten(weights, queries, keys).to(x.dtype)

    @property
    def dof(self) -> float:
        r"""Effective degrees of freedom, :math:`\operatorname{tr} L` with the weights L of the
        measurements at the measurements."""
        trace, _ = self._traces()
        return trace

    @torch.no_grad()
    def _traces(self) -> tuple[float, float]:
        """Of L and of L'L, with the weights L of the measurements at the measurements."""
        x, _ = self._fitted()
        trace = squares = 0.0
        for rows, weights in self._blocks(columns(x).double()):
            if self.sample_weight is not None:
                weights = weights * (self.sample_weight[rows] > 0).unsqueeze(-1)
            trace += float(weights[torch.arange(len(rows)), rows].sum())
            squares += float(weights.square().sum())
        return trace, squares

    @torch.no_grad()
    def _blocks(
        self, queries: Float[Tensor, "m features"]
    ) -> Iterator[tuple[Int[Tensor, " rows"], Float[Tensor, "rows n"]]]:
        """Weights for some queries at a time."""
        for rows in torch.arange(len(queries), device=queries.device).split(self._rows()):
            yield rows, self._weights(queries[rows])[0]

    def _rows(self) -> int:
        keys, _ = self._fitted()
        return max(1, _PAIRS_OF_A_BLOCK // keys.numel())

    def _weights(
        self, queries: Float[Tensor, "m features"], own: Int[Tensor, " m"] | None = None
    ) -> tuple[Float[Tensor, "m n"], Bool[Tensor, " m"]]:
        """The plain formula: weights, and which queries reach any measurement.

        Without measurement number ``own[i]`` for query number i.
        """
        x, y = self._fitted()
        keys, values = columns(x).double(), columns(y).double()
        others = None
        if own is not None:
            others = torch.arange(len(keys), device=keys.device) != own.unsqueeze(-1)
        weights = self._attention()(queries, keys, values, mask=others).weights
        reached = weights.detach().sum(dim=-1) > 0
        return self._straighten(weights, queries, keys), reached

    def _attention(self) -> Attention:
        """The kernel as a score, to which the logarithm of how much a measurement counts adds."""
        if self.sample_weight is None:
            return self.attention
        return Attention(Biased(self.attention.score, self.sample_weight.double().log()))

    def _straighten(
        self, weights: Float[Tensor, "m n"], queries: Tensor, keys: Tensor
    ) -> Float[Tensor, "m n"]:
        """What the estimator makes of attention weights."""
        return weights
