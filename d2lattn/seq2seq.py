"""Sequence to sequence: a decoder that attends to what an encoder made of its input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from d2lattn.attention import Attention
from d2lattn.characters import BEGIN
from d2lattn.checks import check_floating, check_sizes
from d2lattn.encoders import (
    ConvolutionalEncoder,
    Encoded,
    RecurrentEncoder,
    check_lens,
    check_tokens_in,
)
from d2lattn.keys_projected import KeysProjected
from d2lattn.masking import length_mask
from d2lattn.score import Score

__all__ = ["AttentionDecoder", "FixedContextDecoder", "Memory", "Seq2Seq", "sequence_loss"]


class Memory(NamedTuple):
    """What a decoder asks at every step: made once for each batch of sequences.

    Attributes
    ----------
    attention
        What is called with a query, the keys and the values.
    keys
        Already projected, where the score has two halves.
    values, valid_lens
        The encoder's outputs, and how many of them are valid.
    state
        The encoder's state.
    """

    attention: Attention
    keys: Float[Tensor, "batch keys hidden"]
    values: Float[Tensor, "batch keys features"]
    valid_lens: Int[Tensor, " batch"]
    state: Float[Tensor, "batch features"]


class AttentionDecoder(nn.Module):
    r"""Writes token by token; before each it asks the encoder's outputs, with its hidden state.

    .. math:: c_t = \sum_j \alpha(s_{t-1}, h_j)\, h_j, \qquad
              s_t = \mathrm{GRU}\bigl([e(y_{t-1}), c_t],\, s_{t-1}\bigr), \qquad
              y_t \sim \mathrm{softmax}\bigl(W [s_t, c_t] + b\bigr)

    The hidden state :math:`s_{t-1}` is the query, the encoder's outputs :math:`h_j` are keys and
    values, and :math:`c_t` is the context variable.

    Parameters
    ----------
    num_tokens, embed_size, num_hiddens
        Numbers of different tokens, of features of one, and of hidden units.
    context_size
        Number of features of an encoder's output.
    score
        Any :class:`~d2lattn.Score` of queries with ``num_hiddens`` and keys with
        ``context_size`` features. It projects the keys once, for all steps.
    dropout
        Probability with which an attention weight is dropped in training mode.

    Raises
    ------
    TypeError
        If the score is no ``Score``, or a size is not an integer.
    ValueError
        If a size is not positive, or the dropout is not a probability.

    Examples
    --------
    >>> from d2lattn import AdditiveScore
    >>> decoder = AttentionDecoder(9, 4, 8, context_size=6, score=AdditiveScore(6, 8, 5))
    >>> sum(parameter.numel() for parameter in decoder.parameters())
    782

    References
    ----------
    Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate" (2015), section 3.1; Zhang et al., *Dive into Deep Learning* (2023), section "The
    Bahdanau Attention Mechanism".
    """

    def __init__(
        self,
        num_tokens: int,
        embed_size: int,
        num_hiddens: int,
        context_size: int,
        score: Score,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(
            num_tokens=num_tokens,
            embed_size=embed_size,
            num_hiddens=num_hiddens,
            context_size=context_size,
        )
        if not isinstance(score, Score):
            raise TypeError(f"score must be a Score, made with its arguments; got {score!r}")
        self.num_hiddens, self.context_size = num_hiddens, context_size
        self.attention = Attention(score, dropout)
        self.embedding = nn.Embedding(num_tokens, embed_size)
        self.bridge = nn.Linear(context_size, num_hiddens)
        self.cell = nn.GRUCell(embed_size + context_size, num_hiddens)
        self.dense = nn.Linear(num_hiddens + context_size, num_tokens)

    def remember(self, encoded: Encoded) -> Memory:
        """Project the keys, once."""
        outputs, state, valid_lens = encoded
        attention, keys, score = self.attention, outputs, self.attention.score
        if isinstance(score, Score) and score.in_halves():  # nobody listens to the score as a whole
            once = KeysProjected(score, self.context_size, self.num_hiddens)
            if once.fits(outputs):
                attention, keys = Attention(once), once.keys(outputs)
                attention.dropout = self.attention.dropout
        return Memory(attention, keys, outputs, valid_lens, state)

    def start(self, memory: Memory) -> Float[Tensor, "batch hidden"]:
        """The first hidden state, of the encoder's."""
        return torch.tanh(self.bridge(memory.state))

    def look(
        self, hidden: Float[Tensor, "batch hidden"], memory: Memory
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "batch keys"] | None]:
        """The context variable of one step, and the weights that it was averaged with."""
        _, keys, values, valid_lens, _ = memory
        query = hidden.unsqueeze(1)  # (batch, 1, hidden)
        context, weights = memory.attention(query, keys, values, valid_lens)
        return context.squeeze(1), None if weights is None else weights.squeeze(1)

    def advance(
        self,
        embedded: Float[Tensor, "batch embed"],
        hidden: Float[Tensor, "batch hidden"],
        memory: Memory,
    ) -> tuple[
        Float[Tensor, "batch hidden"],
        Float[Tensor, "batch features"],
        Float[Tensor, "batch keys"] | None,
    ]:
        """One step: ask, then update; the new hidden state, the context and the weights."""
        context, weights = self.look(hidden, memory)
        hidden = self.cell(torch.cat([embedded, context], dim=-1), hidden)
        return hidden, context, weights

    def step(
        self,
        previous: Int[Tensor, " batch"],
        hidden: Float[Tensor, "batch hidden"],
        memory: Memory,
    ) -> tuple[
        Float[Tensor, "batch vocabulary"],
        Float[Tensor, "batch hidden"],
        Float[Tensor, "batch keys"] | None,
    ]:
        """Scores of the next token, the new hidden state and the weights."""
        hidden, context, weights = self.advance(self.embedding(previous), hidden, memory)
        return self.dense(torch.cat([hidden, context], dim=-1)), hidden, weights


