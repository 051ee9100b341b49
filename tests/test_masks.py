"""Masks as descriptions: what they mean, what they leave out, and what they cost."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from d2lattn import (
    Attention,
    DotProductAttention,
    GaussianScore,
    Mask,
    causal_mask,
    masked_softmax,
)
from d2lattn.blocks import Block
from d2lattn.engine.plan import Kind, pieces
from tests.helpers import close, normal, queries_keys_values, stream_in_blocks

CPU = torch.device("cpu")


def meant(rule: Callable[[int, int], bool], num_queries: int, num_keys: int) -> Tensor:
    """A rule of the positions of query and key, asked pair by pair."""
    first = num_keys - num_queries
    return torch.tensor(
        [[rule(i + first, j) for j in range(num_keys)] for i in range(num_queries)]
    ).reshape(num_queries, num_keys)


@pytest.mark.parametrize("sizes", [(3, 5), (5, 3), (4, 4), (1, 6), (0, 3), (3, 0)])
def test_each_kind_is_its_rule_asked_pair_by_pair(sizes):
    n, m = sizes
    of_queries, of_keys = torch.arange(n) // 2, torch.arange(m) // 2
    rules = {
        Mask.causal(): lambda i, j: j <= i,
        Mask.window(1): lambda i, j: i - 1 <= j <= i,
        Mask.window(0, 2): lambda i, j: i <= j <= i + 2,
        Mask.where(lambda i, j: (i * j) % 2 == 0): lambda i, j: i * j % 2 == 0,
        Mask.documents(of_queries, of_keys): lambda i, j: (i - (m - n)) // 2 == j // 2,
        ~Mask.causal(): lambda i, j: j > i,
        Mask.window(1) | Mask.where(lambda i, j: j == 0): lambda i, j: i - 1 <= j <= i or j == 0,
        Mask.causal() & ~Mask.window(1): lambda i, j: j <= i and not i - 1 <= j <= i,
    }
    for mask, rule in rules.items():
        assert torch.equal(mask.dense(n, m), meant(rule, n, m).bool()), mask
    assert torch.equal(Mask.causal().dense(n, m), causal_mask(n, m))


def test_lengths_and_tensors_bring_their_batch_axes():
    lens = torch.tensor([1, 3])
    assert torch.equal(Mask.lengths(lens).dense(2, 3), torch.tensor(
        [[[True, False, False]] * 2, [[True] * 3] * 2]
    ))  # fmt: skip
    each = torch.tensor([[0, 1], [2, 3]])
    assert torch.equal(Mask.lengths(each).dense(2, 3), torch.arange(3) < each.unsqueeze(-1))
    boolean = normal(4, 1, 3) > 0
    both = Mask.tensor(boolean) & Mask.causal()
    assert torch.equal(both.dense(2, 3), boolean & causal_mask(2, 3))


def test_every_mask_argument_takes_one():
    scores = normal(2, 3, 5)
    for mask in (
        Mask.causal(),
        Mask.window(1),
        ~Mask.window(0),
        Mask.lengths(torch.tensor([2, 0])),
    ):
        dense = mask.dense(3, 5)
        assert torch.equal(masked_softmax(scores, mask=mask), masked_softmax(scores, mask=dense))
        lens = torch.tensor([3, 5])
        ours, theirs = (
            DotProductAttention()(*queries_keys_values(2), lens, mask=m).output
            for m in (mask, dense)
        )
        assert torch.equal(ours, theirs)


def test_a_mask_says_what_it_is():
    mask = Mask.causal() & ~Mask.window(3, 1) & Mask.lengths(torch.tensor([2, 3]))
    assert repr(mask) == "((Mask.causal() & ~Mask.window(3, 1)) & Mask.lengths((2,)))"


def test_a_mask_is_a_tree_of_its_tensors_and_pickles():
    lens, boolean = torch.tensor([2, 3]), torch.tensor([True, False, True])
    mask = Mask.lengths(lens) & ~Mask.tensor(boolean) | Mask.causal()
    leaves, tree = pytree.tree_flatten(mask)
    assert [leaf is known for leaf, known in zip(leaves, (lens, boolean), strict=True)]
    again = pytree.tree_unflatten(leaves, tree)
    assert torch.equal(again.dense(3, 3), mask.dense(3, 3))
    assert torch.equal(pickle.loads(pickle.dumps(mask)).dense(3, 3), mask.dense(3, 3))


MASKS = st.recursive(
    st.one_of(
        st.just(Mask.causal()),
        st.builds(Mask.window, st.integers(0, 6), st.integers(0, 3)),
        st.integers(1, 5).map(lambda s: Mask.where(lambda i, j: (i + j) % s != 0)),
        st.integers(1, 9).map(
            lambda s: Mask.documents(torch.arange(37) // s, torch.arange(41) // s)
        ),
        st.integers(0, 41).map(lambda n: Mask.lengths(torch.tensor([n, 41 - n]))),
        st.integers(0, 99).map(lambda s: Mask.tensor(normal(37, 41, seed=s) > 0)),
    ),
    lambda masks: st.one_of(
        st.builds(lambda a, b: a & b, masks, masks),
        st.builds(lambda a, b: a | b, masks, masks),
        masks.map(lambda mask: ~mask),
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=120, derandomize=True)
@given(mask=MASKS, elements=st.sampled_from([1, 40, 300, 10**6]))
def test_pieces_hold_every_pair_that_counts_once_and_say_which_count(mask, elements):
    shape = (2, 37, 41)
    bound = mask._restriction.bind(shape, CPU)
    allowed = bound.allowed(Block.whole(shape), CPU).expand(shape)
    seen = torch.zeros(shape, dtype=torch.int)
    with pytest.MonkeyPatch.context() as patch:
        stream_in_blocks(patch, elements)
        for block, kind in pieces(shape, bound, CPU):
            here = seen[(*block.batch, block.rows, block.columns)]
            inside = allowed[(*block.batch, block.rows, block.columns)]
            if kind is Kind.TRIANGLE:
                inside = torch.ones(inside.shape, dtype=torch.bool).tril()
            elif kind is Kind.MIXED:
                inside = ~bound.hidden(block, CPU).expand(inside.shape)
            else:
                inside = torch.ones_like(inside)
            here += inside.int()
    assert torch.equal(seen.bool(), allowed)
    assert int(seen.max()) <= 1


def computed(mask: Mask, num_queries: int, num_keys: int) -> float:
    """The share of all pairs that lie in pieces; a triangle counts half."""
    shape = (1, num_queries, num_keys)
    found = list(pieces(shape, mask._restriction.bind(shape, CPU), CPU))
    area = sum(p.area / (2 if p.kind is Kind.TRIANGLE else 1) for p in found)
    return area / (num_queries * num_keys)


def kinds(mask: Mask, num_queries: int, num_keys: int) -> set[Kind]:
    shape = (1, num_queries, num_keys)
    return {p.kind for p in pieces(shape, mask._restriction.bind(shape, CPU), CPU)}


def test_what_a_mask_leaves_empty_costs_nothing():
    ids = torch.arange(4096) // 512
    documents = Mask.documents(ids, ids)
    assert computed(Mask.causal(), 4096, 4096) == pytest.approx(0.5, abs=0.01)
    assert computed(documents, 4096, 4096) == 1 / 8
    assert computed(documents & Mask.causal(), 4096, 4096) == pytest.approx(1 / 16, rel=0.01)
    assert computed(Mask.lengths(torch.tensor([1000])), 4096, 4096) == 1000 / 4096
    for n in (4096, 8192, 16384):  # linear in the length
        assert computed(Mask.window(255), n, n) * n <= 2.1 * 256
    assert computed(Mask.window(255) | Mask.where(lambda i, j: j < 4), 4096, 4096) < 0.2
    assert computed(Mask.tensor(Mask.window(255).dense(4096, 4096)), 4096, 4096) < 0.25


SHUFFLED = torch.randperm(4096, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        *((Mask.documents(SHUFFLED % n, SHUFFLED % n), 32) for n in (10, 100, 1000, 4096)),
        (~Mask.documents(SHUFFLED // 4, SHUFFLED // 4), 32),
        (Mask.documents(torch.arange(4096) // 32, SHUFFLED // 32), 128),
        (Mask.tensor(SHUFFLED[None] < 2048), 32),
        (Mask.tensor(SHUFFLED[None] < 2048) & Mask.causal(), 64),
    ],
    ids=str,
)
def test_what_is_scattered_is_not_a_call_for_each_column(mask, most):
    shape = (1, 4096, 4096)
    assert len(list(pieces(shape, mask._restriction.bind(shape, CPU), CPU))) <= most


def test_a_full_block_is_not_taken_for_a_mixed_one_nor_a_triangle():
    ids = torch.arange(4096) // 512
    assert kinds(Mask.lengths(torch.tensor([1000])), 4096, 4096) == {Kind.FULL}
    assert kinds(Mask.documents(ids, ids), 4096, 4096) == {Kind.FULL}
    assert kinds(Mask.causal(), 4096, 4096) == {Kind.FULL, Kind.TRIANGLE}
    assert kinds(Mask.causal(), 64, 4096) == {Kind.FULL, Kind.TRIANGLE}
    assert kinds(Mask.causal() & Mask.documents(ids, ids), 4096, 4096) == {Kind.TRIANGLE}
    assert Kind.MIXED not in kinds(Mask.causal() & Mask.lengths(torch.tensor([4096])), 4096, 4096)


IDS = torch.arange(600) // 100


@pytest.mark.parametrize("mask", [
    Mask.causal(), Mask.window(100), Mask.documents(IDS, IDS), Mask.where(lambda i, j: i >= j),
    Mask.causal() & Mask.documents(IDS // 2, IDS // 2),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
def test_long_attention_under_a_mask_is_that_under_its_booleans(mask, batch):
    inputs = queries_keys_values(*batch, num_queries=600, num_keys=600)
    ours = DotProductAttention()(*inputs, mask=mask, need_weights=False).output
    theirs = DotProductAttention()(*inputs, mask=mask.dense(600, 600)).output
    close(ours, theirs)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("mask", [Mask.causal(), Mask.window(1), ~Mask.window(1)], ids=repr)
def test_no_query_sees_nothing(mask, need_weights):
    q, k, v = queries_keys_values(2, num_queries=0)
    for score in (lambda q, k: q @ k.mT, GaussianScore()):
        attention = Attention(score)
        for keys in (k, torch.full_like(k, torch.nan)):
            output = attention(q, keys, v, mask=mask, need_weights=need_weights).output
            assert output.shape == (2, 0, 2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.int16])
def test_documents_may_be_numbered_in_any_dtype_of_integers(dtype):
    q, k, v = queries_keys_values(num_queries=300, num_keys=300)
    ids = torch.arange(300) * 7 // 300
    mask = Mask.documents(ids.to(dtype), ids.to(dtype))
    expected = DotProductAttention()(q, k, v, mask=ids[:, None] == ids).output
    close(DotProductAttention()(q, k, v, mask=mask, need_weights=False).output, expected)


def test_booleans_that_are_returned_are_nobody_else_s():
    table = torch.ones(3, 3, dtype=torch.bool)
    for mask in (Mask.tensor(table), ~~Mask.tensor(table), Mask.where(lambda i, j: table)):
        mask.dense(3, 3)[0, 0] = False
        assert mask.dense(3, 3).all()
    assert table.all()


@pytest.mark.parametrize("size", [5, 300])
@pytest.mark.parametrize("held", [0.0, torch.nan])
@pytest.mark.parametrize("need_weights", [True, False])
def test_a_predicate_may_look_at_keys_alone(size, held, need_weights):
    q, k, v = queries_keys_values(2, num_queries=size, num_keys=size)
    keep = torch.arange(size) % 2 == 1
    expected = DotProductAttention()(q, k, v, mask=keep).output
    k[:, ~keep] += held
    for predicate in (lambda i, j: keep[j[0]], lambda i, j: keep[j]):
        found = DotProductAttention()(
            q, k, v, mask=Mask.where(predicate), need_weights=need_weights
        )
        close(found.output, expected)
    every = Mask.where(lambda i, j: torch.tensor(True))
    close(
        DotProductAttention()(q, q, v, mask=every, need_weights=need_weights).output,
        DotProductAttention()(q, q, v).output,
    )


@pytest.mark.parametrize("far", [2**31, 2**62, 2**63 - 1, 10**20])
def test_a_window_may_be_as_wide_as_numbers_go(far):
    assert Mask.window(0, far).dense(3, 3).equal(torch.ones(3, 3, dtype=torch.bool).triu())
    assert Mask.window(far).dense(3, 3).equal(torch.ones(3, 3, dtype=torch.bool).tril())
    q, k, v = queries_keys_values(num_queries=300, num_keys=300)
    ours = DotProductAttention()(q, k, v, mask=Mask.window(far, far), need_weights=False).output
    close(ours, DotProductAttention()(q, k, v).output)


@pytest.mark.parametrize("kind", ["lengths", "tensor", "documents"])
@pytest.mark.parametrize("size", [20, 300])
@pytest.mark.parametrize("score", [DotProductAttention(), Attention(GaussianScore())])
def test_masks_of_inference_mode_serve_for_training(kind, size, score):
    with torch.inference_mode():
        mask = {
            "lengths": Mask.lengths(torch.tensor([9, 20])),
            "tensor": Mask.tensor(torch.ones(size, size, dtype=torch.bool).tril()),
            "documents": Mask.documents(*[torch.arange(size) // 10] * 2),
        }[kind]
        booleans = mask.dense(size, size)
    inputs = [x.requires_grad_() for x in queries_keys_values(2, num_queries=size, num_keys=size)]
    found = [
        torch.autograd.grad(score(*inputs, mask=m, need_weights=False).output.sum(), inputs)
        for m in (mask, booleans.clone())
    ]
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs)


def test_a_predicate_may_be_made_while_it_is_compiled():
    q, k, v = queries_keys_values(num_queries=20, num_keys=20)

    def call(q: Tensor) -> Tensor:
        output = DotProductAttention()(q, k, v, mask=Mask.where(lambda i, j: i >= j)).output
        assert isinstance(output, Tensor)
        return output

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    close(compiled(q), call(q))


def test_booleans_join_masks():
    table = torch.ones(3, 3, dtype=torch.bool).triu()
    for both in (Mask.causal() & table, table & Mask.causal()):
        assert both.dense(3, 3).equal(torch.eye(3, dtype=torch.bool))
    for one in (Mask.causal() | table, table | Mask.causal()):
        assert one.dense(3, 3).all()
