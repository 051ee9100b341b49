"""Encoders, the attention decoder, its loss: against plain formulas and each sequence alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d2lattn import (
    AdditiveScore,
    Attention,
    Biased,
    BilinearScore,
    DotProductScore,
    GaussianScore,
    RelativeBias,
    RotaryScore,
    Score,
)
from d2lattn.characters import BEGIN
from d2lattn.encoders import ConvolutionalEncoder, Encoded, RecurrentEncoder
from d2lattn.keys_projected import KeysProjected
from d2lattn.seq2seq import AttentionDecoder, FixedContextDecoder, Seq2Seq, sequence_loss
from tests.helpers import close, normal

LETTERS, DIGITS, EMBED, HIDDEN = 9, 7, 4, 6


class Cosine(Score):
    """Somebody's own score: the query is divided by its length, the key turned round."""

    def project(self, queries, keys):
        return queries / queries.norm(dim=-1, keepdim=True), keys.flip(-1)

    def compare(self, q, k):
        return q @ k.mT


SCORES: dict[str, Callable[[], Score]] = {
    "additive": lambda: AdditiveScore(HIDDEN, HIDDEN, 5),
    "dot product": DotProductScore,
    "bilinear": lambda: BilinearScore(HIDDEN, HIDDEN),
    "gaussian": lambda: GaussianScore(1.5, learnable=True),
    "one's own": Cosine,
}
ENCODERS: dict[str, Callable[[], RecurrentEncoder | ConvolutionalEncoder]] = {
    "recurrent": lambda: RecurrentEncoder(LETTERS, EMBED, HIDDEN),
    "convolutional": lambda: ConvolutionalEncoder(LETTERS, EMBED, HIDDEN, max_tokens=12),
}


def model_with(score: str = "additive", encoder: str = "recurrent", seed: int = 0) -> Seq2Seq:
    torch.manual_seed(seed)
    decoder = AttentionDecoder(DIGITS, EMBED, HIDDEN, HIDDEN, SCORES[score]())
    return Seq2Seq(ENCODERS[encoder](), decoder).double()


TOKENS = torch.tensor([[3, 4, 5, 6, 7], [8, 3, 4, 0, 0], [5, 0, 0, 0, 0]])
LENS = torch.tensor([5, 3, 1])
TARGETS = torch.tensor([[3, 4, 2, 0], [5, 2, 0, 0], [6, 5, 4, 2]])
TARGET_LENS = torch.tensor([3, 2, 4])


def other_padding(tokens: Tensor, lens: Tensor) -> Tensor:
    """The same sequences, with something else behind their ends, and more of it."""
    wider = F.pad(tokens, (0, 3))
    return torch.where(torch.arange(wider.shape[1]) < lens.unsqueeze(-1), wider, 6)


# --- encoders ---


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_says_of_a_padded_sequence_what_it_says_of_it_alone(encoder):
    torch.manual_seed(0)
    model = ENCODERS[encoder]().double()
    for tokens in (TOKENS, other_padding(TOKENS, LENS)):
        encoded = model(tokens, LENS)
        for i, length in enumerate(LENS.tolist()):
            alone = model(TOKENS[i : i + 1, :length], LENS[i : i + 1])
            close(encoded.outputs[i, :length], alone.outputs[0])
            close(encoded.state[i], alone.state[0])


