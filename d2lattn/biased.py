"""Scores on top of a score: something added for each pair of positions, or a bound."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2lattn.blocks import Block
from d2lattn.checks import (
    at_least_float32,
    check_broadcasts,
    check_device,
    check_floating,
    check_number,
    check_of_positions,
    check_scoring_function,
)
from d2lattn.derivatives import alias
from d2lattn.engine.probe import aliases_of, apart, is_of_pairs, pairs_of
from d2lattn.score import (
    Pairs,
    Score,
    ScoreFunction,
    all_scores,
    is_hooked_inside,
    knows,
    without_autocast,
)

__all__ = ["Biased", "SoftCapped"]

Change = Callable[[Tensor, Block], Tensor]
Bias = Tensor | Callable[[Tensor, Tensor], Tensor]
Positions = tuple[Tensor, Tensor]


class OnTop(Score):
    """What the scores of another score are changed into, each pair on its own."""

    def __init__(self, score: ScoreFunction) -> None:
        super().__init__()
        check_scoring_function(score)
        self.score = score

    def change(self, scores: Float[Tensor, "*batch rows columns"], block: Block) -> Tensor:
        """The scores of a block, changed."""
        raise NotImplementedError

    def change_of_now(self, few: Positions) -> tuple[Change, tuple[Tensor, ...], bool] | None:
        """The same with the tensors of this moment; those; whether there may be others. A ``few``
        positions of queries and keys are there to try it on; None if only all at once will do."""
        return self.change, (), False

    def placed(self, block: Block) -> Score:
        """With the score below placed there."""
        other = copy(self)
        for kind in ("_parameters", "_buffers", "_modules"):  # or both would change together
            setattr(other, kind, dict(vars(self)[kind]))
        if isinstance(self.score, Score):
            other.score = self.score.placed(block)
        return other

    def in_halves(self) -> bool:
        return super().in_halves() and isinstance(self.score, Score) and self.score.in_halves()

    def project(
        self,
        queries: Float[Tensor, "*batch queries query_features"],
        keys: Float[Tensor, "*batch keys key_features"],
    ) -> tuple[Float[Tensor, "*batch queries hidden"], Float[Tensor, "*batch keys hidden"]]:
        """As the score below does."""
        below = self.score
        return below.project(queries, keys) if isinstance(below, Score) else (queries, keys)

    def compare(
        self,
        q: Float[Tensor, "*batch queries hidden"],
        k: Float[Tensor, "*batch keys hidden"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """As the score below does, and then changed."""
        compare = self.score.compare if isinstance(self.score, Score) else self.score
        scores = compare(q, k)
        return self.change(scores, Block.whole(tuple(scores.shape)))

    def _wide(self, queries: Tensor, keys: Tensor) -> Float[Tensor, "*batch queries keys"]:
        if self.in_halves():
            return super()._wide(queries, keys)
        scores = at_least_float32(all_scores(self.score, queries, keys))
        with without_autocast(scores):
            return self.change(scores, Block.whole(tuple(scores.shape)))

    def pairs(self, q: Tensor, k: Tensor) -> Pairs | None:
        """Those of the score below, changed."""
        if not isinstance(self.score, Score) or not knows(self, "change_of_now", of="change"):
            return None
        shape = (*q.shape[:-1], k.shape[-2])
        # Near the first ones, so that the largest or smallest of fewer is quite another.
        rows, columns = slice(min(1, shape[-2] - 1), 3), slice(min(1, shape[-1] - 1), 4)
        few = Block.whole(shape)._replace(rows=rows, columns=columns).positions(q.device)
        below, found = pairs_of(self.score, q, k), self.change_of_now(few)
        if below is None or found is None:
            return None
        change, tensors, unknown = found

        def compare(q: Tensor, k: Tensor, block: Block) -> Tensor:
            return change(below.compare(q, k, block), block)

        return below._replace(
            compare=compare,
            tensors=(*below.tensors, *tensors),
            unknown=below.unknown or unknown,
        )


class Biased(OnTop):
    r"""A score plus something for each pair of positions.

    .. math:: a'(q_i, k_j) = a(q_i, k_j) + b_{ij}

    It streams as the score does: a learned or a fixed bias then works at any length.

    Parameters
    ----------
    score
        The score below.
    bias
        A floating tensor that broadcasts to ``(*batch, queries, keys)``; or a function or module
        of positions ``i``, shape ``(queries, 1)``, and ``j``, shape ``(1, keys)``, that returns
        one. The last query stands at the last key: ``i`` counts from ``keys - queries``. A
        function is asked for some queries and keys at a time, and again for the gradient: what it
        looks up must not change before.

    Raises
    ------
    TypeError
        If the score or the bias cannot be used as one, or the function returns no numbers.
    ValueError
        If the bias does not broadcast to the scores.

    Examples
    --------
    >>> from d2lattn import DotProductScore
    >>> score = Biased(DotProductScore(), lambda i, j: -0.5 * (i - j).abs())  # ALiBi, one head
    >>> score(torch.zeros(2, 4), torch.zeros(3, 4))
    tensor([[-0.5000,  0.0000, -0.5000],
            [-1.0000, -0.5000,  0.0000]])

    References
    ----------
    Press, Smith and Lewis, "Train Short, Test Long" (2022); Shaw, Uszkoreit and Vaswani,
    "Self-Attention with Relative Position Representations" (2018).
    """

    bias: Any

    def __init__(self, score: ScoreFunction, bias: Bias) -> None:
        super().__init__(score)
        if isinstance(bias, Tensor):
            check_floating("bias", bias)
        else:
            kinds = "a tensor, or a function or module of positions (i, j)"
            check_of_positions("bias", bias, kinds)
        if isinstance(bias, Tensor) and not isinstance(bias, nn.Parameter):
            self.register_buffer("bias", bias)
        else:
            self.bias = bias

    def placed(self, block: Block) -> Score:
        """With the bias of the block, which holds stretches of queries and of keys."""
        other, bias = super().placed(block), self.bias
        assert isinstance(other, Biased)
        if not isinstance(bias, Tensor):
            other.bias = _moved(bias, block)
            return other
        check_broadcasts("bias", bias, block.shape)
        other._parameters.pop("bias", None)
        other._buffers["bias"] = block.cut(bias)
        return other

    def change(self, scores: Float[Tensor, "*batch rows columns"], block: Block) -> Tensor:
        """The bias of the block added."""
        return _add(self.bias, scores, block)

    def change_of_now(self, few: Positions) -> tuple[Change, tuple[Tensor, ...], bool] | None:
        """With the tensor, or the module's tensors, of this moment."""
        bias = self.bias
        if isinstance(bias, Tensor):
            bias = alias(bias)
            return partial(_add, bias), (bias,), False
        if not isinstance(bias, nn.Module):
            found = is_of_pairs(bias, nn.Module(), *few)
            return (partial(_add, bias), (), True) if found else None
        if is_hooked_inside(bias):
            return None
        tensors = aliases_of(bias)
        now = apart(bias, tensors)
        found = is_of_pairs(now, now, *few)
        return (partial(_add, now), tuple(tensors.values()), True) if found else None


