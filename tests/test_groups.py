"""Points in boxes as padded matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2lattn.groups
from d2lattn.groups import groups_of


@settings(deadline=None)
@given(
    boxes=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    most=st.sampled_from([None, 1, 2, 7]),
)
def test_every_point_is_in_one_group_with_its_box(boxes, most):
    box = torch.tensor(boxes)
    seen = []
    for which, points, there in groups_of(box, most=most):
        assert most is None or points.shape[1] <= most
        assert 2 * int(there.sum()) > there.numel()  # about equal: little padding
        for number, row in zip(
            which, [p[t] for p, t in zip(points, there, strict=True)], strict=True
        ):
            assert (box[row] == number).all()
            seen += row.tolist()
    assert sorted(seen) == list(range(len(boxes)))


def test_groups_are_small(monkeypatch):
    monkeypatch.setattr(d2lattn.groups, "_POINTS_OF_A_GROUP", 10)
    groups = list(groups_of(torch.arange(100) // 5))
    assert all(group.points.numel() <= 10 for group in groups)


@pytest.mark.parametrize("most", [None, 3])
def test_points_of_a_box_keep_their_order(most):
    box = torch.tensor([1, 0, 1, 0, 1, 1])
    points = [points[there].tolist() for _, points, there in groups_of(box, most=most)]
    assert [rows for some in points for rows in some] == (
        [1, 3, 0, 2, 4, 5] if most is None else [5, 1, 3, 0, 2, 4]
    )
