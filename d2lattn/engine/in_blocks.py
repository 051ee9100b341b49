"""Some queries at a time, against the keys they may see; the gradient makes their scores again."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from d2lattn.blocks import EVERY, Block, at_once, parts_of_batch
from d2lattn.checks import in_one_dtype
from d2lattn.derivatives import Gradients, alias, gradients, gradients_again
from d2lattn.engine.plain import AnotherWayError, Task, average, isolated
from d2lattn.engine.witness import ChangedError, Witness, version_of
from d2lattn.ordinary import is_finite, is_ordinary, ordinary_again, wants_gradients
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
    task: Task,
) -> Result:
    """Output and logsumexp, the same as of all scores at once."""
    mask = task.mask
    of_mask = list(mask.tensors()) if mask is not None else []
    tensors = (q, k, values, *pairs.tensors, *of_mask)
    noted = [(tensor, version_of(tensor)) for tensor in tensors]
    foreign = pairs.unknown or (mask is not None and mask.foreign)
    follow = wants_gradients(*tensors) or (
        foreign and torch.is_grad_enabled() and not any(x.is_inference() for x in tensors)
    )  # tensors of inference mode cannot be saved: what is found of others is kept as it is
    elements = at_once(ELEMENTS if follow else pairs.times * ELEMENTS, q.device)
    blocks = list(_blocks(task.shape, pairs, mask, elements))
    if task.dropout is None:
        blocks.reverse()  # causal ones shrink then, and fit into the memory of those before
    of_all = pairs, task, foreign, is_ordinary(*tensors[:3]), noted
    runs = [_Run(*of_all, *_visible(block, mask, q)) for block in blocks]
    if not follow:
        return _written(runs, q, k, values)
    if foreign or task.dropout is not None:
        return _kept(runs, q, k, values)
    output, log = _Again.apply(runs, q, k, values, *pairs.tensors, *of_mask)
    return output, log


def _written(runs: "list[_Run]", q: Tensor, k: Tensor, values: Tensor) -> Result:
    """Block after block into one tensor, and nothing else is held."""
    found: Result | None = None
    for run in runs:
        some, log = run.first(run, *run.cut((q, k, values)))
        if found is None:
            found = some.new_empty(*q.shape[:-1], values.shape[-1]), log.new_empty(q.shape[:-1])
        at = (*run.block.batch, run.block.rows)
        found[0][at], found[1][at] = some, log
        del some, log  # before more is made
    assert found is not None
    return found


def _kept(runs: "list[_Run]", q: Tensor, k: Tensor, values: Tensor) -> Result:
    """Block after block, each a checkpoint: autograd finds out what took part.

    A checkpoint holds what it has made again until all of it was used, so output and logsumexp
    are one tensor: a gradient that comes by one of them goes through all that made both, as zeros,
    which times a value that is not finite would be NaN.
    """
    by_batch, dropout = runs[0].pairs.by_batch, runs[0].task.dropout
    keep = partial(checkpoint, use_reentrant=False, preserve_rng_state=dropout is not None)
    tokens, found = (alias(q), alias(k), alias(values)), []
    together = is_ordinary(*tokens) and is_finite(*tokens)
    for run in runs:
        some, tokens = zip(*run.cut(tokens, _Cut.apply), strict=True)
        found.append(run.first(partial(keep, run.of_features, together), *some))
    if dropout is None:
        found.reverse()
    made = []
    for parts in zip(*found, strict=True):
        if by_batch:
            made.append(torch.cat([x.flatten(0, -2) for x in parts]).reshape(*q.shape[:-1], -1))
        else:
            made.append(torch.cat(parts, dim=-2))
    return made[0][..., : values.shape[-1]].contiguous(), made[-1][..., -1].contiguous()


class _Again(torch.autograd.Function):
    """Block after block, made again for the gradient; every tensor that takes part is known."""

    @staticmethod
    def forward(
        ctx: Any, runs: "list[_Run]", q: Tensor, k: Tensor, values: Tensor, *others: Tensor
    ) -> Result:
        # What is saved notices changes.
        ctx.runs = [replace(run, noted=[], differentiated=True) for run in runs]
        ctx.save_for_backward(q, k, values, *others)
        ctx.set_materialize_grads(False)
        return _written(ctx.runs, q, k, values)

    @staticmethod
    def backward(ctx: Any, *d_made: Tensor | None) -> Gradients:
        saved = ctx.saved_tensors  # once: a checkpoint around it counts
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not is_ordinary(*(d for d in d_made if d is not None)):
            noted = [(x, version_of(x)) for x in saved]
            make = partial(_kept, [replace(run, noted=noted) for run in ctx.runs])
            return None, *gradients_again(make, saved[:3], needed, d_made, saved[3:])
        return None, *_summed(ctx.runs, saved, needed, d_made)


def _summed(
    runs: "list[_Run]", tensors: tuple[Tensor, ...], needed: tuple[bool, ...], d_made: Gradients
) -> Gradients:
    """Each block's gradients, added to those of its own tokens and of all other tensors."""
    some = zip(tensors, needed, strict=True)
    totals = [torch.zeros_like(x) if is_needed else None for x, is_needed in some]
    for run in runs:
        own = [
            x.detach().requires_grad_(is_needed)
            for x, is_needed in zip(run.cut(tensors[:3]), needed, strict=False)
        ]
        with ordinary_again():
            made = run(*own)
        d_own = [None if d is None else d[(*run.block.batch, run.block.rows)] for d in d_made]
        places = run.cut(totals[:3], lambda x, at: None if x is None else x[at])
        both = zip((*own, *tensors[3:]), (*places, *totals[3:]), strict=True)
        wanted = [(x, total) for x, total in both if total is not None]
        found = zip(wanted, gradients(made, d_own, [x for x, _ in wanted]), strict=True)
        for (_, total), grad in found:
            if grad is not None:
                total += grad
    return tuple(totals)


