"""One function at every size: each use of PyTorch, each score and each mask, below and above every
threshold, with weights and without, against the formula written out here."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jacrev, jvp, stack_module_state, vmap
from torch.nn.utils import parametrize, prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from d2lattn import (
    AdditiveScore,
    Attention,
    Biased,
    BilinearScore,
    DotProductScore,
    GaussianScore,
    Mask,
    RelativeBias,
    RotaryScore,
    Score,
    SoftCapped,
    additive_score,
    stream_attention,
)
from tests.helpers import gradients, make_blocks, normal

C = 4  # features of queries and keys
SIZES = {"small": (2, 6, 9), "large": (2, 260, 270)}  # 2 * 260 * 270 scores go in blocks
F64 = torch.float64


class Distance(Score):
    """A user's own: minus the city-block distance, weighted by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(C) + 0.5)

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return -((q.unsqueeze(-2) - k.unsqueeze(-3)).abs() * self.weight).sum(dim=-1)


class Slope(nn.Module):
    """A learned bias for each distance."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.03))

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        return -self.slope * (i - j).abs()


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    n, m = q.shape[-2], k.shape[-2]  # not `len`: an exported model takes every size
    i, j = torch.arange(n, device=q.device), torch.arange(m, device=k.device)
    return i.unsqueeze(-1) + m - n, j.unsqueeze(0)


def dot(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / math.sqrt(q.shape[-1])


def by_position(q: Tensor, k: Tensor) -> Tensor:
    """A plain function that depends on positions: it must see all queries and keys."""
    i, j = positions(q, k)
    return dot(q, k) - 0.02 * (i - j).abs()


class Case(NamedTuple):
    """A score, and its formula as a function of the same tensors."""

    make: Callable[[], Any]
    formula: Callable[[Any, Tensor, Tensor], Tensor]


def additive(s: Any, q: Tensor, k: Tensor) -> Tensor:
    hidden = (q @ s.W_q.weight.mT).unsqueeze(-2) + (k @ s.W_k.weight.mT).unsqueeze(-3)
    return (hidden.tanh() * s.w_v.weight.squeeze(0)).sum(dim=-1)


def gaussian(s: Any, q: Tensor, k: Tensor) -> Tensor:
    u = (q.unsqueeze(-2) - k.unsqueeze(-3)) / s.log_bandwidth.exp()
    return -u.square().sum(dim=-1) / 2


def biased(s: Any, q: Tensor, k: Tensor) -> Tensor:
    i, j = positions(q, k)
    return dot(q, k) - s.bias.slope * (i - j).abs()


def turned(x: Tensor, at: Tensor) -> Tensor:
    """Neighbouring features as complex numbers, turned."""
    rates = 10000.0 ** (-torch.arange(0, C, 2, dtype=F64) / C)
    numbers = torch.complex(x[..., 0::2], x[..., 1::2])
    angles = at.to(F64).unsqueeze(-1) * rates
    numbers = numbers * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(numbers).flatten(-2).to(x.dtype)


def rotary(s: Any, q: Tensor, k: Tensor) -> Tensor:
    i, j = positions(q, k)
    return dot(turned(q, i[:, 0]), turned(k, j[0]))


def relative(s: Any, q: Tensor, k: Tensor) -> Tensor:
    i, j = positions(q, k)
    near = ((j - i).clamp(-3, 3) + 3).unsqueeze(-1) == torch.arange(7)
    return dot(q, k) + (near * s.bias.weight).sum(dim=-1)


def relative_score() -> Biased:
    score = Biased(DotProductScore(), RelativeBias(3))
    nn.init.normal_(score.bias.weight)
    return score


CASES = {
    "dot product": Case(DotProductScore, lambda s, q, k: dot(q, k)),
    "bilinear": Case(lambda: BilinearScore(C, C), lambda s, q, k: q @ s.W.weight.mT @ k.mT),
    "gaussian": Case(lambda: GaussianScore(1.5, learnable=True), gaussian),
    "additive": Case(lambda: AdditiveScore(C, C, 3), additive),
    "a user's": Case(
        Distance, lambda s, q, k: -(
            (q.unsqueeze(-2) - k.unsqueeze(-3)).abs() * s.weight
        ).sum(dim=-1),
    ),
    "a function": Case(lambda: by_position, lambda s, q, k: by_position(q, k)),
    "biased": Case(lambda: Biased(DotProductScore(), Slope()), biased),
    "rotary": Case(RotaryScore, rotary),
    "relative": Case(relative_score, relative),
    "capped": Case(
        lambda: SoftCapped(AdditiveScore(C, C, 3), 0.4),
        lambda s, q, k: 0.4 * (additive(s.score, q, k) / 0.4).tanh(),
    ),
}  # fmt: skip

every_score = pytest.mark.parametrize("name", CASES)
every_size = pytest.mark.parametrize("size", SIZES)
with_and_without = pytest.mark.parametrize("need_weights", [True, False])


def made(name: str) -> Any:
    torch.manual_seed(0)
    score = CASES[name].make()
    return score.double() if isinstance(score, nn.Module) else score


def tokens(size: str, seed: int = 0) -> list[Tensor]:
    b, n, m = SIZES[size]
    shapes = (b, n, C), (b, m, C), (b, m, 3)
    return [normal(*s, seed=seed + i, requires_grad=True) for i, s in enumerate(shapes)]


def parameters_of(score: Any) -> list[Tensor]:
    return list(score.parameters()) if isinstance(score, nn.Module) else []


def formula(scores: Tensor, values: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Output and weights, written out."""
    if allowed is not None:
        scores = torch.where(allowed, scores, -math.inf)
    empty = (scores == -math.inf).all(dim=-1, keepdim=True)
    weights = torch.where(empty, 0.0, torch.softmax(scores.masked_fill(empty, 0.0), dim=-1))
    return weights @ values, weights


