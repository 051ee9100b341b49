"""Attention in several heads, against PyTorch's own module and each head by itself."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from d2lattn import (
    AdditiveScore,
    Attention,
    Biased,
    DotProductScore,
    Mask,
    MultiHeadAttention,
    RelativeBias,
    RotaryScore,
    alibi_slopes,
)
from tests.helpers import close, gradients, normal, peak_bytes

E, H = 12, 3
SIZES = {"small": (2, 5, 7), "large": (2, 150, 170)}  # 2 * 3 * 150 * 170 scores go in blocks
every_size = pytest.mark.parametrize("size", SIZES)
with_and_without = pytest.mark.parametrize("need_weights", [True, False])


def tokens(size: str = "small", kdim: int = E, vdim: int = E, **options: Any) -> list[Tensor]:
    b, n, m = SIZES[size]
    shapes = (b, n, E), (b, m, kdim), (b, m, vdim)
    return [normal(*s, seed=i, **{"requires_grad": True, **options}) for i, s in enumerate(shapes)]


def pair(**options: Any) -> tuple[nn.MultiheadAttention, MultiHeadAttention]:
    """PyTorch's, with weights and biases drawn, and ours with those loaded."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(E, H, batch_first=True, **options).double()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.5)
    ours = MultiHeadAttention(E, H, **options).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def masks(size: str) -> dict[str, tuple[dict[str, Any], Tensor | None]]:
    """Our arguments, and the same as booleans (batch, heads, queries, keys); no row is empty."""
    b, n, m = SIZES[size]
    generator = torch.Generator().manual_seed(1)
    lens = torch.randint(1, m + 1, (b,), generator=generator)
    each = torch.randint(1, m + 1, (b, n), generator=generator)
    by_head = torch.randint(1, m + 1, (b, H, n), generator=generator)
    some = torch.rand(b, n, m, generator=generator) > 0.4
    some_of_heads = torch.rand(b, H, n, m, generator=generator) > 0.4
    some[..., 0] = some_of_heads[..., 0] = True
    ids, key_ids = torch.arange(n) * 3 // n, torch.arange(m) * 3 // m
    by_batch = torch.stack([ids, ids.clamp(max=1)])
    j = torch.arange(m)
    causal = j <= torch.arange(n)[:, None] + m - n
    return {
        "nothing": ({}, None),
        "lengths": ({"valid_lens": lens}, j < lens[:, None, None, None]),
        "a length per query": ({"valid_lens": each}, j < each[:, None, :, None]),
        "a length per head": (
            {"valid_lens": by_head[..., :1]}, j < by_head[..., :1, None]
        ),
        "a length per head and query": ({"valid_lens": by_head}, j < by_head[..., None]),
        "causal": ({"mask": Mask.causal()}, causal),
        "causal and lengths": (
            {"mask": Mask.causal(), "valid_lens": lens}, causal & (j < lens[:, None, None, None]),
        ),
        "tensor of pairs": ({"mask": some[0]}, some[0]),
        "tensor": ({"mask": some}, some[:, None]),
        "tensor of heads": ({"mask": some_of_heads}, some_of_heads),
        "window or lengths of heads": (
            {"mask": Mask.window(1) | Mask.lengths(by_head)},
            causal & (j >= torch.arange(n)[:, None] + m - n - 1) | (j < by_head[..., None]),
        ),
        "documents": (
            {"mask": Mask.documents(by_batch, key_ids)},
            (by_batch[..., None] == key_ids)[:, None],
        ),
        "where": (
            {"mask": Mask.where(lambda i, j: (i + j) % 2 == 0)},
            (torch.arange(n)[:, None] + m - n + j) % 2 == 0,
        ),
        "where of the batch": (
            {"mask": Mask.where(lambda i, j: (j < lens[:, None, None]) & (i >= 0))},
            j < lens[:, None, None, None],
        ),
        "not a tensor": ({"mask": ~Mask.tensor(~some) & Mask.where(lambda i, j: j >= 0)},
                         some[:, None]),
    }  # fmt: skip


