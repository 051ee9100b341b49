"""Kernel regression: attention whose score is the logarithm of a kernel of the distance."""

from jaxtyping import Float
from torch import Tensor

from d2lattn.estimator import KernelEstimator
from d2lattn.moments import local_weights

__all__ = ["LocalLinear", "NadarayaWatson"]


class NadarayaWatson(KernelEstimator):
    r"""Kernel regression: attention in which the measurements are the keys and values.

    .. math:: f(x) = \sum_i \alpha_i(x)\, y_i, \qquad
              \alpha_i(x) = \frac{w_i \prod_d \kappa\bigl((x_d - x_{id}) / h_d\bigr)}
                                 {\sum_j w_j \prod_d \kappa\bigl((x_d - x_{jd}) / h_d\bigr)}

    The weights are a softmax of log-kernels, in float64: far from the data the Gaussian kernel
    still finds the nearest measurement, where dividing kernels by their sum gives 0/0. A compact
    kernel reaches up to exactly one bandwidth; where it reaches no measurement, the weights and
    the prediction are 0.

    Parameters
    ----------
    bandwidth
        :math:`h > 0` in the units of ``x``: a number, or one for each feature of ``x``.
    kernel
        ``"gaussian"``, ``"boxcar"``, ``"triangular"`` or ``"epanechnikov"``.
    learnable
        Whether the bandwidth is a parameter (its logarithm, so that it stays positive).

    Raises
    ------
    TypeError, ValueError
        If the bandwidth is not positive and finite, or there is no kernel of this name.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 4.0])
    >>> model = NadarayaWatson(bandwidth=0.5).fit(x, y)
    >>> model.predict(torch.tensor([1.0, 100.0]))
    tensor([1.2130, 4.0000])

    References
    ----------
    Nadaraya, "On Estimating Regression" (1964); Watson, "Smooth Regression Analysis" (1964).
    """

    _degree = 0


class LocalLinear(KernelEstimator):
    r"""Local linear regression: at each query a straight line through the measurements nearby.

    .. math:: f(x) = \hat a, \qquad (\hat a, \hat b) = \arg\min_{a, b}
              \sum_i \alpha_i(x) \bigl(y_i - a - b^\top (x_i - x)\bigr)^2

    with the weights :math:`\alpha` of :class:`NadarayaWatson`. It has no bias where the truth is
    a line, also at the ends of the data. The prediction is still a sum of measurements, with

    .. math:: l_i(x) = \alpha_i \bigl(1 + (x - \bar x)^\top C^{-1} (x_i - \bar x)\bigr)

    for weights, which sum to one but may be negative: it is no attention. (:math:`\bar x` and C
    are the mean and covariance of the places under :math:`\alpha`.) Where a local line is not
    determined, as with all weight on one place, the prediction is the local mean.

    Parameters
    ----------
    bandwidth, kernel, learnable
        As for :class:`NadarayaWatson`.

    Raises
    ------
    TypeError, ValueError
        If the bandwidth is not positive and finite, or there is no kernel of this name.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([0.0, 1.0, 2.0])
    >>> model = LocalLinear(bandwidth=0.5).fit(x, 3 * x + 1)
    >>> model.predict(torch.tensor([0.0, 1.5]))
    tensor([1.0000, 5.5000])

    References
    ----------
    Fan and Gijbels, *Local Polynomial Modelling and Its Applications* (1996), chapter 3.
    """

    _degree = 1

    def _straighten(
        self, weights: Float[Tensor, "m n"], queries: Tensor, keys: Tensor
    ) -> Float[Tensor, "m n"]:
        return local_weights(weights, keys - queries.unsqueeze(-2), self._smoother().units)
