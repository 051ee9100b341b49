"""Measurements that an estimator keeps, checked and as it needs them."""

from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2lattn.attention import Attention
from d2lattn.checks import check_floating
from d2lattn.kernel_formulas import Bandwidth, check_bandwidth
from d2lattn.kernels import KernelScore
from d2lattn.ordinary import first_index

__all__ = ["Fitted", "columns"]

Estimator = TypeVar("Estimator", bound="Fitted")


class Fitted(nn.Module):
    """A kernel, and the measurements that were fitted."""

    x: Tensor | None
    y: Tensor | None
    sample_weight: Tensor | None

    def __init__(
        self, bandwidth: Bandwidth = 1.0, kernel: str = "gaussian", learnable: bool = False
    ) -> None:
        super().__init__()
        self.attention = Attention(KernelScore(kernel, bandwidth, learnable))
        for name in ("x", "y", "sample_weight"):
            self.register_buffer(name, None)

    @property
    def bandwidth(self) -> Float[Tensor, "..."]:
        """The bandwidth, a tensor of shape ``()`` or ``(features,)``."""
        return self._score.bandwidth

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return self._score.kernel

    @property
    def _score(self) -> KernelScore:
        score = self.attention.score
        assert isinstance(score, KernelScore)
        return score

    def fit(
        self: Estimator,
        x: Float[Tensor, "n *features"],
        y: Float[Tensor, "n *outputs"],
        sample_weight: Float[Tensor, " n"] | None = None,
    ) -> Estimator:
        """Keep the measurements; there is nothing else to do.

        Parameters
        ----------
        x
            Where was measured, shape ``(n,)`` or ``(n, features)``.
        y
            What was measured, shape ``(n,)`` or ``(n, outputs)``, the same dtype.
        sample_weight
            How much each measurement counts, in predictions and in the leave-one-out loss, shape
            ``(n,)``, the same dtype: for a prediction 2 is as two equal measurements, 0 as none.
            By default all count alike. All three are copied.

        Returns
        -------
        Self
            The model itself.

        Raises
        ------
        TypeError
            If an argument is not a floating-point tensor, or the dtypes differ.
        ValueError
            If shapes do not fit, nothing was measured, a number is not finite, a weight is
            negative, or all are 0.
        """
        for name, tensor in (("x", x), ("y", y)):
            _check_measurements(name, tensor)
            if len(tensor) == 0:
                raise ValueError(f"{name} must hold at least one measurement; got none")
        self._check(x, y, sample_weight)
        if sample_weight is not None and first_index((sample_weight == 0).all()) is not None:
            raise ValueError("sample_weight must be positive somewhere; got only zeros")
        self._keep(x, y, sample_weight)
        return self

    def _check(self, x: Tensor, y: Tensor, sample_weight: Tensor | None) -> None:
        """Whether they fit together, and the bandwidth them."""
        _check_measurements("x", x)
        _check_measurements("y", y)
        weight = {} if sample_weight is None else {"sample_weight": sample_weight}
        for name, tensor in {"y": y, **weight}.items():
            _check_tensor(name, tensor)
            if tensor.dtype != x.dtype:
                raise TypeError(f"{name} must have the dtype of x, {x.dtype}; got {tensor.dtype}")
            if tensor.device != x.device:
                raise ValueError(
                    f"{name} must be on the device of x, {x.device}; got {tensor.device}"
                )
        if len(y) != len(x):
            raise ValueError(f"y must have as many measurements as x, {len(x)}; got {len(y)}")
        if sample_weight is not None:
            _check_weights(sample_weight, len(x))
        check_bandwidth("bandwidth", self.bandwidth, columns(x).shape[-1])

    def _keep(self, x: Tensor, y: Tensor, sample_weight: Tensor | None) -> None:
        self.x, self.y = x.detach().clone(), y.detach().clone()
        self.sample_weight = None if sample_weight is None else sample_weight.detach().clone()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("x", "y"):  # room for measurements of any shape, also before `fit`
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        weight = state_dict.get(prefix + "sample_weight")
        self.sample_weight = None if weight is None else torch.empty_like(weight)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self.x is None or self.y is None:
            raise RuntimeError("call fit(x, y) first: there are no measurements yet")
        return self.x, self.y

    def _count(self) -> int:
        """How many measurements count."""
        x, _ = self._fitted()
        return len(x) if self.sample_weight is None else int((self.sample_weight > 0).sum())

    def _bandwidths(self) -> Float[Tensor, " features"]:
        """One for each feature, without a gradient."""
        keys, _ = self._fitted()
        h = self.bandwidth.detach().to(keys.device, torch.float64)
        return h.expand(columns(keys).shape[1])

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as float64 matrices, after a look at the queries."""
        keys, values = self._fitted()
        _check_measurements("x", x)
        if x.shape[1:] != keys.shape[1:]:
            expected = "(m,)" if keys.ndim == 1 else f"(m, {keys.shape[1]})"
            raise ValueError(f"x must have shape {expected}, as fitted; got {tuple(x.shape)}")
        if x.dtype != keys.dtype:
            raise TypeError(f"x must have the dtype that was fitted, {keys.dtype}; got {x.dtype}")
        if x.device != keys.device:
            raise ValueError(f"x must be on {keys.device}, as fitted; got {x.device}")
        return columns(x).double(), columns(keys).double(), columns(values).double()

    def _shaped(self, outputs: Float[Tensor, "m outputs"]) -> Float[Tensor, "m *outputs"]:
        """Outputs with the dtype of the fitted ``y``, and as many axes."""
        _, y = self._fitted()
        return outputs.reshape(outputs.shape[0], *y.shape[1:]).to(y.dtype)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if hasattr(tensor, "__array__") and not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} must be a tensor; got {type(tensor).__name__}: convert it by "
            "torch.as_tensor, or use d2lattn.sklearn.KernelRegressor"
        )
    check_floating(name, tensor)


def _check_measurements(name: str, tensor: Tensor) -> None:
    _check_tensor(name, tensor)
    if tensor.ndim not in (1, 2) or tensor.shape[1:] == (0,):
        raise ValueError(
            f"{name} must have shape (n,) or (n, columns) with at least one column; "
            f"got {tuple(tensor.shape)}"
        )
    index = first_index(~tensor.isfinite())
    if index is not None:
        raise ValueError(f"{name} must be finite; got {tensor[index].item()} at index {index}")


def _check_weights(weight: Tensor, n: int) -> None:
    if weight.shape != (n,):
        raise ValueError(
            f"sample_weight must have shape ({n},), one for each measurement; "
            f"got {tuple(weight.shape)}"
        )
    index = first_index(~(weight.isfinite() & (weight >= 0)))
    if index is not None:
        raise ValueError(
            f"sample_weight must be finite and not negative; got {weight[index].item()} "
            f"at index {index}"
        )


def columns(tensor: Float[Tensor, "n *columns"]) -> Float[Tensor, "n columns"]:
    return tensor.unsqueeze(-1) if tensor.ndim == 1 else tensor
