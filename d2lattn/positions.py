"""Order, which attention does not see by itself: in the score, or in queries and keys."""

import math
from copy import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from d2lattn.blocks import Block
from d2lattn.checks import at_least_float32, check_number, check_sizes
from d2lattn.dot_product import DotProductScore
from d2lattn.score import is_untouched

__all__ = ["RelativeBias", "RotaryScore", "alibi_slopes"]


class RotaryScore(DotProductScore):
    r"""A scaled dot product of queries and keys that are turned by their positions.

    .. math::
        a(q_i, k_j) = s\, (R_i q)^\top R_j k = s\, q^\top R_{j-i}\, k, \qquad
        R_p \text{ turns features } 2m, 2m + 1 \text{ by } p\, b^{-2m/d}

    What a token is stays, where it stands is its angle, and a score depends on the distance of
    the two only. It remains a dot product: it runs on the fused kernel. The last query stands at
    the last key: query ``i`` at the position ``i + keys - queries``.

    Parameters
    ----------
    base
        :math:`b > 0`, which sets the slowest turn: a full one takes nearly :math:`2\pi b`
        positions.
    scale
        The factor s; None gives :math:`1/\sqrt d`.

    Raises
    ------
    TypeError, ValueError
        If a number is not finite, the base is not positive, or queries and keys do not have the
        same, even number of features.

    Examples
    --------
    >>> score = RotaryScore(scale=1.0)
    >>> same = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    >>> score(same, same)  # the cosine of the distance
    tensor([[ 1.0000,  0.5403, -0.4161],
            [ 0.5403,  1.0000,  0.5403],
            [-0.4161,  0.5403,  1.0000]])

    References
    ----------
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021), whose pairs
    of neighbouring features these are.
    """

    def __init__(self, base: float = 10000.0, scale: float | None = None) -> None:
        super().__init__(scale)
        check_number("base", base)
        if base <= 0:
            raise ValueError(f"base must be positive; got {base}")
        self.base = base
        self._shift = 0  # of the queries, where these and the keys are some of all

    def extra_repr(self) -> str:
        return f"base={self.base}, {super().extra_repr()}"

    def project(
        self,
        queries: Float[Tensor, "*batch queries features"],
        keys: Float[Tensor, "*batch keys features"],
    ) -> tuple[Float[Tensor, "*batch queries features"], Float[Tensor, "*batch keys features"]]:
        """Both turned, in at least float32."""
        queries, keys = super().project(queries, keys)
        if queries.shape[-1] % 2:
            raise ValueError(
                "queries and keys must have an even number of features, which are turned in "
                f"pairs; got {queries.shape[-1]}"
            )
        first = keys.shape[-2] - queries.shape[-2] + self._shift
        return self._turned(queries, first), self._turned(keys, 0)

    def placed(self, block: Block) -> "RotaryScore":
        """With the distance between the queries and the keys of the block."""
        i, j = (x.flatten() for x in block.positions(torch.device("cpu")))
        other = copy(self)
        if len(i) and len(j):
            other._shift = int(i[-1] - j[-1])
        return other

    def _turned(self, tokens: Tensor, first: int) -> Tensor:
        """Tokens that stand at the positions from ``first`` on."""
        tokens = at_least_float32(tokens)
        *_, count, features = tokens.shape
        # In float32 the angle of position 100 000 would be wrong in its third digit.
        exact = torch.float32 if tokens.device.type == "mps" else torch.float64
        places = torch.arange(count, device=tokens.device, dtype=exact) + first
        pairs = torch.arange(0, features, 2, device=tokens.device, dtype=exact)
        angles = places.unsqueeze(-1) * (pairs * (-math.log(self.base) / features)).exp()
        cos, sin = (f(angles).to(tokens.dtype) for f in (torch.cos, torch.sin))
        x, y = tokens.unflatten(-1, (-1, 2)).unbind(dim=-1)
        return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1).flatten(-2)

    def shows_tokens(self) -> bool:
        """It does."""
        return is_untouched(self, RotaryScore)


