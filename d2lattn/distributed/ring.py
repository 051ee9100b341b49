"""Attention over keys and values that live on several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2lattn.checks import check_dropout, check_tokens, result_dtype
from d2lattn.distributed.agreement import agreed, check_score, wants_gradients_of
from d2lattn.distributed.layout import Layout, check_layout, stretches
from d2lattn.distributed.parts import Joint, Share, pack, unpack
from d2lattn.distributed.peers import Group, Peers
from d2lattn.distributed.plan import Plan
from d2lattn.extras import Tick
from d2lattn.masks import Mask, restriction
from d2lattn.score import Score
from d2lattn.streaming import StreamOutput

__all__ = ["attend_by_each", "attend_to_all", "ring_attention"]


def ring_attention(
    score: Score,
    queries: Float[Tensor, "*batch queries query_features"],
    keys: Float[Tensor, "*batch keys key_features"],
    values: Float[Tensor, "*batch keys value_features"],
    valid_lens: Int[Tensor, "..."] | None = None,
    *,
    mask: Mask | Bool[Tensor, "..."] | None = None,
    dropout: float = 0.0,
    group: Group = None,
    layout: Layout = "contiguous",
    rotate: Literal["ring", "gather"] = "ring",
) -> StreamOutput:
    r"""Attention of this process's queries to the keys and values of all processes.

    .. math::
        L_i = \log \sum_p e^{L_i^{(p)}}, \qquad o_i = \sum_p e^{L_i^{(p)} - L_i}\, o_i^{(p)}

    where :math:`(o^{(p)}, L^{(p)})` is what the keys of process p give alone. Keys and values
    go round a ring: while a process works on one block of them, it sends that block to the next
    process and receives another from the one before. What a mask leaves empty is not computed,
    and no block goes farther than to the last process that needs it. Partial results are joined
    in at least float32.

    The function is that of one process, :func:`~d2lattn.stream_attention`, and every process has
    to call it, and to go backward through it, with the same arguments but for the tokens.

    Parameters
    ----------
    score
        A :class:`~d2lattn.Score`, with the same parameters everywhere. It is given some queries
        and keys at a time; what :class:`~d2lattn.Biased` adds depends on positions in the whole.
    queries, keys, values
        This process's shares: as :func:`shard_sequence` cuts them, or where the layout is
        contiguous of any lengths, 0 included.
    valid_lens, mask
        As for :func:`~d2lattn.stream_attention`, of the whole: the same on every process, in
        the order of the sequence. So are tensors that a score is biased with.
    dropout
        Probability with which a weight is dropped. Every process draws its own, from its own
        generator: another number of processes drops other weights from the same seed.
    group
        A process group, or one axis of a ``DeviceMesh``; by default all processes.
    layout
        ``"contiguous"`` or ``"zigzag"``, as the tokens were cut.
    rotate
        ``"ring"``, or ``"gather"``: fetch all keys and values at once, in one round instead of
        n − 1, and hold them.

    Returns
    -------
    StreamOutput
        ``(output, logsumexp)`` of this process's queries. Gradients of keys and values collect
        what the loss of every process owes them; of a score's parameters each process holds its
        own share, and ``all_reduce`` (a sum) gives the whole.

    Raises
    ------
    TypeError, ValueError
        As :func:`~d2lattn.stream_attention` does; if the score is a plain function; or if
        processes disagree on anything but the lengths of their shares, before a token is sent.
    LostProcessError
        If a process does not answer within the group's time-out; it is named.
    RuntimeError
        If the work failed on another process, which is named; or there is no process group.

    Notes
    -----
    Above its shares a process holds what was joined so far; keys and values that it works on and
    others that are coming; and what they give. Long blocks go round in parts, as many as there
    are processes (half as many of each stretch in a zig-zag): two parts of a block are held then,
    and what is made at once is as small. Between two processes, with ``rotate="gather"``, or
    where blocks are short, they go whole. On the way back there are at most three parts of
    gradients as well: the one that is made, the one that is coming and the one that was just
    sent; and the own block's.

    References
    ----------
    Liu, Zaharia and Abbeel, "Ring Attention with Blockwise Transformers for Near-Infinite
    Context" (2023).
    """
    return attend_to_all(
        score, queries, keys, values, valid_lens, mask=mask, group=group,
        dropout=dropout, layout=layout, rotate=rotate,
    )  # fmt: skip


def attend_to_all(
    score: Score,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    valid_lens: Tensor | None = None,
    *,
    mask: Mask | Tensor | None,
    group: Group,
    dropout: float = 0.0,
    layout: Layout = "contiguous",
    rotate: str = "ring",
    tick: Tick | None = None,
) -> StreamOutput:
    """:func:`ring_attention`, which calls ``tick`` with each share of this process's work."""
    peers = Peers("ring_attention", group)
    trouble: Exception | None = None
    fields: dict[str, Any] = {}
    counts: tuple[int, ...] = (0, 0)
    try:
        check_score(score)
        check_tokens(queries=queries, keys=keys, values=values)
        check_dropout(dropout)
        check_layout(layout)
        if rotate not in ("ring", "gather"):
            raise ValueError(f"rotate must be 'ring' or 'gather'; got {rotate!r}")
        counts = queries.shape[-2], keys.shape[-2]
        fields = {
            **agreed(score, queries, keys, values, valid_lens, mask),
            "dropout": dropout, "layout": layout, "rotate": rotate,
            "need of gradients": wants_gradients_of(score, queries, keys, values),
        }  # fmt: skip
    except Exception as error:
        trouble = error
    of_all = peers.open(counts, fields, trouble)
    # What follows is the same on every process, and raises on all of them if on one.
    of_queries = stretches("queries", [n for n, _ in of_all], layout)
    of_keys = stretches("keys and values", [n for _, n in of_all], layout)
    shape = (*queries.shape[:-2], *(sum(numbers) for numbers in zip(*of_all, strict=True)))
    allowed = restriction(valid_lens, mask, shape, queries.device)
    plan = Plan.of(
        peers, score, shape, of_queries, of_keys, allowed, dropout,
        features=keys.shape[-1] + values.shape[-1], gathers=rotate == "gather",
    )  # fmt: skip
    tensors = plan.tensors(queries, keys, values)
    output, logsumexp = _Ring.apply(plan, tick, queries, keys, values, *tensors)
    return StreamOutput(output.to(result_dtype(queries, keys, values)), logsumexp)


