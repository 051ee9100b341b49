"""Scores of a user's own while a model is trained: the same function where some pairs are scored
at a time. Each against scores that are made all at once."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2lattn import (
    AdditiveScore,
    Attention,
    Biased,
    DotProductScore,
    Mask,
    MultiHeadAttention,
    RelativeBias,
    Score,
    SoftCapped,
    stream_attention,
)
from d2lattn.measure import peak_bytes
from tests.helpers import gradients, normal

D = 8
at_every_size = pytest.mark.parametrize("size", [6, 600])


def tokens(*sizes: int) -> list[Tensor]:
    return [normal(*sizes, D, seed=i, requires_grad=True) for i in range(3)]


def agree(attention: Any, make: Callable[[], Any], *sizes: int, **options: Any) -> None:
    """Output and gradients without weights against those of another module, with weights."""
    inputs, others = tokens(*sizes), tokens(*sizes)
    ours = attention(*inputs, need_weights=False, **options).output
    twin = make()
    theirs = twin(*others, **options).output
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    wanted, same = [*inputs, *attention.parameters()], [*others, *twin.parameters()]
    torch.testing.assert_close(gradients(ours, wanted), gradients(theirs, same))


class Learned(Score):
    """With a layer for each pair's query."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(D, D).double()

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return self.layer(q) @ k.mT


# --- around the call ---


def own() -> Any:
    return Attention(Learned())


def biased() -> Any:
    return Attention(Biased(Learned(), lambda i, j: -0.1 * (i - j).abs()))


def heads() -> Any:
    torch.manual_seed(2)
    return MultiHeadAttention(D, 1, score=Learned()).double()


@pytest.mark.parametrize("make", [own, biased, heads])
@pytest.mark.parametrize("use_reentrant", [False, True])
@at_every_size
def test_a_checkpoint_may_be_around_it(make, size, use_reentrant):
    attention, (q, k, v) = make(), tokens(2, size)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, need_weights=False, mask=Mask.causal()).output

    ours = checkpoint(call, q, k, v, use_reentrant=use_reentrant)
    weighting = normal(*ours.shape, seed=99)
    (ours * weighting).sum().backward()  # a checkpoint that enters again knows no other
    torch.testing.assert_close([x.grad for x in (q, k, v)], gradients(call(q, k, v), [q, k, v]))


def relative() -> Any:
    return Attention(Biased(DotProductScore(), RelativeBias(8).double()))


def added() -> Any:
    bias = nn.Parameter(normal(600, 600, seed=9))
    return Attention(Biased(DotProductScore(), bias))


@pytest.mark.parametrize("make", [own, biased, relative, added])
def test_whether_gradients_are_wanted_counts_as_it_was(make):
    attention, inputs = make(), tokens(1, 600)
    output = attention(*inputs, need_weights=False).output
    attention.requires_grad_(False)
    found = gradients(output, inputs)
    torch.testing.assert_close(found, gradients(make()(*inputs).output, inputs))


@pytest.mark.parametrize("what", ["bias", "cap", "scale", "layer"])
@at_every_size
def test_a_hook_on_what_is_learned_is_called_once(what, size):
    score: Any
    if what == "bias":
        score = Biased(DotProductScore(), learned := nn.Parameter(normal(size, size)))
    elif what == "cap":
        score = SoftCapped(DotProductScore(), 3.0)
        score.cap = learned = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
    elif what == "scale":
        score = DotProductScore()
        score.scale = learned = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    else:
        score = Learned()
        learned = score.layer.weight
    attention, inputs = Attention(score), tokens(1, size)
    (expected,) = gradients(attention(*inputs).output, [learned])
    called: list[int] = []

    def halved(d: Tensor) -> Tensor:
        called.append(1)
        return 0.5 * d

    learned.register_hook(halved)
    output = attention(*inputs, need_weights=False).output
    weighting = normal(*output.shape, seed=99)
    (output * weighting).sum().backward()
    assert called == [1]
    torch.testing.assert_close(learned.grad, 0.5 * expected)


# --- scores that look at more than a pair ---


