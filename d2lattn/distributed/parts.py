"""What own queries make of a block of keys: a part of their average, and of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d2lattn.checks import at_least_float32, is_autocast
from d2lattn.derivatives import gradients
from d2lattn.distributed.layout import Stretches
from d2lattn.distributed.plan import Plan
from d2lattn.engine.fused import join
from d2lattn.engine.witness import ChangedError
from d2lattn.extras import Tick
from d2lattn.restrictions import Stretch

__all__ = ["Joint", "Share", "pack", "unpack", "wide"]


_NUMBERS_AT_ONCE = 2**15  # that are joined together


def _cut(tokens: Tensor, parts: Stretches) -> tuple[Tensor, ...]:
    return tokens.split([stop - start for start, stop in parts], dim=-2)


def _views(row: Tensor, stretches: Stretches, k: Tensor, v: Tensor) -> list[tuple[Tensor, ...]]:
    """Keys and values in a row, or their gradients, by their stretches: with the batch and the
    features of the own ones."""
    count = sum(stop - start for start, stop in stretches)
    shapes = [(*x.shape[:-2], count, x.shape[-1]) for x in (k, v)]
    parts = row.split([torch.Size(shape).numel() for shape in shapes])
    return [_cut(x.view(shape), stretches) for x, shape in zip(parts, shapes, strict=True)]


def _own(plan: Plan, number: int, x: Tensor) -> list[Tensor]:
    """Of own keys, or values, those of a block."""
    stretches = _cut(x, plan.of_keys[plan.peers.rank])
    turn = number // plan.peers.size
    return [stretch.tensor_split(plan.parts, dim=-2)[turn] for stretch in stretches]


def _places(
    plan: Plan, number: int, row: Tensor, k: Tensor, v: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Where the keys and values of an own block are in a row, and where in the own ones."""
    for x, some in zip((k, v), _views(row, plan.blocks()[number], k, v), strict=True):
        yield from zip(some, _own(plan, number, x), strict=True)


def pack(plan: Plan, number: int, row: Tensor, k: Tensor, v: Tensor) -> None:
    """Keys and values of an own block into one row."""
    for place, tokens in _places(plan, number, row, k.detach(), v.detach()):
        place.copy_(tokens)


def unpack(plan: Plan, number: int, row: Tensor, k: Tensor, v: Tensor) -> None:
    """From a row to the keys and values of an own block."""
    for place, tokens in _places(plan, number, row, k, v):
        tokens.copy_(place)


