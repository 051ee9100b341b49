"""Which way is taken: the one place that chooses, among ways to compute the same function."""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from d2lattn.blocks import Block
from d2lattn.checks import check_scores, in_one_dtype, is_autocast
from d2lattn.engine.fused import fused
from d2lattn.engine.in_blocks import Result, in_blocks
from d2lattn.engine.plain import AnotherWayError, Average, Dropout, Task, average, isolated
from d2lattn.engine.probe import pairs_of
from d2lattn.engine.small import fits, in_few_calls
from d2lattn.ordinary import can_be_saved, is_finite, is_ordinary, wants_gradients
from d2lattn.restrictions import Restriction
from d2lattn.score import (
    Score,
    ScoreFunction,
    all_scores,
    compared,
    is_of_pytorch,
    knows,
    without_autocast,
)

# Where the weights are not asked for, more scores than these are not made all at once.
SCORES_AT_ONCE = 2**16
# Booleans that are looked at together, where it must be known what nobody may see.
BOOLEANS_AT_ONCE = 2**22


def at_a_glance(
    attention: nn.Module,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    valid_lens: Tensor | None,
    mask: object,
    need_weights: bool,
) -> Average | None:
    """Attention in few calls, of tokens that were checked, before anything is made of the lengths;
    None where it cannot be seen at a glance that this is the same."""
    tensors = (queries, keys, values) if valid_lens is None else (queries, keys, values, valid_lens)
    kind, inner = type(attention), attention._modules  # where a module is found, but sooner
    score, dropout = inner.get("score"), inner.get("dropout")
    if (
        mask is not None
        or not is_ordinary(*tensors)
        or is_autocast(queries.device)
        or hasattr(kind, "score")  # a property, which comes before what is found here
        or hasattr(kind, "dropout")
        or not isinstance(score, Score)
        or dropout is None
        or _active(dropout) is not None
        or not fits(keys, values, valid_lens)
    ):
        return None
    add_scores = score.at_a_glance(queries, keys)
    if add_scores is None:
        return None
    if not need_weights:
        most = SCORES_AT_ONCE if wants_gradients(queries, keys, values) else type(score).few
        if queries.shape[0] * queries.shape[1] * keys.shape[1] > most:
            return None
    return in_few_calls(add_scores, queries, keys, values, valid_lens)


def attend(
    score: ScoreFunction,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Restriction | None,
    dropout: nn.Module | float,
    *,
    need_weights: bool,
    need_log: bool = False,
) -> Average:
    """Attention, of arguments that were checked, in at least float32."""
    shape = (*queries.shape[:-1], keys.shape[-2])
    tokens = queries, keys, values
    task = Task(shape, mask, _active(dropout), need_log)
    ordinary = is_ordinary(*tokens)
    if not isinstance(score, Score) or not score.in_halves():
        queries, keys, values = _without_padding(*tokens, mask)
        # Asked once, for all of them.
        return _all_at_once(all_scores(score, queries, keys), values, task)
    large = ordinary and not need_weights and math.prod(shape) > SCORES_AT_ONCE
    # Others may make a weight of what is hidden, and know no blocks.
    drops = not isinstance(dropout, nn.Module) or _is_dropout(dropout)
    if ordinary and not large and drops and score.shows_tokens():
        # Without a look at the tokens: what they are is seen in what is made of them.
        q, k, v = in_one_dtype(*score.project(queries, keys), values)
        with without_autocast(q), suppress(AnotherWayError):
            return _all_at_once(score.compare(q, k), v, task, easily=True)
    mixes = large and knows(score, "as_dot_product") and score.mixes_tokens()
    if mask is not None and (mixes or not (ordinary and drops and is_finite(*tokens))):
        queries, keys, values = _without_padding(*tokens, mask)
    q, k, v = in_one_dtype(*score.project(queries, keys), values)
    as_given = q.shape[:-1] == queries.shape[:-1] and k.shape[:-1] == keys.shape[:-1]
    if large and as_given and drops:
        with without_autocast(q):
            streamed = _without_weights(score, q, k, v, task)
        if streamed is not None:
            return Average(streamed[0], None, streamed[1])
    with without_autocast(q):
        scores = compared(score, q, k)

    def beside_all(some: Tensor, k: Tensor, block: Block) -> Tensor:
        assert isinstance(block.rows, Tensor)
        every = q.masked_fill(~q.isfinite().all(dim=-1, keepdim=True), 0.0)
        every = every.index_copy(-2, block.rows, some)
        return compared(score, every, k).index_select(-2, block.rows)

    def again(hidden: Tensor) -> Tensor:
        pairs = pairs_of(score, q, k)  # which know where some of the queries stand
        compare, by_batch = (pairs.compare, pairs.by_batch) if pairs else (beside_all, False)
        return isolated(compare, q, k, hidden, Block.whole(shape), by_batch=by_batch)

    return _all_at_once(scores, v, task, again)


