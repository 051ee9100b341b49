"""What D2L's readers call: its published values, its weights, its models; not its defects."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import d2lattn
from d2lattn import d2l
from d2lattn.measure import peak_bytes
from tests.helpers import close, gradients, normal

# Zhang et al., "Attention Scoring Functions" (zh.d2l.ai): ten equal keys, lengths 2 and 6.
KEYS = torch.ones(2, 10, 2)
VALUES = torch.arange(40, dtype=torch.float32).reshape(1, 10, 4).repeat(2, 1, 1)
LENGTHS = torch.tensor([2, 6])
OUTPUT = torch.tensor([[[2.0, 3.0, 4.0, 5.0]], [[10.0, 11.0, 12.0, 13.0]]])
WEIGHTS = torch.tensor([[[1 / 2] * 2 + [0.0] * 8], [[1 / 6] * 6 + [0.0] * 4]])


class Textbook(nn.Module):
    """D2L's two layers, written from its formulas and the names of its parameters: the oracle.

    With numbers that are finite and at least one key for each query it is right.
    """

    def __init__(self, num_hiddens: int | None = None) -> None:
        super().__init__()
        if num_hiddens is not None:
            self.W_k = nn.LazyLinear(num_hiddens, bias=False)
            self.W_q = nn.LazyLinear(num_hiddens, bias=False)
            self.w_v = nn.LazyLinear(1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, lens: Tensor) -> Tensor:
        if hasattr(self, "W_q"):
            q, k = self.W_q(queries), self.W_k(keys)
            scores = self.w_v(torch.tanh(q.unsqueeze(2) + k.unsqueeze(1))).squeeze(-1)
        else:
            scores = torch.bmm(queries, keys.transpose(1, 2)) / math.sqrt(queries.shape[-1])
        lens = lens.reshape(len(lens), -1, 1)  # (batch, 1 or queries, 1)
        hidden = torch.arange(keys.shape[1]) >= lens
        self.weights = scores.masked_fill(hidden, -1e6).softmax(dim=-1)
        return torch.bmm(self.weights, values)


def tokens(dtype: torch.dtype = torch.float64, grad: bool = False) -> tuple[Tensor, ...]:
    shapes = (3, 4, 6), (3, 5, 2), (3, 5, 7)
    q, k, v = (
        normal(*shape, seed=i, dtype=dtype, requires_grad=grad) for i, shape in enumerate(shapes)
    )
    return q, k, v


# --- its values and its weights ---


@pytest.mark.parametrize(
    ("layer", "features"),
    [
        (lambda: d2l.AdditiveAttention(num_hiddens=8, dropout=0.1), 20),
        (lambda: d2l.AdditiveAttention(2, 20, 8, 0.1), 20),
        (lambda: d2l.DotProductAttention(dropout=0.5), 2),
    ],
    ids=["additive", "additive, sizes given", "dot product"],
)
@pytest.mark.parametrize("lens", [LENGTHS, LENGTHS.float(), LENGTHS[:, None].double()])
def test_the_published_example_gives_the_published_output_and_weights(
    layer: Any, features: int, lens: Tensor
) -> None:
    attention = layer().eval()
    close(attention(torch.normal(0, 1, (2, 1, features)), KEYS, VALUES, lens), OUTPUT)
    close(attention.attention_weights, WEIGHTS)


@pytest.mark.parametrize("lens", [torch.tensor([1, 5, 3]), torch.tensor([[1, 2, 3, 4]] * 3)])
@pytest.mark.parametrize("kind", ["lazy", "lazy, called before", "sizes given"])
def test_a_state_dict_of_d2l_s_layer_gives_its_output_weights_and_gradients(
    lens: Tensor, kind: str
) -> None:
    inputs = tokens(grad=True)
    theirs = Textbook(8).double()
    expected = theirs(*inputs, lens)  # which also makes its layers
    lazy = kind != "sizes given"
    ours = d2l.AdditiveAttention(8, 0.3) if lazy else d2l.AdditiveAttention(2, 6, 8, 0.3)
    ours = ours.double().eval()
    if kind == "lazy, called before":
        ours(*inputs)
    assert not ours.load_state_dict(theirs.state_dict()).missing_keys
    found = ours(*inputs, lens.float())
    close(found, expected)
    close(ours.attention_weights, theirs.weights.detach())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    mine = gradients(found, [*inputs, ours.W_q.weight, ours.W_k.weight, ours.w_v.weight])
    other = gradients(expected, [*inputs, theirs.W_q.weight, theirs.W_k.weight, theirs.w_v.weight])
    for gradient, reference in zip(mine, other, strict=True):
        close(gradient, reference)


def test_dot_products_give_d2l_s_output_and_weights() -> None:
    q, _, v = tokens()
    k, lens = normal(3, 5, 6, seed=9), torch.tensor([1, 5, 3])
    ours, theirs = d2l.DotProductAttention(0.2, num_heads=4).eval(), Textbook()
    close(ours(q, k, v, lens), theirs(q, k, v, lens))
    close(ours.attention_weights, theirs.weights)
    assert not ours.state_dict()
    close(ours(q, k, v, lens, window_mask=None), theirs(q, k, v, lens))
    with pytest.raises(TypeError, match="window_mask must be None"):
        ours(q, k, v, lens, torch.zeros(1, 3, 5))


def test_the_same_seed_makes_the_same_layers() -> None:
    q, k, v = tokens(torch.float32)
    torch.manual_seed(3)
    expected = Textbook(8)(q, k, v, torch.tensor([5, 5, 5]))
    torch.manual_seed(3)
    close(d2l.AdditiveAttention(8, 0.0)(q, k, v), expected)


def test_masked_softmax_has_the_published_zeros() -> None:
    """masked_softmax(rand(2, 2, 4), [2, 3]) and [[1, 3], [2, 4]]."""
    found = d2l.masked_softmax(torch.rand(2, 2, 4), torch.tensor([2.0, 3.0]))
    assert (found > 0).int().tolist() == [[[1, 1, 0, 0]] * 2, [[1, 1, 1, 0]] * 2]
    found = d2l.masked_softmax(torch.rand(2, 2, 4), torch.tensor([[1, 3], [2, 4]]))
    assert found[0, 0].tolist() == [1, 0, 0, 0]
    assert (found[1] > 0).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    close(d2l.masked_softmax(torch.zeros(1, 1, 4), None), torch.full((1, 1, 4), 0.25))


def test_lengths_repeated_for_heads_mask_every_head() -> None:
    scores, heads = normal(2 * 3, 4, 5), 3
    for lens in (torch.tensor([2.0, 5.0]), torch.tensor([[1, 2, 3, 4], [5, 5, 5, 5]])):
        repeated = torch.repeat_interleave(lens, repeats=heads, dim=0)
        found = d2l.masked_softmax(scores, repeated).reshape(2, heads, 4, 5)
        long = lens.long().unsqueeze(1)  # an axis for the heads
        close(found, d2lattn.masked_softmax(scores.reshape(2, heads, 4, 5), long))


# --- what is broken there is not here (facts of the second edition and 1.0.3) ---


def test_scores_are_not_changed_and_may_be_a_leaf() -> None:
    scores = normal(2, 3, 4, requires_grad=True)
    before = scores.detach().clone()
    d2l.masked_softmax(scores, torch.tensor([1, 2])).square().sum().backward()
    assert torch.equal(scores.detach(), before)
    assert scores.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_length_0_gives_zeros_and_lets_no_gradient_through(dtype: torch.dtype) -> None:
    q, k, v = tokens(dtype, grad=True)
    attention = d2l.AdditiveAttention(8, 0.0).to(dtype)
    output = attention(q, k, v, torch.tensor([0, 5, 2]))
    output.sum().backward()
    assert not output[0].any()
    assert not attention.attention_weights[0].any()
    for tensor in (q, k, v):
        assert tensor.grad is not None
        assert not tensor.grad[0].any()
        assert tensor.grad.isfinite().all()


def test_scores_far_below_a_million_leave_no_weight_on_padding() -> None:
    found = d2l.masked_softmax(torch.tensor([[[-1e30, -2e30, 0.0]]]), torch.tensor([2]))
    assert found.tolist() == [[[1.0, 0.0, 0.0]]]


def test_nan_in_padding_reaches_neither_output_nor_gradient() -> None:
    q, k, v = (x.detach().clone() for x in tokens())
    k[:, 3:], v[:, 3:] = math.nan, math.inf
    for tensor in (q, k, v):
        tensor.requires_grad_()
    attention = d2l.AdditiveAttention(8, 0.0).double()
    output = attention(q, k, v, torch.tensor([3.0, 2.0, 1.0]))
    output.sum().backward()
    assert output.isfinite().all()
    for parameter in (q, k, v, *attention.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_no_tensor_of_queries_keys_and_hidden_units_is_made() -> None:
    attention = d2l.AdditiveAttention(64, 64, 64, 0.0)
    q, k, v = (normal(1, 512, 64, seed=i, dtype=torch.float32) for i in range(3))
    with torch.no_grad():
        assert peak_bytes(lambda: attention(q, k, v)) < 512 * 512 * 64 * 4 / 4


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_kept_weights_are_those_that_were_used_and_hold_no_graph(dropout: float) -> None:
    q, k, v = tokens(grad=True)
    attention = d2l.AdditiveAttention(8, dropout).double()
    output = attention(q, k, v, torch.tensor([5, 4, 3]))
    assert not attention.attention_weights.requires_grad
    close(attention.attention_weights @ v, output)
    for twin in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))):
        close(twin.eval()(q, k, v), attention.eval()(q, k, v))


# --- as a module among others ---


def test_a_copy_and_a_replaced_layer_count() -> None:
    q, k, v = tokens()
    attention = d2l.AdditiveAttention(2, 6, 8, 0.0).double()
    before = attention(q, k, v)
    shallow = copy.copy(attention)  # as nn.DataParallel makes its replicas
    shallow._modules = dict(attention._modules)
    shallow.w_v = nn.Linear(8, 1, bias=False).double()
    assert not torch.allclose(shallow(q, k, v), before)
    close(attention(q, k, v), before)
    attention.w_v, attention.dropout = shallow.w_v, nn.Dropout(1.0)
    assert not attention(q, k, v).any()
    close(attention.eval()(q, k, v), shallow(q, k, v))


def test_it_compiles_in_one_graph() -> None:
    q, k, v = tokens(torch.float32)
    for attention in (d2l.AdditiveAttention(8, 0.0), d2l.DotProductAttention(0.0)):
        keys = k if isinstance(attention, d2l.AdditiveAttention) else normal(3, 5, 6).float()
        expected = attention(q, keys, v, torch.tensor([1.0, 2.0, 5.0]))
        compiled = torch.compile(attention, backend="eager", fullgraph=True)
        close(compiled(q, keys, v, torch.tensor([1.0, 2.0, 5.0])), expected)


def test_layers_are_made_where_their_tokens_are_compared() -> None:
    q, k, v = (x.to("meta") for x in tokens(torch.float32))
    with torch.device("meta"):
        attention = d2l.AdditiveAttention(8, 0.0)
    assert attention(q, k, v, torch.tensor([1, 2, 5], device="meta")).device.type == "meta"
    assert attention.w_v.weight.device.type == "meta"


def test_importing_the_package_does_not_import_the_bridge() -> None:
    code = "import sys, d2lattn; print('d2lattn.d2l' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- models that were written against D2L's interface ---


class Seq2SeqAttentionDecoder(nn.Module):
    """A recurrent decoder that attends to the encoder's states, as Bahdanau et al. have it."""

    def __init__(self, vocab_size: int, embed_size: int, num_hiddens: int) -> None:
        super().__init__()
        self.attention = d2l.AdditiveAttention(num_hiddens, dropout=0.1)
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.rnn = nn.GRU(embed_size + num_hiddens, num_hiddens)
        self.dense = nn.LazyLinear(vocab_size)

    def forward(self, X: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> Tensor:  # noqa: N803
        enc_outputs, hidden_state, enc_valid_lens = state
        outputs, self.attention_weights = [], []
        for x in self.embedding(X).permute(1, 0, 2):
            query = torch.unsqueeze(hidden_state[-1], dim=1)
            context = self.attention(query, enc_outputs, enc_outputs, enc_valid_lens)
            step = torch.cat((context, x.unsqueeze(1)), dim=-1)
            out, hidden_state = self.rnn(step.permute(1, 0, 2), hidden_state)
            outputs.append(out)
            self.attention_weights.append(self.attention.attention_weights)
        return self.dense(torch.cat(outputs)).permute(1, 0, 2)


class Seq2Seq(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 8)
        self.rnn = nn.GRU(8, 16)
        self.decoder = Seq2SeqAttentionDecoder(vocab_size, 8, 16)

    def forward(self, src: Tensor, src_valid_len: Tensor, tgt: Tensor) -> Tensor:
        outputs, hidden_state = self.rnn(self.embedding(src).permute(1, 0, 2))
        return self.decoder(tgt, (outputs.permute(1, 0, 2), hidden_state, src_valid_len))


class MultiHeadAttention(nn.Module):
    """Heads folded into the batch axis, lengths repeated for them."""

    def __init__(self, num_hiddens: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention = d2l.DotProductAttention(dropout)
        self.W_q, self.W_k, self.W_v, self.W_o = (
            nn.LazyLinear(num_hiddens, bias=False) for _ in range(4)
        )

    def fold(self, X: Tensor) -> Tensor:  # noqa: N803
        X = X.reshape(X.shape[0], X.shape[1], self.num_heads, -1).permute(0, 2, 1, 3)  # noqa: N806
        return X.reshape(-1, X.shape[2], X.shape[3])

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, valid_lens: Tensor) -> Tensor:
        q, k, v = (
            self.fold(self.W_q(queries)),
            self.fold(self.W_k(keys)),
            self.fold(self.W_v(values)),
        )
        lens = torch.repeat_interleave(valid_lens, repeats=self.num_heads, dim=0)
        output = self.attention(q, k, v, lens)
        output = output.reshape(-1, self.num_heads, *output.shape[1:]).permute(0, 2, 1, 3)
        return self.W_o(output.reshape(output.shape[0], output.shape[1], -1))


class SelfAttention(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 16)
        self.attention = MultiHeadAttention(16, 4, dropout=0.1)
        self.norm, self.dense = nn.LayerNorm(16), nn.LazyLinear(vocab_size)

    def forward(self, X: Tensor, valid_lens: Tensor) -> Tensor:  # noqa: N803
        tokens = self.embedding(X)
        return self.dense(self.norm(tokens + self.attention(tokens, tokens, tokens, valid_lens)))


def batches(count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tokens, how many of them are valid, as floats, and which positions those are."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        lens = torch.randint(2, 7, (32,), generator=generator)
        valid = torch.arange(6) < lens[:, None]
        numbers = torch.randint(2, 10, (32, 6), generator=generator)
        yield numbers.masked_fill(~valid, 0), lens.float(), valid


def test_a_recurrent_decoder_learns() -> None:
    """To write down what was read, one token after another."""
    torch.manual_seed(0)
    net, losses = Seq2Seq(vocab_size=10), []
    net(*next(net_inputs()))  # makes the lazy layers
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for X, lens, valid in batches(60):  # noqa: N806
        teacher = F.pad(X[:, :-1], (1, 0), value=1)
        loss = F.cross_entropy(net(X, lens, teacher)[valid], X[valid])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    weights = torch.cat(net.eval().decoder.attention_weights, dim=1)
    assert not weights.masked_select(~valid.unsqueeze(1)).any()  # nothing on padding


def net_inputs() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    return ((X, lens, X) for X, lens, _ in batches(1))


def test_a_self_attention_block_learns() -> None:
    """To say at each position which token of its sentence is the largest."""
    torch.manual_seed(0)
    net, losses = SelfAttention(vocab_size=10), []
    optimizer = None
    for X, lens, valid in batches(60):  # noqa: N806
        largest = X.amax(dim=1, keepdim=True).expand_as(X)
        loss = F.cross_entropy(net(X, lens)[valid], largest[valid])
        optimizer = optimizer or torch.optim.Adam(net.parameters(), lr=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert net.attention.attention.attention_weights.shape == (32 * 4, 6, 6)


# --- heat maps ---


@pytest.fixture
def pyplot() -> Iterator[Any]:
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    yield plt
    plt.close("all")


def test_heat_maps_have_one_scale_and_names_at_the_left_and_below(pyplot: Any) -> None:
    weights = torch.stack([torch.eye(3), torch.full((3, 3), 0.1)] * 2).reshape(2, 2, 3, 3)
    show: Any = d2l.show_heatmaps
    answer = show(
        weights.requires_grad_(), xlabel="Keys", ylabel="Queries", titles=["a", "b"],
        figsize=(5, 4), cmap="Blues",
    )  # fmt: skip
    assert answer is None  # a notebook shows the figure of pyplot, once
    figure = pyplot.gcf()
    assert figure.get_size_inches().tolist() == [5, 4]
    *panels, colorbar = figure.axes
    assert [ax.get_title() for ax in panels] == ["a", "b"] * 2
    assert [ax.get_xlabel() for ax in panels] == ["", "", "Keys", "Keys"]
    assert [ax.get_ylabel() for ax in panels] == ["Queries", "", "Queries", ""]
    images = [ax.images[0] for ax in panels]
    assert {image.get_clim() for image in images} == {(0.0, 1.0)}
    assert {image.get_cmap().name for image in images} == {"Blues"}
    assert images[0].get_array().tolist() == torch.eye(3).tolist()
    assert colorbar.get_ylim() == (0.0, 1.0)


def test_a_map_of_other_numbers_has_a_scale_that_holds_them(pyplot: Any) -> None:
    d2l.show_heatmaps(torch.tensor([[[[-1.0, 0.5]], [[0.0, 2.0]]]]), "Column", "Row")
    assert {ax.images[0].get_clim() for ax in pyplot.gcf().axes[:2]} == {(-1.0, 2.0)}


# --- bad input ---


@pytest.mark.parametrize(
    ("lens", "message"),
    [
        (torch.tensor([1.0, 2.5, 3.0]), r"valid_lens must be whole numbers; got 2.5 at index \(1,"),
        (torch.tensor([1.0, math.nan, 3.0]), "valid_lens must be whole numbers; got nan"),
        (torch.tensor([1.0, 2.0, math.inf]), "valid_lens must be whole numbers; got inf"),
        (torch.tensor([1.0, 2.0, 6.0]), r"valid_lens must lie in \[0, 5\].* got 6 at index \(2,"),
        (torch.tensor([-1, 2, 3]), r"valid_lens must lie in \[0, 5\]"),
        (torch.tensor([1.0, 2.0]), r"valid_lens must have shape \(3,\)"),
        (torch.ones(12), r"valid_lens must have shape \(3,\)"),
    ],
)
def test_lengths_that_cannot_be_meant_are_refused(lens: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        d2l.AdditiveAttention(8, 0.0).double()(*tokens(), lens)
    with pytest.raises(ValueError, match=message):
        d2l.masked_softmax(torch.zeros(3, 4, 5), lens)


@pytest.mark.parametrize("lens", [torch.tensor([True, False, True]), [1, 2, 3]])
def test_lengths_that_are_no_numbers_are_refused(lens: Any) -> None:
    with pytest.raises(Exception, match=r"valid_lens|lens"):
        d2l.masked_softmax(torch.zeros(3, 4, 5), lens)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((8,), {}, r"takes \(num_hiddens, dropout\) or \(key_size"),
        ((2, 20, 8), {}, r"takes \(num_hiddens, dropout\) or \(key_size"),
        ((8, 0.1), {"num_hiddens": 8}, r"takes \(num_hiddens, dropout\) or"),
        ((8,), {"num_hiddens": 8}, r"takes \(num_hiddens, dropout\) or"),
        ((), {"num_hiddens": 8, "bias": False}, r"takes \(num_hiddens, dropout\) or"),
        ((0.5, 0.1), {}, "num_hiddens must be an integer"),
        ((0, 0.1), {}, "num_hiddens must be at least 1; got 0"),
        ((-2, 20, 8, 0.1), {}, "key_size must be at least 1; got -2"),
        ((8, 1.5), {}, "dropout must be a probability"),
    ],
)
def test_arguments_in_no_known_order_are_refused(
    arguments: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        d2l.AdditiveAttention(*arguments, **named)


def test_both_orders_are_taken_by_name() -> None:
    layer = d2l.AdditiveAttention(key_size=2, query_size=20, num_hiddens=8, dropout=0.1)
    assert [tuple(x.shape) for x in layer.parameters()] == [(8, 2), (8, 20), (1, 8)]
    assert isinstance(d2l.AdditiveAttention(8, dropout=0.1).W_k, nn.LazyLinear)


def test_tokens_that_do_not_fit_the_loaded_weights_are_named() -> None:
    q, k, v = tokens(torch.float32)
    attention = d2l.AdditiveAttention(8, 0.0)
    attention.load_state_dict(d2l.AdditiveAttention(3, 6, 8, 0.0).state_dict())
    with pytest.raises(ValueError, match="keys must have the 3 features that the layer was made"):
        attention(q, k, v)
    with pytest.raises(TypeError, match="queries must have the dtype of the layer"):
        d2l.AdditiveAttention(8, 0.0)(*tokens())
    with pytest.raises(ValueError, match="values must be as many as the keys, 5; got 4"):
        d2l.AdditiveAttention(8, 0.0)(q, k, v[:, :4])


@pytest.mark.parametrize(
    ("matrices", "titles", "message"),
    [
        (torch.eye(3), None, r"matrices must have shape \(rows, columns, queries, keys\).* \(3, 3"),
        (torch.zeros(1, 0, 2, 2), None, "none of them 0"),
        (torch.zeros(1, 2, 2, 2), ["a"], "titles must be as many as the columns of the grid, 2"),
        (torch.zeros(1, 1, 2, 2).long(), None, "matrices must be floating point"),
    ],
)
def test_what_is_no_grid_of_matrices_is_refused(
    matrices: Tensor, titles: list[str] | None, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        d2l.show_heatmaps(matrices, "Keys", "Queries", titles)
