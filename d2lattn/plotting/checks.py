"""What the figures ask of the tensors that they are given."""

from torch import Tensor


def check_vectors(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise an error that names the argument unless it fits a shape in which None is any size."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a floating-point tensor; got {got}")
    fits = tensor.ndim == len(shape) and 0 not in tensor.shape
    if not fits or any(w not in (None, n) for w, n in zip(shape, tensor.shape, strict=True)):
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape ({wanted}); got {tuple(tensor.shape)}")


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise an error that names the argument unless both are rows of as many numbers."""
    for argument, given in ((other_name, other), (name, tensor)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{argument} must be a tensor; got {type(given).__name__}")
        if given.ndim != 1 or len(given) == 0:
            raise ValueError(
                f"{argument} must have shape (n,), with at least one number; "
                f"got {tuple(given.shape)}"
            )
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} must have the shape of {other_name}, {tuple(other.shape)}; "
            f"got {tuple(tensor.shape)}"
        )