def agree(ours: Any, theirs: Any, tolerance: float = 1e-9) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# --- masks ---

Restriction = tuple[dict[str, Any], Callable[[int, Tensor, Tensor, int], Tensor]]


def lens_of(size: str, per_query: bool) -> Tensor:
    b, n, m = SIZES[size]
    generator = torch.Generator().manual_seed(3)
    lens = torch.randint(1, m + 1, (b, n) if per_query else (b,), generator=generator)
    lens[0] = m - 2 if not per_query else lens[0]
    lens[(1, 2) if per_query else 1] = 0
    return lens


def ids(count: int, documents: int) -> Tensor:
    return torch.arange(count) * documents // count


def restrictions(size: str) -> dict[str, tuple[dict[str, Any], Tensor]]:
    """Arguments, and the booleans they mean, made in another way."""
    b, n, m = SIZES[size]
    i, j = torch.arange(n).unsqueeze(-1) + m - n, torch.arange(m)
    lens, lens_each = lens_of(size, False), lens_of(size, True)
    by_lens, by_each = j < lens[:, None, None], j < lens_each[..., None]
    q_ids, k_ids = ids(n, 3), ids(m, 3)
    same = q_ids[:, None] == k_ids
    generator = torch.Generator().manual_seed(4)
    random = torch.rand(b, n, m, generator=generator) > 0.5
    causal, window = j <= i, (j <= i + 1) & (j >= i - 4)
    return {
        "nothing": ({}, torch.tensor(True)),
        "lengths": ({"valid_lens": lens}, by_lens),
        "a length per query": ({"valid_lens": lens_each}, by_each),
        "one length for all": ({"valid_lens": lens[:1]}, by_lens[:1]),
        "causal": ({"mask": Mask.causal()}, causal),
        "window": ({"mask": Mask.window(4, 1)}, window),
        "documents": ({"mask": Mask.documents(q_ids, k_ids)}, same),
        "where": ({"mask": Mask.where(lambda i, j: (i + j) % 3 == 0)}, (i + j) % 3 == 0),
        "tensor": ({"mask": random}, random),
        "tensor of keys": ({"mask": j % 4 != 1}, (j % 4 != 1).expand(n, m)),
        "causal and lengths": ({"valid_lens": lens, "mask": Mask.causal()}, by_lens & causal),
        "causal in documents": (
            {"mask": Mask.causal() & Mask.documents(q_ids, k_ids)}, causal & same,
        ),
        "window or first": (
            {"mask": Mask.window(4, 1) | Mask.where(lambda i, j: j < 2)}, window | (j < 2),
        ),
        "not a window": ({"mask": ~Mask.window(4, 1) & Mask.causal()}, ~window & causal),
        "lengths in a mask": (
            {"mask": Mask.lengths(lens_each) & Mask.tensor(random)}, by_each & random,
        ),
    }  # fmt: skip


every_mask = pytest.mark.parametrize("mask", restrictions("small"))


@every_score
@every_mask
@every_size
@with_and_without
def test_values_and_gradients_are_the_formulas(name, mask, size, need_weights):
    score, inputs = made(name), tokens(size)
    options, allowed = restrictions(size)[mask]
    output, weights = Attention(score)(*inputs, **options, need_weights=need_weights)
    expected, alpha = formula(CASES[name].formula(score, *inputs[:2]), inputs[2], allowed)
    agree([output], [expected])
    if need_weights:
        agree([weights], [alpha])
    wanted = [*inputs, *parameters_of(score)]
    agree(gradients(output, wanted), gradients(expected, wanted), 1e-8)


@every_score
@pytest.mark.parametrize("mask", ["nothing", "lengths", "causal", "window or first", "tensor"])
def test_many_blocks_and_pieces_are_added_up(name, mask, monkeypatch):
    make_blocks(monkeypatch, 2**13)
    test_values_and_gradients_are_the_formulas(name, mask, "large", False)