def wide(*tensors: Tensor) -> torch.dtype:
    """The dtype in which gradients are summed, and results are returned."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


class Joint:
    """What the own queries have of the blocks so far."""

    def __init__(
        self,
        plan: Plan,
        tensors: tuple[Tensor, ...],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tick: Tick | None = None,  # called with each share of the work that is done
    ) -> None:
        self.plan, self.tensors, self.k, self.v, self.tick = plan, tensors, k, v, tick
        self.blocks = plan.blocks()
        self.output = q.new_zeros((*q.shape[:-1], v.shape[-1]), dtype=wide(q, k, v))
        # In float64: of logarithms that are rounded the shares do not add up to 1, and what a
        # ring rounds more often than one process does should not show.
        dtype = torch.float32 if q.device.type == "mps" else torch.float64
        self.logsumexp = self.output.new_full(q.shape[:-1], -torch.inf, dtype=dtype)
        rows = plan.rows()
        logs = self.logsumexp.split([stop - start for start, stop in rows], dim=-1)
        self.rows = list(zip(rows, _cut(q, rows), _cut(self.output, rows), logs, strict=True))

    def __call__(self, number: int, block: Tensor) -> None:
        columns = self.blocks[number]
        for some in zip(columns, *_views(block, columns, self.k, self.v), strict=True):
            of_keys, k, v = some[0], some[1].to(self.k.dtype), some[2].to(self.v.dtype)
            for rows, q, output, log in self.rows:
                _join(output, log, self.plan.part(self.tensors, rows, of_keys, q, k, v))
        if self.tick is not None:
            self.tick(1 / (self.plan.parts * sum(self.plan.needs[self.plan.peers.rank])))


def _join(output: Tensor, log: Tensor, found: tuple[Tensor, Tensor] | None) -> None:
    """Take what other keys gave into what there is, in the dtype of its logarithms: of some rows
    at a time, so that there is no second copy of all in a wider dtype."""
    if found is None:
        return
    rows = max(1, _NUMBERS_AT_ONCE // max(1, output[..., :1, :].numel()))
    for so_far, so_far_log, more, more_log in zip(
        output.split(rows, -2), log.split(rows, -1),
        found[0].split(rows, -2), found[1].split(rows, -1), strict=True,
    ):  # fmt: skip
        joined = so_far.to(log.dtype)
        join(joined, so_far_log, more.to(log.dtype), more_log.to(log.dtype))
        so_far.copy_(joined)


@dataclass
class Share:
    r"""What the own queries owe: to themselves, to the score's tensors and to each block.

    .. math:: \mathrm{d}o^{(p)} = s\, \mathrm{d}o, \qquad
              \mathrm{d}L^{(p)} = s\, \bigl(\mathrm{d}o \cdot (o^{(p)} - o) + \mathrm{d}L\bigr),
              \qquad s = e^{L^{(p)} - L}
    """

    plan: Plan
    tensors: tuple[Tensor, ...]
    k: Tensor
    v: Tensor
    blocks: list[Stretches]
    rows: list[tuple[Any, ...]]  # stretch, q, d_output, logsumexp, rest of d_logsumexp, d_q, whole
    d_q: Tensor
    logsumexp: Tensor
    whole: Tensor  # what the shares s add up to
    d_tensors: dict[int, Tensor]

    @staticmethod
    def of(
        plan: Plan,
        tensors: tuple[Tensor, ...],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        output: Tensor,
        logsumexp: Tensor,
        d_output: Tensor | None,
        d_logsumexp: Tensor | None,
    ) -> Share:
        d_output = torch.zeros_like(output) if d_output is None else d_output
        rest = -(d_output * output).sum(dim=-1)
        rest = rest if d_logsumexp is None else rest + d_logsumexp
        d_q = torch.zeros_like(q, dtype=output.dtype, memory_format=torch.contiguous_format)
        of_rows, whole = plan.rows(), torch.zeros_like(logsumexp)
        sizes = [stop - start for start, stop in of_rows]
        rows = zip(
            of_rows, q.split(sizes, -2), d_output.split(sizes, -2), logsumexp.split(sizes, -1),
            rest.split(sizes, -1), d_q.split(sizes, -2), whole.split(sizes, -1), strict=True,
        )  # fmt: skip
        return Share(plan, tensors, k, v, plan.blocks(), list(rows), d_q, logsumexp, whole, {})

    def trouble(self) -> Exception | None:
        """Shares that do not add up to all: the scores are not what they were."""
        off = (self.whole - (self.logsumexp > -torch.inf).to(self.whole)).abs()
        return ChangedError() if bool((off > 1e-2 + 1e-5 * self.logsumexp.abs()).any()) else None

    def __call__(self, number: int, block: Tensor) -> Tensor:
        """The gradients of a block, in one row."""
        owed = torch.zeros_like(block, dtype=self.d_q.dtype)
        columns = self.blocks[number]
        views = [_views(row, columns, self.k, self.v) for row in (block, owed)]
        for of_keys, k, v, d_k, d_v in zip(columns, *views[0], *views[1], strict=True):
            tokens = k.to(self.k.dtype), v.to(self.v.dtype)
            for row in self.rows:
                self._add(row, of_keys, tokens, (d_k, d_v))
        return owed

    def _add(
        self,
        row: tuple[Any, ...],
        of_keys: Stretch,
        some: tuple[Tensor, ...],
        d_some: tuple[Tensor, ...],
    ) -> None:
        """What some queries and some keys owe."""
        of_row, q, d_output, logsumexp, rest, d_q, whole = row
        leaves = [self._leaf(x) for x in (q, *some)]
        asked = [x for x in self.tensors if x.requires_grad]
        enabled, ambient = self.plan.autocast
        with torch.enable_grad(), torch.autocast(q.device.type, ambient, enabled=enabled):
            made = self.plan.part(self.tensors, of_row, of_keys, *leaves)
        if made is None:
            return
        found, log = (x.to(d_q.dtype) for x in made)
        with torch.no_grad():
            share = (log - logsumexp).exp().masked_fill(log == -torch.inf, 0.0)
            whole += share
            d_found = share.unsqueeze(-1) * d_output
            d_log = (d_found * found).sum(dim=-1) + share * rest
        grads = gradients((found, log), (d_found, d_log), [*leaves, *asked])
        for total, grad in zip((d_q, *d_some), grads, strict=False):
            if grad is not None:
                total += grad
        for tensor, grad in zip(asked, grads[3:], strict=True):
            if grad is not None:
                grad = at_least_float32(grad)
                known = self.d_tensors.get(id(tensor))
                self.d_tensors[id(tensor)] = grad if known is None else known + grad

    def _leaf(self, tokens: Tensor) -> Tensor:
        """Where gradients are asked for; in float32 where nobody minds, not to round them."""
        half = tokens.dtype not in (torch.float32, torch.float64)
        minded = is_autocast(tokens.device) or any(x.dtype == tokens.dtype for x in self.tensors)
        tokens = tokens.detach()
        return (tokens.float() if half and not minded else tokens).requires_grad_()
