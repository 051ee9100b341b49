"""Scaled dot-product attention: the score is an inner product."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from d2lattn.attention import Attention
from d2lattn.checks import (
    at_least_float32,
    check_dtype,
    check_floating,
    check_number,
    check_same_width,
    check_sizes,
    check_tokens,
    product,
)
from d2lattn.engine.fused import dot_products
from d2lattn.engine.small import add_products
from d2lattn.score import Glance, Pairs, Score, apply_linear, is_untouched, only_weight

__all__ = [
    "BilinearScore",
    "DotProductAttention",
    "DotProductScore",
    "bilinear_score",
    "dot_product_score",
]


def dot_product_score(
    queries: Float[Tensor, "*batch queries features"],
    keys: Float[Tensor, "*batch keys features"],
    scale: float | None = None,
) -> Float[Tensor, "*batch queries keys"]:
    r"""Inner product of query and key, scaled.

    .. math:: a(q, k) = s\, q^\top k, \qquad s = 1/\sqrt d \text{ by default}

    Parameters
    ----------
    queries, keys
        One floating dtype, the same batch axes and number of features d.
    scale
        The factor s; 1 gives the plain dot product, None gives :math:`1/\sqrt d`, which keeps
        the variance of the score at 1 when the features have mean 0 and variance 1.

    Returns
    -------
    Tensor
        Attention scores in the dtype of the queries, computed in at least float32.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or the scale is not a finite number.

    Examples
    --------
    >>> import torch
    >>> q, k = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    >>> dot_product_score(q, k, scale=1.0)
    tensor([[ 3., 25.]])

    References
    ----------
    Vaswani et al., "Attention Is All You Need" (2017), section 3.2.1.
    """
    return DotProductScore(scale)(queries, keys)


class DotProductScore(Score):
    r"""The scaled dot product; see :func:`dot_product_score`.

    .. math:: a(q, k) = s\, q^\top k

    Parameters
    ----------
    scale
        The factor s; None gives :math:`1/\sqrt d`.

    Raises
    ------
    TypeError, ValueError
        If the scale is not a finite number.
    """

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        if scale is not None:
            check_number("scale", scale, "a number or None")
        self.scale = scale

    def extra_repr(self) -> str:
        return f"scale={'1/sqrt(d)' if self.scale is None else self.scale}"

    def project(
        self,
        queries: Float[Tensor, "*batch queries features"],
        keys: Float[Tensor, "*batch keys features"],
    ) -> tuple[Float[Tensor, "*batch queries features"], Float[Tensor, "*batch keys features"]]:
        """Nothing to do but to check that a dot product exists."""
        check_same_width(queries, keys, "BilinearScore or AdditiveScore compare different widths")
        return queries, keys

    def compare(
        self,
        q: Float[Tensor, "*batch queries features"],
        k: Float[Tensor, "*batch keys features"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """The inner product of every pair, scaled."""
        return product(q * self._factor(q), k.mT)

    def _factor(self, q: Tensor) -> float:
        return 1.0 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale

    def as_dot_product(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """Itself."""
        scale = self._factor(q)
        return None if isinstance(scale, Tensor) else (q, k, scale)

    def at_a_glance(self, queries: Tensor, keys: Tensor) -> Glance | None:
        """By one call, if its factor is a number that every dtype holds."""
        fits = is_untouched(self, DotProductScore) and queries.shape[-1] == keys.shape[-1]
        scale = self._factor(queries) if fits else math.inf
        plain = isinstance(scale, (float, int)) and abs(scale) < 1e9
        return (lambda veil: add_products(queries, keys, scale, veil)) if plain else None

    def pairs(self, q: Tensor, k: Tensor) -> Pairs:
        """The dot product, with the factor of now."""
        return dot_products(self._factor(q))

    def shows_tokens(self) -> bool:
        """It does."""
        return is_untouched(self, DotProductScore)


def bilinear_score(
    queries: Float[Tensor, "*batch queries query_size"],
    keys: Float[Tensor, "*batch keys key_size"],
    weight: Float[Tensor, "key_size query_size"],
) -> Float[Tensor, "*batch queries keys"]:
    r"""Inner product of the key with the query as a linear map sees it: widths may differ.

    .. math:: a(q, k) = k^\top W q

    Parameters
    ----------
    queries, keys
        One floating dtype and the same batch axes; the numbers of features may differ.
    weight
        The matrix W.

    Returns
    -------
    Tensor
        Attention scores in the dtype of the queries, computed in at least float32.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> q, k = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    >>> bilinear_score(q, k, torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    tensor([[3.]])

    References
    ----------
    Luong, Pham and Manning, "Effective Approaches to Attention-based Neural Machine
    Translation" (2015), the score called "general".
    """
    check_tokens(queries=queries, keys=keys)
    check_floating("weight", weight)
    check_dtype("weight", weight, queries.dtype)
    expected = (keys.shape[-1], queries.shape[-1])
    if weight.shape != expected:
        raise ValueError(
            f"weight must have shape (key_size, query_size) = {expected}; got {tuple(weight.shape)}"
        )
    q = at_least_float32(queries) @ at_least_float32(weight).mT
    return (q @ at_least_float32(keys).mT).to(queries.dtype)


class BilinearScore(Score):
    r"""A dot product for queries and keys of different widths; see :func:`bilinear_score`.

    .. math:: a(q, k) = s\, k^\top W q

    Parameters
    ----------
    key_size, query_size
        Numbers of features of a key and of a query.
    scale
        The factor s. With 1 the scores of a fresh W grow with the width :math:`d_k` of a key;
        with :math:`1/\sqrt{d_k}` their variance is about 1/3 at every width, when the features
        have mean 0 and variance 1.

    Attributes
    ----------
    W : torch.nn.Linear
        Bias-free, from queries to keys; ``W.weight`` has shape ``(key_size, query_size)``.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or the scale not a finite number.

    Examples
    --------
    >>> import torch
    >>> BilinearScore(key_size=3, query_size=2)(torch.ones(1, 5, 2), torch.ones(1, 7, 3)).shape
    torch.Size([1, 5, 7])
    """

    def __init__(self, key_size: int, query_size: int, scale: float = 1.0) -> None:
        super().__init__()
        check_sizes(key_size=key_size, query_size=query_size)
        check_number("scale", scale)
        self.scale = scale
        self.W = nn.Linear(query_size, key_size, bias=False)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    def project(
        self,
        queries: Float[Tensor, "*batch queries query_size"],
        keys: Float[Tensor, "*batch keys key_size"],
    ) -> tuple[
        Float[Tensor, "*batch queries key_size"],
        Float[Tensor, "*batch keys key_size"],
    ]:
        """s W q; the key as it is."""
        q = apply_linear("queries", queries, self.W) * self.scale
        if keys.shape[-1] != q.shape[-1]:
            raise ValueError(
                f"keys must have the {q.shape[-1]} features "
                f"that the layer was made for; got {keys.shape[-1]}"
            )
        return q, keys

    def compare(
        self,
        q: Float[Tensor, "*batch queries key_size"],
        k: Float[Tensor, "*batch keys key_size"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """The inner product of every pair."""
        return product(q, k.mT)

    def as_dot_product(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        """Of the projected query and the key."""
        return q, k, 1.0

    def pairs(self, q: Tensor, k: Tensor) -> Pairs:
        """The same, block by block."""
        return dot_products(1.0)

    def shows_tokens(self) -> bool:
        """It does, and projecting twice is not noticed."""
        return is_untouched(self, BilinearScore) and only_weight(self.W) is not None


class DotProductAttention(Attention):
    r"""Scaled dot-product attention.

    .. math:: f(q) = \sum_j \mathrm{softmax}_j\!\left(\frac{q^\top k_j}{\sqrt d}\right) v_j

    Parameters
    ----------
    dropout
        Probability with which a weight is dropped in training mode.
    scale
        Factor of the dot product; None gives :math:`1/\sqrt d`.

    Raises
    ------
    TypeError, ValueError
        If the dropout is not a probability or the scale not a finite number.

    Examples
    --------
    >>> import torch
    >>> attention = DotProductAttention()
    >>> q, k, v = torch.randn(2, 1, 2), torch.ones(2, 10, 2), torch.arange(40.0).view(1, 10, 4)
    >>> attention(q, k, v.repeat(2, 1, 1), torch.tensor([2, 6])).output[:, 0].round().int()
    tensor([[ 2,  3,  4,  5],
            [10, 11, 12, 13]], dtype=torch.int32)

    References
    ----------
    Vaswani et al., "Attention Is All You Need" (2017), section 3.2.1.
    """

    def __init__(self, dropout: float = 0.0, scale: float | None = None) -> None:
        super().__init__(DotProductScore(scale), dropout)
