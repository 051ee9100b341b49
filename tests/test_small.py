"""Small attention in few calls: when it is, when it is not, and that nobody notices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2lattn import (
    AdditiveAttention,
    AdditiveScore,
    Attention,
    BilinearScore,
    DotProductAttention,
    DotProductScore,
    Mask,
)
from d2lattn.engine import attend, small
from tests.helpers import normal

INF, NAN = math.inf, math.nan
LENS = torch.tensor([3, 1])


def tokens(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [normal(2, n, c, seed=n, dtype=dtype) for n, c in ((4, 6), (5, 6), (5, 3))]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that few calls were tried, whether they were the answer."""
    found: list[bool] = []

    def spy(*arguments: Any) -> Any:
        made = small.in_few_calls(*arguments)
        found.append(made is not None)
        return made

    monkeypatch.setattr(attend, "in_few_calls", spy)
    return found


def dot(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / math.sqrt(q.shape[-1])


def plainly(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lens: Tensor | None,
    score: Callable[[Tensor, Tensor], Tensor] = dot,
) -> tuple[Tensor, Tensor]:
    """Each sequence by itself, without a look at what is hidden."""
    outputs, weights = [], []
    for b in range(len(q)):
        n = k.shape[1] if lens is None else int(lens[b])
        found = score(q[b], k[b, :n]).softmax(dim=-1)
        outputs.append(found @ v[b, :n])
        weights.append(nn.functional.pad(found, (0, k.shape[1] - n)))
    return torch.stack(outputs), torch.stack(weights)


def loss(output: Tensor, weights: Tensor) -> Tensor:
    return (output * normal(*output.shape, seed=7)).sum() + weights.square().sum()


def gradients(made: tuple[Tensor, Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(*made), inputs)


@pytest.mark.parametrize(
    "lens",
    [None, LENS, LENS.int(), torch.tensor([5, 0])],
    ids=["all", "lengths", "int32", "an empty one"],
)
@pytest.mark.parametrize("follow", [False, True], ids=["values", "gradients"])
def test_few_calls_are_the_formula(taken: list[bool], follow: bool, lens: Tensor | None) -> None:
    q, k, v = inputs = [x.requires_grad_(follow) for x in tokens()]
    made = DotProductAttention()(q, k, v, lens)
    expected = plainly(q, k, v, lens)
    torch.testing.assert_close(tuple(made), expected)
    if follow:
        torch.testing.assert_close(gradients(made, inputs), gradients(expected, inputs))
    assert taken == [lens is None or 0 not in lens]  # who sees nothing asks for care


@pytest.mark.parametrize("number", [INF, -INF, NAN])
@pytest.mark.parametrize("where", ["keys", "values"])
@pytest.mark.parametrize("follow", [False, True], ids=["values", "gradients"])
def test_what_is_hidden_has_no_influence(where: str, number: float, follow: bool) -> None:
    q, k, v = tokens()
    expected = DotProductAttention()(q, k, v, LENS)
    spoilt = k if where == "keys" else v
    spoilt[1, 1:] = number
    inputs = [x.requires_grad_(follow) for x in (q.abs(), k, v)]
    made = DotProductAttention()(*inputs, LENS)
    if follow:
        of_q, of_k, of_v = gradients(made, inputs)
        assert all(x.isfinite().all() for x in (of_q, of_k, of_v))
        assert (of_k[1, 1:] == 0).all()
        assert (of_v[1, 1:] == 0).all()
    torch.testing.assert_close(made.output[1], expected.output[1])


@pytest.mark.parametrize("spoil", [0, 1, 2], ids=["query", "key", "value"])
def test_what_is_seen_and_not_finite_is_told_as_without_lengths(spoil: int) -> None:
    inputs = tokens()
    inputs[spoil][0, 0, 0] = INF
    attention = DotProductAttention()
    made, whole = attention(*inputs, LENS), attention(*inputs, mask=Mask.lengths(LENS))
    torch.testing.assert_close(tuple(made), tuple(whole), equal_nan=True)


def test_no_gradient_comes_from_a_weight_that_is_hidden() -> None:
    q, k, v = (x.requires_grad_() for x in tokens())
    weights = DotProductAttention()(q, k, v, LENS).weights
    entropy = -(weights * weights.log()).nansum()  # the logarithm of 0 has no gradient to give
    for gradient in torch.autograd.grad(entropy, (q, k)):
        assert gradient.isfinite().all()


def hooked(attention: Any) -> None:
    attention.score.register_forward_hook(lambda *_: None)


def listened_to(attention: Any) -> None:
    attention.dropout.register_forward_hook(lambda *_: None)


def dropping(attention: Any) -> None:
    attention.dropout.p = 0.5


def replaced(attention: Any) -> None:
    attention.score.compare = lambda q, k: 2 * q @ k.mT


def learned(attention: Any) -> None:
    attention.score.scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))


