r"""Local averages and local lines: by sums, in linear time, or else by the plain formula.

.. math:: \hat f(x) = \sum_i l_i(x)\, y_i

with weights that are kernels over their sum (degree 0), or what a weighted least-squares line
through the measurements makes of them (degree 1).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d2lattn.boxes import moments_in_boxes
from d2lattn.cells import moments_in_cells
from d2lattn.extras import Tick
from d2lattn.grid import moments_on_a_grid
from d2lattn.kernels import KernelScore
from d2lattn.moments import Moments, Powers, average, near_for_digits, powers_of
from d2lattn.neighbours import moments_nearby
from d2lattn.plainly import smooth_plainly
from d2lattn.smoother import Smoother
from d2lattn.streaming import stream_attention

__all__ = ["smooth", "sums_of_others"]

_PAIRS_AT_ONCE = 2**16  # up to so many all pairs are the fastest way


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
    for some, fit, anyone in smooth_plainly(smoother, queries, left, leave_out=leave_out):
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
    moments = moments_in_boxes(queries, keys, table, h, powers, smoother.expansions)
    if moments is not None or features == 1:
        return moments
    if features < 4:
        single = smoother.single and degree == 0
        if len(powers) == 1 and smoother.huge is None:  # whose kernels it would cut short
            moments = moments_on_a_grid(queries, keys, table, h, single=single)
            if moments is not None:
                return moments
        return moments_nearby(queries, keys, table, h, powers, single=single)
    return _by_streaming(smoother, queries, table) if degree == 0 else None


def _by_streaming(
    smoother: Smoother, queries: Float[Tensor, "m features"], table: Float[Tensor, "n channels"]
) -> Moments | None:
    """As dot products; None where the squares that these are made of are too large for digits."""
    keys, h = smoother.keys, smoother.bandwidth
    middle = keys.mean(dim=0)
    largest = max(float(((x - middle) / h).square().sum(dim=-1).amax()) for x in (queries, keys))
    error = torch.finfo(keys.dtype).eps * (largest + 8)
    score = KernelScore("gaussian", h)
    output, logsumexp = stream_attention(score, queries, keys, table)
    sums = output * logsumexp.exp().unsqueeze(-1)
    near = near_for_digits(sums[:, 0], error, 0.0, single=smoother.single)
    return Moments({(0,) * keys.shape[1]: sums}, near)


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