def test_documents_of_one_length_that_are_not_evenly_spaced():
    numbers = torch.arange(7).repeat_interleave(torch.tensor([100, 40, 100, 100, 60, 100, 100]))
    inputs = [normal(600, C, seed=i, requires_grad=True) for i in range(3)]
    options = {"mask": Mask.documents(numbers, numbers), "need_weights": False}
    output = Attention(DotProductScore())(*inputs, **options).output
    expected, _ = formula(dot(*inputs[:2]), inputs[2], numbers[:, None] == numbers)
    agree([output], [expected])
    agree(gradients(output, inputs), gradients(expected, inputs))


@every_score
@pytest.mark.parametrize("mask", ["nothing", "lengths", "causal and lengths", "tensor"])
def test_streaming_gives_the_logsumexp_with_its_gradient(name, mask):
    score, inputs = made(name), tokens("large")
    options, allowed = restrictions("large")[mask]
    output, log = stream_attention(score, *inputs, **options)
    scores = torch.where(allowed, CASES[name].formula(score, *inputs[:2]), -math.inf)
    seen = (scores > -math.inf).any(dim=-1)
    expected = scores[seen].logsumexp(dim=-1)
    assert bool((log[~seen] == -math.inf).all())
    agree([log[seen]], [expected])
    wanted = [*inputs[:2], *parameters_of(score)]
    ours = output.square().sum() + log[seen].sin().sum()
    theirs = formula(scores, inputs[2])[0].square().sum() + expected.sin().sum()
    agree(torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted), 1e-8)


# --- layouts ---

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "sliced": lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],
    "every other": lambda x: torch.stack([x, x], dim=-1).flatten(-2)[..., ::2],
    "of every other token": lambda x: torch.stack([x, x], dim=-2).flatten(-3, -2)[..., ::2, :],
    "one feature expanded": lambda x: x[..., :1].expand(x.shape),
    "one token expanded": lambda x: x[..., :1, :].expand(x.shape),
    "one element expanded": lambda x: x[:1].expand(x.shape),
    "column-major": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
}


@every_score
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_any_strides_of_inputs_and_gradients(name, layout, dtype):
    score = made(name)
    score = score.to(dtype) if isinstance(score, nn.Module) else score
    leaves = [x.detach().to(dtype).requires_grad_() for x in tokens("large")]
    inputs = [LAYOUTS[layout](x) for x in leaves]
    tolerance = 1e-9 if dtype == F64 else 2e-4
    expected = formula(CASES[name].formula(score, *inputs[:2]), inputs[2])[0]
    for d_output in (
        torch.ones_like(expected),
        normal(*expected.mT.shape, dtype=dtype).mT,
        normal(1, dtype=dtype).expand(expected.shape),
    ):
        output = Attention(score)(*inputs, need_weights=False).output
        agree([output], [expected], tolerance)
        wanted = [*leaves, *parameters_of(score)]
        ours = torch.autograd.grad(output, wanted, d_output)
        theirs = torch.autograd.grad(expected, wanted, d_output, retain_graph=True)
        agree(ours, theirs, 20 * tolerance)


@pytest.mark.parametrize("batch", [(), (3,), (2, 2), (1, 2, 1)])
@every_score
def test_any_number_of_batch_axes(name, batch):
    score = made(name)
    inputs = [normal(*batch, 300, C, seed=i, requires_grad=True) for i in range(3)]
    lens = torch.full(batch, 200)
    output = Attention(score)(*inputs, lens, mask=Mask.causal(), need_weights=False).output
    allowed = torch.ones(300, 300, dtype=torch.bool).tril() & (torch.arange(300) < 200)
    expected = formula(CASES[name].formula(score, *inputs[:2]), inputs[2], allowed)[0]
    agree([output], [expected])
    wanted = [*inputs, *parameters_of(score)]
    agree(gradients(output, wanted), gradients(expected, wanted), 1e-8)


# --- derivatives and transforms ---


@every_score
@every_size
@pytest.mark.parametrize("mask", ["nothing", "causal and lengths"])
def test_second_derivatives(name, size, mask):
    score, inputs = made(name), tokens(size)
    options, allowed = restrictions(size)[mask]
    found = []
    wanted = [*inputs, *parameters_of(score)]
    for output in (
        Attention(score)(*inputs, **options, need_weights=False).output,
        formula(CASES[name].formula(score, *inputs[:2]), inputs[2], allowed)[0],
    ):
        first = torch.autograd.grad(output.square().sum(), wanted, create_graph=True)
        total = torch.stack([x.square().sum() for x in first]).sum()
        found.append(torch.autograd.grad(total, wanted))
    agree(found[0], found[1], 1e-7)


