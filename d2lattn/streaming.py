"""Attention that never holds queries x keys numbers, and how results of sets of keys are joined."""

import math
from collections.abc import Iterable, Sized
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d2lattn.checks import (
    at_least_float32,
    check_dropout,
    check_floating,
    check_scoring_function,
    check_tokens,
    result_dtype,
)
from d2lattn.engine.attend import attend
from d2lattn.engine.plain import log_sum_exp, softmax
from d2lattn.masks import Mask, restriction
from d2lattn.score import ScoreFunction

__all__ = ["StreamOutput", "merge_attention", "stream_attention"]


class StreamOutput(NamedTuple):
    r"""What :func:`stream_attention` returns: enough to be merged with other keys' results.

    Attributes
    ----------
    output
        Weighted averages of the values, shape ``(*batch, queries, value_features)``.
    logsumexp
        :math:`\log \sum_j e^{a_{ij}}`, shape ``(*batch, queries)``, at least float32;
        :math:`-\infty` for a query without keys.
    """

    output: Float[Tensor, "*batch queries value_features"]
    logsumexp: Float[Tensor, "*batch queries"]


def stream_attention(
    score: ScoreFunction,
    queries: Float[Tensor, "*batch queries query_features"],
    keys: Float[Tensor, "*batch keys key_features"],
    values: Float[Tensor, "*batch keys value_features"],
    valid_lens: Int[Tensor, "..."] | None = None,
    *,
    mask: Mask | Bool[Tensor, "..."] | None = None,
    dropout: float = 0.0,
) -> StreamOutput:
    r"""Attention without a tensor of queries x keys, forward or backward.

    .. math::
        o_i = \sum_j e^{a_{ij} - L_i}\, v_j, \qquad L_i = \log \sum_j e^{a_{ij}}

    A dot product, or what is one in disguise, runs on PyTorch's fused kernel, which takes in one
    tile of keys after another; every other :class:`~d2lattn.Score` goes block by block, some
    queries against the keys that they may see, and the gradient makes its scores again. What a
    mask leaves empty is not computed. The scores of a plain function have to be made at once.

    Parameters
    ----------
    score
        As for :class:`~d2lattn.Attention`: a score module, or a function of queries and keys.
    queries, keys, values
        One floating dtype, one device, the same batch axes; as many values as keys.
    valid_lens, mask
        Which keys may be attended to, as in :func:`~d2lattn.masked_softmax`.
    dropout
        Probability with which a weight is dropped; the same weights again for the gradient.

    Returns
    -------
    StreamOutput
        ``(output, logsumexp)``, the output in the dtype of the inputs, both computed in at least
        float32. A query without keys gets output 0 and logsumexp :math:`-\infty`.

    Raises
    ------
    TypeError, ValueError
        As :class:`~d2lattn.Attention` does.

    Examples
    --------
    >>> keys, values = torch.eye(2), torch.tensor([[10.0], [20.0]])
    >>> stream_attention(lambda q, k: q @ k.mT, torch.zeros(1, 2), keys, values)
    StreamOutput(output=tensor([[15.]]), logsumexp=tensor([0.6931]))

    References
    ----------
    Milakov and Gimelshein, "Online Normalizer Calculation for Softmax" (2018);
    Dao et al., "FlashAttention" (2022).
    """
    check_scoring_function(score)
    check_tokens(queries=queries, keys=keys, values=values)
    check_dropout(dropout)
    shape = (*queries.shape[:-1], keys.shape[-2])
    allowed = restriction(valid_lens, mask, shape, queries.device)
    output, _, logsumexp, _ = attend(
        score, queries, keys, values, allowed, dropout, need_weights=False, need_log=True
    )
    assert logsumexp is not None
    return StreamOutput(output.to(result_dtype(queries, keys, values)), logsumexp)


def merge_attention(parts: Iterable[tuple[Tensor, Tensor]]) -> StreamOutput:
    r"""Join what several sets of keys gave to the same queries, as if they had been one set.

    .. math::
        L = \log \sum_p e^{L_p}, \qquad o = \sum_p e^{L_p - L}\, o_p

    Merging is associative and takes parts in any order: tiles of one machine, or machines.

    Parameters
    ----------
    parts
        Pairs ``(output, logsumexp)`` of the same shapes, outputs of one dtype, at least one.

    Returns
    -------
    StreamOutput
        The output and the logsumexp over all keys. A query that no part has keys for gets
        output 0 and logsumexp :math:`-\infty`.

    Raises
    ------
    TypeError
        If a part does not hold two floating-point tensors, or the dtypes of outputs differ.
    ValueError
        If there is no part, or their shapes differ.

    Examples
    --------
    >>> near = torch.tensor([[1.0]]), torch.tensor([0.0])
    >>> far = torch.tensor([[3.0]]), torch.tensor([0.0])
    >>> merge_attention([near, far])
    StreamOutput(output=tensor([[2.]]), logsumexp=tensor([0.6931]))

    References
    ----------
    Dao et al., "FlashAttention" (2022), section 3.1.
    """
    if isinstance(parts, StreamOutput) or not isinstance(parts, Iterable):
        got = type(parts).__name__
        raise TypeError(f"parts must be several (output, logsumexp), in a list; got {got}")
    parts = list(parts)
    if not parts:
        raise ValueError("parts must hold at least one (output, logsumexp); got none")
    for number, part in enumerate(parts):
        if not isinstance(part, (tuple, list)) or len(part) != 2:
            size = f" of {len(part)}" if isinstance(part, Sized) else ""
            raise TypeError(
                f"parts[{number}] must be a pair (output, logsumexp); "
                f"got {type(part).__name__}{size}"
            )
        output, logsumexp = part
        check_floating(f"the output of parts[{number}]", output)
        check_floating(f"the logsumexp of parts[{number}]", logsumexp)
        if output.dtype != (dtype := parts[0][0].dtype):
            raise TypeError(
                f"parts must have outputs of one dtype, {dtype}; got {output.dtype} "
                f"at index {number}"
            )
        expected = tuple(parts[0][0].shape), tuple(parts[0][0].shape[:-1])
        if (got := (tuple(output.shape), tuple(logsumexp.shape))) != expected:
            raise ValueError(
                f"parts must have outputs and logsumexps of one shape, {expected}; got {got} "
                f"at index {number}"
            )
    # The parts are what is averaged: their logarithms are the scores, (*batch, queries, parts).
    logs = torch.stack([at_least_float32(log) for _, log in parts], dim=-1)
    shares = softmax(logs, None).movedim(-1, 0).unsqueeze(-1)
    empty = (logs == -math.inf).movedim(-1, 0).unsqueeze(-1)
    outputs = torch.stack([output.to(shares.dtype) for output, _ in parts])
    joined = (shares * outputs.masked_fill(empty, 0.0)).sum(dim=0)  # whatever those hold
    return StreamOutput(joined.to(parts[0][0].dtype), log_sum_exp(logs, None))