class InPlace(Score):
    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * queries, 3 * keys

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        q /= math.sqrt(D)
        return q @ k.mT


class ByNumber(Score):
    """Scaled by the logarithm of the query's own position."""

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        numbers = torch.arange(1.0, q.shape[-2] + 1, dtype=q.dtype)
        return q * numbers.log1p().unsqueeze(-1) @ k.mT


class Running(Score):
    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return q.cumsum(-2) @ k.mT / q.shape[-1]


class Near(Score):
    """A window of its own."""

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        i, j = torch.arange(q.shape[-2]).unsqueeze(-1), torch.arange(k.shape[-2])
        return (q @ k.mT).masked_fill((i - j).abs() > 64, -math.inf)


class ZeroTable(Score):
    """With a table of distances that begins with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(17, dtype=torch.float64))

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        i, j = torch.arange(q.shape[-2]).unsqueeze(-1), torch.arange(k.shape[-2])
        return q @ k.mT + self.table[(i - j).clamp(-8, 8) + 8]


class AroundZeros(Score):
    def __init__(self) -> None:
        super().__init__()
        self.score = Biased(DotProductScore(), RelativeBias(8).double())

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return 2 * self.score.compare(q, k)


class OfHeads(Score):
    """One head after the other, each with its number, which are ones at first."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        each = [q[:, h] @ k[:, h].mT * self.factors[h] for h in range(q.shape[1])]
        return torch.stack(each, dim=1)


@pytest.mark.parametrize("kind", [InPlace, ByNumber, Running, Near, ZeroTable, AroundZeros])
def test_a_score_may_look_at_more_than_a_pair(kind):
    agree(Attention(kind()), lambda: Attention(kind()), 1, 600)


def test_a_score_may_go_through_the_heads():
    agree(Attention(OfHeads()), lambda: Attention(OfHeads()), 2, 4, 300)


def test_a_bias_may_count_from_the_first_query_it_is_given():
    def make() -> Any:
        return Attention(Biased(DotProductScore(), lambda i, j: -0.05 * (i - i.min() - j).abs()))

    agree(make(), make, 1, 600)


# --- scores that keep something ---


class Keeping(Score):
    """Keeps something each time."""

    count: Any

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.steps, self.last, self.plain = how, 0, torch.zeros(()), torch.zeros(())
        self.register_buffer("count", torch.zeros(()))
        self.learned = nn.Parameter(torch.ones((), dtype=torch.float64))

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        scores = q @ k.mT * self.learned
        if self.how == "a buffer is another":
            self.count = self.count + 1
        elif self.how == "a buffer in place":
            self.count += 1
        elif self.how == "the data of a buffer":
            self.count.data.add_(1)
        elif self.how == "a tensor in place":
            self.plain.add_(1)
        elif self.how == "a number":
            self.steps += 1
            scores = scores / (1 + self.steps)
        elif self.how == "the scores":
            self.last = scores
        return scores

    def kept(self) -> tuple[Any, ...]:
        return self.count.item(), self.plain.item(), self.steps, tuple(self.last.shape)


@pytest.mark.parametrize(
    "how",
    [
        "a buffer is another", "a buffer in place", "the data of a buffer", "a tensor in place",
        "a number", "the scores",
    ],
)  # fmt: skip
@pytest.mark.parametrize("grad", [True, False])
@at_every_size
def test_what_a_score_keeps_is_kept_once(how, size, grad):
    ours, theirs = Keeping(how), Keeping(how)
    with torch.set_grad_enabled(grad):
        made = Attention(ours)(*tokens(1, size), need_weights=False).output
        expected = theirs.kept(), Attention(theirs)(*tokens(1, size)).output
    assert ours.kept() == theirs.kept()
    torch.testing.assert_close(made, expected[1])