def enormous(attention: Any) -> None:
    attention.score.scale = 1e39  # which float32 cannot hold


def another(attention: Any) -> None:
    class Doubled(DotProductScore):
        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            return 2 * super().compare(q, k)

    attention.score = Doubled()


@pytest.mark.parametrize(
    "change", [hooked, listened_to, dropping, replaced, learned, enormous, another]
)
def test_where_something_was_changed_few_calls_are_not_tried(
    taken: list[bool], change: Callable[[Any], None]
) -> None:
    attention = DotProductAttention()
    attention(*tokens(), LENS)
    change(attention)
    attention(*tokens(), LENS)
    assert taken == [True]


def test_other_tokens_and_scores_are_left_to_others(taken: list[bool]) -> None:
    q, k, v = tokens()
    attention = DotProductAttention()
    attention(q, k, v, LENS[:, None])  # a length per query
    attention(q[0], k[0], v[0])
    attention(*tokens(torch.bfloat16), LENS)
    attention(*(x.to("meta") for x in (q, k, v)))
    Attention(BilinearScore(6, 6).double())(q, k, v, LENS)
    with torch.autocast("cpu"):
        attention(*tokens(torch.float32), LENS)
    torch.func.vmap(lambda q: attention(q, k, v).output)(q[None])
    long = normal(2, small.KEYS_AT_MOST + 1, 6, seed=1, dtype=q.dtype)
    attention(q, long, long, LENS)
    many = normal(2, 300, 6, seed=1, dtype=q.dtype)
    attention(many, many, many, need_weights=False)
    assert taken == []
    attention(many, many, many)
    assert taken == [True]


@pytest.mark.parametrize("lens", [[6, 1], [3, -1]])
def test_a_length_that_cannot_be_meant_is_told(lens: list[int]) -> None:
    with pytest.raises(ValueError, match=r"valid_lens must lie in \[0, 5\]"):
        DotProductAttention()(*tokens(), torch.tensor(lens))


def test_what_is_kept_of_a_length_serves_every_use() -> None:
    """Made where tensors go elsewhere, or are of no use to autograd, it would spoil later calls."""
    small._veils.cache_clear()
    q, k, v = tokens()
    with torch.inference_mode(), torch.device("meta"):
        DotProductAttention()(q, k, v, LENS)
    made = DotProductAttention()(q.requires_grad_(), k.requires_grad_(), v, LENS)
    made.output.sum().backward()
    torch.testing.assert_close(tuple(made), plainly(q, k, v, LENS))


# --- additive scores ---


def additive_tokens(
    dtype: torch.dtype = torch.float64, queries: int = 100, keys: int = 110
) -> list[Tensor]:
    return [normal(3, n, c, seed=c, dtype=dtype) for n, c in ((queries, 6), (keys, 5), (keys, 4))]


def additive(dtype: torch.dtype = torch.float64) -> AdditiveAttention:
    torch.manual_seed(1)
    return AdditiveAttention(5, 6, 8).to(dtype).eval()


