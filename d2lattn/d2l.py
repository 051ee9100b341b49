"""What readers of *Dive into Deep Learning* (D2L) call, by its names, computed by this package.

Code that was written for ``from d2l import torch as d2l`` runs with ``from d2lattn import d2l``:
layers return the output alone and keep the weights, sizes may be left to the first call, lengths
may be floats. What differs is what is wrong there: nothing is changed in place, a query without
keys gets 0, padding may hold NaN, lengths that do not fit raise an error.
"""

from typing import Any, overload

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

import d2lattn.masking
from d2lattn.additive import AdditiveScore
from d2lattn.attention import Attention
from d2lattn.checks import check_floating, check_sizes, check_tokens
from d2lattn.dot_product import DotProductScore
from d2lattn.extras import needs
from d2lattn.ordinary import first_index
from d2lattn.score import Score

__all__ = ["AdditiveAttention", "DotProductAttention", "masked_softmax", "show_heatmaps"]


def masked_softmax(
    X: Float[Tensor, "*batch queries keys"],  # noqa: N803
    valid_lens: Real[Tensor, "..."] | None,
) -> Float[Tensor, "*batch queries keys"]:
    r""":func:`d2lattn.masked_softmax` for lengths as D2L's data loaders make them.

    .. math:: \alpha_{ij} = \frac{[j < \ell_i]\, e^{a_{ij}}}{\sum_k [k < \ell_i]\, e^{a_{ik}}},
              \qquad \alpha_{i\cdot} = 0 \text{ where } \ell_i = 0

    Parameters
    ----------
    X
        Attention scores, shape ``(batch, queries, keys)``; not modified.
    valid_lens
        Lengths ``(batch,)`` or ``(batch, queries)``, integers or floats without a fraction, in
        ``[0, keys]``; None where there is no padding. With heads in the batch axis they are
        repeated as D2L repeats them: ``valid_lens.repeat_interleave(num_heads, dim=0)``.

    Returns
    -------
    Tensor
        Attention weights, dtype and shape of the scores.

    Raises
    ------
    TypeError
        If the scores are not floating point, or the lengths no numbers.
    ValueError
        If the lengths have another shape, lie outside ``[0, keys]``, or are not whole.

    Examples
    --------
    >>> masked_softmax(torch.zeros(2, 1, 4), torch.tensor([2.0, 0.0]))
    tensor([[[0.5000, 0.5000, 0.0000, 0.0000]],
    <BLANKLINE>
            [[0.0000, 0.0000, 0.0000, 0.0000]]])

    References
    ----------
    Zhang et al., *Dive into Deep Learning* (2023), section "Masked Softmax Operation".
    """
    return d2lattn.masking.masked_softmax(X, _whole(valid_lens))


def _whole(valid_lens: Tensor | None) -> Tensor | None:
    """Lengths as integers, which they must be in all but dtype."""
    if not isinstance(valid_lens, Tensor) or not valid_lens.is_floating_point():
        return valid_lens
    index = first_index((valid_lens != valid_lens.trunc()) | valid_lens.isinf())
    if index is not None:
        raise ValueError(
            f"valid_lens must be whole numbers; got {valid_lens[index].item()} at index {index}"
        )
    return valid_lens.long()