class Caching(Score):
    """Makes something once."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: Tensor | None = None

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = torch.arange(1.0, q.shape[-1] + 1, dtype=q.dtype)
        return (q * self.cache) @ k.mT


def test_a_score_may_keep_what_it_makes_once():
    agree(Attention(Caching()), lambda: Attention(Caching()), 1, 600)


@at_every_size
@pytest.mark.parametrize("kind", [torch.bool, torch.complex64])
def test_scores_that_are_no_real_numbers_are_told(size, kind):
    attention = Attention(lambda q, k: (q @ k.mT).to(kind))
    with pytest.raises(TypeError, match="score must return real numbers; got torch"):
        attention(*tokens(1, size), need_weights=False)


class Projecting(Learned):
    """With a layer in each half."""

    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(queries), keys


@pytest.mark.parametrize("kind", [Learned, Projecting])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("need_weights", [True, False])
@at_every_size
def test_layers_may_be_in_half_precision(kind, dtype, need_weights, size):
    attention: Any = Attention(kind().to(dtype))
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in tokens(1, size))
    output = attention(q, k, v, need_weights=need_weights).output
    assert output.dtype == dtype
    twin: Any = kind()
    twin.load_state_dict(attention.score.state_dict())
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected = Attention(twin)(*wide).output
    torch.testing.assert_close(output.double(), expected, rtol=0.05, atol=0.05)
    found = torch.autograd.grad(output.sum(), [q, k, v])
    for ours, theirs in zip(found, torch.autograd.grad(expected.sum(), wide), strict=True):
        assert (ours.double() - theirs).norm() <= 0.1 * theirs.norm() + 0.01


class MadeWithNumber(Score):
    """Made in its own way, with a sparse buffer, and writes down a number that stays the same."""

    def __new__(cls, number: int) -> Any:
        return super().__new__(cls)

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.scale = number, 0.0
        self.register_buffer("identity", torch.eye(D, dtype=torch.float64).to_sparse())

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        self.scale = self.number / math.sqrt(q.shape[-1])
        return self.scale * (q @ self.identity.to_dense()) @ k.mT  # type: ignore[operator]


def test_unusual_modules_stream():
    score = MadeWithNumber(2)
    agree(Attention(score), lambda: Attention(MadeWithNumber(2)), 1, 600)
    inputs = tokens(1, 1500)
    held = peak_bytes(lambda: Attention(score)(*inputs, need_weights=False))
    assert held < 1500 * 1500 * 8


# --- modules as users write them ---


class Normed(Score):
    """With a batch norm before pairs are made."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(D).double()

    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(queries.flatten(0, -2)).view(queries.shape), keys

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT


def test_two_forward_passes_may_come_before_one_backward():
    attention, inputs = Attention(Normed()), tokens(1, 600)
    twin, others = Attention(Normed()), tokens(1, 600)
    ours = sum(attention(*inputs, need_weights=False).output for _ in range(2))
    theirs = sum(twin(*others).output for _ in range(2))
    torch.testing.assert_close(gradients(ours, inputs), gradients(theirs, others))


def test_what_is_tried_is_given_back_at_once():
    asked: list[weakref.ref[Any]] = []

    class Watched(Learned):
        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            asked.append(weakref.ref(self))
            return super().compare(q, k)

    attention = Attention(Watched())
    gc.disable()
    try:
        with torch.no_grad():
            attention(*tokens(1, 600), need_weights=False)
        assert asked
        assert all(score() is None for score in asked)
    finally:
        gc.enable()


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(1, dtype=torch.float64)

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        return self.layer((i - j).double().unsqueeze(-1)).squeeze(-1)


@at_every_size
def test_a_bias_may_be_lazy(size):
    attention, inputs = Attention(Biased(DotProductScore(), Lazy())), tokens(1, size)
    first = attention(*inputs, need_weights=False).output
    torch.testing.assert_close(attention(*inputs).output, first)


