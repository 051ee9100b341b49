"""Kernel regression as scikit-learn calls it: its own checks, and its own tools."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from d2lattn import LocalLinear, NadarayaWatson
from d2lattn.sklearn import KernelRegressor
from tests.test_kernel_regression import plane

# What scikit-learn checks and leave-one-out cannot give, each with its reason.
FAILING = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a copy stays behind as a witness when the other is left out; a weight of 2 leaves at once"
    ),
}


@pytest.mark.parametrize(
    ("bandwidth", "degree", "failing"), [("loo", 0, FAILING), (0.7, 0, {}), (0.7, 1, {})]
)
@pytest.mark.filterwarnings("ignore")  # checks are skipped, some of them with a warning
def test_it_passes_scikit_learn_s_checks(bandwidth, degree, failing):
    estimator = KernelRegressor(bandwidth=bandwidth, degree=degree)
    results = check_estimator(estimator, expected_failed_checks=failing, on_skip=None)
    passed = {result["check_name"] for result in results if result["status"] == "passed"}
    assert {"check_estimators_pickle", "check_sample_weights_pandas_series"} <= passed
    missed = {result["check_name"] for result in results if result["status"] == "xfail"}
    assert missed == set(failing)


@pytest.mark.parametrize(("degree", "model"), [(0, NadarayaWatson), (1, LocalLinear)])
def test_it_is_the_estimator_of_its_degree(degree, model):
    x, y = plane()
    weight = torch.arange(40).double()
    ours = model([1.0, 1.0]).fit(x, y, weight).select_bandwidth()
    theirs = KernelRegressor(degree=degree).fit(x.numpy(), y.numpy(), sample_weight=weight.numpy())
    assert theirs.bandwidth_.tolist() == ours.bandwidth.tolist()
    assert theirs.predict(x.numpy()).tolist() == ours.predict(x).tolist()


def test_frames_lists_and_integers_are_taken_and_nothing_of_the_caller_s_is_changed():
    frame = pd.DataFrame({"a": [0, 1, 2, 3], "b": [1.5, 0.5, 0.0, 2.0]})
    outcome = pd.Series([0, 1, 4, 9])
    before = frame.copy(), outcome.copy()
    model = KernelRegressor(bandwidth=[1.0, 2.0]).fit(frame, outcome)
    assert list(model.feature_names_in_) == ["a", "b"]
    lists = KernelRegressor(bandwidth=[1.0, 2.0]).fit(frame.values.tolist(), outcome.tolist())
    assert (model.predict(frame) == lists.predict(frame.values.tolist())).all()
    pd.testing.assert_frame_equal(frame, before[0])
    pd.testing.assert_series_equal(outcome, before[1])


def test_it_works_in_a_pipeline_a_grid_search_and_as_a_clone():
    x, y = (tensor.numpy() for tensor in plane())
    model = make_pipeline(StandardScaler(), KernelRegressor())
    grid = {"kernelregressor__bandwidth": [0.1, 0.4, 2.0], "kernelregressor__degree": [0, 1]}
    search = GridSearchCV(model, grid, cv=4).fit(x, y)
    assert search.best_score_ > 0.7
    assert clone(search.best_estimator_).fit(x, y).predict(x).shape == y.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degree": 2}, r"degree must be 0 or 1; got 2"),
        ({"degree": True}, r"degree must be 0 or 1; got True"),
        ({"kernel": "tricube"}, r"kernel must be one of gaussian, .*; got 'tricube'"),
        ({"bandwidth": -1.0}, r"bandwidth must be positive and finite; got -1\.0"),
        ({"bandwidth": [1.0] * 3}, r"bandwidth must .* have shape \(2,\).*; got shape \(3,\)"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named_when_the_model_is_fitted(options, message):
    x, y = (tensor.numpy() for tensor in plane())
    model = KernelRegressor(**options)  # not before: so that a search may set it
    with pytest.raises(ValueError, match=message):
        model.fit(x, y)


def test_two_measurements_are_too_few_to_choose_by():
    with pytest.raises(ValueError, match=r"bandwidth='loo' needs at least 3 .*; got n_samples=2"):
        KernelRegressor().fit(np.zeros((2, 1)), [0, 1])


def test_arrays_may_run_backwards_and_have_any_dtype_and_order_of_bytes():
    x, y = (tensor.numpy() for tensor in plane())
    expected = KernelRegressor(bandwidth=0.5).fit(x, y).predict(x)
    for swap in (lambda a: a[::-1], lambda a: pd.DataFrame(a).iloc[::-1].squeeze()):
        model = KernelRegressor(bandwidth=0.5).fit(np.asarray(swap(x)), swap(y))
        np.testing.assert_allclose(model.predict(x[::-1])[::-1], expected)
    for dtype in (">f8", np.longdouble, "f2"):
        model = KernelRegressor(bandwidth=0.5).fit(
            x.astype(dtype), y.astype(dtype), x[::-1, 0] ** 2
        )
        assert np.isfinite(model.predict(x.astype(dtype))).all()


def test_the_degree_may_be_a_number_of_numpy():
    x, y = (tensor.numpy() for tensor in plane())
    line = KernelRegressor(bandwidth=0.5, degree=1).fit(x, y)
    model = KernelRegressor(bandwidth=0.5, degree=np.arange(2)[1]).fit(x, y)
    assert model.predict(x).tolist() == line.predict(x).tolist()
