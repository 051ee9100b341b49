"""The one formula, with every score: against SDPA, loops by hand, and itself on other paths."""

import copy
import functools
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from d2lattn import (
    AdditiveAttention,
    Attention,
    DotProductAttention,
    DotProductScore,
    Score,
    causal_mask,
    dot_product_score,
    gaussian_score,
    length_mask,
    masked_softmax,
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
    queries_keys_values,
    sdpa,
    softmax_by_hand,
    stream_in_blocks,
)

every_score = pytest.mark.parametrize("make_score", SCORES.values(), ids=SCORES.keys())

# What may be attended to, of 2 x 3 queries and 5 keys: arguments of `Attention`.
RESTRICTIONS: dict[str, dict[str, Tensor]] = {
    "everything": {},
    "a length per batch element": {"valid_lens": torch.tensor([2, 5])},
    "a length per query": {"valid_lens": torch.tensor([[1, 0, 5], [2, 2, 4]])},
    "an empty batch element": {"valid_lens": torch.tensor([0, 3])},
    "a causal mask": {"mask": causal_mask(3, 5)},
    "a mask of keys": {"mask": torch.tensor([True, False, True, True, False])},
    "a mask of queries": {"mask": torch.tensor([[True], [False], [True]])},
    "a mask per batch element": {"mask": (normal(2, 1, 5, seed=5) > 0)},
    "one answer for all": {"mask": torch.tensor(False)},
    "lengths and a mask": {"valid_lens": torch.tensor([4, 2]), "mask": causal_mask(3, 5)},
    "lengths and masks per query": {
        "valid_lens": torch.tensor([[1, 0, 5], [2, 2, 4]]),
        "mask": normal(2, 3, 5, seed=6) > -0.5,
    },
}
every_restriction = pytest.mark.parametrize(
    "restriction", RESTRICTIONS.values(), ids=RESTRICTIONS.keys()
)


def seeded(make_score: Callable[[], Score], dtype: torch.dtype = torch.float64) -> Score:
    torch.manual_seed(0)
    return make_score().to(dtype)


def parameters_of(module: nn.Module) -> list[Tensor]:
    return list(module.parameters())


