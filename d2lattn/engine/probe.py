"""What a score of somebody else's may be trusted with: a few pairs, tried first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint
from torch.utils.weak import WeakIdKeyDictionary

from d2lattn.blocks import Block, parts_of_batch
from d2lattn.score import Pairs, Score, is_hooked_inside, knows


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
        self._made = WeakIdKeyDictionary()
        for tensor in own:
            self._made[tensor] = True

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
    """What PyTorch's generators would draw next: the processor's, and that of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.states = self._now()

    def was_drawn_from(self) -> bool:
        """Whether random numbers were drawn since."""
        return not all(map(torch.equal, self.states, self._now()))

    def restore(self) -> None:
        """Draw the same numbers again."""
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


class _Comparison(nn.Module):
    """A score's second half as a module, so that its parameters can be passed in."""

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return self.score.compare(q, k)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's parameters and buffers of this moment, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def pairs_of(score: Score, q: Tensor, k: Tensor) -> Pairs | None:
    """How to score any block of these projected tokens; None if only all at once will do."""
    if not score.in_halves():
        return None
    if knows(score, "pairs") and type(score).pairs is not Score.pairs:
        return score.pairs(q, k)
    return pairs_by_trial(score, q, k)


def pairs_by_trial(score: Score, q: Tensor, k: Tensor) -> Pairs | None:
    """After a look at a few pairs: are they scored on their own, and does nothing else happen?"""
    if is_hooked_inside(score):
        return None
    call = _Comparison(score)
    named = tensors_of(call)

    def compare(q: Tensor, k: Tensor, block: Block) -> Tensor:
        return functional_call(call, named, (q, k))

    batch = tuple(q.shape[:-2])
    whole = Block.whole((*q.shape[:-1], k.shape[-2]))
    last = [*parts_of_batch(batch, 1)][-1]
    # What is asked of positions counts from the end: each with another number of keys behind it.
    few_rows, first, all_columns, later, earlier = map(slice, (0, 0, 0, 1, 0), (2, 1, 3, 3, 2))
    runs = [
        partial(compare, q.detach()[part][..., rows, :], k.detach()[part][..., columns, :], whole)
        for part, rows, columns in (
            (..., few_rows, all_columns), (..., first, later), (..., first, earlier),
            (last, few_rows, all_columns),
        )
    ]  # fmt: skip
    found = tried(runs, score)
    if found is None or not all(isinstance(scores, Tensor) for scores in found[0]):
        return None
    (few, alone, before, of_last), sizes = found
    if few.shape[:-2] != batch or few.numel() == 0:
        return None
    if not (_same(alone, few[..., first, later]) and _same(before, few[..., first, earlier])):
        return None
    # What is made for each pair grows with the number of pairs, what is made for tokens does not.
    held = [
        more // few.numel()
        for more, less in zip(sizes[0], sizes[1], strict=False)
        if more * alone.numel() == less * few.numel()
    ]
    if not _can_be_kept(partial(compare, block=whole), *runs[0].args[:2]):
        return None
    by_batch = _same(of_last, few[last])
    return Pairs(compare, tuple(named.values()), max(held, default=1), by_batch, unknown=True)


def _can_be_kept(compare: Callable[[Tensor, Tensor], Tensor], q: Tensor, k: Tensor) -> bool:
    """Whether a checkpoint of it has a gradient: what is saved for one may be read only once."""
    if not torch.is_grad_enabled():
        return True
    q, k = (x.detach().clone().requires_grad_() for x in (q, k))
    try:
        scores = checkpoint(compare, q, k, use_reentrant=False, preserve_rng_state=False)
        if scores.requires_grad:
            torch.autograd.grad(scores.sum(), (q, k), allow_unused=True)
    except Exception:
        return False
    return True


def tried(runs: list[partial[Any]], module: nn.Module) -> tuple[list[Any], list[list[int]]] | None:
    """What they return, and the sizes of what each made; None if a run leaves a trace (it draws
    random numbers, changes a tensor, or takes other parameters than the one before), or fails: it
    may be one that needs all at once, or knows no checkpoints."""
    device = next((x.device for run in runs for x in run.args if isinstance(x, Tensor)), None)
    state = RandomState(device or torch.device("cpu"))
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    used: Witness | None = None
    found, sizes = [], []
    for run in runs:
        own = [x for x in run.args if isinstance(x, Tensor)]
        # With gradients, as a table may be kept.
        with saved_tensors_hooks(lambda x: x, lambda x: x), Witness(*own, expected=used) as witness:
            try:
                found.append(run())
                failed = False
            except Exception:
                failed = True
        used = witness
        sizes.append(witness.sizes)
        if failed or witness.changed or state.was_drawn_from():
            state.restore()
            for buffer, value in before:
                buffer.data.copy_(value)
            return None
    return found, sizes


def is_of_pairs(
    bias: Callable[[Tensor, Tensor], Any], module: nn.Module, i: Tensor, j: Tensor
) -> bool:
    """Whether a function of positions may be asked for some of them at a time: what it returns for
    a few is what it returns for fewer of these."""
    runs = [partial(bias, i, j)] + [partial(bias, i[:1], j[:, 1:])] * (j.numel() > 1)
    found = tried(runs, module)
    if found is None:
        return False
    if len(runs) == 1 or not all(isinstance(x, Tensor) and x.dtype != torch.bool for x in found[0]):
        return True  # an error will say what it returned
    sizes = (len(i), j.numel()), (1, j.numel() - 1)
    try:
        every, fewer = (
            torch.broadcast_to(x, torch.broadcast_shapes(x.shape, size))
            for x, size in zip(found[0], sizes, strict=True)
        )
    except RuntimeError:
        return False
    return _same(every[..., :1, 1:], fewer)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=1e-4, atol=1e-6, equal_nan=True
    )
