"""Some queries at a time, against the keys they may see; the gradient makes their scores again."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from d2lattn.blocks import Block, blocks_of_rows
from d2lattn.checks import wants_gradients
from d2lattn.engine.plain import average, isolated
from d2lattn.engine.probe import ChangedError, Seen, Witness
from d2lattn.restrictions import Restriction
from d2lattn.score import Pairs, without_autocast

# What a block holds for its pairs, in elements: 1 MB in float32, which stays in a core's cache.
ELEMENTS = 2**18

Result = tuple[Float[Tensor, "*batch queries value_features"], Float[Tensor, "*batch queries"]]


def in_blocks(
    pairs: Pairs,
    q: Float[Tensor, "*batch queries hidden"],
    k: Float[Tensor, "*batch keys hidden"],
    values: Float[Tensor, "*batch keys value_features"],
    mask: Restriction | None,
    dropout: Callable[[Tensor], Tensor] | None,
    *,
    need_log: bool,
) -> Result:
    """Output and logsumexp, the same as of all scores at once."""
    shape = (*q.shape[:-1], k.shape[-2])
    tensors = (q, k, values, *pairs.tensors, *(mask.tensors() if mask is not None else ()))
    noted = [(tensor, tensor._version) for tensor in tensors]
    again = wants_gradients(*tensors) or (pairs.unknown and torch.is_grad_enabled())
    outputs, logs = [], []
    for block in _blocks(shape, pairs, mask):
        run = partial(_attend, pairs, _visible(block, mask, q), mask, dropout, need_log, noted, {})
        if again:
            run = partial(
                checkpoint, run, use_reentrant=False, preserve_rng_state=dropout is not None
            )
        output, log = run(q, k, values)
        outputs.append(output)
        logs.append(log)
    if not pairs.by_batch:
        return torch.cat(outputs, dim=-2), torch.cat(logs, dim=-1)
    output = torch.cat([x.flatten(0, -2) for x in outputs])
    log = torch.cat([x.flatten() for x in logs])
    return output.reshape(*shape[:-1], values.shape[-1]), log.reshape(shape[:-1])


def _blocks(shape: tuple[int, ...], pairs: Pairs, mask: Restriction | None) -> Iterator[Block]:
    """As large as memory allows, in the order of memory."""
    *batch, num_queries, num_keys = shape
    together = 1 if pairs.by_batch else math.prod(batch)
    features = pairs.features * max(1, together)
    rows = max(1, ELEMENTS // max(1, num_keys * features))
    if mask is not None:
        while 2 * rows <= num_queries and 2 * rows * _width(mask, 2 * rows, shape) <= (
            ELEMENTS // features
        ):
            rows *= 2
    per_row = ELEMENTS // rows if rows < num_queries else max(1, num_keys * features)
    cut = tuple(batch) if pairs.by_batch else ()
    for block in blocks_of_rows((*cut, num_queries, num_keys), per_row, ELEMENTS):
        part = block.batch if pairs.by_batch else (slice(None),) * len(batch)
        yield Block(shape, part, block.rows, block.columns)


def _width(mask: Restriction, rows: int, shape: tuple[int, ...]) -> int:
    """How many keys so many queries may see at the most."""
    num_queries = shape[-2]
    starts = (num_queries - rows) // 2, num_queries - rows
    hulls = (mask.hull((start, start + rows), shape) for start in starts)
    return max(stop - start for start, stop in hulls)


def _visible(block: Block, mask: Restriction | None, like: Tensor) -> tuple[Block, bool]:
    """The block with the columns that some of its queries may see, and whether all see all."""
    if mask is None:
        return block, True
    assert isinstance(block.rows, slice)
    start, stop = mask.hull((block.rows.start, block.rows.stop), block.shape)
    block = block._replace(columns=slice(start, stop))
    some, every = mask.columns(block, like.device)
    seen = some.nonzero().flatten()
    if len(seen) == 0:
        return block._replace(columns=slice(start, start)), True
    first, last = int(seen[0]), int(seen[-1]) + 1
    if len(seen) == last - first:
        columns = slice(start + first, start + last)
        return block._replace(columns=columns), bool(every[first:last].all())
    return block._replace(columns=seen + start), bool(every[seen].all())


def _attend(
    pairs: Pairs,
    visible: tuple[Block, bool],
    mask: Restriction | None,
    dropout: Callable[[Tensor], Tensor] | None,
    need_log: bool,
    noted: Seen,
    first: dict[str, Any],
    q: Tensor,
    k: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor]:
    """One block; called once more for its gradient, when nothing may have changed."""
    if any(tensor._version != version for tensor, version in noted):
        raise ChangedError
    block, sees_all = visible
    whole_rows = block._replace(columns=slice(None))
    q, k = block.tokens(q, block.rows), block.tokens(k, block.columns)
    v = block.tokens(values, block.columns)
    drop = dropout
    if dropout is not None and mask is not None:

        def drop(weights: Tensor) -> Tensor:  # of all columns, so that the same ones are dropped
            factors = dropout(weights.new_ones(whole_rows.sizes))
            return weights * block._replace(
                shape=whole_rows.sizes, batch=(slice(None),) * len(block.batch), rows=slice(None)
            ).cut(factors)

    if k.shape[-2] == 0:
        nothing = sum(x[..., :0].sum() for x in (q, k, v))  # 0, but of them
        if drop is not None:
            drop(q.new_ones(block.sizes))
        log = q.new_full(q.shape[:-1], -torch.inf)
        return q.new_zeros(*q.shape[:-1], v.shape[-1]) + nothing, log
    foreign = pairs.unknown or (mask is not None and mask.foreign)
    watch = Witness(q, k, expected=first.get("seen")) if foreign else nullcontext()
    with without_autocast(q), watch:
        hidden = None if mask is None or sees_all else mask.hidden(block, q.device)
        scores = pairs.compare(q, k, block)
    if isinstance(watch, Witness):
        first.setdefault("seen", watch.seen)
    remade = None if hidden is None else partial(isolated, pairs.compare, q, k, hidden, block)
    with without_autocast(q):
        found = average(
            scores.to(v.dtype), v, hidden,
            sees_all=sees_all, dropout=drop, again=remade, need_log=need_log, way=first.get("way"),
        )  # fmt: skip
    first.setdefault("way", found.way)
    if found.logsumexp is None:
        return found.output, scores.new_zeros(scores.shape[:-1])
    return found.output, found.logsumexp
