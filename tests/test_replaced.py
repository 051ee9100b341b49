"""The same function where users put parts of their own in place: layers, factors, biases that keep
tables, methods. Each against the formula written out, below and above what is made at once."""

from __future__ import annotations

import functools
import subprocess
import sys
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from d2lattn import (
    AdditiveAttention,
    AdditiveScore,
    Attention,
    Biased,
    BilinearScore,
    DotProductAttention,
    DotProductScore,
    KernelScore,
    Mask,
    MultiHeadAttention,
    RelativeBias,
    Score,
    SoftCapped,
)
from d2lattn.keys_projected import KeysProjected
from d2lattn.measure import peak_bytes
from tests.helpers import normal

D = 8
everywhere = pytest.mark.parametrize("need_weights", [True, False])
at_every_size = pytest.mark.parametrize("size", [6, 300])


def tokens(size: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(normal(batch, size, D, seed=i, requires_grad=True) for i in range(3))  # type: ignore[return-value]


def positions(size: int) -> tuple[Tensor, Tensor]:
    return torch.arange(size)[:, None], torch.arange(size)[None]


def check(
    attention: nn.Module,
    scores_of: Callable[[Tensor, Tensor], Tensor],
    size: int,
    need_weights: bool,
    *others: Tensor,
    **options: Any,
) -> None:
    """Output and gradients against those of scores that are written out."""
    q, k, v = tokens(size)
    found = attention.double()(q, k, v, need_weights=need_weights, **options).output
    expected = scores_of(q, k).softmax(dim=-1) @ v
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    wanted = [q, k, v, *others]
    d_found = normal(*found.shape, seed=7)
    torch.testing.assert_close(
        torch.autograd.grad(found, wanted, d_found),
        torch.autograd.grad(expected, wanted, d_found),
        rtol=1e-5,
        atol=1e-7,
    )


def dot(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / D**0.5


def additive_scores(score: Any, q: Tensor, k: Tensor) -> Tensor:
    return score.w_v(torch.tanh(score.W_q(q).unsqueeze(2) + score.W_k(k).unsqueeze(1))).squeeze(-1)


# --- biases that are learned, made or kept ---


@at_every_size
@everywhere
def test_a_learned_bias_on_additive_scores(size, need_weights):
    score: Any = Biased(AdditiveScore(D, D, 5), RelativeBias(3)).double()
    i, j = positions(size)
    below, table = score.score, score.bias.weight

    def scores_of(q, k):
        return additive_scores(below, q, k) + table[(j - i).clamp(-3, 3) + 3]

    check(Attention(score), scores_of, size, need_weights, table, *below.parameters())


@at_every_size
@everywhere
def test_a_function_that_looks_a_learned_bias_up_on_additive_scores(size, need_weights):
    table = normal(2 * size - 1, requires_grad=True)
    below = AdditiveScore(D, D, 5).double()
    score: Any = Biased(SoftCapped(below, 3.0), lambda i, j: table[j - i + size - 1])
    i, j = positions(size)

    def scores_of(q, k):
        return 3 * (additive_scores(below, q, k) / 3).tanh() + table[j - i + size - 1]

    check(Attention(score), scores_of, size, need_weights, table, *below.parameters())


class Growing(nn.Module):
    """Keeps a table of distances, as long as was ever asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.zeros(0)

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        distance = (i - j).abs()
        if len(self.table) <= int(distance.max()):
            self.table = -0.1 * torch.arange(int(distance.max()) + 1)
        return self.table[distance]


@functools.cache
def kept_slope() -> Tensor:
    return torch.tensor(-0.1)


SLOPES: dict[str, Callable[[], Any]] = {
    "kept by a function": lambda: lambda i, j: kept_slope() * (i - j).abs(),
    "of another constructor": lambda: lambda i, j: torch.Tensor([-0.1]) * (i - j).abs(),
    "of numpy": lambda: lambda i, j: torch.from_numpy(np.array([-0.1], np.float32)) * (i - j).abs(),
    "kept by a module": Growing,
}


@pytest.mark.parametrize("name", SLOPES)
@at_every_size
@everywhere
def test_a_bias_may_keep_a_table_or_make_one_anew(name, size, need_weights):
    kept_slope.cache_clear()
    i, j = positions(size)
    score: Any = Biased(DotProductScore(), SLOPES[name]())
    check(Attention(score), lambda q, k: dot(q, k) - 0.1 * (i - j).abs(), size, need_weights)


@at_every_size
@everywhere
def test_a_predicate_may_make_its_booleans_anew(size, need_weights):
    lower = np.tril(np.ones((size, size), bool))
    mask = Mask.where(lambda i, j: torch.from_numpy(lower)[i, j])
    i, j = positions(size)
    check(
        DotProductAttention(),
        lambda q, k: dot(q, k).masked_fill(j > i, -torch.inf),
        size,
        need_weights,
        mask=mask,
    )


def test_what_a_function_keeps_must_not_change_before_the_gradient():
    kept_slope.cache_clear()
    q, k, v = tokens(300)
    attention: Any = Attention(Biased(DotProductScore(), SLOPES["kept by a function"]()))
    found = attention(q, k, v, need_weights=False).output
    kept_slope().mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()


class OfWeight(nn.Module):
    """A bias, or a factor of scores, that is made once of a learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.made: Tensor | None = None

    def once(self) -> Tensor:
        if self.made is None:
            self.made = self.weight.exp()
        return self.made

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        return -self.once() * (i - j).abs()


class Times(Score):
    """The scores of another score, times a number."""

    def __init__(self, score: Score, factor: Callable[[], Any]) -> None:
        super().__init__()
        self.score, self.factor = score, factor

    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return self.score.project(queries, keys)

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return self.factor() * self.score.compare(q, k)


@pytest.mark.parametrize("where", ["module", "function", "score"])
@at_every_size
@everywhere
def test_what_is_made_once_of_a_learned_number_has_its_gradient(where, size, need_weights):
    of_weight = OfWeight()
    i, j = positions(size)
    if where == "score":
        score: Any = Times(DotProductScore(), of_weight.once)
        scores_of = lambda q, k: of_weight.weight.exp() * dot(q, k)  # noqa: E731
    else:
        bias = of_weight if where == "module" else lambda i, j: of_weight(i, j)
        score = Biased(DotProductScore(), bias)
        scores_of = lambda q, k: dot(q, k) - of_weight.weight.exp() * (i - j).abs()  # noqa: E731
    check(Attention(score), scores_of, size, need_weights, of_weight.weight)


@pytest.mark.parametrize("bias", ["function", "tensor"])
@everywhere
def test_a_score_of_one_s_own_may_hold_one_that_depends_on_positions(
    bias, need_weights, monkeypatch
):
    monkeypatch.setattr("d2lattn.engine.in_blocks.ELEMENTS", 2**14)  # several blocks
    i, j = positions(300)
    slopes = (-0.1 * (i - j).abs()).double()
    of = slopes if bias == "tensor" else lambda i, j: -0.1 * (i - j).abs()
    score = Times(Biased(DotProductScore(), of), lambda: 2)
    check(Attention(score), lambda q, k: 2 * (dot(q, k) + slopes), 300, need_weights)


@pytest.mark.parametrize("bias", ["function", "module", "tensor"])
@everywhere
def test_keys_that_were_projected_before_stand_where_they_stood(bias, need_weights, monkeypatch):
    monkeypatch.setattr("d2lattn.engine.in_blocks.ELEMENTS", 2**14)
    of: Any = {
        "function": lambda i, j: -0.1 * (i - j).abs(), "module": RelativeBias(3).double(),
        "tensor": normal(300, 300),
    }[bias]  # fmt: skip
    score = Biased(AdditiveScore(D, D, 4).double(), of)
    once = KeysProjected(score, D, D)
    q, k, v = tokens(300)
    found = Attention(once)(q, once.keys(k), v, need_weights=need_weights).output
    torch.testing.assert_close(found, Attention(score)(q, k, v).output)


class Transformed(Score):
    """Dot products by functions of `torch.func`, which checkpoints do not all know."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        if self.how == "vmap":
            return torch.vmap(lambda a, b: a @ b.mT)(q, k) / 8**0.5
        if self.how == "jvp":
            return torch.func.jvp(lambda x: x @ k.mT / 8**0.5, (q,), (q,))[1]
        return torch.func.grad(lambda x: 0.5 * (x**2).sum())(q) @ k.mT / 8**0.5


@pytest.mark.parametrize("how", ["vmap", "jvp", "grad"])
@at_every_size
@everywhere
def test_a_score_may_use_transforms(how, size, need_weights):
    check(Attention(Transformed(how)), dot, size, need_weights)


class ReadTwice(torch.autograd.Function):
    """A dot product whose gradient looks at what it saved once for each of its inputs."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(q, k)
        return dot(q, k)

    @staticmethod
    def backward(ctx: Any, d_scores: Tensor) -> tuple[Tensor, Tensor]:
        d_q = d_scores @ ctx.saved_tensors[1] / D**0.5
        return d_q, d_scores.mT @ ctx.saved_tensors[0] / D**0.5


class WithReadTwice(Score):
    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return ReadTwice.apply(q, k)


@pytest.mark.parametrize("around", [lambda x: x, lambda x: SoftCapped(x, 50.0)], ids=["", "capped"])
@at_every_size
@everywhere
def test_a_gradient_may_look_twice_at_what_it_saved(around, size, need_weights):
    cap = isinstance(around(DotProductScore()), SoftCapped)
    scores_of = lambda q, k: 50 * torch.tanh(dot(q, k) / 50) if cap else dot(q, k)  # noqa: E731
    check(Attention(around(WithReadTwice())), scores_of, size, need_weights)


def squeezed(i: Tensor, j: Tensor) -> Tensor:
    distances = (i - j).squeeze()
    return -0.1 * distances[:, :].abs()


TABLE = normal(300, 300)
SLOPE = normal(1, requires_grad=True)
WHOLE = {
    "fails for one pair": (squeezed, lambda i, j: -0.1 * (i - j).abs()),
    "looks at the last": (lambda i, j: i * j / i.max(), lambda i, j: i * j / i.max()),
    "counts": (lambda i, j: 0.01 * i + len(i) * (j % 3), lambda i, j: 0.01 * i + len(i) * (j % 3)),
    "returns all": (lambda i, j: TABLE, lambda i, j: TABLE),
    "by vmap": (
        lambda i, j: torch.vmap(lambda s: s * (i - j).abs())(SLOPE)[0],
        lambda i, j: SLOPE[0] * (i - j).abs(),
    ),
}


@pytest.mark.parametrize("name", WHOLE)
@everywhere
def test_a_function_of_positions_may_need_all_of_them(name, need_weights, monkeypatch):
    monkeypatch.setattr("d2lattn.engine.in_blocks.ELEMENTS", 2**14)
    bias, meant = WHOLE[name]
    i, j = positions(300)
    score = Biased(DotProductScore(), bias)
    check(Attention(score), lambda q, k: dot(q, k) + meant(i, j), 300, need_weights)


@pytest.mark.parametrize("mask", [Mask.causal(), Mask.window(100)])
def test_pieces_of_scores_that_leave_logarithms_no_digits(mask):
    q = torch.full((2048, 4), 5e3)
    v = normal(2048, 2, dtype=torch.float32)
    attention = DotProductAttention(scale=1.0)
    weighed, streamed = (
        attention(q, q, v, mask=mask, need_weights=x).output for x in (True, False)
    )
    torch.testing.assert_close(streamed, weighed)


def test_a_table_with_a_number_that_is_none_may_be_made_anew():
    table = np.append(-0.1 * np.arange(300, dtype=np.float32), np.float32(np.nan))
    score = Biased(DotProductScore(), lambda i, j: torch.from_numpy(table)[(i - j).abs()])
    i, j = positions(300)
    check(Attention(score), lambda q, k: dot(q, k) - 0.1 * (i - j).abs(), 300, False)


@pytest.mark.parametrize("grad", [True, False])
def test_what_a_function_makes_of_a_block_is_not_held(grad):
    made: list[weakref.ref[Tensor]] = []

    def sines(i: Tensor, j: Tensor) -> Tensor:
        found = torch.from_numpy(np.sin(i.numpy() - j.numpy()))
        made.append(weakref.ref(found))
        return found

    attention = Attention(Biased(DotProductScore(), sines))
    with torch.set_grad_enabled(grad):
        output = attention(*tokens(1000, batch=1), need_weights=False).output
    assert len(made) > 3
    assert all(reference() is None for reference in made)
    assert output.shape == (1, 1000, D)


def test_a_change_too_small_for_the_scores_to_show_is_noticed():
    table = normal(599, requires_grad=True)
    q, k, v = tokens(300)
    attention = Attention(Biased(DotProductScore(), lambda i, j: table[j - i + 299]))
    output = attention(q, k, v, need_weights=False).output
    with torch.no_grad():
        table.add_(1e-9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_mask_that_changes_is_noticed_where_all_scores_are_zero():
    found, (q, k, v) = {"width": 3}, tokens(300)
    mask = Mask.where(lambda i, j: (i - j).abs() <= found["width"])
    attention: Any = AdditiveAttention(D, D, 4).double()
    nn.init.zeros_(attention.score.w_v.weight)
    output = attention(q, k, v, mask=mask, need_weights=False).output
    found["width"] = 50
    with pytest.raises(RuntimeError, match="width=width"):
        output.sum().backward()


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("what", ["bias", "antisymmetric bias", "mask", "moving mask"])
def test_numbers_that_a_function_looks_up_must_not_change_before_the_gradient(what, late):
    """A function made in a loop finds the last number of it, and so would the gradient."""
    found = {"width": 0}

    def attention_of(width):
        found["width"] = width
        of = (lambda: found["width"]) if late else (lambda: width)
        if "bias" in what:
            change = (lambda x: x) if what == "antisymmetric bias" else torch.abs
            score = Biased(DotProductScore(), lambda i, j: -0.01 * of() * change(i - j))
            return Attention(score), None
        inside = (lambda x: x == of()) if what == "moving mask" else (lambda x: x <= of())
        mask = Mask.where(lambda i, j: inside((i - j).abs()) | (i == j))
        return DotProductAttention(), mask

    q, k, v = tokens(300)
    total = q.new_zeros(())
    for width in (1, 3, 20):
        attention, mask = attention_of(width)
        total = total + attention(q, k, v, mask=mask, need_weights=False).output.square().sum()
    if late:
        with pytest.raises(RuntimeError, match="width=width"):
            total.backward()
    else:
        total.backward()


def test_a_trial_that_draws_and_then_fails_leaves_the_generators_as_they_were():
    def bias(i: Tensor, j: Tensor) -> Tensor:
        dropped = F.dropout((i - j).double(), 0.5)
        return dropped - dropped[5:6]  # there is no sixth row in a trial: it does not broadcast

    attention = Attention(Biased(DotProductScore(), lambda i, j: bias(i, j) + j[:, 5]))
    made = []
    for need_weights in (True, False):
        torch.manual_seed(3)
        made.append(attention(*tokens(300), need_weights=need_weights).output)
    torch.testing.assert_close(made[0], made[1])


@at_every_size
def test_a_function_that_drops_at_random_drops_the_same_whatever_is_asked_for(size):
    table = normal(2 * size - 1, requires_grad=True)
    attention: Any = Attention(
        Biased(DotProductScore(), lambda i, j: F.dropout(table[j - i + size - 1], 0.5))
    )
    q, k, v = tokens(size)
    made = []
    for need_weights in (True, False):
        torch.manual_seed(3)
        output = attention(q, k, v, need_weights=need_weights).output
        made.append((output, *torch.autograd.grad(output.sum(), [q, table])))
    torch.testing.assert_close(made[0], made[1])


# --- numbers that became parameters ---


@pytest.mark.parametrize("shape", [(), (2, 1, 1)])
@at_every_size
@everywhere
def test_a_cap_may_be_learned(shape, size, need_weights, monkeypatch):
    monkeypatch.setattr("d2lattn.engine.in_blocks.ELEMENTS", 2**14)  # several blocks
    attention: Any = Attention(SoftCapped(DotProductScore(scale=1.0), 2.0))
    attention.score.cap = cap = nn.Parameter(normal(*shape).exp())
    check(attention, lambda q, k: cap * (q @ k.mT / cap).tanh(), size, need_weights, cap)


@pytest.mark.parametrize("shape", [(), (2, 1, 1), (D,)])
@at_every_size
@everywhere
def test_a_scale_may_be_learned(shape, size, need_weights, monkeypatch):
    monkeypatch.setattr("d2lattn.engine.in_blocks.ELEMENTS", 2**14)  # several blocks
    attention: Any = DotProductAttention()
    attention.score.scale = scale = nn.Parameter(normal(*shape).exp())
    check(attention, lambda q, k: (q * scale) @ k.mT, size, need_weights, scale)


def test_a_scale_of_each_head_may_be_learned(monkeypatch):
    monkeypatch.setattr("d2lattn.engine.in_blocks.ELEMENTS", 2**14)
    attention: Any = MultiHeadAttention(D, 2).double()
    attention.score.scale = nn.Parameter(torch.tensor([1.0, 5.0]).reshape(2, 1, 1).double())
    q, k, v = tokens(300)
    weighed, streamed = (attention(q, k, v, need_weights=x).output for x in (True, False))
    torch.testing.assert_close(streamed, weighed)


# --- layers ---


@pytest.mark.parametrize("layer", ["W_q", "W_k", "w_v"])
@at_every_size
@everywhere
def test_a_pruned_layer_may_change_its_dtype(layer, size, need_weights):
    attention: Any = AdditiveAttention(D, D, 4)
    prune.l1_unstructured(getattr(attention.score, layer), "weight", 0.5)
    attention.double()
    check(attention, lambda q, k: additive_scores(attention.score, q, k), size, need_weights)


def test_pruned_layers_of_heads_may_change_their_dtype():
    attention: Any = MultiHeadAttention(D, 2)
    for layer in (attention.W_q, attention.W_k, attention.W_v, attention.W_o):
        prune.l1_unstructured(layer, "weight", 0.5)
    assert attention.double()(*tokens(6)).output.dtype == torch.float64


class Counting(nn.Module):
    """A parametrization that counts how often the weight is made."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.times += 1
        return 2 * weight


@pytest.mark.parametrize("layer", ["W_q", "W_k", "w_v"])
@at_every_size
def test_a_parametrized_weight_is_made_once_for_a_call(layer, size):
    attention: Any = AdditiveAttention(D, D, 4).double()
    counting = Counting()
    parametrize.register_parametrization(getattr(attention.score, layer), "weight", counting)
    counting.times = 0
    attention(*tokens(size))
    assert counting.times == 1


@pytest.mark.parametrize("kind", ["additive", "bias", "score"])
@at_every_size
@everywhere
def test_parametrized_weights_may_be_kept_for_the_forward_pass(kind, size, need_weights):
    torch.manual_seed(1)
    layer = parametrizations.weight_norm(nn.Linear(D, 1, bias=False).double())
    score: Any
    if kind == "additive":
        score = AdditiveScore(D, D, D).double()
        score.w_v = layer
    elif kind == "bias":

        class OfLayer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = layer

            def forward(self, i: Tensor, j: Tensor) -> Tensor:
                return self.layer.weight.sum() * (i - j).abs()

        score = Biased(DotProductScore(), OfLayer())
    else:
        score = Times(DotProductScore(), lambda: 1.0)
        score.factor = lambda: score.layer.weight.sum()
        score.layer = layer
    attention = Attention(score)
    leaves = [*tokens(size), *attention.parameters()]
    with parametrize.cached():
        output = attention(*leaves[:3], need_weights=need_weights).output
    expected = attention(*leaves[:3]).output
    torch.testing.assert_close(output, expected)
    d = normal(*output.shape, seed=7)
    torch.testing.assert_close(
        torch.autograd.grad(output, leaves, d, allow_unused=True),
        torch.autograd.grad(expected, leaves, d, allow_unused=True),
    )


def test_spectral_norm_goes_one_step_in_a_call():
    attention: Any = AdditiveAttention(D, D, 4)
    twin: Any = nn.Linear(D, 4, bias=False)
    twin.weight = nn.Parameter(attention.score.W_q.weight.detach().clone())
    torch.manual_seed(0)
    parametrizations.spectral_norm(attention.score.W_q)
    torch.manual_seed(0)
    parametrizations.spectral_norm(twin)
    attention(*(x.float() for x in tokens(6)))
    twin(torch.zeros(1, D))
    step, expected = (layer.parametrizations.weight[0]._u for layer in (attention.score.W_q, twin))
    torch.testing.assert_close(step, expected)


class OfBytes(nn.Module):
    """A linear layer that keeps its weight as integers and a factor."""

    weight: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.scale = float(layer.weight.detach().abs().max()) / 127
        weight = (layer.weight.detach() / self.scale).round().to(torch.int8)
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


@pytest.mark.parametrize("layer", ["W_q", "w_v"])
@at_every_size
@everywhere
def test_a_layer_may_keep_its_weight_as_integers(layer, size, need_weights):
    attention: Any = AdditiveAttention(D, D, 4)
    setattr(attention.score, layer, OfBytes(getattr(attention.score, layer)))
    check(attention, lambda q, k: additive_scores(attention.score, q, k), size, need_weights)


@pytest.mark.parametrize("make", ["bias", "weight norm", "network"])
@at_every_size
@everywhere
def test_the_last_layer_of_additive_scores_may_be_another(make, size, need_weights):
    attention: Any = AdditiveAttention(D, D, 4)
    if make == "bias":
        attention.score.w_v = nn.Linear(4, 1)
    elif make == "weight norm":
        parametrizations.weight_norm(attention.score.w_v)
    else:
        attention.score.w_v = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    of_layer = list(attention.double().score.w_v.parameters())
    check(
        attention, lambda q, k: additive_scores(attention.score, q, k), size, need_weights,
        *(of_layer[:1] if make == "bias" else of_layer[:2]),
    )  # fmt: skip


def test_additive_scores_with_a_parametrized_layer_are_not_held_for_all_pairs():
    attention: Any = AdditiveAttention(D, D, 32)
    parametrizations.weight_norm(attention.score.w_v)
    q = torch.randn(1, 1000, D)
    held = peak_bytes(lambda: attention(q, q, q, need_weights=False).output.sum().backward())
    assert held < 4 * 1000 * 1000 * 32 / 4


@at_every_size
@everywhere
def test_the_layer_of_a_bilinear_score_may_be_another(size, need_weights):
    score: Any = BilinearScore(D, D)
    score.W = nn.Sequential(nn.Linear(D, D), nn.Tanh())
    weight = score.double().W[0].weight
    check(Attention(score), lambda q, k: score.W(q) @ k.mT, size, need_weights, weight)


def test_a_lazy_layer_is_settled_by_its_first_call():
    attention: Any = AdditiveAttention(D, D, 4)
    attention.score.W_q = nn.LazyLinear(4, bias=False)
    attention(*(x.float() for x in tokens(6)))
    assert attention.score.W_q.weight.shape == (4, D)


PATCHES = {
    "the function": (F, "linear", lambda found, *_: 2 * found),
    "the method": (nn.Linear, "forward", lambda found, *_: 2 * found),
    "the call": (
        nn.Module, "__call__",
        lambda found, layer, *_: 2 * found if isinstance(layer, nn.Linear) else found,
    ),
}  # fmt: skip


def doubled_by_all_layers(where: str) -> Any:
    """A patch of PyTorch that doubles what comes of every linear layer."""
    owner, name, finish = PATCHES[where]
    as_it_was = getattr(owner, name)
    return mock.patch.object(
        owner, name, lambda *args, **kwargs: finish(as_it_was(*args, **kwargs), *args)
    )


@pytest.mark.parametrize("where", list(PATCHES))
@pytest.mark.parametrize("size", [6, 160, 300])
@pytest.mark.parametrize("grad", [True, False])
@everywhere
def test_what_is_patched_into_all_linear_layers_counts(where, size, grad, need_weights):
    attention: Any = AdditiveAttention(D, D, 4).double()
    q, k, v = tokens(size)
    with torch.set_grad_enabled(grad), doubled_by_all_layers(where):
        found = attention(q, k, v, need_weights=need_weights).output
        scores = additive_scores(attention.score, q, k)
    assert not torch.allclose(scores, additive_scores(attention.score, q, k))
    torch.testing.assert_close(found, scores.softmax(dim=-1) @ v)


def test_what_was_patched_before_the_import_counts():
    code = """
import torch
from torch import nn
plain = nn.Linear.forward
nn.Linear.forward = lambda self, x: 2 * plain(self, x)
drop = nn.Dropout.forward
nn.Dropout.forward = lambda self, x: 0 * drop(self, x)
from d2lattn import AdditiveAttention
attention = AdditiveAttention(3, 3, 4).eval()
x = torch.randn(2, 160, 3)
with torch.no_grad():
    output, weights = attention(x, x, x)
assert (weights == 0).all()
nn.Dropout.forward = drop
attention.dropout = nn.Identity()
W_q, W_k, w_v = (layer for layer in (attention.score.W_q, attention.score.W_k, attention.score.w_v))
for n in (6, 160):
    with torch.no_grad():
        output, weights = attention(x[:, :n], x, x)
        scores = w_v(torch.tanh(W_q(x[:, :n]).unsqueeze(2) + W_k(x).unsqueeze(1))).squeeze(-1)
        torch.testing.assert_close(weights, scores.softmax(-1))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@everywhere
def test_scripted_layers_are_called(need_weights):
    attention: Any = AdditiveAttention(D, D, 4).double()
    score = attention.score
    as_it_was = SimpleNamespace(W_q=score.W_q, W_k=score.W_k, w_v=score.w_v)
    score.W_q, score.W_k = torch.jit.script(score.W_q), torch.jit.script(score.W_k)
    check(attention, lambda q, k: additive_scores(as_it_was, q, k), 300, need_weights)


# --- methods ---


class OfOneElement(DotProductScore):
    """Takes the keys of the first element of the batch for all."""

    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return queries, keys[:1]


@at_every_size
@everywhere
def test_projected_keys_may_be_shared_by_the_batch(size, need_weights):
    check(Attention(OfOneElement()), lambda q, k: dot(q, k[:1]), size, need_weights)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(DotProductScore, name) for name in ("compare", "forward", "__call__")]
    + [(Score, "forward"), (Score, "__call__")],
)
@at_every_size
@everywhere
def test_a_method_that_is_put_into_the_class_counts(kind, name, size, need_weights):
    with mock.patch.object(kind, name, lambda self, q, k: -3 * (q @ k.mT)):
        check(DotProductAttention(), lambda q, k: -3 * (q @ k.mT), size, need_weights)


@at_every_size
@everywhere
def test_calling_it_in_another_way_counts(size, need_weights):
    class Doubled(DotProductScore):
        def __call__(self, q: Tensor, k: Tensor) -> Tensor:
            return 2 * super().__call__(q, k)

    check(Attention(Doubled()), lambda q, k: 2 * dot(q, k), size, need_weights)


@everywhere
def test_a_score_that_is_a_property_counts(need_weights):
    class Learner(DotProductAttention):
        score: Any = property(
            lambda self: SoftCapped(DotProductScore(), 1.0), lambda self, value: None
        )

    check(Learner(), lambda q, k: dot(q, k).tanh(), 6, need_weights)


def test_scores_that_somebody_keeps_stay_as_they_were():
    attention: Any = DotProductAttention()
    compare, kept = attention.score.compare, []

    def keeping(q: Tensor, k: Tensor) -> Tensor:
        kept.append(compare(q, k))
        return kept[-1]

    attention.score.compare = keeping
    q, k, v = tokens(6)
    attention(q, k, v, torch.tensor([2, 3]))
    torch.testing.assert_close(kept[-1], dot(q, k))


# --- what is hidden by a score, and tokens of inference mode ---


@at_every_size
@everywhere
def test_a_value_that_a_score_of_minus_infinity_hides_does_not_reach_the_gradient(
    size, need_weights
):
    q, k, v = tokens(size)
    with torch.no_grad():
        k[:, -1], v[:, -1] = 1e3, torch.nan
    attention: Any = Attention(KernelScore("epanechnikov", bandwidth=50.0)).double()
    found = attention(q, k, v, need_weights=need_weights).output
    expected = attention(q, k[:, :-1], v[:, :-1]).output
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), q), torch.autograd.grad(expected.sum(), q)
    )


