"""The works that are measured: inputs, and each contestant as a function without arguments.

A work can be made again in a fresh process, from its name and its sizes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import peers
from d2lattn import (
    AdditiveAttention,
    AdditiveScore,
    Attention,
    Biased,
    DotProductAttention,
    DotProductScore,
    LocalLinear,
    Mask,
    NadarayaWatson,
    Score,
)
from d2lattn.keys_projected import KeysProjected

OURS = "d2lattn"
WARM_UP = 300  # the length with which everything runs once before it is measured; it streams too
Contestants = dict[str, Callable[[], Any]]


def dot_product(
    batch: int = 8,
    length: int = 1024,
    width: int = 64,
    lengths: bool = False,
    backward: bool = False,
) -> Contestants:
    """Scaled dot-product attention; with lengths, SDPA gets its mask ready-made."""
    q, k, v = _normal(3, batch, length, width)
    attention = DotProductAttention()
    lens = mask = None
    if lengths:
        lens = torch.randint(length // 2, length + 1, (batch,))
        mask = (torch.arange(length) < lens[:, None])[:, None, None, :]
    finish = _finish(q, k, v, backward=backward)
    return {
        OURS: lambda: finish(attention(q, k, v, lens, need_weights=False).output),
        "SDPA": lambda: finish(peers.sdpa(q, k, v, mask)),
        "MultiheadAttention's core": lambda: finish(peers.multihead_core(q, k, v)),
        "textbook": lambda: finish(peers.textbook_dot_product(q, k, v)),
    }


def small(
    batch: int = 8,
    queries: int = 16,
    length: int = 16,
    width: int = 32,
    lengths: bool = False,
    backward: bool = False,
    calls: int = 1,
) -> Contestants:
    """Attention as a chapter calls it, weights and all, so many times: one call is too short."""
    q, k, v = _normal(3, batch, max(queries, length), width)
    q, k, v = q[:, :queries].contiguous(), k[:, :length].contiguous(), v[:, :length].contiguous()
    lens = torch.randint(1, length + 1, (batch,)) if lengths else None
    attention = DotProductAttention()
    finish = _finish(q, k, v, backward=backward)

    return {
        OURS: _repeated(calls, lambda: finish(attention(q, k, v, lens).output)),
        "textbook": _repeated(calls, lambda: finish(peers.textbook_with_lengths(q, k, v, lens))),
    }


def decoder_step(
    batch: int = 128, length: int = 30, width: int = 64, backward: bool = False, calls: int = 1
) -> Contestants:
    """One query of a decoder on keys that were projected before, additively, with lengths."""
    (query,), (keys, values) = _normal(1, batch, 1, width), _normal(2, batch, length, width)
    lens = torch.randint(1, length + 1, (batch,))
    score = AdditiveScore(width, width, width)
    attention = Attention(KeysProjected(score, width, width))
    w_q, w_v = score.W_q.weight, score.w_v.weight
    finish = _finish(query, keys, values, w_q, w_v, backward=backward)
    asked = query, keys, values, w_q, w_v, lens

    return {
        OURS: _repeated(calls, lambda: finish(attention(query, keys, values, lens).output)),
        "textbook": _repeated(calls, lambda: finish(peers.textbook_decoder_step(*asked))),
    }


def masked(
    mask: str = "causal",
    score: str = "dot product",
    length: int = 8192,
    queries: int | None = None,
    width: int = 64,
    backward: bool = False,
) -> Contestants:
    """One sequence under a mask, with any score. Some contestants do other work, for comparison."""
    q, k, v = _normal(3, 1, length, width)
    q = q[:, -(queries or length) :]
    attention = _ATTENTION[score](width)
    chosen = _MASKS[mask](length)
    finish = _finish(q, k, v, *attention.parameters(), backward=backward)

    def ours(mask: Mask | None, tokens: int | None = None) -> Any:
        some = (q, k, v) if tokens is None else (x[:, -tokens:] for x in (q, k, v))
        return finish(attention(*some, mask=mask, need_weights=False).output)

    def other(mask: Mask | None, tokens: int | None = None) -> None:
        ours(mask, tokens)

    contestants: Contestants = {
        OURS: lambda: ours(chosen),
        "full attention": lambda: other(None),
        "causal": lambda: other(Mask.causal()),
        "a quarter of the keys": lambda: other(_MASKS[mask](length // 4), length // 4),
    }
    if score == "dot product":
        dense = cache(lambda: chosen.dense(q.shape[1], length))
        contestants["SDPA with booleans"] = lambda: finish(peers.sdpa(q, k, v, dense()))
        if mask == "causal" and queries is None:
            contestants["SDPA is_causal"] = lambda: finish(peers.sdpa(q, k, v, is_causal=True))
    return contestants


class Cosine(Score):
    """A score as a user writes it: nothing is known of it but its two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))

    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return self.scale * (q @ k.mT)


