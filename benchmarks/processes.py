"""What each process of a ring does while it is measured; in a module that processes can import."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.fresh import keep_nothing_freed, peak_bytes
from d2lattn import DotProductScore, Mask, stream_attention
from d2lattn.distributed import (
    count_traffic,
    gather_sequence,
    ring_attention,
    shard_sequence,
)


def tokens(length: int, width: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values, the same on every process."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, width, generator=generator).to(dtype) for _ in range(3)]


def attend_in_turns(
    rank: int, length: int, width: int, causal: bool, rounds: int
) -> list[tuple[float, float]]:
    """Seconds of the ring, and then of process 0 alone while the others wait."""
    mask = Mask.causal() if causal else None
    layout: Any = "zigzag" if causal else "contiguous"
    whole = tokens(length, width)
    shares = [shard_sequence(x, layout=layout) for x in whole]
    found = []
    for _ in range(rounds + 1):
        torch.distributed.barrier()
        start = time.perf_counter()
        ring_attention(DotProductScore(), *shares, mask=mask, layout=layout)
        torch.distributed.barrier()
        ring = time.perf_counter() - start
        start = time.perf_counter()
        if rank == 0:
            stream_attention(DotProductScore(), *whole, mask=mask)
        found.append((ring, time.perf_counter() - start))
    return found[1:]  # the first one warms up


def memory(rank: int, length: int, width: int, rounds: int) -> tuple[list[int], int]:
    """What a ring takes above its shares, and what one process takes above the whole."""
    keep_nothing_freed()
    shares = [shard_sequence(x) for x in tokens(length, width)]
    of_ring = []
    for _ in range(rounds + 1):
        torch.distributed.barrier()
        of_ring.append(peak_bytes(lambda: ring_attention(DotProductScore(), *shares)))
    whole = tokens(length, width) if rank == 0 else [x[:64] for x in shares]
    of_one = peak_bytes(lambda: stream_attention(DotProductScore(), *whole))
    torch.distributed.barrier()
    return of_ring[1:], of_one  # the first one loads code


def traffic(rank: int, length: int, width: int) -> tuple[int, int]:
    """Bytes sent there, and on the way back."""
    shares = [shard_sequence(x).requires_grad_() for x in tokens(length, width)]
    with count_traffic() as there:
        output = ring_attention(DotProductScore(), *shares).output
    with count_traffic() as back:
        output.sum().backward()
    return there.sent, back.sent


def errors(rank: int, dtype: torch.dtype) -> tuple[float, float]:
    """Of a ring, and of one process, against float64."""
    whole = tokens(1024, 64, dtype)
    exact = stream_attention(DotProductScore(), *(x.double() for x in whole)).output
    alone = stream_attention(DotProductScore(), *whole).output
    ring = ring_attention(DotProductScore(), *(shard_sequence(x) for x in whole)).output
    found = gather_sequence(ring), alone
    ours, theirs = (float((x.double() - exact).square().mean().sqrt()) for x in found)
    return ours, theirs
