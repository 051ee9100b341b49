"""Windows on a line, against all pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2lattn.neighbours import cover, distance_to_nearest

coordinates = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30).map(
    lambda numbers: torch.tensor(sorted(numbers), dtype=torch.float64)
)


@settings(deadline=None)
@given(
    queries=coordinates,
    keys=coordinates,
    reach=st.floats(0.01, 3),
    span=st.floats(0.0, 2),
    rows=st.integers(1, 8),
)
def test_every_query_is_in_one_window_with_all_keys_that_it_reaches(
    queries, keys, reach, span, rows
):
    windows = list(cover(queries, keys, torch.full_like(queries, reach), span, rows))
    assert [i for window in windows for i in range(window.rows.start, window.rows.stop)] == list(
        range(len(queries))
    )
    for window in windows:
        q, k = queries[window.rows], keys[window.columns]
        outside = torch.ones(len(keys), dtype=torch.bool)
        outside[window.columns] = False
        assert ((q[:, None] - keys[outside]).abs() > reach).all()
        # and not many others: nobody further than the window is wide
        assert len(q) <= rows or float(q[-1] - q[0]) <= span
        assert ((k >= q[0] - reach) & (k <= q[-1] + reach)).all()


@given(queries=coordinates, keys=coordinates)
def test_the_distance_to_the_nearest_key_is_the_least_of_all(queries, keys):
    expected = (queries[:, None] - keys).abs().amin(dim=1)
    assert torch.equal(distance_to_nearest(queries, keys), expected)


@given(keys=coordinates)
def test_leaving_out_the_own_key_the_distance_is_that_to_a_neighbour(keys):
    distances = (keys[:, None] - keys).abs().fill_diagonal_(math.inf)
    found = distance_to_nearest(keys, keys, leave_out=True)
    assert torch.equal(found, distances.amin(dim=1))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_few_windows_when_many_queries_lie_together(rows):
    queries = torch.linspace(0, 1, 200, dtype=torch.float64)
    windows = list(cover(queries, queries, torch.full_like(queries, 0.1), 0.05, rows))
    assert len(windows) <= math.ceil(200 / rows)
    assert len(windows) <= math.ceil(1 / 0.05) + 1
