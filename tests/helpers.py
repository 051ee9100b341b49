"""What several test files need: data, oracles and a look at memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import d2lattn.additive_pairs
import d2lattn.engine.attend
import d2lattn.engine.in_blocks
import d2lattn.engine.plan
from d2lattn import (
    AdditiveScore,
    BilinearScore,
    DotProductScore,
    GaussianScore,
    KernelScore,
    Score,
)
from d2lattn.measure import peak_bytes as peak_bytes  # where the tests look for it

# The tensors are tiny, and threads that wait for each other beside other processes are slow.
torch.set_num_threads(1)

# Largest error of a result of size about 1 against float64: a few roundings in its own dtype
# (relative spacings are 2e-16, 1e-7, 1e-3 and 8e-3), the sums before them in float32 or better.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
DTYPES = list(TOLERANCE)

# Every scoring function, for queries and keys of 4 features.
SCORES: dict[str, Callable[[], Score]] = {
    "additive": lambda: AdditiveScore(key_size=4, query_size=4, num_hiddens=6),
    "bilinear": lambda: BilinearScore(key_size=4, query_size=4),
    "dot product": lambda: DotProductScore(scale=1.0),
    "scaled dot product": DotProductScore,
    "gaussian": lambda: GaussianScore(bandwidth=0.8),
    "learned gaussian": lambda: GaussianScore([0.5, 1.0, 1.5, 2.0], learnable=True),
    "triangular": lambda: KernelScore("triangular", bandwidth=4.0, learnable=True),
}


def normal(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, requires_grad: bool = False
) -> Tensor:
    """Standard normal numbers, the same ones for every dtype and on every call."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return numbers.requires_grad_(requires_grad)


def queries_keys_values(
    *batch: int,
    num_queries: int = 3,
    num_keys: int = 5,
    features: int = 4,
    value_features: int = 2,
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (num_queries, features), (num_keys, features), (num_keys, value_features)
    q, k, v = (
        normal(*batch, *shape, seed=seed + i, dtype=dtype, requires_grad=requires_grad)
        for i, shape in enumerate(shapes)
    )
    return q, k, v


def sdpa(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """PyTorch's own scaled dot-product attention: the oracle for ours."""
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)


def in_float64(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values that ask for gradients, without rounding from here on."""
    q, k, v = (x.detach().double().requires_grad_() for x in inputs)
    return q, k, v


def gradients(result: Tensor, inputs: list[Tensor], seed: int = 99) -> list[Tensor]:
    """Gradients of a fixed random weighting of the result's elements."""
    weighting = normal(*result.shape, seed=seed, dtype=result.dtype).to(result.device)
    return list(torch.autograd.grad((result * weighting).sum(), inputs, materialize_grads=True))


class D2LAdditiveAttention(nn.Module):
    """Additive attention as D2L defines it (section "Attention Scoring Functions"), without mask.

    Written from the formula and the names of its layers, as an oracle.
    """

    def __init__(self, key_size: int, query_size: int, num_hiddens: int) -> None:
        super().__init__()
        self.W_k = nn.Linear(key_size, num_hiddens, bias=False)
        self.W_q = nn.Linear(query_size, num_hiddens, bias=False)
        self.w_v = nn.Linear(num_hiddens, 1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries, keys = self.W_q(queries), self.W_k(keys)
        features = torch.tanh(queries.unsqueeze(2) + keys.unsqueeze(1))
        weights = F.softmax(self.w_v(features).squeeze(-1), dim=-1)
        return torch.bmm(weights, values)


def close(actual: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """Assert equal shapes and, within the tolerance of ``actual``'s dtype, equal numbers."""
    assert actual.shape == expected.shape
    tolerance = TOLERANCE[actual.dtype] if tolerance is None else tolerance
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=False
    )


def softmax_by_hand(scores: list[float]) -> list[float]:
    """Softmax of a few numbers, without any tensor."""
    highest = max(scores)
    exponentials = [math.exp(score - highest) for score in scores]
    return [exponential / sum(exponentials) for exponential in exponentials]


def make_blocks(patch: pytest.MonkeyPatch, elements: int) -> None:
    """What is large goes by blocks of so many elements, and pieces as small as that."""
    patch.setattr(d2lattn.engine.in_blocks, "ELEMENTS", elements)
    patch.setattr(d2lattn.engine.attend, "BOOLEANS_AT_ONCE", elements)
    patch.setattr(d2lattn.engine.plan, "MIXED", elements)
    patch.setattr(d2lattn.engine.plan, "FEWEST_ROWS", 1)
    patch.setattr(d2lattn.engine.plan, "TRIANGLE", 1)
    patch.setattr(d2lattn.engine.plan, "WORTH_A_CALL", elements)
    patch.setattr(d2lattn.additive_pairs, "ELEMENTS_OF_THE_BUFFER", 2 * elements)


def stream_in_blocks(patch: pytest.MonkeyPatch, elements: int) -> None:
    """The same, and without weights attention of any size streams."""
    patch.setattr(d2lattn.engine.attend, "SCORES_AT_ONCE", 0)
    make_blocks(patch, elements)
