"""Nadaraya–Watson regression, against statsmodels, plain formulas and finite differences."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from statsmodels.nonparametric.kernel_regression import KernelReg
from torch import Tensor

import d2lattn.bandwidth
import d2lattn.kernel_regression
from d2lattn import (
    Attention,
    GaussianScore,
    KernelScore,
    NadarayaWatson,
    gaussian_score,
    log_kernel,
)
from tests.helpers import (
    DTYPES,
    TOLERANCE,
    close,
    normal,
    peak_bytes,
    queries_keys_values,
)

KERNELS = ["gaussian", "boxcar", "triangular", "epanechnikov"]
COMPACT = KERNELS[1:]


def kernel_by_name(u: Tensor, kernel: str) -> Tensor:
    """The textbook's definitions (Hastie et al., section 6.1), not in log-space."""
    inside = (u.abs() <= 1).to(u.dtype)
    return {
        "gaussian": (-u.square() / 2).exp() / math.sqrt(2 * math.pi),
        "boxcar": inside / 2,
        "triangular": inside * (1 - u.abs()),
        "epanechnikov": inside * 0.75 * (1 - u.square()),
    }[kernel]


def measurements(n: int = 50, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The book's: 2 sin x + x^0.8 and noise, at random places in [0, 5]."""
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.rand(n, generator=generator, dtype=torch.float64)
    noise = 0.5 * torch.randn(n, generator=generator, dtype=torch.float64)
    return x.to(dtype), (2 * x.sin() + x**0.8 + noise).to(dtype)


def plane(n: int = 40) -> tuple[Tensor, Tensor]:
    """Two features of different spread; the outcome follows mainly the first."""
    x = normal(n, 2) * torch.tensor([1.0, 3.0], dtype=torch.float64)
    return x, x[:, 0].sin() + 0.05 * x[:, 1] + 0.1 * normal(n, seed=1)


def peer(x: Tensor, y: Tensor, bandwidth: float | list[float] | str) -> KernelReg:
    """Local constant regression with a Gaussian product kernel, by statsmodels."""
    features = 1 if x.ndim == 1 else x.shape[1]
    bw = bandwidth if isinstance(bandwidth, str) else np.broadcast_to(bandwidth, (features,))
    return KernelReg(y.numpy(), x.numpy(), var_type="c" * features, reg_type="lc", bw=bw)


def peer_loss(x: Tensor, y: Tensor, bandwidth: float | list[float]) -> float:
    """The leave-one-out loss of statsmodels at a bandwidth."""
    model = peer(x, y, bandwidth)
    return float(np.squeeze(model.cv_loo(model.bw, model.est[model.reg_type])))


def our_loss(x: Tensor, y: Tensor, bandwidth: float | list[float] | Tensor) -> float:
    return NadarayaWatson(bandwidth).fit(x, y).loo_residuals().square().mean().item()


# --- kernels ---


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_integrates_to_one(kernel):
    u = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    area = torch.trapezoid(log_kernel(u, kernel).exp(), u)
    # The boxcar jumps inside one of the steps of 1e-4; the others are exact to the step squared.
    assert area.item() == pytest.approx(1.0, abs=1e-4 if kernel == "boxcar" else 1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel_is_the_textbook_s(kernel, dtype):
    u = torch.tensor([-3.0, -1.0, -0.75, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5], dtype=dtype)
    density = log_kernel(u, kernel)
    assert density.dtype == dtype
    close(density.exp(), kernel_by_name(u.double(), kernel))


@pytest.mark.parametrize("kernel", COMPACT)
def test_a_compact_kernel_ends_with_minus_infinity_and_gradient_zero(kernel):
    u = torch.tensor([-5.0, -1.01, 1.01, 5.0], dtype=torch.float64, requires_grad=True)
    logarithm = log_kernel(u, kernel)
    assert (logarithm == -math.inf).all()
    if logarithm.requires_grad:
        (gradient,) = torch.autograd.grad(logarithm.exp().sum(), [u])
        assert (gradient == 0).all()


@pytest.mark.parametrize("kernel", ["gaussian", "triangular", "epanechnikov"])
def test_gradients_of_the_log_kernels_are_finite_differences(kernel):
    u = torch.tensor([-0.9, -0.4, 0.3, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: log_kernel(u, kernel), (u,))


# --- scores ---


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("bandwidth", [1.0, 0.3, 2, [0.5, 1.0, 1.5, 2.0]])
def test_the_gaussian_score_is_minus_half_the_squared_distance_in_bandwidths(batch, bandwidth):
    queries, keys, _ = queries_keys_values(*batch)
    h = torch.tensor(bandwidth, dtype=torch.float64)
    expected = (
        -0.5 * torch.cdist(queries / h, keys / h, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    )
    close(gaussian_score(queries, keys, bandwidth), expected)
    close(GaussianScore(bandwidth)(queries, keys), expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_score_is_the_logarithm_of_a_product_kernel_up_to_a_constant(kernel):
    queries, keys, values = queries_keys_values(2)
    h = torch.tensor([3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
    product = kernel_by_name((queries.unsqueeze(2) - keys.unsqueeze(1)) / h, kernel).prod(dim=-1)
    assert (product.sum(dim=-1) > 0).all()
    weights = Attention(KernelScore(kernel, h))(queries, keys, values).weights
    close(weights, product / product.sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_project_then_compare_is_the_call(kernel):
    score, (queries, keys, _) = KernelScore(kernel, 2.0), queries_keys_values(2)
    q, k = score.project(queries, keys)
    close(q, queries / 2)
    close(k, keys / 2)
    close(score.compare(q, k), score(queries, keys))


def test_gradients_of_the_gaussian_score_are_finite_differences_also_in_the_bandwidth():
    queries, keys = normal(2, 3, requires_grad=True), normal(4, 3, seed=1, requires_grad=True)
    for h in (torch.tensor(0.7), torch.tensor([0.5, 1.0, 2.0])):
        inputs = queries, keys, h.double().requires_grad_()
        assert torch.autograd.gradcheck(gaussian_score, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gaussian_score_has_its_inputs_dtype_and_the_float64_result(dtype):
    queries, keys, _ = queries_keys_values(dtype=dtype)
    scores = gaussian_score(queries, keys, 1.5)
    assert scores.dtype == dtype
    close(scores, gaussian_score(queries.double(), keys.double(), 1.5))


def test_small_bandwidths_cost_no_digits():
    """Expanding the square would: all digits of float32 at h = 0.001."""
    x = torch.linspace(0, 5, 51, dtype=torch.float32).unsqueeze(-1)
    exact = gaussian_score(x.double(), x.double(), 1e-3)
    # Each difference is rounded once, relative to positions of 5 bandwidths / 0.001.
    relative = (gaussian_score(x, x, 1e-3).double() - exact).abs() / exact.abs().clamp_min(1)
    assert relative.max() < 1e-5


def test_vmap_maps_over_the_gaussian_score_and_its_bandwidth():
    queries, keys = normal(4, 2, 3), normal(4, 5, 3, seed=1)
    h = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    mapped = torch.func.vmap(gaussian_score)(queries, keys, h)
    close(
        mapped, torch.stack([gaussian_score(*case) for case in zip(queries, keys, h, strict=True)])
    )
    close(torch.func.vmap(log_kernel)(queries), log_kernel(queries))


def test_they_compile_into_one_graph():
    torch._dynamo.reset()
    queries, keys, _ = queries_keys_values(2)
    for score in (gaussian_score, KernelScore("epanechnikov", 3.0)):
        compiled = torch.compile(score, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(queries, keys), score(queries, keys))


def test_a_learnable_bandwidth_stays_positive_and_any_optimizer_keeps_hold_of_it():
    score = GaussianScore([1.0, 2.0], learnable=True)
    (parameter,) = score.parameters()
    close(score.bandwidth.detach(), torch.tensor([1.0, 2.0]))
    with torch.no_grad():
        parameter.sub_(50.0)
    assert (score.bandwidth > 0).all()
    score.bandwidth = [3.0, 4.0]
    assert next(score.parameters()) is parameter
    close(score.bandwidth.detach(), torch.tensor([3.0, 4.0]))
    assert not list(GaussianScore(1.0).parameters())


# --- predictions ---


@pytest.mark.parametrize("bandwidth", [0.05, 0.2, 0.5, 1.0, 3.0])
def test_predictions_are_those_of_statsmodels(bandwidth):
    x, y = measurements()
    grid = torch.linspace(0, 5, 60, dtype=torch.float64)
    expected, _ = peer(x, y, bandwidth).fit(grid.numpy())
    close(NadarayaWatson(bandwidth).fit(x, y).predict(grid), torch.as_tensor(expected), 1e-9)


@pytest.mark.parametrize("bandwidth", [[0.5, 0.5], [0.3, 2.0], 0.8])
def test_predictions_with_a_product_kernel_are_those_of_statsmodels(bandwidth):
    x, y = plane()
    grid = normal(30, 2, seed=3)
    expected, _ = peer(x, y, bandwidth).fit(grid.numpy())
    close(NadarayaWatson(bandwidth).fit(x, y).predict(grid), torch.as_tensor(expected), 1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_weights_are_kernels_divided_by_their_sum_where_that_is_finite(kernel):
    x, y = measurements()
    grid = torch.linspace(0, 5, 40, dtype=torch.float64)
    model = NadarayaWatson(0.7, kernel).fit(x, y)
    kernels = kernel_by_name((grid.unsqueeze(1) - x) / 0.7, kernel)
    expected = kernels / kernels.sum(dim=1, keepdim=True)
    assert expected.isfinite().all()
    close(model.weights(grid), expected)
    close(model.predict(grid), expected @ y)


def test_a_prediction_is_a_weighted_average_with_the_returned_weights():
    x, y = measurements()
    grid = torch.linspace(-2, 7, 40, dtype=torch.float64)
    model = NadarayaWatson(0.3).fit(x, y)
    close(model.weights(grid) @ y, model.predict(grid))
    close(model.weights(grid).sum(dim=1), torch.ones(40))


@pytest.mark.parametrize("far", [-1e12, -1e6, 50.0, 1e3, 1e6, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_d2l_defect_10_far_from_the_data_kernels_divided_by_their_sum_are_nan(far, dtype):
    x, y = (tensor.to(dtype) for tensor in measurements())
    query = torch.tensor([far], dtype=dtype)
    naive = kernel_by_name((query - x) / 0.01, "gaussian")
    assert (naive / naive.sum()).isnan().all()
    nearest = y[x.argmax() if far > 0 else x.argmin()]
    close(NadarayaWatson(0.01).fit(x, y).predict(query), nearest.unsqueeze(0))


@pytest.mark.parametrize("kernel", COMPACT)
def test_where_a_compact_kernel_reaches_no_measurement_weights_and_prediction_are_zero(kernel):
    x, y = measurements()
    query = torch.tensor([100.0], dtype=torch.float64, requires_grad=True)
    model = NadarayaWatson(0.5, kernel, learnable=True).fit(x, y)
    prediction = model.predict(query)
    assert prediction.item() == 0.0
    assert (model.weights(query) == 0).all()
    for gradient in torch.autograd.grad(
        prediction.sum(), [query, *model.parameters()], materialize_grads=True
    ):
        assert (gradient == 0).all()


def test_d2l_defect_11_the_epanechnikov_kernel_is_misspelt_and_taken_for_the_triangular():
    half = torch.tensor([0.5])
    assert log_kernel(half, "epanechnikov").exp().item() == pytest.approx(0.75 * 0.75)
    assert log_kernel(half, "triangular").exp().item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="epanechnikov; got 'epanechikov'"):
        NadarayaWatson(kernel="epanechikov")


def test_a_very_wide_kernel_gives_the_mean_and_a_very_narrow_one_the_nearest():
    x, y = measurements()
    close(NadarayaWatson(1e6).fit(x, y).predict(x), y.mean().expand(50), 1e-9)
    close(NadarayaWatson(1e-6).fit(x, y).predict(x), y)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("features", [None, 1, 3])
@pytest.mark.parametrize("outputs", [None, 1, 2])
def test_shapes_follow_those_of_x_and_y(kernel, features, outputs):
    x = normal(6) if features is None else normal(6, features)
    y = normal(6, seed=1) if outputs is None else normal(6, outputs, seed=1)
    query = normal(4, seed=2) if features is None else normal(4, features, seed=2)
    model = NadarayaWatson(2.0, kernel)
    assert model.fit(x, y) is model
    assert model.predict(query).shape == (4, *y.shape[1:])
    assert model.weights(query).shape == (4, 6)
    assert model.loo_residuals().shape == y.shape
    assert model.predict(query[:0]).shape == (0, *y.shape[1:])


def test_a_column_of_x_or_y_is_the_same_as_a_vector_and_outputs_do_not_mix():
    x, y = measurements()
    both = torch.stack([y, -y.square()], dim=1)
    model = NadarayaWatson(0.5).fit(x.unsqueeze(1), both)
    single = NadarayaWatson(0.5).fit(x, y)
    close(model.predict(x.unsqueeze(1))[:, 0], single.predict(x))
    close(model.loo_residuals()[:, 0], single.loo_residuals())
    alone = NadarayaWatson(0.5).fit(x, -y.square())
    close(model.predict(x.unsqueeze(1))[:, 1], alone.predict(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_the_dtype_that_was_fitted_and_are_computed_in_float64(dtype):
    x, y = measurements(dtype=dtype)
    model = NadarayaWatson(0.2).fit(x, y)
    exact = NadarayaWatson(0.2).fit(x.double(), y.double())
    for ours, expected in (
        (model.predict(x), exact.predict(x.double())),
        (model.weights(x), exact.weights(x.double())),
        (model.loo_residuals(), exact.loo_residuals()),
    ):
        assert ours.dtype == dtype
        assert torch.equal(ours, expected.to(dtype))


def test_fit_keeps_copies():
    x, y = measurements()
    model = NadarayaWatson(0.3).fit(x, y)
    before = model.predict(torch.ones(1).double())
    x.zero_()
    y.zero_()
    assert torch.equal(model.predict(torch.ones(1).double()), before)


def test_the_gradient_of_a_prediction_in_its_query_is_a_finite_difference():
    x, y = measurements(10)
    model = NadarayaWatson(0.5).fit(x, y)
    query = torch.tensor([0.3, 2.0, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model.predict, (query,))


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "triangular"])
@pytest.mark.parametrize("bandwidth", [1.0, [0.9, 1.5]])
def test_the_gradient_in_a_learnable_bandwidth_is_a_finite_difference(kernel, bandwidth):
    x = normal(8, 2) if isinstance(bandwidth, list) else normal(8)
    y = normal(8, seed=1)
    model = NadarayaWatson(bandwidth, kernel, learnable=True).fit(x, y).double()
    model.loo_residuals().square().mean().backward()
    (log_bandwidth,) = model.parameters()
    assert log_bandwidth.grad is not None

    def loss(h: Tensor) -> float:
        return NadarayaWatson(h, kernel).fit(x, y).loo_residuals().square().mean().item()

    h, step = torch.atleast_1d(model.bandwidth.detach()), 1e-5
    for i, gradient in enumerate(torch.atleast_1d(log_bandwidth.grad).tolist()):
        factor = torch.ones_like(h)
        factor[i] = math.exp(step)
        difference = (loss(h * factor) - loss(h / factor)) / (2 * step)
        assert gradient == pytest.approx(difference, rel=1e-6, abs=1e-9)  # the step squared


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize(
    "twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_predict_the_same(twin_of, learnable):
    x, y = measurements()
    model = NadarayaWatson(0.3, learnable=learnable).fit(x, y)
    model.predict(x).sum()
    assert torch.equal(twin_of(model).predict(x), model.predict(x))


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("fitted", [False, True])
def test_a_state_dict_carries_the_measurements_and_the_bandwidth_that_was_selected(
    learnable, fitted
):
    x, y = measurements()
    model = NadarayaWatson(2.0, learnable=learnable).fit(x, y).select_bandwidth([0.2, 0.3])
    other = NadarayaWatson(1.0, learnable=learnable)
    if fitted:
        other.fit(x[:7], y[:7])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.predict(x), model.predict(x))


# --- leaving one out ---


@pytest.mark.parametrize("kernel", KERNELS)
def test_leave_one_out_residuals_are_those_of_fits_without_that_measurement(kernel):
    x, y = measurements(25)
    residuals = NadarayaWatson(0.6, kernel).fit(x, y).loo_residuals()
    for i in range(25):
        others = torch.arange(25) != i
        refitted = NadarayaWatson(0.6, kernel).fit(x[others], y[others])
        close(residuals[i], y[i] - refitted.predict(x[i : i + 1])[0])


@pytest.mark.parametrize("bandwidth", [0.1, 0.3, 1.0])
def test_the_leave_one_out_loss_is_that_of_statsmodels(bandwidth):
    x, y = measurements(30)
    assert our_loss(x, y, bandwidth) == pytest.approx(peer_loss(x, y, bandwidth), rel=1e-9)


def test_the_leave_one_out_loss_of_a_product_kernel_is_that_of_statsmodels():
    x, y = plane(30)
    assert our_loss(x, y, [0.5, 2.0]) == pytest.approx(peer_loss(x, y, [0.5, 2.0]), rel=1e-9)


def test_a_point_that_attends_to_itself_would_fit_perfectly_when_it_is_left_in():
    x, y = measurements()
    model = NadarayaWatson(1e-4).fit(x, y)
    assert (y - model.predict(x)).abs().max() < 1e-6
    assert model.loo_residuals().abs().mean() > 0.1


# --- selecting the bandwidth ---


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
    assert our_loss(x, y, model.bandwidth) <= our_loss(x, y, theirs) * 1.001
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


def test_weights_of_half_precision_sums_to_one_within_its_rounding():
    x, y = measurements(dtype=torch.float16)
    weights = NadarayaWatson(0.5).fit(x, y).weights(x)
    close(weights.double().sum(dim=1), torch.ones(50), TOLERANCE[torch.float16])


# --- many points: windows, the fused kernel, and no matrix of all pairs ---


BANDWIDTHS = [1e-5, 1e-3, 0.02, 0.2, 1.0, 50.0]


@pytest.fixture(params=[(1, 1), (7, 100), (512, 2**18)], ids=str)
def in_windows(request, monkeypatch):
    """Windows of few points and of many, however small the problem."""
    monkeypatch.setattr(d2lattn.kernel_regression, "_PAIRS_AT_ONCE", 0)
    rows, pairs = request.param
    monkeypatch.setattr(d2lattn.kernel_regression, "_ROWS_OF_A_WINDOW", rows)
    monkeypatch.setattr(d2lattn.kernel_regression, "_PAIRS_OF_A_TILE", pairs)


def exactly(
    x: Tensor, y: Tensor, at: Tensor, bandwidth: float, kernel: str, leave_out: bool = False
) -> Tensor:
    """Predictions from all pairs at once in float64; 0 where no point is reached."""
    x, y, at = x.double(), y.double(), at.double()
    logs = log_kernel((at[:, None] - x) / bandwidth, kernel)
    if leave_out:
        logs.fill_diagonal_(-math.inf)
    return torch.where((logs == -math.inf).all(-1), 0.0, logs.softmax(-1).nan_to_num() @ y)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
def test_windows_give_what_all_pairs_give(kernel, bandwidth, in_windows):
    x, y = measurements(60)
    at = torch.linspace(-2, 7, 45, dtype=torch.float64)
    model = NadarayaWatson(bandwidth, kernel).fit(x, y)
    close(model.predict(at), exactly(x, y, at, bandwidth, kernel), 1e-9)
    others = exactly(x, y, x, bandwidth, kernel, leave_out=True)
    close(model.loo_residuals(), y - others, 1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
def test_float32_errs_by_less_than_a_hundred_thousandth_of_the_range(kernel, bandwidth):
    x, y = measurements(2000, torch.float32)
    at = torch.linspace(-1, 6, 1500)
    model = NadarayaWatson(bandwidth, kernel).fit(x, y)
    span = float(y.max() - y.min())
    errors = model.predict(at).double() - exactly(x, y, at, bandwidth, kernel)
    assert errors.abs().max() < 1e-5 * span
    others = exactly(x, y, x, bandwidth, kernel, leave_out=True)
    errors = model.loo_residuals().double() - (y.double() - others)
    assert errors.abs().max() < 1e-5 * span


def test_values_far_from_zero_cost_no_digits_of_their_range():
    x, y = measurements(2000)
    at = torch.linspace(0, 5, 500, dtype=torch.float64)
    lifted = NadarayaWatson(0.1).fit(x, y + 1e9).predict(at)
    close(lifted - 1e9, NadarayaWatson(0.1).fit(x, y).predict(at), 1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_windows_of_two_features_give_what_all_pairs_give(kernel, in_windows):
    x, y = plane(50)
    model = NadarayaWatson([0.9, 2.0], kernel).fit(x, y)
    logs = KernelScore(kernel, [0.9, 2.0])(x, x)
    close(model.predict(x), logs.softmax(-1) @ y)
    logs = logs.fill_diagonal_(-math.inf)
    others = torch.where((logs == -math.inf).all(-1), 0.0, logs.softmax(-1).nan_to_num() @ y)
    close(model.loo_residuals(), y - others)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_gradients_through_windows_are_those_of_all_pairs(kernel, monkeypatch):
    x, y = measurements(40)
    found = []
    for pairs in (10**9, 0):
        monkeypatch.setattr(d2lattn.kernel_regression, "_PAIRS_AT_ONCE", pairs)
        model = NadarayaWatson(0.4, kernel, learnable=True).double().fit(x, y)
        at = x[:10].clone().requires_grad_()
        loss = model.loo_residuals().square().mean() + model.predict(at).square().sum()
        found.append(torch.autograd.grad(loss, [*model.parameters(), at]))
    for by_windows, at_once in zip(*found, strict=True):
        close(by_windows, at_once)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_bandwidth_is_selected_whatever_the_windows(kernel, monkeypatch):
    x, y = measurements(40)
    expected = NadarayaWatson(1.0, kernel).fit(x, y).select_bandwidth().bandwidth
    monkeypatch.setattr(d2lattn.kernel_regression, "_PAIRS_AT_ONCE", 0)
    monkeypatch.setattr(d2lattn.kernel_regression, "_PAIRS_OF_A_TILE", 100)
    monkeypatch.setattr(d2lattn.bandwidth, "_PAIRS_OF_A_TILE", 100)
    close(NadarayaWatson(1.0, kernel).fit(x, y).select_bandwidth().bandwidth, expected, 1e-6)


def test_losses_that_share_distances_are_those_of_the_residuals():
    x, y = measurements(80)
    grid = [0.001, 0.05, 0.3, 2.0, 40.0]
    columns = x.unsqueeze(-1), y.unsqueeze(-1)
    shared = d2lattn.bandwidth.gaussian_losses(
        *columns, list(torch.tensor(grid, dtype=torch.float64)), lambda share: None
    )
    assert math.isnan(shared[0])  # a point without neighbours: the kernels underflow
    assert shared[1:] == pytest.approx([our_loss(x, y, h) for h in grid[1:]], rel=1e-9)


@pytest.mark.parametrize("kernel", ["gaussian", "triangular"])
@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("features", [1, 2])
def test_no_matrix_of_all_pairs_is_held(kernel, learnable, features):
    n = 3000
    x = normal(n, features)
    model = NadarayaWatson(0.1, kernel, learnable=learnable).fit(x, x.sum(dim=-1).sin())

    def step() -> None:
        loss = model.predict(x).sum() + model.loo_residuals().square().sum()
        if learnable:
            loss.backward()

    assert peak_bytes(step) < 3 * n * n  # all pairs are 72 MB in float64; 27 MB


def test_selecting_a_bandwidth_holds_no_matrix_of_all_pairs():
    n = 6000
    x = normal(n)
    model = NadarayaWatson().fit(x, x.sin() + normal(n, seed=1))
    assert peak_bytes(lambda: model.select_bandwidth([0.1, 1.0])) < n * n / 2


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_shown_when_it_is_asked_for(progress, capsys, monkeypatch):
    monkeypatch.setattr(d2lattn.kernel_regression, "_PAIRS_AT_ONCE", 0)
    x, y = measurements(30)
    model = NadarayaWatson(0.3).fit(x, y)
    model.predict(x, progress=progress)
    model.loo_residuals(progress=progress)
    model.select_bandwidth([0.1, 0.2], progress=progress)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("100%") == (2 if progress else 0)