class Listing(Score):
    """Writes down what it was asked for, draws by itself, or throws dice."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.sizes, self.last = how, list[int](), dict[str, int]()
        self.generator = torch.Generator().manual_seed(0)

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        scores = q @ k.mT
        if self.how == "a list":
            self.sizes.append(scores.numel())
        elif self.how == "a dictionary":
            self.last["size"] = scores.numel()
        elif self.how == "its own generator":
            noise = torch.randn(scores.shape[-2:], generator=self.generator)
            scores = scores + noise.double()
        elif self.how == "dice":
            scores = scores * (1 + random.random())
        return scores


@pytest.mark.parametrize("how", ["a list", "a dictionary", "its own generator", "dice"])
@pytest.mark.parametrize("grad", [True, False])
@at_every_size
def test_what_a_score_writes_down_or_draws_is_as_in_one_go(how, size, grad):
    ours, theirs = Listing(how), Listing(how)
    with torch.set_grad_enabled(grad):
        random.seed(3)
        made = Attention(ours)(*tokens(1, size), need_weights=False).output
        random.seed(3)
        expected = Attention(theirs)(*tokens(1, size)).output
    torch.testing.assert_close(made, expected)
    assert ours.sizes == theirs.sizes
    assert ours.last == theirs.last


class Bound(ZeroTable):
    """By a method that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.method = self.by_table

    def by_table(self, q: Tensor, k: Tensor) -> Tensor:
        return ZeroTable.compare(self, q, k)

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return self.method(q, k)


class NearTheEnd(Score):
    """A window of its own, which counts from the end."""

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        shift = k.shape[-2] - q.shape[-2]
        i, j = torch.arange(q.shape[-2]).unsqueeze(-1) + shift, torch.arange(k.shape[-2])
        return (q @ k.mT).masked_fill((i - j).abs() > 64, -1e9)


@dataclass
class Data(Score):
    """Without a hash."""

    scale: float = 0.5

    def __post_init__(self) -> None:
        super().__init__()

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return self.scale * q @ k.mT


@pytest.mark.parametrize("kind", [Bound, NearTheEnd])
def test_a_score_may_look_at_more_than_a_pair_in_other_ways(kind):
    agree(Attention(kind()), lambda: Attention(kind()), 1, 600)


def test_a_score_may_be_data():
    inputs = tokens(1, 600)
    output = Attention(Data())(*inputs, need_weights=False).output
    expected = (0.5 * inputs[0] @ inputs[1].mT).softmax(dim=-1) @ inputs[2]
    torch.testing.assert_close(output, expected)


class Gate(Score):
    """What is not of pairs alone, behind a gate that begins at next to nothing."""

    def __init__(self, kind: str, gate: Tensor) -> None:
        super().__init__()
        self.kind, self.gate = kind, nn.Parameter(gate.clone())
        self.table = nn.Parameter(normal(700, 700, seed=7))

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        if self.kind == "a place":
            return q @ k.mT + self.gate * self.table[: q.shape[-2], : k.shape[-2]]
        if self.kind == "all queries":
            a = q @ k.mT
            return a + self.gate * a.amax(dim=-2, keepdim=True) * k[..., 0].unsqueeze(-2)
        return (q + self.gate * q.mean(dim=0, keepdim=True).roll(1, -1)) @ k.mT


@pytest.mark.parametrize("gate", [torch.tensor(0.0), torch.zeros(1), torch.tensor(1e-6)])
@pytest.mark.parametrize("kind", ["a place", "all queries", "the batch"])
@pytest.mark.parametrize("mask", [None, Mask.window(50)], ids=["all", "window"])
def test_a_gate_that_lets_nothing_through_yet_has_its_gradient(kind, gate, mask):
    gate = gate.double()
    agree(Attention(Gate(kind, gate)), lambda: Attention(Gate(kind, gate)), 2, 700, mask=mask)


@pytest.mark.parametrize("mask", [None, Mask.causal(), Mask.window(50)], ids=["all", "causal", "w"])
@pytest.mark.parametrize("bias", [
    lambda i, j: -5.0 * (i - j).abs() / j.max().clamp(min=1),
    lambda i, j: -5.0 * (i - j).abs() / (j.min() + 1),
    lambda i, j: -5.0 * (i - j).abs() / i.max().clamp(min=1),
])  # fmt: skip
def test_a_bias_may_look_at_all_positions(bias, mask):
    attention = Attention(Biased(DotProductScore(), bias))
    agree(attention, lambda: attention, 1, 700, mask=mask)


