"""Additive attention, against D2L's class, a concatenation network and finite differences."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2lattn import (
    AdditiveAttention,
    AdditiveScore,
    Attention,
    additive_pairs,
    additive_score,
    stream_attention,
)
from tests.helpers import (
    DTYPES,
    TOLERANCE,
    D2LAdditiveAttention,
    close,
    gradients,
    normal,
    queries_keys_values,
)


def score_3_to_5(dtype: torch.dtype = torch.float64) -> AdditiveScore:
    """For queries of 3 features and keys of 5."""
    torch.manual_seed(0)
    return AdditiveScore(key_size=5, query_size=3, num_hiddens=7).to(dtype)


def tokens_3_and_5(*batch: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return normal(*batch, 2, 3, dtype=dtype), normal(*batch, 4, 5, seed=1, dtype=dtype)


def test_a_score_by_hand():
    """tanh(atanh a + atanh b) = (a + b) / (1 + a b): numbers that fit on a napkin."""
    q = torch.tensor([[0.5, 0.0]], dtype=torch.float64).atanh()
    k = torch.tensor([[0.5, 0.25], [-0.5, 0.0]], dtype=torch.float64).atanh()
    w_v = torch.tensor([1.0, 4.0], dtype=torch.float64)
    close(additive_score(q, k, w_v), torch.tensor([[0.8 + 1.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_it_is_a_network_with_one_hidden_layer_on_query_and_key_together(batch):
    score, (queries, keys) = score_3_to_5(), tokens_3_and_5(*batch)
    network = nn.Sequential(
        nn.Linear(3 + 5, 7, bias=False), nn.Tanh(), nn.Linear(7, 1, bias=False)
    ).double()
    weight = torch.cat([score.W_q.weight, score.W_k.weight], dim=1)  # the block matrix
    network.load_state_dict({"0.weight": weight, "2.weight": score.w_v.weight})
    pairs = torch.cat(
        [
            queries.unsqueeze(-2).expand(*batch, 2, 4, 3),
            keys.unsqueeze(-3).expand(*batch, 2, 4, 5),
        ],
        dim=-1,
    )
    close(score(queries, keys), network(pairs).squeeze(-1))


def test_weights_trained_with_d2l_s_class_can_be_copied_in():
    torch.manual_seed(1)
    theirs = D2LAdditiveAttention(key_size=5, query_size=3, num_hiddens=7).double()
    ours = AdditiveAttention(key_size=5, query_size=3, num_hiddens=7).double()
    assert isinstance(ours.score, AdditiveScore)
    ours.score.load_state_dict(theirs.state_dict())
    queries, keys = tokens_3_and_5(2)
    queries.requires_grad_()
    keys.requires_grad_()
    values = normal(2, 4, 6, seed=2, requires_grad=True)
    output, expected = ours(queries, keys, values).output, theirs(queries, keys, values)
    close(output, expected)
    inputs = [queries, keys, values]
    for mine, other in zip(gradients(output, inputs), gradients(expected, inputs), strict=True):
        close(mine, other)


def test_its_layers_are_linear_without_bias_and_have_d2l_s_names_and_shapes():
    shapes = {name: tuple(p.shape) for name, p in score_3_to_5().named_parameters()}
    assert shapes == {"W_k.weight": (7, 5), "W_q.weight": (7, 3), "w_v.weight": (1, 7)}


def test_project_then_compare_is_the_call():
    score, (queries, keys) = score_3_to_5(), tokens_3_and_5(2)
    q, k = score.project(queries, keys)
    close(q, queries @ score.W_q.weight.mT)
    close(k, keys @ score.W_k.weight.mT)
    close(score.compare(q, k), score(queries, keys))
    close(additive_score(q, k, score.w_v.weight[0]), score(queries, keys))


def test_gradients_of_the_score_are_finite_differences_for_inputs_and_weights():
    queries, keys, w_v = normal(2, 3), normal(3, 3, seed=1), normal(3, seed=2)
    inputs = [x.requires_grad_() for x in (queries, keys, w_v)]
    assert torch.autograd.gradcheck(additive_score, inputs)

    score, (queries, keys) = score_3_to_5(), tokens_3_and_5()

    def scores(W_k: Tensor, W_q: Tensor, w_v: Tensor) -> Tensor:  # noqa: N803
        weights = {"W_k.weight": W_k, "W_q.weight": W_q, "w_v.weight": w_v}
        return torch.func.functional_call(score, weights, (queries, keys))

    assert torch.autograd.gradcheck(scores, tuple(score.parameters()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_gives_its_own_dtype_and_the_float64_result(dtype):
    score, (queries, keys) = score_3_to_5(dtype), tokens_3_and_5(2, dtype=dtype)
    scores = score(queries, keys)
    assert scores.dtype == dtype
    exact = score_3_to_5(dtype).double()(queries.double(), keys.double())
    close(scores, exact, 2 * TOLERANCE[dtype])  # the projections are rounded too
    w_v = score.w_v.weight[0]
    hidden = normal(2, 7, dtype=dtype), normal(4, 7, seed=1, dtype=dtype)
    close(additive_score(*hidden, w_v), additive_score(*(x.double() for x in (*hidden, w_v))))


def test_large_inputs_saturate_and_stay_finite():
    scores = additive_score(torch.full((1, 2), 1e30), torch.full((1, 2), 1e30), torch.ones(2))
    assert scores.tolist() == [[2.0]]


def test_additive_attention_is_attention_with_an_additive_score_and_nothing_more():
    torch.manual_seed(0)
    attention = AdditiveAttention(5, 3, 7, 0.25)  # D2L's order: keys first
    assert isinstance(attention, Attention)
    assert isinstance(attention.score, AdditiveScore)
    assert attention.score.W_k.in_features == 5
    assert attention.score.W_q.in_features == 3
    assert attention.dropout.p == 0.25
    inputs = (*tokens_3_and_5(2, dtype=torch.float32), normal(2, 4, 6, dtype=torch.float32))
    torch.manual_seed(1)
    output = attention(*inputs).output
    torch.manual_seed(1)
    assert torch.equal(output, Attention(attention.score, 0.25)(*inputs).output)


def test_vmap_maps_over_the_score():
    queries, keys, w_v = normal(4, 2, 3), normal(4, 5, 3, seed=1), normal(3, seed=2)
    mapped = torch.func.vmap(additive_score, in_dims=(0, 0, None))(queries, keys, w_v)
    close(mapped, additive_score(queries, keys, w_v))


def test_it_compiles_into_one_graph():
    torch._dynamo.reset()
    inputs = normal(2, 3), normal(5, 3, seed=1), normal(3, seed=2)
    compiled = torch.compile(additive_score, fullgraph=True, backend="eager")
    close(compiled(*inputs), additive_score(*inputs))


def test_without_bias_the_score_is_odd_turning_both_tokens_around_turns_its_sign():
    """So nearness, which has no sign, needs a constant feature among the inputs."""
    score, (queries, keys) = score_3_to_5(), tokens_3_and_5(2)
    close(score(-queries, -keys), -score(queries, keys))


def test_it_learns_a_relevance_that_no_dot_product_of_the_raw_vectors_expresses():
    """The relevant key is the nearest; a product q·k is largest at one of the two ends."""
    torch.manual_seed(0)
    score = AdditiveScore(key_size=1, query_size=2, num_hiddens=16)
    positions, keys = (
        torch.linspace(-1, 1, 32).view(1, 32, 1),
        torch.linspace(-1, 1, 5).view(1, 5, 1),
    )
    queries = torch.cat([positions, torch.ones_like(positions)], dim=-1)
    nearest = (positions - keys.mT).abs().argmin(dim=-1)
    optimizer = torch.optim.Adam(score.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(score(queries, keys)[0], nearest[0])
        loss.backward()
        optimizer.step()
    right = (score(queries, keys).argmax(dim=-1) == nearest).float().mean()
    assert right >= 0.9
    assert set((positions @ keys.mT).argmax(dim=-1).flatten().tolist()) == {0, 4}


def test_inputs_stay_as_they_were():
    queries, keys, _ = queries_keys_values(2)
    before = queries.clone(), keys.clone()
    additive_score(queries, keys, torch.ones(4, dtype=torch.float64))
    assert torch.equal(queries, before[0])
    assert torch.equal(keys, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 18.0, 43.0, 60.0, 1e4])
def test_large_features_stream_without_overflow(size, dtype):
    """e^(2 * 43) is a float32, but only at 18 are products of two; e^(2 * 60) is none."""
    torch.manual_seed(0)
    score = AdditiveScore(key_size=6, query_size=6, num_hiddens=6).to(dtype)
    with torch.no_grad():  # the features are the tokens
        score.W_q.weight.copy_(torch.eye(6))
        score.W_k.weight.copy_(torch.eye(6))
    signs = torch.tensor([1.0, -1.0], dtype=dtype)
    queries = size * signs[torch.arange(30).view(5, 6) % 2] + normal(5, 6, dtype=dtype)
    keys = size * signs[torch.arange(42).view(7, 6) // 2 % 2] + normal(7, 6, seed=1, dtype=dtype)
    inputs = [x.requires_grad_() for x in (queries, keys, normal(7, 2, seed=2, dtype=dtype))]
    wanted = [*inputs, *score.parameters()]
    output = Attention(score)(*inputs).output
    streamed = stream_attention(score, *inputs).output
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    close(streamed, output, tolerance)
    for ours, theirs in zip(gradients(streamed, wanted), gradients(output, wanted), strict=True):
        close(ours, theirs, tolerance * size)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("size", [20.0, 40.0, 43.5])
def test_weights_and_gradients_are_factors_of_exponentials(size, sign):
    """e^(2 * 43.5) is a float32, 16 times as much is not."""
    q = torch.full((1, 2, 1), -size * sign, dtype=torch.float32)
    k = sign * torch.tensor([[[size - 0.5], [size - 3], [0.0]]], dtype=torch.float32)
    inputs = [x.requires_grad_() for x in (q, k, torch.tensor([8.0], dtype=torch.float32))]
    exactly = [x.detach().double().requires_grad_() for x in inputs]
    ours = additive_score(*inputs)
    theirs = additive_pairs.compare_by_broadcasting(*exactly)
    close(ours, theirs.float(), 1e-5)
    d_scores = torch.full_like(ours, 2**16)  # as losses are scaled
    found = torch.autograd.grad(ours, inputs, d_scores)
    expected = torch.autograd.grad(theirs, exactly, d_scores.double())
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other.float(), rtol=1e-4, atol=0.1)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("size", [6, 300])
def test_layers_of_other_widths_broadcast_or_are_told_at_every_size(size, need_weights):
    attention: Any = AdditiveAttention(key_size=3, query_size=3, num_hiddens=8).double()
    tokens = [normal(2, size, 3, seed=i) for i in range(3)]
    score = attention.score
    score.W_k = torch.nn.Linear(3, 1, bias=False).double()
    features = torch.tanh(score.W_q(tokens[0]).unsqueeze(2) + score.W_k(tokens[1]).unsqueeze(1))
    expected = score.w_v(features).squeeze(-1).softmax(dim=-1) @ tokens[2]
    close(attention(*tokens, need_weights=need_weights).output, expected)
    with torch.no_grad():
        close(attention(*tokens, need_weights=need_weights).output, expected)
    score.W_k = torch.nn.Linear(3, 9, bias=False).double()
    with pytest.raises(RuntimeError, match="must match the size"):
        attention(*tokens, need_weights=need_weights)
    score.W_k.weight = torch.nn.Parameter(normal(8, 5))  # for tokens that have more features
    keys = normal(2, size, 5, seed=5)
    found = attention(tokens[0], keys, tokens[2], need_weights=need_weights).output
    features = torch.tanh(score.W_q(tokens[0]).unsqueeze(2) + score.W_k(keys).unsqueeze(1))
    close(found, score.w_v(features).squeeze(-1).softmax(dim=-1) @ tokens[2])


@pytest.mark.parametrize("size", [1.0, 18.0, 43.0, 60.0, 1e4])
@pytest.mark.parametrize("worth_a_call", [0, 2**15], ids=["a feature at a time", "together"])
@pytest.mark.parametrize("elements", [1, 40, 150, 2**20])
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)
def test_pairs_are_the_formula_however_they_are_cut(
    monkeypatch, batch, elements, worth_a_call, size
):
    monkeypatch.setattr(additive_pairs, "ELEMENTS_OF_THE_BUFFER", elements)
    monkeypatch.setattr(additive_pairs, "WORTH_A_CALL", worth_a_call)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float32)
    q = size * signs[torch.arange(30).view(5, 6) % 2] + normal(*batch, 5, 6, dtype=torch.float32)
    k = size * signs[torch.arange(42).view(7, 6) % 2] + normal(*batch, 7, 6, dtype=torch.float32)
    inputs = [x.requires_grad_() for x in (q, -k, normal(6, seed=2, dtype=torch.float32))]
    exactly = [x.detach().double().requires_grad_() for x in inputs]
    ours = additive_pairs.compare_additively(*inputs)
    theirs = additive_pairs.compare_by_broadcasting(*exactly)
    close(ours, theirs.float(), 1e-5)
    d_scores = normal(*ours.shape, seed=3, dtype=torch.float32).mT.contiguous().mT
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, d_scores),
        torch.autograd.grad(theirs, exactly, d_scores.double()),
        strict=True,
    ):
        close(mine, other.float(), 1e-5 * size)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_nothing_of_pairs_and_features_is_kept(monkeypatch, size):
    monkeypatch.setattr(additive_pairs, "ELEMENTS_OF_THE_BUFFER", 500)
    q, k, w_v = (normal(*shape, seed=len(shape)) * size for shape in ((9, 5), (11, 5), (5,)))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()), lambda x: x):
        additive_pairs.compare_additively(q.requires_grad_(), k, w_v)
    assert max(kept) <= 11 * 5


def test_a_gradient_takes_whole_features_for_each_thread(monkeypatch):
    """With all pairs at once there would be room for one, and threads would share its rows."""
    monkeypatch.setattr(additive_pairs, "ELEMENTS_OF_THE_BUFFER", 60)
    q, k = normal(1, 6, 4), normal(1, 10, 4)
    assert additive_pairs.Sums(q, k).features == 1
    assert additive_pairs.Sums(q, k, together=3).features == 3
