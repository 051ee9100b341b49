"""Which keys a query may attend to, and the softmax over those keys only."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
    _check_count("num_keys", num_keys)
    _check_lengths(valid_lens, num_keys)
    return _is_before(valid_lens, num_keys)


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
    _check_count("num_queries", num_queries)
    _check_count("num_keys", num_keys)
    everything = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return everything.tril(num_keys - num_queries)


def masked_softmax(
    scores: Float[Tensor, "*batch queries keys"],
    valid_lens: Int[Tensor, "..."] | None = None,
    *,
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch queries keys"]:
    r"""Attention weights: a softmax over the keys that a query may attend to.

    .. math:: \alpha_{ij} = \frac{m_{ij}\, e^{a_{ij}}}{\sum_k m_{ik}\, e^{a_{ik}}},
              \qquad \alpha_{i\cdot} = 0 \text{ where } m_{i\cdot} = 0

    A score of :math:`-\infty` hides its key as a mask does. A hidden score has no influence,
    whatever its value (NaN included), and its gradient is exactly 0.

    Parameters
    ----------
    scores
        Attention scores, any floating dtype, shape ``(*batch, queries, keys)``; not modified.
    valid_lens
        Number of leading keys that are valid, integers in ``[0, keys]``: one for each batch
        element, shape ``(*batch)``, or one for each query, shape ``(*batch, queries)``.
    mask
        Boolean, broadcastable to the shape of ``scores``; True = may be attended to. With
        ``valid_lens`` as well, a key must pass both.

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
    if len(shape) < 2:
        raise ValueError(f"scores must have shape (*batch, queries, keys); got {shape}")
    check_masks(valid_lens, mask, shape, scores.device)
    allowed = combine_masks(valid_lens, mask, shape)
    wide = at_least_float32(scores)
    if allowed is not None:
        wide = wide.masked_fill(~allowed, -math.inf)
    # Softmax of nothing but -inf is NaN, its gradient too: zeros go in.
    empty = (wide == -math.inf).all(dim=-1, keepdim=True)
    weights = wide.masked_fill(empty, 0.0).softmax(dim=-1)
    return weights.masked_fill(empty, 0.0).to(scores.dtype)


def check_masks(
    valid_lens: Int[Tensor, "..."] | None,
    mask: Bool[Tensor, "..."] | None,
    shape: tuple[int, ...],
    device: torch.device,
) -> None:
    """Raise an error that names the argument unless both fit scores of this shape and device."""
    *batch, num_queries, num_keys = shape
    if valid_lens is not None:
        _check_lengths(valid_lens, num_keys)
        check_device("valid_lens", valid_lens, device)
        per_batch, per_query = tuple(batch), (*batch, num_queries)
        if valid_lens.shape not in (per_batch, per_query):
            raise ValueError(
                f"valid_lens must have shape {per_batch}, one length for each batch element, "
                f"or {per_query}, one for each query; got {tuple(valid_lens.shape)}"
            )
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(
                f"mask must be a boolean tensor, True = may be attended to; got {got} "
                "(an additive mask of floats is another convention: add it to the scores)"
            )
        check_device("mask", mask, device)
        axes = zip(reversed(mask.shape), reversed(shape), strict=False)
        if mask.ndim > len(shape) or any(have not in (1, want) for have, want in axes):
            raise ValueError(
                f"mask must broadcast to (*batch, queries, keys) = {shape}; got {tuple(mask.shape)}"
            )


def combine_masks(
    valid_lens: Int[Tensor, "..."] | None,
    mask: Bool[Tensor, "..."] | None,
    shape: tuple[int, ...],
) -> Bool[Tensor, "..."] | None:
    """Lengths and mask, both checked, as one mask that broadcasts to ``shape``.

    The result is None where all is allowed. It has at least two axes and is no larger than its
    parts need: one length for each batch element gives ``(*batch, 1, keys)``.
    """
    num_keys = shape[-1]
    allowed = None
    if valid_lens is not None:
        lens = valid_lens if valid_lens.ndim == len(shape) - 1 else valid_lens.unsqueeze(-1)
        allowed = _is_before(lens, num_keys)
    if mask is not None:
        mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)
        allowed = mask if allowed is None else allowed & mask
    return allowed


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` itself, or its float32 copy where half precision would round a reduction."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise a TypeError that names the argument unless it is a floating-point tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {tensor.dtype}")


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Raise a ValueError that names the argument unless it lives on ``device``."""
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}, as the rest; got {tensor.device}")


def check_tokens(**tokens: Tensor) -> None:
    """Raise an error that names the argument unless queries, keys (and values) fit together."""
    for name, tensor in tokens.items():
        check_floating(name, tensor)
        if tensor.ndim < 2:
            raise ValueError(
                f"{name} must have shape (*batch, {'queries' if name == 'queries' else 'keys'}, "
                f"features); got {tuple(tensor.shape)}"
            )
    queries, num_keys = tokens["queries"], tokens["keys"].shape[-2]
    for name, tensor in tokens.items():
        check_device(name, tensor, queries.device)
        if tensor.dtype != queries.dtype:
            raise TypeError(
                f"{name} must have the dtype of the queries, {queries.dtype}; got {tensor.dtype}"
            )
        if tensor.shape[:-2] != queries.shape[:-2]:
            raise ValueError(
                f"{name} must have the batch axes of the queries, {tuple(queries.shape[:-2])}; "
                f"got {tuple(tensor.shape[:-2])}"
            )
        if name != "values" and tensor.shape[-1] == 0:
            raise ValueError(f"{name} must have at least one feature; got {tuple(tensor.shape)}")
        if name == "values" and tensor.shape[-2] != num_keys:
            raise ValueError(
                f"values must be as many as the keys, {num_keys}; got {tensor.shape[-2]}"
            )


def has_values(tensor: Tensor) -> bool:
    """Whether there are numbers to look at, as there are not on the meta device or when
    ``torch.vmap`` or ``torch.compile`` trace what would be done with them."""
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    try:
        bool((tensor.reshape(-1)[:1] == 0).any())
    except RuntimeError:  # vmap: data-dependent control flow
        return False
    return True


def first_index(failing: Bool[Tensor, "..."]) -> tuple[int, ...] | None:
    """Where a check fails first, or None where it holds everywhere or cannot be seen."""
    if not has_values(failing) or not bool(failing.any()):
        return None
    return tuple(failing.nonzero()[0].tolist())


def _is_before(
    valid_lens: Int[Tensor, "..."],
    num_keys: int,
) -> Bool[Tensor, "... {num_keys}"]:
    positions = torch.arange(num_keys, device=valid_lens.device)
    return positions < valid_lens.long().unsqueeze(-1)


def _check_count(name: str, number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int | torch.SymInt):
        raise TypeError(f"{name} must be an integer; got {number!r}")
    if number < 0:
        raise ValueError(f"{name} must be at least 0; got {number}")


def _check_lengths(valid_lens: Tensor, num_keys: int) -> None:
    if not isinstance(valid_lens, Tensor):
        raise TypeError(f"valid_lens must be an integer tensor; got {type(valid_lens).__name__}")
    if valid_lens.dtype == torch.bool or valid_lens.is_floating_point() or valid_lens.is_complex():
        raise TypeError(f"valid_lens must hold integers; got {valid_lens.dtype}")
    lens = valid_lens.long()  # PyTorch cannot compare every integer dtype
    index = first_index((lens < 0) | (lens > num_keys))
    if index is not None:
        raise ValueError(
            f"valid_lens must lie in [0, {num_keys}], the number of keys; "
            f"got {valid_lens[index].item()} at index {index}"
        )
