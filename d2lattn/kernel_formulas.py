"""What a kernel computes: the scores of all pairs, by differences or as a dot product."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.ordinary import first_index

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

KERNELS = ("gaussian", *COMPACT_KERNELS)


def log_density(u: Tensor, kernel: str) -> Tensor:
    if kernel == "gaussian":
        return -0.5 * u.square() - 0.5 * math.log(2 * math.pi)
    density = COMPACT_KERNELS[kernel](u) + 0.0 * u  # so that the boxcar has a gradient, of 0
    inside = density > 0  # outside -inf, with gradient 0
    return torch.where(inside, density, 1.0).log().masked_fill(~inside, -math.inf)


def check_kernel(kernel: str) -> str:
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}; got {kernel!r}")
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
    scores = log_density(u, kernel)
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