@every_size
@with_and_without
@pytest.mark.parametrize("mask", masks("small"))
def test_values_and_gradients_are_those_of_pytorchs_module(mask, size, need_weights):
    theirs, ours = pair()
    inputs = tokens(size)
    b, n, m = SIZES[size]
    options, allowed = masks(size)[mask]
    hidden = None if allowed is None else ~allowed.expand(b, H, n, m).reshape(b * H, n, m)
    expected, alpha = theirs(*inputs, attn_mask=hidden, average_attn_weights=False)
    output, weights = ours(*inputs, **options, need_weights=need_weights)
    close(output, expected)
    if need_weights:
        close(weights, alpha)
    else:
        assert weights is None
    d_theirs = gradients(expected, [*inputs, theirs.in_proj_weight, theirs.in_proj_bias,
                                    *theirs.out_proj.parameters()])  # fmt: skip
    layers = ours.W_q, ours.W_k, ours.W_v
    d_ours = gradients(output, [*inputs, *(x.weight for x in layers), *(x.bias for x in layers),
                                *ours.W_o.parameters()])  # fmt: skip
    joined = [*d_ours[:3], torch.cat(d_ours[3:6]), torch.cat(d_ours[6:9]), *d_ours[9:]]
    for one, other in zip(joined, d_theirs, strict=True):
        close(one, other, 1e-10)


@pytest.mark.parametrize("options", [
    {"kdim": 5, "vdim": 7}, {"kdim": 5}, {"bias": False}, {"kdim": 4, "bias": False},
], ids=str)  # fmt: skip
def test_the_weights_of_every_form_of_pytorchs_module_load(options):
    theirs, ours = pair(**options)
    inputs = tokens(kdim=options.get("kdim", E), vdim=options.get("vdim", E))
    close(ours(*inputs).output, theirs(*inputs)[0])


def test_weights_load_inside_of_another_module_and_the_state_given_stays_as_it_was():
    theirs, ours = pair()
    state = {f"0.{name}": x for name, x in theirs.state_dict().items()}
    names = list(state)
    other = nn.Sequential(MultiHeadAttention(E, H).double())
    other.load_state_dict(state)
    assert list(state) == names
    inputs = tokens()
    close(other[0](*inputs).output, ours(*inputs).output)
    other.load_state_dict(nn.Sequential(ours).state_dict())  # and our own form


