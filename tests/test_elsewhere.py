"""The same function where values cannot be seen or dtypes are chosen by others: autocast,
`torch.compile`, `torch.export`, tracing, the meta device."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn

from d2lattn import (
    AdditiveAttention,
    Attention,
    Biased,
    BilinearScore,
    DotProductAttention,
    DotProductScore,
    GaussianScore,
    KernelScore,
    Mask,
    NadarayaWatson,
    SoftCapped,
    masked_softmax,
    stream_attention,
)
from tests.test_one_function import CASES, made

C = 4
BF16 = torch.bfloat16


class Model(nn.Module):
    """Attention as a part of something else."""

    def __init__(self, attention: nn.Module, **options: Any) -> None:
        super().__init__()
        self.attention = attention
        self.options = options

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, lens: Tensor | None = None, mask: Any = None
    ) -> Tensor:
        return self.attention(q, k, v, lens, mask=mask, **self.options).output


def tokens(b: int, n: int, m: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = (b, n, C), (b, m, C), (b, m, 3)
    return [torch.randn(*s, generator=generator) for s in shapes]


def attention_of(name: str) -> Attention:
    score = made(name)
    return Attention(score.float() if isinstance(score, nn.Module) else score)


every_score = pytest.mark.parametrize("name", CASES)
every_size = pytest.mark.parametrize("shape", [(2, 5, 7), (2, 260, 270)], ids=["small", "large"])
with_and_without = pytest.mark.parametrize("need_weights", [True, False])


# --- autocast ---


@every_score
@every_size
@with_and_without
@pytest.mark.parametrize("low", [BF16, torch.float16])
def test_autocast_gives_the_dtype_of_pytorchs_attention(name, shape, need_weights, low):
    q, k, v = tokens(*shape)
    attention = attention_of(name)
    exact = attention(q, k, v).output
    for dtypes in ((None, None, None), (low, low, None), (None, low, low), (low, low, low)):
        given = [x if d is None else x.to(d) for x, d in zip((q, k, v), dtypes, strict=True)]
        leaves = [x.detach().clone().requires_grad_() for x in given]
        with torch.autocast("cpu", low):
            expected = F.scaled_dot_product_attention(given[0], given[1], given[2])
            output, weights = attention(*leaves, need_weights=need_weights)
        assert output.dtype == expected.dtype == low
        assert weights is None or weights.dtype == low
        torch.testing.assert_close(output.float(), exact, rtol=0.1, atol=0.05)
        output.sum().backward()
        assert all(bool(x.grad.isfinite().all()) for x in leaves if x.grad is not None)


@every_size
@with_and_without
def test_scores_that_float16_cannot_hold_do_not_overflow_under_autocast(shape, need_weights):
    q, k, v = (300 * x for x in tokens(*shape))
    with torch.autocast("cpu", torch.float16):
        for attention in (DotProductAttention(scale=1.0), AdditiveAttention(C, C, 8)):
            output = attention(q.half(), k.half(), v, need_weights=need_weights).output
            assert bool(output.isfinite().all())


@every_size
def test_float64_stays_float64_under_autocast(shape):
    inputs = [x.double() for x in tokens(*shape)]
    with torch.autocast("cpu", BF16):
        output = DotProductAttention()(*inputs, need_weights=False).output
    assert output.dtype == torch.float64
    expected = DotProductAttention()(*inputs).output
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [
    lambda: DotProductAttention(0.2), lambda: Attention(BilinearScore(C, C), 0.2),
    lambda: AdditiveAttention(C, C, 5, 0.2), lambda: Attention(GaussianScore(1.0), 0.2),
])  # fmt: skip
@every_size
def test_dropout_trains_under_autocast(make, shape):
    torch.manual_seed(0)
    q, k, v = (x.requires_grad_() for x in tokens(*shape))
    with torch.autocast("cpu", BF16):
        output = make()(q, k, v, need_weights=False).output
    output.sum().backward()
    assert q.grad is not None
    assert bool(q.grad.isfinite().all())


# --- compile, export, trace ---


@pytest.mark.parametrize("name", ["dot product", "gaussian", "additive", "a user's", "biased"])
@pytest.mark.parametrize(("need_weights", "with_mask"), [(True, False), (False, True)])
def test_one_compilation_takes_every_size(name, need_weights, with_mask):
    """One graph, run as it is; once also through autograd's compiler, which is slow."""
    torch._dynamo.reset()
    model = Model(attention_of(name), need_weights=need_weights)
    backend = "aot_eager" if name == "additive" and with_mask else "eager"
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend=backend)
    for b, n, m in ((2, 5, 7), (3, 6, 9), (4, 280, 300)):
        lens = torch.randint(0, m + 1, (b,))
        mask = torch.rand(b, n, m) > 0.3 if with_mask else None
        inputs = [x.requires_grad_() for x in tokens(b, n, m)]
        with torch._dynamo.config.patch(error_on_recompile=True):
            ours = compiled(*inputs, lens, mask)
        theirs = model(*inputs, lens, mask)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        grads = (torch.autograd.grad(x.square().sum(), inputs) for x in (ours, theirs))
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_masks_are_joined_inside_a_compiled_function():
    def attend(q, lens):
        mask = (Mask.causal() | Mask.lengths(lens)) & Mask.window(2)
        return DotProductAttention()(q, q, q, mask=mask).output

    q, lens = tokens(2, 5, 5)[0], torch.tensor([2, 4])
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, lens), attend(q, lens))


