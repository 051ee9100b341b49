r"""Local averages and local lines: the plain formula, and where sums do the same in linear time.

.. math:: \hat f(x) = \sum_i l_i(x)\, y_i

with weights that are kernels over their sum (degree 0), or what a weighted least-squares line
through the measurements makes of them (degree 1).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d2lattn.boxes import moments_in_boxes
from d2lattn.cells import moments_in_cells, window
from d2lattn.kernel_formulas import compare_by_kernel
from d2lattn.kernels import KernelScore
from d2lattn.masking import masked_softmax
from d2lattn.moments import Moments, Powers, average, local_weights, powers_of
from d2lattn.neighbours import (
    distance_to_nearest,
    moments_nearby,
    near_pairs,
    span_of_blocks,
)
from d2lattn.streaming import stream_attention

__all__ = ["Smoother", "Tick", "smooth", "smooth_plainly", "sums_of_others"]

_PAIRS_AT_ONCE = 2**16  # up to so many all pairs are the fastest way
_PAIRS_OF_A_BLOCK = 2**18

Tick = Callable[[float], Any]


@dataclass(frozen=True)
class Smoother:
    """What is smoothed, and how, in float64; where it is not said otherwise, all weights are
    positive."""

    kernel: str
    degree: int
    bandwidth: Float[Tensor, " features"]
    keys: Float[Tensor, "n features"]
    values: Float[Tensor, "n outputs"]
    sample_weight: Float[Tensor, " n"] | None = None
    single: bool = False  # whether the data have no more digits than float32

    def of(self, some: Tensor) -> "Smoother":
        """The same of some of the measurements, or in another order."""
        weight = self.sample_weight
        return replace(
            self,
            keys=self.keys[some],
            values=self.values[some],
            sample_weight=None if weight is None else weight[some],
        )

    def at(self, bandwidth: Float[Tensor, " features"]) -> "Smoother":
        """The same with another bandwidth; what does not depend on it is found once."""
        other = replace(self, bandwidth=bandwidth)
        vars(other).update(table=self.table, huge=self.huge)
        return other

    @cached_property
    def table(self) -> tuple[Float[Tensor, " outputs"], Float[Tensor, "n channels"]]:
        """The middle of the values, and what is summed: weights, and weights times values.

        What is averaged is small, measured from the middle, and so are its rounding errors. A
        median is not moved by a few huge values.
        """
        middle = self.values.median(dim=0).values
        ones = torch.ones_like(self.values[:, :1])
        table = torch.cat([ones, self.values - middle], dim=-1)
        weight = self.sample_weight
        return middle, table if weight is None else table * weight.unsqueeze(-1)

    @cached_property
    def huge(self) -> Bool[Tensor, " n"] | None:
        """Whose value is so large that its rounding error would show where its weight is none."""
        size = self.table[1][:, 1:].abs().amax(dim=-1)
        some = size > 0
        huge = size > 1e6 * size[some].median() if bool(some.any()) else some
        return huge if bool(huge.any()) else None

    @cached_property
    def units(self) -> Float[Tensor, " features"]:
        """See :func:`d2lattn.moments.local_weights`."""
        weight = self.sample_weight
        keys = self.keys if weight is None else self.keys[weight > 0]
        spread = keys.std(dim=0, correction=0)
        varies = (keys != keys[:1]).any(dim=0)
        return torch.minimum(self.bandwidth.detach(), spread).masked_fill(~varies, math.inf)

    def weights(
        self,
        scores: Float[Tensor, "m n"],
        queries: Float[Tensor, "m features"],
        keys: Float[Tensor, "n features"] | Float[Tensor, "m n features"],
        allowed: Bool[Tensor, "m n"] | None,
        sample_weight: Float[Tensor, "m n"] | Float[Tensor, " n"] | None,
    ) -> tuple[Float[Tensor, "m n"], Bool[Tensor, " m"]]:
        """Weights of the measurements for each query, and who reaches any of them."""
        if sample_weight is not None:
            scores = scores + sample_weight.log()
        weights = masked_softmax(scores, mask=allowed)
        reached = weights.detach().sum(dim=-1) > 0
        if self.degree == 1:
            weights = local_weights(weights, keys - queries.unsqueeze(-2), self.units)
        return weights, reached


@torch.no_grad()
def smooth(
    smoother: Smoother,
    queries: Float[Tensor, "m features"],
    *,
    leave_out: bool = False,
    tick: Tick | None = None,
) -> tuple[Float[Tensor, "m outputs"], Bool[Tensor, " m"]]:
    """Predictions, and which queries reach any measurement; 0 for those that do not.

    To leave out is the measurement with the query's own number. The same to rounding on every
    way: where sums would lose digits, the plain formula runs.
    """
    back = None
    if queries.shape[1] == 1:
        smoother, queries, back = _in_order(smoother, queries, leave_out)
    m, n = len(queries), len(smoother.keys)
    output = smoother.values.new_zeros(m, smoother.values.shape[1])
    reached = torch.zeros(m, dtype=torch.bool, device=queries.device)
    left = torch.arange(m, device=queries.device)
    found = _by_sums(smoother, queries, leave_out) if m * n > _PAIRS_AT_ONCE else None
    if found is not None:
        output, reached = found
        left = (~reached).nonzero().squeeze(-1)
    done = 1 - len(left) / max(m, 1)
    if tick is not None and done:
        tick(done)
    for some, fit, anyone in _plainly(smoother, queries, left, leave_out):
        output[some], reached[some] = fit, anyone
        if tick is not None:
            tick(len(some) / m)
    output = output.masked_fill(~reached.unsqueeze(-1), 0.0)
    return (output, reached) if back is None else (output[back], reached[back])


def _by_sums(
    smoother: Smoother, queries: Float[Tensor, "m features"], leave_out: bool
) -> tuple[Float[Tensor, "m outputs"], Bool[Tensor, " m"]] | None:
    """Predictions from sums of kernels, and where they are good; None: nowhere."""
    middle, table = smoother.table
    powers = powers_of(queries.shape[1], smoother.degree)
    moments = _sums_of_kernels(smoother, queries, table, powers)
    if moments is None:
        return None
    if leave_out:
        _leave_out(moments, table)
    output, good = average(moments, smoother.degree, smoother.units / smoother.bandwidth)
    return output + middle, good & ~_near_huge_values(smoother, queries)


def sums_of_others(
    smoother: Smoother, powers: Sequence[Powers]
) -> tuple[Float[Tensor, " outputs"], Moments] | None:
    """For each measurement the sums over all others, of values from their middle, which comes
    first; None where the plain formula is the fastest way."""
    middle, table = smoother.table
    moments = _sums_of_kernels(smoother, smoother.keys, table, powers)
    if moments is not None:
        _leave_out(moments, table)
    return None if moments is None else (middle, moments)


def _leave_out(moments: Moments, table: Float[Tensor, "n channels"]) -> None:
    """Own measurements, at no distance: a kernel of 1, and nothing in higher powers."""
    one = min(moments.sums, key=sum)
    moments.sums[one].sub_(table)


def _sums_of_kernels(
    smoother: Smoother,
    queries: Float[Tensor, "m features"],
    table: Float[Tensor, "n channels"],
    powers: Sequence[Powers],
) -> Moments | None:
    """By the fastest way there is; None where that is the plain formula.

    On a line keys are sorted, and it is better if queries are.
    """
    keys, h, degree = smoother.keys, smoother.bandwidth, smoother.degree
    features = keys.shape[1]
    if smoother.kernel != "gaussian":
        if features > 1:
            return None
        line = queries.squeeze(-1), keys.squeeze(-1)
        return moments_in_cells(smoother.kernel, degree, *line, table, float(h))
    moments = moments_in_boxes(queries, keys, table, h, powers)
    if moments is not None or features == 1:
        return moments
    if features < 4:
        single = smoother.single and degree == 0
        return moments_nearby(queries, keys, table, h, powers, single=single)
    if degree == 0:
        score = KernelScore("gaussian", h)
        output, logsumexp = stream_attention(score, queries, keys, table)
        total = logsumexp.exp()
        return Moments({(0,) * features: output * total.unsqueeze(-1)}, total)
    return None


def _near_huge_values(smoother: Smoother, queries: Tensor) -> Bool[Tensor, " m"]:
    """Who shares boxes with a huge value."""
    huge = smoother.huge
    if smoother.kernel == "gaussian" and huge is not None:
        powers = [(0,) * queries.shape[1]]
        marks = huge.to(queries).unsqueeze(-1)
        found = moments_in_boxes(queries, smoother.keys, marks, smoother.bandwidth, powers)
        if found is not None:
            return found.near > 0
    return torch.zeros(len(queries), dtype=torch.bool, device=queries.device)


def _in_order(
    smoother: Smoother, queries: Float[Tensor, "m 1"], leave_out: bool
) -> tuple[Smoother, Float[Tensor, "m 1"], Int[Tensor, " m"] | None]:
    """Everything sorted along the line, and the way back where queries were not."""
    by_key = _order(smoother.keys)
    if by_key is not None:
        smoother = smoother.of(by_key)
    by_query = by_key if leave_out else _order(queries)
    queries = smoother.keys if leave_out else queries
    if by_query is None:
        return smoother, queries, None
    back = torch.empty_like(by_query)
    back[by_query] = torch.arange(len(back), device=back.device)
    return smoother, queries if leave_out else queries[by_query], back


def _order(points: Float[Tensor, "n 1"]) -> Int[Tensor, " n"] | None:
    line = points.squeeze(-1)
    return None if bool((line[1:] >= line[:-1]).all()) else line.argsort()


def smooth_plainly(
    smoother: Smoother, which: Int[Tensor, " some"]
) -> Iterator[tuple[Int[Tensor, " rows"], Float[Tensor, "rows outputs"], Bool[Tensor, " rows"]]]:
    """Leave-one-out predictions of some measurements by the plain formula, a block at a time;
    differentiable in the bandwidth."""
    return _plainly(smoother, smoother.keys, which, True)


def _plainly(
    smoother: Smoother, queries: Tensor, left: Int[Tensor, " some"], leave_out: bool
) -> Iterator[tuple[Int[Tensor, " rows"], Float[Tensor, "rows outputs"], Bool[Tensor, " rows"]]]:
    """The plain formula for the queries that are left, with the keys that may count for them."""
    keys, values, weight = smoother.keys, smoother.values, smoother.sample_weight
    for some, near, allowed in _blocks(smoother, queries, left, leave_out):
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
