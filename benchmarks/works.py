"""The works that are measured: inputs, and each contestant as a function without arguments.

A work can be made again in a fresh process, from its name and its sizes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from d2lattn import AdditiveAttention, AdditiveScore, DotProductAttention, NadarayaWatson

OURS = "d2lattn"
WARM_UP = 300  # the length with which everything runs once before it is measured; it streams too
Contestants = dict[str, Callable[[], Any]]


def dot_product(
    batch: int = 8, length: int = 1024, width: int = 64, lengths: bool = False
) -> Contestants:
    """Scaled dot-product attention; with lengths, SDPA gets its mask ready-made."""
    q, k, v = _normal(3, batch, length, width)
    attention = DotProductAttention()
    lens = mask = None
    if lengths:
        lens = torch.randint(length // 2, length + 1, (batch,))
        mask = (torch.arange(length) < lens[:, None])[:, None, None, :]
    return {
        OURS: lambda: attention(q, k, v, lens, need_weights=False).output,
        "SDPA": lambda: peers.sdpa(q, k, v, mask),
        "MultiheadAttention's core": lambda: peers.multihead_core(q, k, v),
        "textbook": lambda: peers.textbook_dot_product(q, k, v),
    }


def additive(
    batch: int = 4, length: int = 512, hidden: int = 64, backward: bool = False
) -> Contestants:
    """Additive attention, forward only or with the gradients of inputs and parameters."""
    q, k, v = _normal(3, batch, length, hidden)
    attention = AdditiveAttention(hidden, hidden, hidden)
    score = attention.score
    assert isinstance(score, AdditiveScore)
    w_q, w_k, w_v = (layer.weight for layer in (score.W_q, score.W_k, score.w_v))
    asked = [tensor.requires_grad_(backward) for tensor in (q, k, v, w_q, w_k, w_v)]

    def finish(output: Tensor) -> Any:
        return torch.autograd.grad(output.sum(), asked) if backward else output

    return {
        OURS: lambda: finish(attention(q, k, v, need_weights=False).output),
        "textbook": lambda: finish(peers.textbook_additive(q, k, v, w_q, w_k, w_v)),
        "floor": peers.floor(torch.tanh, batch * length**2 * hidden),
    }


def gaussian(length: int = 100_000, bandwidth: float = 0.2) -> Contestants:
    """Kernel regression on as many points as there are queries, all in [0, 5]."""
    x, y = _measurements(length)
    queries = torch.linspace(0, 5, length)
    model = NadarayaWatson(bandwidth).fit(x, y)
    arguments = queries, x, y, bandwidth
    return {
        OURS: lambda: model.predict(queries),
        "KeOps": lambda: peers.keops(*arguments),
        "blocked softmax": lambda: peers.blocked_softmax(1000)(*arguments),
        "blocks in cache": lambda: peers.blocked_softmax(8)(*arguments),
        "floor": peers.floor(torch.exp, length**2),
    }


def bandwidth(length: int = 1000, candidates: int | None = None) -> Contestants:
    """Leave-one-out selection of a bandwidth, from a grid or by the default search."""
    x, y = (numbers.double() for numbers in _measurements(length))
    grid = None if candidates is None else torch.logspace(-1, 0, candidates).tolist()
    model = NadarayaWatson().fit(x, y)
    return {
        OURS: lambda: float(model.select_bandwidth(grid).bandwidth),
        "statsmodels": lambda: peers.statsmodels_bandwidth(x, y),
    }


def compact(length: int = 1_000_000, share: float = 0.01) -> Contestants:
    """Kernel regression with a kernel that reaches this share of the points."""
    x, y = _measurements(length)
    queries = torch.linspace(0, 5, length)
    model = NadarayaWatson(5 * share / 2, kernel="epanechnikov").fit(x, y)
    return {OURS: lambda: model.predict(queries)}


WORKS: dict[str, Callable[..., Contestants]] = {
    work.__name__: work for work in (dot_product, additive, gaussian, bandwidth, compact)
}


def _normal(count: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def _measurements(length: int) -> tuple[Tensor, Tensor]:
    """The measurements of chapter 1, as many as are asked for."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(length, generator=generator) * 5
    return x, 2 * x.sin() + x**0.8 + 0.5 * torch.randn(length, generator=generator)
