"""Attention over a sequence that is shared out among processes.

    torchrun --nproc-per-node 2 examples/long_sequence.py --tokens 65536 --score additive \
        --mask causal

Each process holds its share of every head and sends keys and values round the ring. Printed are
memory, time and traffic of each process, and how far some outputs are from those of one process
in float64.
With ``--save folder`` finished heads are kept there, and a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from d2lattn import AdditiveScore, DotProductScore, GaussianScore, Mask, Score, stream_attention
from d2lattn.distributed import (
    count_traffic,
    gather_attention,
    gather_sequence,
    ring_attention,
    shard_sequence,
)

CHECKED = 4  # queries, the last ones, that are also answered in float64
FITS = 2**23  # numbers of a head's keys that one process may hold

SCORES = {
    "dot": lambda width: DotProductScore(),
    "gaussian": lambda width: GaussianScore(bandwidth=width**0.5),
    "additive": lambda width: AdditiveScore(width, width, width),
}
MASKS = {"none": None, "causal": Mask.causal(), "window": Mask.window(1023)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--score", choices=SCORES, default="dot")
    parser.add_argument("--mask", choices=MASKS, default="none")
    parser.add_argument("--layout", choices=["contiguous", "zigzag"], default="zigzag")
    parser.add_argument("--rotate", choices=["ring", "gather"], default="ring")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for others")
    parser.add_argument("--save", type=Path, help="folder for finished heads")
    return parser.parse_args()


def tokens_of(head: int, chosen: argparse.Namespace) -> list[Tensor]:
    """This process's share of a head. It is made here; a real program would load it."""
    shares = []
    for number in range(3):
        generator = torch.Generator().manual_seed(3 * head + number)
        whole = torch.randn(chosen.tokens, chosen.width, generator=generator)
        shares.append(shard_sequence(whole, layout=chosen.layout))
    return shares


def error(score: Score, shares: list[Tensor], output: Tensor, chosen: argparse.Namespace) -> float:
    """Of the last queries: against one process that has all keys, where they fit, or against all
    processes in float64, each with its own."""
    mask = MASKS[chosen.mask]
    last = gather_sequence(shares[0], layout=chosen.layout)[-CHECKED:].double()
    found = gather_sequence(output, layout=chosen.layout)[-CHECKED:]
    score.double()
    if chosen.tokens * chosen.width <= FITS:
        keys, values = (gather_sequence(x, layout=chosen.layout).double() for x in shares[1:])
        exact = stream_attention(score, last, keys, values, mask=mask).output
    else:
        keys, values = (x.double() for x in shares[1:])
        exact = gather_attention(score, last, keys, values, mask=mask, layout=chosen.layout).output
    score.float()
    return float((found - exact).abs().max())


def main() -> None:
    chosen = arguments()
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(seconds=chosen.timeout)
    )
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same parameters everywhere
    score = SCORES[chosen.score](chosen.width)
    plan = {name: x for name, x in vars(chosen).items() if name not in ("save", "timeout")}
    seconds, off = 0.0, None
    with count_traffic() as traffic, torch.no_grad():
        for head in tqdm(range(chosen.heads), unit="head", disable=rank > 0):
            file = chosen.save / f"head-{head}-process-{rank}-of-{size}.pt" if chosen.save else None
            done = torch.tensor(int(file is not None and is_of(file, plan)))
            dist.all_reduce(done, dist.ReduceOp.MIN)  # all of them, or again
            if done:
                continue
            shares = tokens_of(head, chosen)
            start = time.perf_counter()
            output, logsumexp = ring_attention(
                score, *shares, mask=MASKS[chosen.mask], layout=chosen.layout, rotate=chosen.rotate
            )
            seconds += time.perf_counter() - start
            if head == 0:
                sent = traffic.sent
                off = error(score, shares, output, chosen)
                traffic.sent = sent  # what the check sent does not count
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save((plan, output, logsumexp), file.with_suffix(".part"))
                os.replace(file.with_suffix(".part"), file)  # noqa: PTH105
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )
    report = (
        f"process {rank} of {size}: {seconds:.1f} s, of which {traffic.waited:.1f} s waiting; "
        f"{traffic.sent / 1e6:.1f} MB sent; {peak:.0f} MB of memory at most"
    )
    reports: list[str] = [""] * size
    dist.all_gather_object(reports, report)
    if rank == 0:
        print(*reports, sep="\n")
        if off is not None:  # with the first head, if it was made now
            print(f"largest error of {CHECKED} outputs, against float64: {off:.1e}")
    dist.barrier()
    dist.destroy_process_group()


def is_of(file: Path, plan: dict[str, object]) -> bool:
    """Whether a file holds a finished head of this very plan."""
    return file.exists() and torch.load(file)[0] == plan


if __name__ == "__main__":
    main()