@pytest.mark.parametrize("mask", [
    Mask.causal(), Mask.window(3, 1), Mask.causal() & Mask.where(lambda i, j: (i + j) % 2 == 0),
    ~Mask.window(2) | Mask.lengths(torch.tensor([2, 4])),
])  # fmt: skip
def test_a_mask_compiles(mask):
    torch._dynamo.reset()
    model = Model(DotProductAttention())
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend="eager")
    for n, m in ((5, 7), (6, 9)):
        inputs = tokens(2, n, m)
        torch.testing.assert_close(
            compiled(*inputs, None, mask), model(*inputs, None, mask), rtol=1e-4, atol=1e-5
        )


@every_score
@pytest.mark.parametrize("what", ["mask", "a Mask"])
def test_an_exported_model_takes_every_size(name, what):
    dim = torch.export.Dim
    b, n, m = dim("b", min=1), dim("queries", min=1), dim("keys", min=1)
    model = Model(attention_of(name))

    def given(b: int, n: int, m: int) -> tuple[Any, ...]:
        lens = torch.randint(0, m + 1, (b,))
        extra: dict[str, tuple[Any, Any]] = {
            "mask": (lens, torch.rand(b, n, m) > 0.3),
            "a Mask": (None, Mask.lengths(lens) & Mask.causal()),
        }
        return (*tokens(b, n, m), *extra[what])

    lens_dims = {0: b} if what == "mask" else None
    mask_dims = {"mask": {0: b, 1: n, 2: m}, "a Mask": [[[{0: b}], []]]}.get(what)
    shapes = {0: b, 1: n}, {0: b, 1: m}, {0: b, 1: m}, lens_dims, mask_dims
    exported = torch.export.export(model, given(2, 5, 7), dynamic_shapes=shapes)
    for size in ((3, 6, 9), (2, 9, 6), (4, 280, 300)):
        other = given(*size)
        torch.testing.assert_close(exported.module()(*other), model(*other), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@every_score
def test_a_traced_model_with_lengths(name):
    model = Model(attention_of(name))
    q, k, v = tokens(2, 5, 7)
    lens = torch.tensor([3, 0])
    traced = torch.jit.trace(model, (q, k, v, lens))
    torch.testing.assert_close(traced(q, k, v, lens), model(q, k, v, lens))
    lens = torch.tensor([7, 2])
    torch.testing.assert_close(traced(q, k, v, lens), model(q, k, v, lens))


@every_score
@with_and_without
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_the_same(name, need_weights, mode):
    attention = attention_of(name)
    inputs, lens = tokens(2, 260, 270), torch.tensor([100, 0])
    masks = None, Mask.window(5) | Mask.where(lambda i, j: j < 2)
    expected = [attention(*inputs, lens, mask=mask).output for mask in masks]
    with mode():
        fresh = [x.clone() for x in inputs]
        found = [
            attention(*fresh, lens.clone(), mask=mask, need_weights=need_weights).output
            for mask in masks
        ]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# --- devices ---


@every_score
@every_size
@with_and_without
def test_the_meta_device_gives_shapes_and_dtypes(name, shape, need_weights):
    with torch.device("meta"):
        attention = attention_of(name)
    inputs = [x.to("meta").requires_grad_() for x in tokens(*shape)]
    lens = torch.tensor([1, 2], device="meta")
    if name == "a function":  # makes its positions on the CPU
        return
    for mask in (None, Mask.causal(), Mask.window(3)):
        output, weights = attention(*inputs, lens, mask=mask, need_weights=need_weights)
        assert output.shape == (*shape[:2], 3)
        assert output.is_meta
        assert weights is None or (weights.is_meta and weights.shape == shape)
    output.sum().backward()
    assert all(x.grad is not None and x.grad.is_meta for x in inputs)


def test_strided_inputs_are_copied_on_their_own_device():
    x = torch.randn(1, 300, C).mT.contiguous().mT
    expected = DotProductAttention()(x, x, x).output
    with torch.device("meta"):
        output = DotProductAttention()(x, x, x, need_weights=False).output
    torch.testing.assert_close(output, expected)


def test_nothing_is_made_on_the_device_that_is_the_default():
    inputs = tokens(2, 260, 270)
    lens = torch.tensor([100, 270])
    for name in CASES:
        if name == "a function":
            continue
        attention = attention_of(name)
        for mask in (None, Mask.causal(), Mask.window(5) & Mask.where(lambda i, j: i >= j)):
            expected = attention(*inputs, lens, mask=mask, need_weights=False).output
            with torch.device("meta"):
                output = attention(*inputs, lens, mask=mask, need_weights=False).output
                weights = attention(*inputs, lens, mask=mask).weights
            torch.testing.assert_close(output, expected)
            assert not weights.is_meta
    with torch.device("meta"):
        weights = masked_softmax(torch.zeros(2, 3, device="cpu"), mask=Mask.causal())
    assert not weights.is_meta


@pytest.mark.parametrize("make", [
    lambda: Attention(GaussianScore(0.5)), lambda: Attention(GaussianScore([0.5, 1.0], True)),
    lambda: NadarayaWatson(0.5), lambda: AdditiveAttention(2, 3, 4), lambda: KernelScore("boxcar"),
    lambda: Biased(DotProductScore(), torch.zeros(2, 2)),
    lambda: SoftCapped(BilinearScore(2, 2), 3.0),
])  # fmt: skip
def test_modules_are_made_on_meta_and_their_states_hold_tensors_only(make):
    with torch.device("meta"):
        assert isinstance(make(), nn.Module)
    module = make()
    state = module.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    again = make()
    again.load_state_dict(state)
    assert repr(again) == repr(module) == repr(copy.deepcopy(module))
    assert repr(pickle.loads(pickle.dumps(module))) == repr(module)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))


