"""Encoders: what is said about each token of a sequence, and about the sequence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from d2lattn.checks import check_integers, check_sizes
from d2lattn.masking import length_mask
from d2lattn.ordinary import first_index

__all__ = ["ConvolutionalEncoder", "Encoded", "RecurrentEncoder"]


class Encoded(NamedTuple):
    """What an encoder made of its input.

    Attributes
    ----------
    outputs
        A vector for each token, shape ``(batch, tokens, features)``; what stands behind a valid
        length is padding.
    state
        A vector for each sequence, shape ``(batch, features)``.
    valid_lens
        How many tokens of each sequence are valid.
    """

    outputs: Float[Tensor, "batch tokens features"]
    state: Float[Tensor, "batch features"]
    valid_lens: Int[Tensor, " batch"]


class RecurrentEncoder(nn.Module):
    r"""Gated recurrent units that read a sequence in both directions.

    .. math:: h_j = [\overrightarrow{h}_j, \overleftarrow{h}_j], \qquad
              s = [\overrightarrow{h}_\ell, \overleftarrow{h}_1]

    Padding takes no part: the state is the one behind the last *valid* token, and the way back
    starts there.

    Parameters
    ----------
    num_tokens, embed_size, num_hiddens
        Numbers of different tokens, of features of one, and of hidden units in *both*
        directions together.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or the hidden units cannot be halved.

    Examples
    --------
    >>> encoder = RecurrentEncoder(num_tokens=10, embed_size=4, num_hiddens=6)
    >>> encoded = encoder(torch.tensor([[3, 4, 5], [6, 0, 0]]), torch.tensor([3, 1]))
    >>> encoded.outputs.shape, encoded.state.shape
    (torch.Size([2, 3, 6]), torch.Size([2, 6]))

    References
    ----------
    Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate" (2015), section 3.2.
    """

    def __init__(self, num_tokens: int, embed_size: int, num_hiddens: int) -> None:
        super().__init__()
        check_sizes(num_tokens=num_tokens, embed_size=embed_size, num_hiddens=num_hiddens)
        if num_hiddens % 2:
            raise ValueError(f"num_hiddens must be even, for two directions; got {num_hiddens}")
        self.num_hiddens = num_hiddens
        self.embedding = nn.Embedding(num_tokens, embed_size)
        self.rnn = nn.GRU(embed_size, num_hiddens // 2, bidirectional=True, batch_first=True)

    def forward(
        self, tokens: Int[Tensor, "batch tokens"], valid_lens: Int[Tensor, " batch"]
    ) -> Encoded:
        """Read the sequences.

        Raises
        ------
        TypeError
            If tokens or lengths are not integers.
        ValueError
            If shapes do not fit, a token is not one of ``num_tokens``, or a length lies outside
            ``[1, tokens]``: nothing can be said about nothing.
        """
        check_tokens_in("tokens", tokens, self.embedding.num_embeddings)
        check_lens("valid_lens", valid_lens, tokens)
        embedded = self.embedding(tokens)
        packed = pack_padded_sequence(
            embedded, valid_lens.cpu(), batch_first=True, enforce_sorted=False
        )
        outputs, state = self.rnn(packed)
        outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=tokens.shape[1])
        return Encoded(outputs, torch.cat([*state], dim=-1), valid_lens)


class ConvolutionalEncoder(nn.Module):
    r"""Convolutions that see a few neighbours of each token, and where it stands.

    Each layer adds a ``tanh`` of a convolution to what came in; padding is zero throughout. The
    state is the mean of the valid outputs.

    Parameters
    ----------
    num_tokens, embed_size, num_hiddens
        As in :class:`RecurrentEncoder`.
    max_tokens
        The longest sequence that there is a position for.
    num_layers, width
        Numbers of convolutions and of tokens that one sees; the width is odd.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or the width is even.

    Examples
    --------
    >>> encoder = ConvolutionalEncoder(10, embed_size=4, num_hiddens=6, max_tokens=8)
    >>> encoder(torch.tensor([[3, 4, 5]]), torch.tensor([3])).outputs.shape
    torch.Size([1, 3, 6])

    References
    ----------
    Gehring et al., "Convolutional Sequence to Sequence Learning" (2017).
    """

    def __init__(
        self,
        num_tokens: int,
        embed_size: int,
        num_hiddens: int,
        max_tokens: int,
        num_layers: int = 2,
        width: int = 3,
    ) -> None:
        super().__init__()
        check_sizes(
            num_tokens=num_tokens,
            embed_size=embed_size,
            num_hiddens=num_hiddens,
            max_tokens=max_tokens,
            num_layers=num_layers,
            width=width,
        )
        if width % 2 == 0:
            raise ValueError(f"width must be odd, to see as many on both sides; got {width}")
        self.num_hiddens = num_hiddens
        self.embedding = nn.Embedding(num_tokens, embed_size)
        self.positions = nn.Embedding(max_tokens, embed_size)
        self.widen = nn.Linear(embed_size, num_hiddens)
        self.layers = nn.ModuleList(
            nn.Conv1d(num_hiddens, num_hiddens, width, padding=width // 2)
            for _ in range(num_layers)
        )

    def forward(
        self, tokens: Int[Tensor, "batch tokens"], valid_lens: Int[Tensor, " batch"]
    ) -> Encoded:
        """Read the sequences; raises as :class:`RecurrentEncoder` does, and if one is too long."""
        check_tokens_in("tokens", tokens, self.embedding.num_embeddings)
        check_lens("valid_lens", valid_lens, tokens)
        reach = self.positions.num_embeddings
        if tokens.shape[1] > reach:
            raise ValueError(f"tokens must be at most {reach} a sequence; got {tokens.shape[1]}")
        valid = length_mask(valid_lens, tokens.shape[1]).unsqueeze(-1)
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        x = self.widen(x).masked_fill(~valid, 0.0)  # (batch, tokens, features)
        for layer in self.layers:
            x = (x + torch.tanh(layer(x.mT).mT)).masked_fill(~valid, 0.0)
        return Encoded(x, x.sum(dim=1) / valid_lens.unsqueeze(-1), valid_lens)


def check_tokens_in(name: str, tokens: Int[Tensor, "batch tokens"], num_tokens: int) -> None:
    """Raise an error that names the argument unless these are rows of a model's tokens."""
    check_integers(name, tokens)
    shape = tuple(tokens.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{name} must have shape (batch, tokens), neither of them 0; got {shape}")
    at = first_index((tokens < 0) | (tokens >= num_tokens))
    if at is not None:
        raise ValueError(
            f"{name} must lie in [0, {num_tokens - 1}], the vocabulary of the model; "
            f"got {int(tokens[at])} at index {at}"
        )


def check_lens(
    name: str, valid_lens: Int[Tensor, " batch"], tokens: Int[Tensor, "batch tokens"]
) -> None:
    """Raise an error that names the argument unless each sequence has at least one token."""
    check_integers(name, valid_lens)
    batch, longest = tokens.shape
    if valid_lens.shape != (batch,):
        raise ValueError(
            f"{name} must have shape ({batch},), one for each sequence; "
            f"got {tuple(valid_lens.shape)}"
        )
    at = first_index((valid_lens < 1) | (valid_lens > longest))
    if at is not None:
        raise ValueError(
            f"{name} must lie in [1, {longest}], the number of tokens; "
            f"got {int(valid_lens[at])} at index {at}"
        )