@torch.no_grad()
def attend_by_each(
    peers: Peers,
    scores: Sequence[Score],
    queries: Float[Tensor, "queries query_features"],
    keys: Float[Tensor, "keys key_features"],
    values: Float[Tensor, "keys value_features"],
    mask: Mask | None,
) -> list[StreamOutput]:
    """The attention of each of several scores, while the keys go round once."""
    of_all = peers.open((len(queries), len(keys)), {"scores": len(scores)}, None)
    cuts = [stretches("tokens", list(counts), "contiguous") for counts in zip(*of_all, strict=True)]
    shape = tuple(sum(counts) for counts in zip(*of_all, strict=True))
    allowed = restriction(None, mask, shape, queries.device)
    features = keys.shape[-1] + values.shape[-1]
    first = Plan.of(peers, scores[0], shape, cuts[0], cuts[1], allowed, 0.0, features=features)
    joints = []
    for plan in map(first.scoring, scores):
        joints.append(Joint(plan, plan.tensors(queries, keys, values), queries, keys, values))

    def work(number: int, block: Tensor) -> None:
        for joint in joints:
            joint(number, block)

    rounds = first.rounds(keys, values)
    rounds.ring(partial(pack, first, k=keys, v=values), work)
    peers.close(rounds.trouble)
    return [StreamOutput(joint.output, joint.logsumexp) for joint in joints]


class _Ring(torch.autograd.Function):
    """Forward with the blocks that come by; backward once more, with their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        tick: Tick | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        joint = Joint(plan, tensors, q, k, v, tick)
        rounds, load = plan.rounds(k, v), partial(pack, plan, k=k, v=v)
        kept: list[Tensor] = []
        if plan.gathers:
            kept = rounds.gather(load)
            rounds.gathered(kept, joint)
        else:
            rounds.ring(load, joint)
        plan.peers.close(rounds.trouble)
        output, logsumexp = joint.output, joint.logsumexp.to(joint.output.dtype)
        ctx.plan, ctx.count = plan, len(tensors)
        ctx.save_for_backward(q, k, v, *tensors, output, logsumexp, *kept)
        ctx.set_materialize_grads(False)
        return output, logsumexp

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_output: Tensor | None, d_logsumexp: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, *rest = ctx.saved_tensors
        tensors = tuple(rest[: ctx.count])
        output, logsumexp, *kept = rest[ctx.count :]
        peers = Peers("the gradient of ring_attention", ctx.plan.peers.group)
        plan = replace(ctx.plan, peers=peers)
        peers.open((), {"shape of all scores": plan.shape}, None)
        share = Share.of(plan, tensors, q, k, v, output, logsumexp, d_output, d_logsumexp)
        rounds, owed = plan.rounds(k, v), output.dtype
        if plan.gathers:
            totals = rounds.gathered(kept, share, owed)
        else:
            totals = rounds.ring(partial(pack, plan, k=k, v=v), share, owed)
        peers.close(rounds.trouble or share.trouble())
        d_k, d_v = torch.empty_like(k), torch.empty_like(v)
        for turn, total in enumerate(totals):
            unpack(plan, turn * peers.size + peers.rank, total, d_k, d_v)
        grads: list[Tensor | None] = [share.d_q.to(q.dtype), d_k, d_v]
        for tensor in tensors:
            # 0 where nothing is owed, as without queries: all_reduce needs a gradient from all.
            nothing = torch.zeros_like(tensor) if tensor.requires_grad else None
            grad = share.d_tensors.get(id(tensor))
            grads.append(nothing if grad is None else grad.to(tensor.dtype))
        return None, None, *grads
