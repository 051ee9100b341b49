"""Who is near whom: on a line by order, in space by boxes; Gaussian sums over near pairs only."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2lattn.groups import flat, groups_of
from d2lattn.moments import Moments, Powers, near_for_digits

__all__ = ["distance_to_nearest", "moments_nearby", "near_pairs", "runs", "span_of_blocks"]

_PAIRS_AT_ONCE = 2**18
_MOST_BOXES = 2**16  # along an axis
_REACH_IN_BOXES = 6
_BOXES = 3  # of a block of queries, along an axis


def distance_to_nearest(
    queries: Float[Tensor, " queries"], keys: Float[Tensor, " keys"], *, leave_out: bool = False
) -> Float[Tensor, " queries"]:
    """How far the nearest sorted key is; to leave out is the own key of queries that are the
    keys."""
    own = torch.arange(len(keys), device=keys.device)
    at = own if leave_out else torch.searchsorted(keys, queries)
    below, above = at - 1, at + leave_out
    last = len(keys) - 1
    to_below = (queries - keys[below.clamp(0, last)]).masked_fill(below < 0, torch.inf)
    to_above = (keys[above.clamp(0, last)] - queries).masked_fill(above > last, torch.inf)
    return torch.minimum(to_below, to_above)


def runs(first: Int[Tensor, "*runs"], last: Int[Tensor, "*runs"]) -> Int[Tensor, " indices"]:
    """The numbers from each first up to, not including, its last, one run after the other."""
    first = first.flatten()
    length = (last.flatten() - first).clamp(min=0)
    before = length.cumsum(0) - length
    total = int(length.sum())
    return (first - before).repeat_interleave(length) + torch.arange(total, device=first.device)


def near_pairs(
    queries: Float[Tensor, "m features"],
    keys: Float[Tensor, "n features"],
    width: Float[Tensor, " features"],
    reach: int,
    span: int = 1,
) -> Iterator[tuple[Int[Tensor, " some"], Int[Tensor, " near"]]]:
    """Queries that share a block of boxes, and all keys at most ``reach`` boxes away from it.

    At least all keys that are closer than ``reach`` widths in every feature are among the near
    ones. A block is ``span`` boxes wide; those with a query are visited, one after the other.
    """
    num, boxes, origin, width = _in_boxes(keys, width)
    boxes, order = boxes.sort()
    blocks = ((queries - origin) / width).floor()
    limits = keys.new_tensor([n + reach + span for n in num])
    blocks = blocks.clamp(min=-float(reach + span)).minimum(limits).div(span).floor().long()
    lowest = blocks.amin(dim=0)
    of_queries = flat((blocks - lowest).T, (blocks.amax(dim=0) - lowest + 1).tolist())
    for group in groups_of(of_queries):
        for points, there in zip(group.points, group.there, strict=True):
            some = points[there]
            block = [b * span for b in blocks[some[0]].tolist()]
            first = [max(0, b - reach) for b in block]
            last = [
                max(f, min(n, b + span + reach)) for b, f, n in zip(block, first, num, strict=True)
            ]
            rows = torch.zeros(1, dtype=torch.long, device=keys.device)
            for start, stop, n in zip(first[:-1], last[:-1], num[:-1], strict=True):
                steps = torch.arange(start, stop, device=keys.device)
                rows = (rows.unsqueeze(-1) * n + steps).flatten()
            lows = torch.searchsorted(boxes, rows * num[-1] + first[-1])
            highs = torch.searchsorted(boxes, rows * num[-1] + last[-1])
            yield some, order[runs(lows, highs)]


def _in_boxes(
    keys: Float[Tensor, "n features"], width: Float[Tensor, " features"]
) -> tuple[list[int], Int[Tensor, " n"], Float[Tensor, " features"], Float[Tensor, " features"]]:
    """How many boxes there are along each axis, each key's, where they begin and their width."""
    origin = keys.amin(dim=0)
    width = torch.maximum(width, (keys - origin).amax(dim=0) / _MOST_BOXES)
    box = ((keys - origin) / width).floor().long()
    num = (box.amax(dim=0) + 1).tolist()
    return num, flat(box.T, num), origin, width


