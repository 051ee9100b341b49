"""Kernels as attention scores: the logarithm of a kernel of the distance."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2lattn.blocks import Block
from d2lattn.checks import (
    at_least_float32,
    check_floating,
    check_same_width,
    check_tokens,
    first_index,
    is_ordinary,
)
from d2lattn.score import Pairs, Score

__all__ = ["GaussianScore", "KernelScore", "gaussian_score", "log_kernel"]

Bandwidth = float | Sequence[float] | Tensor


def _boxcar(u: Tensor) -> Tensor:
    return (u.abs() <= 1).to(u.dtype) / 2


def _triangular(u: Tensor) -> Tensor:
    return 1 - u.abs()


def _epanechnikov(u: Tensor) -> Tensor:
    return 0.75 * (1 - u.square())


# What is not positive is outside.
COMPACT_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "boxcar": _boxcar,
    "triangular": _triangular,
    "epanechnikov": _epanechnikov,
}

_KERNELS = ("gaussian", *COMPACT_KERNELS)


def _log_kernel(u: Tensor, kernel: str) -> Tensor:
    if kernel == "gaussian":
        return -0.5 * u.square() - 0.5 * math.log(2 * math.pi)
    density = COMPACT_KERNELS[kernel](u) + 0.0 * u  # so that the boxcar has a gradient, of 0
    inside = density > 0  # outside -inf, with gradient 0
    return torch.where(inside, density, 1.0).log().masked_fill(~inside, -math.inf)


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
    return _log_kernel(u, check_kernel(kernel))


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
        if self.kernel != "gaussian" or not is_ordinary(q, k):
            return None
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


def check_kernel(kernel: str) -> str:
    if not isinstance(kernel, str) or kernel not in _KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}; got {kernel!r}")
    return kernel


def check_bandwidth(name: str, bandwidth: Bandwidth, num_features: int | None = None) -> Tensor:
    """A checked bandwidth: a positive finite number, or one for each feature."""
    try:
        h = bandwidth if isinstance(bandwidth, Tensor) else torch.as_tensor(bandwidth, device="cpu")
        if h.dtype == torch.bool or h.is_complex():
            raise TypeError
        if not (isinstance(bandwidth, Tensor) and h.is_floating_point()):
            h = torch.as_tensor(bandwidth, dtype=torch.float64, device=h.device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(
            f"{name} must be a number, or one for each feature; got {bandwidth!r}"
        ) from None
    if h.ndim > 1 or h.numel() == 0 or (h.ndim == 1 and num_features not in (None, len(h))):
        features = "features" if num_features is None else num_features
        raise ValueError(
            f"{name} must be a number or have shape ({features},), one for each feature; "
            f"got shape {tuple(h.shape)}"
        )
    if first_index(~((h > 0) & h.isfinite())) is not None:
        raise ValueError(f"{name} must be positive and finite; got {h.tolist()}")
    return h


def compare_by_kernel(
    kernel: str,
    bandwidth: Float[Tensor, "..."],
    q: Float[Tensor, "*batch queries features"],
    k: Float[Tensor, "*batch keys features"],
) -> Float[Tensor, "*batch queries keys"]:
    """Scores of a kernel: differences first, which are exact where points lie close together."""
    differences = q.unsqueeze(-2) - k.unsqueeze(-3)
    u = differences / bandwidth
    if kernel == "gaussian":
        return -0.5 * u.square().sum(dim=-1)
    scores = _log_kernel(u, kernel)
    # Who is inside is seen before anything is divided, and rounded.
    return scores.masked_fill(differences.abs() > bandwidth, -math.inf).sum(dim=-1)


def gaussian_as_dot_product(
    q: Float[Tensor, "*batch queries features"],
    k: Float[Tensor, "*batch keys features"],
    bandwidth: Float[Tensor, "..."],
) -> tuple[Tensor, Tensor, float] | None:
    r"""The Gaussian kernel as a dot product with two more features.

    .. math:: -\tfrac12 \lVert q - k \rVert^2 =
        [\,q,\ 1,\ -\tfrac12 \lVert q \rVert^2\,]^\top
        [\,k,\ -\tfrac12 \lVert k \rVert^2,\ 1\,]

    The squares are larger than the difference, and their rounding errors grow with them: about
    eps times the largest square, in a score. So the origin moves to the middle of the keys, and
    float64 serves where float32 would err by more than about 1e-5. Where that is not enough
    either, the answer is None.
    """
    if 0 in (q.numel(), k.numel()):
        return None
    for dtype in dict.fromkeys((q.dtype, torch.float64)):
        h = bandwidth.to(device=q.device, dtype=dtype)
        origin = k.detach().to(dtype).mean(dim=-2, keepdim=True)
        near_q, near_k = ((x.to(dtype) - origin) / h for x in (q, k))
        q_square, k_square = (x.square().sum(dim=-1, keepdim=True) for x in (near_q, near_k))
        largest = torch.maximum(q_square.detach().amax(), k_square.detach().amax())
        allowed = 1e-5 if dtype == torch.float32 else 1e-9
        if bool(largest * torch.finfo(dtype).eps <= allowed):
            ones_q, ones_k = torch.ones_like(q_square), torch.ones_like(k_square)
            long_q = torch.cat([near_q, ones_q, -0.5 * q_square], dim=-1)
            return long_q, torch.cat([near_k, -0.5 * k_square, ones_k], dim=-1), 1.0
    return None
