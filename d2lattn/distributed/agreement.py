"""What processes have to agree on before a token travels."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from d2lattn.biased import OnTop
from d2lattn.engine.probe import tensors_of
from d2lattn.masks import Mask
from d2lattn.ordinary import wants_gradients
from d2lattn.score import Score

__all__ = ["agreed", "check_score", "wants_gradients_of"]


def check_score(score: Any) -> None:
    """Raise a TypeError unless a score can be given some pairs at a time."""
    if not isinstance(score, Score):
        raise TypeError(
            "score must be a Score, whose compare treats each pair on its own: no process has "
            f"all queries and keys to give to a function; got {score!r}"
        )
    inner: Any = score
    known: list[Any] = []
    while isinstance(inner, OnTop):
        known.append(inner)
        inner = inner.score
        if not isinstance(inner, Score):
            check_score(inner)
    for module in inner.modules():
        of_positions = isinstance(module, Score) and type(module).placed is not Score.placed
        if module is not inner and of_positions:
            raise TypeError(
                f"score must have what depends on positions on top; got {type(inner).__name__} "
                f"around {type(module).__name__}, which would not learn where its tokens stand"
            )


def wants_gradients_of(score: Score, *tokens: Tensor) -> bool:
    tensors = (*tokens, *tensors_of(score).values())
    return wants_gradients(*tensors)


def agreed(
    score: Score,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    valid_lens: Tensor | None,
    mask: Any,
) -> dict[str, Any]:
    """What has to be the same on every process."""
    return {
        "batch axes": tuple(queries.shape[:-2]),
        "features of queries, keys and values": (
            queries.shape[-1], keys.shape[-1], values.shape[-1],
        ),
        "dtypes of queries, keys and values": (queries.dtype, keys.dtype, values.dtype),
        "score": f"{type(score).__name__} {_digest(score)}",
        "valid_lens": None if valid_lens is None else _digest(valid_lens),
        "mask": None if mask is None else f"{_name(mask)} {_digest(mask)}",
    }  # fmt: skip


def _name(mask: Any) -> str:
    """What it is, without the addresses that differ from process to process."""
    name = repr(mask) if isinstance(mask, Mask) else type(mask).__name__
    return re.sub(r" at 0x[0-9a-f]+", "", name)[:200]


def _digest(tree: Any) -> list[Any]:
    """Shapes of the tensors in it, and of integers and booleans what is in them, in short."""
    found: list[Any] = []
    leaves = tensors_of(tree).values() if isinstance(tree, nn.Module) else pytree.tree_leaves(tree)
    for tensor in (leaf for leaf in leaves if isinstance(leaf, Tensor)):
        found.append(tuple(tensor.shape))
        if not tensor.is_floating_point() and tensor.numel():
            rows = tensor.long().reshape(-1, tensor.shape[-1] if tensor.ndim else 1)
            for numbers in (rows.sum(dim=0), rows.sum(dim=1)):
                weights = torch.arange(1, len(numbers) + 1, device=numbers.device)
                found.append(int((numbers * weights).sum()))
    return found[:24]