def test_weights_of_another_size_or_kind_are_refused():
    theirs, _ = pair()
    with pytest.raises(RuntimeError, match=r"size mismatch for W_k\.weight"):
        MultiHeadAttention(E, H, num_kv_heads=1).load_state_dict(theirs.state_dict())
    with_more = nn.MultiheadAttention(E, H, add_bias_kv=True)
    with pytest.raises(RuntimeError, match="bias_k"):
        MultiHeadAttention(E, H).load_state_dict(with_more.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*W_q\.weight"):
        MultiHeadAttention(E, H).load_state_dict({})


def scores() -> dict[str, Any]:
    d = E // H
    return {
        "additive": AdditiveScore(d, d, 5),
        "rotary": RotaryScore(),
        "relative": Biased(DotProductScore(), RelativeBias(3, H)),
        "alibi": Biased(DotProductScore(), lambda i, j: -alibi_slopes(H) * (i - j).abs()),
        "a function": lambda q, k: (q @ k.mT).sin(),
    }


def drawn(attention: MultiHeadAttention) -> MultiHeadAttention:
    torch.manual_seed(1)
    for p in attention.double().parameters():
        nn.init.normal_(p, std=0.5)
    return attention


def head_by_head(
    attention: MultiHeadAttention, inputs: list[Tensor], allowed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The formula, with one loop over the heads and a weight matrix for each."""
    d = E // H
    found, alphas = [], []
    shared = H // attention.num_kv_heads
    all_q, all_k = [], []
    for h in range(H):
        own, theirs = slice(h * d, h * d + d), slice(h // shared * d, h // shared * d + d)
        all_q.append(inputs[0] @ attention.W_q.weight[own].mT + attention.W_q.bias[own])
        all_k.append(inputs[1] @ attention.W_k.weight[theirs].mT + attention.W_k.bias[theirs])
    all_scores = attention.score(torch.stack(all_q, -3), torch.stack(all_k, -3))
    for h in range(H):
        theirs = slice(h // shared * d, h // shared * d + d)
        v = inputs[2] @ attention.W_v.weight[theirs].mT + attention.W_v.bias[theirs]
        a = all_scores[..., h, :, :]
        alpha = (a if allowed is None else a.masked_fill(~allowed, -math.inf)).softmax(dim=-1)
        alphas.append(alpha)
        found.append(alpha @ v)
    return attention.W_o(torch.cat(found, dim=-1)), torch.stack(alphas, dim=-3)


@pytest.mark.parametrize("name", scores())
@pytest.mark.parametrize("kv_heads", [1, H])
@every_size
@with_and_without
def test_any_score_and_shared_keys_give_what_the_heads_give_one_by_one(
    name, kv_heads, size, need_weights
):
    attention = drawn(MultiHeadAttention(E, H, score=scores()[name], num_kv_heads=kv_heads))
    inputs = tokens(size)
    _, n, m = SIZES[size]
    causal = torch.ones(n, m, dtype=torch.bool).tril(m - n)
    expected, alpha = head_by_head(attention, inputs, causal)
    output, weights = attention(*inputs, mask=Mask.causal(), need_weights=need_weights)
    close(output, expected, 1e-10)
    if need_weights:
        close(weights, alpha, 1e-10)
    wanted = [*inputs, *attention.parameters()]
    for one, other in zip(gradients(output, wanted), gradients(expected, wanted), strict=True):
        close(one, other, 1e-8)


def test_shared_keys_are_those_of_pytorchs_grouped_attention():
    attention = drawn(MultiHeadAttention(16, 4, num_kv_heads=2))
    x = normal(2, 6, 16)
    q, k, v = (
        layer(x).unflatten(-1, (-1, 4)).transpose(1, 2)
        for layer in (attention.W_q, attention.W_k, attention.W_v)
    )
    heads = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    close(attention(x, x, x).output, attention.W_o(heads.transpose(1, 2).flatten(-2)))


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
@with_and_without
def test_any_number_of_batch_axes(batch, need_weights):
    attention = drawn(MultiHeadAttention(E, H))
    x = normal(*batch, 4, E)
    lens = torch.arange(1, 1 + math.prod(batch)).reshape(batch)
    output, _ = attention(x, x, x, lens, need_weights=need_weights)
    assert output.shape == x.shape
    for some, length, got in zip(
        x.reshape(-1, 4, E), lens.flatten(), output.reshape(-1, 4, E), strict=True
    ):
        close(got, attention(some, some[:length], some[:length]).output)


# --- what is hidden, dtypes ---


@every_size
@with_and_without
@pytest.mark.parametrize("held", [math.nan, math.inf, 1e300])
def test_padding_has_no_influence_and_no_gradient(size, need_weights, held):
    attention, clean = drawn(MultiHeadAttention(E, H)), tokens(size)
    _, n, m = SIZES[size]
    lens = torch.tensor([m - 2, 0])
    spoilt = [x.detach().clone() for x in clean]
    for x in spoilt[1:]:
        x[0, m - 2 :] = held
        x[1] = held
    spoilt[0][1] = held  # these queries have no key
    spoilt = [x.requires_grad_() for x in spoilt]
    results = []
    for inputs in (clean, spoilt):
        output, weights = attention(*inputs, lens, need_weights=need_weights)
        if weights is not None:
            assert bool((weights[1] == 0).all())
        close(output[1], attention.W_o.bias.expand(n, E))
        results.append([output, *gradients(output, [*inputs, *attention.parameters()])])
    for one, other in zip(*results, strict=True):
        close(one, other)
    d_keys = results[1][2]
    assert bool((d_keys[0, m - 2 :] == 0).all())
    assert bool((d_keys[1] == 0).all())


@every_size
@with_and_without
def test_a_nan_in_the_last_token_does_not_reach_those_before_it(size, need_weights):
    attention = drawn(MultiHeadAttention(E, H))
    x = normal(2, SIZES[size][1], E)
    spoilt = x.clone()
    spoilt[:, -1] = math.nan
    clean, dirty = (
        attention(y, y, y, mask=Mask.causal(), need_weights=need_weights).output[:, :-1]
        for y in (x, spoilt)
    )
    close(dirty, clean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@with_and_without
def test_narrow_dtypes(dtype, need_weights):
    attention = drawn(MultiHeadAttention(E, H))
    inputs = tokens("large", requires_grad=False)
    expected = attention(*inputs).output
    attention.to(dtype)
    output, weights = attention(*(x.to(dtype) for x in inputs), need_weights=need_weights)
    assert output.dtype == dtype
    assert weights is None or weights.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=200 * torch.finfo(dtype).eps)


@with_and_without
def test_autocast_gives_the_dtype_that_pytorchs_module_gives(need_weights):
    theirs, ours = (x.float() for x in pair())
    inputs = tokens(requires_grad=False, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected, _ = theirs(*inputs, need_weights=False)
        output, _ = ours(*inputs, need_weights=need_weights)
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected, rtol=0.1, atol=0.1)


# --- dropout, memory, transforms ---


def test_the_same_seed_drops_the_same_weights():
    attention = MultiHeadAttention(E, H, dropout=0.4).double().train()
    inputs = tokens("large")
    results = []
    for need_weights in (True, False):
        torch.manual_seed(3)
        output, weights = attention(*inputs, need_weights=need_weights)
        results.append(output)
        if weights is not None:
            assert 0.35 < float((weights == 0).double().mean()) < 0.45
    close(results[1], results[0])
    close(attention.eval()(*inputs).output, attention(*inputs, need_weights=False).output)


@pytest.mark.parametrize("name", ["additive", "rotary", "relative"])
def test_without_weights_no_table_of_them_is_held(name):
    attention, n = MultiHeadAttention(E, H, score=scores()[name]), 2048
    x = normal(1, n, E, dtype=torch.float32, requires_grad=True)

    def forward_and_backward() -> None:
        attention(x, x, x, mask=Mask.causal(), need_weights=False).output.sum().backward()

    assert peak_bytes(forward_and_backward) < H * n * n * 4 / 2


@every_size
@with_and_without
def test_transforms_agree_with_plain_calls(size, need_weights):
    attention = drawn(MultiHeadAttention(E, H))
    q, k, v = tokens(size, requires_grad=False)
    lens = torch.tensor([3, SIZES[size][2]])

    def call(q: Tensor) -> Tensor:
        return attention(q, k, v, lens, need_weights=need_weights).output

    close(vmap(call)(torch.stack([q, q + 1]))[1], call(q + 1), 1e-10)
    q_grad = q.clone().requires_grad_()
    (expected,) = torch.autograd.grad(call(q_grad)[0, 0, 0], q_grad)
    close(jacrev(lambda q: call(q)[0, 0, 0])(q), expected, 1e-10)
    lens_each = torch.stack([lens, lens - 1])
    by_lens = vmap(lambda x: attention(q, k, v, x, need_weights=need_weights).output)(lens_each)
    close(by_lens[1], attention(q, k, v, lens - 1).output, 1e-10)
    doubled = {name: 2 * p for name, p in attention.named_parameters()}
    other = copy.deepcopy(attention)
    other.load_state_dict(doubled)
    got = functional_call(attention, doubled, (q, k, v), {"need_weights": need_weights})
    close(got.output, other(q, k, v).output, 1e-10)


def test_an_exported_program_takes_other_sizes():
    attention = MultiHeadAttention(E, H, score=RotaryScore()).eval()
    q, k, v = tokens(requires_grad=False, dtype=torch.float32)
    b, n, m = (torch.export.Dim(name, min=2, max=512) for name in ("b", "n", "m"))
    shapes: dict[str, Any] = {
        "queries": {0: b, 1: n}, "keys": {0: b, 1: m}, "values": {0: b, 1: m},
        "valid_lens": {0: b}, "mask": [[]], "need_weights": None,
    }  # fmt: skip
    lens = torch.tensor([3, 7])
    options = {"valid_lens": lens, "mask": Mask.causal(), "need_weights": False}
    program = torch.export.export(attention, (q, k, v), options, dynamic_shapes=shapes)
    longer = [torch.cat([x, x, x], dim=-2)[[0, 1, 0]] for x in (q, k, v)]
    options["valid_lens"] = torch.tensor([3, 9, 21])
    close(program.module()(*longer, **options)[0], attention(*longer, **options).output, 1e-5)


def test_meta_copies_and_pickles():
    attention = drawn(MultiHeadAttention(E, H, score=RotaryScore(), num_kv_heads=1))
    inputs = tokens()
    expected = attention(*inputs).output
    for other in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))):
        close(other(*inputs).output, expected)
    with torch.device("meta"):
        made = MultiHeadAttention(E, H, score=RotaryScore())
        output, weights = made(*(torch.empty(x.shape) for x in inputs), mask=Mask.causal())
    assert (output.device.type, weights.shape) == ("meta", (2, H, 5, 7))


def test_layers_score_and_dropout_are_called():
    attention = drawn(MultiHeadAttention(E, H, score=RotaryScore()))
    seen = []
    for name in ("W_q", "W_k", "W_v", "W_o", "score"):
        attention.get_submodule(name).register_forward_hook(
            lambda module, *_, name=name: seen.append(name)
        )
    attention(*tokens("large"), need_weights=False)
    assert sorted(seen) == ["W_k", "W_o", "W_q", "W_v", "score"]


def test_one_head_without_layers_is_attention():
    attention = MultiHeadAttention(E, 1, bias=False).double()
    for layer in (attention.W_q, attention.W_k, attention.W_v, attention.W_o):
        nn.init.eye_(layer.weight)
    inputs = tokens()
    plain = Attention(DotProductScore())(*inputs, mask=Mask.causal())
    ours = attention(*inputs, mask=Mask.causal())
    close(ours.output, plain.output)
    close(ours.weights.squeeze(1), plain.weights)


X, LONG = torch.zeros(2, 3, E), torch.zeros(2, 5, E)
WRONG = {
    "heads that do not divide": (
        lambda: MultiHeadAttention(8, 3),
        ValueError, "num_heads must divide embed_dim, 8, into equal parts; got 3",
    ),
    "shared heads that do not divide": (
        lambda: MultiHeadAttention(8, 4, num_kv_heads=3),
        ValueError, "num_kv_heads must divide num_heads, 4; got 3",
    ),
    "no heads": (
        lambda: MultiHeadAttention(8, 0), ValueError, "num_heads must be at least 1; got 0"
    ),
    "a size of text": (
        lambda: MultiHeadAttention(cast(int, "8"), 2),
        TypeError, "embed_dim must be an integer; got '8'"
    ),
    "a size that is no integer": (
        lambda: MultiHeadAttention(8, 2, kdim=cast(int, 1.5)),
        TypeError, "kdim must be an integer; got 1.5"
    ),
    "a class as score": (
        lambda: MultiHeadAttention(8, 2, score=cast(Any, RotaryScore)),
        TypeError, "score must be a function"
    ),
    "dropout above one": (
        lambda: MultiHeadAttention(8, 2, dropout=2), ValueError, "dropout must be a probability"
    ),
    "queries of another width": (
        lambda: MultiHeadAttention(8, 2)(X, X, X),
        ValueError, "queries must have the 8 features that the layer was made for; got 12",
    ),
    "values of another width": (
        lambda: MultiHeadAttention(E, 2, vdim=4)(X, X, X),
        ValueError, "values must have the 4 features that the layer was made for; got 12",
    ),
    "another dtype": (
        lambda: MultiHeadAttention(E, 2)(X.double(), X.double(), X.double()),
        TypeError, "queries must have the dtype of the layer, torch.float32; got torch.float64",
    ),
    "fewer values": (
        lambda: MultiHeadAttention(E, 2)(X, LONG, X),
        ValueError, "values must be as many as the keys, 5; got 3",
    ),
    "lengths of another batch": (
        lambda: MultiHeadAttention(E, 2)(X, X, X, torch.tensor([1, 2, 3])),
        ValueError, r"valid_lens must have shape \(2,\).* or \(2, 3\).*; got \(3,\)",
    ),
    "a length for each head alone": (
        lambda: MultiHeadAttention(E, 2)(X, X, X, torch.ones(2, 2, dtype=torch.long)),
        ValueError, r"valid_lens must have shape \(2,\).* or \(2, 3\).*; got \(2, 2\)",
    ),
    "lengths of too many heads": (
        lambda: MultiHeadAttention(E, 2)(X, X, X, torch.ones(2, 3, 3, dtype=torch.long)),
        ValueError, r"valid_lens must have shape \(2, 2\).*; got \(2, 3, 3\)",
    ),
    "a length beyond the keys": (
        lambda: MultiHeadAttention(E, 2)(X, X, X, torch.tensor([1, 4])),
        ValueError, r"valid_lens must lie in \[0, 3\]",
    ),
    "a mask of another shape": (
        lambda: MultiHeadAttention(E, 2)(X, X, X, mask=torch.ones(3, 3, 3, dtype=torch.bool)),
        ValueError, r"mask must broadcast to .* = \(2, 3, 3\); got \(3, 3, 3\)",
    ),
    "a mask of numbers": (
        lambda: MultiHeadAttention(E, 2)(X, X, X, mask=torch.zeros(3, 3)),
        TypeError, "mask must be a boolean tensor or a Mask",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_call_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
