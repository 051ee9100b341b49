"""Leave-one-out losses of bandwidths and their gradients."""

import math

import pytest
import torch

import d2lattn.losses
import d2lattn.plainly
import d2lattn.smoothing
from d2lattn.losses import LeaveOneOut
from d2lattn.smoother import Smoother
from tests.helpers import close, normal

KERNELS = ["gaussian", "boxcar", "triangular", "epanechnikov"]


@pytest.fixture(params=["pairs held", "all pairs", "sums"])
def way(request, monkeypatch):
    if request.param != "pairs held":
        monkeypatch.setattr(d2lattn.losses, "_PAIRS_HELD", 0)
        monkeypatch.setattr(d2lattn.losses, "_NUMBERS_HELD", 0)
    if request.param == "sums":
        monkeypatch.setattr(d2lattn.smoothing, "_PAIRS_AT_ONCE", 0)
        monkeypatch.setattr(d2lattn.plainly, "_PAIRS_AT_ONCE", 0)
    return request.param


def smoother(kernel: str, degree: int, features: int, *, weighted: bool = False) -> Smoother:
    keys = normal(60, features)
    keys[0] *= 20  # one without close neighbours
    if features == 1:
        keys = keys.sort(dim=0).values
    values = torch.stack([keys.sum(dim=-1).sin(), normal(60, seed=1)], dim=1)
    weight = 1 + normal(60, seed=2).abs() if weighted else None
    return Smoother(kernel, degree, torch.ones(features).double(), keys, values, weight)


def plain_loss(data: Smoother, h: torch.Tensor) -> torch.Tensor:
    """From a matrix of all pairs; a local line by least squares."""
    ways = data.keys - data.keys.unsqueeze(1)
    scores = -0.5 * (ways / h).square().sum(dim=-1)
    if data.sample_weight is not None:
        scores = scores + data.sample_weight.log()
    scores = scores - torch.eye(len(scores)).double() * 1e300
    weights = scores.softmax(dim=-1)
    residuals = data.values - weights @ data.values
    share = torch.ones(len(scores)).double() if data.sample_weight is None else data.sample_weight
    return (share.unsqueeze(-1) * residuals.square()).sum() / share.sum() / 2


@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_are_those_of_all_pairs(features, weighted, way):
    data = smoother("gaussian", 0, features, weighted=weighted)
    losses = LeaveOneOut(data)
    for h in (0.05, 0.4, 3.0, 40.0):
        log_h = torch.linspace(0, 0.3, features).double() + math.log(h)
        expected = plain_loss(data, log_h.requires_grad_().exp())
        (slope,) = torch.autograd.grad(expected, log_h)
        loss, gradient = losses.with_gradient(log_h.detach().exp())
        assert loss == pytest.approx(expected.item(), rel=1e-9)
        assert losses([log_h.detach().exp()]) == pytest.approx([loss], rel=1e-9)
        close(gradient, slope, 1e-8)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
@pytest.mark.parametrize("features", [1, 2])
def test_gradients_for_local_lines_are_finite_differences(kernel, features, way):
    data = smoother(kernel, 1, features)
    losses = LeaveOneOut(data)
    h = torch.full((features,), 90.0).double()
    _, gradient = losses.with_gradient(h)
    for feature in range(features):
        step = torch.ones(features).double()
        step[feature] = math.exp(1e-5)
        high, low = losses([h * step, h / step])
        assert gradient[feature].item() == pytest.approx((high - low) / 2e-5, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_a_bandwidth_that_leaves_a_point_without_neighbours_has_no_finite_loss(kernel, way):
    losses = LeaveOneOut(smoother(kernel, 0, 1))
    narrow, wide = losses([torch.tensor(0.5).double(), torch.tensor(90.0).double()])
    assert math.isinf(narrow)
    assert math.isfinite(wide)


def test_every_loss_ticks(way):
    ticks: list[float] = []
    losses = LeaveOneOut(smoother("gaussian", 0, 1), ticks.append)
    losses([torch.tensor(1.0).double(), torch.tensor(2.0).double()])
    losses.with_gradient(torch.ones(1).double())
    assert ticks == [1, 1, 1]