@every_score
@every_size
@with_and_without
@pytest.mark.parametrize("mask", ["nothing", "causal"])
def test_one_tensor_as_queries_keys_and_values(name, size, need_weights, mask):
    score, n = made(name), SIZES[size][1]
    x = normal(2, n, C, requires_grad=True)
    options = {"mask": Mask.causal()} if mask == "causal" else {}
    allowed = torch.ones(n, n, dtype=torch.bool).tril() if options else None
    found = []
    for output in (
        Attention(score)(x, x, x, **options, need_weights=need_weights).output,
        formula(CASES[name].formula(score, x, x), x, allowed)[0],
    ):
        (once,) = torch.autograd.grad(output.square().sum(), x, retain_graph=True)
        (first,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        found.append((once, first, *torch.autograd.grad(first.square().sum(), x)))
    agree(found[0], found[1], 1e-7)


Run = Callable[[], Tensor]


def of_squares(output: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(output.square().sum(), wanted))


def through_a_checkpoint(run: Run, wanted: list[Tensor]) -> list[Tensor]:
    return of_squares(checkpoint(run, use_reentrant=False), wanted)


def saved_elsewhere(run: Run, wanted: list[Tensor]) -> list[Tensor]:
    with torch.autograd.graph.save_on_cpu():
        output = run()
    return of_squares(output, wanted)


def twice(run: Run, wanted: list[Tensor]) -> list[Tensor]:
    loss = run().square().sum()
    torch.autograd.grad(loss, wanted, retain_graph=True)
    return list(torch.autograd.grad(loss, wanted))


def under_anomaly_detection(run: Run, wanted: list[Tensor]) -> list[Tensor]:
    with torch.autograd.detect_anomaly(check_nan=True):
        return of_squares(run(), wanted)


def in_threads(run: Run, wanted: list[Tensor]) -> list[Tensor]:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: of_squares(run(), wanted), range(3)))
    for one in found[1:]:
        agree(one, found[0])
    return found[0]


USES: dict[str, Callable[[Run, list[Tensor]], list[Tensor]]] = {
    "checkpoint": through_a_checkpoint,
    "saved elsewhere": saved_elsewhere,
    "twice": twice,
    "anomaly detection": under_anomaly_detection,
    "threads": in_threads,
}


@every_score
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mask", ["nothing", "causal and lengths"])
def test_uses_of_autograd(name, use, mask):
    score, inputs = made(name), tokens("large")
    options, allowed = restrictions("large")[mask]
    wanted = [*inputs, *parameters_of(score)]

    def run() -> Tensor:
        return Attention(score)(*inputs, **options, need_weights=False).output

    expected = formula(CASES[name].formula(score, *inputs[:2]), inputs[2], allowed)[0]
    agree(USES[use](run, wanted), of_squares(expected, wanted), 1e-8)


@pytest.mark.parametrize("name", ["dot product", "additive", "a user's"])
@pytest.mark.parametrize("only", range(3))
def test_gradients_of_one_input_alone(name, only):
    score = made(name).requires_grad_(False)
    inputs = [x.detach() for x in tokens("large")]
    inputs[only].requires_grad_()
    output = Attention(score)(*inputs, mask=Mask.causal(), need_weights=False).output
    _, allowed = restrictions("large")["causal"]
    expected = formula(CASES[name].formula(score, *inputs[:2]), inputs[2], allowed)[0]
    agree(gradients(output, inputs[only : only + 1]), gradients(expected, inputs[only : only + 1]))


def test_one_tensor_as_queries_and_keys_of_an_additive_score():
    x, w = normal(5, C, requires_grad=True), normal(C, requires_grad=True)
    found = []
    for scores in (additive_score(x, x, w), ((x[:, None] + x).tanh() * w).sum(dim=-1)):
        first = torch.autograd.grad(scores.sin().sum(), (x, w), create_graph=True)
        total = torch.stack([y.square().sum() for y in first]).sum()
        found.append((*first, *torch.autograd.grad(total, (x, w))))
    agree(found[0], found[1])


@every_score
@every_size
@with_and_without
@pytest.mark.parametrize("transform", ["jacrev", "jvp", "vmap all", "vmap keys", "grad"])
def test_transforms(name, size, need_weights, transform):
    score, (q, k, v) = made(name), [x.detach() for x in tokens(size)]
    lens = lens_of(size, False)
    _, _, m = SIZES[size]

    def ours(q: Tensor, k: Tensor) -> Tensor:
        return Attention(score)(q, k, v, lens, need_weights=need_weights).output

    def theirs(q: Tensor, k: Tensor) -> Tensor:
        allowed = torch.arange(m) < lens[:, None, None]
        return formula(CASES[name].formula(score, q, k), v, allowed)[0]

    stacked = torch.stack([k, k.flip(0)])
    run = {
        "jacrev": lambda f: jacrev(lambda q: f(q, k)[0, :2, 0])(q),
        "jvp": lambda f: jvp(lambda q: f(q, k), (q,), (torch.ones_like(q),))[1],
        "vmap all": lambda f: vmap(f)(torch.stack([q, q + 1]), stacked),
        "vmap keys": lambda f: vmap(f, in_dims=(None, 0))(q, stacked),
        "grad": lambda f: torch.func.grad(lambda k: f(q, k).square().sum())(k),
    }[transform]
    agree([run(ours)], [run(theirs)], 1e-8)


