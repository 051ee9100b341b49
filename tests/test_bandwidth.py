"""Choosing a bandwidth, against statsmodels, grids and another optimizer."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from d2lattn import LocalLinear, NadarayaWatson
from d2lattn.losses import LeaveOneOut
from tests.helpers import DTYPES, close, normal
from tests.test_kernel_regression import (
    COMPACT,
    ESTIMATORS,
    KERNELS,
    kernel_by_name,
    measurements,
    our_loss,
    peer,
    plane,
)


def test_the_selected_bandwidth_is_the_one_statsmodels_selects():
    x, y = measurements()
    model = NadarayaWatson().fit(x, y).select_bandwidth()
    theirs = peer(x, y, "cv_ls").bw[0]
    # Its simplex search stops at four digits.
    assert model.bandwidth.item() == pytest.approx(theirs, rel=1e-3)
    assert our_loss(x, y, model.bandwidth) <= our_loss(x, y, float(theirs)) * (1 + 1e-9)


def test_the_selected_bandwidths_of_two_features_are_no_worse_than_those_of_statsmodels():
    x, y = plane()
    model = NadarayaWatson([1.0, 1.0]).fit(x, y).select_bandwidth()
    assert model.bandwidth.shape == (2,)
    theirs = peer(x, y, "cv_ls").bw.tolist()
    assert our_loss(x, y, model.bandwidth) <= our_loss(x, y, theirs) * (1 + 1e-9)
    common = NadarayaWatson(1.0).fit(x, y).select_bandwidth()
    assert common.bandwidth.shape == ()  # the choice keeps the form
    assert our_loss(x, y, model.bandwidth) <= our_loss(x, y, common.bandwidth)


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_bandwidth_on_a_fine_grid_is_better_than_the_selected_one(kernel):
    x, y = measurements(30)
    selected = NadarayaWatson(kernel=kernel).fit(x, y).select_bandwidth()

    def loss(bandwidth: float) -> float:
        others = ~torch.eye(30, dtype=torch.bool)
        kernels = kernel_by_name((x.unsqueeze(1) - x) / bandwidth, kernel) * others
        if not (kernels.sum(dim=1) > 0).all():
            return math.inf  # a point without neighbours
        return (y - kernels @ y / kernels.sum(dim=1)).square().mean().item()

    grid = torch.logspace(-2, 1.5, 300, dtype=torch.float64).tolist()
    # Compact kernels make many local minima; the grid may fall into one a little deeper.
    assert loss(selected.bandwidth.item()) <= min(map(loss, grid)) * (
        1.0001 if kernel == "gaussian" else 1.02
    )


@pytest.mark.parametrize(
    "candidates",
    [[0.25, 0.5, 5.0], torch.tensor([5.0, 0.25, 0.5]), [[0.5], [5], [0.25]], (0.5, 0.25)],
)
def test_among_candidates_the_one_with_the_least_leave_one_out_loss_is_chosen(candidates):
    x, y = measurements()
    best = min([0.25, 0.5, 5.0], key=lambda h: our_loss(x, y, h))
    model = NadarayaWatson().fit(x, y)
    assert model.select_bandwidth(iter(candidates)) is model
    assert model.bandwidth.flatten().tolist() == [best]


def test_a_number_among_candidates_is_meant_for_each_feature():
    x, y = normal(30, 2), normal(30)
    model = NadarayaWatson([1.0, 1.0], learnable=True).fit(x, y)
    parameters = list(model.parameters())
    alone = NadarayaWatson(1.0).fit(x, y).select_bandwidth([0.5, 1.0])
    model.select_bandwidth([0.5, 1.0])
    assert model.bandwidth.tolist() == pytest.approx([alone.bandwidth.item()] * 2)
    assert all(x is y for x, y in zip(model.parameters(), parameters, strict=True))


def test_on_a_lattice_the_least_loss_may_lie_below_the_distance_of_neighbours():
    points = torch.cartesian_prod(torch.arange(12.0), torch.arange(12.0)).double()
    x = points[(normal(144) > -0.5)]
    y = (1.5 * x[:, 0]).sin() * (1.5 * x[:, 1]).cos() + 0.05 * normal(len(x), seed=1)
    model = LocalLinear().fit(x, y)

    def loss(h: float) -> float:
        return float(LocalLinear(h).fit(x, y).loo_residuals().square().mean())

    least = min(loss(h) for h in torch.logspace(-1, 1, 40).tolist())
    assert loss(model.select_bandwidth().bandwidth.item()) <= least * (1 + 1e-3)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_selected_bandwidth_scales_with_x_and_ignores_shifts_and_the_scale_of_y(factor):
    x, y = measurements()
    selected = NadarayaWatson().fit(x, y).select_bandwidth().bandwidth.item()
    again = NadarayaWatson().fit(factor * (x + 1), 100 * y - 7).select_bandwidth()
    assert again.bandwidth.item() / factor == pytest.approx(selected, rel=1e-4)


@pytest.mark.parametrize("copies", [2, 3])
def test_copies_of_all_data_select_the_bandwidth_of_the_data(copies):
    x, y = measurements()
    once = NadarayaWatson().fit(x, y).select_bandwidth().bandwidth.item()
    model = NadarayaWatson().fit(x.repeat(copies), y.repeat(copies)).select_bandwidth()
    assert model.bandwidth.item() == pytest.approx(once, rel=1e-6)
    assert len(model.predict(x)) == 50


def test_data_in_which_every_measurement_has_a_copy_do_not_select_the_narrowest_kernel():
    x, y = measurements()
    once = NadarayaWatson().fit(x, y).select_bandwidth().bandwidth.item()
    model = NadarayaWatson().fit(torch.cat([x, x, x[:9]]), torch.cat([y, y, y[:9]]))
    assert model.select_bandwidth().bandwidth.item() == pytest.approx(once, rel=1e-6)


def test_several_measurements_at_the_same_place_are_no_problem():
    x, y = measurements()
    x = (2 * x).round() / 2  # eleven places
    model = NadarayaWatson().fit(x, y).select_bandwidth()
    assert our_loss(x, y, model.bandwidth) <= min(our_loss(x, y, h) for h in (0.01, 0.2, 0.5, 2.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bandwidth_can_be_selected_for_every_dtype(dtype):
    x, y = measurements(30, dtype)
    selected = NadarayaWatson().fit(x, y).select_bandwidth().bandwidth.item()
    exact = NadarayaWatson().fit(x.double(), y.double()).select_bandwidth().bandwidth.item()
    assert selected == exact


def test_gradient_descent_on_the_leave_one_out_loss_finds_the_selected_bandwidth():
    x, y = measurements()
    model = NadarayaWatson(1.0, learnable=True).fit(x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        model.loo_residuals().square().mean().backward()
        optimizer.step()
    exact = NadarayaWatson().fit(x, y).select_bandwidth().bandwidth.item()
    assert model.bandwidth.item() == pytest.approx(exact, rel=1e-2)  # Adam still moves a little
    assert model.select_bandwidth().bandwidth.item() == pytest.approx(exact, rel=1e-4)
    assert isinstance(next(model.parameters()), torch.nn.Parameter)


@pytest.mark.parametrize("seed", range(5))
def test_d2l_defect_9_gradient_descent_overshoots(seed):
    """On D2L's own data, from its start at w = 1: every step of a plain optimizer goes down."""
    generator = torch.Generator().manual_seed(seed)
    x = (5 * torch.rand(50, generator=generator)).sort().values
    y = 2 * x.sin() + x**0.8 + 0.5 * torch.randn(50, generator=generator)
    model = NadarayaWatson(1.0, learnable=True).fit(x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loo_residuals().square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(losses))
    exact = NadarayaWatson().fit(x, y).select_bandwidth().bandwidth.item()
    assert min(1.0, exact) * 0.99 < model.bandwidth.item() < max(1.0, exact) * 1.01


