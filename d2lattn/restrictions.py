"""Kinds of masks, as an engine asks them: for the booleans of a block, or what it knows of it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from d2lattn.blocks import Block
from d2lattn.checks import (
    check_broadcasts,
    check_device,
    first_index,
    is_ordinary,
)

Stretch = tuple[int, int]  # of keys: from the first to before the last
Columns = tuple[Bool[Tensor, " keys"], Bool[Tensor, " keys"]]


class Restriction:
    """Who may attend to whom. Bound, its tensors have as many axes as the scores."""

    parts: tuple[str, ...] = ()  # names of attributes that are tensors, or hold some
    opaque = False  # whether it can only be known by looking at every pair

    foreign = False  # whether somebody else's function decides

    def tensors(self) -> Iterator[Tensor]:
        """All tensors in it."""
        for part in (getattr(self, name) for name in self.parts):
            yield from [part] if isinstance(part, Tensor) else part.tensors()

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        """The batch axes of its tensors."""
        return ()

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        """Itself for scores of this shape, checked: its tensors have as many axes as they."""
        return self

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        """The booleans of a block; they broadcast to it."""
        raise NotImplementedError

    def hidden(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        """The opposite, in a tensor of its own."""
        return ~self.allowed(block, device)

    def hull(self, rows: Stretch, shape: tuple[int, ...]) -> Stretch:
        """Keys outside of which these queries surely see nothing; needs no tensor."""
        return 0, shape[-1]

    def columns(
        self, block: Block, device: torch.device
    ) -> tuple[Bool[Tensor, " keys"], Bool[Tensor, " keys"]]:
        """Of each key of a block: whether some query may see it, and whether every one does.

        The first may be too generous, the second too strict.
        """
        allowed = self.allowed(block, device)
        allowed = allowed.expand(*allowed.shape[:-1], block.sizes[-1]).flatten(0, -2)
        return allowed.any(dim=0), allowed.all(dim=0)

    def unused(
        self, shape: tuple[int, ...], device: torch.device, at_once: int
    ) -> tuple[Bool[Tensor, "*batch #queries"], Bool[Tensor, "*batch #keys"]]:
        """Queries that see no key, and keys that no query sees; after so many rows at a time."""
        *_, num_queries, num_keys = shape
        whole = Block.whole(shape)
        idle, padding = [], None
        for start in range(0, num_queries, at_once) if at_once < num_queries else [0]:
            stop = min(start + at_once, num_queries)
            some = whole if stop - start == num_queries else whole._replace(rows=slice(start, stop))
            hidden = self.hidden(some, device)
            of_rows = hidden.all(dim=-1)
            if num_keys == 0:
                of_rows = torch.ones_like(of_rows)
            idle.append(of_rows.expand(*of_rows.shape[:-1], stop - start))
            of_keys = hidden.all(dim=-2)
            padding = of_keys if padding is None else padding & of_keys
        assert padding is not None
        return torch.cat(idle, dim=-1) if len(idle) > 1 else idle[0], padding

    def is_triangle(self, block: Block, device: torch.device) -> bool:
        """Whether it hides from row r exactly the columns behind column r of the block."""
        return False

    def sees_all(self, shape: tuple[int, ...]) -> bool:
        """Whether surely every query sees a key."""
        return False

    def edges(self, shape: tuple[int, ...]) -> list[int]:
        """Numbers of queries before which it is worth while to cut."""
        return []


class Band(Restriction):
    """Keys from ``before`` positions back (None: all of them) to ``after`` ahead."""

    def __init__(self, before: int | None, after: int) -> None:
        self.before, self.after = before, after

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

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        of_queries = self.lens.ndim > 1 and self.lens.shape[-1] == num_queries
        return tuple(self.lens.shape[:-1] if of_queries else self.lens.shape)

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        *batch, num_queries, num_keys = shape
        lens = self.lens
        if lens.device != device:
            check_device("valid_lens", lens, device)
        wanted = (*batch, num_queries)[: lens.ndim]
        fits = lens.ndim in (len(batch), len(batch) + 1) and all(
            have in (1, want) for have, want in zip(lens.shape, wanted, strict=True)
        )
        if not fits:
            raise ValueError(
                f"valid_lens must have shape {tuple(batch)}, one length for each batch element, "
                f"or {(*batch, num_queries)}, one for each query; got {tuple(lens.shape)}"
            )
        low, high = self._range(num_keys)
        if lens.dtype != torch.long:
            lens = lens.long()  # PyTorch cannot compare every integer dtype
        lens = lens[(..., *(None,) * (len(shape) - lens.ndim))]
        return Lengths(lens, low, high)

    def _range(self, num_keys: int) -> tuple[int | None, int | None]:
        """The least and the largest length, after a look whether they can be meant."""
        lens = self.lens
        low = high = None
        if is_ordinary(lens) and lens.numel() > 0:
            if lens.numel() <= 512 and lens.device.type == "cpu":
                numbers = lens.reshape(-1).tolist()
                low, high = min(numbers), max(numbers)
            else:
                low, high = (int(x) for x in lens.long().aminmax())
            if low >= 0 and high <= num_keys:
                return low, high
        wide = lens.long()
        index = first_index((wide < 0) | (wide > num_keys))
        if index is not None:
            raise ValueError(
                f"valid_lens must lie in [0, {num_keys}], the number of keys; "
                f"got {lens[index].item()} at index {index}"
            )
        return low, high

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return block.positions(device)[1] < block.cut(self.lens)

    def hidden(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return block.positions(device)[1] >= block.cut(self.lens)

    def hull(self, rows: Stretch, shape: tuple[int, ...]) -> Stretch:
        return 0, shape[-1] if self.high is None else self.high

    def columns(self, block: Block, device: torch.device) -> Columns:
        low, high = block.cut(self.lens).aminmax()
        j = block.positions(device)[1][0]
        return j < high, j < low

    def sees_all(self, shape: tuple[int, ...]) -> bool:
        return self.low is not None and self.low > 0


class Documents(Restriction):
    """Keys with the number of the query."""

    parts = ("query_ids", "key_ids")

    def __init__(self, query_ids: Int[Tensor, "..."], key_ids: Int[Tensor, "..."]) -> None:
        self.query_ids, self.key_ids = query_ids, key_ids

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
        missing = (None,) * (len(shape) - 1)
        query_ids, key_ids = (
            ids[missing[: len(shape) - 1 - ids.ndim]] for ids in (self.query_ids, self.key_ids)
        )
        return Documents(query_ids.unsqueeze(-1), key_ids.unsqueeze(-2))

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return block.cut(self.query_ids) == block.cut(self.key_ids)

    def columns(self, block: Block, device: torch.device) -> Columns:
        of_keys = block.cut(self.key_ids).flatten(0, -2)
        present = block.cut(self.query_ids).unique()
        some = torch.isin(of_keys, present).any(dim=0)
        return some, (of_keys == present[0]).all(dim=0) if len(present) == 1 else ~some & some

    def edges(self, shape: tuple[int, ...]) -> list[int]:
        ids = self.query_ids.squeeze(-1)
        changes = (ids[..., 1:] != ids[..., :-1]).flatten(0, -2).any(dim=0).nonzero()
        return [] if 32 * len(changes) > shape[-2] else (changes + 1).flatten().tolist()


class Where(Restriction):
    """Where a function of positions is true."""

    opaque = foreign = True

    def __init__(self, predicate: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.predicate = predicate

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        i, j = block.positions(device)
        found = self.predicate(i, j)
        if not isinstance(found, Tensor) or found.dtype != torch.bool:
            got = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"predicate must return a boolean tensor; got {got}")
        of_all_batch = (*block.shape[:-2], *block.sizes[-2:])
        check_broadcasts("what predicate returns", found, of_all_batch)
        return block._replace(rows=slice(None), columns=slice(None)).cut(found)


class Booleans(Restriction):
    """A boolean tensor that broadcasts to the scores."""

    parts = ("boolean",)
    opaque = True

    def __init__(self, boolean: Bool[Tensor, "..."]) -> None:
        self.boolean = boolean

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        return tuple(self.boolean.shape[:-2])

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        check_device("mask", self.boolean, device)
        check_broadcasts("mask", self.boolean, shape)
        return Booleans(self.boolean[(None,) * (len(shape) - self.boolean.ndim)])

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return block.cut(self.boolean)


class Both(Restriction):
    """What two masks allow."""

    parts = ("one", "other")

    def __init__(self, one: Restriction, other: Restriction) -> None:
        self.one, self.other = one, other
        self.opaque = one.opaque or other.opaque
        self.foreign = one.foreign or other.foreign

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        axes = (mask.batch_of(num_queries) for mask in (self.one, self.other))
        return tuple(torch.broadcast_shapes(*axes))

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        return Both(self.one.bind(shape, device), self.other.bind(shape, device))

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return self.one.allowed(block, device) & self.other.allowed(block, device)

    def hull(self, rows: Stretch, shape: tuple[int, ...]) -> Stretch:
        (a, b), (c, d) = (mask.hull(rows, shape) for mask in (self.one, self.other))
        return max(a, c), max(a, c, min(b, d))

    def columns(self, block: Block, device: torch.device) -> Columns:
        one, other = (mask.columns(block, device) for mask in (self.one, self.other))
        return one[0] & other[0], one[1] & other[1]

    def is_triangle(self, block: Block, device: torch.device) -> bool:
        triangles = [mask.is_triangle(block, device) for mask in (self.one, self.other)]
        return any(triangles) and all(
            triangle or bool(mask.columns(block, device)[1].all())
            for triangle, mask in zip(triangles, (self.one, self.other), strict=True)
        )

    def edges(self, shape: tuple[int, ...]) -> list[int]:
        return self.one.edges(shape) + self.other.edges(shape)


class Inverse(Restriction):
    """What a mask does not allow."""

    parts = ("inner",)

    def __init__(self, inner: Restriction) -> None:
        self.inner = inner
        self.opaque, self.foreign = inner.opaque, inner.foreign

    def batch_of(self, num_queries: int) -> tuple[int, ...]:
        return self.inner.batch_of(num_queries)

    def bind(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        return Inverse(self.inner.bind(shape, device))

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        return self.inner.hidden(block, device)

    def columns(self, block: Block, device: torch.device) -> Columns:
        some, every = self.inner.columns(block, device)
        return ~every, ~some

    def edges(self, shape: tuple[int, ...]) -> list[int]:
        return self.inner.edges(shape)


def register_tree(kind: type[Any]) -> None:
    """Let `torch.vmap`, `torch.export` and their kind see the tensors inside."""

    def make(tensors: Iterable[Any], rest: tuple[tuple[str, Any], ...]) -> Any:
        made = object.__new__(kind)  # checks would stumble over what stands in for tensors
        vars(made).update(dict(zip(kind.parts, tensors, strict=True)), **dict(rest))
        return made

    def rest(mask: Any) -> tuple[tuple[str, Any], ...]:
        return tuple((name, x) for name, x in vars(mask).items() if name not in kind.parts)

    pytree.register_pytree_node(
        kind,
        lambda mask: ([getattr(mask, name) for name in kind.parts], rest(mask)),
        make,
        serialized_type_name=f"d2lattn.{kind.__name__}",
        flatten_with_keys_fn=lambda mask: (
            [(pytree.GetAttrKey(name), getattr(mask, name)) for name in kind.parts],
            rest(mask),
        ),
    )


for _kind in (Band, Booleans, Both, Documents, Inverse, Lengths, Where):
    register_tree(_kind)