def _without_weights(score: Score, q: Tensor, k: Tensor, v: Tensor, task: Task) -> Result | None:
    """By the fused kernel, or block by block; None where only all at once is the same."""
    if not can_be_saved(q, k, v):
        return None
    if task.dropout is None and knows(score, "as_dot_product"):
        product = score.as_dot_product(q, k)
        if product is not None:
            long_q, long_k, scale = product
            found = fused(long_q, long_k, scale, v.to(long_q.dtype), task.mask)
            if found is not None:
                return found
    if not torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]
        return None  # blocks are kept by such hooks
    pairs = pairs_of(score, q, k)
    if pairs is None or (task.dropout is not None and not pairs.by_batch and q.ndim > 2):
        return None
    return in_blocks(pairs, q, k, v, task) if can_be_saved(q, k, v, *pairs.tensors) else None


def _all_at_once(
    scores: Tensor,
    values: Tensor,
    task: Task,
    again: Callable[[Tensor], Tensor] | None = None,
    easily: bool = False,
) -> Average:
    shape, mask = task.shape, task.mask
    check_scores(scores, shape)
    scores, values = in_one_dtype(scores, values)
    hidden, sees_all = None, True
    if mask is not None:
        hidden, sees_all = mask.hidden(Block.whole(shape), scores.device), mask.sees_all(shape)
    with without_autocast(values):
        return average(
            scores, values, hidden, task, again, sees_all=sees_all, once=easily, spare=easily
        )


def _active(dropout: nn.Module | float) -> Dropout | None:
    """What drops weights; None where nothing does and nobody listens."""
    if isinstance(dropout, nn.Module):
        idle = _is_dropout(dropout) and (not dropout.training or dropout.p == 0)
        return None if idle else dropout
    return partial(drop, p=dropout, training=True) if dropout > 0 else None


def _is_dropout(module: nn.Module) -> bool:
    return is_of_pytorch(module, nn.Dropout) and not module.inplace


def _without_padding(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Restriction | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros in place of what takes no part, so that not even NaN may spread from it."""
    if mask is None:
        return queries, keys, values
    idle, padding = unused_tokens(mask, (*queries.shape[:-1], keys.shape[-2]), queries)
    unused = (queries, idle), (keys, padding), (values, padding)
    q, k, v = (x.masked_fill(hide.unsqueeze(-1), 0.0) for x, hide in unused)
    return q, k, v


def unused_tokens(
    mask: Restriction, shape: tuple[int, ...], like: Tensor
) -> tuple[Bool[Tensor, "*batch #queries"], Bool[Tensor, "*batch #keys"]]:
    """Queries that see no key, and keys that no query sees."""
    rows = shape[-2]
    if is_ordinary(like):
        rows = max(1, BOOLEANS_AT_ONCE // max(1, math.prod(shape[:-2]) * shape[-1]))
    return mask.unused(shape, like.device, rows)
