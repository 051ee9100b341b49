"""The meters against what is known to take so long, or so much."""

import time

import pytest
import torch

from d2lattn.measure import milliseconds, peak_bytes


class Clock:
    """Time passes only where a run says so."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.costs = [100.0, 3.0, 1.0, 20.0]  # the first warms up
        self.calls = 0

    def run(self) -> None:
        self.seconds += self.costs[self.calls]
        self.calls += 1

    def __call__(self) -> float:
        return self.seconds


def test_the_time_is_the_median_of_the_calls_after_the_first():
    clock = Clock()
    assert milliseconds(clock.run, repeats=3, clock=clock) == pytest.approx(3000.0)
    assert clock.calls == 4


def test_an_even_number_of_calls_has_its_median_between_the_two_in_the_middle():
    clock = Clock()
    assert milliseconds(clock.run, repeats=2, clock=clock) == pytest.approx(2000.0)


def test_time_passes_also_while_nothing_is_computed_but_on_the_clock_of_the_process():
    asleep = milliseconds(lambda: time.sleep(0.05), repeats=1)
    assert asleep >= 50
    assert milliseconds(lambda: time.sleep(0.05), repeats=1, clock=time.process_time) < 25


def test_nothing_to_time_is_refused():
    with pytest.raises(ValueError, match="repeats must be at least 1; got 0"):
        milliseconds(lambda: None, repeats=0)


def make(*megabytes: int) -> None:
    """Tensors one after the other, each gone before the next."""
    for size in megabytes:
        torch.empty(size * 10**6, dtype=torch.uint8)


def test_the_peak_is_of_what_is_held_at_once_not_of_all_that_was_made():
    assert peak_bytes(lambda: make(3, 5, 2)) == 5_000_000
    assert (
        peak_bytes(lambda: [torch.empty(10**6, dtype=torch.uint8) for _ in range(3)]) == 3 * 10**6
    )


def test_what_was_held_before_does_not_count():
    before = torch.zeros(10**6)
    assert peak_bytes(before.neg_) == 0
    assert peak_bytes(lambda: None) == 0


def test_a_backward_pass_counts_with_what_its_forward_pass_kept():
    x = torch.ones(10**5, dtype=torch.float32, requires_grad=True)
    peak = peak_bytes(lambda: x.exp().sum().backward())
    assert 2 * 4e5 <= peak <= 4 * 4e5  # exp's result and the gradient, and a product at most