def allowed_by(restriction: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """The restriction as one full mask, built in another way than the package does."""
    allowed = torch.ones(shape, dtype=torch.bool)
    lens = restriction.get("valid_lens")
    if lens is not None:
        for index in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
            length = lens[tuple(index[: lens.ndim])]
            allowed[tuple(index)] &= index[-1] < int(length)
    return allowed & restriction.get("mask", torch.tensor(True))


def test_it_is_the_formula_written_as_loops():
    queries, keys, values = queries_keys_values(num_queries=3, num_keys=4)
    output, weights = Attention(lambda q, k: q @ k.mT)(queries, keys, values)
    assert weights is not None
    for i, query in enumerate(queries.tolist()):
        scores = [sum(a * b for a, b in zip(query, key, strict=True)) for key in keys.tolist()]
        alpha = softmax_by_hand(scores)
        assert weights[i].tolist() == pytest.approx(alpha)
        for c in range(values.shape[1]):
            average = sum(a * v for a, v in zip(alpha, values[:, c].tolist(), strict=True))
            assert output[i, c].item() == pytest.approx(average)


@every_restriction
@pytest.mark.parametrize("need_weights", [True, False])
def test_dot_product_attention_has_the_values_and_gradients_of_sdpa(restriction, need_weights):
    inputs = queries_keys_values(2, requires_grad=True)
    mask = allowed_by(restriction, (2, 3, 5))
    output, weights = DotProductAttention()(*inputs, **restriction, need_weights=need_weights)
    expected = sdpa(*inputs, mask)
    close(output, expected)
    if weights is not None:
        close(weights, sdpa(*inputs[:2], torch.eye(5, dtype=torch.float64).expand(2, 5, 5), mask))
    for ours, theirs in zip(
        gradients(output, [*inputs]), gradients(expected, [*inputs]), strict=True
    ):
        close(ours, theirs)


@every_score
@every_restriction
def test_a_score_is_attended_to_as_the_formula_says(make_score, restriction):
    score = seeded(make_score)
    inputs = queries_keys_values(2, requires_grad=True)
    output, weights = Attention(score)(*inputs, **restriction)
    alpha = masked_softmax(score(*inputs[:2]), mask=allowed_by(restriction, (2, 3, 5)))
    close(weights, alpha)
    close(output, alpha @ inputs[2])
    wanted = [*inputs, *parameters_of(score)]
    for ours, theirs in zip(
        gradients(output, wanted), gradients(alpha @ inputs[2], wanted), strict=True
    ):
        close(ours, theirs)


@every_score
def test_gradients_are_finite_differences(make_score):
    attention = Attention(seeded(make_score))
    inputs = queries_keys_values(num_queries=2, num_keys=3, requires_grad=True)

    def output(queries: Tensor, keys: Tensor, values: Tensor, *_: Tensor) -> Tensor:
        return attention(queries, keys, values, torch.tensor([3, 2])).output

    # One random direction each: every score's full Jacobian is compared in its own file.
    assert torch.autograd.gradcheck(output, (*inputs, *attention.parameters()), fast_mode=True)


@every_score
@every_restriction
@pytest.mark.parametrize("elements", [1, 60, 10**9], ids="{} elements a tile".format)
def test_without_weights_output_and_gradients_are_the_same(
    make_score, restriction, elements, monkeypatch
):
    stream_in_blocks(monkeypatch, elements)
    score = seeded(make_score)
    inputs = queries_keys_values(2, requires_grad=True)
    wanted = [*inputs, *parameters_of(score)]
    expected = Attention(score)(*inputs, **restriction).output
    output, weights = Attention(score)(*inputs, **restriction, need_weights=False)
    assert weights is None
    close(output, expected)
    for ours, theirs in zip(gradients(output, wanted), gradients(expected, wanted), strict=True):
        close(ours, theirs)


def test_a_tile_boundary_inside_the_queries_changes_nothing(monkeypatch):
    attention = AdditiveAttention(4, 4, 6).double()
    inputs = queries_keys_values(1, num_queries=7, requires_grad=True)
    lens, mask = torch.tensor([[0, 1, 2, 3, 4, 5, 3]]), causal_mask(7, 5)
    expected = attention(*inputs, lens, mask=mask).output
    of_expected = gradients(expected, [*inputs])
    for rows in range(1, 9):
        stream_in_blocks(monkeypatch, rows * 5 * 6)
        output = attention(*inputs, lens, mask=mask, need_weights=False).output
        close(output, expected)
        for ours, theirs in zip(gradients(output, [*inputs]), of_expected, strict=True):
            close(ours, theirs)


@every_score
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_gives_its_own_dtype_and_the_float64_result(make_score, dtype):
    score = seeded(make_score, dtype)
    inputs = queries_keys_values(2, dtype=dtype)
    output, weights = Attention(score)(*inputs, torch.tensor([3, 0]))
    short = Attention(score)(*inputs, torch.tensor([3, 0]), need_weights=False).output
    assert output.dtype == weights.dtype == short.dtype == dtype
    exact = Attention(copy.deepcopy(score).double())
    expected = exact(*(x.double() for x in inputs), torch.tensor([3, 0]))
    # Projections and the learned bandwidth are rounded once more before they are compared.
    tolerance = 2 * TOLERANCE[dtype]
    close(output, expected.output, tolerance)
    close(weights, expected.weights, tolerance)
    close(short, expected.output, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_half_precision_gradients_stay_near_the_float64_ones(dtype):
    inputs = queries_keys_values(2, dtype=dtype, requires_grad=True)
    wide = in_float64(inputs)
    mask = normal(2, 3, 5, seed=7) > -0.5
    ours = gradients(DotProductAttention()(*inputs, mask=mask).output, [*inputs])
    theirs = gradients(sdpa(*wide, mask), [*wide])
    for mine, other, x in zip(ours, theirs, inputs, strict=True):
        assert mine.dtype == x.dtype
        close(mine, other, 2 * TOLERANCE[dtype])  # the weighting is rounded too


def test_float16_scores_that_overflow_float16_are_still_scores():
    queries = torch.full((1, 4), 200.0, dtype=torch.float16)
    keys = torch.stack([torch.full((4,), 199.0), torch.full((4,), 200.0)]).half()
    weights = DotProductAttention(scale=1.0)(queries, keys, keys).weights
    assert weights.tolist() == [[0.0, 1.0]]  # 159200 and 160000; float16 ends at 65504


@pytest.mark.parametrize("batch", [(), (1,), (2,), (2, 3), (2, 1, 3)])
def test_there_may_be_any_number_of_batch_axes(batch):
    inputs = queries_keys_values(*batch)
    lens = torch.full(batch, 4)
    output, weights = DotProductAttention()(*inputs, lens)
    assert output.shape == (*batch, 3, 2)
    assert weights.shape == (*batch, 3, 5)
    mask = length_mask(lens.unsqueeze(-1), 5).expand(*batch, 3, 5)
    close(output, sdpa(*inputs, mask))


@every_score
@pytest.mark.parametrize("held", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("elements", [None, 1, 10**9])
def test_padding_has_no_influence_whatever_it_holds_and_its_gradient_is_zero(
    make_score, held, elements, monkeypatch
):
    if elements is not None:
        stream_in_blocks(monkeypatch, elements)
    score = seeded(make_score)
    attention = Attention(score)
    lens, mask = torch.tensor([[3, 0, 2], [0, 0, 0]]), torch.tensor([True, False, True, True, True])
    busy = torch.tensor([[True, False, True], [False, False, False]]).unsqueeze(-1)
    used = torch.tensor([[True, False, True, False, False], [False] * 5]).unsqueeze(-1)

    clean = queries_keys_values(2)
    dirty = [
        x.masked_fill(~part, held).requires_grad_()
        for x, part in zip(clean, (busy, used, used), strict=True)
    ]
    expected = attention(*clean, lens, mask=mask, need_weights=elements is None)
    result = attention(*dirty, lens, mask=mask, need_weights=elements is None)
    assert torch.equal(result.output, expected.output)
    if elements is None:
        assert torch.equal(result.weights, expected.weights)
    (*of_inputs,) = gradients(result.output, [*dirty, *parameters_of(score)])
    for gradient, part in zip(of_inputs, (busy, used, used), strict=False):
        assert gradient.isfinite().all()
        assert (gradient.masked_select(~part) == 0).all()
        assert (gradient.masked_select(part) != 0).any()
    of_parameters = gradients(expected.output, parameters_of(score)) if parameters_of(score) else []
    for gradient, without in zip(of_inputs[3:], of_parameters, strict=True):
        assert torch.equal(gradient, without)


@every_score
def test_a_query_with_no_keys_gets_zero_output_and_zero_gradient(make_score):
    inputs = queries_keys_values(2, requires_grad=True)
    lens = torch.tensor([[0, 1, 5], [0, 0, 0]])
    output, weights = Attention(seeded(make_score))(*inputs, lens)
    assert (output[lens == 0] == 0).all()
    assert (weights[lens == 0] == 0).all()
    of_queries, of_keys, of_values = gradients(output, [*inputs])
    assert (of_queries[lens == 0] == 0).all()
    assert (of_keys[1] == 0).all()
    assert (of_values[1] == 0).all()


def test_a_user_s_score_of_minus_infinity_for_every_key_is_a_query_with_no_keys():
    inputs = queries_keys_values(2, requires_grad=True)
    attention = Attention(lambda q, k: (q @ k.mT).masked_fill(q[..., :1] > 0, -math.inf))
    output, weights = attention(*inputs)
    empty = inputs[0][..., 0] > 0
    assert empty.any()
    assert (output[empty] == 0).all()
    assert (weights[empty] == 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients(output, [*inputs]))


def test_a_score_that_is_hidden_from_one_query_only_may_be_nan():
    hole = torch.zeros(3, 5, dtype=torch.bool)
    hole[1, 2] = True
    inputs = queries_keys_values(requires_grad=True)
    attention = Attention(lambda q, k: (q @ k.mT).masked_fill(hole, math.nan))
    output = attention(*inputs, mask=~hole).output
    expected = sdpa(*inputs, ~hole, scale=1.0)
    close(output, expected)
    for ours, theirs in zip(
        gradients(output, [*inputs]), gradients(expected, [*inputs]), strict=True
    ):
        close(ours, theirs)


def test_valid_scores_may_be_as_low_as_minus_1e30():
    inputs = queries_keys_values(2, dtype=torch.float32)
    low = Attention(lambda q, k: (q @ k.mT) * 0 - 1e30)
    output, weights = low(*inputs, torch.tensor([2, 5]))
    assert weights[0, 0].tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]
    close(output[1, 0], inputs[2][1].mean(dim=0))


@every_score
def test_the_order_of_the_key_value_pairs_does_not_matter(make_score):
    attention, order = Attention(seeded(make_score)), [3, 0, 4, 1, 2]
    queries, keys, values = queries_keys_values(2)
    mask = normal(2, 3, 5, seed=7) > -0.5
    output, weights = attention(queries, keys, values, mask=mask)
    again = attention(queries, keys[:, order], values[:, order], mask=mask[..., order])
    close(again.output, output)
    close(again.weights, weights[..., order])


@every_score
def test_queries_in_another_order_get_their_own_outputs_in_that_order(make_score):
    attention, order = Attention(seeded(make_score)), [2, 0, 1]
    queries, keys, values = queries_keys_values(2)
    expected = attention(queries, keys, values)
    again = attention(queries[:, order], keys, values)
    close(again.output, expected.output[:, order])
    close(again.weights, expected.weights[:, order])


def test_uniform_weights_give_the_mean_and_a_one_hot_row_gives_one_value():
    queries, keys, values = queries_keys_values(2)
    mean = Attention(lambda q, k: torch.zeros(2, 3, 5))(queries, keys, values).output
    close(mean, values.mean(dim=1, keepdim=True).expand(2, 3, 2))
    one_hot = torch.eye(5)[[4, 0, 2]].log().expand(2, 3, 5)  # float32: values keep their float64
    close(Attention(lambda q, k: one_hot)(queries, keys, values).output, values[:, [4, 0, 2]])


@every_score
def test_an_output_lies_between_the_least_and_the_greatest_value(make_score):
    queries, keys, values = queries_keys_values(2)
    output = Attention(seeded(make_score))(queries, keys, values).output
    assert (output <= values.amax(dim=1, keepdim=True) + 1e-12).all()
    assert (output >= values.amin(dim=1, keepdim=True) - 1e-12).all()


def test_any_function_of_queries_and_keys_is_a_score():
    inputs = queries_keys_values(2)
    narrow = functools.partial(gaussian_score, bandwidth=0.5)
    close(Attention(narrow)(*inputs).output,
          masked_softmax(gaussian_score(*inputs[:2], 0.5)) @ inputs[2])  # fmt: skip
    module = nn.Bilinear(4, 4, 1).double()  # a module that is no Score

    class Paired(nn.Module):
        def forward(self, q: Tensor, k: Tensor) -> Tensor:
            q, k = q.unsqueeze(-2).expand(2, 3, 5, 4), k.unsqueeze(-3).expand(2, 3, 5, 4)
            return module(q.contiguous(), k.contiguous()).squeeze(-1)

    close(Attention(Paired())(*inputs).weights, Paired()(*inputs[:2]).softmax(dim=-1))


def test_a_score_of_one_s_own_needs_compare_only():
    class Negative(Score):
        def compare(self, q: Tensor, k: Tensor) -> Tensor:
            return -(q @ k.mT)

    inputs = queries_keys_values(2, dtype=torch.float16)
    assert Negative()(*inputs[:2]).dtype == torch.float16
    close(Attention(Negative())(*inputs).output, sdpa(*in_float64(inputs), scale=-1.0))
    with pytest.raises(NotImplementedError, match=r"Score must define compare\(q, k\)"):
        Score()(*inputs[:2])


# --- nothing to attend to, nothing to ask ---


@every_score
@pytest.mark.parametrize("need_weights", [True, False])
def test_zero_keys_give_outputs_of_zero_and_empty_weights(make_score, need_weights):
    inputs = queries_keys_values(2, num_keys=0, requires_grad=True)
    lens = torch.zeros(2, dtype=torch.long)
    for restriction in ({}, {"valid_lens": lens}, {"mask": torch.ones(3, 1, dtype=torch.bool)}):
        output, weights = Attention(seeded(make_score))(
            *inputs, **restriction, need_weights=need_weights
        )
        assert torch.equal(output, torch.zeros(2, 3, 2))
        assert weights is None if not need_weights else weights.shape == (2, 3, 0)
        assert all((gradient == 0).all() for gradient in gradients(output, [*inputs]))


@every_score
@pytest.mark.parametrize("need_weights", [True, False])
def test_zero_queries_give_empty_outputs_and_weights(make_score, need_weights):
    inputs = queries_keys_values(2, num_queries=0, requires_grad=True)
    output, weights = Attention(seeded(make_score))(
        *inputs, torch.tensor([1, 2]), mask=causal_mask(0, 5), need_weights=need_weights
    )
    assert output.shape == (2, 0, 2)
    assert weights is None if not need_weights else weights.shape == (2, 0, 5)
    assert all((gradient == 0).all() for gradient in gradients(output, [*inputs]))


@pytest.mark.parametrize("need_weights", [True, False])
def test_an_empty_batch_and_values_without_features_give_results_of_that_shape(need_weights):
    inputs = queries_keys_values(0, 2)
    lens = torch.zeros(0, 2, dtype=torch.long)
    output = DotProductAttention()(*inputs, lens, need_weights=need_weights).output
    assert output.shape == (0, 2, 3, 2)
    inputs = queries_keys_values(2, value_features=0)
    assert DotProductAttention()(*inputs, need_weights=need_weights).output.shape == (2, 3, 0)


# --- dropout ---


def test_dropout_acts_in_training_mode_only():
    inputs = queries_keys_values(2)
    attention = DotProductAttention(dropout=0.5).eval()
    for result in (attention(*inputs).output, attention(*inputs, need_weights=False).output):
        close(result, sdpa(*inputs))


@every_score
def test_the_returned_weights_are_those_that_were_used_after_dropout(make_score):
    inputs = queries_keys_values(2, num_queries=20, num_keys=30)
    attention = Attention(seeded(make_score), dropout=0.25)
    undropped = attention.eval()(*inputs, torch.tensor([30, 10])).weights
    torch.manual_seed(1)
    output, weights = attention.train()(*inputs, torch.tensor([30, 10]))
    close(output, weights @ inputs[2])
    kept = weights != 0
    close(weights[kept], undropped[kept] / 0.75)  # softmax first, then dropout
    share = kept.sum() / (undropped != 0).sum()
    assert 0.65 < share < 0.85  # 0.75, more than five standard deviations wide at 800 weights
    assert (weights.sum(dim=-1) - 1).abs().max() > 0.1


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropping_everything_leaves_zeros_not_nan(need_weights):
    inputs = queries_keys_values(2, requires_grad=True)
    output = DotProductAttention(dropout=1.0)(*inputs, need_weights=need_weights).output
    assert (output == 0).all()
    assert all((gradient == 0).all() for gradient in gradients(output, [*inputs]))


def test_the_gradient_sees_the_weights_that_dropout_kept_also_when_tiles_are_made_again(
    monkeypatch,
):
    stream_in_blocks(monkeypatch, 2 * 40)
    queries, keys, _ = queries_keys_values(1, num_queries=6, num_keys=10)
    values = torch.eye(10, dtype=torch.float64).unsqueeze(0).requires_grad_()
    torch.manual_seed(3)
    weights = DotProductAttention(dropout=0.5)(queries, keys, values, need_weights=False).output
    assert 0 < (weights == 0).sum() < 60  # values are the identity: the output is the weights
    torch.rand(100)  # the generator moves on before the gradient is asked for
    direction = normal(1, 6, 10, seed=5)
    (of_values,) = torch.autograd.grad((weights * direction).sum(), [values])
    close(of_values, weights.mT @ direction)


# --- no hidden state ---


@every_score
def test_a_call_leaves_no_trace_in_the_module(make_score):
    attention = Attention(seeded(make_score), dropout=0.1)
    inputs = queries_keys_values(2, requires_grad=True)

    def state() -> dict[str, set[str]]:
        return {name: set(vars(module)) for name, module in attention.named_modules()}

    before, saved = state(), copy.deepcopy(attention.state_dict())
    attention(*inputs, torch.tensor([1, 2])).output.sum().backward()
    attention(*inputs, torch.tensor([1, 2]), need_weights=False)
    assert state() == before
    assert all(
        torch.equal(value, saved[key]) if isinstance(value, Tensor) else value == saved[key]
        for key, value in attention.state_dict().items()
    )


@every_score
@pytest.mark.parametrize(
    "twin_of",
    [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["deepcopy", "pickle"],
)
def test_copies_give_the_same_output_also_after_a_call(make_score, twin_of):
    attention = Attention(seeded(make_score))
    inputs = queries_keys_values(2, requires_grad=True)
    expected = attention(*inputs)
    expected.output.sum().backward()
    again = twin_of(attention)(*inputs)
    assert torch.equal(again.output, expected.output)
    assert torch.equal(again.weights, expected.weights)


@every_score
def test_a_state_dict_carries_everything_that_was_learned(make_score):
    attention, other = Attention(seeded(make_score)), Attention(make_score().double())
    for parameter in other.parameters():
        nn.init.uniform_(parameter)
    other.load_state_dict(attention.state_dict())
    inputs = queries_keys_values(2)
    assert torch.equal(other(*inputs).output, attention(*inputs).output)


def test_inputs_are_never_modified():
    inputs = queries_keys_values(2)
    lens, mask = torch.tensor([0, 3]), causal_mask(3, 5)
    before = [x.clone() for x in (*inputs, lens, mask)]
    for need_weights in (True, False):
        DotProductAttention()(*inputs, lens, mask=mask, need_weights=need_weights)
    assert all(map(torch.equal, (*inputs, lens, mask), before))


def test_inputs_may_be_views_that_share_memory():
    x = normal(2, 3, 4)
    wide = x.unsqueeze(1).expand(2, 3, 3, 4)
    close(DotProductAttention()(wide, wide, wide, mask=causal_mask(3, 3)).output,
          sdpa(wide, wide, wide, causal_mask(3, 3)))  # fmt: skip


# --- compiled, mapped, without values ---


@pytest.mark.parametrize(
    ("name", "need_weights"), [*((name, True) for name in SCORES), ("additive", False)]
)
def test_it_compiles_into_one_graph(name, need_weights):
    torch._dynamo.reset()
    attention = Attention(seeded(SCORES[name]))
    inputs = queries_keys_values(2, requires_grad=True)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    arguments = {"mask": causal_mask(3, 5), "need_weights": need_weights}
    result = compiled(*inputs, torch.tensor([0, 4]), **arguments)
    expected = attention(*inputs, torch.tensor([0, 4]), **arguments)
    close(result.output, expected.output)
    wanted = [*inputs, *parameters_of(attention)]
    for ours, theirs in zip(
        gradients(result.output, wanted), gradients(expected.output, wanted), strict=True
    ):
        close(ours, theirs)


@every_score
def test_vmap_maps_over_attention(make_score):
    attention = Attention(seeded(make_score))
    inputs, lens = queries_keys_values(4, 2), torch.tensor([[1, 2], [3, 4], [5, 0], [2, 2]])
    mapped = torch.func.vmap(lambda *case: attention(*case).output)(*inputs, lens)
    close(mapped, attention(*inputs, lens).output)


def test_on_the_meta_device_shapes_are_known_without_values():
    inputs = [x.to("meta") for x in queries_keys_values(2)]
    lens = torch.zeros(2, dtype=torch.long, device="meta")
    output, weights = DotProductAttention()(*inputs, lens)
    assert output.shape == (2, 3, 2)
    assert weights.shape == (2, 3, 5)


@every_score
def test_autocast_casts_for_the_layers_and_weights_still_sum_to_one(make_score):
    attention = Attention(seeded(make_score, torch.float32))
    inputs = queries_keys_values(2, dtype=torch.bfloat16)  # as a layer before leaves them there
    with torch.autocast("cpu", torch.bfloat16):
        output, weights = attention(*inputs, torch.tensor([0, 4]))
    assert output.dtype == weights.dtype == torch.bfloat16
    close(weights[1].sum(dim=-1), torch.ones(3))
    assert (output[0] == 0).all()


# --- D2L's defects ---


def test_d2l_defect_5_nan_in_padded_values_poisons_the_output():
    queries, keys, values = queries_keys_values(2)
    values[:, 2:], keys[:, 2:] = math.nan, math.inf
    lens = torch.tensor([2, 1])
    output, weights = DotProductAttention()(queries, keys, values, lens)
    assert output.isfinite().all()
    close(output[0], sdpa(queries, keys[:, :2], values[:, :2])[0])
    assert (weights[..., 2:] == 0).all()


def test_d2l_defect_7_additive_attention_holds_queries_x_keys_x_hidden(monkeypatch):
    stream_in_blocks(monkeypatch, 2**18)
    batch, tokens, hidden = 2, 256, 64
    attention = AdditiveAttention(key_size=3, query_size=3, num_hiddens=hidden)
    inputs = queries_keys_values(
        batch, num_queries=tokens, num_keys=tokens, features=3, dtype=torch.float32,
        requires_grad=True,
    )  # fmt: skip
    textbook = 4 * batch * tokens * tokens * hidden  # bytes of that one tensor in float32

    def step(need_weights: bool) -> None:
        attention(*inputs, need_weights=need_weights).output.sum().backward()

    # A block is 1/32 of it, and with weights their own gradients are 1/64 each.
    assert peak_bytes(lambda: step(need_weights=False)) < textbook / 6
    assert peak_bytes(lambda: step(need_weights=True)) < textbook / 4


def test_without_weights_no_tensor_of_queries_x_keys_is_held(monkeypatch):
    stream_in_blocks(monkeypatch, 2**16)
    inputs = queries_keys_values(
        num_queries=1024, num_keys=1024, dtype=torch.float32, requires_grad=True
    )
    lens, mask = torch.arange(1024), causal_mask(1024, 1024)
    attention = DotProductAttention()

    def step() -> None:
        attention(*inputs, lens, mask=mask, need_weights=False).output.sum().backward()

    assert peak_bytes(step) < 4 * 1024 * 1024 / 2  # bytes of the scores in float32


def test_d2l_defect_8_a_stored_attribute_keeps_the_graph_and_the_weights_before_dropout():
    attention = DotProductAttention(dropout=0.5)
    inputs = queries_keys_values(2, requires_grad=True)
    output, weights = attention(*inputs)
    assert not hasattr(attention, "attention_weights")
    assert not any(isinstance(value, Tensor) for value in vars(attention).values())
    twin = copy.deepcopy(attention)  # D2L's cannot be copied after a call
    assert isinstance(twin.score, DotProductScore)
    close(output, weights @ inputs[2])


def test_a_functional_score_and_its_module_attend_alike():
    inputs = queries_keys_values(2)
    close(Attention(dot_product_score)(*inputs).output, DotProductAttention()(*inputs).output)
