"""The same formula, one tile at a time: attention that never holds queries x keys numbers."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad
from torch.nn.parameter import Parameter
from torch.utils.checkpoint import checkpoint

from d2lattn.masking import (
    at_least_float32,
    check_floating,
    check_masks,
    check_tokens,
    combine_masks,
    has_values,
    masked_softmax,
)

__all__ = ["StreamOutput", "merge_attention", "stream_attention"]

# What a tile holds, in elements: 1 MB in float32, which stays in a core's cache.
_ELEMENTS_OF_A_TILE = 2**18
_KEYS_OF_A_TILE = 256
# Fewer are not worth calling the fused kernel once more.
_SCORES_WORTH_A_CALL = 2**16

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
PullBack = Callable[[Tensor], tuple[Tensor | None, ...]]


class Pairs:
    """The pairs of some queries and keys: their scores and derivatives, one tile at a time.

    This one asks :meth:`Score.compare` and autograd. A score that knows how to do it in less
    time or memory returns a kind of its own from :meth:`Score.pairs`.

    Attributes
    ----------
    features
        How many numbers are held for each pair while its score is made.
    """

    def __init__(self, score: "TwoHalves", q: Tensor, k: Tensor) -> None:
        self.score, self.q, self.k = score, q, k
        self.features = q.shape[-1]

    def scores(self, tile: "Tile") -> Float[Tensor, "batch rows columns"]:
        """Scores in a tile, in a tensor that the caller may write to."""
        return self.score.compare(self.q[tile.batch, tile.rows], self.k[tile.batch, tile.columns])

    def vjp(self, tile: "Tile") -> tuple[Float[Tensor, "batch rows columns"], PullBack]:
        """Scores, and a function from their gradient to those of all they depend on.

        The function returns the gradients of ``q`` and ``k`` in the tile and of each of the
        score's parameters, None for one that is not used.
        """
        wanted = [parameter for parameter in self.score.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            q = self.q[tile.batch, tile.rows].detach().requires_grad_()
            k = self.k[tile.batch, tile.columns].detach().requires_grad_()
            scores = self.score.compare(q, k)

        def pull_back(d_scores: Tensor) -> tuple[Tensor | None, ...]:
            found = torch.autograd.grad(scores, [q, k, *wanted], d_scores, allow_unused=True)
            of_wanted = dict(zip(map(id, wanted), found[2:], strict=True))
            return *found[:2], *(of_wanted.get(id(p)) for p in self.score.parameters())

        return scores.detach(), pull_back


class _DotProducts(Pairs):
    """Pairs whose score is a scaled dot product."""

    def __init__(self, scale: float, q: Tensor, k: Tensor) -> None:
        self.scale, self.q, self.k = scale, q, k
        self.features = 1

    def scores(self, tile: "Tile") -> Float[Tensor, "batch rows columns"]:
        q = self.q[tile.batch, tile.rows] * self.scale
        return q @ self.k[tile.batch, tile.columns].mT

    def vjp(self, tile: "Tile") -> tuple[Float[Tensor, "batch rows columns"], PullBack]:
        q, k = self.q[tile.batch, tile.rows], self.k[tile.batch, tile.columns]

        def pull_back(d_scores: Tensor) -> tuple[Tensor | None, ...]:
            d_scores = d_scores * self.scale
            return d_scores @ k, d_scores.mT @ q

        return self.scores(tile), pull_back


@runtime_checkable
class TwoHalves(Protocol):
    """What streaming asks of a :class:`~d2lattn.Score`: its halves, and its pairs."""

    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]: ...
    def compare(self, q: Tensor, k: Tensor) -> Tensor: ...
    def pairs(self, q: Tensor, k: Tensor) -> Pairs: ...
    def as_dot_product(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float] | None: ...
    def parameters(self) -> Iterator[Parameter]: ...


class StreamOutput(NamedTuple):
    r"""What :func:`stream_attention` returns: enough to be merged with other keys' results.

    Attributes
    ----------
    output
        Weighted averages of the values, shape ``(*batch, queries, value_features)``.
    logsumexp
        :math:`\log \sum_j e^{a_{ij}}`, shape ``(*batch, queries)``, at least float32;
        :math:`-\infty` for a query without keys.
    """

    output: Float[Tensor, "*batch queries value_features"]
    logsumexp: Float[Tensor, "*batch queries"]


def stream_attention(
    score: ScoreFunction,
    queries: Float[Tensor, "*batch queries query_features"],
    keys: Float[Tensor, "*batch keys key_features"],
    values: Float[Tensor, "*batch keys value_features"],
    valid_lens: Int[Tensor, "..."] | None = None,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    dropout: float = 0.0,
) -> StreamOutput:
    r"""Attention without a tensor of queries x keys, forward or backward.

    For each query a running maximum :math:`m`, sum :math:`l` and output :math:`o` take in one
    tile of keys after another:

    .. math::
        m' &= \max(m, \max_j a_j), \\
        l' &= e^{m - m'} l + \sum_j e^{a_j - m'}, \\
        o' &= e^{m - m'} o + \sum_j e^{a_j - m'} v_j

    In the end the output is :math:`o / l` and the logsumexp :math:`m + \log l`. For the gradient
    the scores are made again. A :class:`~d2lattn.Score` is streamed in tiles of queries and keys;
    a plain function, whose parameters cannot be known, in tiles of queries.

    Parameters
    ----------
    score
        As for :class:`~d2lattn.Attention`: a score module, or a function of queries and keys.
    queries, keys, values
        One floating dtype, one device, the same batch axes; as many values as keys.
    valid_lens, mask
        Which keys may be attended to, as in :func:`~d2lattn.masked_softmax`.
    dropout
        Probability with which a weight is dropped; the same weights again for the gradient.

    Returns
    -------
    StreamOutput
        ``(output, logsumexp)``, the output in the dtype of the inputs, both computed in at least
        float32. A query without keys gets output 0 and logsumexp :math:`-\infty`.

    Raises
    ------
    TypeError, ValueError
        As :class:`~d2lattn.Attention` does.

    Examples
    --------
    >>> keys, values = torch.eye(2), torch.tensor([[10.0], [20.0]])
    >>> stream_attention(lambda q, k: q @ k.mT, torch.zeros(1, 2), keys, values)
    StreamOutput(output=tensor([[15.]]), logsumexp=tensor([0.6931]))

    References
    ----------
    Milakov and Gimelshein, "Online Normalizer Calculation for Softmax" (2018);
    Dao et al., "FlashAttention" (2022).
    """
    check_tokens(queries=queries, keys=keys, values=values)
    shape = (*queries.shape[:-1], keys.shape[-2])
    check_masks(valid_lens, mask, shape, queries.device)
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"dropout must be a probability in [0, 1]; got {dropout}")
    queries, keys, values = without_padding(queries, keys, values, valid_lens, mask)
    if not isinstance(score, TwoHalves):
        return _by_rows(score, queries, keys, values, valid_lens, mask, dropout)

    q, k = (at_least_float32(tokens) for tokens in score.project(queries, keys))
    disguised = score.as_dot_product(q, k)
    if disguised is not None:
        streamed = stream_dot_products(*disguised, values, valid_lens, mask=mask, dropout=dropout)
    else:
        plan = _Plan(shape, valid_lens, mask, dropout)
        tokens = _flat(q, k, values)
        streamed = _Tiled.apply(score.pairs, plan, *tokens, *score.parameters())
    return _shaped(streamed, shape, values, torch.promote_types(q.dtype, values.dtype))


def stream_dot_products(
    queries: Float[Tensor, "*batch queries features"],
    keys: Float[Tensor, "*batch keys features"],
    scale: float,
    values: Float[Tensor, "*batch keys value_features"],
    valid_lens: Int[Tensor, "..."] | None = None,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    dropout: float = 0.0,
) -> StreamOutput:
    """:func:`stream_attention` for a scaled dot product, of arguments that were checked before.

    The logsumexp has at least the dtype of the queries.
    """
    shape = (*queries.shape[:-1], keys.shape[-2])
    tokens = _flat(queries, keys, values)
    if dropout == 0 and _is_fused(queries) and 0 not in shape:
        attend = _Fused.apply if wants_gradients(*tokens) else _Fused.forward
        streamed = attend(scale, _Masks(shape, valid_lens, mask), *tokens)
    else:
        plan = _Plan(shape, valid_lens, mask, dropout)
        streamed = _Tiled.apply(partial(_DotProducts, scale), plan, *tokens)
    return _shaped(streamed, shape, values, tokens[0].dtype)


def merge_attention(parts: Iterable[tuple[Tensor, Tensor]]) -> StreamOutput:
    r"""Join what several sets of keys gave to the same queries, as if they had been one set.

    .. math::
        L = \log \sum_p e^{L_p}, \qquad o = \sum_p e^{L_p - L}\, o_p

    Merging is associative and takes parts in any order: tiles of one machine, or machines.

    Parameters
    ----------
    parts
        Pairs ``(output, logsumexp)`` of the same shapes and dtypes, at least one.

    Returns
    -------
    StreamOutput
        The output and the logsumexp over all keys. A query that no part has keys for gets
        output 0 and logsumexp :math:`-\infty`.

    Raises
    ------
    TypeError
        If a part does not hold two floating-point tensors.
    ValueError
        If there is no part, or their shapes differ.

    Examples
    --------
    >>> near = torch.tensor([[1.0]]), torch.tensor([0.0])
    >>> far = torch.tensor([[3.0]]), torch.tensor([0.0])
    >>> merge_attention([near, far])
    StreamOutput(output=tensor([[2.]]), logsumexp=tensor([0.6931]))

    References
    ----------
    Dao et al., "FlashAttention" (2022), section 3.1.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("parts must hold at least one (output, logsumexp); got none")
    for number, (output, logsumexp) in enumerate(parts):
        check_floating(f"the output of parts[{number}]", output)
        check_floating(f"the logsumexp of parts[{number}]", logsumexp)
        expected = tuple(parts[0][0].shape), tuple(parts[0][0].shape[:-1])
        if (got := (tuple(output.shape), tuple(logsumexp.shape))) != expected:
            raise ValueError(
                f"parts must have outputs and logsumexps of one shape, {expected}; got {got} "
                f"at index {number}"
            )
    logs = torch.stack([logsumexp for _, logsumexp in parts])  # (parts, *batch, queries)
    top = logs.detach().amax(dim=0)
    anchor = top.masked_fill(top == -math.inf, 0.0)
    raised = (logs - anchor).exp()
    total = raised.sum(dim=0)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)
    shares = (raised / total).unsqueeze(-1)
    outputs = torch.stack([output.to(shares.dtype) for output, _ in parts])
    return StreamOutput(
        (shares * outputs).sum(dim=0).to(parts[0][0].dtype),
        (anchor + total.log()).masked_fill(empty, -math.inf),
    )


