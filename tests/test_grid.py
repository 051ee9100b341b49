"""Gaussian sums by way of a grid, against all pairs in float64."""

import pytest
import torch

from d2lattn import NadarayaWatson
from d2lattn.grid import moments_on_a_grid
from d2lattn.measure import peak_bytes
from d2lattn.moments import Moments, average
from tests.helpers import normal
from tests.test_boxes import sums_of_all_pairs


def cube(n: int, features: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, features, generator=generator, dtype=torch.float64)


def good(moments: Moments, features: int) -> torch.Tensor:
    return average(moments, 0, torch.ones(features).double())[1]


@pytest.mark.parametrize(("single", "digits"), [(True, 4e-6), (False, 1e-10)])
@pytest.mark.parametrize("h", [0.15, 10.0])
@pytest.mark.parametrize("features", [2, 3])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_sums_on_a_grid_are_those_of_all_pairs_relative_to_themselves(
    features, h, single, digits, shift
):
    keys, queries = cube(1500, features) + shift, 1.5 * cube(500, features, seed=1) + shift
    values = torch.stack([normal(1500, seed=2).abs(), normal(1500, seed=3)], dim=1)
    bandwidth = h * torch.linspace(1, 1.5, features).double()
    found = moments_on_a_grid(queries, keys, values, bandwidth, single=single)
    assert found is not None
    power = (0,) * features
    expected = sums_of_all_pairs(queries, keys, values, bandwidth, [power])[power]
    scale = sums_of_all_pairs(queries, keys, values.abs(), bandwidth, [power])[power]
    error = ((found.sums[power] - expected) / scale).abs()
    enough = good(found, features)
    assert enough.double().mean() > 0.8
    assert error[enough].max() < digits


@pytest.mark.parametrize("single", [True, False])
def test_queries_are_told_apart_whose_sums_have_lost_what_is_far(single):
    keys, bandwidth = cube(1000), torch.full((3,), 0.2).double()
    values = torch.ones(1000, 1).double()
    away = torch.linspace(1, 9, 500).double()
    queries = torch.stack([away, 0 * away, 0 * away], dim=1)
    queries[-1] = 1e300
    found = moments_on_a_grid(queries, keys, values, bandwidth, single=single)
    assert found is not None
    expected = sums_of_all_pairs(queries, keys, values, bandwidth, [(0, 0, 0)])[(0, 0, 0)]
    enough = good(found, 3)
    error = found.sums[(0, 0, 0)][enough] / expected[enough] - 1
    assert error.abs().max() < (4e-6 if single else 1e-10)
    assert enough[away < 1.2].all()
    assert not enough[away > 3].any()


@pytest.mark.parametrize("single", [True, False])
def test_own_kernels_can_be_taken_out_where_sums_are_good(single):
    points, bandwidth = cube(1500), torch.full((3,), 0.15).double()
    points[0] = 2.0  # nobody near
    ones = torch.ones(1500, 1).double()
    found = moments_on_a_grid(points, points, ones, bandwidth, single=single)
    assert found is not None
    power = (0, 0, 0)
    others = sums_of_all_pairs(points, points, ones, bandwidth, [power])[power] - 1
    found.sums[power].sub_(ones)
    enough = good(found, 3)
    assert enough[1:].double().mean() > 0.9
    assert not enough[0]
    error = found.sums[power][enough] / others[enough] - 1
    assert error.abs().max() < (4e-6 if single else 1e-10)


def test_there_is_no_grid_where_most_of_it_would_be_empty():
    points, ones = normal(1000, 3), torch.ones(1000, 1).double()
    for h in (0.1, 1e-6, 1e-320):  # few points in most boxes; no room for the nodes
        bandwidth = torch.full((3,), h).double()
        assert moments_on_a_grid(points, points, ones, bandwidth, single=True) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_in_space_are_those_of_a_softmax(dtype):
    x, queries = (torch.rand(4000, 3, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    x, queries = x.to(dtype), queries.to(dtype)
    y = (9 * x).sin().sum(dim=-1)
    queries[:3] = torch.tensor([[-0.5, 0.5, 0.5], [9.0, 9.0, 9.0], [1.5, 1.2, 0.0]])
    bandwidth = torch.full((3,), 0.15).double()
    assert moments_on_a_grid(  # so that it is what serves them
        queries.double(), x.double(), y.double().unsqueeze(1), bandwidth, single=True
    )
    model = NadarayaWatson(0.15).fit(x, y)
    scores = -0.5 * ((queries[:500, None].double() - x.double()) / 0.15).square().sum(dim=-1)
    expected = scores.softmax(dim=-1) @ y.double()
    residuals = -0.5 * ((x[:500, None].double() - x.double()) / 0.15).square().sum(dim=-1)
    residuals[torch.arange(500), torch.arange(500)] = -torch.inf
    others = y[:500].double() - residuals.softmax(dim=-1) @ y.double()
    tolerance = {torch.float32: 4e-6, torch.float64: 1e-9}[dtype]
    for found, exact in (
        (model.predict(queries)[:500], expected),
        (model.loo_residuals()[:500], others),
    ):
        error = (found.double() - exact).abs() / exact.abs().clamp(min=1)
        assert error.max() < tolerance


def test_a_grid_takes_no_room_for_pairs():
    x = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    model = NadarayaWatson(0.3).fit(x, x.sum(dim=-1))
    assert peak_bytes(lambda: model.predict(x)) < 4000 * len(x)  # all pairs: 16 000 of each