class Wide(Score):
    """In double precision, whatever the tokens have: their digits would be lost in single."""

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return q.double() @ k.double().mT + 1e8


@pytest.mark.parametrize("held", [0.0, math.nan])
def test_scores_may_be_wider_than_tokens(held):
    q, k, v = (x.detach().float() for x in tokens(1, 400))
    output = stream_attention(Wide(), q, k, v, mask=Mask.causal())
    scores = (q.double() @ k.double().mT).masked_fill(~Mask.causal().dense(400, 400), -math.inf)
    torch.testing.assert_close(output.output, (scores.softmax(dim=-1) @ v.double()).float())
    torch.testing.assert_close(output.logsumexp, scores.logsumexp(dim=-1) + 1e8)
    k[0, -1] = held  # of which only the last query knows
    weighted = Attention(Wide())(q, k, v, mask=Mask.causal()).output
    for one in (weighted, stream_attention(Wide(), q, k, v, mask=Mask.causal()).output):
        torch.testing.assert_close(one[:, :-1], output.output[:, :-1])


@pytest.mark.parametrize("score", [
    DotProductScore, lambda: AdditiveScore(D, D, 4).double(), Learned,
    lambda: Biased(DotProductScore(), torch.zeros(1, dtype=torch.float64)),
])  # fmt: skip
@at_every_size
def test_outputs_may_be_written_over(score, size):
    (q, k, v), attention = tokens(1, size), Attention(score())
    for need_weights in (True, False):
        output = attention(q, k, v, need_weights=need_weights).output
        expected = gradients(output + q, [q, k, v])
        output = attention(q, k, v, need_weights=need_weights).output
        output += q
        torch.testing.assert_close(gradients(output, [q, k, v]), expected)


@pytest.mark.parametrize("score", [
    DotProductScore, lambda: AdditiveScore(D, D, 4).double(), Learned,
    lambda: Biased(DotProductScore(), torch.zeros(1, dtype=torch.float64)),
    lambda: Biased(AdditiveScore(D, D, 4).double(), lambda i, j: -0.1 * (i - j).abs()),
])  # fmt: skip
@at_every_size
def test_a_backward_pass_in_inference_mode_or_without_hooks_of_what_is_saved(score, size):
    inputs = tokens(1, size)
    torch.manual_seed(1)
    attention = Attention(score())
    expected = gradients(attention(*inputs).output, inputs)
    output = attention(*inputs, need_weights=False).output
    with torch.inference_mode():
        weighting = normal(*output.shape, seed=99)
        found = torch.autograd.grad(output, inputs, weighting)
    torch.testing.assert_close([x.clone() for x in found], expected)
    with torch.autograd.graph.disable_saved_tensors_hooks("none here"):
        output = attention(*inputs, need_weights=False).output
        torch.testing.assert_close(gradients(output, inputs), expected)


@pytest.mark.parametrize("bias", [
    lambda: nn.Parameter(torch.ones(500, 500).double()), lambda: RelativeBias(3).double(),
])  # fmt: skip
def test_a_bias_of_pairs_that_nobody_sees_has_a_gradient_of_zeros(bias):
    attention = Attention(Biased(DotProductScore(), bias()))
    inputs = [x.detach() for x in tokens(1, 500)]
    output = attention(*inputs, torch.tensor([0]), need_weights=False).output
    output.sum().backward()
    for parameter in attention.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize("score", [
    DotProductScore, lambda: SoftCapped(DotProductScore(), 5.0), Learned,
])  # fmt: skip
@pytest.mark.parametrize("spoilt", ["query", "key", "value"])
def test_what_is_not_finite_spoils_no_gradient_that_it_has_no_part_in(score, spoilt):
    given = dict(zip(("query", "key", "value"), tokens(1, 300), strict=True))
    with torch.no_grad():
        given[spoilt][0, -1] = math.nan if spoilt != "value" else math.inf
    log = stream_attention(score(), *given.values(), mask=Mask.causal()).logsumexp[:, :-1]
    d_query, d_key, d_value = torch.autograd.grad(
        log.sum(), list(given.values()), allow_unused=True, materialize_grads=True
    )
    assert not d_value.any()
    if spoilt != "query":
        assert d_query[:, :-1].isfinite().all()
    if spoilt == "value":
        assert d_key.isfinite().all()
        log = stream_attention(score(), *given.values()).logsumexp  # without a mask
        for x in torch.autograd.grad(log.sum(), list(given.values())[:2]):
            assert x.isfinite().all()


