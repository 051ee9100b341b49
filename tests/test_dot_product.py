"""Dot product and bilinear scores, against SDPA, einsum, nn.Bilinear and closed forms."""

import math

import pytest
import torch
from torch import Tensor, nn

from d2lattn import (
    Attention,
    BilinearScore,
    DotProductAttention,
    DotProductScore,
    bilinear_score,
    dot_product_score,
    gaussian_score,
)
from tests.helpers import DTYPES, TOLERANCE, close, gradients, normal, queries_keys_values, sdpa


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3, -2, 0.0])
def test_it_is_the_scaled_inner_product_of_every_pair(batch, scale):
    queries, keys, _ = queries_keys_values(*batch)
    factor = 1 / math.sqrt(4) if scale is None else scale
    expected = factor * torch.einsum("...qd,...kd->...qk", queries, keys)
    close(dot_product_score(queries, keys, scale), expected)
    close(DotProductScore(scale)(queries, keys), expected)


@pytest.mark.parametrize("features", [1, 2, 7, 64])
def test_by_default_the_product_is_divided_by_the_root_of_the_number_of_features(features):
    ones = torch.ones(1, features, dtype=torch.float64)
    close(
        dot_product_score(ones, ones), torch.full((1, 1), math.sqrt(features), dtype=torch.float64)
    )


@pytest.mark.parametrize("scale", [None, 1.0, 0.1])
def test_attention_has_the_values_and_gradients_of_sdpa_with_that_scale(scale):
    inputs = queries_keys_values(2, requires_grad=True)
    output, expected = DotProductAttention(scale=scale)(*inputs).output, sdpa(*inputs, scale=scale)
    close(output, expected)
    for ours, theirs in zip(
        gradients(output, [*inputs]), gradients(expected, [*inputs]), strict=True
    ):
        close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_as_near_to_sdpa_in_each_dtype_as_that_dtype_allows(dtype):
    inputs = queries_keys_values(2, 2, dtype=dtype)
    close(DotProductAttention()(*inputs).output, sdpa(*inputs), 2 * TOLERANCE[dtype])


def test_the_variance_of_a_dot_product_is_the_number_of_features_and_the_scale_makes_it_one():
    # 400 x 400 dependent products: the variance is known to about 1 %.
    for features in (4, 64, 256):
        q, k = normal(400, features), normal(400, features, seed=1)
        assert dot_product_score(q, k, 1.0).var().item() == pytest.approx(features, rel=0.1)
        assert dot_product_score(q, k).var().item() == pytest.approx(1.0, rel=0.1)


def test_the_gradient_of_the_output_in_the_query_is_the_covariance_of_keys_with_values():
    """For softmax(s q·k): d f / d q = s Σ_j α_j (v_j − f) (k_j − k̄)ᵀ, k̄ = Σ_j α_j k_j."""
    query, keys, values = queries_keys_values(num_queries=1)
    attention, scale = DotProductAttention(scale=0.7), 0.7
    jacobian = torch.autograd.functional.jacobian(
        lambda query: attention(query, keys, values).output[0], query
    )[:, 0]
    output, weights = attention(query, keys, values)
    centred_values, centred_keys = values - output, keys - weights @ keys
    covariance = (weights.mT * centred_values).mT @ centred_keys
    close(jacobian, scale * covariance)


def test_the_gradient_of_the_weights_is_the_softmax_jacobian_and_vanishes_when_it_saturates():
    scores = normal(1, 5, requires_grad=True)

    def weights(factor: float) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(
            lambda s: Attention(lambda q, k: s)(
                torch.ones(1, 1).double(), torch.ones(5, 1).double(), torch.eye(5).double()
            ).output[0],
            factor * scores,
        )
        return jacobian[:, 0]

    alpha = scores.detach()[0].softmax(dim=-1)
    close(weights(1.0), alpha.diag() - torch.outer(alpha, alpha))
    assert weights(100.0).abs().max() < 1e-6 < weights(1.0).abs().max()


def test_a_gaussian_is_a_dot_product_in_disguise():
    """−½‖q − k‖² = [q, 1]·[k, −½‖k‖²] − ½‖q‖², and softmax ignores what all keys share."""
    queries, keys, values = queries_keys_values(2, requires_grad=True)
    one = torch.ones(2, 3, 1, dtype=torch.float64)
    augmented_queries = torch.cat([queries, one], dim=-1)
    augmented_keys = torch.cat([keys, -keys.square().sum(dim=-1, keepdim=True) / 2], dim=-1)
    gaussian = Attention(gaussian_score)(queries, keys, values)
    disguised = DotProductAttention(scale=1.0)(augmented_queries, augmented_keys, values)
    close(disguised.output, gaussian.output)
    close(disguised.weights, gaussian.weights)
    inputs = [queries, keys, values]
    for ours, theirs in zip(
        gradients(disguised.output, inputs), gradients(gaussian.output, inputs), strict=True
    ):
        close(ours, theirs)


def test_for_keys_of_equal_length_gaussian_and_dot_product_weights_are_the_same():
    queries, keys, values = queries_keys_values(2)
    keys = 1.5 * keys / keys.norm(dim=-1, keepdim=True)
    close(
        Attention(gaussian_score)(queries, keys, values).weights,
        DotProductAttention(scale=1.0)(queries, keys, values).weights,
    )


