"""The plain formula of local averages and lines, in blocks of queries and the keys near them."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d2lattn.cells import window
from d2lattn.kernel_formulas import compare_by_kernel
from d2lattn.neighbours import distance_to_nearest, near_pairs, span_of_blocks
from d2lattn.smoother import Smoother

__all__ = ["smooth_by_nearest", "smooth_plainly"]

_PAIRS_AT_ONCE = 2**16  # of more, only those that are near
_PAIRS_OF_A_BLOCK = 2**18


def smooth_plainly(
    smoother: Smoother,
    queries: Float[Tensor, "m features"],
    which: Int[Tensor, " some"],
    *,
    leave_out: bool,
) -> Iterator[tuple[Int[Tensor, " rows"], Float[Tensor, "rows outputs"], Bool[Tensor, " rows"]]]:
    """Which queries, their predictions and who of them reaches any measurement, a block at a time,
    from the keys that may count for them; differentiable in the bandwidth.

    To leave out is the measurement with the query's own number.
    """
    keys, values, weight = smoother.keys, smoother.values, smoother.sample_weight
    for some, near, allowed in _blocks(smoother, queries, which, leave_out):
        q, k = queries[some], keys[near]
        if near.ndim == 2:  # each query has keys of its own
            pairs = compare_by_kernel(smoother.kernel, smoother.bandwidth, q.unsqueeze(-2), k)
            scores = pairs.squeeze(-2)
        else:
            scores = compare_by_kernel(smoother.kernel, smoother.bandwidth, q, k)
        if leave_out:
            others = near != some.unsqueeze(-1)
            allowed = others if allowed is None else allowed & others
        near_weight = None if weight is None else weight[near]
        weights, reached = smoother.weights(scores, q, k, allowed, near_weight)
        if near.ndim == 1:
            yield some, weights @ values[near], reached
        else:
            yield some, (weights.unsqueeze(-2) @ values[near]).squeeze(-2), reached


def _blocks(
    smoother: Smoother, queries: Tensor, left: Int[Tensor, " some"], leave_out: bool
) -> Iterator[
    tuple[Int[Tensor, " rows"], Int[Tensor, "*rows near"], Bool[Tensor, "rows near"] | None]
]:
    """Some queries at a time, with the keys near all of them, or near each, who are allowed."""
    n, features = smoother.keys.shape
    if len(left) == 0:
        return
    if features == 1:
        first, last = _within_reach(smoother, queries, left, leave_out)
        widths = torch.frexp((last - first).double()).exponent  # alike: within a factor of two
        for width in widths.unique().tolist():
            alike = (widths == width).nonzero().squeeze(-1)
            places = torch.arange(int((last - first)[alike].amax()), device=left.device)
            for some in alike.split(max(1, _PAIRS_OF_A_BLOCK // max(1, len(places)))):
                near = first[some].unsqueeze(-1) + places
                yield left[some], near.clamp(max=n - 1), near < last[some].unsqueeze(-1)
    elif smoother.kernel != "gaussian" and features < 4 and len(left) * n > _PAIRS_AT_ONCE:
        h = smoother.bandwidth.detach()
        span = span_of_blocks(queries[left], h, 1)
        for some, near in near_pairs(queries[left], smoother.keys, h, 1, span):
            for rows in some.split(max(1, _PAIRS_OF_A_BLOCK // max(1, len(near)))):
                yield left[rows], near, None
    else:
        everyone = torch.arange(n, device=left.device)
        for rows in left.split(max(1, _PAIRS_OF_A_BLOCK // (n * features))):
            yield rows, everyone, None


def _within_reach(
    smoother: Smoother, queries: Tensor, left: Int[Tensor, " some"], leave_out: bool
) -> tuple[Int[Tensor, " some"], Int[Tensor, " some"]]:
    """On a line the first and one past the last key that counts for a query."""
    line, keys = queries.squeeze(-1), smoother.keys.squeeze(-1)
    h = float(smoother.bandwidth.detach())
    if smoother.kernel != "gaussian":
        return window(line[left], keys, h)
    nearest = distance_to_nearest(line, keys, leave_out=leave_out)[left]
    digits = 37.0 + math.log(len(keys))  # all others together weigh e^-37 of the nearest
    if smoother.sample_weight is not None:
        least, most = smoother.sample_weight.aminmax()
        digits += math.log(float(most)) - math.log(float(least))
    reach = torch.hypot(nearest, nearest.new_tensor(h * math.sqrt(2 * digits)))
    reach = reach * (1 + 1e-14)  # rounding keeps the nearest, however far it is
    first = torch.searchsorted(keys, line[left] - reach)
    return first, torch.searchsorted(keys, line[left] + reach, right=True)


@torch.no_grad()
def smooth_by_nearest(
    smoother: Smoother, queries: Float[Tensor, "m features"], which: Int[Tensor, " some"]
) -> Float[Tensor, "some outputs"]:
    """For some of the queries the average of the nearest measurements, in bandwidths."""
    counts = torch.ones_like(smoother.keys[:, 0])
    if smoother.sample_weight is not None:
        counts = smoother.sample_weight
    found = [smoother.values[:0]]
    for some in which.split(max(1, _PAIRS_OF_A_BLOCK // smoother.keys.numel())):
        ways = (smoother.keys - queries[some].unsqueeze(-2)) / smoother.bandwidth
        distance = ways.square().sum(dim=-1).masked_fill(counts == 0, math.inf)
        weights = (distance == distance.amin(dim=-1, keepdim=True)) * counts
        found.append(weights @ smoother.values / weights.sum(dim=-1, keepdim=True))
    return torch.cat(found)
