"""One function on every way: sums of kernels, and the plain formula where they lose digits."""

import pytest
import torch
from torch import Tensor

import d2lattn.plainly
import d2lattn.smoothing
from d2lattn import NadarayaWatson
from d2lattn.smoother import Smoother
from d2lattn.smoothing import smooth
from tests.helpers import close, normal

KERNELS = ["gaussian", "boxcar", "triangular", "epanechnikov"]


def places(kind: str, features: int) -> Tensor:
    """150 points, evenly, in two tight crowds far apart, or with a few very far out."""
    points = normal(150, features)
    if kind == "crowds":
        return points * 0.01 + 1e4 * (torch.arange(150) % 2).unsqueeze(-1)
    return points / normal(150, features, seed=1) if kind == "outliers" else points


@pytest.mark.parametrize("kind", ["even", "crowds", "outliers"])
@pytest.mark.parametrize("features", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("degree", [0, 1])
def test_sums_and_the_plain_formula_agree_wherever_points_lie(
    kind, features, kernel, degree, monkeypatch
):
    keys = places(kind, features)
    values = torch.stack([keys.sum(dim=-1).sin(), normal(150, seed=2)], dim=1)
    queries = torch.cat([keys[:60] + 0.003, 3 * keys[:20]])
    for h in (0.02, 0.6, 30.0):
        bandwidth = torch.full((features,), h, dtype=torch.float64)
        smoother = Smoother(kernel, degree, bandwidth, keys, values)
        found = []
        for pairs in (10**9, 0):
            for module in (d2lattn.smoothing, d2lattn.plainly):
                monkeypatch.setattr(module, "_PAIRS_AT_ONCE", pairs)
            at, reached = smooth(smoother, queries)
            others, _ = smooth(smoother, keys, leave_out=True)
            found.append((at, others, reached))
        # A line through few points multiplies rounding errors, hence not to the last digits.
        for plain, fast in zip(*found, strict=True):
            close(fast.double(), plain.double(), 1e-9 if degree == 0 else 1e-6)


@pytest.mark.parametrize("weight", [1.0, 1e4, 1e-4])
@pytest.mark.parametrize("far", [0.0, 50.0, 400.0])
def test_leaving_out_keeps_the_digits_whatever_all_weigh_and_however_far_some_are(weight, far):
    x = normal(600, 4)
    x[:300, 0] += far
    y = x[:, 1:].sum(dim=1)
    model = NadarayaWatson(0.25).fit(x, y, torch.full((600,), weight).double())
    ways = (x.unsqueeze(0) - x.unsqueeze(1)) / 0.25
    scores = (-0.5 * ways.square().sum(dim=-1)).fill_diagonal_(-torch.inf)
    close(model.loo_residuals(), y - scores.softmax(dim=-1) @ y, 1e-9)


def test_ticks_add_up_to_all_of_the_work(monkeypatch):
    for module in (d2lattn.smoothing, d2lattn.plainly):
        monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 0)
    keys = places("crowds", 1)
    smoother = Smoother("gaussian", 0, torch.ones(1).double(), keys, keys)
    ticks: list[float] = []
    smooth(smoother, torch.cat([keys, 1e6 + keys]), tick=ticks.append)
    assert sum(ticks) == pytest.approx(1)


def test_no_queries_give_no_predictions():
    keys = normal(9, 2)
    for kernel in KERNELS:
        smoother = Smoother(kernel, 1, torch.ones(2).double(), keys, keys)
        output, reached = smooth(smoother, keys[:0])
        assert output.shape == (0, 2)
        assert reached.shape == (0,)
