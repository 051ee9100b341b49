"""What a score of somebody else's may be trusted with: a few pairs, tried first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from d2lattn.blocks import Block, parts_of_batch
from d2lattn.derivatives import alias
from d2lattn.engine.witness import RandomState, Witness, version_of
from d2lattn.score import Pairs, Score, compared, is_hooked_inside, knows

# Larger tensors than these, but for buffers, are not copied to be put back after a trial.
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
    made: dict[int, nn.Module] = {}

    def of(inner: nn.Module) -> nn.Module:
        if id(inner) not in made and not isinstance(inner, torch.jit.ScriptModule):
            other = made[id(inner)] = inner.__new__(type(inner))
            vars(other).update(vars(inner))
            for kind in ("_parameters", "_buffers"):
                named = vars(inner)[kind].items()
                vars(other)[kind] = {name: tensors.get(id(x), x) for name, x in named}
            children = inner._modules.items()
            vars(other)["_modules"] = {name: x and of(x) for name, x in children}
        return made.get(id(inner), inner)

    return of(module)


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
    # Where all numbers of a parameter are alike, as they often begin, others show who uses which.
    others = {number: _unlike(x) for number, x in tensors.items() if _is_uniform(x)}
    now = apart(score, tensors)
    found = _on_their_own(now, q, k)
    again = _on_their_own(apart(score, {**tensors, **others}), q, k) if others else found
    if found is None or again is None or not _can_be_kept(partial(compared, now), q, k):
        return None

    def compare(q: Tensor, k: Tensor, block: Block) -> Tensor:
        return compared(now, q, k)

    by_batch = found[1] and again[1]
    return Pairs(compare, tuple(tensors.values()), found[0], by_batch, unknown=True)


def _is_uniform(x: Tensor) -> bool:
    """Whether a parameter seems to hold one number many times."""
    some = x.detach().flatten()[:: max(1, x.numel() // 16)]
    return x.requires_grad and x.numel() > 1 and bool((some == some[0]).all())


def _unlike(x: Tensor) -> Tensor:
    steps = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device)
    return x.detach() + steps.view(x.shape)


def _on_their_own(score: Any, q: Tensor, k: Tensor) -> tuple[int, bool] | None:
    """How many numbers are held for each pair, and whether elements of the batch are scored on
    their own as well; None if pairs are not."""
    batch = tuple(q.shape[:-2])
    last = [*parts_of_batch(batch, 1)][-1]
    second = slice(min(1, q.shape[-2] - 1), 2)
    # What is asked of positions counts from the end: each with another number of keys behind it.
    cuts = (
        (..., slice(2), slice(3)), (..., slice(1), slice(1, 3)), (..., second, slice(1, 3)),
        (..., slice(1), slice(2)),
        (last, slice(2), slice(3)), (last, slice(-1, None), slice(None)),
        (last, slice(-1, None), slice(-3, None)),
    )  # fmt: skip
    pairs = [(_copied(q, part, rows), _copied(k, part, columns)) for part, rows, columns in cuts]
    found = tried([partial(compared, score, *pair) for pair in pairs], score)
    if found is None or not all(isinstance(x, Tensor) for x in found[0]):
        return None
    (few, alone, below, before, of_last, far, near), sizes = found
    if few.shape[:-2] != batch or few.numel() == 0 or few.dtype == torch.bool or few.is_complex():
        return None
    if not (
        _same(alone, few[..., :1, 1:3])
        and _same(below, few[..., second, 1:3])
        and _same(before, few[..., :1, :2])
        and _same(near, far[..., -3:])
    ):
        return None
    # What is made for each pair grows with the number of pairs, what is made for tokens does not.
    held = [
        more // few.numel()
        for more, less in zip(sizes[0], sizes[1], strict=False)
        if more * alone.numel() == less * few.numel()
    ]
    return max(held, default=1), _same(of_last, few[last])


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


def tried(runs: list[partial[Any]], module: nn.Module) -> tuple[list[Any], list[list[int]]] | None:
    """What they return, and the sizes of what each made; None if a run leaves a trace (it draws
    random numbers, changes a tensor, keeps something else each time, or takes other parameters
    than the one before), or fails: it may be one that needs all at once, or knows no checkpoints.
    """
    tokens = [[x for x in run.args if isinstance(x, Tensor)] for run in runs]
    state = RandomState(next((x.device for own in tokens for x in own), torch.device("cpu")))
    trace = _Trace(module)
    used: Witness | None = None
    found, sizes = [], []
    for run, own in zip(runs, tokens, strict=True):
        # With gradients, as a table may be kept.
        with saved_tensors_hooks(lambda x: x, lambda x: x), Witness(*own, expected=used) as witness:
            versions = [version_of(x) for x in own]
            try:
                found.append(run())
                failed = versions != [version_of(x) for x in own]
            except Exception:
                failed = True
        used = witness
        sizes.append(witness.sizes)
        if failed or witness.changed or state.was_drawn_from() or trace.is_left():
            state.restore()
            trace.undo()
            return None
    return found, sizes


class _Trace:
    """What is left of a run in a module, which is nobody else's: attributes, and numbers in
    buffers and small tensors, which are."""

    def __init__(self, module: nn.Module) -> None:
        self.kinds = [
            kind for x in module.modules() for kind in (vars(x), x._parameters, x._buffers)
        ]
        some = [*module.parameters(), *(x for kind in self.kinds for x in kind.values())]
        small = [x for x in some if isinstance(x, Tensor) and x.numel() <= WORTH_A_COPY]
        self.numbers = [(x, x.detach().clone()) for x in (*module.buffers(), *small)]
        self.settled: list[dict[str, Any]] | None = None

    def is_left(self) -> bool:
        """Whether numbers are others, or attributes than after the first run: what is made once
        may be kept."""
        now = [dict(kind) for kind in self.kinds]
        self.settled = self.settled or now
        return not all(map(_alike, now, self.settled)) or any(
            bool(((x != value) & (x == x)).any()) for x, value in self.numbers
        )

    def undo(self) -> None:
        for x, value in self.numbers:
            x.data.copy_(value)


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(x is other[name] for name, x in one.items())


def is_of_pairs(
    bias: Callable[[Tensor, Tensor], Any], module: nn.Module, i: Tensor, j: Tensor
) -> bool:
    """Whether a function of positions may be asked for some of them at a time: what it returns for
    a few is what it returns for fewer of these."""
    rows = (i[:1], i[-1:]) if j.numel() > 1 else ()
    runs = [partial(bias, i, j), *(partial(bias, row, j[:, 1:]) for row in rows)]
    found = tried(runs, module)
    if found is None:
        return False
    if len(runs) == 1 or not all(isinstance(x, Tensor) and x.dtype != torch.bool for x in found[0]):
        return True  # an error will say what it returned
    try:
        every, *fewer = (
            torch.broadcast_to(x, torch.broadcast_shapes(x.shape, (len(row), columns)))
            for x, row, columns in zip(
                found[0], (i, *rows), (j.numel(), *[j.numel() - 1] * 2), strict=True
            )
        )
    except RuntimeError:
        return False
    return all(map(_same, fewer, (every[..., :1, 1:], every[..., -1:, 1:])))


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    finite = one.detach().nan_to_num(0.0, 0.0, 0.0)
    largest = float(finite.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6 + 1e-5 * largest, equal_nan=True)