class FixedContextDecoder(AttentionDecoder):
    r"""The same decoder with nothing to ask: the context is the encoder's state at every step.

    .. math:: c_t = s_{\text{encoder}}

    Parameters
    ----------
    num_tokens, embed_size, num_hiddens, context_size
        As in :class:`AttentionDecoder`.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer.

    Examples
    --------
    >>> decoder = FixedContextDecoder(9, 4, 8, context_size=6)

    References
    ----------
    Cho et al., "Learning Phrase Representations using RNN Encoder–Decoder for Statistical Machine
    Translation" (2014).
    """

    def __init__(
        self, num_tokens: int, embed_size: int, num_hiddens: int, context_size: int
    ) -> None:
        super().__init__(num_tokens, embed_size, num_hiddens, context_size, Score())

    def remember(self, encoded: Encoded) -> Memory:
        """Nothing is projected."""
        outputs, state, valid_lens = encoded
        return Memory(self.attention, outputs, outputs, valid_lens, state)

    def look(
        self, hidden: Float[Tensor, "batch hidden"], memory: Memory
    ) -> tuple[Float[Tensor, "batch features"], None]:
        """The encoder's state, whatever is to be written."""
        return memory.state, None


class Seq2Seq(nn.Module):
    """An encoder, and a decoder that writes what it is taught to.

    Parameters
    ----------
    encoder, decoder
        Such as :class:`~d2lattn.encoders.RecurrentEncoder` and :class:`AttentionDecoder`, whose
        ``context_size`` is the encoder's ``num_hiddens``.

    Raises
    ------
    ValueError
        If they do not fit.

    Examples
    --------
    >>> from d2lattn import DotProductScore
    >>> encoder = RecurrentEncoder(num_tokens=7, embed_size=4, num_hiddens=6)
    >>> decoder = AttentionDecoder(9, 4, 6, context_size=6, score=DotProductScore())
    >>> model = Seq2Seq(encoder, decoder)
    >>> source, targets = torch.tensor([[3, 4, 5], [6, 0, 0]]), torch.tensor([[8, 2], [2, 0]])
    >>> logits, weights = model(source, torch.tensor([3, 1]), targets)
    >>> logits.shape, weights.shape
    (torch.Size([2, 2, 9]), torch.Size([2, 2, 3]))
    >>> weights[1, 0]
    tensor([1., 0., 0.], grad_fn=<SelectBackward0>)

    References
    ----------
    Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate" (2015).
    """

    def __init__(
        self, encoder: RecurrentEncoder | ConvolutionalEncoder, decoder: AttentionDecoder
    ) -> None:
        super().__init__()
        if encoder.num_hiddens != decoder.context_size:
            raise ValueError(
                f"decoder must have context_size={encoder.num_hiddens}, the num_hiddens of the "
                f"encoder; got {decoder.context_size}"
            )
        self.encoder, self.decoder = encoder, decoder

    def forward(
        self,
        tokens: Int[Tensor, "batch tokens"],
        valid_lens: Int[Tensor, " batch"],
        targets: Int[Tensor, "batch steps"],
    ) -> tuple[Float[Tensor, "batch steps vocabulary"], Float[Tensor, "batch steps tokens"] | None]:
        """Scores of every target token and the weights of every step, by teacher forcing.

        Each step is told the token that should have been written before it, not the one that
        would have been.

        Parameters
        ----------
        tokens, valid_lens
            Padded sequences, and how many tokens of each are valid, at least one.
        targets
            What should be written, with its end, padded.

        Raises
        ------
        TypeError
            If something is not integers.
        ValueError
            If shapes do not fit, or a token or a length is out of range.
        """
        decoder = self.decoder
        check_tokens_in("targets", targets, decoder.embedding.num_embeddings)
        memory = decoder.remember(self.encoder(tokens, valid_lens))
        if len(targets) != len(tokens):
            raise ValueError(f"targets must be {len(tokens)} sequences; got {len(targets)}")
        told = torch.cat([targets.new_full((len(targets), 1), BEGIN), targets[:, :-1]], dim=1)
        hidden = decoder.start(memory)
        steps = []
        for embedded in decoder.embedding(told).unbind(1):
            hidden, context, weights = decoder.advance(embedded, hidden, memory)
            steps.append((torch.cat([hidden, context], dim=-1), weights))
        made, looks = zip(*steps, strict=True)
        logits = decoder.dense(torch.stack(made, dim=1))
        return logits, None if looks[0] is None else torch.stack(looks, dim=1)


