"""The measuring itself: peers that compute the same, exponents and memory that are known."""

from __future__ import annotations

import json
import math
import platform
import sys
from typing import Any

import pytest
import torch

from benchmarks import measure, peers, telling, works
from benchmarks.measure import ROOT, Estimate, Fresh, Growth, exponent, ratio
from benchmarks.report import Line, as_markdown, as_text, draw, lines_of, quantity
from tests.helpers import close

SMALL: dict[str, dict[str, Any]] = {
    "dot_product": {"batch": 2, "length": 12, "width": 4},
    "small": {"batch": 3, "queries": 2, "length": 5, "width": 4, "lengths": True, "calls": 2},
    "masked": {"length": 24, "width": 4},
    "additive": {"batch": 2, "length": 12, "hidden": 4},
    "gaussian": {"length": 40},
}


@pytest.mark.parametrize("work", SMALL)
def test_every_peer_computes_what_the_package_computes(work: str) -> None:
    contestants = works.WORKS[work](**SMALL[work])
    expected = contestants.pop(works.OURS)()
    compared = set()
    for name, run in contestants.items():
        if name in ("KeOps", "compiled broadcast"):  # which need not be there, or a compiler
            continue
        if (found := run()) is not None:  # a floor computes nothing
            close(found, expected.detach(), 1e-5)
            compared.add(name)
    assert compared


@pytest.mark.parametrize("mask", ["window", "documents", "causal"])
@pytest.mark.parametrize("queries", [None, 7])
def test_sdpa_gets_every_mask_as_booleans(mask: str, queries: int | None) -> None:
    if mask == "documents" and queries:
        pytest.skip("its numbers are those of all keys")
    contestants = works.masked(mask, length=400, queries=queries, width=4)
    close(contestants["SDPA with booleans"](), contestants[works.OURS](), 1e-5)


@pytest.mark.parametrize("score", ["dot product", "additive", "ALiBi", "a user's own"])
def test_a_masked_work_gives_the_gradients_of_inputs_and_parameters(score: str) -> None:
    contestants = works.masked(score=score, length=300, width=4, backward=True)
    ours = contestants[works.OURS]()
    assert len(ours) == 3 + {"additive": 3, "a user's own": 1}.get(score, 0)
    assert all(gradient.any() for gradient in ours)
    assert contestants["full attention"]() is None  # another work: nothing to compare


def test_the_exponent_of_two_lengths_is_found_turn_by_turn() -> None:
    times = {works.OURS: [16.0, 4.0, 80.0], "shorter": [1.0, 1.0, 10.0]}
    found = telling.growing(times, "shorter", 4)["measured"]
    assert (found.value, found.low, found.high, found.runs) == pytest.approx((1.5, 1, 2, 3))


def test_without_a_compiler_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Any) -> Any:
        raise RuntimeError("no g++\nin a hundred lines")

    monkeypatch.setattr(peers.torch, "compile", fail)
    expected = "skipped: torch.compile does not compile here (RuntimeError: no g++)"
    assert peers.why_no_compiler() == expected


def test_with_lengths_sdpa_gets_them_as_a_mask() -> None:
    contestants = works.dot_product(batch=3, length=12, width=4, lengths=True)
    close(contestants["SDPA"](), contestants[works.OURS]())
    assert not torch.allclose(contestants["SDPA"](), contestants["textbook"]())


def test_the_textbook_has_the_same_gradients() -> None:
    contestants = works.additive(batch=2, length=6, hidden=4, backward=True)
    ours, textbook = contestants[works.OURS](), contestants["textbook"]()
    for mine, theirs in zip(ours, textbook, strict=True):
        close(mine, theirs, 1e-5)


def test_statsmodels_chooses_the_same_bandwidth() -> None:
    contestants = works.bandwidth(length=30)
    ours, theirs = contestants[works.OURS](), contestants["statsmodels"]()
    assert ours == pytest.approx(theirs, rel=0.05)  # both search, neither exhaustively