@every_size
@with_and_without
def test_vmap_over_lengths_and_over_masks(size, need_weights):
    q, k, v = (x.detach() for x in tokens(size))
    b, n, m = SIZES[size]
    lens = torch.tensor([[1, m], [0, 3], [m, m]])
    attention = Attention(DotProductScore())

    def attend(lens: Tensor) -> Tensor:
        return attention(q, k, v, lens, need_weights=need_weights).output

    expected = torch.stack([attend(some) for some in lens])
    agree([vmap(attend)(lens)], [expected])
    masks = Mask.lengths(lens) & Mask.causal()
    by_mask = vmap(lambda mask: attention(q, k, v, mask=mask, need_weights=need_weights).output)
    causal = torch.ones(n, m, dtype=torch.bool).tril(m - n)
    agree([by_mask(masks)], [torch.stack([
        attention(q, k, v, some, mask=causal).output for some in lens
    ])])  # fmt: skip
    booleans = torch.rand(3, b, n, m) > 0.5
    got = vmap(lambda x: attention(q, k, v, mask=x, need_weights=need_weights).output)(booleans)
    agree([got], [torch.stack([attention(q, k, v, mask=x).output for x in booleans])])


@every_score
@every_size
def test_forward_mode_with_dual_numbers(name, size):
    from torch.autograd import forward_ad as ad

    score, (q, k, v) = made(name), [x.detach() for x in tokens(size)]
    found = []
    for f in (
        lambda q: Attention(score)(q, k, v, need_weights=False).output,
        lambda q: formula(CASES[name].formula(score, q, k), v)[0],
    ):
        with ad.dual_level():
            found.append(ad.unpack_dual(f(ad.make_dual(q, torch.ones_like(q)))).tangent)
    agree([found[0]], [found[1]], 1e-8)


@every_score
def test_a_batch_of_gradients_at_once(name):
    score, inputs = made(name), tokens("large")
    output = Attention(score)(*inputs, need_weights=False).output
    expected = formula(CASES[name].formula(score, *inputs[:2]), inputs[2])[0]
    directions = normal(2, *output.shape)
    wanted = [*inputs, *parameters_of(score)]
    ours, theirs = (
        torch.autograd.grad(x, wanted, directions, is_grads_batched=True)
        for x in (output, expected)
    )
    agree(ours, theirs, 1e-8)


