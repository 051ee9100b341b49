"""Training that can be interrupted: the same batches, the same steps, the same result."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from d2lattn.checks import check_count, check_number, check_sizes
from d2lattn.extras import progress_bar
from d2lattn.seq2seq import Seq2Seq, sequence_loss

__all__ = ["Batch", "train"]


class Batch(NamedTuple):
    """Sequences and what should be written for them, both padded, with their valid lengths."""

    tokens: Int[Tensor, "batch tokens"]
    valid_lens: Int[Tensor, " batch"]
    targets: Int[Tensor, "batch steps"]
    target_lens: Int[Tensor, " batch"]


def train(
    model: Seq2Seq,
    draw: Callable[[torch.Generator], Batch],
    *,
    steps: int,
    learning_rate: float = 8e-3,
    seed: int = 0,
    until: int | None = None,
    path: str | Path | None = None,
    progress: bool = True,
) -> Float[Tensor, " steps"]:
    """Train by Adam with one cycle of learning rates; the curve of losses.

    Each step draws its batch, and what dropout drops, from a generator of its own, which depends
    on seed and step only. So a training that goes on from a checkpoint ends as one that was
    never interrupted, bit for bit on the same machine.

    Parameters
    ----------
    model
        Changed in place. From a checkpoint it gets everything that was learned.
    draw
        From a generator to a batch.
    steps
        How many the whole training has; the learning rates follow from it.
    learning_rate
        The highest of the cycle.
    seed
        What batches are drawn from.
    until
        Where to stop already, to look at the model or to go on later.
    path
        A file to which every step is written once it is done. If it exists, training goes on
        from there.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Tensor
        The loss of every step from the first one on, also of those that the checkpoint had.

    Raises
    ------
    TypeError
        If a number is none.
    ValueError
        If a number is out of range, or the checkpoint is of another model or training.
    FloatingPointError
        If the loss is not finite. The checkpoint is that of the step before.
    ModuleNotFoundError
        If a progress bar is asked for and tqdm is not installed.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015); Smith and Topin,
    "Super-Convergence" (2018).
    """
    check_sizes(steps=steps)
    check_count("seed", seed)
    check_number("learning_rate", learning_rate)
    if learning_rate <= 0:
        raise ValueError(f"learning_rate must be positive; got {learning_rate}")
    until = steps if until is None else until
    check_count("until", until)
    if until > steps:
        raise ValueError(f"until must be at most {steps}, the number of steps; got {until}")
    run = _Run(model, {"steps": steps, "learning_rate": learning_rate, "seed": seed})
    if path is not None and Path(path).exists():
        run.load(Path(path))
    model.train()
    with progress_bar("step", max(until, run.done), progress, run.done) as tick:
        while run.done < until:
            run.step(draw)
            if path is not None:
                run.save(Path(path))
            if tick is not None:
                tick(1)
    return torch.tensor(run.losses, dtype=torch.float64)


class _Run:
    """A training: its model, its optimizer and what became of them."""

    def __init__(self, model: Seq2Seq, settings: dict[str, Any]) -> None:
        self.model, self.settings = model, settings
        self.optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings["learning_rate"], total_steps=settings["steps"] + 1
        )
        self.losses: list[float] = []

    @property
    def done(self) -> int:
        return len(self.losses)

    def step(self, draw: Callable[[torch.Generator], Batch]) -> None:
        number = (self.settings["seed"] * 1_000_003 + self.done) % 2**32  # all that it takes
        batch = draw(torch.Generator().manual_seed(number))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            logits, _ = self.model(batch.tokens, batch.valid_lens, batch.targets)
            loss = sequence_loss(logits, batch.targets, batch.target_lens)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} in step {self.done}")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(value)

    def fingerprint(self) -> dict[str, str]:
        """What a checkpoint must agree with."""
        shapes = {
            f"the shape of {name}": f"{tuple(x.shape)} in {x.dtype}"
            for name, x in self.model.state_dict().items()
        }
        return shapes | {name: str(value) for name, value in self.settings.items()}

    def save(self, path: Path) -> None:
        """All or nothing: an interruption leaves the checkpoint that was there."""
        state = {
            "fingerprint": self.fingerprint(),
            "losses": self.losses,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        new = path.with_name(path.name + ".new")
        torch.save(state, new)
        new.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        found = state.get("fingerprint", {}) if isinstance(state, dict) else {}
        expected = self.fingerprint()
        for name in sorted({*found, *expected}):
            if found.get(name) != expected.get(name):
                raise ValueError(
                    f"path must be a checkpoint of this model and training, with "
                    f"{expected.get(name, 'nothing')} for {name}; got {found.get(name, 'nothing')}"
                )
        self.losses = list(state["losses"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
