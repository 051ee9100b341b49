"""Kernel regression as scikit-learn calls it; imported only by who wants it."""

from numbers import Integral
from typing import Any, Literal, Self

import torch

from d2lattn.extras import needs
from d2lattn.kernel_regression import LocalLinear, NadarayaWatson

with needs("sklearn"):
    import numpy as np
    from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

__all__ = ["KernelRegressor"]

_BY_DEGREE = {0: NadarayaWatson, 1: LocalLinear}


class KernelRegressor(RegressorMixin, MultiOutputMixin, BaseEstimator):
    r"""Local averages or local lines as a scikit-learn estimator.

    .. math:: \hat f(x) = \sum_i l_i(x)\, y_i

    Takes what scikit-learn takes: arrays, data frames, lists, integers; works with ``clone``,
    pipelines, searches over parameters and sample weights.

    Parameters
    ----------
    kernel
        ``"gaussian"``, ``"boxcar"``, ``"triangular"`` or ``"epanechnikov"``.
    bandwidth
        A positive number, one for each feature, or ``"loo"``: one for each feature, chosen by
        leave-one-out in ``fit``.
    degree
        0 for averages, as :class:`d2lattn.NadarayaWatson`; 1 for local lines, as
        :class:`d2lattn.LocalLinear`.

    Attributes
    ----------
    bandwidth_
        The bandwidth in use, shape ``()`` or ``(features,)``.
    model_
        The fitted estimator, in float64.
    n_features_in_, feature_names_in_
        As in all estimators of scikit-learn.

    Raises
    ------
    TypeError, ValueError
        From ``fit``, as scikit-learn asks for: if a parameter is none of the above, or ``"loo"``
        has no answer; see :meth:`d2lattn.NadarayaWatson.select_bandwidth`.

    Examples
    --------
    >>> model = KernelRegressor(bandwidth=0.5).fit([[0], [1], [2]], [0, 1, 4])
    >>> model.predict([[1]]).round(4)
    array([1.213])

    References
    ----------
    Buitinck et al., "API Design for Machine Learning Software" (2013).
    """

    model_: NadarayaWatson | LocalLinear

    def __init__(
        self,
        kernel: str = "gaussian",
        bandwidth: float | list[float] | Literal["loo"] = "loo",
        degree: int = 0,
    ) -> None:
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.degree = degree

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Keep the measurements, and choose the bandwidth if it is ``"loo"``.

        Parameters
        ----------
        X
            Shape ``(n, features)``.
        y
            Shape ``(n,)`` or ``(n, outputs)``.
        sample_weight
            How much each measurement counts, shape ``(n,)``.
        """
        X, y = validate_data(  # noqa: N806
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        if sample_weight is not None:
            sample_weight = _tensor(
                _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            )
        is_whole = isinstance(self.degree, Integral) and not isinstance(self.degree, bool)
        if not is_whole or self.degree not in _BY_DEGREE:
            raise ValueError(f"degree must be 0 or 1; got {self.degree!r}")
        choose = isinstance(self.bandwidth, str) and self.bandwidth == "loo"
        if choose and len(X) < 3:
            raise ValueError(
                f"bandwidth='loo' needs at least 3 measurements; got n_samples={len(X)}"
            )
        start: Any = [1.0] * X.shape[1] if choose else self.bandwidth
        model: Any = _BY_DEGREE[self.degree](start, self.kernel)
        model.fit(_tensor(X), _tensor(y), sample_weight)
        self.model_ = model.select_bandwidth() if choose else model
        self.bandwidth_ = self.model_.bandwidth.numpy()
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Predictions, shape ``(m,)`` or ``(m, outputs)`` as ``y`` was."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)  # noqa: N806
        return self.model_.predict(_tensor(X)).numpy()


def _tensor(numbers: np.ndarray) -> torch.Tensor:
    """A copy: PyTorch takes no array that runs backwards, nor every dtype and order of bytes."""
    return torch.tensor(np.ascontiguousarray(numbers, dtype=np.float64))