def alibi_slopes(num_heads: int) -> Float[Tensor, "{num_heads} 1 1"]:
    r"""How fast each head's score falls with the distance, in ALiBi.

    .. math:: a'_h(q_i, k_j) = a(q_i, k_j) - m_h\, |i - j|, \qquad m_h = 2^{-8h/n}

    for heads :math:`h = 1, \dots, n` if n is a power of two. Otherwise the slopes of the largest
    power of two below n come first, then every other one of those of twice as many heads.

    Parameters
    ----------
    num_heads
        n, the number of heads.

    Returns
    -------
    Tensor
        Shape ``(heads, 1, 1)``, in PyTorch's default dtype: times distances ``(queries, keys)`` it
        is a bias for :class:`~d2lattn.Biased`.

    Raises
    ------
    TypeError, ValueError
        If the number is not a positive integer.

    Examples
    --------
    >>> from d2lattn import Biased, DotProductScore
    >>> slopes = alibi_slopes(8)
    >>> slopes.flatten()
    tensor([0.5000, 0.2500, 0.1250, 0.0625, 0.0312, 0.0156, 0.0078, 0.0039])
    >>> score = Biased(DotProductScore(), lambda i, j: -slopes * (i - j).abs())

    References
    ----------
    Press, Smith and Lewis, "Train Short, Test Long: Attention with Linear Biases Enables Input
    Length Extrapolation" (2022), section 3; the numbers that are no powers of two as in the
    authors' code.
    """
    check_sizes(num_heads=num_heads)
    power = 2 ** (num_heads.bit_length() - 1)
    of_power = [2.0 ** (-8 * h / power) for h in range(1, power + 1)]
    between = [2.0 ** (-4 * h / power) for h in range(1, 2 * power + 1, 2)]
    return torch.tensor((of_power + between)[:num_heads]).reshape(-1, 1, 1)


class RelativeBias(nn.Module):
    r"""A learned number for each distance, for :class:`~d2lattn.Biased`.

    .. math:: b_{ij} = w_{\,r + \min(\max(j - i,\, -r),\, r)}

    All distances of ``reach`` or more share one number, on either side: there is an answer at any
    length, and no more than that was learned.

    Parameters
    ----------
    reach
        r: the largest distance that has a number of its own.
    num_heads
        None for one bias, or so many, one for each head.

    Attributes
    ----------
    weight : torch.nn.Parameter
        Shape ``(2 * reach + 1,)``, or ``(heads, 2 * reach + 1)``, from ``reach`` positions back
        to ``reach`` positions ahead. It starts at 0: the score below, unchanged.

    Raises
    ------
    TypeError, ValueError
        If a number is not a positive integer.

    Examples
    --------
    >>> from d2lattn import Biased, DotProductScore
    >>> bias = RelativeBias(reach=1)
    >>> bias.weight.data = torch.tensor([-1.0, 0.0, 2.0])
    >>> Biased(DotProductScore(), bias)(torch.zeros(3, 4), torch.zeros(3, 4)).detach()
    tensor([[ 0.,  2.,  2.],
            [-1.,  0.,  2.],
            [-1., -1.,  0.]])

    References
    ----------
    Shaw, Uszkoreit and Vaswani, "Self-Attention with Relative Position Representations" (2018),
    whose clipped distances these are; Raffel et al., "Exploring the Limits of Transfer Learning
    with a Unified Text-to-Text Transformer" (2020), section 2.1, for one number a head.
    """

    def __init__(self, reach: int, num_heads: int | None = None) -> None:
        super().__init__()
        check_sizes(reach=reach)
        if num_heads is not None:
            check_sizes(num_heads=num_heads)
        self.reach = reach
        heads = () if num_heads is None else (num_heads,)
        self.weight = nn.Parameter(torch.zeros(*heads, 2 * reach + 1))

    def extra_repr(self) -> str:
        return (
            f"reach={self.reach}, num_heads={None if self.weight.ndim == 1 else len(self.weight)}"
        )

    def forward(
        self, i: Int[Tensor, "queries 1"], j: Int[Tensor, "1 keys"]
    ) -> Float[Tensor, "*heads queries keys"]:
        """The bias of queries at the positions ``i`` for keys at the positions ``j``."""
        return self.weight[..., (j - i).clamp(-self.reach, self.reach) + self.reach]