@pytest.mark.parametrize("name", [*SLOPES, "where"])
@everywhere
def test_tokens_of_inference_mode_need_no_mode_afterwards(name, need_weights):
    kept_slope.cache_clear()
    with torch.inference_mode():
        q, k, v = (x.detach().clone() for x in tokens(300))
    i, j = positions(300)
    attention: Any
    if name == "where":
        attention, mask = DotProductAttention(), Mask.where(lambda i, j: j <= i)
        scores = dot(q, k).masked_fill(j > i, -torch.inf)
    else:
        attention, mask = Attention(Biased(DotProductScore(), SLOPES[name]())), None
        scores = dot(q, k) - 0.1 * (i - j).abs()
    found = attention(q, k, v, mask=mask, need_weights=need_weights).output
    torch.testing.assert_close(found, scores.softmax(dim=-1) @ v, rtol=1e-6, atol=1e-8)


class Distance(Score):
    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return -(q.unsqueeze(-2) - k.unsqueeze(-3)).abs().sum(-1)


class ProjectedByAnother(DotProductScore):
    @torch.inference_mode()
    def project(self, queries, keys):
        return queries * 1.5, keys * 1.0


FROZEN: dict[str, Any] = {
    "dot": DotProductScore,
    "bilinear": lambda: BilinearScore(D, D).double().requires_grad_(False),
    "additive": lambda: AdditiveScore(D, D, 8).double().requires_grad_(False),
    "capped": lambda: SoftCapped(DotProductScore(), 2.0),
    "a user's": Distance,
    "projected": ProjectedByAnother,
}