class Quiet(TorchDispatchMode):
    """A mode that changes nothing, as one that counts operations."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def in_a_mode(pull: Callable[[Tensor], Any], d: Tensor) -> list[Tensor]:
    with Quiet():
        return list(pull(d[0]))


def of_dual_numbers(pull: Callable[[Tensor], Any], d: Tensor) -> list[Tensor]:
    with forward_ad.dual_level():
        parts = [forward_ad.unpack_dual(x) for x in pull(forward_ad.make_dual(d[0], d[1]))]
        return [x for part in parts for x in part]


AROUND = {
    "vmap": lambda pull, d: vmap(pull)(d),
    "jvp": lambda pull, d: [x for part in jvp(pull, (d[0],), (d[1],)) for x in part],
    "a mode": in_a_mode,
    "dual numbers": of_dual_numbers,
}


@every_score
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("mask", [None, Mask.window(20)], ids=["all", "window"])
def test_what_surrounds_the_backward_pass_alone(name, around, dropout, mask):
    score, inputs = made(name), tokens("large")
    attention, wanted = Attention(score, dropout), [*inputs, *parameters_of(score)]
    outputs = []
    for need_weights in (False, True):
        torch.manual_seed(1)
        outputs.append(attention(*inputs, mask=mask, need_weights=need_weights).output)
    if dropout == 0.0:
        seen = None if mask is None else mask.dense(*outputs[0].shape[-2:-1], inputs[1].shape[-2])
        outputs.append(formula(CASES[name].formula(score, *inputs[:2]), inputs[2], seen)[0])
    directions = normal(2, *outputs[0].shape)
    found = []
    for output in outputs:

        def pull(d: Tensor, output: Tensor = output) -> Any:
            return torch.autograd.grad(output, wanted, d, retain_graph=True)

        found.append(AROUND[around](pull, directions))
    for other in found[1:]:
        agree(found[0], other, 1e-8)


@every_size
@pytest.mark.parametrize(
    "name", ["bilinear", "gaussian", "additive", "a user's", "biased", "relative"]
)
def test_parameters_that_are_passed_in(name, size):
    attention, inputs = Attention(made(name)), tokens(size)
    named = {n: p.detach() + 0.1 for n, p in attention.named_parameters()}
    for value in named.values():
        value.requires_grad_()
    other = copy.deepcopy(attention)
    other.load_state_dict(named, strict=False)
    expected = formula(CASES[name].formula(other.score, *inputs[:2]), inputs[2])[0]
    output = functional_call(attention, named, tuple(inputs), {"need_weights": False}).output
    agree([output], [expected])
    agree(gradients(output, list(named.values())), gradients(expected, parameters_of(other)), 1e-8)


@every_size
@pytest.mark.parametrize(
    "name", ["bilinear", "additive", "a user's", "biased", "relative", "gaussian"]
)
def test_stacked_models(name, size):
    models = [Attention(made(name)) for _ in range(2)]
    for p in models[1].parameters():
        p.data += 0.3
    inputs = [x.detach() for x in tokens(size)]
    params, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0])

    def call(params: Any, buffers: Any) -> Tensor:
        return functional_call(
            base, (params, buffers), tuple(inputs), {"need_weights": False}
        ).output

    expected = torch.stack([m(*inputs).output for m in models])
    agree([vmap(call)(params, buffers)], [expected])


# --- what a score depends on, and who listens ---


def squared_sum(attention: Any, inputs: list[Tensor], need_weights: bool) -> Tensor:
    return attention(*inputs, need_weights=need_weights).output.square().sum()


def same_gradients(attention: Any, wanted: list[Tensor], size: str = "large") -> None:
    inputs = tokens(size)
    ours, theirs = (
        torch.autograd.grad(squared_sum(attention, inputs, w), wanted) for w in (False, True)
    )
    assert all(bool((x != 0).any()) for x in theirs)
    agree(ours, theirs, 1e-8)


@pytest.mark.parametrize("layer", ["W_q", "W_k", "w_v"])
@pytest.mark.parametrize("how", ["weight norm", "pruned", "parametrized", "tied", "replaced"])
def test_layers_that_are_not_what_they_were(layer, how):
    score = made("additive")
    target = getattr(score, layer)
    if how == "weight norm":
        nn.utils.parametrizations.weight_norm(target)
    elif how == "pruned":
        prune.random_unstructured(target, "weight", 0.4)
    elif how == "parametrized":

        class Twice(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return 2 * x.tanh()

        parametrize.register_parametrization(target, "weight", Twice())
    elif how == "tied":
        score.W_q.weight = score.W_k.weight
    else:
        features = target.in_features, target.out_features
        setattr(score, layer, nn.Sequential(nn.Linear(*features), nn.Tanh()).double())
    attention = Attention(score)
    same_gradients(attention, list(attention.parameters()))
    for _ in range(2):  # and it trains
        attention.zero_grad()
        squared_sum(attention, tokens("large"), False).backward()


def test_tensors_that_the_score_closes_over_are_learned():
    factor = torch.tensor(1.5, dtype=F64, requires_grad=True)

    class Scaled(Score):
        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            return factor * q @ k.mT

    class Held(Score):
        def __init__(self) -> None:
            super().__init__()
            self.inside = [factor]  # hidden in a list

        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            return self.inside[0] * q @ k.mT

    for score in (
        Scaled(), Held(), Biased(DotProductScore(), lambda i, j: factor * (i - j).abs() / 100),
        Biased(DotProductScore(), factor), lambda q, k: factor * q @ k.mT,
    ):  # fmt: skip
        same_gradients(Attention(score), [factor])


class Louder:
    """A mixin."""

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return 3 * super().compare(q, k)  # type: ignore[misc]


class LouderDot(Louder, DotProductScore): ...


class LouderAdditive(Louder, AdditiveScore): ...


class LouderGaussian(Louder, GaussianScore): ...


class LouderCap(Louder, SoftCapped): ...


class Shifted(DotProductScore):
    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return queries + 1, keys * 2


class Negated(AdditiveScore):
    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return -super().forward(queries, keys)


class Changed(SoftCapped):
    def change(self, scores: Tensor, block: Any) -> Tensor:
        return scores.sin()


@pytest.mark.parametrize("make", [
    LouderDot, lambda: LouderAdditive(C, C, 3), lambda: LouderGaussian(1.5), Shifted,
    lambda: Negated(C, C, 3), lambda: LouderCap(DotProductScore(), 1.0),
    lambda: SoftCapped(LouderDot(), 1.0), lambda: Changed(DotProductScore(), 1.0),
    lambda: Biased(Negated(C, C, 3), Slope()),
])  # fmt: skip
def test_what_a_user_overrides_counts(make):
    score = make().double()
    inputs = tokens("large")
    for need_weights in (True, False):
        expected = formula(score(*inputs[:2]), inputs[2])[0]
        output = Attention(score)(*inputs, need_weights=need_weights).output
        agree([output], [expected])
        agree(gradients(output, inputs), gradients(expected, inputs), 1e-8)


def test_a_comparison_that_is_put_on_the_instance_counts():
    score = made("dot product")
    score.compare = lambda q, k: -(q @ k.mT)
    inputs = tokens("large")
    outputs = [Attention(score)(*inputs, need_weights=w).output for w in (True, False)]
    agree([outputs[1]], [outputs[0]])
    agree([outputs[0]], [formula(-(inputs[0] @ inputs[1].mT), inputs[2])[0]])


@every_size
@with_and_without
@pytest.mark.parametrize("where", ["", "score", "score.W_q", "score.w_v", "dropout"])
def test_hooks_run_once_and_may_change_what_they_see(where, size, need_weights):
    attention, seen = Attention(made("additive")), []
    plainly = squared_sum(attention, tokens(size), need_weights)

    def hook(module: nn.Module, args: Any, result: Any) -> Any:
        seen.append(result)
        return result * 2 if isinstance(result, Tensor) else None

    handle = attention.get_submodule(where).register_forward_hook(hook)
    changed = squared_sum(attention, tokens(size), need_weights)
    assert len(seen) == 1
    assert torch.equal(changed, plainly) == (where == "")
    handle.remove()
    assert torch.equal(squared_sum(attention, tokens(size), need_weights), plainly)


@pytest.mark.parametrize("name", ["dot product", "additive", "a user's", "biased"])
def test_hooks_on_every_module_and_on_the_way_back_run(name):
    attention = Attention(made(name))
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.append(type(module).__name__)
    )
    squared_sum(attention, tokens("large"), False)
    handle.remove()
    assert type(attention.score).__name__ in seen
    attention.get_submodule("score").register_full_backward_hook(lambda *_: seen.append("back"))
    squared_sum(attention, tokens("large"), False).backward()
    assert "back" in seen


def test_a_score_that_changes_state_or_draws_numbers_is_asked_once():
    class Noisy(Score):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(C)
            self.drop = nn.Dropout(0.5)

        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            return self.drop(q) @ self.norm(k.mT)

    class Counting(Score):
        total = torch.zeros((), dtype=F64)

        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            self.total += 1
            return q @ k.mT

    inputs = tokens("large")
    results = []
    for need_weights in (True, False):
        torch.manual_seed(0)
        score = Noisy().double()
        output = Attention(score)(*inputs, need_weights=need_weights).output
        results.append((output, score.norm.running_mean, *gradients(output, inputs)))
    agree(results[1], results[0])
    outputs = [Attention(Counting())(*inputs, need_weights=w).output for w in (True, False)]
    agree([outputs[1]], [outputs[0]])


def test_a_score_that_does_not_treat_pairs_on_their_own_is_asked_for_all_at_once():
    class Relative(Score):
        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            return q @ (k - k.mean(dim=-2, keepdim=True)).mT * torch.arange(1, k.shape[-2] + 1)

    class OfHeads(Score):
        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            return q @ k.mT * torch.tensor([1.0, 2.0], dtype=F64)[:, None, None]

    inputs = tokens("large")
    for score in (Relative(), OfHeads()):
        outputs = [Attention(score)(*inputs, need_weights=w).output for w in (True, False)]
        agree([outputs[1]], [outputs[0]])
        agree(gradients(outputs[1], inputs), gradients(outputs[0], inputs), 1e-8)


def test_a_plain_function_is_called_once_with_everything():
    calls = []

    def score(q: Tensor, k: Tensor) -> Tensor:
        calls.append((q.shape, k.shape))
        return by_position(q, k)

    inputs = tokens("large")
    squared_sum(Attention(score), inputs, False).backward()
    assert calls == [(inputs[0].shape, inputs[1].shape)]


# --- in place ---


def assert_noticed_or_harmless(
    gradient: Callable[[bool], list[Tensor]], tolerance: float = 1e-9
) -> None:
    """Of gradients without and with a change in place: equal, unless an error names it."""
    expected = gradient(False)
    try:
        got = gradient(True)
    except RuntimeError as error:
        assert "inplace" in str(error)  # noqa: PT017
    else:
        agree(got, expected, tolerance)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("what", ["queries", "keys", "values", "lengths", "mask", "parameters"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_changes_between_forward_and_backward_is_noticed_or_harmless(name, what, dropout):
    lens = torch.tensor([100, 270])
    mask = torch.ones(260, 270, dtype=torch.bool).tril(10)

    def gradient(change: bool) -> list[Tensor]:
        score = made(name)
        leaves = tokens("large")
        inputs = [x * 1.0 for x in leaves]
        given = {"valid_lens": lens.clone(), "mask": mask.clone()}
        torch.manual_seed(2)
        output = Attention(score, dropout)(*inputs, **given, need_weights=False).output
        if change:
            with torch.no_grad():
                {
                    "queries": lambda: inputs[0].add_(1),
                    "keys": lambda: inputs[1].add_(1),
                    "values": lambda: inputs[2].add_(1),
                    "lengths": lambda: given["valid_lens"].fill_(1),
                    "mask": lambda: given["mask"].fill_(True),
                    "parameters": lambda: [p.add_(1) for p in parameters_of(score)],
                }[what]()
        return list(torch.autograd.grad(output.square().sum(), leaves))

    assert_noticed_or_harmless(gradient)


@every_size
@pytest.mark.parametrize("name", ["dot product", "additive", "a user's", "relative", "biased"])
@pytest.mark.parametrize("what", [0, 1, 2, "parameters"])
def test_what_changes_between_two_gradients_is_noticed_or_harmless(name, size, what):
    def gradient(change: bool) -> list[Tensor]:
        score, leaves = made(name), tokens(size)
        inputs = [x * 1.0 for x in leaves]
        output = Attention(score)(*inputs, need_weights=False).output
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        if change:
            with torch.no_grad():
                for x in parameters_of(score) if what == "parameters" else [inputs[what]]:
                    x.add_(1)
        return list(torch.autograd.grad([x.square().sum() for x in first], leaves))

    assert_noticed_or_harmless(gradient, 1e-8)


@every_size
@pytest.mark.parametrize("name", ["table", "number", "training"])
def test_what_is_replaced_before_backward_counts_as_it_was(size, name):
    class Scaled(Score):
        table = torch.ones((), dtype=F64)
        number = 1.0

        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            scores = self.number * self.table * q @ k.mT
            return scores if self.training else scores.tanh()

    score, inputs = Scaled(), tokens(size)
    output = Attention(score)(*inputs, need_weights=False).output
    setattr(score, name, {"table": torch.full((), 2.0), "number": 2.0, "training": False}[name])
    expected = (inputs[0] @ inputs[1].mT).softmax(dim=-1) @ inputs[2]
    agree(gradients(output, inputs), gradients(expected, inputs))


# --- what is hidden ---


@pytest.mark.parametrize("name", [name for name in CASES if name != "a function"])
@every_size
@with_and_without
@pytest.mark.parametrize("held", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("where", ["value", "key"])
def test_what_is_hidden_from_a_query_does_not_reach_it(name, size, need_weights, held, where):
    score = made(name)
    inputs = tokens(size)
    spoilt = [x.detach().clone() for x in inputs]
    spoilt[1 if where == "key" else 2][:, -1] = held
    spoilt = [x.requires_grad_() for x in spoilt]
    causal = Mask.causal()
    before = slice(0, SIZES[size][1] - 1)  # these do not see the last key
    clean = Attention(score)(*inputs, mask=causal, need_weights=need_weights).output[:, before]
    dirty = Attention(score)(*spoilt, mask=causal, need_weights=need_weights).output[:, before]
    agree([dirty], [clean])
    ours, theirs = (
        gradients(x, given[:1])[0][:, before] for x, given in ((dirty, spoilt), (clean, inputs))
    )
    agree([ours], [theirs], 1e-8)


@pytest.mark.parametrize("name", ["dot product", "additive", "a user's"])
@every_size
@with_and_without
@pytest.mark.parametrize("held", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["value", "key"])
def test_nor_where_weights_are_dropped_and_they_are_dropped_once(
    name, size, need_weights, held, where
):
    attention, inputs = Attention(made(name), 0.3), [x.detach() for x in tokens(size)]
    spoilt = [x.clone() for x in inputs]
    spoilt[1 if where == "key" else 2][:, -1] = held
    found = []
    for given in (inputs, spoilt):
        given[0].requires_grad_()
        torch.manual_seed(5)
        output = attention(*given, mask=Mask.causal(), need_weights=need_weights).output
        before = slice(0, SIZES[size][1] - 1)  # these do not see the last key
        (d_queries,) = gradients(output[:, before], given[:1])
        found.append((output[:, before], d_queries[:, before], torch.rand(3)))
    agree(found[0], found[1], 1e-8)


def test_a_nan_that_is_seen_is_seen():
    q, k, v = (x.detach() for x in tokens("large"))
    v[0, 3, 1] = math.nan
    v[1, 5, 0] = math.inf
    for need_weights in (True, False):
        output = Attention(DotProductScore())(
            q, k, v, mask=Mask.causal(), need_weights=need_weights
        ).output
        assert bool(output[0, :, 1].isnan().all())
        assert bool(output[0, :, [0, 2]].isfinite().all())
        assert bool((output[1, :, 0] == math.inf).all())
        assert bool(output[1, :, 1:].isfinite().all())


# --- dropout ---


@every_score
@pytest.mark.parametrize("mask", ["nothing", "causal and lengths", "window or first", "tensor"])
def test_the_same_seed_drops_the_same_weights(name, mask):
    score, inputs = made(name), tokens("large")
    options, _ = restrictions("large")[mask]
    attention = Attention(score, dropout=0.4).train()
    results = []
    for need_weights in (True, False):
        torch.manual_seed(7)
        output = attention(*inputs, **options, need_weights=need_weights).output
        after = torch.rand(1)
        torch.rand(5)
        results.append((output, after, *gradients(output, [*inputs, *parameters_of(score)])))
    agree(results[1], results[0], 1e-8)


@with_and_without
def test_the_dropout_module_is_what_drops(need_weights):
    inputs = tokens("large")
    attention = Attention(DotProductScore(), 0.5).eval()
    attention.dropout.train()
    one, two = (attention(*inputs, need_weights=need_weights).output for _ in range(2))
    assert not torch.equal(one, two)

    class Third(nn.Module):
        def forward(self, weights: Tensor) -> Tensor:
            return weights / 3

    attention.dropout = Third()  # type: ignore[assignment]
    plain = Attention(DotProductScore())(*inputs).output
    agree([attention(*inputs, need_weights=need_weights).output], [plain / 3])
