"""The works of the table, each with its targets. `make bench ARGS="-k additive"` runs some.

What runs in fresh processes is only bracketed by pytest-benchmark's clock, which saves what else
was measured beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

import pytest
import torch

from benchmarks import peers
from benchmarks.measure import Estimate, Fresh, Growth, exponent, fresh, growth, in_turns, ratio
from benchmarks.report import Line, quantity
from benchmarks.works import OURS, WORKS
from d2lattn import NadarayaWatson, log_kernel

DOT_PRODUCT = "`DotProductAttention(need_weights=False)`, batch 8 × 1024 × 64, no mask / lengths"
SMALL_SIZES = "`DotProductAttention`, batch × queries × keys × width"
SMALL = [("1", "1", "128", "64"), ("128", "1", "30", "64"), ("8", "16", "16", "32"),
         ("32", "64", "64", "64")]  # fmt: skip
CAUSAL = "`Mask.causal()`, dot product"
GAUSSIAN = "`NadarayaWatson.predict`, Gaussian, n = m = 100 000, one dimension"
SELECTION = "`select_bandwidth`, n = 10 000, 30 candidates"
COMPACT = "compact kernel, n = m = 1 000 000, window holding 1 % of the points or fewer"

# From where the linear part of memory can be seen to what takes seconds.
GROWTH: dict[str, dict[str, Any]] = {
    "dot product": {
        "work": "dot_product", "lengths": [4096, 8192, 16384, 32768], "batch": 1, "repeats": 3,
    },
    "additive": {
        "work": "additive", "lengths": [2048, 4096, 8192, 16384], "batch": 1, "hidden": 16,
    },
    "gaussian": {"work": "gaussian", "lengths": [12_500, 25_000, 50_000, 100_000]},
    "selection": {
        "work": "bandwidth", "lengths": [2500, 5000, 10_000, 20_000], "candidates": 2,
    },
    "compact": {
        "work": "compact", "lengths": [125_000, 250_000, 500_000, 1_000_000], "limit": 90.0,
    },
}  # fmt: skip

Tell = Callable[..., None]
Times = dict[str, list[float]]


@pytest.fixture
def tell(benchmark: Any) -> Tell:
    """Put a line into the table."""

    def tell(work: str, **line: Any) -> None:
        benchmark.extra_info.setdefault("lines", []).append(asdict(Line(work, **line)))

    return tell


def faster(times: Times, peer: str) -> dict[str, Any]:
    """How many times faster ours is than a peer."""
    return {"measured": ratio(times[peer], times[OURS]), "unit": "×", "note": _both(times, peer)}


def slower(times: Times, peer: str) -> dict[str, Any]:
    """How many times the time of a peer, or of a floor, ours takes."""
    return {"measured": ratio(times[OURS], times[peer]), "unit": "×", "note": _both(times, peer)}


def growing(times: Times, peer: str, factor: float) -> dict[str, Any]:
    """The exponent of time, from turns with a peer whose length is that many times shorter."""
    turns = zip(times[OURS], times[peer], strict=True)
    steps = [math.log(ours / shorter) / math.log(factor) for ours, shorter in turns]
    return {"measured": Estimate.of(steps), "note": _both(times, peer)}


def _both(times: Times, peer: str) -> str:
    ours, other = (quantity(median(times[name]), "s") for name in (OURS, peer))
    return f"{ours} against {other}" + (", run once" if len(times[peer]) == 1 else "")


def in_fresh_processes(
    benchmark: Any, measure: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    """What a measurement found that was made elsewhere."""
    return benchmark.pedantic(measure, args=args, kwargs=options, rounds=1)


def tell_growth(tell: Tell, work: str, target: str, what: str, grown: Growth, **line: Any) -> None:
    """The exponent of time or memory."""
    amounts, unit, at_most = (
        (grown.seconds, "s", 2.1) if what == "time" else (grown.extra_bytes, "B", 1.1)
    )
    if not grown.failure:
        line["measured"] = Estimate.of([exponent(grown.lengths, amounts)])
    found = ", ".join(quantity(amount, unit) for amount in amounts)
    lengths = ", ".join(f"{length:,}".replace(",", " ") for length in grown.lengths)
    line["note"] = grown.failure or f"{found} at {lengths}"
    tell(work, target=target, at_most=at_most, **line)


def tell_time(tell: Tell, work: str, target: str, at_most: float, run: Fresh) -> None:
    """Seconds, if it finished."""
    measured = None if run.failure else Estimate.of(run.seconds)
    tell(work, target=target, at_most=at_most, unit="s", measured=measured, note=run.failure)


def tell_memory(tell: Tell, work: str, target: str, at_most: float, run: Fresh) -> None:
    """Bytes, if it finished."""
    measured = None if run.failure else Estimate.of([run.extra_bytes])
    seconds = f"in {quantity(median(run.seconds), 's')}" if run.seconds else ""
    note = run.failure or seconds
    tell(work, target=target, at_most=at_most, unit="B", measured=measured, note=note)


@pytest.mark.parametrize("lengths", [False, True], ids=["no mask", "lengths"])
def test_dot_product_time(benchmark: Any, tell: Tell, lengths: bool) -> None:
    target = "at most 1.10 × the time of SDPA called directly in its fused layout"
    part = "lengths" if lengths else "no mask"
    times = in_turns(benchmark, "dot_product", 50, against=["SDPA"], lengths=lengths, length=1024)
    tell(DOT_PRODUCT, target=target, part=part, at_most=1.10, **slower(times, "SDPA"))


@pytest.mark.parametrize("peer", ["MultiheadAttention's core", "textbook"])
def test_dot_product_time_of(benchmark: Any, tell: Tell, peer: str) -> None:
    times = in_turns(benchmark, "dot_product", 15, against=[peer], length=1024)
    tell(DOT_PRODUCT, part=f"no mask, times faster than {peer}", **faster(times, peer))


@pytest.mark.parametrize("lengths", [False, True], ids=["no mask", "lengths"])
def test_dot_product_memory(benchmark: Any, tell: Tell, lengths: bool) -> None:
    batch, length, width = 8, 8192, 64
    sizes = {"batch": batch, "length": length, "width": width, "lengths": lengths}
    run = in_fresh_processes(benchmark, fresh, "dot_product", **sizes)
    tell(
        "the same at 8192 × 8192",
        target="extra memory below 3 × (queries + keys) × width × 4 bytes + 32 MB",
        part=f"batch {batch}, " + ("lengths" if lengths else "no mask"),
        at_most=3 * 2 * batch * length * width * 4 + 32e6,
        unit="B",
        measured=None if run.failure else Estimate.of([run.extra_bytes]),
        note=run.failure,
    )


def test_additive_forward(benchmark: Any, tell: Tell) -> None:
    work = "`AdditiveAttention(need_weights=False)`, batch 4, 512 × 512, hidden 64, forward"
    times = in_turns(benchmark, "additive", 7, against=["textbook", "floor"], length=512)
    target = "at least 4 × faster than the textbook broadcast"
    tell(work, target=target, at_least=4, **faster(times, "textbook"))
    target = "at most 1.8 × the floor (`tanh` over as many elements in cache-sized pieces)"
    tell(work, target=target, at_most=1.8, **slower(times, "floor"))


def test_additive_forward_and_backward(benchmark: Any, tell: Tell) -> None:
    times = in_turns(benchmark, "additive", 5, against=["textbook"], length=512, backward=True)
    target = "at least 2 × faster than the textbook broadcast"
    tell("the same, forward and backward", target=target, at_least=2, **faster(times, "textbook"))


def test_additive_memory(benchmark: Any, tell: Tell) -> None:
    sizes = {"batch": 8, "length": 512, "hidden": 256, "backward": True}
    ours = in_fresh_processes(benchmark, fresh, "additive", **sizes)
    broadcast = fresh("additive", "textbook", **sizes)
    failure = ours.failure or broadcast.failure
    line: dict[str, Any] = {"note": failure}
    if not failure:
        line["measured"] = Estimate.of([ours.extra_bytes / broadcast.extra_bytes])
        line["note"] = " against ".join(quantity(run.extra_bytes, "B") for run in (ours, broadcast))
    tell(
        "the same at batch 8, 512 × 512, hidden 256, forward and backward",
        target="extra memory at most 1/50 of the broadcast's",
        at_most=1 / 50,
        unit="×",
        **line,
    )


@pytest.mark.parametrize("sizes", SMALL, ids="×".join)
@pytest.mark.parametrize("way", ["lengths", "lengths, forward and backward", "no lengths"])
def test_small(benchmark: Any, tell: Tell, sizes: tuple[str, ...], way: str) -> None:
    batch, queries, length, width = map(int, sizes)
    at_most = {"lengths": 1.5, "no lengths": 2.5 if sizes == SMALL[0] else 2.0}.get(way, 1.4)
    times = in_turns(
        benchmark, "small", 20, against=["textbook"], calls=40 if batch * queries < 200 else 10,
        batch=batch, queries=queries, length=length, width=width,
        lengths=way != "no lengths", backward="backward" in way,
    )  # fmt: skip
    target = f"{way}: at most {at_most} × the textbook with its mask"
    tell(
        SMALL_SIZES,
        target=target,
        part="×".join(sizes),
        at_most=at_most,
        **slower(times, "textbook"),
    )


def test_decoder_step(benchmark: Any, tell: Tell) -> None:
    times = in_turns(
        benchmark, "decoder_step", 20, against=["textbook"], calls=10, length=30, backward=True
    )
    target = "at most 1.4 × the textbook's, forward and backward"
    work = "a decoder's step, additive, 128 × 1 × 30 × 64"
    tell(work, target=target, at_most=1.4, **slower(times, "textbook"))


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward and backward"])
@pytest.mark.parametrize("length", [2048, 8192])
def test_causal(benchmark: Any, tell: Tell, length: int, backward: bool) -> None:
    at_most = 1.15 if backward else {2048: 1.0, 8192: 0.85}[length]
    part = f"{length} × 64, " + ("forward and backward" if backward else "forward")
    rounds = 30 if length == 2048 else 7
    peer = "SDPA is_causal"
    times = in_turns(benchmark, "masked", rounds, against=[peer], length=length, backward=backward)
    target = f"at most {at_most} × the time of SDPA with `is_causal`"
    tell(CAUSAL, target=target, part=part, at_most=at_most, **slower(times, peer))


def test_causal_against_full_attention(benchmark: Any, tell: Tell) -> None:
    times = in_turns(benchmark, "masked", 7, against=["full attention"], length=8192)
    target = "8192 × 64: at most 0.65 × the time of full attention"
    tell(CAUSAL, target=target, at_most=0.65, **slower(times, "full attention"))


def test_few_queries_on_many_keys(benchmark: Any, tell: Tell) -> None:
    peer = "SDPA with booleans"
    times = in_turns(benchmark, "masked", 30, against=[peer], length=32_768, queries=64)
    target = "64 queries on 32 768 keys: at most 1.1 × the time of SDPA with the boolean mask"
    tell(CAUSAL, target=target, at_most=1.1, **slower(times, peer))


def test_causal_memory(benchmark: Any, tell: Tell) -> None:
    run = in_fresh_processes(benchmark, fresh, "masked", length=32_768)
    tell_memory(tell, CAUSAL, "32 768 × 64: extra memory under 32 MB", 32e6, run)


@pytest.mark.parametrize("score", ["ALiBi", "a user's own"])
def test_memory_of_other_scores(benchmark: Any, tell: Tell, score: str) -> None:
    run = in_fresh_processes(benchmark, fresh, "masked", score=score, length=16_384, backward=True)
    target = "16 384 × 64, forward and backward: extra memory under 150 MB"
    work = {"ALiBi": "`Biased` (ALiBi), causal"}.get(score, "a user's own `Score`, causal")
    tell_memory(tell, work, target, 150e6, run)


def test_documents(benchmark: Any, tell: Tell) -> None:
    peer = "full attention"
    times = in_turns(benchmark, "masked", 9, against=[peer], mask="documents", length=8192)
    work = "`Mask.documents`, eight of 1024"
    target = "at most 1/6 of the time of full attention over 8192"
    tell(work, target=target, at_most=1 / 6, **slower(times, peer))


def test_window(benchmark: Any, tell: Tell) -> None:
    quarter = "a quarter of the keys"
    times = in_turns(
        benchmark, "masked", 5, against=[quarter, "causal"], mask="window", length=32_768
    )
    work = "`Mask.window(255)`"
    target = "growth of time from 8192 to 32 768 keys: exponent at most 1.2"
    tell(work, target=target, at_most=1.2, **growing(times, quarter, 4))
    target = "at least 20 × faster than causal at 32 768"
    tell(work, target=target, at_least=20, **faster(times, "causal"))


def test_additive_under_a_window(benchmark: Any, tell: Tell) -> None:
    quarter = "a quarter of the keys"
    times = in_turns(
        benchmark, "masked", 5, against=[quarter], mask="window", score="additive", length=16_384
    )
    work = "additive attention under `Mask.window(255)`"
    target = "growth of time from 4096 to 16 384 keys: exponent at most 1.2"
    tell(work, target=target, at_most=1.2, **growing(times, quarter, 4))


def test_dot_product_forward_and_backward(benchmark: Any, tell: Tell) -> None:
    times = in_turns(benchmark, "dot_product", 30, against=["SDPA"], length=1024, backward=True)
    target = "forward and backward: at most 1.15 × the time of SDPA"
    tell(DOT_PRODUCT, target=target, at_most=1.15, **slower(times, "SDPA"))


@pytest.mark.parametrize("batch", [4, 32])
@pytest.mark.parametrize("way", ["without weights", "with weights", "forward and backward"])
def test_additive_against_the_compiled_broadcast(
    benchmark: Any, tell: Tell, batch: int, way: str
) -> None:
    length, peer = {4: 512, 32: 64}[batch], "compiled broadcast"
    targets = {"without weights": (0.25, 0.3), "with weights": (0.3, 0.35)}
    at_most = targets.get(way, (0.35, 0.4))[batch == 32]
    missing = peers.why_no_compiler()
    times = in_turns(
        benchmark, "additive", 7, against=[] if missing else [peer], batch=batch, length=length,
        weights=way == "with weights", backward="backward" in way,
    )  # fmt: skip
    found = {"note": missing, "unit": "×"} if missing else slower(times, peer)
    target = f"{way}: at most {at_most} × the time of `torch.compile` of the broadcast"
    part = f"{batch} × {length} × 64"
    tell("`AdditiveAttention`", target=target, part=part, at_most=at_most, **found)


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


@pytest.mark.parametrize("method", ["dot product", "additive", "gaussian", "compact"])
def test_growth(benchmark: Any, tell: Tell, method: str) -> None:
    grown = in_fresh_processes(benchmark, growth, **GROWTH[method])
    benchmark.extra_info["growth"] = {
        "method": method,
        "lengths": grown.lengths[: len(grown.seconds)],
        "seconds": grown.seconds,
        "extra_bytes": grown.extra_bytes,
    }
    work, part = "growth of time with length", {"part": method}
    tell_growth(tell, work, "exponent at most 2.1", "time", grown, **part)
    tell_growth(tell, work, "of memory at most 1.1", "memory", grown, **part)


WINDOWS = "compact kernels, n = m = 1 000 000, windows of 1 % of the points"
CANDIDATES = "`select_bandwidth`, Gaussian, 30 candidates"
SPACE = "Gaussian, n = m = 20 000, h = 0.05 in the unit cube"
PLANE = "`select_bandwidth`, 2 features, n = 400"
LINES = "`LocalLinear`, Gaussian, n = m = 100 000 on a line"


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