_ATTENTION: dict[str, Callable[[int], Attention]] = {
    "dot product": lambda width: DotProductAttention(),
    "additive": lambda width: AdditiveAttention(width, width, width),
    "ALiBi": lambda width: Attention(Biased(DotProductScore(), lambda i, j: -0.1 * (i - j).abs())),
    "a user's own": lambda width: Attention(Cosine()),
}
_MASKS: dict[str, Callable[[int], Mask]] = {
    "causal": lambda length: Mask.causal(),
    "window": lambda length: Mask.window(255),
    "documents": lambda length: Mask.documents(*[torch.arange(length) * 8 // length] * 2),
}


def additive(
    batch: int = 4,
    length: int = 512,
    hidden: int = 64,
    backward: bool = False,
    weights: bool = False,
) -> Contestants:
    """Additive attention, forward only or with the gradients of inputs and parameters."""
    q, k, v = _normal(3, batch, length, hidden)
    attention = AdditiveAttention(hidden, hidden, hidden)
    score = attention.score
    assert isinstance(score, AdditiveScore)
    w_q, w_k, w_v = (layer.weight for layer in (score.W_q, score.W_k, score.w_v))
    asked = q, k, v, w_q, w_k, w_v
    finish = _finish(*asked, backward=backward)

    def compiled() -> Tensor:
        if weights:
            return peers.compiled(peers.textbook_additive_with_weights)(*asked)[0]
        return peers.compiled(peers.textbook_additive)(*asked)

    return {
        OURS: lambda: finish(attention(q, k, v, need_weights=weights).output),
        "textbook": lambda: finish(peers.textbook_additive(*asked)),
        "compiled broadcast": lambda: finish(compiled()),
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


def windows(
    length: int = 1_000_000, kernel: str = "epanechnikov", share: float = 0.01
) -> Contestants:
    """A compact kernel that reaches this share of the points, and one sort of as many numbers."""
    x, y = _measurements(length)
    queries, numbers = torch.linspace(0, 5, length), x.double()
    model = NadarayaWatson(5 * share / 2, kernel).fit(x, y)
    return {OURS: lambda: model.predict(queries), "sort": lambda: _silently(numbers.sort)}


def candidates(length: int = 100_000, count: int = 30) -> Contestants:
    """Leave-one-out losses of so many bandwidths, and as many `exp` of 50 numbers a point."""
    x, y = (numbers.double() for numbers in _measurements(length))
    grid = torch.logspace(-1, 0, count).tolist()
    model = NadarayaWatson().fit(x, y)
    numbers = torch.rand(50 * length, dtype=torch.float64)
    out = torch.empty_like(numbers)

    def exponentials() -> None:
        for _ in grid:
            torch.exp(numbers, out=out)

    return {OURS: lambda: float(model.select_bandwidth(grid).bandwidth), "exp": exponentials}


def listed(length: int = 20_000, kernel: str = "gaussian") -> Contestants:
    """The default search for one bandwidth in a list, and for a number."""
    x, y = (numbers.double() for numbers in _measurements(length))
    as_list, as_number = (NadarayaWatson(h, kernel).fit(x, y) for h in ([1.0], 1.0))
    return {
        OURS: lambda: float(as_list.select_bandwidth().bandwidth),
        "number": lambda: float(as_number.select_bandwidth().bandwidth),
    }


def space(length: int = 20_000, features: int = 2, bandwidth: float = 0.05) -> Contestants:
    """Gaussian kernel regression in the unit cube, on as many points as there are queries."""
    generator = torch.Generator().manual_seed(0)
    x, queries = torch.rand(2, length, features, generator=generator)
    y = x.sum(dim=-1).sin()
    model = NadarayaWatson(bandwidth).fit(x, y)
    return {
        OURS: lambda: model.predict(queries),
        "blocked softmax": lambda: peers.blocked_cdist(queries, x, y, bandwidth),
    }


def selection_in_a_plane(length: int = 400) -> Contestants:
    """One bandwidth for each of two features: the leave-one-out loss that is reached."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(length, 2, generator=generator).double() for _ in range(2))
    y = (2 * x[:, 0]).sin() + 0.3 * x[:, 1] + 0.3 * noise[:, 0]

    def loss(bandwidth: Tensor) -> float:
        return float(NadarayaWatson(bandwidth).fit(x, y).loo_residuals().square().mean())

    model = NadarayaWatson([1.0, 1.0]).fit(x, y)
    return {
        OURS: lambda: loss(model.select_bandwidth().bandwidth),
        "statsmodels": lambda: loss(peers.statsmodels_bandwidths(x, y)),
    }


def local_line(length: int = 100_000, bandwidth: float = 0.2) -> Contestants:
    """Local lines on as many points as there are queries, and local averages."""
    x, y = _measurements(length)
    queries = torch.linspace(0, 5, length)
    line = LocalLinear(bandwidth).fit(x, y)
    average = NadarayaWatson(bandwidth).fit(x, y)
    return {
        OURS: lambda: line.predict(queries),
        "average": lambda: _silently(lambda: average.predict(queries)),
    }


WORKS: dict[str, Callable[..., Contestants]] = {
    work.__name__: work
    for work in (
        *(dot_product, small, decoder_step, masked, additive, gaussian, bandwidth, compact),
        *(windows, candidates, listed, space, selection_in_a_plane, local_line),
    )
}


def _silently(run: Callable[[], Any]) -> None:
    """A floor, whose result is another thing than ours."""
    run()


def _repeated(calls: int, run: Callable[[], Any]) -> Callable[[], Any]:
    """So many calls, which one alone would be too short to time; the last result counts."""
    return lambda: [run() for _ in range(calls)][-1]


def _finish(*asked: Tensor, backward: bool) -> Callable[[Tensor], Any]:
    """From an output to what is compared: itself, or the gradients of what was asked for."""
    for tensor in asked:
        tensor.requires_grad_(backward)
    return lambda output: torch.autograd.grad(output.sum(), asked) if backward else output


def _normal(count: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def _measurements(length: int) -> tuple[Tensor, Tensor]:
    """The measurements of chapter 1, as many as are asked for."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(length, generator=generator) * 5
    return x, 2 * x.sin() + x**0.8 + 0.5 * torch.randn(length, generator=generator)
