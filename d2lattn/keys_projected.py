"""A score for a decoder: the keys stay, the queries come one at a time."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.additive import AdditiveScore
from d2lattn.biased import OnTop
from d2lattn.blocks import Block
from d2lattn.checks import check_sizes
from d2lattn.dot_product import BilinearScore, DotProductScore
from d2lattn.engine.probe import apart, pairs_of, tried
from d2lattn.kernels import KernelScore
from d2lattn.score import Pairs, Score, is_hooked_inside, knows

__all__ = ["KeysProjected"]


_ON_THEIR_OWN = {
    kind.project for kind in (Score, AdditiveScore, BilinearScore, DotProductScore, KernelScore)
}


class KeysProjected(Score):
    r"""The same score, of keys that went through its first half already.

    .. math:: a'(q, k') = \mathrm{compare}(\mathrm{project}(q), k') = a(q, k), \qquad
              k' = \mathrm{project}(k)

    A decoder asks the same keys at every step. With additive scores, projecting them again each
    time would cost as much as all the rest of a step.

    Parameters
    ----------
    score
        Any score in two halves, of which the first treats each token on its own.
    key_size, query_size
        Numbers of features of a key and of a query, before they are projected.

    Raises
    ------
    TypeError
        If it is no :class:`~d2lattn.Score`, or a size is not an integer.
    ValueError
        If a size is not positive.

    Examples
    --------
    >>> import torch
    >>> from d2lattn import AdditiveScore
    >>> score = AdditiveScore(key_size=2, query_size=3, num_hiddens=4)
    >>> once = KeysProjected(score, key_size=2, query_size=3)
    >>> queries, keys = torch.randn(1, 3), torch.randn(5, 2)
    >>> projected = once.keys(keys)
    >>> torch.equal(once(queries, projected), score(queries, keys))
    True
    """

    def __init__(self, score: Score, key_size: int, query_size: int) -> None:
        super().__init__()
        if not isinstance(score, Score):
            raise TypeError(f"score must be a Score, made with its arguments; got {score!r}")
        check_sizes(key_size=key_size, query_size=query_size)
        self.score, self.key_size, self.query_size = score, key_size, query_size

    def keys(
        self, keys: Float[Tensor, "*batch keys key_features"]
    ) -> Float[Tensor, "*batch keys hidden"]:
        """The keys, projected."""
        no_queries = keys.new_zeros(*keys.shape[:-2], 0, self.query_size)
        return self.score.project(no_queries, keys)[1]

    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The queries, projected; the keys as they are."""
        no_keys = queries.new_zeros(*queries.shape[:-2], 0, self.key_size)
        return self.score.project(queries, no_keys)[0], keys

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        """As the score does."""
        return self.score.compare(q, k)

    def fits(self, keys: Float[Tensor, "*batch keys key_features"]) -> bool:
        """Whether the first half treats tokens on their own: known, or tried on a query and two
        keys."""
        below: Any = self.score
        while isinstance(below, OnTop) and type(below).project is OnTop.project:
            below = below.score
        if type(below).project in _ON_THEIR_OWN and "project" not in vars(below):
            return True
        if is_hooked_inside(self.score):
            return False
        few = keys.detach()[..., :2, :].clone()
        query = keys.new_ones(*keys.shape[:-2], 1, self.query_size)
        tokens = (query, few), (query, few[..., :0, :]), (query[..., :0, :], few)
        score = apart(self.score, {})
        found = tried([partial(score.project, *some) for some in tokens], score)
        if found is None:
            return False
        (q, k), (q_alone, _), (_, k_alone) = found[0]
        return torch.equal(q, q_alone) and torch.equal(k, k_alone)

    def placed(self, block: Block) -> "KeysProjected":
        """With the score placed there."""
        return KeysProjected(self.score.placed(block), self.key_size, self.query_size)

    def pairs(self, q: Tensor, k: Tensor) -> Pairs | None:
        """Those of the score."""
        return pairs_of(self.score, q, k)

    def in_halves(self) -> bool:
        """As the score is."""
        return super().in_halves() and self.score.in_halves()

    def as_dot_product(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """Those of the score."""
        return self.score.as_dot_product(q, k) if knows(self.score, "as_dot_product") else None

    def mixes_tokens(self) -> bool:
        """As the score does."""
        return self.score.mixes_tokens()

    def shows_tokens(self) -> bool:
        """As the score does."""
        return self.score.shows_tokens()
