"""What an engine may ask of a mask: the booleans of a block, or what is known of it."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils import _pytree as pytree

from d2lattn.blocks import Block

Stretch = tuple[int, int]  # of keys: from the first to before the last
Columns = tuple[Bool[Tensor, " keys"], Bool[Tensor, " keys"]]


class Restriction:
    """Who may attend to whom. Bound, its tensors have as many axes as the scores."""

    parts: tuple[str, ...] = ()  # names of attributes that are tensors, or hold some
    opaque = False  # whether it can only be known by looking at every pair

    foreign = False  # whether somebody else's function decides

    def __init_subclass__(cls) -> None:
        register_tree(cls)

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

    def bind_to_heads(self, shape: tuple[int, ...], device: torch.device) -> "Restriction":
        """The same for scores ``(*batch, heads, queries, keys)``: what has no axis more than
        ``(*batch, queries, keys)`` asks for is for all heads alike."""
        return self.bind(shape, device)

    def allowed(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        """The booleans of a block; they broadcast to it."""
        raise NotImplementedError

    def hidden(self, block: Block, device: torch.device) -> Bool[Tensor, "..."]:
        """The opposite, in a tensor of its own."""
        return ~self.allowed(block, device)

    def hull(self, rows: Stretch, shape: tuple[int, ...]) -> Stretch:
        """Keys outside of which these queries surely see nothing; needs no tensor."""
        return 0, shape[-1]

    def columns(self, block: Block, device: torch.device) -> Columns:
        """Of each key of a block: whether some query may see it, and whether every one does.

        The first may be too generous, the second too strict.
        """
        allowed = self.allowed(block, device)
        allowed = allowed.expand(*allowed.shape[:-1], block.sizes[-1]).flatten(0, -2)
        return allowed.any(dim=0), allowed.all(dim=0)

    def unused(
        self, shape: tuple[int, ...], device: torch.device, at_once: int
    ) -> tuple[Bool[Tensor, "*batch #queries"], Bool[Tensor, "*batch #keys"]]:
        """Queries that see no key, and keys that no query sees, so many rows at a time."""
        *_, num_queries, num_keys = shape
        whole = Block.whole(shape)
        idle, padding = [], None
        for start in range(0, num_queries, at_once) if at_once < num_queries else [0]:
            stop = min(start + at_once, num_queries)
            some = whole if stop - start == num_queries else whole._replace(rows=slice(start, stop))
            hidden = self.hidden(some, device)
            of_rows = hidden.all(dim=-1)
            if num_keys == 0:  # a symbol where this is traced
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

    def pattern(self, block: Block) -> int | None:
        """A number that two blocks of one size share if the same is hidden in both."""
        return None


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
