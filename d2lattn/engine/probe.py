"""What a score of somebody else's may be trusted with: a few pairs, tried first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from copy import copy
from functools import partial
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from d2lattn.blocks import Block, parts_of_batch
from d2lattn.derivatives import alias
from d2lattn.engine.witness import RandomState, Witness, version_of
from d2lattn.score import Pairs, Score, compared, is_hooked_inside, knows

_OF_EVERY_MODULE = vars(nn.Module()).keys()
_PLAIN = bool, int, float, str, torch.Size  # equal ones are as good as the same
# What numbers below this are a factor of may not be seen beside all else.
SMALL = 0.01
# A parameter of more numbers is not tried with others, though all of them may be alike.
LARGEST_TABLE = 2**22
# A tensor of more numbers, if it is no buffer, is not copied to be put back after a trial.
WORTH_A_COPY = 2**16


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's parameters and buffers of this moment, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def aliases_of(module: nn.Module) -> dict[int, Tensor]:
    """Other tensors that hold the same, by the identity of each."""
    return {id(tensor): alias(tensor) for tensor in tensors_of(module).values()}


def apart(module: nn.Module, tensors: dict[int, Tensor]) -> Any:
    """The module as it is now, with other tensors in place of some: what becomes of one of the two
    does not reach the other, nor another thread."""
    return _apart(module, tensors, {})


def _apart(module: nn.Module, tensors: dict[int, Tensor], made: dict[int, nn.Module]) -> nn.Module:
    if id(module) in made or isinstance(module, torch.jit.ScriptModule):
        return made.get(id(module), module)
    other = made[id(module)] = object.__new__(type(module))
    for name, x in vars(module).items():
        if name in ("_parameters", "_buffers"):
            x = {key: tensors.get(id(tensor), tensor) for key, tensor in x.items()}
        elif name == "_modules":
            x = {key: y if y is None else _apart(y, tensors, made) for key, y in x.items()}
        elif name not in _OF_EVERY_MODULE and isinstance(x, (list, dict, set, deque)):
            x = copy(x)
        elif isinstance(x, torch.Generator):
            x = x.clone_state()
        elif isinstance(x, MethodType) and x.__self__ is module:
            x = MethodType(x.__func__, other)
        vars(other)[name] = x
    return other


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
    tensors = aliases_of(score)
    now = apart(score, tensors)
    found = _on_their_own(now, q, k)
    if found is None:
        return None
    used = {number: x for number, x in tensors.items() if x in found.used}
    # Where all numbers of a parameter are alike or 0, as they often begin, others show who uses
    # which, and what a gate lets through later.
    others = {number: _unlike(x) for number, x in used.items() if _is_uniform(x)}
    again = _on_their_own(apart(score, {**tensors, **others}), q, k) if others else found
    if again is None or not _can_be_kept(partial(compared, now), q, k):
        return None

    def compare(q: Tensor, k: Tensor, block: Block) -> Tensor:
        return compared(now, q, k)

    by_batch = found.by_batch and again.by_batch
    return Pairs(compare, tuple(used.values()), found.features, by_batch, unknown=True)


def _is_uniform(x: Tensor) -> bool:
    """Whether a parameter seems to hold one number many times, or next to nothing."""
    if not x.requires_grad or not 0 < x.numel() <= LARGEST_TABLE or x.layout is not torch.strided:
        return False
    some = x.detach().flatten()[:: max(1, x.numel() // 16)]
    return bool((some.abs() < SMALL).all() or (len(some) > 1 and (some == some[0]).all()))


def _unlike(x: Tensor) -> Tensor:
    steps = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device)
    return x.detach() + steps.view(x.shape)


class _OnTheirOwn(NamedTuple):
    """How many numbers are held for each pair, whether elements of the batch are scored on their
    own as well, and which tensors are used."""

    features: int
    by_batch: bool
    used: Collection[Tensor]


def _on_their_own(score: Any, q: Tensor, k: Tensor) -> _OnTheirOwn | None:
    """What is seen of a few pairs; None if they are not scored on their own."""
    batch = tuple(q.shape[:-2])
    last = [*parts_of_batch(batch, 1)][-1]
    second = slice(min(1, q.shape[-2] - 1), 2)
    # What is asked of positions counts from the end: each with another number of keys behind it.
    cuts = (
        (..., slice(2), slice(3)), (..., slice(1), slice(1, 3)), (..., second, slice(1, 3)),
        (..., slice(1), slice(2)),
        (last, slice(2), slice(3)), (last, slice(-1, None), slice(None)),
        (last, slice(-1, None), slice(-3, None)), (last, slice(-1, None), slice(3)),
    )  # fmt: skip
    pairs = [(_copied(q, part, rows), _copied(k, part, columns)) for part, rows, columns in cuts]
    found = tried([partial(compared, score, *pair) for pair in pairs], score)
    if found is None or not all(isinstance(x, Tensor) for x in found[0]):
        return None
    (few, alone, below, before, of_last, far, near, distant), sizes, used = found
    if few.shape[:-2] != batch or few.numel() == 0 or few.dtype == torch.bool or few.is_complex():
        return None
    if not (
        _same(alone, few[..., :1, 1:3])
        and _same(below, few[..., second, 1:3])
        and _same(before, few[..., :1, :2])
        and _same(near, far[..., -3:])
        and _same(distant, far[..., :3])
    ):
        return None
    # What is made for each pair grows with the number of pairs, what is made for tokens does not.
    held = [
        more // few.numel()
        for more, less in zip(sizes[0], sizes[1], strict=False)
        if more * alone.numel() == less * few.numel()
    ]
    return _OnTheirOwn(max(held, default=1), _same(of_last, few[last]), used)


def _copied(tokens: Tensor, part: Any, index: slice) -> Tensor:
    return tokens.detach()[part][..., index, :].clone()


def _can_be_kept(compare: Callable[..., Tensor], q: Tensor, k: Tensor) -> bool:
    """Whether a checkpoint of it has a gradient: what is saved for one may be read only once."""
    if not torch.is_grad_enabled():
        return True
    few = [_copied(x, ..., slice(2)).requires_grad_() for x in (q, k)]
    with saved_tensors_hooks(lambda x: x, lambda x: x):  # not those of a checkpoint around it
        try:
            scores = checkpoint(compare, *few, use_reentrant=False, preserve_rng_state=False)
            if scores.requires_grad:
                torch.autograd.grad(scores.sum(), few, allow_unused=True)
        except Exception:
            return False
    return True


def tried(
    runs: list[partial[Any]], module: nn.Module
) -> tuple[list[Any], list[list[int]], Collection[Tensor]] | None:
    """What they return, the sizes of what each made, and the tensors that they use; None if a run
    leaves a trace (it draws random numbers, changes a tensor, keeps something else each time, or
    takes other parameters than the one before), or fails: it may be one that needs all at once, or
    knows no checkpoints."""
    tokens = [[x for x in run.args if isinstance(x, Tensor)] for run in runs]
    state = RandomState(next((x.device for own in tokens for x in own), torch.device("cpu")))
    trace = _Trace(module)
    used: Witness | None = None
    found, sizes, failed = [], [], False
    for run, own in zip(runs, tokens, strict=True):
        versions = [version_of(x) for x in own]
        # With gradients, as a table may be kept.
        with saved_tensors_hooks(lambda x: x, lambda x: x), Witness(*own, expected=used) as used:
            try:
                found.append(run())
            except Exception:
                failed = True
        trace.settle()
        sizes.append(used.sizes)
        failed = failed or used.changed or versions != [version_of(x) for x in own]
        if failed:
            break
    if failed or state.was_drawn_from() or trace.is_left():
        state.restore()
        trace.undo()
        return None
    return found, sizes, [] if used is None else used.seen


class _Trace:
    """What is left of a run in a module, which is nobody else's: attributes, and numbers in
    buffers and small tensors, which are."""

    def __init__(self, module: nn.Module) -> None:
        self.kinds: list[Any] = []
        for inner in module.modules():
            kept = [x for name, x in vars(inner).items() if name not in _OF_EVERY_MODULE]
            self.kinds += [vars(inner), inner._parameters, inner._buffers]
            self.kinds += [x for x in kept if isinstance(x, (list, dict, set, deque))]
        some = [*module.parameters(), *(x for kind in self.kinds for x in _named(kind).values())]
        small = [x for x in some if isinstance(x, Tensor) and x.numel() <= WORTH_A_COPY]
        self.numbers = [
            (x, x.detach().clone())
            for x in (*module.buffers(), *small)
            if x.layout is torch.strided
        ]
        self.settled: list[dict[Any, Any]] = []

    def settle(self) -> None:
        """After the first run: what is made once may be kept."""
        self.settled = self.settled or [_named(kind) for kind in self.kinds]

    def is_left(self) -> bool:
        """Whether numbers are others, or attributes than after the first run."""
        now = [_named(kind) for kind in self.kinds]
        return not all(map(_alike, now, self.settled)) or any(
            bool(((x != value) & (x == x)).any()) for x, value in self.numbers
        )

    def undo(self) -> None:
        for x, value in self.numbers:
            x.data.copy_(value)


def _named(kept: Any) -> dict[Any, Any]:
    """What something holds, by names or places."""
    if isinstance(kept, (dict, set)):
        return dict(kept) if isinstance(kept, dict) else dict.fromkeys(kept)
    return dict(enumerate(kept))


def _alike(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    if one.keys() != other.keys():
        return False
    kept = ((x, other[name]) for name, x in one.items())
    return all(x is y or (type(x) is type(y) and type(x) in _PLAIN and x == y) for x, y in kept)


def is_of_pairs(
    bias: Callable[[Tensor, Tensor], Any], module: nn.Module, i: Tensor, j: Tensor
) -> bool:
    """Whether a function of positions may be asked for some of them at a time: what it returns for
    a few is what it returns for fewer of these."""
    fewer = ((i[:1], j[:, 1:]), (i[-1:], j[:, :-1])) if j.numel() > 1 else ()
    runs = [partial(bias, i, j), *(partial(bias, *some) for some in fewer)]
    found = tried(runs, module)
    if found is None:
        return False
    if len(runs) == 1 or not all(isinstance(x, Tensor) and x.dtype != torch.bool for x in found[0]):
        return True  # an error will say what it returned
    try:
        every, above, below = (
            torch.broadcast_to(x, torch.broadcast_shapes(x.shape, (len(row), columns.numel())))
            for x, (row, columns) in zip(found[0], ((i, j), *fewer), strict=True)
        )
    except RuntimeError:
        return False
    return _same(above, every[..., :1, 1:]) and _same(below, every[..., -1:, :-1])


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    finite = one.detach().nan_to_num(0.0, 0.0, 0.0)
    largest = float(finite.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6 + 1e-5 * largest, equal_nan=True)
