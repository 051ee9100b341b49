"""Order in scores: turned queries and keys, slopes and learned distances."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from d2lattn import (
    Attention,
    Biased,
    DotProductScore,
    Mask,
    RelativeBias,
    RotaryScore,
    alibi_slopes,
)
from d2lattn.blocks import Block
from d2lattn.engine import fused
from tests.helpers import DTYPES, close, gradients, normal, peak_bytes

# Press, Smith and Lewis give the slopes of 8 and of 16 heads in section 3; their code gives those
# of 12: the eight of 8 heads, then every other one of 16.
OF_8 = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
PUBLISHED = {
    8: OF_8,
    16: [2 ** (-0.5 * h) for h in range(1, 17)],
    12: [*OF_8, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5],
    6: [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8],
    1: [1 / 256],
}


@pytest.mark.parametrize("heads", PUBLISHED)
def test_the_slopes_are_the_published_ones(heads):
    slopes = alibi_slopes(heads)
    assert slopes.shape == (heads, 1, 1)
    torch.testing.assert_close(slopes.flatten(), torch.tensor(PUBLISHED[heads]))


def test_each_head_is_biased_by_its_own_slope():
    q, k = torch.zeros(2, 4, 3, 8), torch.zeros(2, 4, 5, 8)
    slopes = alibi_slopes(4)
    scores = Biased(DotProductScore(), lambda i, j: -slopes * (i - j).abs())(q, k)
    for head, slope in enumerate([1 / 4, 1 / 16, 1 / 64, 1 / 256]):
        for i in range(3):
            assert scores[1, head, i].tolist() == [-slope * abs(i + 2 - j) for j in range(5)]


def slopes(heads: int) -> Any:
    each = alibi_slopes(heads).double()
    return lambda i, j: -each * (i - j).abs()


def learned(heads: int) -> Any:
    bias = RelativeBias(3, heads).double()
    nn.init.normal_(bias.weight)
    return bias


@pytest.mark.parametrize("bias", [slopes, learned])
@pytest.mark.parametrize("mask", [None, Mask.causal()], ids=["all", "causal"])
@pytest.mark.parametrize(
    ("heads", "size"), [(3, 6), (3, 300), (2, 400)], ids=["few", "several in a block", "one"]
)
def test_each_head_has_its_own_where_blocks_hold_some_heads(heads, size, mask, bias):
    torch.manual_seed(0)
    of_heads = bias(heads)
    score = Biased(DotProductScore(), of_heads)
    inputs = [normal(2, heads, size, 4, seed=i, requires_grad=True) for i in range(3)]
    i, j = torch.arange(size)[:, None], torch.arange(size)[None]
    q, k, v = inputs
    scores = q @ k.mT / 2 + of_heads(i, j)
    expected = (scores if mask is None else scores.masked_fill(j > i, -math.inf)).softmax(-1) @ v
    found = Attention(score)(*inputs, mask=mask, need_weights=False).output
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs))
    with torch.no_grad():
        found = Attention(score)(*inputs, mask=mask, need_weights=False).output
    torch.testing.assert_close(found, expected)


def by_complex_numbers(x: Tensor, first: int = 0, base: float = 10000.0) -> Tensor:
    """Pairs of features as complex numbers, times e^(i p theta): Su et al., equation 12."""
    d = x.shape[-1]
    numbers = torch.view_as_complex(x.double().clone().unflatten(-1, (-1, 2)))
    for m in range(d // 2):
        theta = base ** (-2 * m / d)
        for p in range(x.shape[-2]):
            turn = complex(math.cos((p + first) * theta), math.sin((p + first) * theta))
            numbers[..., p, m] *= turn
    return torch.view_as_real(numbers).flatten(-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("base", "scale"), [(10000.0, None), (100.0, 1.0)])
def test_a_rotary_score_is_a_dot_product_of_complex_rotations(dtype, base, scale):
    q, k = normal(2, 3, 6, dtype=dtype), normal(2, 5, 6, seed=1, dtype=dtype)
    expected = by_complex_numbers(q, 2, base) @ by_complex_numbers(k, 0, base).mT
    score = RotaryScore(base, scale)
    got = score(q, k)
    assert got.dtype == dtype
    close(got, expected * (1 / math.sqrt(6) if scale is None else scale), None)


def test_a_rotary_score_depends_on_the_distance_only():
    q, k = normal(1, 8).expand(9, 8), normal(1, 8, seed=1).expand(9, 8)
    scores = RotaryScore()(q, k)
    for distance in range(-8, 9):
        diagonal = scores.diagonal(distance)
        close(diagonal, diagonal[:1].expand(diagonal.shape))
    assert len(scores.round(decimals=6).unique()) == 17  # and on every one, with its sign


def test_turning_keeps_lengths_and_starts_from_the_token_itself():
    q, k = RotaryScore().project(normal(7, 6), normal(7, 6, seed=1))
    close(q.norm(dim=-1), normal(7, 6).norm(dim=-1))
    close(k[0], normal(7, 6, seed=1)[0])


def test_far_positions_are_turned_as_exactly_as_near_ones():
    """Angles in float32 would be off by 0.005 at position 100 000."""
    q, k = normal(1, 4, dtype=torch.float32), normal(100_000, 4, seed=1, dtype=torch.float32)
    q_turned, _ = RotaryScore().project(q, k)
    close(q_turned, by_complex_numbers(q, 99_999), 1e-6)


def test_a_rotary_score_runs_on_the_fused_kernel(monkeypatch):
    calls = []

    def noted(*given: Any) -> Any:
        calls.append(given)
        return fused.fused(*given)

    monkeypatch.setattr("d2lattn.engine.attend.fused", noted)
    x = normal(1, 600, 8, dtype=torch.float32)
    options = {"mask": Mask.causal()}
    streamed = Attention(RotaryScore())(x, x, x, **options, need_weights=False).output
    assert len(calls) == 1
    close(streamed, Attention(RotaryScore())(x, x, x, **options).output, 1e-5)


@pytest.mark.parametrize("score", [
    lambda: RotaryScore(),
    lambda: Biased(DotProductScore(), RelativeBias(4)),
    lambda: Biased(RotaryScore(), RelativeBias(4)),
], ids=["rotary", "relative", "both"])  # fmt: skip
def test_long_sequences_are_never_held_as_a_table(score):
    attention, n = Attention(score()), 4096
    x = normal(1, n, 8, dtype=torch.float32, requires_grad=True)

    def forward_and_backward() -> None:
        attention(x, x, x, mask=Mask.causal(), need_weights=False).output.sum().backward()

    assert peak_bytes(forward_and_backward) < n * n * 4 / 2


@pytest.mark.parametrize("heads", [None, 3])
def test_a_learned_distance_is_looked_up_and_clipped(heads):
    bias = RelativeBias(2, heads).double()
    assert bias.weight.eq(0).all()
    torch.nn.init.normal_(bias.weight)
    q, k = normal(2, 3, 4, 5), normal(2, 3, 6, 5, seed=1)
    scores = Biased(DotProductScore(), bias)(q, k) - DotProductScore()(q, k)
    for head in range(3):
        table = (bias.weight if heads is None else bias.weight[head]).tolist()
        for i in range(4):
            for j in range(6):
                far = min(max(j - (i + 2), -2), 2)
                assert scores[1, head, i, j].item() == pytest.approx(table[far + 2])


def test_each_learned_distance_gets_the_gradient_of_its_pairs():
    bias = RelativeBias(1).double()
    x = normal(4, 2)
    Biased(DotProductScore(), bias)(x, x).sum().backward()
    assert bias.weight.grad is not None
    assert bias.weight.grad.tolist() == [6.0, 4.0, 6.0]


def test_what_is_hidden_and_not_finite_leaves_positions_as_they_are():
    """Scores that are made again for some of the queries are made where these stand."""
    table = normal(5, 7)
    q, k, v = normal(5, 4), normal(7, 4, seed=1), normal(7, 2, seed=2)
    k_spoilt = k.clone()
    k_spoilt[-1] = math.nan
    for bias in (table, lambda i, j: table[i - 2, j], lambda i, j: (i * j).sin()):
        attention = Attention(Biased(DotProductScore(), bias))
        clean, spoilt = (attention(q, x, v, mask=Mask.causal()).output[:-1] for x in (k, k_spoilt))
        close(spoilt, clean)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: alibi_slopes(0), ValueError, "num_heads must be at least 1; got 0"),
    (lambda: alibi_slopes(cast(int, 2.0)), TypeError, "num_heads must be an integer; got 2.0"),
    (lambda: RelativeBias(0), ValueError, "reach must be at least 1; got 0"),
    (lambda: RelativeBias(2, True), TypeError, "num_heads must be an integer; got True"),
    (lambda: RotaryScore(0.0), ValueError, "base must be positive; got 0.0"),
    (lambda: RotaryScore(math.inf), ValueError, "base must be finite; got inf"),
    (lambda: RotaryScore(cast(float, "10")), TypeError, "base must be a number; got '10'"),
    (lambda: RotaryScore(scale=math.nan), ValueError, "scale must be finite; got nan"),
    (lambda: RotaryScore()(torch.zeros(2, 3), torch.zeros(2, 3)), ValueError,
     "even number of features, which are turned in pairs; got 3"),
    (lambda: RotaryScore()(torch.zeros(2, 4), torch.zeros(2, 2)), ValueError,
     "keys must have as many features as the queries, 4; got 2"),
])  # fmt: skip
def test_a_wrong_call_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_pieces_that_are_placed_are_pieces_of_the_whole():
    """As the processes of a ring have them."""
    q, k = normal(7, 4), normal(9, 4, seed=1)
    whole = RotaryScore()(q, k)
    for rows in (slice(0, 3), slice(3, 7)):
        for columns in (slice(0, 4), slice(4, 9)):
            score = RotaryScore().placed(Block((7, 9), (), rows, columns))
            close(score(q[rows], k[columns]), whole[rows, columns])