class _Cut(torch.autograd.Function):
    """Some tokens, and all of them for the next block: their gradients, one block's after the
    other's, are added to one tensor, where each slice would give a tensor of all tokens."""

    @staticmethod
    def forward(tokens: Tensor, at: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        return tokens[at], tokens.view_as(tokens)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.shape, ctx.at = inputs[0].shape, inputs[1]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, d_some: Tensor | None, d_all: Tensor | None) -> Gradients:
        if d_some is None:
            return d_all, None
        if torch.is_grad_enabled() or not is_ordinary(d_some):
            ends = [(at.indices(n), n) for at, n in zip(ctx.at, ctx.shape, strict=False)]
            widths = [x for (start, stop, _), n in reversed(ends) for x in (start, n - stop)]
            d_tokens = pad(d_some, (0, 0, *widths))
            return d_tokens if d_all is None else d_all + d_tokens, None
        d_all = d_some.new_zeros(ctx.shape) if d_all is None else d_all
        d_all[ctx.at] += d_some
        return d_all, None


def _blocks(
    shape: tuple[int, ...], pairs: Pairs, mask: Restriction | None, elements: int
) -> Iterator[Block]:
    """As large as so many elements allow, in the order of memory: of many elements of the batch
    with all their queries, or of one, or of all that go together, with some."""
    *batch, num_queries, num_keys = shape
    features = pairs.features * (1 if pairs.by_batch else max(1, math.prod(batch)))
    per_row = max(1, num_keys * features)
    rows = max(1, elements // per_row)
    if mask is not None:
        while 2 * rows <= num_queries and 2 * rows * _width(mask, 2 * rows, shape) <= (
            elements // features
        ):
            rows *= 2
    size = elements // max(1, num_queries * per_row) if rows >= num_queries else 1
    whole = (EVERY,) * len(batch)
    for part in parts_of_batch(tuple(batch), max(1, size)) if pairs.by_batch else [whole]:
        for start in range(0, max(1, num_queries), rows):
            yield Block(shape, part, slice(start, min(start + rows, num_queries)), EVERY)


def _width(mask: Restriction, rows: int, shape: tuple[int, ...]) -> int:
    """How many keys so many queries may see at the most."""
    num_queries = shape[-2]
    starts = (num_queries - rows) // 2, num_queries - rows
    hulls = (mask.hull((start, start + rows), shape) for start in starts)
    return max(stop - start for start, stop in hulls)


def _visible(block: Block, mask: Restriction | None, like: Tensor) -> tuple[Block, slice, bool]:
    """The block with the columns that some of its queries may see, the stretch that these lie in,
    and whether all see all."""
    if mask is None:
        return block, EVERY, True
    assert isinstance(block.rows, slice)
    start, stop = mask.hull((block.rows.start, block.rows.stop), block.shape)
    some, every = mask.columns(block._replace(columns=slice(start, stop)), like.device)
    seen = some.nonzero().flatten()
    first, last = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 0)
    stretch = slice(start + first, start + last)
    columns = stretch if len(seen) == last - first else seen + start
    return block._replace(columns=columns), stretch, bool(every[seen].all())


