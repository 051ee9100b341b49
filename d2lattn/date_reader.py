"""Models that read written dates: how chapter 9 makes, teaches and measures them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from d2lattn.additive import AdditiveScore
from d2lattn.characters import Alphabet
from d2lattn.dates import WrittenDate, draw_dates, split_days
from d2lattn.decoding import write_greedily
from d2lattn.dot_product import BilinearScore, DotProductScore
from d2lattn.encoders import ConvolutionalEncoder, RecurrentEncoder
from d2lattn.score import Score
from d2lattn.seq2seq import AttentionDecoder, FixedContextDecoder, Seq2Seq
from d2lattn.training import Batch

__all__ = [
    "ISO", "LETTERS", "RUNS", "VARIANTS", "Reading", "batch_of", "drawing", "make_reader", "read",
    "stored", "stored_results",
]  # fmt: skip

# Every character of every date of `d2lattn.dates`, in all locales and formats.
LETTERS = Alphabet(" ,./0123456789ADFJMNOSTWabcdefghijklmnoprstuvwyzäéû一三二五六四年日星月期")
ISO = Alphabet("0123456789-")

_EMBED, _HIDDEN = 32, 64
_LONGEST = 40  # characters that a convolution has positions for

VARIANTS: Mapping[str, Callable[[], Score] | None] = {
    "additive": lambda: AdditiveScore(_HIDDEN, _HIDDEN, _HIDDEN),
    "dot product": DotProductScore,
    "bilinear": lambda: BilinearScore(_HIDDEN, _HIDDEN),
    "fixed context": None,
}


STEPS = 600  # of every training, with batches of 128
STORED = Path(__file__).with_name("trained")  # what `python -m tools.train_dates` wrote


class Run(NamedTuple):
    """One training: which model, from which seed, on which dates; whether it is kept."""

    variant: str
    seed: int = 0
    convolution: bool = False
    ambiguous: bool = False
    keep: bool = False


SCORES = {
    "additive": ("additive", 5),
    "dot-product": ("dot product", 5),
    "bilinear": ("bilinear", 3),
}
RUNS: Mapping[str, Run] = {
    "additive": Run("additive", keep=True),
    "dot-product": Run("dot product", keep=True),
    "bilinear": Run("bilinear", keep=True),
    "fixed-context": Run("fixed context"),
    "ambiguous": Run("additive", ambiguous=True, keep=True),
    "additive-convolution": Run("additive", convolution=True),
    "dot-product-convolution": Run("dot product", convolution=True),
    **{
        f"{name}-{seed}": Run(variant, seed)
        for name, (variant, seeds) in SCORES.items()
        for seed in range(1, seeds)
    },
}


def start(run: Run) -> Seq2Seq:
    """The model of a run before its first step."""
    return make_reader(run.variant, run.seed, convolution=run.convolution)


def draw_for(run: Run) -> Callable[[torch.Generator], Batch]:
    """What a run draws its batches with: days that no test has."""
    return drawing(split_days().train, ambiguous=run.ambiguous)


def stored(name: str) -> Seq2Seq:
    """A model as it was at the end of its run, its weights rounded to float16.

    Raises
    ------
    ValueError
        If no model of this name is stored.
    """
    kept = [known for known, run in RUNS.items() if run.keep]
    if name not in kept:
        raise ValueError(f"name must be one of {', '.join(kept)}; got {name!r}")
    model = start(RUNS[name])
    model.load_state_dict(torch.load(STORED / f"{name}.pt", weights_only=True))
    return model.eval()


def stored_results() -> dict[str, Any]:
    """What was measured after each run and during it, by the names of ``RUNS``."""
    found: dict[str, Any] = json.loads((STORED / "results.json").read_text("utf-8"))
    return found


def make_reader(variant: str, seed: int, *, convolution: bool = False) -> Seq2Seq:
    """A model that has learned nothing yet.

    Parameters
    ----------
    variant
        How it scores: one of ``VARIANTS``; everything else is the same.
    seed
        What its parameters are drawn from. PyTorch's own generator is left as it was.
    convolution
        Whether the encoder is a convolution instead of a recurrence.

    Raises
    ------
    ValueError
        If there is no such variant.

    Examples
    --------
    >>> reader = make_reader("additive", seed=0)
    >>> reader.decoder.attention.score
    AdditiveScore(
      (W_k): Linear(in_features=64, out_features=64, bias=False)
      (W_q): Linear(in_features=64, out_features=64, bias=False)
      (w_v): Linear(in_features=64, out_features=1, bias=False)
    )
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
    score = VARIANTS[variant]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: nn.Module
        if convolution:
            encoder = ConvolutionalEncoder(len(LETTERS), _EMBED, _HIDDEN, max_tokens=_LONGEST)
        else:
            encoder = RecurrentEncoder(len(LETTERS), _EMBED, _HIDDEN)
        sizes = len(ISO), _EMBED, _HIDDEN, _HIDDEN
        decoder = (
            FixedContextDecoder(*sizes)
            if score is None
            else AttentionDecoder(*sizes, score=score())
        )
        return Seq2Seq(encoder, decoder)