def _flat(*tokens: Tensor) -> list[Float[Tensor, "batch tokens features"]]:
    """Tokens in one dtype, at least float32, with all batch axes in one."""
    dtype = reduce(torch.promote_types, (x.dtype for x in tokens), torch.float32)
    return [x.to(dtype).reshape(math.prod(x.shape[:-2]), *x.shape[-2:]) for x in tokens]


def _shaped(
    streamed: tuple[Tensor, Tensor], shape: tuple[int, ...], values: Tensor, wide: torch.dtype
) -> StreamOutput:
    """With all batch axes, the output in the dtype of the values."""
    output, logsumexp = streamed
    return StreamOutput(
        output.reshape(*shape[:-1], values.shape[-1]).to(values.dtype),
        logsumexp.reshape(shape[:-1]).to(wide),
    )


class Tile(NamedTuple):
    """Some queries (rows) and keys (columns) of some of the batch, and their place."""

    batch: slice
    rows: slice
    columns: slice
    number: int


class _Plan:
    """Which tiles there are, and what is hidden or dropped in each."""

    def __init__(
        self,
        shape: tuple[int, ...],
        valid_lens: Tensor | None,
        mask: Tensor | None,
        dropout: float,
    ) -> None:
        *batch, self.num_queries, self.num_keys = shape
        self.num_batch = math.prod(batch)
        self.lens, self.mask = None, None
        if valid_lens is not None:  # (batch, 1 or queries)
            self.lens = valid_lens.long().reshape(
                self.num_batch, math.prod(valid_lens.shape[len(batch) :])
            )
        if mask is not None:  # (masks, 1 or queries, 1 or keys), and which mask is whose
            mask = mask.reshape((1,) * (len(shape) - mask.ndim) + mask.shape)
            own = torch.arange(math.prod(mask.shape[:-2]), device=mask.device)
            self.mask_of = own.reshape(mask.shape[:-2]).expand(batch).reshape(-1)
            self.mask = mask.reshape(-1, *mask.shape[-2:])
        self.dropout = dropout
        self.seed = int(torch.randint(2**62, ())) if dropout > 0 else 0

    def blocks(self, features: int) -> Iterator[tuple[slice, slice]]:
        """Slices of the batch and of the queries, for so many numbers held for each pair."""
        per_row = min(_KEYS_OF_A_TILE, max(1, self.num_keys)) * features
        rows = max(1, min(_ELEMENTS_OF_A_TILE // per_row, self.num_queries))
        size = max(1, _ELEMENTS_OF_A_TILE // (rows * per_row))
        for start in range(0, self.num_batch, size):
            for row in range(0, self.num_queries, rows):
                yield slice(start, start + size), slice(row, row + rows)

    def tiles(self, batch: slice, rows: slice) -> Iterator[Tile]:
        """The tiles of a block, up to where its longest valid length ends."""
        stop = self.num_keys
        if self.lens is not None and has_values(self.lens):
            lens = self.lens[batch]
            stop = int((lens if lens.shape[1] == 1 else lens[:, rows]).amax())
        number = (batch.start * self.num_queries + rows.start) * (self.num_keys + 1)
        for column in range(0, stop, _KEYS_OF_A_TILE):
            columns = slice(column, min(column + _KEYS_OF_A_TILE, stop))
            yield Tile(batch, rows, columns, number + column)

    def hidden(self, tile: Tile) -> Bool[Tensor, "batch rows columns"] | None:
        """Which scores of a tile do not count; None where all do."""
        hidden = None
        if self.lens is not None:
            lens = self.lens[tile.batch]
            lens = lens if lens.shape[1] == 1 else lens[:, tile.rows]
            keys = torch.arange(tile.columns.start, tile.columns.stop, device=lens.device)
            hidden = keys >= lens.unsqueeze(-1)
        if self.mask is not None:
            rows = tile.rows if self.mask.shape[1] > 1 else slice(None)
            columns = tile.columns if self.mask.shape[2] > 1 else slice(None)
            masked = ~self.mask[:, rows, columns][self.mask_of[tile.batch]]
            hidden = masked if hidden is None else hidden | masked
        return hidden

    def kept(self, tile: Tile, like: Tensor) -> Tensor:
        """Factors of dropout, the same whenever the tile is made again."""
        generator = torch.Generator(like.device).manual_seed((self.seed + tile.number) % 2**63)
        kept = torch.rand(like.shape, generator=generator, device=like.device) >= self.dropout
        scale = 0.0 if self.dropout == 1.0 else 1.0 / (1.0 - self.dropout)
        return kept.to(like.dtype) * scale


class _Tiled(torch.autograd.Function):
    """Online softmax over tiles of ``(batch, tokens, features)``; params are the score's own."""

    @staticmethod
    def forward(
        make_pairs: Callable[[Tensor, Tensor], Pairs],
        plan: _Plan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *params: Tensor,
    ) -> tuple[Tensor, Tensor]:
        pairs = make_pairs(q, k)
        output = v.new_zeros(*q.shape[:2], v.shape[-1])
        logsumexp = v.new_full(q.shape[:2], -math.inf)
        for batch, rows in plan.blocks(pairs.features):
            sums = output[batch, rows]  # a view, filled in place
            top = logsumexp[batch, rows].clone()
            total = torch.zeros_like(top)
            for tile in plan.tiles(batch, rows):
                scores = pairs.scores(tile)
                hidden = plan.hidden(tile)
                if hidden is not None:
                    scores = scores.masked_fill_(hidden, -math.inf)
                new_top = torch.maximum(top, scores.amax(dim=-1))
                anchor = new_top.masked_fill(new_top == -math.inf, 0.0)
                raised = scores.sub_(anchor.unsqueeze(-1)).exp_()
                shrink = top.sub_(anchor).exp_()
                total.mul_(shrink).add_(raised.sum(dim=-1))
                if plan.dropout:
                    raised.mul_(plan.kept(tile, raised))
                sums.mul_(shrink.unsqueeze(-1)).baddbmm_(raised, v[batch, tile.columns])
                top = new_top
            sums.div_(total.masked_fill(total == 0, 1.0).unsqueeze(-1))
            logsumexp[batch, rows] = top.add_(total.log_())
        return output, logsumexp

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.make_pairs, ctx.plan, q, k, v, *params = inputs
        ctx.save_for_backward(q, k, v, *output, *params)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor, d_logsumexp: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, logsumexp, *params = ctx.saved_tensors
        plan, pairs = ctx.plan, ctx.make_pairs(q, k)
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        d_params: list[Tensor | None] = [None] * len(params)
        # d score = weight * (d weight - sum of weight * d weight + d logsumexp)
        empty = logsumexp == -math.inf
        anchor = logsumexp.masked_fill(empty, 0.0).unsqueeze(-1)
        shift = d_logsumexp.masked_fill(empty, 0.0) - (d_output * output).sum(dim=-1)
        for batch, rows in plan.blocks(pairs.features):
            for tile in plan.tiles(batch, rows):
                scores, pull_back = pairs.vjp(tile)
                hidden = plan.hidden(tile)
                if hidden is not None:
                    scores = scores.masked_fill(hidden, -math.inf)
                weights = (scores - anchor[batch, rows]).exp_()
                d_weights = d_output[batch, rows] @ v[batch, tile.columns].mT
                used = weights
                if plan.dropout:
                    kept = plan.kept(tile, weights)
                    used, d_weights = weights * kept, d_weights * kept
                dv[batch, tile.columns].baddbmm_(used.mT, d_output[batch, rows])
                d_scores = d_weights.add_(shift[batch, rows].unsqueeze(-1)).mul_(weights)
                d_q, d_k, *found = pull_back(d_scores)
                dq[batch, rows].add_(d_q)
                dk[batch, tile.columns].add_(d_k)
                for i, part in enumerate(found):
                    if part is not None:
                        so_far = d_params[i]
                        d_params[i] = part if so_far is None else so_far.add_(part)
        return None, None, dq, dk, dv, *d_params


class _Masks(NamedTuple):
    """Lengths and mask of scores ``(*batch, queries, keys)``, some of them at a time."""

    shape: tuple[int, ...]
    valid_lens: Tensor | None
    mask: Tensor | None

    def blocks(self) -> Iterator[tuple[slice, slice, slice]]:
        """Slices of the batch, the queries and the keys, outside of which nothing counts.

        All at once, unless that would make a large mask, or lengths make it worth while to go
        through the batch one by one.
        """
        batch, every = self.shape[:-2], slice(None)
        if self.mask is None and self.valid_lens is not None and self.one_by_one:
            lens = self.valid_lens.expand(batch).reshape(-1).tolist()
            yield from ((slice(i, i + 1), every, slice(0, n)) for i, n in enumerate(lens) if n > 0)
        else:
            yield from ((every, rows, every) for rows in _row_tiles(*self))

    @property
    def one_by_one(self) -> bool:
        *batch, num_queries, num_keys = self.shape
        assert self.valid_lens is not None
        per_batch = self.valid_lens.ndim == len(batch)
        return per_batch and num_queries * num_keys >= _SCORES_WORTH_A_CALL

    def allowed(self, rows: slice) -> Bool[Tensor, "batch 1 #queries keys"] | None:
        allowed = combine_masks(*_rows_of(rows, *self), self.shape)
        if allowed is None or (self.mask is None and self.one_by_one):
            return None
        *batch, _, num_keys = self.shape
        allowed = allowed.expand(*batch, allowed.shape[-2], num_keys)
        return allowed.reshape(-1, 1, *allowed.shape[-2:])


def wants_gradients(*tensors: Tensor) -> bool:
    """Whether autograd follows what is done with any of them."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _is_fused(tokens: Tensor) -> bool:
    """Whether PyTorch's fused kernel computes here; only the CPU's also gives the logsumexp."""
    return tokens.device.type == "cpu" and hasattr(
        torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"
    )


class _Fused(torch.autograd.Function):
    """Dot-product attention of ``(batch, tokens, features)`` by PyTorch's fused kernel."""

    @staticmethod
    def forward(
        scale: float, masks: _Masks, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        output = v.new_zeros(*q.shape[:2], v.shape[-1])
        logsumexp = v.new_full(q.shape[:2], -math.inf)
        width = max(q.shape[-1], v.shape[-1])  # the kernel takes one width only
        wide_q, wide_k, wide_v = (_widened(tokens, width) for tokens in (q, k, v))
        for batch, rows, columns in masks.blocks():
            bias, empty = _as_bias(masks.allowed(rows), q.dtype)
            out, log = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                wide_q[batch, :, rows], wide_k[batch, :, columns], wide_v[batch, :, columns],
                attn_mask=bias, scale=scale,
            )  # fmt: skip
            output[batch, rows] = out[:, 0, :, : v.shape[-1]]
            logsumexp[batch, rows] = (
                log[:, 0] if empty is None else log[:, 0].masked_fill(empty, -math.inf)
            )
        return output, logsumexp

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.scale, ctx.masks, q, k, v = inputs
        ctx.save_for_backward(q, k, v, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_output: Tensor | None, d_logsumexp: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, output, logsumexp = ctx.saved_tensors
        if d_output is None:
            d_output = torch.zeros_like(output)
        width = max(q.shape[-1], v.shape[-1] + (d_logsumexp is not None))
        wide = [_widened(tokens, width) for tokens in (q, k, v, output, d_output)]
        wide_q, wide_k, wide_v, wide_output, wide_d_output = wide
        empty = logsumexp == -math.inf
        logs = logsumexp.masked_fill(empty, 0.0).unsqueeze(1)
        if d_logsumexp is not None:
            # The kernel subtracts the sum of d_output * output from d_weights. One more feature,
            # of which the values have none, makes it add d_logsumexp.
            wide_output[:, 0, :, v.shape[-1]] = -d_logsumexp.masked_fill(empty, 0.0)
            wide_d_output[:, 0, :, v.shape[-1]] = 1.0
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for batch, rows, columns in ctx.masks.blocks():
            bias, _ = _as_bias(ctx.masks.allowed(rows), q.dtype)
            d_q, d_k, d_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                wide_d_output[batch, :, rows], wide_q[batch, :, rows],
                wide_k[batch, :, columns], wide_v[batch, :, columns],
                wide_output[batch, :, rows], logs[batch, :, rows], 0.0, False,
                attn_mask=bias, scale=ctx.scale,
            )  # fmt: skip
            dq[batch, rows] = d_q[:, 0, :, : q.shape[-1]]
            dk[batch, columns] += d_k[:, 0, :, : k.shape[-1]]
            dv[batch, columns] += d_v[:, 0, :, : v.shape[-1]]
        return None, None, dq, dk, dv


def _widened(tokens: Tensor, width: int) -> Float[Tensor, "batch 1 tokens width"]:
    """Tokens with an axis for one head, and zeros up to a number of features."""
    missing = width - tokens.shape[-1]
    return pad(tokens.unsqueeze(1), (0, missing)) if missing else tokens.unsqueeze(1)


def _as_bias(
    allowed: Bool[Tensor, "batch 1 #queries keys"] | None, dtype: torch.dtype
) -> tuple[Tensor | None, Bool[Tensor, "batch #queries"] | None]:
    """The mask as what is added to scores, and which queries it leaves without keys."""
    if allowed is None:
        return None, None
    bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return bias.masked_fill_(~allowed, -math.inf), ~allowed.any(dim=-1).squeeze(1)


def _by_rows(
    score: ScoreFunction,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    valid_lens: Tensor | None,
    mask: Tensor | None,
    dropout: float,
) -> StreamOutput:
    """Some queries at a time, against all keys; autograd makes their scores again."""
    shape = (*queries.shape[:-1], keys.shape[-2])

    def attend(
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        valid_lens: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        scores = score(queries, keys)
        check_scores(scores, (*queries.shape[:-1], keys.shape[-2]))
        wide = scores.to(torch.promote_types(at_least_float32(scores).dtype, values.dtype))
        allowed = combine_masks(valid_lens, mask, tuple(wide.shape))
        if allowed is not None:
            wide = wide.masked_fill(~allowed, -math.inf)
        empty = (wide == -math.inf).all(dim=-1)
        logsumexp = wide.masked_fill(empty.unsqueeze(-1), 0.0).logsumexp(dim=-1)
        weights = drop(masked_softmax(wide), dropout) if dropout else masked_softmax(wide)
        output = (weights @ values.to(wide.dtype)).to(values.dtype)
        return output, logsumexp.masked_fill(empty, -math.inf)

    parts = [
        checkpoint(
            attend,
            *(queries[..., rows, :], keys, values),
            *_rows_of(rows, shape, valid_lens, mask),
            use_reentrant=False,
        )
        for rows in _some_rows(shape)
    ]
    outputs, logs = zip(*parts, strict=True)
    return StreamOutput(torch.cat(outputs, dim=-2), torch.cat(logs, dim=-1))


def check_scores(scores: Tensor, expected: tuple[int, ...]) -> None:
    """Raise an error unless a scoring function returned a tensor of this shape."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"score must return a tensor; got {type(scores).__name__}")
    if scores.shape != expected:
        raise ValueError(
            f"score must return shape (*batch, queries, keys) = {expected}; "
            f"got {tuple(scores.shape)}"
        )


def without_padding(
    queries: Tensor, keys: Tensor, values: Tensor, valid_lens: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros in place of what takes no part, so that not even NaN may spread from it."""
    if valid_lens is None and mask is None:
        return queries, keys, values
    shape = (*queries.shape[:-1], keys.shape[-2])
    idle, padding = _without_partner(shape, valid_lens, mask)
    return (
        queries.masked_fill(idle, 0.0),
        keys.masked_fill(padding, 0.0),
        values.masked_fill(padding, 0.0),
    )


def _without_partner(
    shape: tuple[int, ...], valid_lens: Tensor | None, mask: Tensor | None
) -> tuple[Bool[Tensor, "*batch queries 1"], Bool[Tensor, "*batch keys 1"]]:
    """Queries that may attend to no key, and keys that no query may attend to."""
    *batch, num_queries, num_keys = shape
    busy, used = [], []
    for rows in _row_tiles(shape, valid_lens, mask):
        allowed = combine_masks(*_rows_of(rows, shape, valid_lens, mask), shape)
        assert allowed is not None
        num_rows = len(range(num_queries)[rows])
        busy.append(allowed.any(dim=-1).expand(*batch, num_rows) & (num_keys > 0))
        used.append(allowed.any(dim=-2).expand(*batch, num_keys) & (num_rows > 0))
    idle = ~torch.cat(busy, dim=-1)
    padding = ~torch.stack(used).any(dim=0)
    return idle.unsqueeze(-1), padding.unsqueeze(-1)


def _row_tiles(
    shape: tuple[int, ...], valid_lens: Tensor | None, mask: Tensor | None
) -> list[slice]:
    """Slices of the queries whose mask is as large as a tile: all, if the mask is that of one."""
    per_query = valid_lens is not None and valid_lens.ndim == len(shape) - 1
    if not per_query and (mask is None or mask.ndim < 2 or mask.shape[-2] == 1):
        return [slice(None)]
    return _some_rows(shape)


def _some_rows(shape: tuple[int, ...]) -> list[slice]:
    """Slices of the queries that have as many scores, over all keys, as a tile has elements."""
    *batch, num_queries, num_keys = shape
    rows = max(1, _ELEMENTS_OF_A_TILE // max(1, math.prod(batch) * num_keys))
    return [slice(start, start + rows) for start in range(0, max(1, num_queries), rows)]


def _rows_of(
    rows: slice, shape: tuple[int, ...], valid_lens: Tensor | None, mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What the lengths and the mask say about some of the queries."""
    if valid_lens is not None and valid_lens.ndim == len(shape) - 1:  # one for each query
        valid_lens = valid_lens[..., rows]
    if mask is not None and mask.ndim >= 2 and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    return valid_lens, mask
