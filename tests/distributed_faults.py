"""What each process of a test does when something is different on one of them, or one fails."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from d2lattn import Biased, DotProductScore, Mask, Score
from d2lattn.distributed import gather_sequence, ring_attention
from tests.distributed_work import normal


def attend_to(rank: int, changes: dict[str, dict[int, Any]]) -> str:
    """One call, in which some processes do something else: what each of them hears of it."""
    settings: dict[str, Any] = {
        "tokens": 8, "features": 4, "batch": 2, "dtype": torch.float64, "dropout": 0.0,
        "layout": "contiguous", "rotate": "ring", "mask": None, "score": DotProductScore(),
        "act": None, "valid_lens": None, "grad": False,
        "group": None,
    }  # fmt: skip
    settings |= {name: of[rank] for name, of in changes.items() if rank in of}
    act = settings["act"]
    if act == "end":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "sleep":
        time.sleep(4)
        return "slept"
    shape = settings["batch"], settings["tokens"], settings["features"]
    q, k, v = (normal(*shape, seed=n, dtype=settings["dtype"]) for n in range(3))
    k.requires_grad_(settings["grad"])
    names = ("valid_lens", "mask", "dropout", "layout", "rotate", "group")
    start = time.monotonic()
    try:
        ring_attention(settings["score"], q, k, v, **{name: settings[name] for name in names})
    except Exception as error:
        assert time.monotonic() - start < 15
        return f"{type(error).__name__}: {error}"
    return "done"


class Failing(Score):
    """Fails where it meets keys of the block that is given, or ends its process there."""

    def __init__(self, at: int, *, ends: bool = False) -> None:
        super().__init__()
        self.at, self.ends, self.calls = at, ends, 0

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        if q.shape[-2] > 1:  # not the look at a few pairs
            self.calls += 1
        if self.calls > self.at:
            if self.ends:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("no score today")
        return q @ k.mT


def fail_in_a_score(rank: int, who: int, at: int) -> list[str]:
    """One process's score fails; after that a call works again."""
    score = Failing(at if rank == who else 10**9)
    return [attend_to(rank, {"score": {rank: score}}), attend_to(rank, {})]


def fail_on_the_way_back(rank: int, who: int) -> str:
    score = Failing(dist.get_world_size() + 1 if rank == who else 10**9)
    tokens = [normal(4, 3, seed=n).requires_grad_() for n in range(3)]
    output = ring_attention(score, *tokens).output
    try:
        output.sum().backward()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def lose_one(rank: int) -> str:
    """Three groups of three, each without its process 1: it ends before the call, or in the middle,
    or does not arrive in time. What each process hears of it."""
    patience = timedelta(seconds=5)
    groups = [dist.new_group(list(range(3 * n, 3 * n + 3)), timeout=patience) for n in range(3)]
    dist.barrier()  # nobody is lost while others are still making their group
    fault, here = ("before", "in the middle", "never arrives")[rank // 3], rank % 3
    score: Score = DotProductScore()
    act = None
    if here == 1 and fault == "in the middle":
        score = Failing(1, ends=True)
    elif here == 1:
        act = "end" if fault == "before" else "sleep"
    elif fault == "in the middle":
        score = Failing(10**9)
    return attend_to(
        rank, {"act": {rank: act}, "score": {rank: score}, "group": {rank: groups[rank // 3]}}
    )


def different_calls(rank: int) -> str:
    try:
        if rank == 1:
            gather_sequence(normal(3, 2))
        else:
            ring_attention(DotProductScore(), *(normal(3, 2) for _ in range(3)))
    except ValueError as error:
        return str(error)
    return "done"


def changed_in_place(rank: int) -> str:
    q, k, v = (normal(4, 3, seed=n).requires_grad_() for n in range(3))
    q = q * 1.0
    output = ring_attention(DotProductScore(), q, k, v).output
    with torch.no_grad():
        q.mul_(2.0)
    try:
        output.sum().backward()
    except RuntimeError as error:
        return str(error)
    return "done"


def changed_number(rank: int) -> list[str]:
    """What is said where a function of positions finds another number on the way back."""
    q, k, v = (normal(40, 3, seed=n).requires_grad_() for n in range(3))
    said = []
    for as_mask in (True, False):
        found = {"width": 3.0}
        mask = Mask.where(lambda i, j: (i - j).abs() <= found["width"]) if as_mask else None  # noqa: B023
        score = Biased(DotProductScore(), lambda i, j: -0.1 * found["width"] * (i - j).abs())  # noqa: B023
        output = ring_attention(DotProductScore() if as_mask else score, q, k, v, mask=mask).output
        found["width"] = 9.0
        try:
            output.sum().backward()
            said.append("done")
        except RuntimeError as error:
            said.append(str(error))
    return said


def double(rank: int) -> int:
    return 2 * rank


def divide(rank: int) -> float:
    return 1 / rank