def sequence_loss(
    logits: Float[Tensor, "batch steps vocabulary"],
    targets: Int[Tensor, "batch steps"],
    valid_lens: Int[Tensor, " batch"],
) -> Float[Tensor, ""]:
    r"""Mean cross-entropy of the tokens that are there; padding does not count.

    .. math:: -\frac{\sum_b \sum_{t < \ell_b} \log p_{bt}(y_{bt})}{\sum_b \ell_b}

    Parameters
    ----------
    logits
        Scores of every token at every step; what stands at padding has no influence, NaN
        included.
    targets, valid_lens
        What should be written, and how many tokens of each sequence that is, with its end.

    Raises
    ------
    TypeError
        If the logits are not floating point, or targets or lengths not integers.
    ValueError
        If shapes do not fit, or a token or a length is out of range.

    Examples
    --------
    >>> logits = torch.zeros(2, 3, 4)
    >>> sequence_loss(logits, torch.tensor([[1, 2, 0], [2, 0, 0]]), torch.tensor([2, 1]))
    tensor(1.3863)
    """
    check_floating("logits", logits)
    check_tokens_in("targets", targets, logits.shape[-1])
    check_lens("valid_lens", valid_lens, targets)
    if logits.ndim != 3 or logits.shape[:2] != targets.shape:
        raise ValueError(
            f"logits must have shape (*{tuple(targets.shape)}, vocabulary), as the targets; "
            f"got {tuple(logits.shape)}"
        )
    valid = length_mask(valid_lens, targets.shape[1])
    return cross_entropy(logits[valid], targets[valid].long())
