"""Small sizes: attention under lengths, in as few of PyTorch's calls as there are."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2lattn.engine.plain import Average
from d2lattn.ordinary import is_finite, wants_gradients
from d2lattn.score import Glance

# Up to so many keys what each length hides is kept, for 16 numbers of keys: half a megabyte each.
KEYS_AT_MOST = 256
_NOTHING = {
    dtype: torch.zeros((), dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)
}


def fits(keys: Tensor, values: Tensor, valid_lens: Tensor | None) -> bool:
    """Whether tokens that fit together, and lengths, are of the kind that is known here."""
    if keys.ndim != 3 or not keys.is_cpu or keys.dtype not in _NOTHING:
        return False
    batch, num_keys, _ = keys.shape
    if num_keys == 0 or values.shape[-1] == 0:
        return False
    return valid_lens is None or (
        valid_lens.shape == (batch,)
        and valid_lens.is_cpu
        and valid_lens.dtype in (torch.int64, torch.int32)
        and num_keys <= KEYS_AT_MOST
    )


def in_few_calls(
    add_scores: Glance,
    queries: Float[Tensor, "batch queries features"],
    keys: Float[Tensor, "batch keys features"],
    values: Float[Tensor, "batch keys value_features"],
    valid_lens: Int[Tensor, " batch"] | None,
) -> Average | None:
    """Attention; None where a number is not finite or a length not right.

    Masking is no call: -inf is what the scores are added to. A query without keys makes a NaN of
    its output, and so does what is not finite, but for hidden scores of -inf, whose keys would
    reach a gradient.
    """
    veil = None
    if valid_lens is not None:
        try:
            veil = _veils(keys.shape[1], keys.dtype).index_select(0, valid_lens)
        except IndexError:
            return None
    scores = add_scores(veil)
    if scores is None:
        return None
    weights = scores.softmax(dim=-1)
    del scores  # one tensor less at a time
    if veil is not None and wants_gradients(queries, keys):
        if not is_finite(keys, veil[..., 0]):  # the first key is hidden where all are
            return None
        weights = weights.masked_fill(veil == -math.inf, 0.0)  # no gradient comes from there
    output = torch.bmm(weights, values)
    return Average(output, weights, None) if is_finite(output) else None


def add_products(queries: Tensor, keys: Tensor, scale: float, veil: Tensor | None) -> Tensor:
    r"""Scores :math:`s\,q^\top k`: scaling, masking and the product are one call."""
    if wants_gradients(queries, keys):
        # Backward, a factor of its own would go through the gradient of the keys.
        queries, scale = queries * scale, 1.0
    if veil is None:
        return torch.baddbmm(_NOTHING[keys.dtype], queries, keys.mT, beta=0.0, alpha=scale)
    return torch.baddbmm(veil, queries, keys.mT, alpha=scale)


@lru_cache(maxsize=16)  # a decoder has another number of keys at each step
def _veils(num_keys: int, dtype: torch.dtype) -> Float[Tensor, "lengths 1 keys"]:
    """For each length, 0 for the first keys and -inf for the others."""
    hidden = torch.ones(num_keys + 1, num_keys, dtype=torch.bool, device="cpu").triu()
    veils = torch.zeros(hidden.shape, dtype=dtype, device="cpu").masked_fill(hidden, -math.inf)
    return veils.unsqueeze(1)
