"""Compact kernels by running sums in cells, against all pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2lattn.cells import moments_in_cells, window
from tests.helpers import normal

KERNELS = ["boxcar", "triangular", "epanechnikov"]

# Whole and simple numbers, so that points lie at exactly one bandwidth.
simple = st.integers(-40, 40).map(lambda number: number / 7)
places = st.lists(simple | st.floats(-6, 6), min_size=1, max_size=25)
bandwidths = st.integers(1, 30).map(lambda number: number / 7) | st.floats(1e-3, 20)


def sums_of_all_pairs(
    kernel: str, queries: Tensor, keys: Tensor, values: Tensor, h: float, power: int
) -> Tensor:
    ways = keys - queries.unsqueeze(1)
    size = (ways / h).abs()
    kernels = {"boxcar": 1 + 0 * size, "triangular": 1 - size, "epanechnikov": 1 - size**2}[kernel]
    return (kernels * (ways.abs() <= h) * (ways / h) ** power) @ values


@settings(deadline=None)
@given(queries=places, keys=places, h=bandwidths)
def test_a_window_holds_who_is_at_most_one_bandwidth_away(queries, keys, h):
    q = torch.tensor(queries, dtype=torch.float64)
    k = torch.tensor(sorted(keys), dtype=torch.float64)
    first, last = window(q, k, h)
    index = torch.arange(len(k))
    inside = (index >= first.unsqueeze(1)) & (index < last.unsqueeze(1))
    assert torch.equal(inside, (q.unsqueeze(1) - k).abs() <= h)


@settings(deadline=None)
@given(queries=places, keys=places, h=bandwidths, kernel=st.sampled_from(KERNELS))
def test_sums_by_cells_are_those_of_all_pairs(queries, keys, h, kernel):
    q = torch.tensor(queries, dtype=torch.float64)
    k = torch.tensor(sorted(keys), dtype=torch.float64)
    values = torch.stack([torch.ones_like(k), normal(len(k))], dim=1)
    found = moments_in_cells(kernel, 1, q, k, values, h)
    for power in range(3):
        expected = sums_of_all_pairs(kernel, q, k, values, h, power)
        torch.testing.assert_close(found.sums[(power,)], expected, rtol=0, atol=1e-12 * len(k))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("h", [1e-3, 0.1, 2.0])
def test_a_huge_value_disturbs_only_its_own_window(kernel, h):
    keys = torch.linspace(0, 10, 3000, dtype=torch.float64)
    values = torch.ones(3000, 1, dtype=torch.float64)
    expected = moments_in_cells(kernel, 0, keys, keys, values, h).sums[(0,)]
    values[1500] = 1e20
    found = moments_in_cells(kernel, 0, keys, keys, values, h).sums[(0,)]
    outside = (keys - keys[1500]).abs() > h
    assert torch.equal(found[outside], expected[outside])
