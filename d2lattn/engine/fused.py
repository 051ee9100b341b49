"""Dot products by PyTorch's fused kernel for CPUs, which also gives the logsumexp."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from torch.utils import _pytree as pytree

from d2lattn.blocks import EVERY, Block
from d2lattn.checks import product
from d2lattn.derivatives import Gradients, alias, gradients_again
from d2lattn.engine.in_blocks import Result, in_blocks
from d2lattn.engine.plain import Task
from d2lattn.engine.plan import Kind, Piece, bias, groups, pieces
from d2lattn.ordinary import is_finite, is_ordinary
from d2lattn.restrictions import Restriction
from d2lattn.score import Pairs

# Tokens that are copied to be computed together: 4 MB at 64 features in float32.
TOKENS = 2**14
# What a logarithm of a sum of exponentials may be at the most, where pieces are joined by it.
LARGE = 1e4
# What of a block queries, keys and values belong to.
_AXES = "rows", "columns", "columns"

_FORWARD, _BACKWARD = (
    getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{way}", None)
    for way in ("", "_backward")
)


def _has_arguments(operator: Any, *names: str) -> bool:
    """Whether PyTorch still has its private operator, called as we do."""
    arguments = () if operator is None else operator.default._schema.arguments
    return names == tuple(argument.name for argument in arguments)


AVAILABLE = _has_arguments(
    _FORWARD, "query", "key", "value", "dropout_p", "is_causal", "attn_mask", "scale"
) and _has_arguments(
    _BACKWARD, "grad_out", "query", "key", "value", "out", "logsumexp", "dropout_p", "is_causal",
    "attn_mask", "scale",
)  # fmt: skip


def dot_products(scale: float | Tensor) -> Pairs:
    """Pairs that are scored by a scaled dot product."""
    if not isinstance(scale, Tensor):
        return Pairs(lambda q, k, block: product(q * scale, k.mT))
    scale = alias(scale)  # a learned one was put in its place, of each head or feature for instance

    def compare(q: Tensor, k: Tensor, block: Block) -> Tensor:
        return product(q * block._replace(columns=EVERY).cut(scale), k.mT)

    return Pairs(compare, (scale,))


def fused(
    q: Float[Tensor, "*batch queries features"],
    k: Float[Tensor, "*batch keys features"],
    scale: float,
    values: Float[Tensor, "*batch keys value_features"],
    mask: Restriction | None,
) -> Result | None:
    """Output and logsumexp, of tokens in one dtype; None where the kernel cannot be trusted."""
    if (
        not AVAILABLE
        or q.device.type != "cpu"
        or q.dtype not in (torch.float32, torch.float64)
        or 0 in (*q.shape, *k.shape, *values.shape)
        or (mask is not None and mask.foreign)
    ):
        return None
    leaves, tree = pytree.tree_flatten(mask)
    output, logsumexp = _Fused.apply(scale, tree, q, k, values, *leaves)
    if mask is not None:
        # What is hidden from some may have reached them, 0 times NaN; and what pieces weigh is
        # known by logarithms, of which large ones have no digits left for it.
        large = logsumexp.abs().masked_fill(logsumexp == -torch.inf, 0.0) > LARGE
        if not is_finite(output) or bool(large.any()):
            return None
    if output.requires_grad:  # its own are kept for the gradient, others may be written over
        return output.clone(), logsumexp.clone()
    return output, logsumexp


class _Fused(torch.autograd.Function):
    """Piece after piece, each joined to what its queries have so far."""

    @staticmethod
    def forward(
        scale: float, tree: Any, q: Tensor, k: Tensor, values: Tensor, *leaves: Tensor
    ) -> tuple[Tensor, Tensor]:
        mask = pytree.tree_unflatten(leaves, tree)
        shape = (*q.shape[:-1], k.shape[-2])
        output = values.new_zeros(*q.shape[:-1], values.shape[-1])
        logsumexp = values.new_full(q.shape[:-1], -torch.inf)
        width = max(q.shape[-1], values.shape[-1])  # the kernel takes one width only
        wide = [_widened(tokens, width) for tokens in (q, k, values)]
        begun = set()  # rows that have a piece
        for group in groups(pieces(shape, mask, q.device), mask, TOKENS):
            added, empty = bias(group[0], mask, q)
            assert _FORWARD is not None
            outs, logs = _FORWARD(
                *map(partial(_stacked, group), wide, _AXES),
                is_causal=group[0].kind is Kind.TRIANGLE, attn_mask=added, scale=scale,
            )  # fmt: skip
            if empty is not None:
                logs = logs.masked_fill(empty.repeat(len(logs) // len(empty), 1, 1), -torch.inf)
            parts = _apart(group, outs), _apart(group, logs)
            for piece, out, log in zip(group, *parts, strict=True):
                at = (*piece.block.batch, piece.block.rows)
                out = out[..., : values.shape[-1]]
                if str(at) in begun:
                    join(output[at], logsumexp[at], out, log)
                else:
                    output[at], logsumexp[at] = out, log
                    begun.add(str(at))
        return output, logsumexp

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.scale, ctx.tree, *tensors = inputs
        ctx.save_for_backward(*tensors, *output)  # which notices what is changed in place
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor | None, d_logsumexp: Tensor | None) -> Gradients:
        q, k, values, *leaves, output, logsumexp = ctx.saved_tensors
        mask = pytree.tree_unflatten(leaves, ctx.tree)
        nothing, d_made = (None,) * len(leaves), (d_output, d_logsumexp)
        if not torch.is_grad_enabled() and is_ordinary(*(x for x in d_made if x is not None)):
            exact = _gradients(ctx.scale, mask, (q, k, values, output, logsumexp), d_made)
            if (mask is None and d_output is not None) or is_finite(*exact):
                return None, None, *exact, *nothing

        # By operations that can be differentiated again, and that know what is hidden.
        def again(q: Tensor, k: Tensor, values: Tensor) -> Result:
            task = Task((*q.shape[:-1], k.shape[-2]), mask)
            return in_blocks(dot_products(ctx.scale), q, k, values, task)

        found = gradients_again(again, (q, k, values), ctx.needs_input_grad[2:5], d_made)
        return None, None, *found, *nothing


def _gradients(
    scale: float, mask: Restriction | None, saved: tuple[Tensor, ...], d_made: Gradients
) -> list[Tensor]:
    """Of queries, keys and values, piece after piece."""
    *tokens, output, logsumexp = saved
    d_output, d_logsumexp = d_made
    q, k, values = tokens
    if d_output is None:
        d_output = torch.zeros_like(output)
    features = values.shape[-1]
    width = max(q.shape[-1], features + (d_logsumexp is not None))
    wide = [_widened(x, width) for x in (d_output, *tokens, output)]
    empty = logsumexp == -torch.inf
    logs = logsumexp.masked_fill(empty, 0.0)
    if d_logsumexp is not None:
        # The kernel subtracts the sum of d_output * output from d_weights. One more feature, of
        # which the values have none, makes it add d_logsumexp.
        wide[-1][..., features] = -d_logsumexp.masked_fill(empty, 0.0)
        wide[0][..., features] = 1.0
    found = [torch.zeros_like(x) for x in tokens]
    shape = (*q.shape[:-1], k.shape[-2])
    for group in groups(pieces(shape, mask, q.device), mask, TOKENS):
        added, _ = bias(group[0], mask, q)
        assert _BACKWARD is not None
        grads = _BACKWARD(
            *map(partial(_stacked, group), wide, ("rows", *_AXES, "rows")),
            _stacked(group, logs.unsqueeze(-1), "rows").squeeze(-1),
            0.0, group[0].kind is Kind.TRIANGLE, attn_mask=added, scale=scale,
        )  # fmt: skip
        for total, grad, axis in zip(found, grads, _AXES, strict=True):
            for piece, part in zip(group, _apart(group, grad), strict=True):
                index = getattr(piece.block, axis)
                total[(*piece.block.batch, index)] += part[..., : total.shape[-1]]
    return found


def _widened(tokens: Tensor, width: int) -> Tensor:
    """With zeros up to a number of features, and features next to each other in memory."""
    if tokens.shape[-1] < width:
        return pad(tokens, (0, width - tokens.shape[-1]))
    return tokens if tokens.stride(-1) == 1 else tokens.new_empty(tokens.shape).copy_(tokens)


def _stacked(
    group: list[Piece], tokens: Tensor, axis: str
) -> Float[Tensor, "batch 1 tokens features"]:
    """The pieces' tokens, as elements of one batch; without a copy where they are evenly spaced."""
    if len(group) > 1 and tokens.shape[:-2].numel() == 1:
        stretches = [getattr(piece.block, axis) for piece in group]
        first, second, last = stretches[0], stretches[1], stretches[-1]
        step = second.start - first.start
        if step > 0 and all(b.start - a.start == step for a, b in pairwise(stretches)):
            run = tokens.reshape(tokens.shape[-2:])[first.start : last.stop]
            return run.unfold(0, first.stop - first.start, step).mT.unsqueeze(1)
    parts = [piece.block.tokens(tokens, getattr(piece.block, axis)) for piece in group]
    parts = [part.reshape(-1, 1, *part.shape[-2:]) for part in parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _apart(group: list[Piece], stacked: Tensor) -> list[Tensor]:
    """What belongs to each piece, with the axes of its batch."""
    batch = group[0].block.sizes[:-2]
    return [part.reshape(*batch, *part.shape[2:]) for part in stacked.chunk(len(group))]


def join(output: Tensor, logsumexp: Tensor, other: Tensor, log: Tensor) -> None:
    """Take what other keys gave into what there is, in place."""
    share = (log - logsumexp).sigmoid_().nan_to_num_(0.0)  # no part where neither has keys
    output.lerp_(other, share.unsqueeze(-1))
    torch.logaddexp(logsumexp, log, out=logsumexp)
