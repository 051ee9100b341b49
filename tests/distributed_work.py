"""What each process of a test does: it holds its share, and compares with all in one process.

In a module without pytest, so that the processes import little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

import d2lattn.distributed.plan
import d2lattn.engine.attend
from d2lattn import (
    AdditiveScore,
    Biased,
    BilinearScore,
    DotProductScore,
    GaussianScore,
    KernelScore,
    Mask,
    RotaryScore,
    Score,
    SoftCapped,
    stream_attention,
)
from d2lattn.distributed import (
    count_traffic,
    gather_attention,
    gather_sequence,
    ring_attention,
    shard_sequence,
)

BATCH, QUERIES, KEYS, FEATURES, VALUES = 2, 19, 23, 4, 3
STREAMED, LONG = d2lattn.engine.attend.SCORES_AT_ONCE, d2lattn.distributed.plan.NUMBERS

_groups: dict[int, Any] = {}


def group_of(size: int) -> Any:
    """The first so many processes. Everybody has to call it, whether it belongs to them or not."""
    if size not in _groups:
        _groups[size] = dist.new_group(list(range(size)))
    return _groups[size]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def far(i: Tensor, j: Tensor) -> Tensor:
    return -0.3 * (i - j).abs().double()


class Reach(nn.Module):
    """A learned number for each distance up to 3."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Parameter(normal(7, seed=5))

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        return self.numbers[(j - i).clamp(-3, 3) + 3]