def test_the_recurrent_state_is_the_one_behind_the_last_valid_token_and_the_first_on_the_way_back():
    model = RecurrentEncoder(LETTERS, EMBED, HIDDEN).double()
    encoded = model(TOKENS, LENS)
    for i, length in enumerate(LENS.tolist()):
        there, back = encoded.outputs[i].split(HIDDEN // 2, dim=-1)
        close(encoded.state[i], torch.cat([there[length - 1], back[0]]))


def test_the_recurrent_encoder_is_two_gated_recurrent_units_as_cho_and_others_write_them():
    model = RecurrentEncoder(LETTERS, EMBED, HIDDEN).double()
    encoded, half = model(TOKENS, LENS), HIDDEN // 2

    def run(x: Tensor, suffix: str) -> Tensor:
        w, u, b, c = (
            getattr(model.rnn, f"{name}_l0{suffix}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, states = torch.zeros(half, dtype=torch.float64), []
        for token in x:
            r_x, z_x, n_x = (w @ token + b).split(half)
            r_h, z_h, n_h = (u @ h + c).split(half)
            z = torch.sigmoid(z_x + z_h)
            h = (1 - z) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + z * h
            states.append(h)
        return torch.stack(states)

    for i, length in enumerate(LENS.tolist()):
        x = model.embedding.weight[TOKENS[i, :length]]
        both = torch.cat([run(x, ""), run(x.flip(0), "_reverse").flip(0)], dim=-1)
        close(encoded.outputs[i, :length], both)


def test_a_convolution_sees_its_neighbours_and_no_further():
    model = ConvolutionalEncoder(LETTERS, EMBED, HIDDEN, 12, num_layers=2, width=3).double()
    tokens = torch.full((1, 9), 3)
    other = tokens.clone()
    other[0, 0] = 4
    lens = torch.tensor([9])
    differs = (model(tokens, lens).outputs != model(other, lens).outputs).any(dim=-1)
    assert differs.tolist() == [[True] * 3 + [False] * 6]


# --- the decoder ---


def written_out(model: Seq2Seq, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """One sequence without padding, step by step, by the formulas of Bahdanau and others."""
    decoder, keys = model.decoder, model.encoder(tokens, torch.tensor([tokens.shape[1]]))
    h = keys.outputs[0]
    s = torch.tanh(decoder.bridge.weight @ keys.state[0] + decoder.bridge.bias)
    previous, logits, weights = BEGIN, [], []
    for target in targets[0].tolist():
        scores = decoder.attention.score(s.unsqueeze(0), h)[0]
        alpha = scores.exp() / scores.exp().sum()
        context = sum(a * h_j for a, h_j in zip(alpha, h, strict=True))
        x = torch.cat([decoder.embedding.weight[previous], context])
        s = decoder.cell(x.unsqueeze(0), s.unsqueeze(0))[0]
        logits.append(decoder.dense.weight @ torch.cat([s, context]) + decoder.dense.bias)
        weights.append(alpha)
        previous = target
    return torch.stack(logits), torch.stack(weights)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("score", SCORES)
def test_every_score_gives_what_the_formulas_give_for_each_sequence_alone(score, encoder):
    model = model_with(score, encoder)
    logits, weights = model(other_padding(TOKENS, LENS), LENS, TARGETS)
    assert weights is not None
    for i, length in enumerate(LENS.tolist()):
        expected = written_out(model, TOKENS[i : i + 1, :length], TARGETS[i : i + 1])
        close(logits[i], expected[0])
        close(weights[i, :, :length], expected[1])
        assert (weights[i, :, length:] == 0).all()


@pytest.mark.parametrize("score", SCORES)
def test_padding_changes_neither_the_loss_nor_any_gradient(score):
    model = model_with(score)

    def loss_and_gradients(tokens: Tensor, targets: Tensor) -> list[Tensor]:
        logits, _ = model(tokens, LENS, targets)
        loss = sequence_loss(logits, targets, TARGET_LENS)
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    here = loss_and_gradients(TOKENS, TARGETS)
    there = loss_and_gradients(other_padding(TOKENS, LENS), other_padding(TARGETS, TARGET_LENS))
    for a, b in zip(here, there, strict=True):
        close(a, b)


def test_teacher_forcing_tells_each_step_the_token_before_it_and_nothing_later():
    model = model_with()
    logits, _ = model(TOKENS, LENS, TARGETS)
    other = TARGETS.clone()
    other[:, 1] = 3
    changed, _ = model(TOKENS, LENS, other)
    assert torch.equal(logits[:, :2], changed[:, :2])
    assert (logits[0, 2] != changed[0, 2]).any()


def test_a_step_at_a_time_gives_what_all_steps_give():
    model = model_with()
    logits, weights = model(TOKENS, LENS, TARGETS)
    memory = model.decoder.remember(model.encoder(TOKENS, LENS))
    hidden = model.decoder.start(memory)
    previous = torch.full((3,), BEGIN)
    for t in range(4):
        scores, hidden, looks = model.decoder.step(previous, hidden, memory)
        close(scores, logits[:, t])
        assert looks is not None
        assert weights is not None
        close(looks, weights[:, t])
        previous = TARGETS[:, t]


def test_the_decoder_projects_the_keys_once_for_all_steps():
    model, seen = model_with("additive"), []
    score: Any = model.decoder.attention.score
    layer = score.W_k
    layer.register_forward_hook(lambda module, args, output: seen.append(args[0].numel()))
    model(TOKENS, LENS, TARGETS)
    assert sorted(seen) == [0, 0, 0, 0, TOKENS.numel() * HIDDEN]


def test_who_listens_to_a_score_hears_of_every_step_and_the_result_is_the_same():
    model, heard = model_with("bilinear"), []
    expected, _ = model(TOKENS, LENS, TARGETS)
    score: Any = model.decoder.attention.score
    score.register_forward_hook(lambda *_: heard.append(1))
    logits, _ = model(TOKENS, LENS, TARGETS)
    close(logits, expected)
    assert len(heard) == 4


@pytest.mark.parametrize("turned", [RotaryScore(), Biased(RotaryScore(), RelativeBias(2))])
def test_where_a_token_stands_among_others_counts_for_the_decoder(turned):
    encoded = Encoded(normal(2, 9, HIDDEN), normal(2, HIDDEN), torch.tensor([9, 5]))
    decoder = AttentionDecoder(10, 4, HIDDEN, HIDDEN, turned).double().eval()
    hidden = normal(2, HIDDEN, seed=5)
    context, _ = decoder.look(hidden, decoder.remember(encoded))
    expected = Attention(turned)(hidden[:, None], encoded[0], encoded[0], encoded[2]).output
    close(context, expected[:, 0])


@pytest.mark.parametrize("score", SCORES)
def test_projected_keys_give_the_same_scores_and_gradients(score):
    inner = SCORES[score]().double()
    once = KeysProjected(inner, HIDDEN, HIDDEN)
    q, k = (normal(2, n, HIDDEN, seed=n, requires_grad=True) for n in (1, 4))
    here, there = once(q, once.keys(k)), inner(q, k)
    close(here, there)
    for a, b in zip(*(torch.autograd.grad(x.sin().sum(), (q, k)) for x in (here, there))):  # noqa: B905
        close(a, b)


def test_dropout_of_weights_acts_in_training_only():
    torch.manual_seed(0)
    decoder = AttentionDecoder(DIGITS, EMBED, HIDDEN, HIDDEN, DotProductScore(), dropout=0.5)
    model = Seq2Seq(RecurrentEncoder(LETTERS, EMBED, HIDDEN), decoder)
    _, dropped = model(TOKENS, LENS, TARGETS)
    assert (dropped[0] == 0).any()
    _, kept = model.eval()(TOKENS, LENS, TARGETS)
    close(kept.sum(dim=-1), torch.ones(3, 4))


def test_a_fixed_context_sees_the_state_alone():
    torch.manual_seed(0)
    decoder = FixedContextDecoder(DIGITS, EMBED, HIDDEN, HIDDEN)
    model = Seq2Seq(RecurrentEncoder(LETTERS, EMBED, HIDDEN), decoder)
    logits, weights = model(TOKENS, LENS, TARGETS)
    assert weights is None
    encoded = model.encoder(TOKENS, LENS)
    hidden = torch.tanh(decoder.bridge(encoded.state))
    x = torch.cat([decoder.embedding(torch.full((3,), BEGIN)), encoded.state], dim=-1)
    first = decoder.dense(torch.cat([decoder.cell(x, hidden), encoded.state], dim=-1))
    close(logits[:, 0], first)


def test_a_model_can_be_copied_and_keeps_no_weights():
    model = model_with()
    model(TOKENS, LENS, TARGETS)
    twin = copy.deepcopy(model)
    close(twin(TOKENS, LENS, TARGETS)[0], model(TOKENS, LENS, TARGETS)[0])
    assert not [name for name in model.state_dict() if "once" in name or "weights" in name]


# --- the loss ---


def test_the_loss_is_pytorchs_cross_entropy_where_there_is_something_to_write():
    logits = normal(3, 4, DIGITS, requires_grad=True)
    ours = sequence_loss(logits, TARGETS, TARGET_LENS)
    padding = torch.arange(4) >= TARGET_LENS.unsqueeze(-1)
    ignored = TARGETS.masked_fill(padding, -100)
    theirs = F.cross_entropy(logits.mT, ignored, ignore_index=-100)
    close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours, logits)
    assert (gradient[padding] == 0).all()
    assert (gradient[~padding] != 0).all()


def test_what_stands_at_padding_has_no_influence_on_the_loss_not_even_nan():
    logits = normal(3, 4, DIGITS)
    expected = sequence_loss(logits, TARGETS, TARGET_LENS)
    logits[torch.arange(4) >= TARGET_LENS.unsqueeze(-1)] = math.nan
    assert torch.equal(sequence_loss(logits, TARGETS, TARGET_LENS), expected)


# --- wrong arguments ---

CLASS: Any = DotProductScore
FUNCTION: Any = torch.matmul

MODEL = model_with()
ENCODER, DECODER = MODEL.encoder, MODEL.decoder
LOGITS = torch.zeros(3, 4, DIGITS)
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "length 0": (
        lambda: ENCODER(TOKENS, torch.tensor([5, 0, 1])),
        ValueError,
        r"valid_lens must lie in \[1, 5\], the number of tokens; got 0 at index \(1,\)",
    ),
    "length 6": (lambda: MODEL(TOKENS, torch.tensor([6, 3, 1]), TARGETS), ValueError, "got 6"),
    "two lengths": (
        lambda: ENCODER(TOKENS, LENS[:2]),
        ValueError,
        r"valid_lens must have shape \(3,\)",
    ),
    "decimal lengths": (
        lambda: ENCODER(TOKENS, LENS.float()),
        TypeError,
        "valid_lens must hold int",
    ),
    "decimal tokens": (
        lambda: ENCODER(TOKENS.float(), LENS),
        TypeError,
        "tokens must hold integers",
    ),
    "one axis": (
        lambda: ENCODER(TOKENS[0], LENS),
        ValueError,
        r"tokens must have shape \(batch, to",
    ),
    "no tokens": (lambda: ENCODER(TOKENS[:, :0], LENS), ValueError, "tokens must have shape"),
    "no sequences": (lambda: ENCODER(TOKENS[:0], LENS[:0]), ValueError, "tokens must have shape"),
    "another vocabulary": (
        lambda: ENCODER(TOKENS + 1, LENS),
        ValueError,
        r"tokens must lie in \[0, 8\], the vocabulary of the model; got 9",
    ),
    "negative token": (lambda: ENCODER(TOKENS - 1, LENS), ValueError, "got -1 at index"),
    "targets of another vocabulary": (
        lambda: MODEL(TOKENS, LENS, TARGETS + 1),
        ValueError,
        r"targets must lie in \[0, 6\]",
    ),
    "fewer targets": (
        lambda: MODEL(TOKENS, LENS, TARGETS[:2]),
        ValueError,
        "targets must be 3 seq",
    ),
    "decimal targets": (
        lambda: MODEL(TOKENS, LENS, TARGETS / 1),
        TypeError,
        "targets must hold int",
    ),
    "too long": (
        lambda: ENCODERS["convolutional"]()(torch.full((1, 13), 3), torch.tensor([13])),
        ValueError,
        "tokens must be at most 12 a sequence; got 13",
    ),
    "odd hidden": (lambda: RecurrentEncoder(9, 4, 5), ValueError, "num_hiddens must be even"),
    "no hidden": (lambda: RecurrentEncoder(9, 4, 0), ValueError, "num_hiddens must be at least 1"),
    "even width": (
        lambda: ConvolutionalEncoder(9, 4, 6, 5, width=2),
        ValueError,
        "width must be odd",
    ),
    "sizes": (lambda: AttentionDecoder(7, 4, 6, 0, DotProductScore()), ValueError, "context_size"),
    "class of a score": (
        lambda: AttentionDecoder(7, 4, 6, 6, CLASS),
        TypeError,
        "score must be a Score, made with its arguments",
    ),
    "a function": (
        lambda: KeysProjected(FUNCTION, 6, 6),
        TypeError,
        "score must be a S",
    ),
    "key_size": (
        lambda: KeysProjected(DotProductScore(), 0, 6),
        ValueError,
        "key_size must be at l",
    ),
    "widths": (
        lambda: Seq2Seq(RecurrentEncoder(9, 4, 8), DECODER),
        ValueError,
        "decoder must have context_size=8, the num_hiddens of the encoder; got 6",
    ),
    "score of other widths": (
        lambda: Seq2Seq(
            RecurrentEncoder(9, 4, 6), AttentionDecoder(7, 4, 6, 6, AdditiveScore(5, 6, 4))
        )(TOKENS, LENS, TARGETS),
        ValueError,
        "keys must have the 5 features",
    ),
    "logits": (
        lambda: sequence_loss(LOGITS[:, :3], TARGETS, TARGET_LENS),
        ValueError,
        "logits must have shape",
    ),
    "integer logits": (
        lambda: sequence_loss(LOGITS.long(), TARGETS, TARGET_LENS),
        TypeError,
        "logits must be floating point",
    ),
    "nothing to write": (
        lambda: sequence_loss(LOGITS, TARGETS, torch.tensor([3, 0, 4])),
        ValueError,
        "got 0 at index",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named(case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call()
