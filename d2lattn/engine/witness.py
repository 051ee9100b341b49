"""What a pass over a block saw, so that another that is not the same is noticed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary


class ChangedError(RuntimeError):
    """What the scores depend on is not what it was."""

    def __init__(self) -> None:
        super().__init__(
            "a tensor that the scores depend on, or a number that a function of positions looks "
            "up, was modified by an inplace operation, or replaced, between the forward pass and "
            "the backward pass, which makes the scores again (a function keeps the number of now "
            "as a default: lambda i, j, width=width: ...)"
        )


class Witness(TorchFunctionMode):
    """Notes every tensor from outside that is used within, with its version, and what came of it.

    Given an earlier pass, it raises :class:`ChangedError` as soon as a tensor is used that was
    changed since, or a parameter that this pass did not use. Others may be new, a table that a
    function makes anew for instance: whether they hold the same numbers, and what is no tensor
    does, is seen in the scores. No tensor is held.

    Parameters
    ----------
    own
        Tensors of this pass alone.
    expected
        The earlier pass.
    """

    def __init__(self, *own: Tensor, expected: Witness | None = None) -> None:
        super().__init__()
        self.seen = WeakIdKeyDictionary()  # versions
        self.sizes: list[int] = []  # of the tensors that were made
        self.sums: tuple[float, ...] = ()
        self._expected = expected
        self._made = WeakIdKeyDictionary(dict.fromkeys(own, True))

    def __torch_function__(
        self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Any = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            if tensor not in self._made and tensor not in self.seen:
                self._note(tensor)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._made[tensor] = True
            self.sizes.append(tensor.numel())
        return result

    def _note(self, tensor: Tensor) -> None:
        version = self.seen[tensor] = version_of(tensor)
        if self._expected is not None:
            known = self._expected.seen.get(tensor)
            if tensor.requires_grad and tensor.is_leaf if known is None else known != version:
                raise ChangedError

    def sum_up(self, scores: Tensor, hidden: Tensor | None) -> None:
        """Look at the scores, and at how many are hidden from each query and of each key."""
        every = scores.flatten()
        total = float(every.sum())
        if not math.isfinite(total):
            every = every.nan_to_num(0.0, 0.0, 0.0)
            total = float(every.sum())
        squares = float(every.dot(every))
        places = 0.0
        if hidden is not None:
            for axis in (-1, -2):
                counts = hidden.sum(axis, dtype=torch.int32).flatten().long()
                numbers = torch.arange(1, len(counts) + 1, device=counts.device)
                places += float((counts * numbers).sum())
        self.sums = total, squares, places
        if self._expected is None:
            return
        largest = math.sqrt(squares * every.numel())  # that the total can be
        tolerances = 1e-4 * largest, 1e-4 * squares, 0.0
        for now, before, tolerance in zip(self.sums, self._expected.sums, tolerances, strict=True):
            if abs(now - before) > tolerance:
                raise ChangedError

    @property
    def changed(self) -> bool:
        """Whether one of them has another version now."""
        return any(version_of(tensor) != version for tensor, version in self.seen.items())


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; in inference mode nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


class RandomState:
    """What generators would draw next: PyTorch's on the processor and on a device, Python's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.python, self.states = random.getstate(), self._now()

    def was_drawn_from(self) -> bool:
        """Whether random numbers were drawn since."""
        same = all(map(torch.equal, self.states, self._now()))
        return not same or self.python != random.getstate()

    def restore(self) -> None:
        """Draw the same numbers again."""
        random.setstate(self.python)
        torch.set_rng_state(self.states[0])
        if len(self.states) > 1:
            torch.get_device_module(self.device).set_rng_state(self.states[1], self.device)

    def _now(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self.device.type != "cpu":
            states.append(torch.get_device_module(self.device).get_rng_state(self.device))
        return states


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))