def wiggle(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.linspace(0, 1, 50, dtype=torch.float64)
    return x, sum((k * x).sin() for k in (1, 2, 4, 6, 8, 10)) + normal(50, seed=seed)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seed", range(3))
def test_the_deepest_of_several_valleys_is_found(estimator, seed):
    x, y = wiggle(seed)

    def loss(h: float) -> float:
        return estimator(h).fit(x, y).loo_residuals().square().mean().item()

    chosen = estimator().fit(x, y).select_bandwidth().bandwidth.item()
    # Below a quarter of the spacing a local line has but one neighbour, and is not determined.
    grid = torch.logspace(-2.25 if estimator is LocalLinear else -3, 1, 200).tolist()
    assert loss(chosen) <= min(map(loss, grid)) * (1 + 1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_a_bandwidth_for_the_only_feature_is_the_bandwidth(estimator, kernel):
    x, y = measurements()
    alone = estimator(1.0, kernel).fit(x, y).select_bandwidth().bandwidth
    listed = estimator([1.0], kernel).fit(x, y).select_bandwidth().bandwidth
    assert listed.tolist() == [alone.item()]


def test_one_stray_value_in_a_feature_does_not_spoil_the_start():
    x = normal(200, 2)
    y = (3 * x[:, 0]).sin() + (2 * x[:, 1]).cos() + 0.1 * normal(200, seed=1)
    x[0, 1] = 1e5
    chosen = NadarayaWatson([1.0, 1.0]).fit(x, y).select_bandwidth().bandwidth
    assert our_loss(x, y, chosen) <= our_loss(x, y, [0.2, 0.3])


def data_set(name: str) -> tuple[Tensor, Tensor]:
    """Real measurements that ship with statsmodels, several features."""
    import statsmodels.api as sm

    module, outcome, features = {
        "longley": (sm.datasets.longley, "TOTEMP", ["GNP", "UNEMP", "ARMED"]),
        "stackloss": (sm.datasets.stackloss, "STACKLOSS", ["AIRFLOW", "WATERTEMP", "ACIDCONC"]),
        "ccard": (sm.datasets.ccard, "AVGEXP", ["AGE", "INCOME"]),
    }[name]
    frame = module.load_pandas().data
    x, y = frame[features].to_numpy(np.float64), frame[outcome].to_numpy(np.float64)
    return torch.tensor(x), torch.tensor(y)


@pytest.mark.parametrize("name", ["longley", "stackloss", "ccard"])
def test_one_bandwidth_for_each_feature_is_at_the_minimum_that_a_simplex_finds(name):
    from scipy.optimize import minimize

    x, y = data_set(name)
    chosen = NadarayaWatson([1.0] * x.shape[1]).fit(x, y).select_bandwidth().bandwidth
    spread = x.std(dim=0).log().numpy()
    others = [chosen.log().numpy(), spread, spread - 1, spread - 2]
    best = min(
        minimize(
            lambda log_h: our_loss(x, y, np.exp(np.clip(log_h, -40, 40)).tolist()), start,
            method="Nelder-Mead", options={"maxiter": 300, "xatol": 1e-4, "fatol": 1e-10},
        ).fun
        for start in others
    )  # fmt: skip
    # Far out, where a feature no longer matters, the loss is flat: there a search may stop.
    assert our_loss(x, y, chosen) <= best * (1 + 1e-4)


@pytest.mark.parametrize("kernel", COMPACT)
def test_one_compact_bandwidth_for_each_feature_is_no_worse_than_a_common_one(kernel):
    x, y = plane()
    several = NadarayaWatson([1.0, 1.0], kernel).fit(x, y).select_bandwidth()
    common = NadarayaWatson(1.0, kernel).fit(x, y).select_bandwidth()
    loss = several.loo_residuals().square().mean()
    assert loss <= common.loo_residuals().square().mean() * 1.02  # steps make many valleys


def test_weights_of_the_measurements_count_in_the_choice():
    x, y = measurements()
    weight = (torch.arange(50) % 3 > 0).double()
    some = weight > 0
    model = NadarayaWatson().fit(x, y, weight).select_bandwidth()
    expected = NadarayaWatson().fit(x[some], y[some]).select_bandwidth()
    close(model.bandwidth, expected.bandwidth)
    doubled = NadarayaWatson().fit(x, y, 1 + weight).select_bandwidth()
    assert abs(doubled.bandwidth - NadarayaWatson().fit(x, y).select_bandwidth().bandwidth) > 1e-3


@pytest.mark.parametrize("features", [1, 2])
def test_losses_of_many_candidates_are_those_of_all_pairs(features):
    """In any order, with what they share."""
    x = normal(700, features)
    y = x.sum(dim=-1).sin() + 0.3 * normal(700, seed=1)
    smoother = NadarayaWatson().fit(x, y)._smoother()
    grid = torch.tensor([0.3, 0.45, 0.2, 3.0, 0.44, 2.0, 100.0, 30.0]).double()
    for h, loss in zip(grid.tolist(), LeaveOneOut(smoother)(list(grid)), strict=True):
        assert loss == pytest.approx(our_loss(x, y, h), rel=1e-9)


def test_many_points_select_what_few_do():
    """By sums of kernels and not by pairs."""
    x, y = measurements(3000)
    grid = torch.logspace(-2, 0.5, 15, dtype=torch.float64)
    model = NadarayaWatson().fit(x, y).select_bandwidth(grid)
    assert model.bandwidth == min(grid, key=lambda h: our_loss(x, y, h))
    free = NadarayaWatson().fit(x, y).select_bandwidth()
    assert our_loss(x, y, free.bandwidth) <= our_loss(x, y, model.bandwidth)
