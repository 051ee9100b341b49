"""Decoding: what a trained model writes, greedily or with a beam."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d2lattn.characters import BEGIN, END, PAD
from d2lattn.checks import check_sizes
from d2lattn.seq2seq import Seq2Seq

__all__ = ["Hypotheses", "Written", "beam_search", "write_greedily"]


class Written(NamedTuple):
    """What :func:`write_greedily` returns.

    Attributes
    ----------
    tokens
        Up to the end and with it, shape ``(batch, steps)``, padded.
    valid_lens
        How many they are, with the end.
    log_probs
        Log-probability of the whole sequence, shape ``(batch,)``.
    weights
        Attention weights of every step, shape ``(batch, steps, keys)``, 0 behind the end; None
        for a decoder that does not attend.
    """

    tokens: Int[Tensor, "batch steps"]
    valid_lens: Int[Tensor, " batch"]
    log_probs: Float[Tensor, " batch"]
    weights: Float[Tensor, "batch steps keys"] | None


class Hypotheses(NamedTuple):
    """What :func:`beam_search` returns: for each input, the best sequences first.

    Attributes
    ----------
    tokens
        Shape ``(batch, beam, steps)``, padded behind the end.
    log_probs
        Their log-probabilities, shape ``(batch, beam)``; −inf where there are not so many.
    """

    tokens: Int[Tensor, "batch beam steps"]
    log_probs: Float[Tensor, "batch beam"]


@torch.no_grad()
def write_greedily(
    model: Seq2Seq,
    tokens: Int[Tensor, "batch tokens"],
    valid_lens: Int[Tensor, " batch"],
    max_steps: int,
) -> Written:
    r"""At every step the likeliest token, which the next step is told.

    .. math:: \hat y_t = \arg\max_y\, p(y \mid \hat y_{<t}, x)

    Padding and the token of the beginning are never written, and have no probability.

    Parameters
    ----------
    model
        In evaluation mode, where it drops weights.
    tokens, valid_lens
        Padded sequences, and how many tokens of each are valid.
    max_steps
        Where to stop a sequence that does not end by itself.

    Raises
    ------
    TypeError, ValueError
        As the model does, or if ``max_steps`` is not a positive integer.

    References
    ----------
    Zhang et al., *Dive into Deep Learning* (2023), section "Beam Search".
    """
    check_sizes(max_steps=max_steps)
    decoder = model.decoder
    memory = decoder.remember(model.encoder(tokens, valid_lens))
    hidden = decoder.start(memory)
    previous = tokens.new_full((len(tokens),), BEGIN)
    running = torch.ones_like(previous, dtype=torch.bool)
    log_probs = hidden.new_zeros(len(tokens))
    written, looks, lens = [], [], torch.zeros_like(previous)
    for _ in range(max_steps):
        logits, hidden, weights = decoder.step(previous, hidden, memory)
        best, previous = _log_probs(logits).max(dim=-1)
        previous = previous.masked_fill(~running, PAD)
        log_probs += best.masked_fill(~running, 0.0)
        lens += running
        written.append(previous)
        if weights is not None:
            looks.append(weights.masked_fill(~running.unsqueeze(-1), 0.0))
        running = running & (previous != END)
        if not running.any():
            break
    return Written(
        torch.stack(written, dim=1), lens, log_probs, torch.stack(looks, dim=1) if looks else None
    )


@torch.no_grad()
def beam_search(
    model: Seq2Seq,
    tokens: Int[Tensor, "batch tokens"],
    valid_lens: Int[Tensor, " batch"],
    max_steps: int,
    beam_size: int,
) -> Hypotheses:
    r"""At every step the likeliest beginnings, ``beam_size`` of them.

    .. math:: \log p(y_{\le t} \mid x) = \sum_{u \le t} \log p(y_u \mid y_{<u}, x)

    The sum is not divided by the length. A beam of 1 is greedy; one that holds every beginning
    finds the likeliest sequence.

    Parameters
    ----------
    model, tokens, valid_lens, max_steps
        As in :func:`write_greedily`.
    beam_size
        How many beginnings are kept for each input.

    Raises
    ------
    TypeError, ValueError
        As :func:`write_greedily`, or if ``beam_size`` is not a positive integer.

    References
    ----------
    Sutskever, Vinyals and Le, "Sequence to Sequence Learning with Neural Networks" (2014),
    section 3.2.
    """
    check_sizes(max_steps=max_steps, beam_size=beam_size)
    decoder, batch = model.decoder, len(tokens)
    encoded = model.encoder(tokens, valid_lens)
    memory = decoder.remember(encoded._replace(
        outputs=encoded.outputs.repeat_interleave(beam_size, dim=0),
        state=encoded.state.repeat_interleave(beam_size, dim=0),
        valid_lens=encoded.valid_lens.repeat_interleave(beam_size, dim=0),
    ))  # fmt: skip
    hidden = decoder.start(memory)
    first = torch.arange(batch, device=tokens.device).unsqueeze(-1) * beam_size
    written = tokens.new_zeros(batch, beam_size, 0)
    previous = tokens.new_full((batch, beam_size), BEGIN)
    log_probs = hidden.new_full((batch, beam_size), -torch.inf)
    log_probs[:, 0] = 0.0  # all beginnings are the same one
    for _ in range(max_steps):
        logits, hidden, _ = decoder.step(previous.flatten(), hidden, memory)
        steps = _log_probs(logits).view(batch, beam_size, -1)
        ended = (previous == END) | (previous == PAD)
        steps = steps.masked_fill(ended.unsqueeze(-1), -torch.inf)
        steps[..., PAD] = torch.where(ended, 0.0, -torch.inf)  # padding follows an end, only
        totals = (log_probs.unsqueeze(-1) + steps).flatten(1)  # (batch, beam * vocabulary)
        log_probs, which = totals.topk(beam_size, dim=-1)
        parent, previous = which // steps.shape[-1], which % steps.shape[-1]
        hidden = hidden[(first + parent).flatten()]
        written = torch.cat(
            [written.gather(1, parent.unsqueeze(-1).expand(-1, -1, written.shape[-1])),
             previous.unsqueeze(-1)], dim=-1,
        )  # fmt: skip
        if ((previous == END) | (previous == PAD)).all():
            break
    return Hypotheses(written, log_probs)


def _log_probs(logits: Float[Tensor, "batch vocabulary"]) -> Float[Tensor, "batch vocabulary"]:
    """Of what may be written."""
    return logits.index_fill(
        -1, torch.tensor([PAD, BEGIN], device=logits.device), -torch.inf
    ).log_softmax(dim=-1)