class KeyByKey(Score):
    """A stack of scores for each key, of which there must be some."""

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.stack([(q * key.unsqueeze(-2)).sum(dim=-1) for key in k.unbind(-2)], dim=-1)


def test_a_score_is_not_asked_about_no_key():
    attention, mask = Attention(KeyByKey()), Mask.where(lambda i, j: i > 500)
    agree(attention, lambda: attention, 1, 700, mask=mask)


class InHalves(Learned):
    """By a layer in half precision, which takes nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer.bfloat16()


@at_every_size
def test_what_is_hidden_does_not_reach_scores_of_layers_in_half_precision(size):
    q, k, v = (x.detach().float().requires_grad_() for x in tokens(1, size))
    spoilt = k.detach().clone()
    spoilt[0, -1] = math.nan  # of which only the last query knows
    for need_weights in (True, False):
        clean, dirty = (
            Attention(InHalves())(q, x, v, mask=Mask.causal(), need_weights=need_weights)
            for x in (k, spoilt.requires_grad_())
        )
        torch.testing.assert_close(dirty.output[:, :-1], clean.output[:, :-1])
        assert gradients(dirty.output[:, :-1], [q])[0][:, :-1].isfinite().all()


# --- what is hidden from some, and not finite ---


class ScaledByHead(Score):
    """With a factor for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([1.0, -0.5, 2.0]).double().view(3, 1, 1))

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT * self.factor


class WithATable(Score):
    """For so many tokens, and no others."""

    table: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("table", normal(size, size, seed=5))

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT + self.table


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["heads", "table", "slopes", "minus infinity in a bias"])
@pytest.mark.parametrize("size", [6, 300])
def test_a_key_that_is_not_finite_spares_the_queries_that_do_not_see_it(kind, size, need_weights):
    score: Any = ScaledByHead() if kind == "heads" else DotProductScore(1.0)
    if kind == "table":
        score = WithATable(size)
    if kind == "slopes":
        score = Biased(score, lambda i, j: -torch.tensor([[[0.1]], [[0.2]], [[0.3]]]) * (i - j))
    inputs = [x.detach() for x in tokens(2, 3, size)]
    if kind == "minus infinity in a bias":
        gate = torch.zeros(size, size).double()
        gate[2, 1] = -math.inf
        score = Biased(ScaledByHead(), gate)
    clean = [x.clone().requires_grad_() for x in inputs]
    inputs[1][0, ..., -1, :] = math.nan
    spoilt = [x.requires_grad_() for x in inputs]
    found, expected = (
        Attention(score)(*x, mask=Mask.causal(), need_weights=need_weights).output[..., :-1, :]
        for x in (spoilt, clean)
    )
    torch.testing.assert_close(found, expected)
    if kind != "table":  # whose other queries take part in every score, as far as can be told
        d_q, expected_d_q = gradients(found, spoilt)[0], gradients(expected, clean)[0]
        torch.testing.assert_close(d_q[..., :-1, :], expected_d_q[..., :-1, :])


def test_a_query_that_is_not_finite_spares_the_gradients_of_a_score_with_a_table():
    size = 6
    inputs = [x.detach() for x in tokens(2, size)]
    clean = [x.clone().requires_grad_() for x in inputs]
    inputs[0][0, -1] = math.nan
    spoilt = [x.requires_grad_() for x in inputs]
    lens = torch.tensor([3, 6])
    mask = Mask.lengths(lens) & ~Mask.where(lambda i, j: i == size - 1)  # which sees nothing
    found, expected = (Attention(WithATable(size))(*x, mask=mask).output for x in (spoilt, clean))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, spoilt), gradients(expected, clean))
