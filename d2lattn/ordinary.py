"""Ordinary tensors, in eager mode: whether they are, what can be seen of them, and who follows."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

_KINDS = (Tensor, nn.Parameter)
_is_batched = torch._C._functorch.is_legacy_batchedtensor  # by `is_grads_batched`


def is_ordinary(*tensors: Tensor) -> bool:
    """Whether these are tensors with numbers, in eager mode and outside of every transform.

    Only there may a fast way of our own run: it looks at values, and autograd is all that follows.
    """
    if (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() != 0
    ) and not _made.before:
        return False
    for x in tensors:  # noqa: SIM110 - `all` takes longer than what it asks here
        if type(x) not in _KINDS or x.is_meta or _is_batched(x):
            return False
    return True


class _Made(threading.local):
    before = False


_made = _Made()


@contextmanager
def ordinary_again() -> Iterator[None]:
    """For what was done with ordinary tensors, and is done once more for its gradient: the same,
    whatever surrounds the backward pass, a `torch.vmap` over gradients for instance; followed."""
    outer = _made.before
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False), torch.enable_grad():
        _made.before = True
        try:
            yield
        finally:
            _made.before = outer


def has_values(tensor: Tensor) -> bool:
    """Whether there are numbers to look at, as there are not on the meta device or when
    ``torch.vmap`` or ``torch.compile`` trace what would be done with them."""
    if is_ordinary(tensor):
        return True
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or tensor.is_meta:
        return False
    try:
        bool((tensor.reshape(-1)[:1] == 0).any())
    except (RuntimeError, NotImplementedError):  # vmap or a fake tensor: nothing behind it
        return False
    return True


def first_index(failing: Bool[Tensor, "..."]) -> tuple[int, ...] | None:
    """Where a check fails first, or None where it holds everywhere or cannot be seen."""
    if not has_values(failing) or not bool(failing.any()):
        return None
    return tuple(failing.nonzero()[0].tolist())


def is_finite(*tensors: Tensor) -> bool:
    """Whether all numbers are, with room to spare: their sum is."""
    for tensor in tensors:  # noqa: SIM110 - as above
        if not math.isfinite(tensor.sum().item()):
            return False
    return True


def wants_gradients(*tensors: Tensor) -> bool:
    """Whether autograd follows what is done with any of them."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return True
    return False


def can_be_saved(*tensors: Tensor) -> bool:
    """Whether autograd, if it follows, may keep all of them: not what inference mode made."""
    return not wants_gradients(*tensors) or not any(x.is_inference() for x in tensors)
