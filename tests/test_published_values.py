"""Numbers that others have published, each with its source."""

import math

import pytest
import torch

from d2lattn import (
    AdditiveAttention,
    Attention,
    DotProductAttention,
    GaussianScore,
    NadarayaWatson,
    causal_mask,
    dot_product_score,
    log_kernel,
    masked_softmax,
)
from tests.helpers import close

# Dive into Deep Learning, section "Attention Scoring Functions" (d2l.ai and zh.d2l.ai):
# queries of shape (2, 1, 20) or (2, 1, 2) from a normal distribution, keys of ones.
D2L_KEYS = torch.ones(2, 10, 2)
D2L_VALUES = torch.arange(40, dtype=torch.float32).reshape(1, 10, 4).repeat(2, 1, 1)
D2L_LENGTHS = torch.tensor([2, 6])
D2L_OUTPUT = torch.tensor([[[2.0, 3.0, 4.0, 5.0]], [[10.0, 11.0, 12.0, 13.0]]])
D2L_WEIGHTS = torch.tensor([[[1 / 2] * 2 + [0.0] * 8], [[1 / 6] * 6 + [0.0] * 4]])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("need_weights", [True, False])
def test_additive_attention_gives_d2l_s_output_and_weights(seed, need_weights):
    """Zhang et al., section "Additive Attention": key_size=2, query_size=20, num_hiddens=8."""
    torch.manual_seed(seed)
    queries = torch.normal(0, 1, (2, 1, 20))
    attention = AdditiveAttention(key_size=2, query_size=20, num_hiddens=8, dropout=0.1).eval()
    output, weights = attention(
        queries, D2L_KEYS, D2L_VALUES, D2L_LENGTHS, need_weights=need_weights
    )
    close(output, D2L_OUTPUT)
    if weights is not None:
        close(weights, D2L_WEIGHTS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("need_weights", [True, False])
def test_scaled_dot_product_attention_gives_d2l_s_output_and_weights(seed, need_weights):
    """Zhang et al., section "Scaled Dot-Product Attention": queries of shape (2, 1, 2)."""
    torch.manual_seed(seed)
    queries = torch.normal(0, 1, (2, 1, 2))
    attention = DotProductAttention(dropout=0.5).eval()
    output, weights = attention(
        queries, D2L_KEYS, D2L_VALUES, D2L_LENGTHS, need_weights=need_weights
    )
    close(output, D2L_OUTPUT)
    if weights is not None:
        close(weights, D2L_WEIGHTS)


def test_masked_softmax_has_d2l_s_zeros_for_a_length_per_batch_element():
    """Zhang et al., "Masked Softmax Operation": masked_softmax(rand(2, 2, 4), [2, 3])."""
    weights = masked_softmax(torch.rand(2, 2, 4), torch.tensor([2, 3]))
    assert weights.shape == (2, 2, 4)
    assert (weights > 0).int().tolist() == [[[1, 1, 0, 0]] * 2, [[1, 1, 1, 0]] * 2]
    close(weights.sum(dim=-1), torch.ones(2, 2))


def test_masked_softmax_has_d2l_s_zeros_for_a_length_per_query():
    """Zhang et al., "Masked Softmax Operation": masked_softmax(rand(2, 2, 4), [[1, 3], [2, 4]])."""
    weights = masked_softmax(torch.rand(2, 2, 4), torch.tensor([[1, 3], [2, 4]]))
    assert (weights > 0).int().tolist() == [
        [[1, 0, 0, 0], [1, 1, 1, 0]],
        [[1, 1, 0, 0], [1, 1, 1, 1]],
    ]
    assert weights[0, 0, 0] == 1.0  # D2L prints 1.0000, 0.0000, 0.0000, 0.0000


def test_d2l_s_kernel_regression_is_attention_with_minus_half_the_squared_distance():
    """Zhang et al., "Attention Pooling": softmax(−(x − x_i)²/2) and, with a width,
    softmax(−((x − x_i) w)²/2)."""
    x = torch.linspace(0, 5, 50, dtype=torch.float64)
    y, grid = 2 * x.sin() + x**0.8, torch.arange(0, 5, 0.1, dtype=torch.float64)
    for w in (1.0, 3.0):
        d2l = torch.softmax(-(((grid[:, None] - x) * w) ** 2) / 2, dim=1) @ y
        close(NadarayaWatson(1 / w).fit(x, y).predict(grid), d2l)
        columns = grid[:, None], x[:, None], y[:, None]
        close(Attention(GaussianScore(1 / w))(*columns).output[:, 0], d2l)


def test_queries_and_keys_of_variance_one_have_dot_products_of_variance_d():
    """Vaswani et al., "Attention Is All You Need" (2017), footnote 4 of section 3.2.1."""
    torch.manual_seed(0)
    q, k = torch.randn(20_000, 1, 512), torch.randn(20_000, 1, 512)
    products = dot_product_score(q, k, scale=1.0).flatten()
    # The variance of 20 000 independent products is known to sqrt(2 / 20 000) = 1 %.
    assert products.var().item() == pytest.approx(512, rel=0.05)
    assert products.mean().item() == pytest.approx(0, abs=5 * math.sqrt(512 / 20_000))


def test_the_upper_left_causal_mask_of_pytorch_s_documentation():
    """torch.nn.functional.scaled_dot_product_attention: ones(L, S).tril(diagonal=0), L = S."""
    assert torch.equal(causal_mask(4, 4), torch.ones(4, 4, dtype=torch.bool).tril(diagonal=0))


@pytest.mark.parametrize(
    ("kernel", "height", "variance", "roughness"),
    [
        # Wand and Jones, "Kernel Smoothing" (1995), table 2.1 and appendix B; also Silverman,
        # "Density Estimation" (1986), table 3.1: K(0), ∫ u² K(u) du and ∫ K(u)² du.
        ("gaussian", 1 / math.sqrt(2 * math.pi), 1, 1 / (2 * math.sqrt(math.pi))),
        ("boxcar", 1 / 2, 1 / 3, 1 / 2),
        ("triangular", 1, 1 / 6, 2 / 3),
        ("epanechnikov", 3 / 4, 1 / 5, 3 / 5),
    ],
)
def test_kernels_have_the_tabulated_height_variance_and_roughness(
    kernel, height, variance, roughness
):
    u = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    density = log_kernel(u, kernel).exp()
    assert density[100_000].item() == pytest.approx(height)
    # A jump at the edge (boxcar) costs up to one step of 1e-4.
    assert torch.trapezoid(u**2 * density, u).item() == pytest.approx(variance, abs=2e-4)
    assert torch.trapezoid(density**2, u).item() == pytest.approx(roughness, abs=2e-4)


def test_the_softmax_of_1_2_3():
    """PyTorch forums and countless lecture notes: 0.0900, 0.2447, 0.6652."""
    weights = masked_softmax(torch.tensor([[1.0, 2.0, 3.0]]))
    assert weights[0].tolist() == pytest.approx([0.09003057, 0.24472847, 0.66524096], abs=1e-7)
