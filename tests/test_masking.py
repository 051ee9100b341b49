"""Lengths, masks and masked softmax, against PyTorch's softmax and its SDPA."""

import math

import pytest
import torch
from torch import Tensor

from d2lattn import causal_mask, length_mask, masked_softmax
from tests.helpers import DTYPES, close, gradients, normal, queries_keys_values, sdpa

INTEGERS = [
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip


def softmax_of_what_is_valid(scores: Tensor, allowed: Tensor) -> Tensor:
    """Row by row, the softmax of nothing but the scores that count."""
    weights = torch.zeros_like(scores)
    for row in torch.cartesian_prod(*map(torch.arange, scores.shape[:-1])).reshape(
        -1, scores.ndim - 1
    ):
        index = tuple(row.tolist())
        keys = allowed.expand_as(scores)[index]
        weights[index][keys] = scores[index][keys].softmax(dim=-1)
    return weights


def test_a_length_mask_allows_the_first_keys():
    mask = length_mask(torch.tensor([0, 1, 3]), 3)
    assert mask.tolist() == [[False] * 3, [True, False, False], [True] * 3]


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 0, 3)])
def test_lengths_of_any_shape_give_a_mask_with_the_keys_last(shape):
    lens = torch.full(shape, 2)
    mask = length_mask(lens, 5)
    assert mask.dtype == torch.bool
    assert mask.shape == (*shape, 5)
    assert (mask.sum(dim=-1) == 2).all()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_lengths_may_have_any_integer_dtype_also_with_more_keys_than_it_can_count(dtype):
    lens = torch.tensor([3, 100]).to(dtype)
    assert length_mask(lens, 300).sum(dim=-1).tolist() == [3, 100]
    weights = masked_softmax(torch.zeros(2, 1, 300), lens)
    assert (weights > 0).sum(dim=-1).flatten().tolist() == [3, 100]


def test_no_keys_give_an_empty_mask():
    assert length_mask(torch.tensor([0, 0]), 0).shape == (2, 0)
    assert causal_mask(0, 3).shape == (0, 3)
    assert causal_mask(3, 0).shape == (3, 0)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(3, 3), (2, 5), (5, 2), (1, 1)])
def test_in_a_causal_mask_the_last_query_sees_every_key_and_each_before_it_one_less(
    num_queries, num_keys
):
    mask = causal_mask(num_queries, num_keys)
    for i in range(num_queries):
        seen = max(0, num_keys - (num_queries - 1 - i))
        assert mask[i].tolist() == [True] * seen + [False] * (num_keys - seen)