def test_a_floor_computes_as_many_elements_as_it_says() -> None:
    seen: list[int] = []

    def count(piece: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen.append(piece.numel())
        return out

    peers.floor(count, 3 * peers.PIECE)()
    assert seen == [peers.PIECE] * 3


def test_without_keops_the_table_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert "pip install -e '.[keops]'" in peers.why_no_keops()


@pytest.mark.parametrize("power", [0.0, 1.0, 2.1])
def test_the_exponent_of_a_power_is_found(power: float) -> None:
    lengths = [1000, 2000, 4000, 9000]
    assert exponent(lengths, [7.0 * n**power for n in lengths]) == pytest.approx(power)


def test_three_lengths_are_too_few_for_an_exponent() -> None:
    with pytest.raises(ValueError, match=r"lengths must be at least 4 .* got 3"):
        exponent([1, 2, 3], [1.0, 2.0, 3.0])


def test_runs_in_turns_are_compared_one_by_one() -> None:
    estimate = ratio([1.0, 20.0, 4.0], [1.0, 10.0, 2.0])  # a busy machine in the second turn
    assert estimate == Estimate(2.0, 1.0, 2.0, 3)
    assert ratio([30.0], [1.0, 2.0, 3.0]) == Estimate(15.0, 10.0, 30.0, 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere peaks never fall")
def test_the_peak_of_a_known_allocation_is_measured_within_a_fifth() -> None:
    code = (
        "from benchmarks.fresh import peak_bytes\n"
        "before = bytearray(200_000_000)\ndel before\n"  # an earlier peak must not hide it
        "print(peak_bytes(lambda: len(bytearray(b'1') * 50_000_000)))"
    )
    done = measure.subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == pytest.approx(50e6, rel=0.2)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps its own way")
def test_what_is_freed_does_not_count_as_held() -> None:
    code = (
        "from benchmarks.fresh import keep_nothing_freed, peak_bytes\n"
        "{}\n"
        "def run():\n"
        "    pins, blocks = [], []\n"
        "    for _ in range(50):\n"
        "        blocks.append(b'1' * 1_000_000)\n"
        "        pins.append(b'1' * 50_000)\n"  # so that the heap does not shrink
        "    del blocks\n"
        "    len(b'1' * 40_000_000)\n"
        "b'1' * 1_000_000\n"  # once freed, pieces of this size come from the heap
        "print(peak_bytes(run))"
    )
    kept, given_back = (
        measure.subprocess.run(
            [sys.executable, "-c", code.format(first)],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )
        for first in ("", "keep_nothing_freed()")
    )  # fmt: skip
    assert int(given_back.stdout) == pytest.approx(52.5e6, rel=0.05)
    assert int(kept.stdout) > 80e6


def test_a_work_that_takes_too_long_is_told_and_not_met() -> None:
    run = measure.fresh("compact", length=10_000, limit=0.01)
    assert run == Fresh(failure="stopped after 0 s")
    grown = Growth((1, 2, 3, 4), (Fresh((0.1,), 10), run))
    assert grown.failure == "stopped after 0 s at length 2"
    told: list[Line] = []
    telling.tell_growth(
        lambda work, **line: told.append(Line(work, **line)), "w", "t", "memory", grown
    )
    assert (told[0].result, told[0].met, told[0].note) == ("–", "not met", grown.failure)


@pytest.mark.parametrize(
    ("line", "met"),
    [
        (Line("w", measured=Estimate(1.1, 1, 2, 3), at_most=1.1), "met"),
        (Line("w", measured=Estimate(1.2, 1, 2, 3), at_most=1.1), "not met"),
        (Line("w", measured=Estimate(4.0, 4, 4, 1), at_least=4), "met"),
        (Line("w", measured=Estimate(3.9, 4, 4, 1), at_least=4), "not met"),
        (Line("w", measured=Estimate(3.9, 4, 4, 1)), "–"),
        (Line("w", at_least=8, note="skipped: no compiler"), "not measured"),
    ],
)
def test_a_target_is_met_from_the_right_side(line: Line, met: str) -> None:
    assert line.met == met


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (133e6, "B", "133 MB"),
        (1.1, "×", "1.10 ×"),
        (2.04, "", "2.04"),
        (0.0055, "×", "0.0055 ×"),
        (0, "B", "0 B"),
    ],
)
def test_quantities_have_three_digits(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_what_was_saved_becomes_a_table_and_a_plot(tmp_path: Any) -> None:
    from dataclasses import asdict

    fast = Line("a work", "at most 2 × a peer", "lengths", Estimate(1.5, 1.4, 1.6, 5), "×", 2.0)
    slow = Line("a work", "under 3 s", measured=Estimate(4.0, 4.0, 4.0, 1), unit="s", at_most=3)
    grown = {"method": "m", "lengths": [1, 2], "seconds": [0.1, 0.4], "extra_bytes": [8, 16]}
    saved = json.loads(
        json.dumps(
            {
                "benchmarks": [
                    {"extra_info": {"lines": [asdict(fast), asdict(slow)], "growth": grown}}
                ]
            }
        )
    )
    assert lines_of(saved) == [fast, slow]
    assert as_markdown(lines_of(saved)).splitlines()[2:] == [
        "| a work | at most 2 × a peer: lengths | 1.50 × (1.40 × to 1.60 ×, 5 runs) | met |  |",
        "|  | under 3 s | 4.00 s | not met |  |",
    ]
    assert "\na work\n  at most 2 × a peer: lengths  1.50 ×" in as_text([fast, slow])
    draw([fast, slow], saved, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<svg") == 1


def test_every_target_of_the_growth_rows_has_enough_lengths() -> None:
    for options in measure.GROWTH.values():
        lengths = options["lengths"]
        assert len(lengths) >= 4
        assert math.isclose(lengths[-1] / lengths[0], 8)  # far enough apart for a slope
