"""Which tokens each process holds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2lattn.checks import at_least_float32, check_floating
from d2lattn.distributed.peers import Group, Peers
from d2lattn.restrictions import Stretch

__all__ = ["Layout", "cuts", "gather_sequence", "shard_sequence", "stretches"]

Layout = Literal["contiguous", "zigzag"]
Stretches = list[Stretch]


def check_layout(layout: str) -> None:
    if layout not in ("contiguous", "zigzag"):
        raise ValueError(f"layout must be 'contiguous' or 'zigzag'; got {layout!r}")


def cuts(start: int, stop: int, parts: int) -> Stretches:
    """Stretches as equal as can be, the longer ones first, as :func:`torch.tensor_split` does."""
    size, more = divmod(stop - start, parts)
    ends = [start + part * size + min(part, more) for part in range(parts + 1)]
    return list(pairwise(ends))


def planned(total: int, size: int, layout: str) -> list[Stretches]:
    """For each process the stretches of tokens that :func:`shard_sequence` gives it."""
    if layout == "contiguous":
        return [[stretch] for stretch in cuts(0, total, size)]
    found = cuts(0, total, 2 * size)
    return [[found[rank], found[2 * size - 1 - rank]] for rank in range(size)]


def stretches(name: str, counts: list[int], layout: str) -> list[Stretches]:
    """The stretches of processes that hold so many tokens."""
    if layout == "contiguous":
        ends = [sum(counts[:rank]) for rank in range(len(counts) + 1)]
        return [[stretch] for stretch in pairwise(ends)]
    found = planned(sum(counts), len(counts), layout)
    expected = [sum(stop - start for start, stop in parts) for parts in found]
    if expected != counts:
        raise ValueError(
            f"{name} must be cut as shard_sequence cuts them, into {expected} tokens where the "
            f"layout is zigzag; got {counts}"
        )
    return found


def shard_sequence(
    x: Float[Tensor, "*batch tokens features"],
    *,
    group: Group = None,
    layout: Layout = "contiguous",
) -> Float[Tensor, "*batch shard features"]:
    r"""This process's share of a sequence that every process holds.

    Contiguous, process p of n gets the p-th stretch of n. In a zig-zag the sequence is cut into
    2n stretches, and process p gets number p and number 2n − 1 − p, one early and one late: so
    causal work is the same for all. Lengths that do not divide are fine; the first stretches are
    longer by one then, and with fewer tokens than stretches some hold none.

    Parameters
    ----------
    x
        The whole sequence, the same on every process.
    group
        A process group, or one axis of a ``DeviceMesh``; by default all processes.
    layout
        ``"contiguous"`` or ``"zigzag"``.

    Returns
    -------
    Tensor
        A copy of the share, in the order of the sequence.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If ``x`` is no sequence, there is no such layout, or no process group.

    References
    ----------
    Zhu, "ring-flash-attention" (2024), for the zig-zag; Liu, Zaharia and Abbeel, "Ring Attention
    with Blockwise Transformers for Near-Infinite Context" (2023).
    """
    check_sequence("x", x)
    check_layout(layout)
    peers = Peers("shard_sequence", group)
    parts = planned(x.shape[-2], peers.size, layout)[peers.rank]
    return torch.cat([x[..., start:stop, :] for start, stop in parts], dim=-2)


def gather_sequence(
    shard: Float[Tensor, "*batch shard features"],
    *,
    group: Group = None,
    layout: Layout = "contiguous",
) -> Float[Tensor, "*batch tokens features"]:
    """The whole sequence, on every process, of the shares that they hold.

    The opposite of :func:`shard_sequence`. The gradient of a share collects what every process
    owes it.

    Parameters
    ----------
    shard
        This process's share; where the layout is contiguous, of any length.
    group, layout
        As for :func:`shard_sequence`.

    Returns
    -------
    Tensor
        The sequence, in its order.

    Raises
    ------
    TypeError, ValueError
        If a share is no sequence, or differs from the others in more than its length.
    LostProcessError
        If a process does not answer within the group's time-out; it is named.
    """
    peers = Peers("gather_sequence", group)
    trouble: Exception | None = None
    counts: tuple[int, ...] = (0,)
    fields: dict[str, Any] = {}
    try:
        check_sequence("shard", shard)
        check_layout(layout)
        wants = torch.is_grad_enabled() and shard.requires_grad
        batch, features = tuple(shard.shape[:-2]), shard.shape[-1]
        counts = (shard.shape[-2],)
        fields = {
            "batch axes": batch, "features": features, "dtype": shard.dtype, "layout": layout,
            "need of gradients": wants,
        }  # fmt: skip
    except Exception as error:
        trouble = error
    found = peers.open(counts, fields, trouble)
    parts = stretches("shards", [count for (count,) in found], layout)
    return _Gathered.apply(peers, parts, shard)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, peers: Peers, parts: list[Stretches], shard: Tensor) -> Tensor:
        ctx.peers, ctx.parts = peers, parts
        own = shard.contiguous()
        sizes = [sum(stop - start for start, stop in some) for some in parts]
        shapes = [(*shard.shape[:-2], size, shard.shape[-1]) for size in sizes]
        found = swap(peers, [own] * peers.size, [own.new_empty(shape) for shape in shapes])
        return joined(found, parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_whole: Tensor) -> tuple[None, None, Tensor]:
        peers = Peers("the gradient of gather_sequence", ctx.peers.group)
        peers.open((), {"features": d_whole.shape[-1]}, None)
        wide = at_least_float32(d_whole)
        shares = [
            torch.cat([wide[..., start:stop, :] for start, stop in some], dim=-2)
            for some in ctx.parts
        ]
        owed = swap(peers, shares, [torch.empty_like(shares[peers.rank]) for _ in shares])
        return None, None, torch.stack(owed).sum(dim=0).to(d_whole.dtype)


def swap(peers: Peers, given: list[Tensor], room: list[Tensor]) -> list[Tensor]:
    """Each process's tensor to each other, into the room that there is for it."""
    sends = [(given[peer], peer) for peer in peers.others if given[peer].numel()]
    receives = [(room[peer], peer) for peer in peers.others if room[peer].numel()]
    peers.start(sends, receives).wait()
    return [given[x] if x == peers.rank else room[x] for x in range(peers.size)]


def joined(shards: list[Tensor], parts: list[Stretches]) -> Tensor:
    """The sequence of all shares."""
    pieces = []
    for shard, some in zip(shards, parts, strict=True):
        sizes = [stop - start for start, stop in some]
        pieces += list(zip(some, shard.split(sizes, dim=-2), strict=True))
    pieces.sort(key=lambda piece: piece[0])
    return torch.cat([piece for _, piece in pieces], dim=-2)


def check_sequence(name: str, tensor: Tensor) -> None:
    check_floating(name, tensor)
    if tensor.ndim < 2:
        raise ValueError(
            f"{name} must have shape (*batch, tokens, features); got {tuple(tensor.shape)}"
        )
