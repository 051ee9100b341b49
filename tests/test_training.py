"""Training: it learns, it can be interrupted anywhere, and checkpoints know whose they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d2lattn import DotProductScore
from d2lattn.decoding import write_greedily
from d2lattn.encoders import RecurrentEncoder
from d2lattn.seq2seq import AttentionDecoder, Seq2Seq
from d2lattn.training import Batch, train


def model(dropout: float = 0.0, hidden: int = 16) -> Seq2Seq:
    torch.manual_seed(0)
    decoder = AttentionDecoder(7, 8, hidden, hidden, DotProductScore(), dropout)
    return Seq2Seq(RecurrentEncoder(7, 8, hidden), decoder)


def copies(generator: torch.Generator) -> Batch:
    """To write what stands there, 1 to 4 tokens, and then to end."""
    lens = torch.randint(1, 5, (32,), generator=generator)
    valid = torch.arange(5) < lens.unsqueeze(-1)
    tokens = torch.randint(3, 7, (32, 5), generator=generator) * valid
    targets = tokens.clone()
    targets[torch.arange(32), lens] = 2
    return Batch(tokens, lens, targets, lens + 1)


OPTIONS: dict[str, Any] = {"steps": 8, "progress": False}


def parameters(of: Seq2Seq) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in of.parameters()])


def test_a_model_learns_to_copy_what_it_never_saw():
    learner = model()
    curve = train(learner, copies, steps=250, seed=1, learning_rate=2e-2, progress=False)
    assert curve.shape == (250,)
    assert curve[-20:].mean() < 0.1 < 1.5 < curve[0]
    batch = copies(torch.Generator().manual_seed(12345))
    written = write_greedily(learner.eval(), batch.tokens, batch.valid_lens, max_steps=6)
    right = (written.tokens[:, :5] == batch.targets[:, : written.tokens.shape[1]]).all(dim=1)
    assert right.double().mean() > 0.8


def test_what_stands_at_the_padding_of_a_batch_trains_nothing():
    def otherwise(generator: torch.Generator) -> Batch:
        tokens, lens, targets, target_lens = copies(generator)
        places = torch.arange(5)
        tokens = torch.where(places < lens.unsqueeze(-1), tokens, 6)
        targets = torch.where(places < target_lens.unsqueeze(-1), targets, 6)
        return Batch(tokens, lens, targets, target_lens)

    curves = [train(model(), draw, until=2, **OPTIONS) for draw in (copies, otherwise)]
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-5, atol=1e-5)


def test_the_same_seed_trains_the_same_model_and_another_seed_another():
    first, second, third = model(), model(), model()
    curves = [train(x, copies, seed=s, **OPTIONS) for x, s in ((first, 0), (second, 0), (third, 1))]
    assert torch.equal(curves[0], curves[1])
    assert torch.equal(parameters(first), parameters(second))
    assert not torch.equal(curves[0], curves[2])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_that_is_interrupted_in_a_step_goes_on_with_the_same_result(tmp_path, dropout):
    whole = model(dropout)
    expected = train(whole, copies, path=tmp_path / "whole", **OPTIONS)
    path, calls = tmp_path / "checkpoint", []

    def interrupted(generator: torch.Generator) -> Batch:
        calls.append(1)
        if len(calls) in (4, 7):
            raise KeyboardInterrupt
        return copies(generator)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(model(dropout), interrupted, path=path, **OPTIONS)
        torch.rand(7)  # whatever else happens between
    resumed = model(dropout)
    curve = train(resumed, interrupted, path=path, **OPTIONS)
    assert torch.equal(curve, expected)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert len(calls) == 8 + 2  # two steps were begun twice, none was done twice


def test_training_can_stop_to_be_looked_at_and_go_on(tmp_path):
    whole, parts = model(), model()
    expected = train(whole, copies, **OPTIONS)
    for until in (3, 3, 0, 8):
        curve = train(parts, copies, until=until, path=tmp_path / "checkpoint", **OPTIONS)
    assert torch.equal(curve, expected)
    assert torch.equal(parameters(parts), parameters(whole))


def test_an_interrupted_write_leaves_the_checkpoint_of_the_step_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    train(model(), copies, until=2, path=path, **OPTIONS)

    def full(state: Any, file: Path) -> None:
        file.write_bytes(b"half of it")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="no space"):
            train(model(), copies, path=path, **OPTIONS)
    assert len(train(model(), copies, until=2, path=path, **OPTIONS)) == 2


def test_training_draws_nothing_from_the_generator_of_everybody():
    torch.manual_seed(5)
    expected = torch.rand(1)
    learner = model(dropout=0.5)
    torch.manual_seed(5)
    train(learner, copies, until=1, **OPTIONS)
    assert torch.equal(torch.rand(1), expected)


def test_a_loss_that_is_not_finite_stops_before_anything_is_lost(tmp_path):
    learner = model()
    train(learner, copies, until=1, path=tmp_path / "checkpoint", **OPTIONS)
    with torch.no_grad():
        learner.decoder.dense.bias[:] = torch.nan
    kept = (tmp_path / "checkpoint").read_bytes()
    with pytest.raises(FloatingPointError, match="the loss is nan in step 0"):
        train(learner, copies, **OPTIONS)
    assert (tmp_path / "checkpoint").read_bytes() == kept


def test_a_bar_shows_the_steps(capsys):
    train(model(), copies, steps=3)
    assert "3/3" in capsys.readouterr().err


WRONG: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "another size": (lambda: model(hidden=8), {}, "the shape of decoder.attention"),
    "another model": (
        lambda: Seq2Seq(model().encoder, AttentionDecoder(9, 8, 16, 16, DotProductScore())),
        {}, "the shape of decoder.dense.bias; got",
    ),
    "another dtype": (lambda: model().double(), {}, "in torch.float64 for the shape of"),
    "another seed": (model, {"seed": 1}, "with 1 for seed; got 0"),
    "other steps": (model, {"steps": 9}, "with 9 for steps; got 8"),
    "another rate": (model, {"learning_rate": 1e-3}, "with 0.001 for learning_rate; got 0.008"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_checkpoint_of_something_else_is_refused_and_nothing_changes(case, tmp_path):
    other, options, message = WRONG[case]
    path = tmp_path / "checkpoint"
    train(model(), copies, until=1, path=path, **OPTIONS)
    kept, learner = path.read_bytes(), other()
    before = parameters(learner)
    with pytest.raises(ValueError, match=r"path must be a checkpoint of this model.*"):
        train(learner, copies, path=path, **{**OPTIONS, **options})
    if case != "another size":
        with pytest.raises(ValueError, match=message):
            train(learner, copies, path=path, **{**OPTIONS, **options})
    assert torch.equal(parameters(learner), before)
    assert path.read_bytes() == kept


def test_a_file_that_is_no_checkpoint_of_a_training_is_refused(tmp_path):
    torch.save(model().state_dict(), tmp_path / "weights")
    with pytest.raises(ValueError, match=r"path must be a checkpoint.*got nothing"):
        train(model(), copies, path=tmp_path / "weights", **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 2.0}, "steps must be an integer"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive; got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"until": 9}, "until must be at most 8, the number of steps; got 9"),
        ({"until": -1}, "until must be at least 0"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        train(model(), copies, **{**OPTIONS, **options})
