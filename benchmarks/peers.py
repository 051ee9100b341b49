"""What the package is measured against: textbook formulas, other libraries, and floors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE = 2**18  # elements of a piece in cache: 1 MB in float32

# What a Gaussian kernel regression takes: queries, keys, values and the bandwidth.
Regression = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def textbook_dot_product(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √d) V, with all weights at once."""
    scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
    return scores.softmax(dim=-1) @ values


def textbook_with_lengths(
    queries: Tensor, keys: Tensor, values: Tensor, lens: Tensor | None = None
) -> Tensor:
    """The same as learners write it: `bmm`, a mask of lengths filled with −10⁶, softmax, `bmm`."""
    scores = torch.bmm(queries, keys.transpose(1, 2)) / math.sqrt(queries.shape[-1])
    if lens is not None:
        hidden = torch.arange(keys.shape[1]) >= lens[:, None, None]
        scores = scores.masked_fill(hidden, -1e6)
    return torch.bmm(scores.softmax(dim=-1), values)


def sdpa(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """PyTorch's own, in the layout of its fused kernel: (batch, heads, tokens, features)."""
    q, k, v = (tokens.unsqueeze(1) for tokens in (queries, keys, values))
    made = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)
    return made.squeeze(1)


def multihead_core(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What `torch.nn.MultiheadAttention` does between its projections, for one head.

    Asked for weights, as it is by default: scaled queries, `bmm`, softmax, `bmm`.
    """
    scaled = queries * math.sqrt(1.0 / queries.shape[-1])
    return torch.bmm(torch.bmm(scaled, keys.transpose(-2, -1)).softmax(dim=-1), values)


def textbook_additive(
    queries: Tensor, keys: Tensor, values: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor
) -> Tensor:
    """softmax(w_vᵀ tanh(W_q q + W_k k)) V by the broadcast to (batch, queries, keys, hidden)."""
    features = torch.tanh((queries @ w_q.mT).unsqueeze(2) + (keys @ w_k.mT).unsqueeze(1))
    return (features @ w_v.squeeze(0)).softmax(dim=-1) @ values


def textbook_decoder_step(
    query: Tensor, projected: Tensor, values: Tensor, w_q: Tensor, w_v: Tensor, lens: Tensor
) -> Tensor:
    """The same with lengths for keys that were projected before, as learners write it."""
    features = torch.tanh((query @ w_q.mT).unsqueeze(2) + projected.unsqueeze(1))
    scores = features @ w_v.squeeze(0)
    hidden = torch.arange(projected.shape[1]) >= lens[:, None, None]
    return torch.bmm(scores.masked_fill(hidden, -1e6).softmax(dim=-1), values)


def textbook_additive_with_weights(
    queries: Tensor, keys: Tensor, values: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, and its weights."""
    features = torch.tanh((queries @ w_q.mT).unsqueeze(2) + (keys @ w_k.mT).unsqueeze(1))
    weights = (features @ w_v.squeeze(0)).softmax(dim=-1)
    return weights @ values, weights


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `torch.compile` makes of it for the sizes that it is called with."""
    return torch.compile(function, dynamic=False)


def why_no_compiler() -> str:
    """Why `torch.compile` cannot run here; nothing if it can. On a CPU it needs a C++ compiler."""
    try:
        torch.compile(torch.exp)(torch.zeros(16))
    except Exception as error:
        first, *_ = str(error).splitlines() or [""]
        return f"skipped: torch.compile does not compile here ({type(error).__name__}: {first})"
    return ""


def blocked_softmax(rows: int) -> Regression:
    """Gaussian kernel regression, so many queries at a time against all keys."""

    def regress(queries: Tensor, keys: Tensor, values: Tensor, bandwidth: float) -> Tensor:
        return in_blocks(
            lambda some: -0.5 * ((some.unsqueeze(1) - keys) / bandwidth) ** 2,
            queries, values, rows,
        )  # fmt: skip

    return regress


def in_blocks(
    compare: Callable[[Tensor], Tensor], queries: Tensor, values: Tensor, rows: int
) -> Tensor:
    """Averages by the softmax of the scores of so many queries at a time.

    Each goes where it belongs at once: small results that are kept between large blocks split the
    heap, and glibc then asks for a new block every time.
    """
    outputs = values.new_empty(len(queries))
    for some, into in zip(queries.split(rows), outputs.split(rows), strict=True):
        torch.mv(compare(some).softmax(dim=-1), values, out=into)
    return outputs


def import_keops() -> ModuleType:
    """PyKeOps for torch; it keeps what it compiles in a folder of its own."""
    folder = Path(__file__).resolve().parents[1] / "_build" / "keops"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("KEOPS_CACHE_FOLDER", str(folder))
    import pykeops.torch

    return pykeops.torch


def keops(queries: Tensor, keys: Tensor, values: Tensor, bandwidth: float) -> Tensor:
    """Gaussian kernel regression by PyKeOps: one reduction gives both sums of the quotient."""
    LazyTensor = import_keops().LazyTensor  # noqa: N806
    q, k = (queries / bandwidth)[:, None, None], (keys / bandwidth)[None, :, None]
    kernel = (-0.5 * ((LazyTensor(q) - LazyTensor(k)) ** 2).sum(-1)).exp()
    sums = kernel @ torch.stack([values, torch.ones_like(values)], dim=-1)
    return sums[:, 0] / sums[:, 1]


def why_no_keops() -> str:
    """Why PyKeOps cannot run here; nothing if it can. It compiles its formula at the first use."""
    if find_spec("pykeops") is None:
        return "skipped: PyKeOps is not installed; pip install -e '.[keops]'"
    try:
        one = torch.ones(1)
        keops(one, one, one, 1.0)
    except Exception as error:
        return f"skipped: PyKeOps does not compile here ({type(error).__name__}: {error})"
    return ""


def statsmodels_bandwidth(x: Tensor, y: Tensor) -> float:
    """The bandwidth that statsmodels' `KernelReg` finds by least-squares cross-validation."""
    from statsmodels.nonparametric.kernel_regression import KernelReg

    return float(KernelReg(y.numpy(), x.numpy(), "c", reg_type="lc", bw="cv_ls").bw[0])


def statsmodels_bandwidths(x: Tensor, y: Tensor) -> Tensor:
    """The same for several features, one bandwidth for each."""
    from statsmodels.nonparametric.kernel_regression import KernelReg

    kinds = "c" * x.shape[1]
    return torch.as_tensor(KernelReg(y.numpy(), x.numpy(), kinds, reg_type="lc", bw="cv_ls").bw)


def blocked_cdist(queries: Tensor, keys: Tensor, values: Tensor, bandwidth: float) -> Tensor:
    """Gaussian kernel regression in space, 1000 queries at a time against all keys."""
    return in_blocks(
        lambda some: -0.5 * (torch.cdist(some, keys) / bandwidth) ** 2, queries, values, 1000
    )


def floor(function: Callable[..., Tensor], elements: int) -> Callable[[], None]:
    """The function of so many elements, in pieces that stay in cache: no more than it must be."""
    piece = torch.linspace(-3.0, 0.0, min(PIECE, elements))
    out = torch.empty_like(piece)

    def run() -> None:
        for _ in range(math.ceil(elements / len(piece))):
            function(piece, out=out)

    return run
