"""Attention, each work with its targets. `make bench ARGS="-k additive"` runs some."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import peers
from benchmarks.measure import Estimate, fresh, in_turns
from benchmarks.report import quantity
from benchmarks.telling import Tell, faster, growing, in_fresh_processes, slower, tell_memory

DOT_PRODUCT = "`DotProductAttention(need_weights=False)`, batch 8 × 1024 × 64, no mask / lengths"
SMALL_SIZES = "`DotProductAttention`, batch × queries × keys × width"
SMALL = [("1", "1", "128", "64"), ("128", "1", "30", "64"), ("8", "16", "16", "32"),
         ("32", "64", "64", "64")]  # fmt: skip
CAUSAL = "`Mask.causal()`, dot product"


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