def broadcast(
    attention: AdditiveAttention, tokens: list[Tensor], lens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As the formula stands."""
    score: Any = attention.score
    w_q, w_k, w_v = score.W_q.weight, score.W_k.weight, score.w_v.weight
    q, k, v = tokens
    return plainly(
        q, k, v, lens,
        lambda q, k: torch.tanh((q @ w_q.mT)[:, None] + (k @ w_k.mT)[None]) @ w_v[0],
    )  # fmt: skip


ADDITIVE_LENS = torch.tensor([70, 1, 110])


@pytest.mark.parametrize(
    "lens",
    [None, ADDITIVE_LENS, ADDITIVE_LENS.int(), torch.tensor([110, 0, 7])],
    ids=["all", "lengths", "int32", "an empty one"],
)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.no_grad()
def test_additive_scores_in_few_calls_are_the_formula(
    taken: list[bool], dtype: torch.dtype, need_weights: bool, lens: Tensor | None
) -> None:
    attention, tokens = additive(dtype), additive_tokens(dtype)
    before = [x.clone() for x in (*tokens, *attention.parameters())]
    output, weights = attention(*tokens, lens, need_weights=need_weights)
    expected = broadcast(attention, tokens, lens)
    torch.testing.assert_close(output, expected[0])
    assert (weights is not None) == need_weights
    if weights is not None:
        torch.testing.assert_close(weights, expected[1])
    assert taken == [lens is None or 0 not in lens]
    for now, then in zip((*tokens, *attention.parameters()), before, strict=True):
        assert now.equal(then)


@torch.no_grad()
def test_more_additive_scores_than_are_made_at_once_of_others(taken: list[bool]) -> None:
    attention, tokens = additive().requires_grad_(False), additive_tokens(queries=200, keys=200)
    assert attend.SCORES_AT_ONCE < 3 * 200 * 200
    made = attention(*tokens, need_weights=False)
    torch.testing.assert_close(made.output, broadcast(attention, tokens, None)[0])
    q, k, v = additive_tokens(queries=500, keys=500)
    attention(q, k, v, need_weights=False)  # several blocks
    assert taken == [True]
    with torch.enable_grad():  # of the weights nothing may be kept
        attention(tokens[0], tokens[1], tokens[2].requires_grad_(), need_weights=False)
    assert taken == [True]


@pytest.mark.parametrize("number", [INF, -INF, NAN, 1e4])
@pytest.mark.parametrize("where", ["keys", "values"])
@torch.no_grad()
def test_what_additive_attention_hides_has_no_influence(where: str, number: float) -> None:
    attention, (q, k, v) = additive(), additive_tokens()
    expected = broadcast(attention, [q, k, v], ADDITIVE_LENS)
    (k if where == "keys" else v)[0, 70:] = number
    torch.testing.assert_close(tuple(attention(q, k, v, ADDITIVE_LENS)), expected)


@pytest.mark.parametrize("where", [0, 1], ids=["queries", "keys"])
@torch.no_grad()
def test_tokens_that_have_no_exponentials(taken: list[bool], where: int) -> None:
    attention, tokens = additive(), additive_tokens()
    tokens[where][1, 0] *= 1e4
    made = attention(*tokens)
    torch.testing.assert_close(tuple(made), broadcast(attention, tokens, None))
    assert taken == [False]


@pytest.mark.parametrize(
    ("dtype", "size", "few"),
    [
        (torch.float32, 20.0, True),
        (torch.float32, 21.5, True),
        (torch.float32, 22.5, False),
        (torch.float64, 176.0, True),
        (torch.float64, 178.0, False),
    ],
)
@torch.no_grad()
def test_exponentials_as_far_as_their_products_are_normal_numbers(
    taken: list[bool], dtype: torch.dtype, size: float, few: bool
) -> None:
    """Large queries beside large keys of the other sign, whose sums are small."""
    attention, tokens = additive(dtype), additive_tokens(dtype)
    score: Any = attention.score
    for layer, x, sign in ((score.W_q, tokens[0], 1.0), (score.W_k, tokens[1], -1.0)):
        layer.weight.zero_()[:, 0] = 1.0
        x[..., 0] = sign * (size - x[..., 0].abs().clamp(0.0, 2.0))
    output, weights = attention(*tokens)
    assert taken == [few]
    expected = broadcast(attention.double(), [x.double() for x in tokens], None)
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (1e-7, 1e-7)
    torch.testing.assert_close((output.double(), weights.double()), expected, rtol=rtol, atol=atol)


def test_what_additive_attention_returns_in_few_calls_can_be_trained_on(taken: list[bool]) -> None:
    attention, tokens = additive().requires_grad_(False), additive_tokens()
    q, k, v = tokens[0], tokens[1], tokens[2].requires_grad_()
    output, weights = attention(q, k, v)
    assert taken == [True]
    factor = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad((output * factor).sum() + (weights * factor).sum(), (v, factor))
    expected, alphas = broadcast(attention, [q, k, v], None)
    loss = (expected * factor).sum() + (alphas * factor).sum()
    torch.testing.assert_close(found, torch.autograd.grad(loss, (v, factor)))


def hooked_inside(score: Any) -> None:
    score.W_k.register_forward_hook(lambda *_: None)


def with_a_bias(score: Any) -> None:
    score.W_q = nn.Linear(6, 8).double()


def doubled_inside(score: Any) -> None:
    class Twice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    twice = Twice(5, 8, bias=False).double()
    twice.load_state_dict(score.W_k.state_dict())
    score.W_k = twice


def parametrized(score: Any) -> None:
    nn.utils.parametrizations.weight_norm(score.w_v)


def sparse(score: Any) -> None:
    score.W_k.weight = nn.Parameter(score.W_k.weight.detach().to_sparse_csr())


class Negated(Tensor):
    """A weight that computes in its own way, as quantized ones do."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = super().__torch_function__(func, types, args, kwargs or {})
        return -made.as_subclass(Tensor) if func is nn.functional.linear else made


def of_its_own_kind(score: Any) -> None:
    weight = score.W_k.weight.detach().as_subclass(Negated)
    score.W_k.weight = nn.Parameter(weight, requires_grad=False)


def compared_in_another_way(score: Any) -> None:
    score.compare = lambda q, k: -AdditiveScore.compare(score, q, k)


@pytest.mark.parametrize(
    "change",
    [
        hooked_inside, with_a_bias, doubled_inside, parametrized, sparse, of_its_own_kind,
        compared_in_another_way,
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Sparse CSR")
@torch.no_grad()
def test_changed_layers_are_called_as_they_are(
    taken: list[bool], change: Callable[[Any], None]
) -> None:
    attention, tokens = additive(), additive_tokens()
    change(attention.score)
    made = attention(*tokens)
    scores = attention.score(*tokens[:2])
    torch.testing.assert_close(made.weights, scores.softmax(dim=-1))
    assert taken == []


@torch.no_grad()
def test_a_linear_layer_that_was_patched_is_called(
    taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    attention, tokens = additive(), additive_tokens()
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * forward(self, x))
    made = attention(*tokens)
    monkeypatch.undo()
    score = attention.score
    assert isinstance(score, AdditiveScore)
    for layer in (score.W_q, score.W_k, score.w_v):
        layer.weight *= 2
    torch.testing.assert_close(tuple(made), broadcast(attention, tokens, None))
    assert taken == []


def test_other_additive_calls_are_left_to_others(taken: list[bool]) -> None:
    attention, tokens = additive(), additive_tokens()
    score: Any = attention.score
    attention(*tokens)  # gradients of the parameters follow
    with torch.no_grad():
        attention(*additive_tokens(queries=1, keys=20_000))
        attention(*additive_tokens(queries=9, keys=9))
        attention.float()
        with pytest.raises(TypeError, match="queries must have the dtype of the layer"):
            attention(*tokens)
        attention.double()
        with pytest.raises(ValueError, match="queries must have the 6 features"):
            attention(tokens[1], tokens[1], tokens[2])
        for sizes, expected in (((4, 2), "mat1 and mat2"), ((8, 2), "score must return shape")):
            score.w_v = nn.Linear(*sizes, bias=False).double()
            with pytest.raises((RuntimeError, ValueError), match=expected):
                attention(*tokens)
    assert taken == []
