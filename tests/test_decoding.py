"""What a model writes: greedily as teacher forcing says, with a beam as trying everything says."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from d2lattn.characters import END
from d2lattn.decoding import beam_search, write_greedily
from d2lattn.seq2seq import Seq2Seq
from tests.helpers import close
from tests.test_seq2seq import DIGITS, LENS, TOKENS, model_with

STEPS = 3


@pytest.fixture
def model() -> Seq2Seq:
    """Untrained, but more decided than that: logits eight times as large."""
    model = model_with("additive", seed=4).eval()
    with torch.no_grad():
        model.decoder.dense.weight *= 8
    return model


def log_prob(model: Seq2Seq, row: int, sequence: tuple[int, ...]) -> float:
    """Of one sequence for one input, by teacher forcing."""
    tokens, lens = TOKENS[row : row + 1, : LENS[row]], LENS[row : row + 1]
    with torch.no_grad():
        logits, _ = model(tokens, lens, torch.tensor([sequence]))
    steps = torch.zeros_like(logits[0])
    steps[:, 2:] = logits[0, :, 2:].log_softmax(dim=-1)  # neither padding nor a beginning
    return sum(steps[t, token].item() for t, token in enumerate(sequence))


def every_sequence() -> list[tuple[int, ...]]:
    """All that end, of at most so many steps, and all that were stopped."""
    others = range(END + 1, DIGITS)
    ended = [
        (*start, END)
        for length in range(STEPS)
        for start in itertools.product(others, repeat=length)
    ]
    return ended + list(itertools.product(others, repeat=STEPS))


def ended(tokens: Tensor) -> tuple[int, ...]:
    sequence = tokens.tolist()
    return tuple(sequence[: sequence.index(END) + 1] if END in sequence else sequence)


def test_greedy_writes_at_every_step_what_teacher_forcing_finds_likeliest(model):
    written = write_greedily(model, TOKENS, LENS, max_steps=8)
    with torch.no_grad():
        logits, weights = model(TOKENS, LENS, written.tokens)
    steps = torch.arange(written.tokens.shape[1])
    valid = steps < written.valid_lens.unsqueeze(-1)
    assert torch.equal(logits[..., 2:].argmax(dim=-1)[valid] + 2, written.tokens[valid])
    assert (written.tokens[~valid] == 0).all()
    assert written.weights is not None
    close(written.weights[valid], weights[valid])
    assert (written.weights[~valid] == 0).all()
    for row in range(3):
        expected = log_prob(model, row, ended(written.tokens[row]))
        assert math.isclose(float(written.log_probs[row]), expected, abs_tol=1e-12)


def test_greedy_stops_at_the_end_and_at_the_latest_after_so_many_steps(model):
    with torch.no_grad():
        model.decoder.dense.bias[END] = 1e3
    written = write_greedily(model, TOKENS, LENS, max_steps=8)
    assert written.tokens.tolist() == [[END]] * 3
    with torch.no_grad():
        model.decoder.dense.bias[END] = -1e3
    written = write_greedily(model, TOKENS, LENS, max_steps=4)
    assert written.tokens.shape == (3, 4)
    assert written.valid_lens.tolist() == [4] * 3


def test_a_beam_that_holds_everything_finds_what_trying_everything_finds(model):
    found = beam_search(model, TOKENS, LENS, max_steps=STEPS, beam_size=(DIGITS - 2) ** STEPS)
    candidates = every_sequence()
    for row in range(3):
        best = sorted(candidates, key=lambda s: -log_prob(model, row, s))[:40]
        assert [ended(s) for s in found.tokens[row, :40]] == best
        for rank, sequence in enumerate(best):
            assert math.isclose(
                float(found.log_probs[row, rank]), log_prob(model, row, sequence), abs_tol=1e-9
            )
    assert math.isclose(float(found.log_probs[0].exp().sum()), 1.0, abs_tol=1e-9)


def test_a_beam_of_one_is_greedy(model):
    found = beam_search(model, TOKENS, LENS, max_steps=8, beam_size=1)
    written = write_greedily(model, TOKENS, LENS, max_steps=8)
    assert torch.equal(found.tokens.squeeze(1), written.tokens)
    close(found.log_probs.squeeze(1), written.log_probs)


def test_a_beam_with_room_for_more_than_there_is_says_so(model):
    found = beam_search(model, TOKENS, LENS, max_steps=1, beam_size=DIGITS)
    assert found.log_probs.isfinite().sum(dim=-1).tolist() == [DIGITS - 2] * 3
    assert (found.log_probs.diff(dim=-1)[:, : DIGITS - 3] <= 0).all()


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_sizes_are_positive_integers(model, size):
    with pytest.raises((TypeError, ValueError), match="beam_size must be"):
        beam_search(model, TOKENS, LENS, 3, size)
    with pytest.raises((TypeError, ValueError), match="max_steps must be"):
        write_greedily(model, TOKENS, LENS, size)


def test_decoding_leaves_no_graph(model):
    _, _, log_probs, weights = write_greedily(model, TOKENS, LENS, 2)
    assert weights is not None
    assert not weights.requires_grad
    assert not log_probs.requires_grad
    assert not beam_search(model, TOKENS, LENS, 2, 2).log_probs.requires_grad