@dataclass
class _Run:
    """The work on one block, which is done once more for its gradient."""

    pairs: Pairs
    task: Task
    foreign: bool  # other tensors may take part
    ordinary: bool  # the tokens were, in the first pass
    noted: list[tuple[Tensor, int]]
    block: Block
    columns: slice  # from the first to the last of the block's
    full: bool
    differentiated: bool = False  # though autograd does not follow the first pass
    way: str | None = None  # that the first pass took, and
    witness: Witness | None = None  # of the first pass

    def first(self, run: Callable[..., Any], q: Tensor, k: Tensor, values: Tensor) -> Any:
        """The first pass, by ``run``; begun again if it takes another way than it began."""
        try:
            return run(q, k, values)
        except AnotherWayError as other:
            (self.way,) = other.args
        return run(q, k, values)

    def cut(self, tokens: Any, cut: Callable[..., Any] = Tensor.__getitem__) -> list[Any]:
        """Its queries, and keys and values from the first to the last that it looks at."""
        stretches = self.block.rows, self.columns, self.columns
        return [cut(x, (*self.block.batch, at)) for x, at in zip(tokens, stretches, strict=True)]

    def of_features(self, together: bool, q: Tensor, k: Tensor, values: Tensor) -> Sequence[Tensor]:
        """Output and logsumexp as features of the queries, in one tensor or in two."""
        with ordinary_again() if self.ordinary else nullcontext():
            output, log = self(q, k, values)
        found = output, log.unsqueeze(-1)
        return [torch.cat(found, dim=-1)] if together else found

    def __call__(self, q: Tensor, k: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Output and logsumexp of the block's own tokens; every time of the same tensors."""
        if any(version_of(tensor) != version for tensor, version in self.noted):
            raise ChangedError
        block, mask, dropout = self.block, self.task.mask, self.task.dropout
        if isinstance(block.columns, Tensor):
            seen = block.columns - self.columns.start
            k, values = k.index_select(-2, seen), values.index_select(-2, seen)
        again_later = self.foreign and torch.is_grad_enabled()
        watch = Witness(q, k, expected=self.witness) if again_later else None
        with without_autocast(q), watch or nullcontext():
            hidden = None if mask is None or self.full else mask.hidden(block, q.device)
            if k.shape[-2] > 0:
                scores = self.pairs.compare(q, k, block)
            else:  # of no key at all, but of all tensors
                scores = q[..., :0] @ k[..., :0].mT
                for x in self.pairs.tensors:
                    scores = scores + x.flatten()[:0].sum() if x.requires_grad else scores
        if watch is not None:
            watch.sum_up(scores.detach(), hidden)
            self.witness = self.witness or watch

        def again(hidden: Tensor) -> Tensor:
            pairs = self.pairs
            return isolated(pairs.compare, q, k, hidden, block, by_batch=pairs.by_batch)

        scores, values = in_one_dtype(scores, values)
        drop = None if dropout is None else partial(self._drop, dropout)
        with without_autocast(q):
            found = average(
                scores, values, hidden, self.task._replace(dropout=drop), again,
                way=self.way, once=True, differentiated=self.differentiated,
            )  # fmt: skip
        self.way = found.way
        log = found.logsumexp
        return found.output, scores.new_zeros(scores.shape[:-1]) if log is None else log

    def _drop(self, dropout: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
        """Of all columns, so that the same weights are dropped whatever is visible."""
        rows = self.block._replace(columns=EVERY)
        if weights.shape == rows.sizes:
            return dropout(weights)
        factors = dropout(weights.new_ones(rows.sizes))
        return weights * factors[..., self.block.columns]
