"""Masks whose blocks are known without a look at their pairs."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from d2lattn.blocks import Block
from d2lattn.checks import check_broadcasts, check_device
from d2lattn.ordinary import first_index, is_ordinary
from d2lattn.restrictions.base import Columns, Restriction, Stretch

# A position that is ahead of all, and leaves room to count on.
FAR = 2**62


class Band(Restriction):
    """Keys from ``before`` positions back (None: all of them) to ``after`` ahead."""

    def __init__(self, before: int | None, after: int) -> None:
        self.before, self.after = before, after

    def __repr__(self) -> str:
        if self.before is None:
            return "Mask.causal()"
        return f"Mask.window({self.before}, {self.after})"

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return ~self.hidden(block, device)

    def hidden(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        i, j = block.positions(device)
        hidden = j > i + self.after
        return hidden if self.before is None else hidden.logical_or_(j < i - self.before)

    def hull(self, rows: Stretch, shape: tuple[int, ...]) -> Stretch:
        *_, num_queries, num_keys = shape
        first, last = (row + num_keys - num_queries for row in (rows[0], rows[1] - 1))
        start = 0 if self.before is None else max(0, first - self.before)
        return start, max(start, min(num_keys, last + self.after + 1))

    def columns(self, block: Block, device: torch.device) -> Columns:
        i, j = block.positions(device)
        if i.shape[0] == 0:
            every = torch.ones_like(j[0], dtype=torch.bool)
            return ~every, every
        some, every = j[0] <= i[-1] + self.after, j[0] <= i[0] + self.after
        if self.before is not None:
            some &= j[0] >= i[0] - self.before
            every &= j[0] >= i[-1] - self.before
        return some, every

    def unused(
        self, shape: tuple[int, ...], device: torch.device, at_once: int
    ) -> tuple[Bool[Tensor, "*batch #queries"], Bool[Tensor, "*batch #keys"]]:
        whole = Block.whole(shape)
        i, _ = whole.positions(device)
        some, _ = self.columns(whole, device)
        missing = (None,) * (len(shape) - 2)
        return (i[:, 0] + self.after < 0)[missing] | (shape[-1] == 0), ~some[missing]

    def is_triangle(self, block: Block, device: torch.device) -> bool:
        *_, num_queries, num_keys = block.shape
        assert isinstance(block.rows, slice)
        assert isinstance(block.columns, slice)
        own = block.rows.start + num_keys - num_queries
        last = block.rows.stop - 1 + num_keys - num_queries
        return block.columns.start == own + self.after and (
            self.before is None or block.columns.start >= last - self.before
        )

    def edges(self, shape: tuple[int, ...]) -> list[int]:
        if self.before is None:
            return []
        return list(range(0, shape[-2], max(128, self.before + self.after + 1)))[1:]

    def pattern(self, block: Block) -> int | None:
        if not isinstance(block.rows, slice) or not isinstance(block.columns, slice):
            return None
        return int(block.rows.start) - int(block.columns.start)

    def sees_all(self, shape: tuple[int, ...]) -> bool:
        *_, num_queries, num_keys = shape
        return num_keys > 0 and num_keys - num_queries + self.after >= 0


class Lengths(Restriction):
    """The first keys: one length for each element of the batch, or for each query."""

    parts = ("lens",)

    def __init__(
        self, lens: Int[Tensor, "..."], low: int | None = None, high: int | None = None
    ) -> None:
        self.lens, self.low, self.high = lens, low, high

    def __repr__(self) -> str:
        return f"Mask.lengths({tuple(self.lens.shape)})"

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        of_queries = self.lens.ndim > 1 and self.lens.shape[-1] == num_queries
        return tuple(self.lens.shape[:-1] if of_queries else self.lens.shape)

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        *batch, num_queries, num_keys = shape
        lens = self.lens
        if lens.device != device:
            check_device("valid_lens", lens, device)
        wanted = (*batch, num_queries)[: lens.ndim]
        fits = lens.shape == wanted or all(
            have in (1, want) for have, want in zip(lens.shape, wanted, strict=False)
        )
        if not fits or not len(batch) <= lens.ndim <= len(batch) + 1:
            raise ValueError(
                f"valid_lens must have shape {tuple(batch)}, one length for each batch element, "
                f"or {(*batch, num_queries)}, one for each query; got {tuple(lens.shape)}"
            )
        lens = lens.long()  # PyTorch cannot compare every integer dtype
        low, high = self._range(lens, num_keys)
        missing = (None,) * (len(shape) - lens.ndim)
        return Lengths(lens[(..., *missing)], low, high)

    def bind_to_heads(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        if self.lens.ndim >= len(shape) - 1:
            return self.bind(shape, device)
        bound = self.bind((*shape[:-3], *shape[-2:]), device)
        assert isinstance(bound, Lengths)
        return Lengths(bound.lens.unsqueeze(-3), bound.low, bound.high)

    def _range(self, wide: Tensor, num_keys: int) -> tuple[int | None, int | None]:
        """The least and the largest length, after a look whether they can be meant."""
        low = high = None
        if is_ordinary(wide) and wide.numel() > 0:
            if wide.ndim == 1 and len(wide) <= 32 and wide.device.type == "cpu":
                numbers = wide.tolist()
                low, high = min(numbers), max(numbers)
            else:
                low, high = (int(x) for x in wide.aminmax())
            if low >= 0 and high <= num_keys:
                return low, high
        index = first_index((wide < 0) | (wide > num_keys))
        if index is not None:
            raise ValueError(
                f"valid_lens must lie in [0, {num_keys}], the number of keys; "
                f"got {self.lens[index].item()} at index {index}"
            )
        return low, high

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return block.of_columns(device) < block.cut(self.lens)

    def hidden(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return block.of_columns(device) >= block.cut(self.lens)

    def hull(self, rows: Stretch, shape: tuple[int, ...]) -> Stretch:
        return 0, shape[-1] if self.high is None else self.high

    def columns(self, block: Block, device: torch.device) -> Columns:
        low, high = block.cut(self.lens).aminmax()
        j = block.of_columns(device)
        return j < high, j < low

    def sees_all(self, shape: tuple[int, ...]) -> bool:
        return self.low is not None and self.low > 0


class Documents(Restriction):
    """Keys with the number of the query."""

    parts = ("query_ids", "key_ids")

    def __init__(self, query_ids: Int[Tensor, "..."], key_ids: Int[Tensor, "..."]) -> None:
        self.query_ids, self.key_ids = query_ids, key_ids

    def __repr__(self) -> str:
        return f"Mask.documents({tuple(self.query_ids.shape)}, {tuple(self.key_ids.shape)})"

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        shapes = self.query_ids.shape[:-1], self.key_ids.shape[:-1]
        return tuple(torch.broadcast_shapes(*shapes))

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        *batch, num_queries, num_keys = shape
        for name, ids, count in (
            ("query_ids", self.query_ids, num_queries), ("key_ids", self.key_ids, num_keys),
        ):  # fmt: skip
            check_device(name, ids, device)
            if ids.shape[-1] != count:
                raise ValueError(
                    f"{name} must hold one number for each of the {count} "
                    f"{'queries' if name == 'query_ids' else 'keys'}; got {ids.shape[-1]}"
                )
            check_broadcasts(name, ids, (*batch, count))
        query_ids, key_ids = (  # PyTorch cannot look up every integer dtype
            ids.long()[(None,) * (len(shape) - 1 - ids.ndim)]
            for ids in (self.query_ids, self.key_ids)
        )
        return Documents(query_ids.unsqueeze(-1), key_ids.unsqueeze(-2))

    def bind_to_heads(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        return Documents(
            *(
                ids.unsqueeze(-2) if 1 < ids.ndim < len(shape) - 1 else ids
                for ids in (self.query_ids, self.key_ids)
            )
        ).bind(shape, device)

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return block.cut(self.query_ids) == block.cut(self.key_ids)

    def columns(self, block: Block, device: torch.device) -> Columns:
        of_keys = block.cut(self.key_ids).flatten(0, -2)
        present = block.cut(self.query_ids).unique()
        some = torch.isin(of_keys, present).any(dim=0)
        return some, (of_keys == present[0]).all(dim=0) if len(present) == 1 else ~some & some

    def edges(self, shape: tuple[int, ...]) -> list[int]:
        ids = self.query_ids.reshape(-1, shape[-2])
        changes = (ids[:, 1:] != ids[:, :-1]).any(dim=0).nonzero().flatten()
        return [] if 32 * len(changes) > shape[-2] else (changes + 1).tolist()