def test_a_square_causal_mask_is_that_of_sdpa():
    q, k, v = queries_keys_values(2, 1, num_queries=4, num_keys=4)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    close(sdpa(q, k, v, causal_mask(4, 4)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_mask_it_is_the_softmax_over_the_keys(dtype):
    scores = 3 * normal(2, 3, 5, dtype=dtype)
    weights = masked_softmax(scores)
    assert weights.dtype == dtype
    close(weights, scores.double().softmax(dim=-1))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("per_query", [False, True])
def test_with_lengths_it_is_the_softmax_of_the_valid_prefix(batch, per_query):
    scores = normal(*batch, 4, 5)
    shape = (*batch, 4) if per_query else batch
    lens = torch.randint(0, 6, shape, generator=torch.Generator().manual_seed(1))
    allowed = length_mask(lens if per_query else lens.unsqueeze(-1), 5)
    expected = softmax_of_what_is_valid(scores, allowed)
    close(masked_softmax(scores, lens), expected)


@pytest.mark.parametrize(
    "shape", [(), (5,), (1,), (4, 5), (4, 1), (1, 5), (2, 1, 1), (2, 1, 5), (2, 4, 5)]
)
def test_a_mask_of_any_shape_that_broadcasts_is_the_softmax_of_what_it_allows(shape):
    scores = normal(2, 4, 5)
    mask = normal(*shape, seed=1) > -0.3
    close(masked_softmax(scores, mask=mask), softmax_of_what_is_valid(scores, mask))


def test_with_lengths_and_a_mask_a_key_must_pass_both():
    scores, lens, mask = normal(2, 4, 5), torch.tensor([4, 2]), causal_mask(4, 5)
    both = length_mask(lens, 5).unsqueeze(1) & mask
    close(masked_softmax(scores, lens, mask=mask), softmax_of_what_is_valid(scores, both))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_and_gradients_are_those_of_sdpa(dtype):
    q, k, _ = queries_keys_values(2, 3, dtype=dtype, requires_grad=True)
    mask = normal(2, 3, 3, 5, seed=7) > 0
    mask[0, 1, 2] = False  # a query with no keys
    values = torch.eye(5, dtype=dtype).expand(2, 3, 5, 5)  # so that the output is the weights
    ours = masked_softmax(q @ k.mT / math.sqrt(4), mask=mask)
    theirs = sdpa(q, k, values, mask)
    close(ours, theirs)
    for mine, other in zip(gradients(ours, [q, k]), gradients(theirs, [q, k]), strict=True):
        close(mine, other)


def test_its_gradients_are_finite_differences_also_second_and_forward_ones():
    scores = normal(2, 3, 4, requires_grad=True)
    mask = normal(2, 3, 4, seed=1) > -0.5
    mask[0, 0] = False

    def weights(scores: Tensor) -> Tensor:
        return masked_softmax(scores, torch.tensor([4, 3]), mask=mask)

    assert torch.autograd.gradcheck(weights, (scores,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(weights, (scores,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_sums_to_one_or_is_zero_where_its_query_has_no_keys(dtype):
    lens = torch.tensor([[1, 0, 700], [2048, 3, 0]])
    weights = masked_softmax(normal(2, 3, 2048, dtype=dtype), lens)
    close(weights.double().sum(dim=-1).to(dtype), (lens > 0).double())
    assert (weights[lens == 0] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("held", [math.nan, math.inf, -math.inf, 1e4])
def test_a_hidden_score_has_no_influence_whatever_its_value_and_its_gradient_is_zero(held, dtype):
    scores = normal(2, 3, 5, dtype=dtype)
    mask = normal(2, 3, 5, seed=1) > 0
    mask[0, 0], mask[1, 1] = False, True
    clean = masked_softmax(scores, mask=mask)
    dirty = scores.masked_fill(~mask, held).requires_grad_()
    weights = masked_softmax(dirty, mask=mask)
    assert torch.equal(weights, clean)
    (gradient,) = gradients(weights, [dirty])
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_score_of_minus_infinity_hides_its_key_as_a_mask_does(dtype):
    scores = normal(2, 3, 5, dtype=dtype)
    mask = normal(2, 3, 5, seed=1) > 0
    mask[0, 0] = False
    hidden = scores.masked_fill(~mask, -math.inf).requires_grad_()
    weights = masked_softmax(hidden)
    assert torch.equal(weights, masked_softmax(scores, mask=mask))
    (gradient,) = gradients(weights, [hidden])
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()


def test_adding_a_constant_to_a_row_changes_nothing():
    scores = normal(2, 3, 5)
    shifted = scores + 1e3 * normal(2, 3, 1, seed=1)
    close(masked_softmax(shifted, torch.tensor([2, 5])),
          masked_softmax(scores, torch.tensor([2, 5])), 1e-9)  # 1e3 costs three digits  # fmt: skip


def test_nothing_is_dropped_for_scoring_low():
    """Question 5 of the book: masking is not a threshold."""
    weights = masked_softmax(torch.tensor([[0.0, -5.0, -50.0]]), torch.tensor(3))
    assert (weights > 0).all()


def test_keys_in_another_order_get_the_same_weights_in_that_order():
    scores, mask, order = normal(2, 3, 5), normal(2, 3, 5, seed=1) > 0, [3, 0, 4, 1, 2]
    permuted = masked_softmax(scores[..., order], mask=mask[..., order])
    close(permuted, masked_softmax(scores, mask=mask)[..., order])


def test_half_precision_is_summed_in_float32():
    """65536 weights of 2**-16: a float16 sum stops growing at 2048 terms."""
    scores = torch.zeros(1, 2**16, dtype=torch.float16)
    assert (masked_softmax(scores) == 2.0**-16).all()


def test_no_queries_and_no_keys_give_weights_of_that_shape():
    assert masked_softmax(torch.zeros(2, 0, 3), torch.tensor([1, 2])).shape == (2, 0, 3)
    assert masked_softmax(torch.zeros(2, 3, 0), torch.tensor([0, 0])).shape == (2, 3, 0)
    assert masked_softmax(torch.zeros(0, 3, 4), torch.zeros(0, dtype=torch.long)).shape == (0, 3, 4)


def test_vmap_maps_over_scores_lengths_and_masks():
    scores, mask = normal(4, 2, 3, 5), normal(4, 3, 5, seed=1) > 0
    lens = torch.tensor([[1, 2], [3, 4], [5, 0], [2, 2]])

    def weights(scores: Tensor, lens: Tensor, mask: Tensor) -> Tensor:
        return masked_softmax(scores, lens, mask=mask)

    mapped = torch.func.vmap(weights)(scores, lens, mask)
    close(mapped, torch.stack([weights(*case) for case in zip(scores, lens, mask, strict=True)]))
    assert torch.equal(
        torch.func.vmap(lambda lens: length_mask(lens, 5))(lens), length_mask(lens, 5)
    )
    jacobian = torch.func.vmap(torch.func.jacrev(masked_softmax))(scores[:, 0])
    assert jacobian.shape == (4, 3, 5, 3, 5)


def test_it_compiles_into_one_graph():
    torch._dynamo.reset()
    compiled = torch.compile(masked_softmax, fullgraph=True, backend="aot_eager")
    scores = normal(2, 3, 5, requires_grad=True)
    lens, mask = torch.tensor([0, 4]), causal_mask(3, 5)
    weights = compiled(scores, lens, mask=mask)
    expected = masked_softmax(scores, lens, mask=mask)
    close(weights, expected)
    close(gradients(weights, [scores])[0], gradients(expected, [scores])[0])
    masks = torch.compile(
        lambda lens: (length_mask(lens, 5), causal_mask(3, 5)), fullgraph=True, backend="eager"
    )
    assert all(map(torch.equal, masks(lens), (length_mask(lens, 5), causal_mask(3, 5))))


def test_on_the_meta_device_shapes_are_known_without_values():
    lens = torch.zeros(2, dtype=torch.long, device="meta")
    weights = masked_softmax(torch.zeros(2, 3, 4, device="meta"), lens)
    assert weights.shape == (2, 3, 4)
    assert causal_mask(2, 3, device="meta").device.type == "meta"


def test_d2l_defect_1_scores_are_changed_in_place():
    scores = normal(2, 3, 5, requires_grad=True)  # a leaf: in-place changes would raise
    before, lens, mask = scores.detach().clone(), torch.tensor([2, 0]), causal_mask(3, 5)
    masked_softmax(scores, lens, mask=mask).sum().backward()
    assert torch.equal(scores, before)
    assert lens.tolist() == [2, 0]
    assert torch.equal(mask, causal_mask(3, 5))


def test_d2l_defect_2_length_0_gives_uniform_weights_over_padding():
    scores = normal(2, 3, 5, requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([0, 5]))
    assert (weights[0] == 0).all()
    (gradient,) = gradients(weights, [scores])
    assert (gradient[0] == 0).all()
    assert (gradient[1] != 0).all()


@pytest.mark.parametrize("low", [-1e6 - 1, -1e7, -1e30])
def test_d2l_defect_3_low_valid_scores_move_all_weight_onto_padding(low):
    weights = masked_softmax(torch.full((1, 1, 4), low), torch.tensor([2]))
    assert weights.tolist() == [[[0.5, 0.5, 0.0, 0.0]]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_d2l_defect_4_float16_with_an_empty_row_gives_nan(dtype):
    scores = normal(2, 3, 5, dtype=dtype, requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([0, 2]))
    assert weights.isfinite().all()
    assert gradients(weights, [scores])[0].isfinite().all()


@pytest.mark.parametrize("batch", [(), (2,), (2, 2), (1, 2, 3)])
def test_d2l_defect_6_only_three_axes_and_prefix_lengths(batch):
    scores = normal(*batch, 3, 5)
    lens, mask = torch.full(batch, 4), normal(3, 5, seed=1) > 0
    allowed = length_mask(lens.unsqueeze(-1), 5) & mask
    weights = masked_softmax(scores, lens, mask=mask)
    close(weights, softmax_of_what_is_valid(scores, allowed))


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1), (1, 3, 1), ()])
def test_d2l_defect_6_lengths_of_a_wrong_shape_are_accepted_silently(shape):
    with pytest.raises(ValueError, match=r"valid_lens must have shape \(2,\).* or \(2, 3\)"):
        masked_softmax(torch.zeros(2, 3, 5), torch.ones(shape, dtype=torch.long))


def test_d2l_defect_6_a_length_beyond_the_keys_is_silent():
    with pytest.raises(ValueError, match=r"valid_lens must lie in \[0, 5\].*got 6 at index \(1,\)"):
        masked_softmax(torch.zeros(2, 3, 5), torch.tensor([5, 6]))
