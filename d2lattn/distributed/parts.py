"""What own queries make of a block of keys: a part of their average, and of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from d2lattn.checks import at_least_float32, is_autocast
from d2lattn.derivatives import gradients
from d2lattn.distributed.layout import Stretches
from d2lattn.distributed.plan import Plan
from d2lattn.engine.fused import join

__all__ = ["Joint", "Share", "packed", "unpacked", "wide"]


_NUMBERS_AT_ONCE = 2**16  # that are joined together


def _cut(tokens: Tensor, parts: Stretches) -> tuple[Tensor, ...]:
    return tokens.split([stop - start for start, stop in parts], dim=-2)


def packed(k: Tensor, v: Tensor) -> Tensor:
    """Keys and values, or their gradients, in one row."""
    dtype = torch.promote_types(k.dtype, v.dtype)
    return torch.cat([k.detach().reshape(-1).to(dtype), v.detach().reshape(-1).to(dtype)])


def unpacked(row: Tensor, plan: Plan, number: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of a block with the batch, the features and the dtypes of the own ones."""
    of_k, of_v = _views(row, plan, number, k, v)
    return of_k.to(k.dtype), of_v.to(v.dtype)


def _views(row: Tensor, plan: Plan, number: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    count = sum(stop - start for start, stop in plan.of_keys[number])
    shapes = [(*x.shape[:-2], count, x.shape[-1]) for x in (k, v)]
    first, second = row.split([torch.Size(shape).numel() for shape in shapes])
    return first.view(shapes[0]), second.view(shapes[1])


def wide(*tensors: Tensor) -> torch.dtype:
    """The dtype in which gradients are summed, and results are returned."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _pieces(
    plan: Plan, number: int, row: Tensor, k: Tensor, v: Tensor
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Of a block the stretches of keys and values, with the own stretches of queries that may
    see them."""
    block = unpacked(row, plan, number, k, v)
    meets = plan.meets[plan.peers.rank][number]
    for column, (some_k, some_v) in enumerate(
        zip(*(_cut(x, plan.of_keys[number]) for x in block), strict=True)
    ):
        for query in range(len(plan.of_queries[plan.peers.rank])):
            if meets[query][column]:
                yield query, column, some_k, some_v


class Joint:
    """What the own queries have of the blocks so far."""

    def __init__(
        self, plan: Plan, tensors: tuple[Tensor, ...], q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        self.plan, self.tensors, self.k, self.v = plan, tensors, k, v
        # Parts of half precision are joined in float32, and those of float32 in float64: what a
        # ring rounds more often than one process does should not show.
        half = all(x.dtype in (torch.float16, torch.bfloat16) for x in (q, k, v))
        dtype = torch.float32 if half or q.device.type == "mps" else torch.float64
        self.output = q.new_zeros((*q.shape[:-1], v.shape[-1]), dtype=dtype)
        self.logsumexp = self.output.new_full(q.shape[:-1], -torch.inf)
        rows = plan.of_queries[plan.peers.rank]
        logs = self.logsumexp.split([stop - start for start, stop in rows], dim=-1)
        self.parts = list(zip(_cut(q, rows), _cut(self.output, rows), logs, strict=True))

    def __call__(self, number: int, block: Tensor) -> None:
        for row, column, k, v in _pieces(self.plan, number, block, self.k, self.v):
            q, output, log = self.parts[row]
            found, found_log = self.plan.part(number, self.tensors, row, column, q, k, v)
            # Some rows at a time: no second copy of all in a wider dtype.
            rows = max(1, _NUMBERS_AT_ONCE // max(1, output[..., :1, :].numel()))
            for some in zip(
                output.split(rows, -2), log.split(rows, -1),
                found.split(rows, -2), found_log.split(rows, -1), strict=True,
            ):  # fmt: skip
                join(some[0], some[1], *(x.to(output.dtype) for x in some[2:]))


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
    rows: list[tuple[Tensor, ...]]  # q, d_output, logsumexp, rest of d_logsumexp, d_q
    d_q: Tensor
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
        sizes = [stop - start for start, stop in plan.of_queries[plan.peers.rank]]
        rows = zip(
            q.split(sizes, -2), d_output.split(sizes, -2), logsumexp.split(sizes, -1),
            rest.split(sizes, -1), d_q.split(sizes, -2), strict=True,
        )  # fmt: skip
        return Share(plan, tensors, k, v, list(rows), d_q, {})

    def __call__(self, number: int, block: Tensor) -> Tensor:
        """The gradients of a block, in one row."""
        plan, dtype = self.plan, self.d_q.dtype
        owed = torch.zeros_like(block, dtype=dtype)
        both = _views(owed, plan, number, self.k, self.v)
        cut = [_cut(x, plan.of_keys[number]) for x in both]
        for row, column, *some in _pieces(plan, number, block, self.k, self.v):
            q, d_output, logsumexp, rest, d_q = self.rows[row]
            tokens = [self._leaf(x) for x in (q, *some)]
            asked = [x for x in self.tensors if x.requires_grad]
            enabled, ambient = plan.autocast
            with torch.enable_grad(), torch.autocast(q.device.type, ambient, enabled=enabled):
                found, log = plan.part(number, self.tensors, row, column, *tokens)
            found, log = (x.to(dtype) for x in (found, log))
            with torch.no_grad():
                share = (log - logsumexp).exp().masked_fill(log == -torch.inf, 0.0)
                d_found = share.unsqueeze(-1) * d_output
                d_log = (d_found * found).sum(dim=-1) + share * rest
            grads = gradients((found, log), (d_found, d_log), [*tokens, *asked])
            for total, grad in zip((d_q, cut[0][column], cut[1][column]), grads, strict=False):
                if grad is not None:
                    total += grad
            for tensor, grad in zip(asked, grads[3:], strict=True):
                if grad is not None:
                    grad = at_least_float32(grad)
                    known = self.d_tensors.get(id(tensor))
                    self.d_tensors[id(tensor)] = grad if known is None else known + grad
        return owed

    def _leaf(self, tokens: Tensor) -> Tensor:
        """Where gradients are asked for; in float32 where nobody minds, not to round them."""
        half = tokens.dtype not in (torch.float32, torch.float64)
        minded = is_autocast(tokens.device) or any(x.dtype == tokens.dtype for x in self.tensors)
        tokens = tokens.detach()
        return (tokens.float() if half and not minded else tokens).requires_grad_()
