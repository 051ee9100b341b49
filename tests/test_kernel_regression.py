"""Nadaraya–Watson regression, against statsmodels, plain formulas and finite differences."""

import copy
import itertools
import math
import pickle
import sys

import numpy as np
import pytest
import torch
from statsmodels.nonparametric.kernel_regression import KernelReg
from torch import Tensor

import d2lattn.estimator
import d2lattn.plainly
import d2lattn.smoothing
import d2lattn.weighted
from d2lattn import (
    Attention,
    GaussianScore,
    KernelScore,
    LocalLinear,
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
ESTIMATORS = [NadarayaWatson, LocalLinear]


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
    close(score.compare(*score.project(queries, keys)), score(queries, keys))


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


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("learnable", [False, True])
def test_a_state_dict_holds_tensors_only_weights_too_and_takes_their_place(estimator, learnable):
    x, y = measurements()
    model = estimator(0.3, learnable=learnable).fit(x, y, x)
    state = model.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    other = estimator(1.0, learnable=learnable)
    other.load_state_dict(state)
    close(other.predict(x), model.predict(x), 1e-6)  # a learnable logarithm is in float32
    other.load_state_dict(estimator(0.3, learnable=learnable).fit(x, y).state_dict())
    assert other.sample_weight is None


def test_a_state_dict_of_the_first_version_still_loads():
    x, y = measurements()
    state = {"x": x, "y": y, "attention.score._extra_state": 0.3}
    model = NadarayaWatson()
    model.load_state_dict(state)
    assert torch.equal(model.predict(x), NadarayaWatson(0.3).fit(x, y).predict(x))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("learnable", [False, True])
def test_a_model_is_made_on_the_meta_device_and_filled_later(estimator, learnable):
    x, y = measurements()
    expected = estimator(0.3, learnable=learnable).fit(x, y)
    with torch.device("meta"):
        model = estimator(0.3, learnable=learnable)
    model.load_state_dict(expected.state_dict(), assign=True)
    assert torch.equal(model.predict(x), expected.predict(x))


def test_a_call_is_a_prediction():
    x, y = measurements()
    model = NadarayaWatson(0.3).fit(x, y)
    assert torch.equal(model(x), model.predict(x))


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


def test_weights_of_half_precision_sums_to_one_within_its_rounding():
    x, y = measurements(dtype=torch.float16)
    weights = NadarayaWatson(0.5).fit(x, y).weights(x)
    close(weights.double().sum(dim=1), torch.ones(50), TOLERANCE[torch.float16])


# --- the same at every size ---


@pytest.fixture(params=[10**9, 0], ids=["all pairs", "sums"])
def either_way(request, monkeypatch):
    """Few points by all pairs, or as many points would be."""
    for module in (d2lattn.smoothing, d2lattn.plainly, d2lattn.estimator):
        monkeypatch.setattr(module, "_PAIRS_AT_ONCE", request.param)
    if request.param == 0:
        monkeypatch.setattr(d2lattn.weighted, "_PAIRS_OF_A_BLOCK", 100)
        monkeypatch.setattr(d2lattn.plainly, "_PAIRS_OF_A_BLOCK", 100)


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
@pytest.mark.parametrize("bandwidth", [1e-5, 1e-3, 0.02, 0.2, 1.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_points_are_smoothed_as_few_are(kernel, bandwidth, dtype):
    x, y = measurements(1000, dtype)  # more pairs than the blocks of each way hold
    at = torch.linspace(-1, 6, 800, dtype=dtype)
    model = NadarayaWatson(bandwidth, kernel).fit(x, y)
    # Sums keep ten digits; a result in float32 is rounded once more.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-6
    close(model.predict(at), exactly(x, y, at, bandwidth, kernel), tolerance)
    others = exactly(x, y, x, bandwidth, kernel, leave_out=True)
    close(model.loo_residuals().double(), y.double() - others, tolerance)


def test_values_far_from_zero_cost_no_digits_of_their_range():
    x, y = measurements(2000)
    at = torch.linspace(0, 5, 500, dtype=torch.float64)
    lifted = NadarayaWatson(0.1).fit(x, y + 1e9).predict(at)
    close(lifted - 1e9, NadarayaWatson(0.1).fit(x, y).predict(at), 1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("x", [1e6, 1e9])
def test_places_far_from_the_origin_cost_no_digits(estimator, kernel, x, either_way):
    """Differences first: seconds since 1970 with a bandwidth of a tenth."""
    near, y = measurements(60)
    near = (near * 2**20).round() / 2**20  # so that the shift is exact
    expected = estimator(0.1, kernel).fit(near, y)
    model = estimator(0.1, kernel).fit(near + x, y)
    close(model.predict(near + x), expected.predict(near), 1e-9)
    close(model.loo_residuals(), expected.loo_residuals(), 1e-9)


@pytest.mark.parametrize("kernel", COMPACT)
@pytest.mark.parametrize("h", [0.1, 0.7, 3.0, 7.0, 10.0])
def test_a_point_at_exactly_one_bandwidth_is_inside(kernel, h, either_way):
    day = torch.arange(40, dtype=torch.float64)
    x = day * h / 7  # where (x - x_i) / h is rounded
    model = NadarayaWatson(h, kernel).fit(x, day**2)
    inside = (x[:, None] - x).abs() <= h
    kernels = kernel_by_name(((x[:, None] - x) / h).clamp(-1, 1), kernel) * inside
    close(model.predict(x), kernels @ day**2 / kernels.sum(dim=1), 1e-9)
    kernels.fill_diagonal_(0.0)
    close(model.loo_residuals(), day**2 - kernels @ day**2 / kernels.sum(dim=1), 1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("features", [1, 2])
def test_a_huge_value_disturbs_only_who_may_see_it(estimator, kernel, features, either_way):
    x = torch.linspace(0, 10, 200, dtype=torch.float64).unsqueeze(-1).repeat(1, features)
    y = x[:, 0].sin()
    expected = estimator(0.1, kernel).fit(x, y)
    model = estimator(0.1, kernel).fit(x, y.index_fill(0, torch.tensor(100), 1e20))
    # With sqrt(2) more than 10.5 bandwidths away: a weight below e^-55, which makes 1e-4 of it.
    far = (x[:, 0] - x[100, 0]).abs() > 1.06
    close(model.predict(x)[far], expected.predict(x)[far], 1e-3)
    close(model.loo_residuals()[far], expected.loo_residuals()[far], 1e-3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "triangular"])
@pytest.mark.parametrize("features", [1, 2])
def test_gradients_are_those_of_the_plain_formula_at_every_size(
    estimator, kernel, features, monkeypatch
):
    x = normal(40, features)
    y = x.sum(dim=-1).sin() + 0.1 * normal(40, seed=1)
    found = []
    for pairs in (10**9, 0):
        monkeypatch.setattr(d2lattn.estimator, "_PAIRS_AT_ONCE", pairs)
        monkeypatch.setattr(d2lattn.weighted, "_PAIRS_OF_A_BLOCK", 300)
        model = estimator([1.1] * features, kernel, learnable=True).double().fit(x, y)
        at = x[:10].clone().requires_grad_()
        loss = model.loo_residuals().square().mean() + model.predict(at).square().sum()
        inputs = [*model.parameters(), at]
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        total = torch.stack([g.sum() for g in first]).sum()
        second = torch.autograd.grad(total, inputs, materialize_grads=True)
        found.append([*first, *second])
    for by_blocks, at_once in zip(*found, strict=True):
        close(by_blocks, at_once, 1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_transforms_see_through_the_estimators_at_every_size(estimator, either_way):
    x, y = measurements(20)
    model = estimator(0.5).fit(x, y)
    at = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    weights = model.weights(at.requires_grad_())
    slope = torch.autograd.grad((weights @ y).sum(), at)[0]
    at = at.detach()
    close(torch.func.jacrev(model.predict)(at).diagonal(), slope)
    tangent = torch.func.jvp(model.predict, (at,), (torch.ones_like(at),))[1]
    close(tangent, slope)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(at, torch.ones_like(at))
        close(torch.autograd.forward_ad.unpack_dual(model.predict(dual)).tangent, slope)
    batch = torch.stack([at, at + 0.1])
    close(torch.func.vmap(model.predict)(batch), torch.stack([model.predict(b) for b in batch]))


@pytest.mark.parametrize(
    ("estimator", "kernel", "learnable", "features"),
    [
        *itertools.product(ESTIMATORS, ["gaussian", "triangular"], [False, True], [1]),
        *itertools.product([NadarayaWatson], ["gaussian", "triangular"], [False], [2]),
    ],
)
def test_no_matrix_of_all_pairs_is_held(estimator, kernel, learnable, features):
    n = 2200
    x = normal(n, features)
    model = estimator(0.1, kernel, learnable=learnable).fit(x, x.sum(dim=-1).sin())

    def step() -> None:
        loss = model.predict(x).sum() + model.loo_residuals().square().sum()
        if learnable:
            loss.backward()

    assert peak_bytes(step) < 4 * n * n  # all pairs are 39 MB in float64, 19 in float32


def test_selecting_a_bandwidth_holds_no_matrix_of_all_pairs():
    n = 6000
    x = normal(n)
    model = NadarayaWatson().fit(x, x.sin() + normal(n, seed=1))
    assert peak_bytes(lambda: model.select_bandwidth([0.1, 1.0])) < n * n / 2


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_shown_when_it_is_asked_for(progress, capsys, either_way):
    x, y = measurements(30)
    model = NadarayaWatson(0.3).fit(x, y)
    model.predict(x, progress=progress)
    model.loo_residuals(progress=progress)
    model.select_bandwidth([0.1, 0.2], progress=progress)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("100%" in shown.err) == progress
    assert ("2bandwidth" in shown.err) == progress


def test_progress_without_tqdm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ModuleNotFoundError, match=r"tqdm.auto must be installed.*pip install"):
        NadarayaWatson(0.3).fit(*measurements(30)).predict(torch.ones(1).double(), progress=True)


# --- where nobody is reached ---


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("empty", [0, 0.0, -3.5, math.nan, "nearest"])
def test_what_is_predicted_where_nobody_is_reached_can_be_chosen(estimator, empty, either_way):
    x = torch.tensor([0.0, 1.0, 1.0, 9.0], dtype=torch.float64)
    y = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], dtype=torch.float64)
    model = estimator(0.5, "boxcar").fit(x, y, torch.tensor([1.0, 3.0, 1.0, 0.0]).double())
    found = model.predict(torch.tensor([0.1, 4.0, 99.0]).double(), empty=empty)
    close(found[0], y[0])
    nearest = (3 * y[1] + y[2]) / 4  # of those that count, by their weights
    for row in found[1:]:
        expected = nearest if empty == "nearest" else torch.full((2,), float(empty)).double()
        torch.testing.assert_close(row, expected, equal_nan=True)


def test_the_gaussian_kernel_reaches_everywhere():
    x, y = measurements()
    at = torch.tensor([-1e9, 3.0, 1e9], dtype=torch.float64)
    model = NadarayaWatson(0.1).fit(x, y)
    assert torch.equal(model.predict(at, empty=math.nan), model.predict(at))


# --- weights of the measurements ---


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("features", [1, 2])
def test_a_weight_counts_as_so_many_copies(estimator, kernel, features, either_way):
    x, y = normal(30, features), normal(30, seed=1)
    weight = torch.arange(30) % 4
    model = estimator(1.5, kernel).fit(x, y, weight.double())
    copies = estimator(1.5, kernel).fit(x.repeat_interleave(weight, 0), y.repeat_interleave(weight))
    at = normal(20, features, seed=2)
    close(model.predict(at), copies.predict(at), 1e-9)
    close(model.weights(at) @ y, model.predict(at), 1e-9)
    assert (model.weights(at)[:, weight == 0] == 0).all()
    for i in (1, 4):  # of weight 1, which leaves as one copy does; of weight 0
        others = torch.arange(30) != i
        left = estimator(1.5, kernel).fit(x[others], y[others], weight[others].double())
        close(model.loo_residuals()[i], y[i] - left.predict(x[i : i + 1])[0], 1e-9)


def test_gradients_with_weights_are_finite_differences():
    x, y = measurements(12)
    weight = (torch.arange(12) % 3).double()
    model = NadarayaWatson(0.5).fit(x, y, weight)
    at = torch.tensor([0.3, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model.predict, (at,))


# --- local lines ---


def peer_line(x: Tensor, y: Tensor, bandwidth: float | list[float] | str) -> KernelReg:
    """Local linear regression with a Gaussian product kernel, by statsmodels."""
    features = 1 if x.ndim == 1 else x.shape[1]
    bw = bandwidth if isinstance(bandwidth, str) else np.broadcast_to(bandwidth, (features,))
    return KernelReg(y.numpy(), x.numpy(), var_type="c" * features, reg_type="ll", bw=bw)


@pytest.mark.parametrize("bandwidth", [0.2, 0.5, 1.0, 3.0, 100.0])
def test_local_lines_are_those_of_statsmodels(bandwidth):
    x, y = measurements()
    grid = torch.linspace(0, 5, 60, dtype=torch.float64)
    expected, _ = peer_line(x, y, bandwidth).fit(grid.numpy())
    close(LocalLinear(bandwidth).fit(x, y).predict(grid), torch.as_tensor(expected), 1e-8)


@pytest.mark.parametrize("bandwidth", [[0.5, 1.5], [0.8, 4.0], 1.2])
def test_local_planes_are_those_of_statsmodels(bandwidth):
    x, y = plane()
    grid = 0.5 * normal(30, 2, seed=3)
    expected, _ = peer_line(x, y, bandwidth).fit(grid.numpy())
    close(LocalLinear(bandwidth).fit(x, y).predict(grid), torch.as_tensor(expected), 1e-8)


def data_set(name: str) -> tuple[Tensor, Tensor]:
    """Real measurements that ship with statsmodels."""
    import statsmodels.api as sm

    frame = getattr(sm.datasets, name).load_pandas().data
    columns = {
        "engel": ["income", "foodexp"], "nile": ["year", "volume"],
        "ccard": ["AGE", "INCOME", "AVGEXP"], "macrodata": ["unemp", "infl"],
        "longley": ["GNP", "UNEMP", "TOTEMP"],
    }[name]  # fmt: skip
    numbers = torch.tensor(frame[columns].to_numpy(np.float64))
    return numbers[:, :-1], numbers[:, -1]


@pytest.mark.parametrize("name", ["engel", "nile", "ccard", "macrodata", "longley"])
def test_local_lines_through_real_measurements_are_those_of_statsmodels(name):
    x, y = data_set(name)
    h = (x.std(dim=0) * len(x) ** -0.2).tolist()
    at = torch.cat([x, (x[1:] + x[:-1]) / 2])
    expected, _ = peer_line(x, y, h).fit(at.numpy())
    found = LocalLinear(h).fit(x, y).predict(at)
    close(found, torch.as_tensor(expected), 1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("features", [1, 2, 3])
def test_a_local_line_is_a_weighted_least_squares_fit(kernel, features, either_way):
    """The closed form, by another solver."""
    x, y = normal(40, features), normal(40, seed=1)
    at = 0.5 * normal(10, features, seed=2)
    model = LocalLinear(2.5, kernel).fit(x, y)
    found = model.predict(at)
    for query, prediction in zip(at, found, strict=True):
        root = kernel_by_name((query - x) / 2.5, kernel).prod(dim=-1).sqrt().unsqueeze(-1)
        design = torch.cat([torch.ones(40, 1).double(), x - query], dim=1)
        solution = torch.linalg.lstsq(root * design, root * y.unsqueeze(-1)).solution
        close(prediction, solution[0, 0], 1e-9)
    close(model.weights(at) @ y, found, 1e-9)
    close(model.weights(at).sum(dim=1), torch.ones(10))
    assert (model.weights(at) < 0).any() or kernel == "boxcar"


def test_lines_are_reproduced_exactly_also_at_the_ends_and_beyond(either_way):
    x = measurements()[0]
    at = torch.linspace(-1, 6, 30, dtype=torch.float64)
    close(LocalLinear(0.4).fit(x, 3 - 2 * x).predict(at), 3 - 2 * at, 1e-9)


def test_a_very_wide_local_line_is_the_straight_line():
    x, y = measurements()
    design = torch.stack([torch.ones_like(x), x], dim=1)
    line = design @ torch.linalg.lstsq(design, y.unsqueeze(-1)).solution.squeeze(-1)
    close(LocalLinear(1e6).fit(x, y).predict(x), line, 1e-9)


def test_where_a_local_line_is_not_determined_it_is_the_local_mean(either_way):
    x = torch.tensor([0.0, 0.0, 1.0, 50.0], dtype=torch.float64)
    y = torch.tensor([1.0, 3.0, 4.0, 7.0], dtype=torch.float64)
    at = torch.tensor([0.0, 50.0, 1e3], dtype=torch.float64)
    for kernel in ("boxcar", "epanechnikov"):
        mean = NadarayaWatson(0.5, kernel).fit(x, y)
        close(LocalLinear(0.5, kernel).fit(x, y).predict(at), mean.predict(at))
    far = LocalLinear(0.1).fit(x, y).predict(at)
    close(far, torch.tensor([2.0, 7.0, 7.0]))


def test_a_feature_that_never_varies_plays_no_part(either_way):
    x, y = measurements()
    constant = torch.stack([x, torch.full_like(x, 3.0)], dim=1)
    expected = LocalLinear(0.5).fit(x, y)
    close(LocalLinear(0.5).fit(constant, y).predict(constant), expected.predict(x), 1e-9)


def test_a_local_line_has_no_bias_at_the_ends_where_an_average_has():
    x = torch.linspace(0, 5, 200, dtype=torch.float64)
    truth = 2 * x.sin() + x**0.8
    mean, line = (model(0.4).fit(x, truth).predict(x[:1]).item() for model in ESTIMATORS)
    assert mean > 0.7  # of the first order in h, where the truth is 0
    assert abs(line) < 0.15  # of the second


# --- degrees of freedom, standard errors ---


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("outputs", [None, 2])
def test_degrees_of_freedom_and_standard_errors_are_those_of_the_matrix(estimator, outputs):
    x, y = measurements(30)
    y = y if outputs is None else torch.stack([y, y.square()], dim=1)
    model = estimator(0.5).fit(x, y)
    matrix = model.weights(x)
    assert model.dof == pytest.approx(matrix.trace().item())
    left = 30 - 2 * matrix.trace() + (matrix.T @ matrix).trace()
    sigma = ((y - matrix @ y).square().sum(dim=0) / left).sqrt()
    at = torch.linspace(0, 5, 7, dtype=torch.float64)
    norm = model.weights(at).norm(dim=1)
    close(model.standard_errors(at), norm * sigma if outputs is None else norm[:, None] * sigma)


def test_a_very_wide_local_line_has_two_degrees_of_freedom_and_the_errors_of_a_regression():
    import statsmodels.api as sm

    x, y = measurements()
    model = LocalLinear(1e6).fit(x, y)
    assert model.dof == pytest.approx(2, abs=1e-9)
    assert NadarayaWatson(1e6).fit(x, y).dof == pytest.approx(1, abs=1e-9)
    line = sm.OLS(y.numpy(), sm.add_constant(x.numpy())).fit()
    expected = line.get_prediction(sm.add_constant(x.numpy())).se_mean
    close(model.standard_errors(x), torch.as_tensor(expected), 1e-8)


def test_a_band_of_two_standard_errors_covers_the_mean_prediction():
    """Over 200 redraws of the noise, at nineteen of twenty places where the bias is none."""
    x = measurements()[0].sort().values
    truth = x.sin()
    smooth_truth = LocalLinear(0.5).fit(x, truth).predict(x)
    inside = 0.0
    for seed in range(200):
        model = LocalLinear(0.5).fit(x, truth + 0.5 * normal(50, seed=seed))
        far = (model.predict(x) - smooth_truth).abs() > 1.96 * model.standard_errors(x)
        inside += 1 - far.double().mean().item()
    assert inside / 200 == pytest.approx(0.95, abs=0.02)
