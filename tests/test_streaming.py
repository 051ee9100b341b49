"""Streaming against the plain formula, which has oracles of its own; merging against one pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import d2lattn.engine.attend
from d2lattn import (
    AdditiveScore,
    Attention,
    Biased,
    DotProductAttention,
    DotProductScore,
    causal_mask,
    dot_product_score,
    merge_attention,
    stream_attention,
)
from tests.helpers import (
    DTYPES,
    SCORES,
    TOLERANCE,
    close,
    gradients,
    in_float64,
    normal,
    peak_bytes,
    stream_in_blocks,
)
from tests.helpers import queries_keys_values as inputs_of

every_score = pytest.mark.parametrize("name", SCORES)


def plain(
    score: Callable[[Tensor, Tensor], Tensor],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lens: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and logsumexp with all scores at once."""
    output = Attention(score)(queries, keys, values, lens, mask=mask).output
    scores = score(queries, keys)
    if lens is not None:
        lens = lens if lens.ndim == queries.ndim - 1 else lens.unsqueeze(-1)
        hidden = torch.arange(keys.shape[-2]) >= lens.unsqueeze(-1)
        scores = scores.masked_fill(hidden, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    empty = (scores == -math.inf).all(dim=-1)  # there PyTorch's logsumexp has no gradient
    logsumexp = scores.masked_fill(empty.unsqueeze(-1), 0.0).logsumexp(dim=-1)
    return output, logsumexp.masked_fill(empty, -math.inf)


@st.composite
def problems(draw):
    """Shapes, tiles that do not divide them, and every kind of restriction."""
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    num_queries, num_keys = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    elements = draw(st.integers(1, 200))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["all", "per batch", "per query", "mask", "causal", "both"]))
    lens = mask = None
    if kind in ("per batch", "per query", "both"):
        shape = batch if kind == "per batch" else (*batch, num_queries)
        lens = torch.randint(num_keys + 1, shape, generator=generator)
    if kind in ("mask", "both"):
        mask = torch.rand(*batch, num_queries, num_keys, generator=generator) > 0.4
    if kind == "causal":
        mask = causal_mask(num_queries, num_keys)
    return batch, num_queries, num_keys, elements, lens, mask


