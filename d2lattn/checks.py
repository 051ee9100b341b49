"""Errors that name the argument, what it was and what was expected; dtypes and products."""

import inspect
import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

# --- dtypes and products ---

_WIDE = (torch.float32, torch.float64)


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` itself, or its float32 copy where half precision would round a reduction."""
    return tensor if tensor.dtype in _WIDE else tensor.to(torch.float32)


def in_one_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Themselves, or copies in the widest of their dtypes and float32."""
    dtypes = [tensor.dtype for tensor in tensors]
    dtype = dtypes[0]
    if dtype in _WIDE and dtypes.count(dtype) == len(dtypes):
        return tensors
    for other in dtypes[1:]:
        dtype = torch.promote_types(dtype, other)
    if dtype not in _WIDE:
        dtype = torch.float32
    return tuple(x if x.dtype == dtype else x.to(dtype) for x in tensors)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product; `matmul` takes a while to see that it may be the batched one."""
    if a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0]:
        return torch.bmm(a, b)
    return a @ b


def is_autocast(device: torch.device) -> bool:
    """Whether operations on this device choose their own dtypes."""
    if not torch._C._is_any_autocast_enabled():
        return False
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def result_dtype(*tokens: Tensor) -> torch.dtype:
    """The dtype of what is made of them: their own, or what autocast gives PyTorch's attention."""
    dtype = tokens[0].dtype
    for other in tokens[1:]:
        if other.dtype != dtype:
            dtype = torch.promote_types(dtype, other.dtype)
    if dtype != torch.float64 and is_autocast(tokens[0].device):
        return torch.get_autocast_dtype(tokens[0].device.type)
    return dtype


# --- arguments ---


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise a TypeError that names the argument unless it is a floating-point tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {tensor.dtype}")


def check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise a TypeError that names the argument unless it has the dtype of the queries."""
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must have the dtype of the queries, {dtype}; got {tensor.dtype}")


def check_integers(name: str, tensor: Tensor) -> None:
    """Raise a TypeError that names the argument unless it is a tensor of integers."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be an integer tensor; got {type(tensor).__name__}")
    if tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex():
        raise TypeError(f"{name} must hold integers; got {tensor.dtype}")


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Raise a ValueError that names the argument unless it lives on ``device``."""
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}, as the rest; got {tensor.device}")


def check_count(name: str, number: int) -> None:
    """Raise an error that names the argument unless it is an integer of at least 0."""
    if isinstance(number, bool) or not isinstance(number, int | torch.SymInt):
        raise TypeError(f"{name} must be an integer; got {number!r}")
    if number < 0:
        raise ValueError(f"{name} must be at least 0; got {number}")


def check_sizes(**sizes: int) -> None:
    """Raise an error that names the argument unless each is a positive integer."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be an integer; got {size!r}")
        if size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}")


def check_number(name: str, number: float, expected: str = "a number") -> None:
    """Raise an error that names the argument unless it is a finite number."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be {expected}; got {number!r}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite; got {number}")


def check_empty(empty: Any) -> None:
    """Raise an error unless it says what to predict where no measurement is reached."""
    is_number = isinstance(empty, Real) and not isinstance(empty, bool)
    if not is_number and not (isinstance(empty, str) and empty == "nearest"):
        raise ValueError(f"empty must be a number or 'nearest'; got {empty!r}")


def check_dropout(dropout: float) -> None:
    """Raise an error unless it is a probability."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float):
        raise TypeError(f"dropout must be a number in [0, 1]; got {dropout!r}")
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"dropout must be a probability in [0, 1]; got {dropout}")


def fit_together(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether :func:`check_tokens` surely has nothing to say, at a glance."""
    if not (
        isinstance(queries, Tensor) and isinstance(keys, Tensor) and isinstance(values, Tensor)
    ):
        return False
    if queries.ndim < 2 or keys.ndim < 2 or values.ndim < 2:
        return False
    *batch, _, query_features = queries.shape
    *of_keys, num_keys, key_features = keys.shape
    *of_values, num_values, _ = values.shape
    return (
        batch == of_keys == of_values
        and num_keys == num_values
        and query_features != 0
        and key_features != 0
        and queries.dtype == keys.dtype == values.dtype
        and queries.device == keys.device == values.device
        and queries.is_floating_point()
    )


def check_tokens(**tokens: Tensor) -> None:
    """Raise an error that names the argument unless queries, keys (and values) fit together."""
    for name, tensor in tokens.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            check_floating(name, tensor)
        if tensor.ndim < 2:
            raise ValueError(
                f"{name} must have shape (*batch, {'queries' if name == 'queries' else 'keys'}, "
                f"features); got {tuple(tensor.shape)}"
            )
    queries = tokens["queries"]
    batch, dtype, device = queries.shape[:-2], queries.dtype, queries.device
    for name, tensor in tokens.items():
        if tensor.device != device:
            check_device(name, tensor, device)
        if tensor.dtype != dtype and not is_autocast(device):
            check_dtype(name, tensor, dtype)
        if tensor.shape[:-2] != batch:
            raise ValueError(
                f"{name} must have the batch axes of the queries, {tuple(batch)}; "
                f"got {tuple(tensor.shape[:-2])}"
            )
        if name != "values" and tensor.shape[-1] == 0:
            raise ValueError(f"{name} must have at least one feature; got {tuple(tensor.shape)}")
        if name == "values" and tensor.shape[-2] != tokens["keys"].shape[-2]:
            raise ValueError(
                f"values must be as many as the keys, {tokens['keys'].shape[-2]}; "
                f"got {tensor.shape[-2]}"
            )


def check_same_width(queries: Tensor, keys: Tensor, remedy: str) -> None:
    """Raise a ValueError that says what to do unless queries and keys have as many features."""
    if queries.shape[-1] != keys.shape[-1]:
        raise ValueError(
            f"keys must have as many features as the queries, {queries.shape[-1]}; "
            f"got {keys.shape[-1]} ({remedy})"
        )


def check_scoring_function(score: Any) -> None:
    """Raise a TypeError unless it can be called, and is no class that was not made yet."""
    if isinstance(score, type) or not callable(score):
        raise TypeError(
            f"score must be a function of (queries, keys) or a module, made with its "
            f"arguments; got {score!r}"
        )


def check_scores(scores: Any, expected: tuple[int, ...]) -> None:
    """Raise an error unless a scoring function returned a tensor of this shape."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"score must return a tensor; got {type(scores).__name__}")
    if scores.dtype == torch.bool or scores.is_complex():
        raise TypeError(f"score must return real numbers; got {scores.dtype}")
    if scores.shape != expected:
        raise ValueError(
            f"score must return shape (*batch, queries, keys) = {tuple(expected)}; "
            f"got {tuple(scores.shape)}"
        )


def check_broadcasts(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a ValueError that names the argument unless it broadcasts to scores of this shape."""
    axes = zip(reversed(tensor.shape), reversed(shape), strict=False)
    if tensor.ndim > len(shape) or any(have not in (1, want) for have, want in axes):
        raise ValueError(
            f"{name} must broadcast to (*batch, queries, keys) = {tuple(shape)}; "
            f"got {tuple(tensor.shape)}"
        )


def check_of_positions(
    name: str, function: Any, expected: str = "a function of positions (i, j)"
) -> None:
    """Raise a TypeError that names the argument unless it can be called with positions (i, j)."""
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"{name} must be {expected}; got {function!r}")
    if torch.compiler.is_compiling():
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function of C, which has none
        return
    try:
        signature.bind(0, 0)
    except TypeError:
        raise TypeError(
            f"{name} must be a function of two tensors, the positions (i, j) of queries and keys; "
            f"got {function!r}, which takes {signature}"
        ) from None
