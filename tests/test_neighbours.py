"""Who is near whom, against all pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2lattn.neighbours import distance_to_nearest, moments_nearby, near_pairs, runs
from tests.helpers import close, normal
from tests.test_boxes import sums_of_all_pairs

coordinates = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30).map(
    lambda numbers: torch.tensor(sorted(numbers), dtype=torch.float64)
)


@given(queries=coordinates, keys=coordinates)
def test_the_distance_to_the_nearest_key_is_the_least_of_all(queries, keys):
    expected = (queries[:, None] - keys).abs().amin(dim=1)
    assert torch.equal(distance_to_nearest(queries, keys), expected)


@given(keys=coordinates)
def test_leaving_out_the_own_key_the_distance_is_that_to_a_neighbour(keys):
    distances = (keys[:, None] - keys).abs().fill_diagonal_(math.inf)
    found = distance_to_nearest(keys, keys, leave_out=True)
    assert torch.equal(found, distances.amin(dim=1))


def test_runs_follow_each_other():
    first, last = torch.tensor([[3, 7], [2, 9]]), torch.tensor([[5, 7], [1, 12]])
    assert runs(first, last).tolist() == [3, 4, 9, 10, 11]


@settings(deadline=None)
@given(
    features=st.integers(1, 3),
    width=st.floats(0.01, 5),
    reach=st.integers(1, 3),
    span=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_every_query_comes_once_with_all_keys_that_are_near(features, width, reach, span, seed):
    queries, keys = 2 * normal(30, features, seed=seed), normal(20, features, seed=seed + 1)
    wide = torch.full((features,), width, dtype=torch.float64)
    seen = []
    for some, near in near_pairs(queries, keys, wide, reach, span):
        seen += some.tolist()
        outside = torch.ones(len(keys), dtype=torch.bool)
        outside[near] = False
        ways = (queries[some, None] - keys[outside]).abs()
        assert (ways.amax(dim=-1) > (reach - 1e-9) * width).all()
        assert len(set(near.tolist())) == len(near)
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize("h", [0.01, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("features", [2, 3])
@pytest.mark.parametrize("single", [False, True])
def test_sums_over_near_pairs_are_those_over_all(h, features, single):
    queries, keys, values = (
        normal(300, features),
        normal(200, features, seed=1),
        normal(200, 2).abs(),
    )
    bandwidth = torch.full((features,), h, dtype=torch.float64)
    powers = [(0,) * features, (0,) * (features - 1) + (2,), (1,) * features]
    found = moments_nearby(queries, keys, values, bandwidth, powers, single=single)
    for power, expected in sums_of_all_pairs(queries, keys, values, bandwidth, powers).items():
        # A kernel errs by 1e-6 of itself in single precision, a power with the way to the power.
        close(found.sums[power], expected, 1e-4 if single else 1e-10)