def test_a_bandwidth_is_part_of_the_state_and_no_dtype_rounds_it():
    score = GaussianScore(0.1).half()
    other = GaussianScore(3.0)
    other.load_state_dict(score.state_dict())
    assert other.bandwidth.item() == 0.1
    old = GaussianScore(2.0)
    old.load_state_dict({"_extra_state": 0.25})  # as version 0.1 had it
    assert old.bandwidth.item() == 0.25
    with pytest.raises(RuntimeError, match=r"Missing key.*bandwidth"):
        old.load_state_dict({})


def test_streaming_of_meta_tensors_says_what_it_will_give():
    inputs = [x.to("meta") for x in tokens(2, 260, 270)]
    output, log = stream_attention(DotProductScore(), *inputs, mask=Mask.causal())
    assert output.shape == (2, 260, 3)
    assert log.shape == (2, 260)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["dot product", "gaussian", "additive", "biased"])
def test_an_onnx_model_takes_every_size(name):
    onnx_reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    dim = torch.export.Dim
    b, n, m = dim("b"), dim("queries"), dim("keys")
    model = Model(attention_of(name)).eval()
    given = (*tokens(2, 5, 7), torch.tensor([3, 7]))
    shapes = {0: b, 1: n}, {0: b, 1: m}, {0: b, 1: m}, {0: b}
    program = torch.onnx.export(model, given, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    session = onnx_reference.ReferenceEvaluator(program.model_proto)
    names = [entry.name for entry in program.model_proto.graph.input]
    other = (*tokens(3, 6, 9), torch.tensor([1, 9, 0]))
    feeds = dict(zip(names, (x.numpy() for x in other), strict=True))
    output = torch.from_numpy(session.run(None, feeds)[0])
    torch.testing.assert_close(output, model(*other), rtol=1e-5, atol=1e-6)
