"""One query for all processes: each looks at its own keys, and only results travel."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2lattn.blocks import Block
from d2lattn.checks import check_tokens, result_dtype
from d2lattn.distributed.agreement import agreed, check_score
from d2lattn.distributed.layout import Layout, check_layout, stretches, swap
from d2lattn.distributed.peers import Group, Peers
from d2lattn.engine.attend import attend
from d2lattn.masks import Mask, restriction
from d2lattn.restrictions import Part
from d2lattn.score import Score
from d2lattn.streaming import StreamOutput, merge_attention

__all__ = ["gather_attention"]


def gather_attention(
    score: Score,
    queries: Float[Tensor, "*batch queries query_features"],
    keys: Float[Tensor, "*batch keys key_features"],
    values: Float[Tensor, "*batch keys value_features"],
    valid_lens: Int[Tensor, "..."] | None = None,
    *,
    mask: Mask | Bool[Tensor, "..."] | None = None,
    group: Group = None,
    layout: Layout = "contiguous",
) -> StreamOutput:
    r"""Attention of queries that every process has to keys and values that are shared out.

    .. math::
        L_i = \log \sum_p e^{L_i^{(p)}}, \qquad o_i = \sum_p e^{L_i^{(p)} - L_i}\, o_i^{(p)}

    As in decoding: one new query, many old keys. Keys stay where they are; each process sends
    its ``(output, logsumexp)`` to all others, which is little where queries are few.

    Parameters
    ----------
    score
        As for :func:`ring_attention`.
    queries
        The same on every process.
    keys, values
        This process's shares.
    valid_lens, mask, group, layout
        As for :func:`ring_attention`.

    Returns
    -------
    StreamOutput
        ``(output, logsumexp)``, the same on every process. Gradients collect what the loss of
        every process owes; of the queries each process holds its own share.

    Raises
    ------
    TypeError, ValueError, LostProcessError, RuntimeError
        As :func:`ring_attention` does.

    References
    ----------
    Shyam et al., "Tree Attention: Topology-Aware Decoding for Long-Context Attention on GPU
    Clusters" (2024).
    """
    peers = Peers("gather_attention", group)
    trouble: Exception | None = None
    fields: dict[str, Any] = {}
    counts: tuple[int, ...] = (0,)
    try:
        check_score(score)
        check_tokens(queries=queries, keys=keys, values=values)
        check_layout(layout)
        counts = (keys.shape[-2],)
        fields = {
            "number of queries": queries.shape[-2],
            **agreed(score, queries, keys, values, valid_lens, mask), "layout": layout,
        }  # fmt: skip
    except Exception as error:
        trouble = error
    of_all = [count for (count,) in peers.open(counts, fields, trouble)]
    of_keys = stretches("keys and values", of_all, layout)[peers.rank]
    shape = (*queries.shape[:-1], sum(of_all))
    allowed = restriction(valid_lens, mask, shape, queries.device)
    dtype = result_dtype(queries, keys, values)
    found: list[tuple[Tensor, Tensor]] = []
    try:
        sizes = [stop - start for start, stop in of_keys]
        for columns, k, v in zip(
            of_keys, keys.split(sizes, -2), values.split(sizes, -2), strict=True
        ):
            block = Block.whole(shape)._replace(rows=slice(0, shape[-2]), columns=slice(*columns))
            part = None
            if allowed is not None:
                part = Part(allowed, shape, (0, shape[-2]), columns)
            made = attend(
                score.placed(block), queries, k, v, part, 0.0, need_weights=False, need_log=True
            )
            assert made.logsumexp is not None
            found.append((made.output, made.logsumexp))
        own = merge_attention(found)
        wide = torch.promote_types(dtype, torch.float32)
        row = torch.cat([own.output, own.logsumexp.unsqueeze(-1)], dim=-1).to(wide)
    except Exception as error:
        trouble = error
    peers.close(trouble)
    rows = _Everybody.apply(peers, row)
    output, logsumexp = merge_attention([(x[..., :-1], x[..., -1]) for x in rows.unbind()])
    return StreamOutput(output.to(dtype), logsumexp)


class _Everybody(torch.autograd.Function):
    """Tensors of one shape from all processes; the gradient is what all of them owe."""

    @staticmethod
    def forward(ctx: Any, peers: Peers, own: Tensor) -> Tensor:
        ctx.peers = peers
        own = own.contiguous()
        return torch.stack(
            swap(peers, [own] * peers.size, [torch.empty_like(own) for _ in range(peers.size)])
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows: Tensor) -> tuple[None, Tensor]:
        peers = Peers("the gradient of gather_attention", ctx.peers.group)
        peers.open((), {"shape": tuple(d_rows.shape)}, None)
        given = list(d_rows.contiguous().unbind())
        owed = swap(peers, given, [torch.empty_like(x) for x in given])
        return None, torch.stack(owed).sum(dim=0)