def _add(bias: Bias, scores: Tensor, block: Block) -> Tensor:
    if not isinstance(bias, Tensor):
        bias = bias(*block.positions(scores.device))
        if not isinstance(bias, Tensor) or bias.dtype == torch.bool or bias.is_complex():
            got = bias.dtype if isinstance(bias, Tensor) else type(bias).__name__
            raise TypeError(
                f"bias must return a tensor of numbers; got {got} (a mask of booleans is another "
                "thing: Mask.where takes such a function)"
            )
        bias = block.of_positions("what bias returns", bias)
    else:
        check_device("bias", bias, scores.device)
        check_broadcasts("bias", bias, block.shape)
        bias = block.cut(bias)
    return scores + bias.to(scores.dtype)


class _Moved(nn.Module):
    """A module of positions, asked for those of a block."""

    def __init__(self, bias: nn.Module, of_queries: int, of_keys: int) -> None:
        super().__init__()
        self.bias, self.of_queries, self.of_keys = bias, of_queries, of_keys

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        return self.bias(i + self.of_queries, j + self.of_keys)


def _moved(bias: Callable[[Tensor, Tensor], Tensor], block: Block) -> Any:
    """A bias that takes the positions that its queries and keys would have without the rest."""
    *_, rows, columns = block.sizes
    i, j = (int(x.flatten()[0]) if x.numel() else 0 for x in block.positions(torch.device("cpu")))
    shift = i - (columns - rows), j
    if isinstance(bias, nn.Module):
        return _Moved(bias, *shift)
    return lambda i, j: bias(i + shift[0], j + shift[1])


class SoftCapped(OnTop):
    r"""A score that cannot leave an interval.

    .. math:: a'(q, k) = c \tanh \frac{a(q, k)}{c}

    Parameters
    ----------
    score
        The score below.
    cap
        :math:`c > 0`: no score is larger, nor less than :math:`-c`.

    Raises
    ------
    TypeError, ValueError
        If the score cannot be used as one, or the cap is not a positive finite number.

    Examples
    --------
    >>> from d2lattn import DotProductScore
    >>> score = SoftCapped(DotProductScore(scale=1.0), cap=2.0)
    >>> score(torch.tensor([[1.0], [100.0]]), torch.tensor([[1.0]]))
    tensor([[0.9242],
            [2.0000]])

    References
    ----------
    Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size" (2024), section 2.
    """

    def __init__(self, score: ScoreFunction, cap: float) -> None:
        super().__init__(score)
        check_number("cap", cap)
        if cap <= 0:
            raise ValueError(f"cap must be positive; got {cap}")
        self.cap = cap

    def extra_repr(self) -> str:
        return f"cap={self.cap}"

    def change(self, scores: Float[Tensor, "*batch rows columns"], block: Block) -> Tensor:
        """Bent towards the cap."""
        return _capped(self.cap, scores, block)

    def change_of_now(self, few: Positions) -> tuple[Change, tuple[Tensor, ...], bool]:
        """With the cap of this moment."""
        if not isinstance(self.cap, Tensor):
            return partial(_capped, self.cap), (), False
        cap = alias(self.cap)
        return partial(_capped, cap), (cap,), False


def _capped(cap: float | Tensor, scores: Tensor, block: Block) -> Tensor:
    if isinstance(cap, Tensor):  # a learned one was put in its place, of each head for instance
        cap = block.cut(cap)
    return cap * (scores / cap).tanh()