@every_score
@settings(deadline=None, max_examples=12, derandomize=True)
@given(problem=problems())
def test_streaming_gives_the_values_and_gradients_of_the_plain_formula(name, problem):
    batch, num_queries, num_keys, elements, lens, mask = problem
    torch.manual_seed(0)
    score = SCORES[name]().double()
    inputs = inputs_of(*batch, num_queries=num_queries, num_keys=num_keys, requires_grad=True)
    wanted = [*inputs, *score.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        stream_in_blocks(patch, elements)
        streamed = stream_attention(score, *inputs, lens, mask=mask)
        output, logsumexp = plain(score, *inputs, lens, mask)
        close(streamed.output, output)
        assert torch.equal(streamed.logsumexp == -math.inf, logsumexp == -math.inf)
        seen = logsumexp > -math.inf
        close(streamed.logsumexp[seen], logsumexp[seen])
        # Through the output and through the logsumexp, where there is one.
        weights = torch.randn(output.shape, dtype=output.dtype)
        ours = (streamed.output * weights).sum() + streamed.logsumexp[seen].sin().sum()
        theirs = (output * weights).sum() + logsumexp[seen].sin().sum()
        for mine, plainly in zip(gradients(ours, wanted), gradients(theirs, wanted), strict=True):
            close(mine, plainly)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_streams_to_its_own_dtype_and_the_float64_result(dtype, every_tile):
    inputs = inputs_of(2, num_queries=9, num_keys=11, dtype=dtype)
    lens = torch.tensor([0, 7])
    streamed = stream_attention(DotProductScore(), *inputs, lens)
    expected = plain(DotProductScore(), *in_float64(inputs), lens)
    assert streamed.output.dtype == dtype
    assert streamed.logsumexp.dtype == torch.promote_types(dtype, torch.float32)
    close(streamed.output, expected[0])
    assert (streamed.logsumexp[0] == -math.inf).all()
    close(streamed.logsumexp[1], expected[1][1], tolerance=max(2e-6, TOLERANCE[dtype] / 1000))


@pytest.fixture(params=[1, 60, 2**18], ids=str)
def every_tile(request, monkeypatch):
    """Tiles of one pair, of a few, and of all."""
    stream_in_blocks(monkeypatch, request.param)


@every_score
def test_nan_in_the_padding_changes_no_output_and_no_gradient(name, every_tile):
    score = SCORES[name]().double()
    lens = torch.tensor([3, 0])
    clean = inputs_of(2, num_queries=4, num_keys=6, requires_grad=True)
    spoilt = in_float64(clean)
    with torch.no_grad():
        spoilt[0][1] = math.nan  # queries without keys
        for tokens in spoilt[1:]:
            tokens[0, 3:] = math.nan
            tokens[1] = math.inf
    expected = stream_attention(score, *clean, lens).output
    streamed = stream_attention(score, *spoilt, lens).output
    close(streamed, expected)
    wanted = [*score.parameters()]
    for ours, theirs in zip(
        gradients(streamed, [*spoilt, *wanted]),
        gradients(expected, [*clean, *wanted]),
        strict=True,
    ):
        close(ours, theirs)


@every_score
def test_gradcheck_of_output_and_logsumexp(name, every_tile):
    torch.manual_seed(0)
    score = SCORES[name]().double()
    inputs = inputs_of(num_queries=3, num_keys=5, requires_grad=True)

    def streamed(q: Tensor, k: Tensor, v: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        output, logsumexp = stream_attention(score, q, k, v, torch.tensor([5, 2, 4]))
        return output, logsumexp

    near = [(x.detach() * KEYS_IN_REACH).requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(streamed, (*near, *score.parameters()), fast_mode=True)


KEYS_IN_REACH = 0.5  # so that no key crosses the end of the triangular kernel


def test_a_function_of_the_users_streams_with_gradients_for_what_it_closes_over(every_tile):
    factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    inputs = inputs_of(2, num_queries=5, num_keys=6, requires_grad=True)

    def score(queries: Tensor, keys: Tensor) -> Tensor:
        return factor * dot_product_score(queries, keys)

    lens, mask = torch.tensor([6, 0]), causal_mask(5, 6)
    streamed = stream_attention(score, *inputs, lens, mask=mask)
    output, logsumexp = plain(score, *inputs, lens, mask)
    close(streamed.output, output)
    assert (streamed.logsumexp[1] == -math.inf).all()
    close(streamed.logsumexp[0], logsumexp[0])
    wanted = [*inputs, factor]
    for ours, theirs in zip(
        gradients(streamed.output, wanted), gradients(output, wanted), strict=True
    ):
        close(ours, theirs)


class Doubled(DotProductScore):
    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return 2 * super().compare(q, k)


class Squashed(AdditiveScore):
    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return super().compare(q, k).sin()


@pytest.mark.parametrize("score", [Doubled(), Squashed(4, 4, 6).double()], ids=repr)
def test_a_subclass_with_another_comparison_does_not_stream_by_its_parents_shortcuts(score):
    inputs = inputs_of(2, requires_grad=True)
    wanted = [*inputs, *score.parameters()]
    output, streamed = plain(score, *inputs)[0], stream_attention(score, *inputs).output
    close(streamed, output)
    for ours, theirs in zip(gradients(streamed, wanted), gradients(output, wanted), strict=True):
        close(ours, theirs)


# --- dropout ---


@every_score
def test_dropout_is_the_same_when_tiles_are_made_again_for_the_gradient(name, every_tile):
    score = SCORES[name]().double()
    queries, keys, _ = inputs_of(1, num_queries=6, num_keys=10)
    values = torch.eye(10, dtype=torch.float64).unsqueeze(0).requires_grad_()
    weights = stream_attention(score, queries, keys, values, dropout=0.5).output
    assert 0 < (weights == 0).sum() < 60  # values are the identity: the output is the weights
    direction = torch.randn_like(weights)
    torch.rand(100)  # the generator moves on before the gradient is asked for
    (of_values,) = torch.autograd.grad((weights * direction).sum(), [values])
    close(of_values, weights.mT @ direction)


def test_dropout_scales_what_it_keeps_and_leaves_the_logsumexp_alone():
    queries, keys, _ = inputs_of(num_queries=40, num_keys=50)
    values = torch.eye(50, dtype=torch.float64)
    whole = stream_attention(DotProductScore(), queries, keys, values)
    dropped = stream_attention(DotProductScore(), queries, keys, values, dropout=0.25)
    kept = dropped.output != 0
    close(dropped.output[kept], whole.output[kept] / 0.75)
    assert abs(float(kept.double().mean()) - 0.75) < 0.05  # 2000 weights: five standard errors
    close(dropped.logsumexp, whole.logsumexp)
    everything = stream_attention(DotProductScore(), queries, keys, values, dropout=1.0)
    assert (everything.output == 0).all()


@every_score
def test_the_gradient_with_dropout_is_that_of_the_dropped_weights(name, every_tile):
    torch.manual_seed(0)
    score = SCORES[name]().double()
    inputs = inputs_of(num_queries=4, num_keys=6, requires_grad=True)
    near = [(x.detach() * KEYS_IN_REACH).requires_grad_() for x in inputs]

    def seeded(q: Tensor, k: Tensor, v: Tensor, *parameters: Tensor) -> Tensor:
        torch.manual_seed(5)
        return stream_attention(score, q, k, v, dropout=0.4).output

    assert torch.autograd.gradcheck(seeded, (*near, *score.parameters()), fast_mode=True)


# --- memory ---


@pytest.mark.parametrize(
    ("score", "restricted"),
    [
        (DotProductScore(), "nothing"),
        (DotProductScore(), "per batch"),
        (DotProductScore(), "per query"),
        (AdditiveScore(16, 16, 4), "per batch"),
        (AdditiveScore(16, 16, 4), "per query"),
        (Squashed(16, 16, 4), "per batch"),
        (Biased(DotProductScore(), lambda i, j: -0.1 * (i - j).abs()), "nothing"),
    ],
)
@pytest.mark.parametrize("used", [["output"], ["logsumexp"], ["output", "logsumexp"]])
def test_no_tensor_of_queries_x_keys_is_held_forward_or_backward(score, restricted, used):
    n = 2048
    inputs = inputs_of(
        1, num_queries=n, num_keys=n, features=16, dtype=torch.float32, requires_grad=True
    )
    lens = {
        "nothing": None,
        "per batch": torch.tensor([n - 3]),
        "per query": torch.arange(n).unsqueeze(0),
    }[restricted]

    def step() -> None:
        result = stream_attention(score, *inputs, lens)
        found = [getattr(result, name).flatten() for name in used]
        torch.cat([x[x.isfinite()] for x in found]).sum().backward()

    # All scores would be 16 MB in float32, and the backward pass would hold several such tensors.
    assert peak_bytes(step) < 4 * n * n * 3 / 4


def test_a_value_that_is_not_finite_spoils_no_gradient_of_the_logsumexp():
    score = Squashed(4, 4, 3).double()
    queries, keys, values = inputs_of(
        1, num_queries=300, num_keys=300, features=4, requires_grad=True
    )
    infinite = values.detach().clone()
    infinite[0, 5] = math.inf
    found = stream_attention(score, queries, keys, infinite).logsumexp
    expected = score(queries, keys).logsumexp(dim=-1)
    for ours, theirs in zip(
        gradients(found, [queries, keys]), gradients(expected, [queries, keys]), strict=True
    ):
        close(ours, theirs)


# --- merging ---


def split(score: nn.Module, inputs: tuple[Tensor, ...], bounds: list[int]) -> list:
    queries, keys, values = inputs
    return [
        stream_attention(score, queries, keys[..., a:b, :], values[..., a:b, :])
        for a, b in pairwise(bounds)
    ]


def test_merging_shards_of_the_keys_gives_attention_over_all_of_them():
    score = AdditiveScore(4, 4, 6).double()
    inputs = inputs_of(2, num_queries=3, num_keys=10, requires_grad=True)
    whole = stream_attention(score, *inputs)
    merged = merge_attention(split(score, inputs, [0, 1, 1, 6, 10]))  # one shard is empty
    close(merged.output, whole.output)
    close(merged.logsumexp, whole.logsumexp)
    for ours, theirs in zip(
        gradients(merged.output, [*inputs]), gradients(whole.output, [*inputs]), strict=True
    ):
        close(ours, theirs)


def test_merging_is_associative_and_does_not_mind_the_order():
    parts = split(DotProductScore(), inputs_of(2, num_queries=3, num_keys=9), [0, 2, 5, 9])
    at_once = merge_attention(parts)
    for nested in (
        merge_attention([merge_attention(parts[:2]), parts[2]]),
        merge_attention([parts[0], merge_attention(parts[1:])]),
        merge_attention(parts[::-1]),
    ):
        close(nested.output, at_once.output)
        close(nested.logsumexp, at_once.logsumexp)


def test_merging_what_saw_no_keys_gives_zero_and_no_nan():
    nothing = torch.zeros(2, 3), torch.full((2,), -math.inf, requires_grad=True)
    something = torch.ones(2, 3), torch.zeros(2, requires_grad=True)
    empty = merge_attention([nothing, nothing])
    assert (empty.output == 0).all()
    assert (empty.logsumexp == -math.inf).all()
    merged = merge_attention([nothing, something, nothing])
    assert torch.equal(merged.output, something[0])
    assert torch.equal(merged.logsumexp, something[1])
    (slope,) = torch.autograd.grad(empty.output.sum(), [nothing[1]])
    assert (slope == 0).all()


def test_merging_parts_of_very_different_scores_does_not_overflow():
    low = torch.zeros(1, 1), torch.tensor([-1e30])
    high = torch.ones(1, 1), torch.tensor([1e30])
    merged = merge_attention([low, high])
    assert merged.output.item() == 1.0
    assert merged.logsumexp.item() == pytest.approx(1e30)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([], ValueError, "parts must hold at least one"),
        ([(torch.zeros(2, 3), torch.zeros(3))], ValueError, r"one shape.*index 0"),
        (
            [(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(1, 3), torch.zeros(1))],
            ValueError,
            r"one shape, \(\(2, 3\), \(2,\)\).*index 1",
        ),
        ([(torch.zeros(2, 3).long(), torch.zeros(2))], TypeError, r"output of parts\[0\].*int64"),
        ([(torch.zeros(2, 3), 0.0)], TypeError, r"logsumexp of parts\[0\].*float"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, error, message):
    with pytest.raises(error, match=message):
        merge_attention(parts)


@pytest.mark.parametrize("dropout", [-0.1, 1.5, math.nan])
def test_a_dropout_that_is_no_probability_is_refused(dropout):
    with pytest.raises(ValueError, match=r"dropout must be a probability in \[0, 1\]; got"):
        stream_attention(DotProductScore(), *inputs_of(), dropout=dropout)


def test_a_score_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"score must return shape .* = \(3, 5\); got \(5, 3\)"):
        stream_attention(lambda q, k: k @ q.mT, *inputs_of())


def test_attention_without_weights_streams_what_is_large(monkeypatch):
    monkeypatch.setattr(d2lattn.engine.attend, "SCORES_AT_ONCE", 10)
    inputs = inputs_of(2, num_queries=8, num_keys=8)
    attention = DotProductAttention()
    close(attention(*inputs, need_weights=False).output, attention(*inputs).output)


@pytest.mark.parametrize("attention", [DotProductAttention(), Attention(AdditiveScore(4, 4, 3))])
def test_transforms_of_large_attention_give_what_small_attention_gives(attention, monkeypatch):
    monkeypatch.setattr(d2lattn.engine.attend, "SCORES_AT_ONCE", 10)
    tokens, lens = normal(2, 6, 4, dtype=torch.float32), torch.tensor([2, 6])

    def attend(tokens: Tensor, lens: Tensor, need_weights: bool = False) -> Tensor:
        return attention(tokens, tokens, tokens, lens, need_weights=need_weights).output

    expected = attend(tokens, lens, need_weights=True)
    close(torch.vmap(attend)(tokens, lens), expected)
    close(torch.compile(attend, backend="eager", fullgraph=True)(tokens, lens), expected)
    slopes = [
        torch.func.grad(lambda x, lens, need: attend(x, lens, need).sum())(tokens, lens, need)
        for need in (True, False)
    ]
    close(slopes[0], slopes[1], tolerance=1e-5)  # sums in another order, in float32


def test_what_a_part_without_keys_holds_does_not_count():
    output, logsumexp = normal(2, 3, 4), normal(2, 3, seed=1)
    nothing = torch.full_like(output, math.nan), torch.full_like(logsumexp, -math.inf)
    merged = merge_attention([(output, logsumexp), nothing])
    close(merged.output, output)
    close(merged.logsumexp, logsumexp)


def test_logarithms_in_half_precision_are_added_in_single():
    part = torch.ones(1, 1, dtype=torch.float16), torch.tensor([9.0], dtype=torch.float16)
    both = merge_attention([part, part])
    assert both.logsumexp.item() == pytest.approx(9 + math.log(2))
    assert merge_attention([both, part]).logsumexp.item() == pytest.approx(9 + math.log(3))