class Cosine(Score):
    """Somebody's own score, which uses a tensor from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere = [normal(FEATURES, seed=9).requires_grad_()]

    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return queries / queries.norm(dim=-1, keepdim=True), keys

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * self.elsewhere[0]) @ k.mT


SCORES: dict[str, Callable[[], Score]] = {
    "additive": lambda: AdditiveScore(FEATURES, FEATURES, 6),
    "bilinear": lambda: BilinearScore(FEATURES, FEATURES),
    "dot product": lambda: DotProductScore(scale=1.0),
    "scaled": DotProductScore,
    "gaussian": lambda: GaussianScore([0.5, 1.0, 1.5, 2.0], learnable=True),
    "triangular": lambda: KernelScore("triangular", 4.0, learnable=True),
    "biased by a tensor": lambda: Biased(
        DotProductScore(), nn.Parameter(normal(BATCH, QUERIES, KEYS, seed=4))
    ),
    "biased by a function": lambda: Biased(AdditiveScore(FEATURES, FEATURES, 6), far),
    "biased by a module, capped": lambda: SoftCapped(Biased(DotProductScore(), Reach()), 3.0),
    "rotary": RotaryScore,
    "one's own": Cosine,
}

MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"mask": Mask.causal()},
    "not causal": {"mask": ~Mask.causal()},
    "window": {"mask": Mask.window(3, 1)},
    "lengths": {"valid_lens": torch.tensor([5, KEYS])},
    "lengths of queries": {
        "valid_lens": torch.arange(BATCH * QUERIES).view(BATCH, -1) % (KEYS + 1)
    },
    "documents": {"mask": Mask.documents(torch.arange(QUERIES) // 6, torch.arange(KEYS) // 5)},
    "where": {"mask": Mask.where(lambda i, j: (i * j) % 3 == 0)},
    "tensor": {"mask": normal(BATCH, 1, KEYS, seed=8) > 0},
    "lengths and causal": {"valid_lens": torch.tensor([0, 15]), "mask": Mask.causal()},
    "window or first": {"mask": Mask.window(2) | Mask.where(lambda i, j: j < 2)},
}

WAYS = [
    (layout, rotate, streamed)
    for streamed in (False, True)
    for layout in ("contiguous", "zigzag", "uneven")
    for rotate in ("ring", "gather")
]


def uneven(x: Tensor, size: int, rank: int) -> Tensor:
    """Shares of very different lengths; the first process but one has none."""
    cuts = [round(x.shape[-2] * share) for share in (0, 0.6, 0.6, 0.9, 1.0)]
    cuts = [*cuts[:size], x.shape[-2]]
    return x[..., cuts[rank] : cuts[rank + 1], :]


def share(x: Tensor, layout: str, size: int, rank: int) -> Tensor:
    if layout == "uneven":
        return uneven(x, size, rank)
    return shard_sequence(x, group=group_of(size), layout=layout)  # type: ignore[arg-type]


def loss(output: Tensor, log: Tensor, weights: Tensor) -> Tensor:
    finite = log.masked_fill(log == -torch.inf, 0.0)
    return (output.sin() * weights).sum() + (finite * weights[..., 0]).sum()


def errors(
    rank: int, size: int, make: str, mask: str, way: tuple[str, str, bool]
) -> dict[str, float]:
    """How far values and gradients are from those of one process."""
    layout, rotate, streamed = way
    group = group_of(size)
    if rank >= size:
        return {}
    dist_layout: Any = "contiguous" if layout == "uneven" else layout
    tokens = [
        normal(BATCH, n, features, seed=seed)
        for seed, (n, features) in enumerate(
            ((QUERIES, FEATURES), (KEYS, FEATURES), (KEYS, VALUES)), start=1
        )
    ]
    weights = normal(BATCH, QUERIES, VALUES, seed=7)
    torch.manual_seed(3)
    score = SCORES[make]().double()
    elsewhere = [*score.parameters(), *getattr(score, "elsewhere", [])]

    whole = [x.clone().requires_grad_() for x in tokens]
    expected = stream_attention(score, *whole, **MASKS[mask])
    wanted = torch.autograd.grad(loss(*expected, weights), [*whole, *elsewhere], allow_unused=True)

    mine = [share(x, layout, size, rank).clone().requires_grad_() for x in tokens]
    # Where little is made at once, blocks go round in two or more parts.
    d2lattn.engine.attend.SCORES_AT_ONCE = 0 if streamed else STREAMED
    d2lattn.distributed.plan.NUMBERS = 40 if streamed else LONG
    found = ring_attention(
        score,
        *mine,
        **MASKS[mask],
        group=group,
        layout=dist_layout,
        rotate=rotate,  # type: ignore
    )
    own = share(weights, layout, size, rank)
    got = torch.autograd.grad(loss(*found, own), [*mine, *elsewhere], allow_unused=True)
    d2lattn.engine.attend.SCORES_AT_ONCE = STREAMED
    d2lattn.distributed.plan.NUMBERS = LONG

    def off(a: Tensor | None, b: Tensor | None) -> float:
        a, b = (torch.zeros(()) if x is None else x for x in (a, b))
        assert a.shape == b.shape or 1 in (a.ndim, b.ndim)
        finite = b.masked_fill(b == -torch.inf, -1e9)
        difference = a.masked_fill(a == -torch.inf, -1e9) - finite
        return float(difference.abs().max()) if difference.numel() else 0.0

    log = share(expected.logsumexp.detach().unsqueeze(-1), layout, size, rank).squeeze(-1)
    result = {
        "output": off(found.output, share(expected.output.detach(), layout, size, rank)),
        "logsumexp": off(found.logsumexp, log),
    }
    for name, a, b in zip(("queries", "keys", "values"), got, wanted, strict=False):
        assert b is not None
        result[name] = off(a, share(b, layout, size, rank))
    for number, (a, b, x) in enumerate(zip(got[3:], wanted[3:], elsewhere, strict=True)):
        total = torch.zeros_like(x) if a is None else a.clone()
        dist.all_reduce(total, group=group)
        result[f"parameter {number}"] = off(total, torch.zeros_like(x) if b is None else b)
    return result


def mutant_error(rank: int, name: str) -> float:
    """The largest error of values and gradients of a ring in which something is wrong."""
    from d2lattn.distributed import parts, ring
    from d2lattn.distributed.rounds import Rounds

    as_it_is = Rounds.ring

    def other_way_round(self: Rounds, load: Any, work: Any, owed: Any = None) -> Any:
        me, n = self.peers.rank, self.peers.size
        return as_it_is(self, load, lambda b, block: work((2 * me - b) % n, block), owed)

    def without_the_last(self: Rounds, load: Any, work: Any, owed: Any = None) -> Any:
        last = (self.peers.rank + 1) % self.peers.size
        return as_it_is(self, load, lambda b, x: None if b == last else work(b, x), owed)

    def kept_at_home(self: Rounds, load: Any, work: Any, owed: Any = None) -> Any:
        mine: list[Any] = []

        def and_keep(b: int, block: Tensor) -> Any:
            found = work(b, block)
            mine.extend([found] if b == self.peers.rank and owed is not None else [])
            return found

        as_it_is(self, load, and_keep, owed)
        return [mine[0].clone()] if mine else []

    def without_maximum(output: Tensor, log: Tensor, other: Tensor, other_log: Tensor) -> None:
        weights = [x.exp().unsqueeze(-1) for x in (log, other_log)]
        output.copy_((weights[0] * output + weights[1] * other) / (weights[0] + weights[1]))
        log.copy_((weights[0] + weights[1]).log().squeeze(-1))

    def off_by_a_block(name: str, counts: list[int], layout: str) -> Any:
        found = [[list(piece) for piece in some] for some in stretches(name, counts, layout)]
        for some in found:
            some[-1][0] -= 1
            some[-1][1] -= 1
        return [[(a, b) for a, b in some] for some in found]

    stretches = ring.stretches
    places: dict[str, tuple[Any, str, Any]] = {
        "nothing": (Rounds, "ring", as_it_is),
        "rotates the wrong way": (Rounds, "ring", other_way_round),
        "forgets the last block": (Rounds, "ring", without_the_last),
        "keeps gradients at home": (Rounds, "ring", kept_at_home),
        "merges without the maximum": (parts, "join", without_maximum),
        "has positions off by a block": (ring, "stretches", off_by_a_block),
    }
    where, what, wrong = places[name]
    right = getattr(where, what)
    n = 2 * dist.get_world_size()  # tokens: a stretch of the zig-zag is one
    tokens = [normal(n, 3, seed=seed) for seed in range(3)]
    tokens[0] = 800 * tokens[0] if "maximum" in name else tokens[0]
    mask = Mask.causal()
    whole = [x.clone().requires_grad_() for x in tokens]
    expected = stream_attention(DotProductScore(), *whole, mask=mask).output
    wanted = torch.autograd.grad(expected.sin().sum(), whole)
    shares = [shard_sequence(x, layout="zigzag").requires_grad_() for x in tokens]
    setattr(where, what, wrong)
    try:
        output = ring_attention(DotProductScore(), *shares, mask=mask, layout="zigzag").output
        got = torch.autograd.grad(output.sin().sum(), shares)
    finally:
        setattr(where, what, right)
    errors = [
        (a - shard_sequence(b, layout="zigzag")).abs().max()
        for a, b in zip((output.detach(), *got), (expected.detach(), *wanted), strict=True)
    ]
    return float(torch.stack(errors).nan_to_num(nan=torch.inf).max())


def many_errors(
    rank: int, size: int, cases: list[tuple[str, str, tuple[str, str, bool]]]
) -> list[tuple[float, str]]:
    """The largest of each case, and what it is of."""
    found = []
    for case in cases:
        of_case = errors(rank, size, *case)
        found.append(max(((x, name) for name, x in of_case.items()), default=(0.0, "")))
    return found


def rounded(rank: int, dtype: torch.dtype) -> list[float]:
    """Errors against float64: of a ring, and of one process; of outputs, then of gradients."""
    tokens = [normal(1, 96, 16, seed=seed, dtype=dtype) for seed in (1, 2, 3)]
    weights = normal(1, 96, 16, seed=7)
    found = []

    def gradients(
        attend: Callable[..., Any], tokens: list[Tensor], weights: Tensor
    ) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in tokens]
        output = attend(DotProductScore(), *leaves).output
        grads = torch.autograd.grad((output.double() * weights).sum(), leaves)
        return [output.detach(), *grads]

    exact = gradients(stream_attention, [x.double() for x in tokens], weights)
    alone = gradients(stream_attention, tokens, weights)
    shares = [shard_sequence(x) for x in tokens]
    ring = gradients(ring_attention, shares, shard_sequence(weights))
    assert all(x.dtype == dtype for x in ring)
    for a, b, c in zip(ring, alone, exact, strict=True):
        whole = gather_sequence(a)
        found += [float((x.double() - c).square().mean().sqrt()) for x in (whole, b)]
    return found


def traffic(rank: int, layout: str, mask: Mask | None) -> tuple[int, int, int, int]:
    """Bytes and messages of the way there and of the way back."""
    tokens = [normal(2, 24, n, seed=n, dtype=torch.float32) for n in (5, 5, 3)]
    shares = [shard_sequence(x, layout=layout).requires_grad_() for x in tokens]  # type: ignore
    with count_traffic() as there:
        output = ring_attention(DotProductScore(), *shares, mask=mask, layout=layout).output  # type: ignore
    with count_traffic() as back:
        output.sum().backward()
    return there.sent, there.messages, back.sent, back.messages


def one_query(rank: int, layout: str) -> float:
    """How far a query's answer, and all gradients, are from those of one process."""
    tokens = [normal(2, n, 4, seed=n) for n in (1, 23)]
    tokens.append(normal(2, 23, 3, seed=3))
    score = Biased(DotProductScore(), nn.Parameter(normal(1, 23, seed=4)))
    mask = Mask.lengths(torch.tensor([3, 23]))
    whole = [x.clone().requires_grad_() for x in tokens]
    expected = stream_attention(score, *whole, mask=mask)
    # Every process has the same loss: what they owe together is so many times as much.
    times = dist.get_world_size()
    wanted = torch.autograd.grad(
        times * loss(*expected, whole[2][:, :1].detach()), [*whole, score.bias]
    )
    mine = [tokens[0].clone(), *(share(x, layout, times, rank).clone() for x in tokens[1:])]
    mine = [x.requires_grad_() for x in mine]
    dist_layout: Any = "contiguous" if layout == "uneven" else layout
    found = gather_attention(score, *mine, mask=mask, layout=dist_layout)
    got = torch.autograd.grad(loss(*found, whole[2][:, :1].detach()), [*mine, score.bias])
    off = [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    for number, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if number in (0, 3):  # held by all: each has its own share
            a = a.clone()
            dist.all_reduce(a)
        else:
            b = share(b, layout, times, rank)
        off.append(float((a - b).abs().max()) if b.numel() else 0.0)
    return max(off)


def far_from_zero(rank: int) -> list[float]:
    """How far off a ring and one query are where exp of a score is 0 or infinite."""
    found = []
    for offset in (-2000.0, 2000.0):
        score = Biased(DotProductScore(), torch.tensor([[offset]], dtype=torch.float64))
        tokens = [normal(9, 3, seed=seed) for seed in range(3)]
        whole = [x.requires_grad_() for x in tokens]
        expected = stream_attention(score, *whole)
        wanted = torch.autograd.grad(expected.output.sin().sum(), whole)
        mine = [shard_sequence(x.detach()).requires_grad_() for x in tokens]
        ring = ring_attention(score, *mine)
        got = torch.autograd.grad(ring.output.sin().sum(), mine)
        one = gather_attention(score, tokens[0].detach(), *(x.detach() for x in mine[1:]))
        here = [shard_sequence(x.detach()) for x in (expected.output, *wanted)]
        log = shard_sequence(expected.logsumexp.detach().unsqueeze(-1)).squeeze(-1)
        pairs = zip((ring.output, *got, ring.logsumexp, *one), (*here, log, *expected), strict=True)
        found += [float((a - b).abs().max()) for a, b in pairs]
    return found


def gathered(rank: int, length: int, layout: Any) -> tuple[bool, bool]:
    """Whether shares make the whole again, and whether gradients collect what all owe."""
    x = normal(length, 3)
    mine = shard_sequence(x, layout=layout).requires_grad_()
    whole = gather_sequence(mine, layout=layout)
    (whole * (rank + 1)).sum().backward()
    assert mine.grad is not None
    owed = sum(range(1, dist.get_world_size() + 1))
    return torch.equal(whole, x), torch.equal(mine.grad, torch.full_like(mine, owed))


def on_a_mesh(rank: int) -> float:
    """Two rings of two processes each, along one axis of a mesh."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tokens"))
    tokens = [normal(10, 4, seed=seed + 10 * (rank // 2)) for seed in range(3)]
    expected = stream_attention(DotProductScore(), *tokens, mask=Mask.causal()).output
    group = mesh["tokens"]
    shares = [shard_sequence(x, group=group, layout="zigzag") for x in tokens]
    found = ring_attention(
        DotProductScore(), *shares, mask=Mask.causal(), group=group, layout="zigzag"
    )
    whole = gather_sequence(found.output, group=group, layout="zigzag")
    return float((whole - expected).abs().max())


def dropped(rank: int) -> tuple[float, float, bool, bool]:
    """Shares of weights that are dropped; gradients that see the same ones; seeds."""
    n, p = 40, 0.3
    q, k, v = (shard_sequence(x) for x in (torch.zeros(n, 2), torch.zeros(n, 2), torch.eye(n)))
    v = v.requires_grad_()
    run = lambda: ring_attention(DotProductScore(), q, k, v, dropout=p).output  # noqa: E731
    torch.manual_seed(5)
    output = run()
    (d_v,) = torch.autograd.grad(output.sum(), v)
    # The output is the weights that were used; a value's gradient is what all gave it.
    used = output.detach().sum(dim=0)
    dist.all_reduce(used)
    torch.manual_seed(5)
    again = run()
    theirs = gather_sequence(output.detach()).unflatten(0, (dist.get_world_size(), -1))
    others = all(not torch.equal(theirs[0] > 0, x > 0) for x in theirs[1:])
    off = float((d_v.sum(dim=-1) / n - shard_sequence(used.unsqueeze(-1)).squeeze(-1)).abs().max())
    return float((output == 0).double().mean()), off, torch.equal(output, again), others
