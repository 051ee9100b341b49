"""What each process of a test of kernel regression does, with its share of the measurements."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from d2lattn import NadarayaWatson
from d2lattn.distributed import ShardedNadarayaWatson
from tests.distributed_work import group_of, normal, uneven


def regression(
    rank: int, kernel: str, features: int, weighted: bool, learnable: bool
) -> dict[str, float]:
    """How far a regression on shared measurements is from that of one process."""
    n, m = 41, 13
    x = normal(n, features, seed=1)
    y = torch.stack([x.sin().sum(dim=-1), x.square().sum(dim=-1)], dim=-1) + 0.1 * normal(n, 2)
    weight = (normal(n, seed=3).abs() * (torch.arange(n) % 5 > 0)) if weighted else None
    queries = normal(m, features, seed=2)
    kept: dict[str, Any] = {"bandwidth": 0.9, "kernel": kernel, "learnable": learnable}
    alone = NadarayaWatson(**kept).fit(x, y, weight)
    size = dist.get_world_size()
    own_x, own_y = (uneven(t, size, rank) for t in (x, y))
    own_weight = None if weight is None else uneven(weight.unsqueeze(-1), size, rank).squeeze(-1)
    model = ShardedNadarayaWatson(**kept).fit(own_x, own_y, own_weight)
    my_queries = uneven(queries, size, rank)

    def off(a: Tensor, b: Tensor) -> float:
        return float((a - b).detach().abs().max()) if b.numel() else 0.0

    found = {
        "predict": off(model.predict(my_queries), uneven(alone.predict(queries), size, rank)),
        "residuals": off(model.loo_residuals(), uneven(alone.loo_residuals(), size, rank)),
    }
    far = 4 * queries  # where compact kernels reach nothing
    theirs = alone.predict(far, empty="nearest")
    found["nearest"] = off(
        model.predict(uneven(far, size, rank), empty="nearest"), uneven(theirs, size, rank)
    )
    if learnable:
        alone.loo_residuals().square().sum().backward()
        model.loo_residuals().square().sum().backward()
        (mine,), (theirs,) = model.parameters(), alone.parameters()
        assert mine.grad is not None
        dist.all_reduce(mine.grad)
        found["gradient"] = off(mine.grad, theirs.grad) / float(theirs.grad.abs())  # type: ignore
        return found
    candidates = [0.5, 1.0, 2.0, 4.0]
    chosen = [k.select_bandwidth(candidates).bandwidth for k in (model, alone)]
    found["candidate"] = off(*chosen)
    # The boxcar's loss has steps: many bandwidths are as good.
    if kernel == "boxcar" or not weighted:
        return found
    chosen = [k.select_bandwidth().bandwidth.log() for k in (model, alone)]
    found["bandwidth"] = off(*chosen)
    return found


def by_feature(rank: int, kernel: str, weighted: bool) -> tuple[float, float, list[float]]:
    """How far the bandwidths that two processes select for two features are from those of one, in
    logarithms; one process's loss there against its own least; the bandwidths."""
    n = 40
    x = normal(n, 2, seed=1) * torch.tensor([1.0, 30.0])
    y = (2 * x[:, 0]).sin() + 0.02 * x[:, 1] + 0.1 * normal(n)
    weight = (normal(n, seed=3).abs() * (torch.arange(n) % 5 > 0)) if weighted else None
    alone = NadarayaWatson([1.0, 1.0], kernel).fit(x, y, weight).select_bandwidth()
    group = group_of(2)
    if rank > 1:
        return 0.0, 1.0, []
    own = slice(0, 25) if rank == 0 else slice(25, n)
    model = ShardedNadarayaWatson([1.0, 1.0], kernel, group=group)
    model.fit(x[own], y[own], None if weight is None else weight[own])
    assert model.select_bandwidth([50.0, 90.0]).bandwidth.shape == (2,)  # a number is for each
    model.select_bandwidth()

    def loss(bandwidth: Tensor) -> float:
        residuals = NadarayaWatson(bandwidth, kernel).fit(x, y, weight).loo_residuals()
        return float((residuals.square() * (1.0 if weight is None else weight)).sum())

    off = float((model.bandwidth.log() - alone.bandwidth.log()).abs().max())
    return off, loss(model.bandwidth) / loss(alone.bandwidth), model.bandwidth.tolist()


def regress_differently(rank: int, what: str) -> str:
    """Process 1 asks for something else: what each process hears of it."""
    x = normal(6, 1, seed=rank)
    model = ShardedNadarayaWatson(0.5).fit(x, x.sin())
    other = rank == 1
    try:
        if what == "candidates":
            model.select_bandwidth([0.5, 1.0 + other])
        elif what == "empty":
            model.predict(x, empty="nearest" if other else 0.0)
        elif what == "tqdm":  # is missing there
            with patch.dict(sys.modules, {"tqdm.auto": None} if other else {}):
                model.loo_residuals(progress=other)
        elif what == "x":
            model.predict(x.float() if other else x)
        elif other:
            model.loo_residuals()
        else:
            model.predict(x)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def most_measurements_held(rank: int) -> int:
    """The most rows that a tensor had while predictions were made of 400 measurements."""
    from torch.overrides import TorchFunctionMode

    most = 0

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            nonlocal most
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and made.dtype != torch.uint8:  # bytes of messages
                most = max(most, *made.shape, 0)
            return made

    x = normal(100, 1, seed=rank)
    model = ShardedNadarayaWatson(0.5).fit(x, x.sin())
    with Watch():
        model.predict(x)
        model.loo_residuals()
        model.select_bandwidth()
    return most


def progress_shown(rank: int) -> str:
    """What process 0, which asks for a progress bar, and the others show."""
    x = normal(5, 1, seed=rank)
    shown = io.StringIO()
    with redirect_stderr(shown):
        model = ShardedNadarayaWatson(0.5).fit(x, x.sin())
        model.predict(x, progress=rank == 0)
        model.loo_residuals(progress=rank == 0)
        model.fit(x, x.sin(), torch.ones_like(x[:, 0])).loo_residuals(progress=rank == 0)
        model.select_bandwidth([0.5, 1.0], progress=rank == 0)
    return shown.getvalue()
