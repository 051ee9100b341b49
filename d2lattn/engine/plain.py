"""The one formula: a masked softmax of scores that were made, and the weighted sum of values."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from d2lattn.blocks import Block, parts_of_batch
from d2lattn.checks import product
from d2lattn.ordinary import is_finite, is_ordinary
from d2lattn.restrictions import Restriction

Compare = Callable[[Tensor, Tensor, Block], Tensor]
Dropout = Callable[[Tensor], Tensor]
Hidden = Bool[Tensor, "*batch #queries #keys"]

FEW_PASSES, WITH_CARE, ISOLATED = "few passes", "with care", "isolated"


class Average(NamedTuple):
    """Output and weights in at least float32, and the logsumexp if it was asked for."""

    output: Float[Tensor, "*batch queries value_features"]
    weights: Float[Tensor, "*batch queries keys"] | None
    logsumexp: Float[Tensor, "*batch queries"] | None
    way: str | None = None  # that was taken


class Task(NamedTuple):
    """What is asked for, of any scores: ``shape`` is that of all of them."""

    shape: tuple[int, ...]
    mask: Restriction | None
    dropout: Dropout | None = None  # makes the weights that are used of the weights
    need_log: bool = True


class AnotherWayError(Exception):
    """Not the way that was tried is the one to take, but that of the argument."""


def softmax(
    scores: Float[Tensor, "*batch queries keys"], hidden: Hidden | None
) -> Float[Tensor, "*batch queries keys"]:
    """The weights; 0 for what is hidden, and for all where nothing is left."""
    wide = scores if hidden is None else scores.masked_fill(hidden, -math.inf)
    # Softmax of nothing but -inf is NaN, its gradient too: zeros go in.
    empty = (wide == -math.inf).all(dim=-1, keepdim=True)
    weights = wide.masked_fill(empty, 0.0).softmax(dim=-1)
    return weights.masked_fill(empty if hidden is None else hidden | empty, 0.0)


def log_sum_exp(
    scores: Float[Tensor, "*batch queries keys"], hidden: Hidden | None
) -> Float[Tensor, "*batch queries"]:
    """Its logarithm of the sum of exponentials; -inf where nothing is left."""
    wide = scores if hidden is None else scores.masked_fill(hidden, -math.inf)
    empty = (wide == -math.inf).all(dim=-1)
    filled = wide.masked_fill(empty.unsqueeze(-1), 0.0)
    return filled.logsumexp(dim=-1).masked_fill(empty, -math.inf)


def average(
    scores: Float[Tensor, "*batch queries keys"],
    values: Float[Tensor, "*batch keys value_features"],
    hidden: Hidden | None,
    task: Task,
    again: Callable[[Hidden], Tensor] | None = None,
    *,
    sees_all: bool = False,
    way: str | None = None,
    once: bool = False,
    differentiated: bool = False,
    spare: bool = False,
) -> Average:
    """Weights and output of scores and values in one dtype, at least float32.

    Parameters
    ----------
    hidden
        Which pairs do not count.
    task
        What drops weights, and whether the logsumexp is asked for.
    again
        Makes the scores again where a number that is not finite is hidden from somebody, so that
        it does not reach that query's gradient.
    sees_all
        Whether surely every query has a key.
    way
        The way to take, where it was taken before.
    once
        Whether to raise :class:`AnotherWayError` rather than to try one way and take another.
    differentiated
        Whether the way will be taken again for a gradient, though autograd does not follow now.
    spare
        Whether the scores may be written over, which holds one tensor less: more of them would
        be given back to the system, and asked for again by the next call.
    """
    found, ordinary = None, is_ordinary(scores, values)
    if way == FEW_PASSES or (way is None and ordinary and values.shape[-1] > 0):
        found = _in_few_passes(
            scores, values, hidden, task.dropout, sees_all=sees_all, sure=way is not None,
            follow=differentiated or scores.requires_grad, spare=spare,
        )  # fmt: skip
    if found is not None:
        way = FEW_PASSES
    elif way is None:
        spoilt = ordinary and hidden is not None and again is not None
        way = ISOLATED if spoilt and not is_finite(scores) else WITH_CARE
        if once:
            raise AnotherWayError(way)
    if found is None:
        if way == ISOLATED and again is not None and hidden is not None:
            scores = again(hidden).to(scores.dtype)
        found = _with_care(scores, values, hidden, task.dropout, ordinary)
    return Average(*found, log_sum_exp(scores, hidden) if task.need_log else None, way)


def _in_few_passes(
    scores: Tensor,
    values: Tensor,
    hidden: Hidden | None,
    dropout: Dropout | None,
    *,
    sees_all: bool,
    sure: bool,
    follow: bool,
    spare: bool,
) -> tuple[Tensor, Tensor] | None:
    """As the textbook has it, which is right if all is finite and every query has a key; None
    otherwise, before anything is dropped. ``sure`` if that was seen before; ``follow`` if
    a gradient will be made; ``spare`` as in :func:`average`."""
    if hidden is not None:
        if not sure and (
            (not sees_all and bool(hidden.all(dim=-1).any()))
            or (follow and not is_finite(scores))  # its gradient would meet it again
        ):
            return None
        fill = scores.masked_fill_ if spare else scores.masked_fill
        scores = fill(hidden, -math.inf)
    weights = scores.softmax(dim=-1)
    if hidden is not None and weights.requires_grad:
        weights = weights.masked_fill(hidden, 0.0)  # so that no gradient comes from there
    if dropout is not None and not sure and not is_finite(weights, values):
        return None
    used = weights if dropout is None else dropout(weights)
    output = product(used, values)
    return (output, used) if sure or dropout is not None or is_finite(output) else None


def _with_care(
    scores: Tensor, values: Tensor, hidden: Hidden | None, dropout: Dropout | None, ordinary: bool
) -> tuple[Tensor, Tensor]:
    """Right whatever there is."""
    if hidden is not None:
        values = values.masked_fill(hidden.all(dim=-2).unsqueeze(-1), 0.0)
    all_finite = ordinary and is_finite(values)
    if ordinary and not all_finite:  # a score of -inf hides as well
        infinite = scores == -math.inf
        hidden = infinite if hidden is None else hidden | infinite
    weights = softmax(scores, hidden)
    used = weights if dropout is None else dropout(weights)
    output = product(used, values)
    if all_finite or hidden is None or (hidden.shape[-2] == 1 and scores.shape[-2] != 1):
        return output, used  # the same is hidden from all: there are zeros now
    # A value that is not finite reaches those who see it, and nobody else.
    finite = values.isfinite()
    seen = (~hidden).to(used.dtype).expand(used.shape) @ (~finite).to(used.dtype) > 0
    return torch.where(seen, output, used @ values.masked_fill(~finite, 0.0)), used


def isolated(
    compare: Compare, q: Tensor, k: Tensor, hidden: Hidden, block: Block, *, by_batch: bool
) -> Tensor:
    """The scores of a block, each query's made without the tokens that are hidden from it,
    where they or the query are not finite: 0 times NaN would reach its gradient. An element of the
    batch at a time, or all of them if they are not scored on their own.
    """
    *batch, rows, columns = sizes = (*q.shape[:-1], k.shape[-2])
    spoilt = ~k.isfinite().all(dim=-1).unsqueeze(-2) | ~q.isfinite().all(dim=-1).unsqueeze(-1)
    veil = hidden.expand(sizes) & spoilt
    found = []
    for part in parts_of_batch(tuple(batch), 1 if by_batch else math.prod(batch)):
        by_rows = veil[part].movedim(-2, 0)
        patterns, which = by_rows.unique(dim=0, return_inverse=True)
        scores, order = [], []
        for number, pattern in enumerate(patterns):
            alike = (which == number).nonzero().flatten()
            some, keys = q[part].index_select(-2, alike), k[part]
            idle = pattern.all(dim=-1)[..., None, None]
            scores.append(
                compare(
                    some.masked_fill(idle, 0.0),
                    keys.masked_fill(pattern.unsqueeze(-1), 0.0),
                    block.within(part, alike),
                )
            )
            order.append(alike)
        back = torch.cat(order).argsort()
        found.append(torch.cat(scores, dim=-2).index_select(-2, back).reshape(-1, rows, columns))
    return torch.cat(found).reshape(sizes)
