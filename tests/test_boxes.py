"""Expansions of Gaussian kernels in boxes, against all pairs."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from d2lattn.boxes import Expansions, moments_in_boxes
from d2lattn.moments import Powers, powers_of
from tests.helpers import close, normal


def sums_of_all_pairs(
    queries: Tensor, keys: Tensor, values: Tensor, bandwidth: Tensor, powers: Sequence[Powers]
) -> dict[Powers, Tensor]:
    ways = (keys - queries.unsqueeze(1)) / bandwidth
    kernels = torch.exp(-0.5 * ways.square().sum(dim=-1))
    return {
        power: (kernels * (ways ** ways.new_tensor(power)).prod(dim=-1)) @ values
        for power in powers
    }


def crowd(features: int) -> Tensor:
    """Most points together, some scattered far and wide."""
    points = normal(300, features)
    points[::10] *= 50
    return points


@pytest.mark.parametrize("h", [0.003, 0.05, 0.6, 2.0, 1000.0])
@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_sums_by_boxes_are_those_of_all_pairs(h, features, shift):
    queries, keys = normal(200, features, seed=1), normal(300, features)
    queries, keys = ((x * 2**20).round() / 2**20 + shift for x in (queries, keys))
    values = torch.stack([torch.ones(300).double(), normal(300, seed=2)], dim=1)
    bandwidth = torch.full((features,), h, dtype=torch.float64)
    found = moments_in_boxes(queries, keys, values, bandwidth, powers_of(features, 1))
    if features == 2 and h < 0.1:
        assert found is None  # more boxes than points
        return
    assert found is not None
    expected = sums_of_all_pairs(queries, keys, values, bandwidth, powers_of(features, 1))
    for power, total in expected.items():
        # A kernel errs by 2e-14, a sum by that of everybody near.
        error = (found.sums[power] - total).abs() / found.near.unsqueeze(-1).clamp(min=1)
        scale = 1.0 if h < 100 else h ** -sum(power)  # ways are then all tiny
        assert error.max() < 1e-12 * scale
    kernels = sums_of_all_pairs(queries, keys, values.abs(), bandwidth, [(0,) * features])
    assert (found.near >= kernels[(0,) * features][:, 0] * (1 - 1e-9) - 1e-14).all()


def test_points_scattered_far_and_wide_need_no_more_boxes_than_points():
    points, ones = crowd(1), torch.ones(300, 1).double()
    points[0] = 1e9
    bandwidth = torch.tensor([0.02], dtype=torch.float64)
    found = moments_in_boxes(points, points, ones, bandwidth, [(0,)])
    assert found is not None
    expected = sums_of_all_pairs(points, points, ones, bandwidth, [(0,)])
    close(found.sums[(0,)], expected[(0,)], 1e-8)  # 1e9 / 0.02 bandwidths cost digits of the place


@pytest.mark.parametrize("features", [1, 2])
def test_sums_with_one_bandwidth_after_the_other_are_those_of_each(features):
    points = crowd(features)
    values = torch.stack([torch.ones(300).double(), normal(300, seed=2)], dim=1)
    kept: Expansions = {}
    for h in (0.6, 0.9, 0.55, 300.0, 500.0, 1e6, 0.02, 0.03, 0.6):
        bandwidth = torch.full((features,), h, dtype=torch.float64)
        powers = powers_of(features, 1)
        found = moments_in_boxes(points, points, values, bandwidth, powers, kept)
        if found is None:
            assert features == 2
            continue
        assert len(kept) == 1  # so that memory does not grow with the number of bandwidths
        expected = sums_of_all_pairs(points, points, values, bandwidth, powers)
        for power, total in expected.items():
            error = (found.sums[power] - total).abs() / found.near.unsqueeze(-1).clamp(min=1)
            assert error.max() < 1e-12


def test_bandwidths_within_a_factor_of_two_have_one_expansion_of_the_keys():
    points, ones = normal(300, 1), torch.ones(300, 1).double()
    kept: Expansions = {}
    held: list[object] = []
    for h in (0.3, 0.45, 0.6):
        bandwidth = torch.tensor([h], dtype=torch.float64)
        moments_in_boxes(points, points, ones, bandwidth, [(0,)], kept)
        held += kept.values()
    assert held[0] is held[1]
    assert held[0] is not held[2]
    moments_in_boxes(points + 0.1, points, ones, torch.ones(1).double(), [(0,)], kept)
    assert next(iter(kept.values())) is held[2]  # other queries have expansions of their own


def test_there_are_no_boxes_in_space():
    points = normal(10, 3)
    assert moments_in_boxes(points, points, points, torch.ones(3).double(), [(0, 0, 0)]) is None
