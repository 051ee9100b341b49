"""Trying an answer that leaves something to chance: dropout of attention weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2lattn.dot_product import dot_product_score
from d2lattn.exercises.engine import Verdict, fresh, try_out
from d2lattn.exercises.language import _
from d2lattn.exercises.running import Trial
from d2lattn.exercises.words import explained, joined


def check_dropout(answer: Callable[..., Any], right: Verdict) -> Verdict:
    """What dropout with probability 0.3 did to 40 times 30 weights, read off from the outputs."""
    random, p = fresh(), 0.3

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    queries, keys = normal(40, 8), normal(30, 8)
    values = torch.eye(30, dtype=torch.float64) + normal(30, 30) / 20  # square: can be undone
    weights = dot_product_score(queries, keys).softmax(-1)
    where = _("Try it twice with `dropout = 0.3, training = True`.")

    def judged(trial: Trial) -> Verdict:
        outputs = [value for value, error in trial.results]
        for value, error in trial.results:
            if error is not None:
                return Verdict(False, joined(explained(error), where))
            if not isinstance(value, Tensor) or _kind(value) != _kind(queries @ keys.mT):
                other = _("In training, a result of another kind comes back.")
                return Verdict(False, joined(other, where))
        kept = torch.linalg.solve(values, outputs[0], left=False) / weights
        said = _what_happened(kept, outputs[0] / (weights @ values), p)
        if not said and torch.equal(*outputs):
            said = _("It drops the same weights each time. They are drawn afresh at every call.")
        return Verdict(False, joined(said, where)) if said else right

    return try_out(answer, [(queries, keys, values, p, True)] * 2, judged)


def _kind(result: Tensor) -> tuple[torch.Size, torch.dtype]:
    return result.shape, result.dtype


def _what_happened(kept: Tensor, kept_of_output: Tensor, p: float) -> str:
    """What is wrong with the share of each weight that was kept; nothing if all is right."""

    def made_of(shares: Tensor, *levels: float) -> bool:
        distance = torch.stack([(shares - level).abs() for level in levels]).amin(0)
        return bool((distance < 1e-4).all())

    dropped = kept.abs() < 1e-4
    share, up = float(dropped.double().mean()), 1 / (1 - p)
    if made_of(kept, 1):
        return _("In training, with a probability between 0 and 1, nothing is dropped.")
    if made_of(kept, up):
        return _("The weights are divided by 1 − p, and none is dropped.")
    if made_of(kept_of_output, 0, up) or made_of(kept_of_output, 0, 1):
        return _("Features of the *output* are dropped. Dropout acts on the weights: a key is not "
                 "heard for once.")  # fmt: skip
    if made_of(kept, 0, 1):
        return _("What is kept keeps its size, so the weights add up to less, on average. Kept "
                 "weights are divided by 1 − p.")  # fmt: skip
    if dropped.all(0).any() or dropped.all(1).any():
        return _("Whole keys or whole queries are dropped. Each weight is dropped by itself.")
    if made_of(kept, 0, 1 / p) or (made_of(kept, 0, up) and abs(share - p) > 0.1):
        return _("`dropout` is the share that is dropped, not the one that is kept.")
    if made_of(kept, 0, up):
        return ""
    if share > p / 2:
        return _("Weights are dropped, and the others have been changed: rows need not add up to "
                 "one again. Those that are kept are divided by 1 − p, no more.")  # fmt: skip
    return _("In training the output is not the one of weights some of which are dropped. Dropout "
             "comes after the softmax, before the values.")  # fmt: skip
