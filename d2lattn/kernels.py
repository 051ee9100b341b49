"""Kernels as attention scores: the logarithm of a kernel of the distance."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2lattn.blocks import Block
from d2lattn.checks import at_least_float32, check_floating, check_same_width, check_tokens
from d2lattn.kernel_formulas import (
    Bandwidth,
    check_bandwidth,
    check_kernel,
    compare_by_kernel,
    gaussian_as_dot_product,
    log_density,
)
from d2lattn.ordinary import is_ordinary
from d2lattn.score import Pairs, Score

__all__ = ["GaussianScore", "KernelScore", "gaussian_score", "log_kernel"]


def log_kernel(u: Float[Tensor, "*shape"], kernel: str = "gaussian") -> Float[Tensor, "*shape"]:
    r"""Logarithm of a kernel at a distance of ``u`` bandwidths; every kernel integrates to one.

    .. math::
        \begin{aligned}
        \text{gaussian:}\quad & \tfrac{1}{\sqrt{2\pi}}\, e^{-u^2/2} &
        \text{boxcar:}\quad & \tfrac12\, [\,|u| \le 1\,] \\
        \text{triangular:}\quad & (1 - |u|)_+ &
        \text{epanechnikov:}\quad & \tfrac34\, (1 - u^2)_+
        \end{aligned}

    Parameters
    ----------
    u
        Distances in units of the bandwidth, any floating dtype and shape.
    kernel
        One of the four names above.

    Returns
    -------
    Tensor
        Dtype and shape of ``u``; :math:`-\infty` where the kernel is 0.

    Raises
    ------
    TypeError
        If ``u`` is not a floating-point tensor.
    ValueError
        If there is no kernel of this name.

    Examples
    --------
    >>> log_kernel(torch.tensor([0.0, 0.5, 1.0]), "epanechnikov").exp()
    tensor([0.7500, 0.5625, 0.0000])

    References
    ----------
    Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning* (2009), section 6.1.
    """
    check_floating("u", u)
    return log_density(u, check_kernel(kernel))


def gaussian_score(
    queries: Float[Tensor, "*batch queries features"],
    keys: Float[Tensor, "*batch keys features"],
    bandwidth: Bandwidth = 1.0,
) -> Float[Tensor, "*batch queries keys"]:
    r"""Minus half the squared distance, in bandwidths: the exponent of the Gaussian kernel.

    .. math:: a(q, k) = -\frac12 \left\lVert \frac{q - k}{h} \right\rVert^2

    Parameters
    ----------
    queries, keys
        One floating dtype, the same batch axes and number of features.
    bandwidth
        :math:`h > 0` in the units of the features: a number, or one for each feature.

    Returns
    -------
    Tensor
        Attention scores in the dtype of the queries, computed in at least float32.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or the bandwidth is not positive and finite.

    Examples
    --------
    >>> gaussian_score(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
    tensor([[-0.0000, -0.5000, -2.0000]])

    References
    ----------
    Nadaraya, "On Estimating Regression" (1964); Watson, "Smooth Regression Analysis" (1964).
    """
    check_tokens(queries=queries, keys=keys)
    check_same_width(queries, keys, "a distance needs the same features in both")
    h = check_bandwidth("bandwidth", bandwidth, queries.shape[-1])
    q, k = at_least_float32(queries), at_least_float32(keys)
    return compare_by_kernel("gaussian", h.to(q), q, k).to(queries.dtype)


class KernelScore(Score):
    r"""The logarithm of a product kernel, as an attention score.

    .. math:: a(q, k) = \sum_d \log \kappa\!\left(\frac{q_d - k_d}{h_d}\right)

    up to a constant for the Gaussian kernel, whose score is :func:`gaussian_score`. A pair that
    is farther apart than a compact kernel reaches scores :math:`-\infty`, as if masked.

    Parameters
    ----------
    kernel
        ``"gaussian"``, ``"boxcar"``, ``"triangular"`` or ``"epanechnikov"``.
    bandwidth
        :math:`h > 0` in the units of the features: a number, or one for each feature.
    learnable
        Whether the bandwidth is a parameter. Its logarithm is what an optimizer moves, so that
        it stays positive. (The boxcar's gradient is 0 almost everywhere: nothing to follow.)

    Raises
    ------
    TypeError, ValueError
        If the bandwidth is not positive and finite, or there is no kernel of this name.

    References
    ----------
    Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning* (2009), section 6.1.
    """

    log_bandwidth: nn.Parameter  # if learnable
    _bandwidth: float | list[float]  # if not

    def __init__(
        self, kernel: str = "gaussian", bandwidth: Bandwidth = 1.0, learnable: bool = False
    ) -> None:
        super().__init__()
        self.kernel = check_kernel(kernel)
        self.learnable = learnable
        self.bandwidth = bandwidth

    @property
    def bandwidth(self) -> Float[Tensor, "..."]:
        """The bandwidth, a tensor of shape ``()`` or ``(features,)``."""
        if self.learnable:
            return self.log_bandwidth.exp()
        return torch.tensor(self._bandwidth, dtype=torch.float64, device="cpu")

    @bandwidth.setter
    def bandwidth(self, bandwidth: Bandwidth) -> None:
        value = check_bandwidth("bandwidth", bandwidth).detach().double().tolist()
        if not self.learnable:
            self._bandwidth = value  # numbers: no change of dtype or device rounds them
            return
        log = [math.log(h) for h in value] if isinstance(value, list) else math.log(value)
        new = nn.Parameter(torch.tensor(log, dtype=torch.get_default_dtype()))
        known = self._parameters.get("log_bandwidth")
        if known is not None and known.shape == new.shape:
            known.data.copy_(new.data)  # the parameter an optimizer already holds
        else:
            self.log_bandwidth = new

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.learnable:
            destination[prefix + "bandwidth"] = self.bandwidth

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        missing = args[2]
        saved = state_dict.pop(prefix + "bandwidth", None)
        old = state_dict.pop(prefix + "_extra_state", None)  # of version 0.1, a list or a number
        saved = old if saved is None else saved
        if not self.learnable:
            if saved is None:
                missing.append(prefix + "bandwidth")
            else:
                self.bandwidth = saved
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        h = self.bandwidth.detach()
        numbers = "unknown" if h.is_meta else h.tolist()
        return f"kernel={self.kernel!r}, bandwidth={numbers}, learnable={self.learnable}"

    def project(
        self,
        queries: Float[Tensor, "*batch queries features"],
        keys: Float[Tensor, "*batch keys features"],
    ) -> tuple[Float[Tensor, "*batch queries features"], Float[Tensor, "*batch keys features"]]:
        """Nothing but a check: the bandwidth divides differences, so that no digit is lost."""
        check_same_width(queries, keys, "a distance needs the same features in both")
        check_bandwidth("bandwidth", self.bandwidth, queries.shape[-1])
        return queries, keys

    def compare(
        self,
        q: Float[Tensor, "*batch queries features"],
        k: Float[Tensor, "*batch keys features"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """The kernel's logarithm at every difference, summed over the features."""
        return compare_by_kernel(self.kernel, self.bandwidth.to(q), q, k)

    def pairs(self, q: Tensor, k: Tensor) -> Pairs:
        """With the bandwidth of now."""
        h = self.bandwidth.to(q)

        def compare(q: Tensor, k: Tensor, block: Block) -> Tensor:
            return compare_by_kernel(self.kernel, h, q, k)

        return Pairs(compare, (h,), features=2 * q.shape[-1])

    def as_dot_product(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """The Gaussian kernel's, where enough digits are left: :func:`gaussian_as_dot_product`."""
        if self.kernel != "gaussian" or q.device.type != "cpu" or not is_ordinary(q, k):
            return None  # elsewhere there is no kernel for it, and perhaps no float64
        return gaussian_as_dot_product(q, k, self.bandwidth)

    def mixes_tokens(self) -> bool:
        """They share an origin."""
        return self.kernel == "gaussian"


class GaussianScore(KernelScore):
    r"""Minus half the squared distance, in bandwidths; see :func:`gaussian_score`.

    .. math:: a(q, k) = -\frac12 \left\lVert \frac{q - k}{h} \right\rVert^2

    Parameters
    ----------
    bandwidth
        :math:`h > 0` in the units of the features: a number, or one for each feature.
    learnable
        Whether the bandwidth is a parameter (its logarithm, so that it stays positive).

    Raises
    ------
    TypeError, ValueError
        If the bandwidth is not positive and finite.

    Examples
    --------
    >>> score = GaussianScore(bandwidth=2.0)
    >>> score(torch.tensor([[0.0]]), torch.tensor([[0.0], [2.0], [4.0]]))
    tensor([[-0.0000, -0.5000, -2.0000]])

    References
    ----------
    Nadaraya, "On Estimating Regression" (1964); Watson, "Smooth Regression Analysis" (1964).
    """

    def __init__(self, bandwidth: Bandwidth = 1.0, learnable: bool = False) -> None:
        super().__init__("gaussian", bandwidth, learnable)
