"""Kernel regression, each work with its targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import peers
from benchmarks.measure import GROWTH, Estimate, exponent, fresh, growth, in_turns
from benchmarks.report import quantity
from benchmarks.telling import Tell, faster, in_fresh_processes, slower, tell_growth, tell_time
from benchmarks.works import OURS, WORKS
from d2lattn import NadarayaWatson, log_kernel

GAUSSIAN = "`NadarayaWatson.predict`, Gaussian, n = m = 100 000, one dimension"
SELECTION = "`select_bandwidth`, n = 10 000, 30 candidates"
COMPACT = "compact kernel, n = m = 1 000 000, window holding 1 % of the points or fewer"
WINDOWS = "compact kernels, n = m = 1 000 000, windows of 1 % of the points"
CANDIDATES = "`select_bandwidth`, Gaussian, 30 candidates"
SPACE = "Gaussian, n = m = 20 000, h = 0.05 in the unit cube"
PLANE = "`select_bandwidth`, 2 features, n = 400"
LINES = "`LocalLinear`, Gaussian, n = m = 100 000 on a line"


def test_gaussian_prediction(benchmark: Any, tell: Tell) -> None:
    missing = peers.why_no_keops()
    others = ["blocks in cache", "floor"]
    slow = [*([] if missing else ["KeOps"]), "blocked softmax"]
    times = in_turns(benchmark, "gaussian", 3, against=others, once=slow, length=100_000)
    keops = {"note": missing, "unit": "×"} if missing else faster(times, "KeOps")
    tell(GAUSSIAN, target="at least 8 × faster than PyKeOps on the CPU", at_least=8, **keops)
    blocks = {
        "blocked softmax": "1000 queries at a time",
        "blocks in cache": "8 queries at a time, which stay in cache",
    }
    for peer, part in blocks.items():
        target = "20 × than a blocked softmax"
        tell(GAUSSIAN, target=target, part=part, at_least=20, **faster(times, peer))
    target = "at most 3 × the floor (`exp` of every pair) at bandwidth 0.2 on [0, 5]"
    tell(GAUSSIAN, target=target, at_most=3, **slower(times, "floor"))


def test_gaussian_memory(benchmark: Any, tell: Tell) -> None:
    grown = in_fresh_processes(benchmark, growth, **GROWTH["gaussian"])
    tell_growth(tell, GAUSSIAN, "memory linear in n", "memory", grown)


def test_selection(benchmark: Any, tell: Tell) -> None:
    run = in_fresh_processes(benchmark, fresh, "bandwidth", length=10_000, candidates=30)
    tell_time(tell, SELECTION, "under 30 s", 30, run)
    grown = growth(**GROWTH["selection"])  # memory does not depend on the number of candidates
    tell_growth(tell, SELECTION, "memory linear in n", "memory", grown)


def test_selection_against_statsmodels(benchmark: Any, tell: Tell) -> None:
    times = in_turns(benchmark, "bandwidth", 3, against=["statsmodels"], length=1000, candidates=30)
    target = "at n = 1000 at least 50 × faster than statsmodels' `cv_ls`"
    tell(SELECTION, target=target, at_least=50, **faster(times, "statsmodels"))


def test_compact_kernel(benchmark: Any, tell: Tell) -> None:
    grown = in_fresh_processes(benchmark, growth, **GROWTH["compact"])
    tell_time(tell, COMPACT, "finishes in under 60 s", 60, grown.runs[-1])
    tell_growth(tell, COMPACT, "memory linear in n", "memory", grown)


@pytest.mark.parametrize("kernel", ["boxcar", "triangular", "epanechnikov"])
def test_windows(benchmark: Any, tell: Tell, kernel: str) -> None:
    times = in_turns(benchmark, "windows", 3, against=["sort"], kernel=kernel, length=1_000_000)
    target = "at most 12 sorts of as many float64 numbers"
    tell(WINDOWS, target=target, part=kernel, at_most=12, **slower(times, "sort"))
    lengths = [125_000, 250_000, 500_000, 1_000_000]
    grown = growth("windows", lengths, kernel=kernel)
    line: dict[str, Any] = {"note": grown.failure}
    if not grown.failure:
        line["measured"] = Estimate.of([exponent(grown.lengths, grown.seconds)])
        line["note"] = ", ".join(quantity(seconds, "s") for seconds in grown.seconds)
    tell(WINDOWS, target="exponent at most 1.2", part=kernel, at_most=1.2, **line)
    tell(
        WINDOWS,
        target="error at most 1e-9",
        part=kernel,
        at_most=1e-9,
        measured=Estimate.of([_error_of_windows(kernel)]),
    )


def _error_of_windows(kernel: str) -> float:
    """Of predictions in float64, at some queries, against all pairs."""
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.rand(1_000_000, generator=generator, dtype=torch.float64)
    y, at = x.sin(), torch.linspace(0, 5, 50, dtype=torch.float64)
    model = NadarayaWatson(0.025, kernel).fit(x, y)
    many = model.predict(torch.cat([at, x[:10_000]]))[: len(at)]
    logs = log_kernel((at.unsqueeze(1) - x) / 0.025, kernel)
    return float((many - logs.softmax(dim=-1) @ y).abs().max())


@pytest.mark.parametrize("length", [20_000, 100_000])
def test_candidates(benchmark: Any, tell: Tell, length: int) -> None:
    times = in_turns(benchmark, "candidates", 3, against=["exp"], length=length)
    target = "at most 6 × (30 × `exp` of 50 n float64 numbers)"
    tell(CANDIDATES, target=target, part=f"n = {length}", at_most=6, **slower(times, "exp"))


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_listed(benchmark: Any, tell: Tell, kernel: str) -> None:
    times = in_turns(benchmark, "listed", 3, against=["number"], kernel=kernel, length=20_000)
    target = "`[h]` takes at most 1.5 × the time of `h`"
    work = "`select_bandwidth` by default, n = 20 000"
    tell(work, target=target, part=kernel, at_most=1.5, **slower(times, "number"))


@pytest.mark.parametrize(("features", "at_least"), [(2, 50), (3, 15)])
def test_space(benchmark: Any, tell: Tell, features: int, at_least: float) -> None:
    peer, part = "blocked softmax", f"{features} features"
    times = in_turns(benchmark, "space", 3, against=[peer], features=features, length=20_000)
    target = f"at least {at_least} × faster than a blocked softmax of `cdist`"
    tell(SPACE, target=target, part=part, at_least=at_least, **faster(times, peer))
    generator = torch.Generator().manual_seed(0)
    x, queries = torch.rand(2, 20_000, features, generator=generator)
    y = x.sum(dim=-1).sin()
    found = NadarayaWatson(0.05).fit(x, y).predict(queries)[:500].double()
    exact = peers.blocked_cdist(queries[:500].double(), x.double(), y.double(), 0.05)
    error = Estimate.of([float((found - exact).abs().max())])
    tell(SPACE, target="error at most 1e-5", part=part, at_most=1e-5, measured=error)


def test_selection_in_a_plane(benchmark: Any, tell: Tell) -> None:
    peer = "statsmodels"
    times = in_turns(benchmark, "selection_in_a_plane", 3, once=[peer], length=400)
    target = "at least 10 × faster than statsmodels' `cv_ls`"
    tell(PLANE, target=target, at_least=10, **faster(times, peer))
    contestants = WORKS["selection_in_a_plane"](length=400)
    losses = Estimate.of([contestants[OURS]() / contestants[peer]()])
    tell(PLANE, target="loss at most 1 + 1e-6 of theirs", at_most=1 + 1e-6, measured=losses)


def test_local_lines(benchmark: Any, tell: Tell) -> None:
    times = in_turns(benchmark, "local_line", 5, against=["average"], length=100_000)
    tell(LINES, target="at most 4 `NadarayaWatson`s", at_most=4, **slower(times, "average"))
    grown = growth("local_line", [12_500, 25_000, 50_000, 100_000])
    tell_growth(tell, LINES, "memory linear in n", "memory", grown)
