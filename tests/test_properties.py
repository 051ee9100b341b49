"""Random shapes, dtypes, lengths and masks, with the shapes in the signatures checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import beartype
import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from jaxtyping import jaxtyped
from torch import Tensor

from d2lattn import (
    AdditiveScore,
    Attention,
    BilinearScore,
    DotProductAttention,
    DotProductScore,
    GaussianScore,
    KernelScore,
    NadarayaWatson,
    Score,
    additive_score,
    bilinear_score,
    causal_mask,
    dot_product_score,
    gaussian_score,
    length_mask,
    log_kernel,
    masked_softmax,
)
from tests.helpers import (
    DTYPES,
    TOLERANCE,
    close,
    gradients,
    in_float64,
    normal,
    queries_keys_values,
    sdpa,
)

random_cases = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, raising unless arguments and result have the shapes that its signature says.

    Only here: what users see are our own messages, and no checker stands in their way.
    """
    return jaxtyped(typechecker=beartype.beartype)(function)


@dataclass
class Case:
    """Inputs of an attention call; ``allowed`` is what lengths and mask say together."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    valid_lens: Tensor | None
    mask: Tensor | None
    allowed: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.queries, self.keys, self.values

    @property
    def masks(self) -> dict[str, Tensor | None]:
        return {"valid_lens": self.valid_lens, "mask": self.mask}


@st.composite
def cases(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> Case:
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    num_queries, num_keys = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    features, value_features = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    dtype, seed = draw(st.sampled_from(dtypes)), draw(st.integers(0, 1000))
    tokens = queries_keys_values(
        *batch,
        num_queries=num_queries,
        num_keys=num_keys,
        features=features,
        value_features=value_features,
        dtype=dtype,
        requires_grad=True,
        seed=seed,
    )
    shape = (*batch, num_queries, num_keys)
    allowed = torch.ones(shape, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)

    lens = None
    kind = draw(st.sampled_from(["none", "per batch element", "per query"]))
    if kind != "none":
        of = shape[:-1] if kind == "per query" else batch
        lens = torch.randint(0, num_keys + 1, of, generator=generator)
        positions = torch.arange(num_keys)
        allowed = allowed & (positions < lens.reshape(*of, *(1,) * (len(shape) - len(of))))
    mask = None
    if draw(st.booleans()):
        axes = tuple(draw(st.sampled_from([1, size])) for size in shape)
        axes = axes[draw(st.integers(0, len(axes))) :]
        mask = torch.rand(axes, generator=generator) > 0.4
        allowed = allowed & mask
    return Case(*tokens, lens, mask, allowed)


@random_cases
@given(cases())
def test_dot_product_attention_is_sdpa(case: Case) -> None:
    attend = checked(Attention.forward)
    output, weights = attend(DotProductAttention(), *case.inputs, **case.masks)
    wide = in_float64(case.inputs)
    expected = sdpa(*wide, case.allowed)
    assert output.dtype == weights.dtype == case.queries.dtype
    tolerance = 2 * TOLERANCE[output.dtype]  # weights are averages of values up to 4
    close(output, expected, tolerance)
    close(weights.sum(dim=-1), case.allowed.any(dim=-1).double(), 4 * tolerance)
    assert (weights.masked_select(~case.allowed) == 0).all()
    for ours, theirs in zip(
        gradients(output, [*case.inputs]), gradients(expected, [*wide]), strict=True
    ):
        close(ours, theirs, 4 * tolerance)  # products of three rounded numbers


@random_cases
@given(cases())
def test_masked_softmax_is_the_weights_of_sdpa(case: Case) -> None:
    scores = (case.queries @ case.keys.mT).detach().requires_grad_()
    weights = checked(masked_softmax)(scores, case.valid_lens, mask=case.mask)
    # One-hot queries and scores as keys: SDPA's own scores are then exactly these.
    num_queries, num_keys = scores.shape[-2:]
    wide = scores.detach().double().requires_grad_()
    eyes = [torch.eye(n, dtype=torch.float64) for n in (num_queries, num_keys)]
    batch = scores.shape[:-2]
    if num_queries == 0:
        assert weights.shape == scores.shape
        return
    expected = sdpa(
        eyes[0].expand(*batch, *eyes[0].shape),
        wide.mT,
        eyes[1].expand(*batch, *eyes[1].shape),
        case.allowed,
        scale=1.0,
    )
    close(weights, expected)
    ours, theirs = gradients(weights, [scores]), gradients(expected, [wide])
    close(ours[0], theirs[0], 2 * TOLERANCE[scores.dtype])
    assert (ours[0].masked_select(~case.allowed) == 0).all()


def score_of(name: str, features: int, dtype: torch.dtype) -> Score:
    torch.manual_seed(0)
    return {
        "additive": lambda: AdditiveScore(features, features, 3),
        "bilinear": lambda: BilinearScore(features, features),
        "dot product": DotProductScore,
        "gaussian": lambda: GaussianScore(0.7),
        "gaussian, learned": lambda: GaussianScore([1.0] * features, learnable=True),
        "epanechnikov": lambda: KernelScore("epanechnikov", 3.0),
    }[name]().to(dtype)


every_score = st.sampled_from(
    ["additive", "bilinear", "dot product", "gaussian", "gaussian, learned", "epanechnikov"]
)


@random_cases
@given(cases(), every_score)
def test_signatures_hold_for_every_score_and_project_and_compare_are_the_call(
    case: Case, name: str
) -> None:
    score = score_of(name, case.queries.shape[-1], case.queries.dtype)
    scores = checked(type(score).forward)(score, case.queries, case.keys)
    q, k = checked(type(score).project)(score, case.queries, case.keys)
    apart = checked(type(score).compare)(score, q, k)
    assert scores.dtype == case.queries.dtype
    finite = scores.isfinite() & apart.isfinite()
    # In half precision the halves round what the call keeps in float32.
    close(apart[finite].to(scores.dtype), scores[finite], 8 * TOLERANCE[scores.dtype])


@random_cases
@given(cases([torch.float64]), every_score)
def test_without_weights_everything_is_the_same(case: Case, name: str) -> None:
    attention = Attention(score_of(name, case.queries.shape[-1], torch.float64))
    attend = checked(Attention.forward)
    output = attend(attention, *case.inputs, **case.masks, need_weights=False).output
    expected = attend(attention, *case.inputs, **case.masks).output
    wanted = [*case.inputs, *attention.parameters()]
    close(output, expected)
    if not output.requires_grad:
        return
    for ours, theirs in zip(gradients(output, wanted), gradients(expected, wanted), strict=True):
        close(ours, theirs)


@random_cases
@given(cases(), every_score, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_takes_no_part_has_no_influence_and_no_gradient(
    case: Case, name: str, held: float
) -> None:
    attention = Attention(score_of(name, case.queries.shape[-1], case.queries.dtype))
    busy = case.allowed.any(dim=-1).unsqueeze(-1)
    used = case.allowed.any(dim=-2).unsqueeze(-1)
    if case.valid_lens is None and case.mask is None:
        busy, used = torch.ones_like(busy), torch.ones_like(used)  # nothing is padding
    dirty = [
        x.detach().masked_fill(~part, held).requires_grad_()
        for x, part in zip(case.inputs, (busy, used, used), strict=True)
    ]
    output, weights = attention(*dirty, **case.masks)
    expected = attention(*case.inputs, **case.masks)
    assert torch.equal(output, expected.output)
    assert torch.equal(weights, expected.weights)
    wanted = [*dirty, *attention.parameters()]
    for gradient in (found := gradients(output, wanted)):
        assert gradient.isfinite().all()
    for gradient, part in zip(found, (busy, used, used), strict=False):
        assert (gradient.masked_select(~part) == 0).all()


@random_cases
@given(cases())
def test_signatures_of_the_functions_hold(case: Case) -> None:
    queries, keys, _ = case.inputs
    features, dtype = queries.shape[-1], queries.dtype
    checked(dot_product_score)(queries, keys)
    checked(gaussian_score)(queries, keys, 0.5)
    checked(gaussian_score)(queries, keys, [0.5] * features)
    checked(additive_score)(queries, keys, torch.ones(features, dtype=dtype))
    checked(bilinear_score)(queries, keys, torch.ones(features, features, dtype=dtype))
    checked(log_kernel)(queries, "epanechnikov")


@random_cases
@given(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 7), st.integers(0, 5))
def test_masks_have_the_shapes_and_the_counts_that_they_should(
    shape: list[int], num_keys: int, num_queries: int
) -> None:
    lens = torch.randint(0, num_keys + 1, shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(checked(length_mask)(lens, num_keys).sum(dim=-1), lens)
    mask = checked(causal_mask)(num_queries, num_keys)
    seen = [max(0, num_keys - behind) for behind in range(num_queries)][::-1]
    assert mask.sum(dim=-1).tolist() == seen


@random_cases
@given(
    st.integers(2, 8),
    st.one_of(st.none(), st.integers(1, 3)),
    st.one_of(st.none(), st.integers(1, 3)),
    st.sampled_from(["gaussian", "boxcar", "triangular", "epanechnikov"]),
    st.sampled_from(DTYPES),
    st.floats(1e-3, 1e3),
)
def test_kernel_regression_averages_measurements_whatever_their_shape(
    n: int, features: int | None, outputs: int | None, kernel: str, dtype: torch.dtype, h: float
) -> None:
    x = normal(n, *([] if features is None else [features]), dtype=dtype)
    y = normal(n, *([] if outputs is None else [outputs]), seed=1, dtype=dtype)
    model = NadarayaWatson(h, kernel)
    checked(NadarayaWatson.fit)(model, x, y)
    query = 3 * x[: n // 2]
    prediction = checked(NadarayaWatson.predict)(model, query)
    weights = checked(NadarayaWatson.weights)(model, query)
    residuals = checked(NadarayaWatson.loo_residuals)(model)
    assert prediction.dtype == weights.dtype == residuals.dtype == dtype
    assert all(result.isfinite().all() for result in (prediction, weights, residuals))
    close(prediction, weights.double() @ y.double(), 4 * TOLERANCE[dtype])
    total = weights.double().sum(dim=-1)
    near = (total - 1).abs() < 4 * TOLERANCE[dtype]
    assert (near | ((total == 0) & (kernel != "gaussian"))).all()