class _Keeping(nn.Module):
    """A layer that returns the output alone and keeps the weights."""

    attention_weights: Float[Tensor, "*batch queries keys"]

    def __init__(self, score: Score, dropout: float) -> None:
        super().__init__()
        attention = Attention(score, dropout)
        self.dropout = attention.dropout
        self._attention = (attention,)  # in a tuple: as a child it would name layers once more

    def forward(
        self,
        queries: Float[Tensor, "*batch queries query_size"],
        keys: Float[Tensor, "*batch keys key_size"],
        values: Float[Tensor, "*batch keys value_features"],
        valid_lens: Real[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch queries value_features"]:
        """The weighted averages of the values; lengths as for :func:`masked_softmax`."""
        (attention,) = self._attention
        if attention.dropout is not self.dropout:
            attention.dropout = self.dropout
        output, weights = attention(queries, keys, values, _whole(valid_lens))
        self.attention_weights = weights.detach()
        return output


class AdditiveAttention(_Keeping):
    r"""Additive attention in D2L's two orders of arguments.

    .. math:: f(q) = \sum_j \mathrm{softmax}_j\bigl(w_v^\top \tanh(W_q q + W_k k_j)\bigr)\, v_j

    ``AdditiveAttention(num_hiddens, dropout)`` as in D2L 1.0: the first call tells the widths of
    queries and keys. ``AdditiveAttention(key_size, query_size, num_hiddens, dropout)`` as before.

    Parameters
    ----------
    key_size, query_size, num_hiddens
        Numbers of features of a key, of a query, and of the hidden layer.
    dropout
        Probability with which a weight is dropped in training mode.

    Attributes
    ----------
    W_q, W_k, w_v : torch.nn.Linear
        Bias-free. A state dict that was saved with D2L loads, also before the first call.
    attention_weights : Tensor
        The weights that the last call used, after dropout, shape ``(*batch, queries, keys)``.
        Without their graph, unlike D2L's: so the layer can be copied, and holds no old batch.

    Raises
    ------
    TypeError
        If the arguments are neither of the two, or a size is not an integer.
    ValueError
        If a size is not positive, or the dropout not a probability.

    Examples
    --------
    >>> attention = AdditiveAttention(num_hiddens=8, dropout=0.1).eval()
    >>> q, k, v = torch.randn(2, 1, 20), torch.ones(2, 10, 2), torch.arange(40.0).view(1, 10, 4)
    >>> attention(q, k, v.repeat(2, 1, 1), torch.tensor([2, 6])).round().int()
    tensor([[[ 2,  3,  4,  5]],
    <BLANKLINE>
            [[10, 11, 12, 13]]], dtype=torch.int32)
    >>> attention.attention_weights[0, 0, :3]
    tensor([0.5000, 0.5000, 0.0000])

    References
    ----------
    Zhang et al., *Dive into Deep Learning* (2023), section "Additive Attention".
    """

    @overload
    def __init__(self, num_hiddens: int, dropout: float) -> None: ...
    @overload
    def __init__(
        self, key_size: int, query_size: int, num_hiddens: int, dropout: float
    ) -> None: ...
    def __init__(self, *arguments: Any, **named: Any) -> None:
        newer, older = (
            ("num_hiddens", "dropout"),
            ("key_size", "query_size", "num_hiddens", "dropout"),
        )
        order = newer if len(arguments) + len(named) == len(newer) else older
        given = dict(zip(order, arguments, strict=False), **named)
        if set(given) != set(order) or len(given) != len(arguments) + len(named):
            raise TypeError(
                "AdditiveAttention takes (num_hiddens, dropout) or (key_size, query_size, "
                f"num_hiddens, dropout); got {arguments} and {named}"
            )
        super().__init__(_ScoreOf(self), given.pop("dropout"))
        check_sizes(**given)
        hidden = given["num_hiddens"]
        self.W_k = _linear(given.get("key_size"), hidden)
        self.W_q = _linear(given.get("query_size"), hidden)
        self.w_v = _linear(hidden if "key_size" in given else None, 1)

    def forward(
        self,
        queries: Float[Tensor, "*batch queries query_size"],
        keys: Float[Tensor, "*batch keys key_size"],
        values: Float[Tensor, "*batch keys value_features"],
        valid_lens: Real[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch queries value_features"]:
        """The weighted averages of the values; lengths as for :func:`masked_softmax`."""
        if any(isinstance(layer, nn.LazyLinear) for layer in (self.W_q, self.W_k, self.w_v)):
            check_tokens(queries=queries, keys=keys, values=values)
            _settle(self.W_q, queries.shape[-1])
            _settle(self.W_k, keys.shape[-1])
            _settle(self.w_v, self.W_q.out_features)
        score = self._attention[0].score
        if isinstance(score, _ScoreOf) and score.owner[0] is not self:  # in a shallow copy
            self._attention = (Attention(_ScoreOf(self)),)
        return super().forward(queries, keys, values, valid_lens)


class _ScoreOf(AdditiveScore):
    """The score of layers that are another module's, whichever it has at the moment."""

    def __init__(self, owner: AdditiveAttention) -> None:
        nn.Module.__init__(self)
        self.owner = (owner,)  # in a tuple: not a child

    W_q = property(lambda self: self.owner[0].W_q)
    W_k = property(lambda self: self.owner[0].W_k)
    w_v = property(lambda self: self.owner[0].w_v)


def _linear(features: int | None, out_features: int) -> nn.Linear:
    if features is None:
        return nn.LazyLinear(out_features, bias=False)
    return nn.Linear(features, out_features, bias=False)


def _settle(layer: nn.Linear, features: int) -> None:
    """Make an ordinary layer of a lazy one, which happens when it is called: on no tokens."""
    if isinstance(layer, nn.LazyLinear):
        if not layer.has_uninitialized_params():  # its weights were loaded
            layer.in_features = features = layer.weight.shape[-1]
        weight = layer.weight
        layer(torch.empty(0, features, dtype=weight.dtype, device=weight.device))


class DotProductAttention(_Keeping):
    r"""Scaled dot-product attention as D2L has it.

    .. math:: f(q) = \sum_j \mathrm{softmax}_j\!\left(\frac{q^\top k_j}{\sqrt d}\right) v_j

    Parameters
    ----------
    dropout
        Probability with which a weight is dropped in training mode.
    num_heads
        Kept for code of the previews of D2L 1.0, which passed it; heads are in the batch axis.

    Attributes
    ----------
    attention_weights : Tensor
        As for :class:`AdditiveAttention`.

    Raises
    ------
    TypeError, ValueError
        If the dropout is not a probability.

    Examples
    --------
    >>> attention = DotProductAttention(dropout=0.5).eval()
    >>> q, k, v = torch.randn(2, 1, 2), torch.ones(2, 10, 2), torch.arange(40.0).view(1, 10, 4)
    >>> attention(q, k, v.repeat(2, 1, 1), torch.tensor([2, 6])).round().int()
    tensor([[[ 2,  3,  4,  5]],
    <BLANKLINE>
            [[10, 11, 12, 13]]], dtype=torch.int32)

    References
    ----------
    Zhang et al., *Dive into Deep Learning* (2023), section "Scaled Dot-Product Attention".
    """

    def __init__(self, dropout: float, num_heads: int | None = None) -> None:
        super().__init__(DotProductScore(), dropout)
        self.num_heads = num_heads

    def forward(
        self,
        queries: Float[Tensor, "*batch queries features"],
        keys: Float[Tensor, "*batch keys features"],
        values: Float[Tensor, "*batch keys value_features"],
        valid_lens: Real[Tensor, "..."] | None = None,
        window_mask: None = None,
    ) -> Float[Tensor, "*batch queries value_features"]:
        """As for :class:`AdditiveAttention`; the previews passed a ``window_mask``, of None."""
        if window_mask is not None:
            raise TypeError(
                "window_mask must be None, as the chapters on attention have it "
                f"(d2lattn.Biased adds what one holds); got {type(window_mask).__name__}"
            )
        return super().forward(queries, keys, values, valid_lens)


def show_heatmaps(
    matrices: Float[Tensor, "rows columns queries keys"],
    xlabel: str,
    ylabel: str,
    titles: list[str] | None = None,
    figsize: tuple[float, float] = (2.5, 2.5),
    cmap: str = "Reds",
) -> None:
    """Draw a grid of matrices into a new figure of pyplot, which a notebook shows.

    All have one colour scale: from 0 to 1, unless a number lies outside; then from the least to
    the largest. :func:`d2lattn.plotting.show_heatmaps` draws in the style of this book.

    Parameters
    ----------
    matrices
        Such as ``attention.attention_weights.reshape((1, 1, 2, 10))``.
    xlabel, ylabel
        What the columns and the rows of a matrix are.
    titles
        One for each column of the grid.
    figsize
        Width and height of the figure in inches.
    cmap
        Name of a colour map of matplotlib.

    Raises
    ------
    TypeError
        If the matrices are not a floating-point tensor.
    ValueError
        If they have not four axes, or the titles are not as many as the columns.

    Examples
    --------
    >>> show_heatmaps(torch.eye(10).reshape((1, 1, 10, 10)), xlabel="Keys", ylabel="Queries")

    References
    ----------
    Zhang et al., *Dive into Deep Learning* (2023), section "Queries, Keys, and Values".
    """
    check_floating("matrices", matrices)
    if matrices.ndim != 4 or 0 in matrices.shape:
        raise ValueError(
            "matrices must have shape (rows, columns, queries, keys), none of them 0; "
            f"got {tuple(matrices.shape)}"
        )
    if titles is not None and len(titles) != matrices.shape[1]:
        raise ValueError(
            f"titles must be as many as the columns of the grid, {matrices.shape[1]}; "
            f"got {len(titles)}"
        )
    with needs("notebook"):
        from matplotlib import pyplot as plt
    grid = matrices.detach().cpu().double().numpy()
    low, high = float(grid.min()), float(grid.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    figure, axes = plt.subplots(
        *grid.shape[:2], figsize=figsize, sharex=True, sharey=True, squeeze=False
    )
    for ax, matrix in zip(axes.flat, grid.reshape(-1, *grid.shape[2:]), strict=True):
        image = ax.imshow(matrix, cmap=cmap, vmin=low, vmax=high)
    for ax, title in zip(axes.flat, (titles or []) * grid.shape[0], strict=False):
        ax.set_title(title)  # above every matrix, as D2L has it
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    figure.colorbar(image, ax=axes, shrink=0.6)