def batch_of(dates: Sequence[WrittenDate]) -> Batch:
    """Their texts and their ISO dates, as a model takes them."""
    tokens, lens = LETTERS.encode([written.text for written in dates])
    targets, target_lens = ISO.encode([written.iso for written in dates], end=True)
    return Batch(tokens, lens, targets, target_lens)


def drawing(
    days: Sequence[date], size: int = 128, *, ambiguous: bool = False
) -> Callable[[torch.Generator], Batch]:
    """What :func:`~d2lattn.training.train` draws its batches with."""
    return lambda generator: batch_of(draw_dates(days, size, generator, ambiguous=ambiguous))


class Reading(NamedTuple):
    """What :func:`read` returns, for each date.

    Attributes
    ----------
    texts
        What was written.
    right
        Whether that is the ISO date, exactly.
    weights
        Attention weights of the ten characters of an ISO date, padded; None without attention.
    on_field
        Weight on the day, month or year that a digit belongs to, mean over the digits that are
        copied; None without attention.
    on_character
        Weight on the very digit that is copied, mean over the same; None without attention.
    """

    texts: list[str]
    right: Bool[Tensor, " dates"]
    weights: Float[Tensor, "dates 10 keys"] | None
    on_field: Float[Tensor, " dates"] | None
    on_character: Float[Tensor, " dates"] | None


def read(reader: Seq2Seq, dates: Sequence[WrittenDate]) -> Reading:
    """Let a model read dates, and see where it looks while it writes.

    The weights are those of writing greedily, of what the model itself wrote before.

    Parameters
    ----------
    reader
        The model; it is put into evaluation mode.
    dates
        At least one.

    Raises
    ------
    ValueError
        If there are none.
    """
    tokens, lens, _, _ = batch_of(dates)
    written = write_greedily(reader.eval(), tokens, lens, max_steps=12)
    texts = ISO.decode(written.tokens)
    right = torch.tensor([text == date.iso for text, date in zip(texts, dates, strict=True)])
    if written.weights is None:
        return Reading(texts, right, None, None, None)
    weights = torch.zeros(len(dates), 10, tokens.shape[1], dtype=written.weights.dtype)
    steps = min(10, written.weights.shape[1])
    weights[:, :steps] = written.weights[:, :steps]
    fields, copied = (torch.zeros_like(weights) for _ in range(2))
    for i, each in enumerate(dates):
        for place, (span, position) in enumerate(zip(each.fields, each.copied, strict=True)):
            if position is not None:
                fields[i, place, span.start : span.stop] = 1.0
                copied[i, place, position] = 1.0
    digits = copied.sum(dim=(1, 2))  # at least the two of a year
    on_field, on_character = ((weights * x).sum(dim=(1, 2)) / digits for x in (fields, copied))
    return Reading(texts, right, weights, on_field, on_character)