def moments_nearby(
    queries: Float[Tensor, "m features"],
    keys: Float[Tensor, "n features"],
    values: Float[Tensor, "n channels"],
    bandwidth: Float[Tensor, " features"],
    powers: Sequence[Powers],
    *,
    single: bool,
) -> Moments:
    r"""Sums of Gaussian kernels over pairs within reach, by products of matrices.

    .. math:: -\tfrac12 \lVert q - k \rVert^2 = q^\top k - \tfrac12 \lVert k \rVert^2
        - \tfrac12 \lVert q \rVert^2

    measured from the middle of each block of queries: there few digits of the difference are
    lost, so that single precision is exact enough, if it is asked for.
    """
    span = span_of_blocks(queries, bandwidth, _BOXES)
    single = single and span == _BOXES
    reach = 6.5 if single else 9.0
    width = bandwidth * (reach / _REACH_IN_BOXES)
    dtype = torch.float32 if single else keys.dtype
    features, channels = keys.shape[1], values.shape[1]
    lower = sorted({p for power in powers for p in product(*(range(e + 1) for e in power))})
    sums = {power: keys.new_zeros(len(queries), channels) for power in powers}
    everything = torch.cat([keys, values], dim=-1)
    everything = everything[_in_boxes(keys, width)[1].argsort()]  # who is near is near in memory
    for some, near in near_pairs(queries, everything[:, :features], width, _REACH_IN_BOXES, span):
        middle = queries[some].mean(dim=0)
        k, value = everything.index_select(0, near).split([features, channels], dim=-1)
        q, k = (((x - middle) / bandwidth).to(dtype) for x in (queries[some], k))
        q_square, k_square = (x.square().sum(dim=-1, keepdim=True) for x in (q, k))
        # Boxes have corners: who is there is out of reach of the whole block.
        farthest = reach + float(q_square.amax()) ** 0.5
        kept = (k_square.squeeze(-1) <= farthest**2).nonzero().squeeze(-1)
        right = torch.cat([k, -0.5 * k_square, torch.ones_like(k_square), value.to(dtype)], dim=-1)
        right, value = right.index_select(0, kept).split([features + 2, channels], dim=-1)
        table = [value]
        if len(lower) > 1:
            k = right[:, :features]
            table = [(k ** k.new_tensor(p)).prod(dim=-1, keepdim=True) * value for p in lower]
        left = torch.cat([q, torch.ones_like(q_square), -0.5 * q_square], dim=-1)
        rows = max(1, _PAIRS_AT_ONCE // max(1, len(kept)))
        columns = torch.cat([x.T for x in table])  # few rows: four times as fast as few columns
        found = torch.cat([columns @ (right @ part.T).exp_() for part in left.split(rows)], dim=1)
        terms = found.T.to(keys).unflatten(-1, (len(lower), channels)).unbind(1)
        for power in powers:
            sums[power][some] = _moved(dict(zip(lower, terms, strict=True)), power, q)
    beyond = float(values[:, 0].sum()) * math.exp(-0.5 * reach**2)
    total = sums[min(sums, key=sum)][:, 0]
    return Moments(sums, near_for_digits(total, 8e-7 if single else 1e-13, beyond, single=single))


def span_of_blocks(
    queries: Float[Tensor, "m features"], width: Float[Tensor, " features"], least: int
) -> int:
    """How many boxes a block should be wide, so that most hold some dozens of queries.

    At most 8 times the least: few queries in a block are slow, many visit pairs in vain.
    """
    span = least
    while span < 8 * least:
        boxes = ((queries - queries.amin(dim=0)) / (width * span)).clamp(max=_MOST_BOXES).long()
        if len(flat(boxes.T, (boxes.amax(dim=0) + 1).tolist()).unique()) <= 64 + len(queries) // 32:
            break
        span *= 2
    return span


def _moved(
    terms: Mapping[Powers, Float[Tensor, "m channels"]],
    power: Powers,
    queries: Float[Tensor, "m features"],
) -> Float[Tensor, "m channels"]:
    """Sums of powers of the way from the middle as those of the way from each query."""
    if not any(power):
        return terms[power]
    total = torch.zeros_like(terms[power])
    for lower, term in terms.items():
        back = [b - a for a, b in zip(lower, power, strict=True)]
        if min(back) >= 0:
            ways = (-queries) ** queries.new_tensor(back)
            total += math.prod(map(math.comb, power, lower)) * ways.prod(-1, keepdim=True) * term
    return total