@pytest.mark.parametrize("name", FROZEN)
@at_every_size
@everywhere
def test_values_are_learned_beside_what_a_frozen_part_made_in_inference_mode(
    name, size, need_weights
):
    *_, v = tokens(size)
    with torch.inference_mode():
        score = FROZEN[name]()
        q, k, _ = (x.detach().clone() for x in tokens(size))
        weights = score(q, k).softmax(dim=-1)
    expected = weights.clone() @ v
    found = Attention(score)(q, k, v, need_weights=need_weights).output
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), v),
        torch.autograd.grad(expected.square().sum(), v),
    )


@at_every_size
@everywhere
def test_a_bias_made_in_inference_mode_is_added_beside_learned_tokens(size, need_weights):
    with torch.inference_mode():
        bias = normal(size, size)
    attention = Attention(Biased(DotProductScore(), bias))
    check(attention, lambda q, k: dot(q, k) + bias, size, need_weights)


@at_every_size
@everywhere
def test_padding_has_no_influence_beside_a_dropout_that_moves_zeros(size, need_weights):
    attention: Any = DotProductAttention(0.3)
    attention.dropout = nn.AlphaDropout(0.3)
    q, k, v = (x.detach() for x in tokens(size))
    lens = torch.tensor([size // 2, size])
    found = []
    for padding in (0.0, 100.0, torch.nan):
        v[0, size // 2 :] = padding
        torch.manual_seed(1)
        found.append(attention(q, k, v, lens, need_weights=need_weights).output)
    torch.testing.assert_close(found[1:], found[:1] * 2, rtol=0, atol=0)
