"""Several scores at once: attention in several heads."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from d2lattn.attention import AttentionOutput
from d2lattn.checks import (
    check_dropout,
    check_scoring_function,
    check_sizes,
    check_tokens,
    fit_together,
    result_dtype,
)
from d2lattn.dot_product import DotProductScore
from d2lattn.engine.attend import attend, unused_tokens
from d2lattn.masks import Mask, restriction
from d2lattn.ordinary import is_finite, is_ordinary
from d2lattn.score import ScoreFunction, apply_linear

__all__ = ["MultiHeadAttention"]


class MultiHeadAttention(nn.Module):
    r"""Attention in several heads: each has queries, keys, values and weights of its own.

    .. math::
        f(q) = W_o \begin{bmatrix} h_1 \\ \vdots \\ h_n \end{bmatrix} + b_o, \qquad
        h_i = \sum_j \mathrm{masked\_softmax}_j\, a(W_q^{(i)} q,\, W_k^{(i)} k_j)\; W_v^{(i)} v_j

    Parameters
    ----------
    embed_dim
        Features of a query, and of the output. Each head has ``embed_dim / num_heads`` of them.
    num_heads
        How many heads.
    score
        What scores queries and keys of shape ``(*batch, heads, tokens, head_features)``, as for
        :class:`~d2lattn.Attention`; None: the scaled dot product.
    num_kv_heads
        How many heads keys and values have: a divisor of ``num_heads``, of which as many
        neighbours share each. None: as many as queries.
    kdim, vdim
        Features of a key and of a value; None: ``embed_dim``.
    dropout
        Probability with which a weight is dropped in training mode.
    bias
        Whether the four layers add a bias, which starts at 0.

    Attributes
    ----------
    W_q, W_k, W_v, W_o : torch.nn.Linear
        To the queries, keys and values of all heads, one head after the other, and back.
    score, dropout : torch.nn.Module
        As of :class:`~d2lattn.Attention`.

    Raises
    ------
    TypeError
        If a size is not an integer, the score cannot be called, or the dropout is not a number.
    ValueError
        If a size is not positive, ``num_heads`` does not divide ``embed_dim``, ``num_kv_heads``
        does not divide ``num_heads``, or the dropout is not a probability.

    Notes
    -----
    ``load_state_dict`` also takes the weights of :class:`torch.nn.MultiheadAttention`, in either
    of its forms. That one works on ``(tokens, batch, features)`` unless it is ``batch_first``,
    and True hides in its boolean masks.

    Examples
    --------
    >>> import torch
    >>> from d2lattn import Mask
    >>> attention = MultiHeadAttention(embed_dim=8, num_heads=2)
    >>> tokens = torch.randn(3, 5, 8)
    >>> output, weights = attention(tokens, tokens, tokens, mask=Mask.causal())
    >>> output.shape, weights.shape
    (torch.Size([3, 5, 8]), torch.Size([3, 2, 5, 5]))

    References
    ----------
    Vaswani et al., "Attention Is All You Need" (2017), section 3.2.2; Ainslie et al., "GQA:
    Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints" (2023), for
    shared keys and values.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        score: ScoreFunction | None = None,
        num_kv_heads: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        kdim, vdim = (embed_dim if size is None else size for size in (kdim, vdim))
        check_sizes(
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            kdim=kdim,
            vdim=vdim,
        )
        if embed_dim % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, {embed_dim}, into equal parts; got {num_heads}"
            )
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads, {num_heads}; got {num_kv_heads}")
        score = DotProductScore() if score is None else score
        check_scoring_function(score)
        check_dropout(dropout)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        shared = embed_dim // num_heads * num_kv_heads
        self.W_q = nn.Linear(embed_dim, embed_dim, bias)
        self.W_k = nn.Linear(kdim, shared, bias)
        self.W_v = nn.Linear(vdim, shared, bias)
        self.W_o = nn.Linear(embed_dim, embed_dim, bias)
        self.score = score
        self.dropout = nn.Dropout(dropout)
        for layer in (self.W_q, self.W_k, self.W_v, self.W_o):
            nn.init.xavier_uniform_(layer.weight)
            if bias:
                nn.init.zeros_(layer.bias)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}"

    def forward(
        self,
        queries: Float[Tensor, "*batch queries embed_dim"],
        keys: Float[Tensor, "*batch keys kdim"],
        values: Float[Tensor, "*batch keys vdim"],
        valid_lens: Int[Tensor, "..."] | None = None,
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        need_weights: bool = True,
    ) -> AttentionOutput:
        """What the heads find, joined.

        Parameters
        ----------
        queries, keys, values
            One floating dtype, one device, the same batch axes (any number, also none); as many
            values as keys. Not modified.
        valid_lens, mask
            As in :class:`~d2lattn.Attention`, for all heads alike; with one axis more, that of
            the heads: lengths ``(*batch, heads, queries)``, of which an axis may be 1, booleans
            ``(*batch, heads, queries, keys)``.
        need_weights
            Whether to return the weights; without them nothing of the size queries x keys is
            held.

        Returns
        -------
        AttentionOutput
            Output ``(*batch, queries, embed_dim)`` and weights ``(*batch, heads, queries, keys)``
            or None, in the dtype of the inputs. A query without keys finds 0 in every head: its
            output is the bias of ``W_o``.

        Raises
        ------
        TypeError, ValueError
            As :class:`~d2lattn.Attention`, and if inputs do not fit the layers.
        """
        if not fit_together(queries, keys, values):
            check_tokens(queries=queries, keys=keys, values=values)
        shape = (*queries.shape[:-2], self.num_heads, queries.shape[-2], keys.shape[-2])
        allowed = restriction(valid_lens, mask, shape, queries.device, of_heads=True)
        dtype = result_dtype(queries, keys, values)
        tokens = queries, keys, values
        if allowed is not None and not (is_ordinary(*tokens) and is_finite(*tokens)):
            # Or 0 times NaN would be in the gradients of the layers.
            idle, padding = (
                unused.all(dim=-2) if unused.ndim > 1 else unused
                for unused in unused_tokens(allowed, shape, queries)
            )
            queries = queries.masked_fill(idle.unsqueeze(-1), 0.0)
            keys, values = (x.masked_fill(padding.unsqueeze(-1), 0.0) for x in (keys, values))
        q = self._in_heads(apply_linear("queries", queries, self.W_q), self.num_heads)
        k, v = (
            self._in_heads(apply_linear(name, x, layer), self.num_kv_heads)
            for name, x, layer in (("keys", keys, self.W_k), ("values", values, self.W_v))
        )
        if self.num_kv_heads != self.num_heads:
            k, v = (x.repeat_interleave(self.num_heads // self.num_kv_heads, -3) for x in (k, v))
        found, weights, _, _ = attend(
            self.score, q, k, v, allowed, self.dropout, need_weights=need_weights
        )  # (*batch, heads, queries, head_features)
        joined = found.to(dtype).transpose(-3, -2).flatten(-2)
        output = self.W_o(joined).to(dtype)
        return AttentionOutput(
            output, weights.to(dtype) if need_weights and weights is not None else None
        )

    @staticmethod
    def _in_heads(tokens: Tensor, heads: int) -> Float[Tensor, "*batch heads tokens features"]:
        return tokens.unflatten(-1, (heads, -1)).transpose(-3, -2)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **options: Any
    ) -> None:
        """Also of PyTorch's module; ``state_dict`` is a copy that may be changed."""
        layers = ("W_q", "W_k", "W_v")
        for kind in ("weight", "bias"):
            joint = state_dict.pop(f"{prefix}in_proj_{kind}", None)
            if joint is not None:
                for layer, part in zip(layers, joint.chunk(3), strict=True):
                    state_dict[f"{prefix}{layer}.{kind}"] = part
        for layer in layers:
            part = state_dict.pop(f"{prefix}{layer[-1]}_proj_weight", None)
            if part is not None:
                state_dict[f"{prefix}{layer}.weight"] = part
        for kind in ("weight", "bias"):
            part = state_dict.pop(f"{prefix}out_proj.{kind}", None)
            if part is not None:
                state_dict[f"{prefix}W_o.{kind}"] = part
        super()._load_from_state_dict(state_dict, prefix, *rest, **options)
