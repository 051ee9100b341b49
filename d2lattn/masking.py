"""Which keys a query may attend to, and the softmax over those keys only."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d2lattn.blocks import Block
from d2lattn.checks import at_least_float32, check_count, check_floating, check_integers
from d2lattn.engine.plain import softmax
from d2lattn.masks import Mask, restriction
from d2lattn.restrictions import Lengths

__all__ = ["causal_mask", "length_mask", "masked_softmax"]


def length_mask(
    valid_lens: Int[Tensor, "..."],
    num_keys: int,
) -> Bool[Tensor, "... {num_keys}"]:
    r"""Mask of the first ``valid_lens`` keys: everything behind them is padding.

    .. math:: m_{\cdot j} = [\, j < \ell_\cdot \,]

    Parameters
    ----------
    valid_lens
        Valid lengths, any integer dtype, any shape.
    num_keys
        Number of keys, padding included.

    Returns
    -------
    Tensor
        Boolean, shape ``(*valid_lens.shape, num_keys)``; True = may be attended to.

    Raises
    ------
    TypeError
        If the lengths are not an integer tensor, or ``num_keys`` is not an integer.
    ValueError
        If a length lies outside ``[0, num_keys]``. The values of a tensor cannot be looked at
        inside ``torch.vmap`` or ``torch.compile``; there the caller vouches for them.

    Examples
    --------
    >>> length_mask(torch.tensor([1, 3]), 3)
    tensor([[ True, False, False],
            [ True,  True,  True]])

    References
    ----------
    Zhang et al., *Dive into Deep Learning* (2023), section "Masked Softmax Operation".
    """
    check_count("num_keys", num_keys)
    check_integers("valid_lens", valid_lens)
    shape, device = (*valid_lens.shape, 1, num_keys), valid_lens.device
    return Lengths(valid_lens).bind(shape, device).allowed(Block.whole(shape), device).squeeze(-2)


def causal_mask(
    num_queries: int, num_keys: int, *, device: torch.device | str | None = None
) -> Bool[Tensor, "{num_queries} {num_keys}"]:
    r"""Mask that hides the future: the last query sees every key, the one before it one less.

    .. math:: m_{ij} = [\, j - i \le \text{keys} - \text{queries} \,]

    With more queries than keys the first queries see no key at all.

    Parameters
    ----------
    num_queries, num_keys
        Numbers of queries and keys, at least 0.
    device
        Where the mask is made; by default PyTorch's default device.

    Returns
    -------
    Tensor
        Boolean, shape ``(num_queries, num_keys)``; True = may be attended to.

    Raises
    ------
    TypeError, ValueError
        If a number is not an integer, or negative.

    Examples
    --------
    >>> causal_mask(2, 3)
    tensor([[ True,  True, False],
            [ True,  True,  True]])

    References
    ----------
    Vaswani et al., "Attention Is All You Need" (2017), section 3.2.3.
    """
    check_count("num_queries", num_queries)
    check_count("num_keys", num_keys)
    everything = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return everything.tril(num_keys - num_queries)


def masked_softmax(
    scores: Float[Tensor, "*scores"],
    valid_lens: Int[Tensor, "..."] | None = None,
    *,
    mask: Mask | Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*scores"]:
    r"""Attention weights: a softmax over the keys that a query may attend to.

    .. math:: \alpha_{ij} = \frac{m_{ij}\, e^{a_{ij}}}{\sum_k m_{ik}\, e^{a_{ik}}},
              \qquad \alpha_{i\cdot} = 0 \text{ where } m_{i\cdot} = 0

    A score of :math:`-\infty` hides its key as a mask does. A hidden score has no influence,
    whatever its value (NaN included), and its gradient is exactly 0.

    Parameters
    ----------
    scores
        Attention scores, any floating dtype, shape ``(*batch, queries, keys)``, or ``(keys,)``
        for a single query; not modified.
    valid_lens
        Number of leading keys that are valid, integers in ``[0, keys]``: one for each batch
        element, shape ``(*batch)``, or one for each query, shape ``(*batch, queries)``. An axis
        of size 1 serves all.
    mask
        A :class:`~d2lattn.Mask`, or booleans that broadcast to the shape of ``scores``; True =
        may be attended to. With ``valid_lens`` as well, a key must pass both.

    Returns
    -------
    Tensor
        Attention weights, dtype and shape of ``scores``, computed in at least float32. A row
        sums to 1, or is 0 throughout where the query has no key to attend to.

    Raises
    ------
    TypeError
        If the scores are not floating point, the lengths not integers, the mask not boolean.
    ValueError
        If a shape does not fit, or a length lies outside ``[0, keys]``.

    Examples
    --------
    >>> scores = torch.zeros(2, 1, 4)
    >>> masked_softmax(scores, torch.tensor([2, 0]))
    tensor([[[0.5000, 0.5000, 0.0000, 0.0000]],
    <BLANKLINE>
            [[0.0000, 0.0000, 0.0000, 0.0000]]])

    References
    ----------
    Zhang et al., *Dive into Deep Learning* (2023), section "Masked Softmax Operation".
    """
    check_floating("scores", scores)
    shape = tuple(scores.shape)
    if len(shape) == 0:
        raise ValueError("scores must have shape (*batch, queries, keys) or (keys,); got ()")
    if len(shape) == 1:
        return masked_softmax(scores.unsqueeze(0), valid_lens, mask=mask).squeeze(0)
    allowed = restriction(valid_lens, mask, shape, scores.device)
    hidden = None if allowed is None else allowed.hidden(Block.whole(shape), scores.device)
    return softmax(at_least_float32(scores), hidden).to(scores.dtype)
