"""The same function on a graphics card, against the formula on the processor in float64.

Skipped where there is none: CI has none. What is compared is made on the processor, and moved.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from d2lattn import (
    AdditiveScore,
    Attention,
    Biased,
    BilinearScore,
    DotProductAttention,
    DotProductScore,
    GaussianScore,
    LocalLinear,
    Mask,
    MultiHeadAttention,
    NadarayaWatson,
    RelativeBias,
    Score,
    alibi_slopes,
    merge_attention,
    stream_attention,
)
from tests.helpers import DTYPES, TOLERANCE, gradients, normal
from tests.test_one_function import (
    CASES,
    agree,
    every_mask,
    every_score,
    every_size,
    formula,
    made,
    parameters_of,
    restrictions,
    tokens,
    with_and_without,
)

if not torch.cuda.is_available():
    pytest.skip("no graphics card here", allow_module_level=True)


def on_the_card(tree: Any) -> Any:
    """Tensors, modules and masks there; a function works anywhere."""
    if isinstance(tree, nn.Module):
        return copy.deepcopy(tree).cuda()
    return pytree.tree_map_only(Tensor, lambda x: x.detach().cuda(), tree)


def leaves(inputs: list[Tensor]) -> list[Tensor]:
    return [x.detach().cuda().requires_grad_() for x in inputs]


def back(tensors: Any) -> list[Tensor]:
    return [x.detach().cpu() for x in tensors]


@every_score
@every_mask
@every_size
@with_and_without
def test_values_and_gradients_are_the_formulas(name, mask, size, need_weights):
    score, inputs = made(name), tokens(size)
    options, allowed = restrictions(size)[mask]
    there, theirs = on_the_card(score), leaves(inputs)
    output, weights = Attention(there)(*theirs, **on_the_card(options), need_weights=need_weights)
    assert output.is_cuda
    expected, alpha = formula(CASES[name].formula(score, *inputs[:2]), inputs[2], allowed)
    agree(back([output]), [expected])
    if need_weights:
        agree(back([weights]), [alpha])
    found = gradients(output, [*theirs, *parameters_of(there)])
    agree(back(found), gradients(expected, [*inputs, *parameters_of(score)]), 1e-8)


@every_score
@pytest.mark.parametrize("mask", ["nothing", "lengths", "causal and lengths", "tensor"])
def test_streaming_gives_the_logsumexp(name, mask):
    score, inputs = made(name), tokens("large")
    options, allowed = restrictions("large")[mask]
    _, log = stream_attention(on_the_card(score), *leaves(inputs), **on_the_card(options))
    scores = torch.where(allowed, CASES[name].formula(score, *inputs[:2]), -math.inf)
    empty = (scores == -math.inf).all(dim=-1)
    wide = scores.masked_fill(empty.unsqueeze(-1), 0.0).logsumexp(dim=-1)
    agree(back([log]), [wide.masked_fill(empty, -math.inf)])


@pytest.mark.parametrize("name", [name for name in CASES if name != "a function"])
@every_size
@with_and_without
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_the_accuracy_that_it_has_elsewhere(name, size, need_weights, dtype):
    score, inputs = made(name), [x.detach().to(dtype) for x in tokens(size)]
    there = on_the_card(score.to(dtype))
    options, allowed = restrictions(size)["causal and lengths"]
    output = Attention(there)(
        *on_the_card(inputs), **on_the_card(options), need_weights=need_weights
    ).output
    assert output.dtype == dtype
    exact = copy.deepcopy(score).double()
    q, k, v = (x.double() for x in inputs)
    expected, _ = formula(CASES[name].formula(exact, q, k), v, allowed)
    agree(back([output.double()]), [expected], 3 * TOLERANCE[dtype])


SIZES = [9, 300]


@pytest.mark.parametrize("n", SIZES)
@with_and_without
def test_empty_rows_and_padding_of_nan(n, need_weights):
    q, k, v = (normal(2, n, 8, seed=i, dtype=torch.float32).cuda() for i in range(3))
    lens = torch.tensor([n - 3, 0], device="cuda")
    k[0, n - 3 :], v[0, n - 3 :] = math.nan, math.inf
    k.requires_grad_(), v.requires_grad_()
    output, _ = DotProductAttention()(q, k, v, lens, need_weights=need_weights)
    expected = DotProductAttention()(*(x.detach().cpu() for x in (q, k, v)), lens.cpu()).output
    agree(back([output]), [expected.detach()], 1e-5)
    assert not output[1].any()
    for grad in torch.autograd.grad(output.sum(), (k, v)):
        assert bool(grad.isfinite().all())
        assert not grad[0, n - 3 :].any()
        assert not grad[1].any()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_the_dtype_is_that_of_pytorchs_attention(n, dtype):
    q, k, v = (normal(2, n, 8, seed=i, dtype=torch.float32).cuda() for i in range(3))
    with torch.autocast("cuda", dtype=dtype):
        output = DotProductAttention()(q, k, v, need_weights=False).output
        peer = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert output.dtype == peer.dtype == dtype
    exact = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    agree([output.double()], [exact], TOLERANCE[dtype])


@pytest.mark.parametrize("n", SIZES)
def test_dropout_drops_the_same_weights_for_the_gradient(n):
    q, k = (normal(2, n, 8, seed=i).cuda() for i in range(2))
    v = torch.eye(n, dtype=torch.float64, device="cuda").expand(2, n, n).clone().requires_grad_()
    attention = Attention(AdditiveScore(8, 8, 4), dropout=0.5).double().cuda()
    torch.manual_seed(0)
    used = attention(q, k, v, need_weights=False).output  # the values show the weights
    assert 0.4 < (used == 0).double().mean() < 0.6
    coefficients = normal(*used.shape, seed=5).cuda()
    (grad,) = torch.autograd.grad((used * coefficients).sum(), v)
    agree([grad], [used.detach().mT @ coefficients])


class Noisy(Score):
    """Draws random numbers on the card whenever it is asked; a few pairs seldom show it."""

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.nn.functional.dropout(q @ k.mT, 0.02)


def test_a_score_that_draws_is_asked_once():
    q, k, v = (normal(2, 300, 4, seed=i).cuda().requires_grad_() for i in range(3))
    eye = torch.eye(300, dtype=torch.float64, device="cuda").expand(2, 300, 300)
    torch.manual_seed(0)
    weights = Attention(Noisy())(q, k, eye.clone().requires_grad_(), need_weights=False).output
    torch.manual_seed(0)
    output = Attention(Noisy())(q, k, v, need_weights=False).output
    (grad,) = torch.autograd.grad(output.sum(), v)
    agree([grad], [weights.detach().mT.sum(dim=-1, keepdim=True).expand(grad.shape)])


MASKS = {"causal": Mask.causal(), "window": Mask.window(255)}
LONG: dict[str, Callable[[], Score]] = {
    "dot product": DotProductScore,
    "gaussian": GaussianScore,
    "bilinear": lambda: BilinearScore(64, 64),
    "additive": lambda: AdditiveScore(64, 64, 8),
    "alibi": lambda: Biased(DotProductScore(), Slope()),
    "relative": lambda: Biased(DotProductScore(), RelativeBias(100)),
}


class Slope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Buffer(alibi_slopes(1)[0, 0, 0].clone())

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        return -self.slope * (i - j).abs()


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("mask", MASKS)
def test_no_tensor_of_queries_times_keys_is_held(name, mask):
    n = 2**15
    score = LONG[name]().cuda()
    q, k, v = (normal(n, 64, seed=i, dtype=torch.float32).cuda() for i in range(3))
    q.requires_grad_(), k.requires_grad_(), v.requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output, _ = stream_attention(score, q, k, v, mask=MASKS[mask])
    output.sum().backward()
    held = torch.cuda.max_memory_allocated() - before
    assert held < n * n, f"{held / 1e6:.0f} MB; a byte for each pair would be {n * n / 1e6:.0f} MB"


@pytest.mark.parametrize("need_weights", [True, False])
def test_it_compiles(need_weights):
    attention = Attention(AdditiveScore(8, 8, 4)).cuda()
    q, k, v = (normal(2, 300, 8, seed=i, dtype=torch.float32).cuda() for i in range(3))
    lens = torch.tensor([200, 0], device="cuda")
    compiled = torch.compile(attention, fullgraph=True)
    ours = compiled(q, k, v, lens, mask=Mask.causal(), need_weights=need_weights).output
    agree([ours], [attention(q, k, v, lens, mask=Mask.causal()).output], 1e-5)


@pytest.mark.parametrize("n", SIZES)
def test_several_heads(n):
    attention = MultiHeadAttention(16, 4, num_kv_heads=2)
    x = normal(2, n, 16, dtype=torch.float32)
    expected = attention(x, x, x, mask=Mask.causal(), need_weights=False).output
    x = x.cuda()
    output = on_the_card(attention)(x, x, x, mask=Mask.causal(), need_weights=False).output
    agree(back([output]), [expected.detach()], 1e-5)


def test_parts_are_merged():
    q, k, v = (normal(2, 300, 8, seed=i).cuda() for i in range(3))
    score = DotProductScore()
    halves = [
        stream_attention(score, q, k[:, at], v[:, at]) for at in (slice(150), slice(150, None))
    ]
    whole = stream_attention(score, q, k, v)
    agree(merge_attention(halves), whole)


def test_what_is_elsewhere_is_named():
    q, k, v = (normal(2, 9, 8, seed=i).cuda() for i in range(3))
    with pytest.raises(ValueError, match=r"keys must be on cuda:0, as the rest; got cpu"):
        DotProductAttention()(q, k.cpu(), v)
    with pytest.raises(ValueError, match=r"valid_lens must be on cuda:0"):
        DotProductAttention()(q, k, v, torch.tensor([3, 4]))
    with pytest.raises(ValueError, match=r"mask must be on cuda:0"):
        DotProductAttention()(q, k, v, mask=torch.ones(9, 9, dtype=torch.bool))


@pytest.mark.parametrize("estimator", [NadarayaWatson, LocalLinear])
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("n", [60, 3000])
def test_kernel_regression(estimator, kernel, features, n):
    x = normal(n, features, seed=1).tanh().squeeze(-1)
    y = (x if features == 1 else x[:, 0]).sin() + normal(n, seed=2) / 10
    at = normal(40, features, seed=3).squeeze(-1)
    here = estimator(0.3, kernel).fit(x, y)
    there = estimator(0.3, kernel).cuda().fit(x.cuda(), y.cuda())
    agree(back([there.predict(at.cuda())]), [here.predict(at)])
    agree(back([there.loo_residuals()]), [here.loo_residuals()])
    agree(back([there.weights(at.cuda())]), [here.weights(at)])
    candidates = torch.tensor([0.3, 0.6, 2.0], dtype=torch.float64)
    here.select_bandwidth(candidates)
    there.select_bandwidth(candidates.cuda())
    assert float(here.bandwidth) == pytest.approx(float(there.bandwidth))


def test_the_best_bandwidth_is_the_same():
    x, y = normal(400, seed=1), normal(400, seed=2)
    here = NadarayaWatson().fit(x, y.sin()).select_bandwidth()
    there = NadarayaWatson().cuda().fit(x.cuda(), y.sin().cuda()).select_bandwidth()
    assert float(there.bandwidth) == pytest.approx(float(here.bandwidth), rel=1e-5)