# --- bilinear ---


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_a_bilinear_score_is_a_sum_over_every_pair_of_features(batch):
    queries, keys = normal(*batch, 2, 3), normal(*batch, 4, 5, seed=1)
    weight = normal(5, 3, seed=2)
    expected = torch.einsum("...kj,ji,...qi->...qk", keys, weight, queries)
    close(bilinear_score(queries, keys, weight), expected)
    score = BilinearScore(key_size=5, query_size=3).double()
    score.load_state_dict({"W.weight": weight})
    close(score(queries, keys), expected)


def test_a_bilinear_score_is_pytorch_s_bilinear_layer_on_every_pair():
    queries, keys = normal(2, 3), normal(4, 5, seed=1)
    layer = nn.Bilinear(5, 3, 1, bias=False).double()
    pairs = keys.expand(2, 4, 5).reshape(8, 5), queries.repeat_interleave(4, dim=0)
    expected = layer(*pairs).view(2, 4)
    close(bilinear_score(queries, keys, layer.weight[0]), expected)


def test_a_bilinear_score_with_the_identity_is_the_plain_dot_product():
    queries, keys, _ = queries_keys_values(2)
    identity = torch.eye(4, dtype=torch.float64)
    close(bilinear_score(queries, keys, identity), dot_product_score(queries, keys, scale=1.0))


def test_a_scale_multiplies_every_bilinear_score_and_keeps_a_fresh_one_at_one_size():
    queries, keys, values = queries_keys_values(2)
    plain, scaled = BilinearScore(4, 4).double(), BilinearScore(4, 4, scale=-0.5).double()
    scaled.load_state_dict(plain.state_dict())  # a factor, no parameter
    close(scaled(queries, keys), -0.5 * plain(queries, keys))
    expected = torch.softmax(-0.5 * plain(queries, keys), dim=-1) @ values
    close(Attention(scaled)(queries, keys, values, need_weights=False).output, expected)

    torch.manual_seed(0)
    for width in (64, 1024):
        fresh = BilinearScore(width, width, scale=width**-0.5)
        scores = fresh(torch.randn(1000, width), torch.randn(100, width)).detach()
        assert abs(scores.var().item() - 1 / 3) < 0.03  # W is uniform, of variance 1 / (3 d)


def test_project_then_compare_is_the_call():
    queries, keys = normal(2, 3), normal(4, 5, seed=1)
    score = BilinearScore(key_size=5, query_size=3, scale=0.3).double()
    q, k = score.project(queries, keys)
    close(q, 0.3 * queries @ score.W.weight.mT)
    assert torch.equal(k, keys)
    close(score.compare(q, k), score(queries, keys))

    queries, keys, _ = queries_keys_values(2)
    for dot_product in (DotProductScore(), DotProductScore(scale=3.0)):
        q, k = dot_product.project(queries, keys)
        assert torch.equal(q, queries)
        assert torch.equal(k, keys)
        close(dot_product.compare(q, k), dot_product(queries, keys))


def test_gradients_are_finite_differences():
    queries, keys = normal(2, 3, requires_grad=True), normal(4, 3, seed=1, requires_grad=True)
    assert torch.autograd.gradcheck(dot_product_score, (queries, keys))
    weight = normal(3, 3, seed=2, requires_grad=True)
    assert torch.autograd.gradcheck(bilinear_score, (queries, keys, weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_gives_its_own_dtype_and_the_float64_result(dtype):
    queries, keys, _ = queries_keys_values(2, dtype=dtype)
    weight = normal(4, 4, seed=3, dtype=dtype)
    exact = queries.double(), keys.double(), weight.double()
    for scores, expected in (
        (dot_product_score(queries, keys), dot_product_score(exact[0], exact[1])),
        (bilinear_score(queries, keys, weight), bilinear_score(*exact)),
    ):
        assert scores.dtype == dtype
        close(scores, expected)


def test_dot_product_attention_is_attention_with_a_dot_product_and_nothing_more():
    attention = DotProductAttention(0.25, 2.0)
    assert isinstance(attention, Attention)
    assert isinstance(attention.score, DotProductScore)
    assert attention.score.scale == 2.0
    assert attention.dropout.p == 0.25
    assert not list(attention.parameters())
    assert "1/sqrt(d)" in repr(DotProductScore())


def test_vmap_maps_over_the_scores():
    queries, keys, weight = normal(4, 2, 3), normal(4, 5, 3, seed=1), normal(3, 3, seed=2)
    close(torch.func.vmap(dot_product_score)(queries, keys), dot_product_score(queries, keys))
    mapped = torch.func.vmap(bilinear_score, in_dims=(0, 0, None))(queries, keys, weight)
    close(mapped, bilinear_score(queries, keys, weight))


def test_they_compile_into_one_graph():
    torch._dynamo.reset()
    queries, keys, weight = normal(2, 3), normal(4, 3, seed=1), normal(3, 3, seed=2)

    def both(queries: Tensor, keys: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return dot_product_score(queries, keys), bilinear_score(queries, keys, weight)

    compiled = torch.compile(both, fullgraph=True, backend="eager")(queries, keys, weight)
    for ours, expected in zip(compiled, both(queries, keys, weight), strict=True):
        close(ours, expected)
