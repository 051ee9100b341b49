"""Who may attend to whom, as a description: dense, or one block of the scores at a time."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from d2lattn.blocks import Block
from d2lattn.checks import check_count, check_integers, check_of_positions
from d2lattn.ordinary import is_ordinary
from d2lattn.restrictions import (
    FAR,
    Band,
    Booleans,
    Both,
    Documents,
    Inverse,
    Lengths,
    Restriction,
    Where,
    register_tree,
)

__all__ = ["Mask"]


class Mask:
    r"""Which query may attend to which key: a description, never queries x keys numbers.

    .. math:: m_{ij} = [\,\text{query } i \text{ may attend to key } j\,]

    Every ``mask=`` of this package takes one. What it leaves empty is not computed: causal
    attention takes about half the time, a window time linear in the length.

    Query ``i`` stands at the position ``i + keys - queries``: the last query at the last key.

    Examples
    --------
    >>> Mask.window(1).dense(2, 3)
    tensor([[ True,  True, False],
            [False,  True,  True]])
    >>> first = Mask.where(lambda i, j: j == 0)  # a key that every query sees
    >>> (Mask.window(0) | first).dense(2, 3)
    tensor([[ True,  True, False],
            [ True, False,  True]])

    References
    ----------
    Dong et al., "Flex Attention" (2024), whose blocks are empty, full or mixed as well;
    Beltagy, Peters and Cohan, "Longformer" (2020), for windows.
    """

    parts = ("_restriction",)  # of the pytree

    def __init__(self, restriction: Restriction) -> None:
        if not isinstance(restriction, Restriction):
            raise TypeError(
                "a Mask is made by Mask.causal(), window, lengths, documents, where or tensor "
                f"(of booleans); got {type(restriction).__name__}"
            )
        self._restriction = restriction

    @staticmethod
    def causal() -> "Mask":
        """Each query sees the keys up to its own position, as in :func:`~d2lattn.causal_mask`."""
        return Mask(Band(None, 0))

    @staticmethod
    def window(before: int, after: int = 0) -> "Mask":
        """Each query sees the keys from ``before`` positions back to ``after`` positions ahead.

        Raises TypeError or ValueError unless both are integers of at least 0.
        """
        check_count("before", before)
        check_count("after", after)
        # As far as int64 can count on from.
        ends = (x if isinstance(x, torch.SymInt) else min(x, FAR) for x in (before, after))
        return Mask(Band(*ends))

    @staticmethod
    def lengths(valid_lens: Int[Tensor, "..."]) -> "Mask":
        """The first ``valid_lens`` keys: one length for each batch element, or for each query."""
        check_integers("valid_lens", valid_lens)
        return Mask(Lengths(valid_lens))

    @staticmethod
    def documents(
        query_ids: Int[Tensor, "*batch queries"], key_ids: Int[Tensor, "*batch keys"]
    ) -> "Mask":
        """Each query sees the keys of its own document: those with the same number."""
        for name, ids in (("query_ids", query_ids), ("key_ids", key_ids)):
            check_integers(name, ids)
            if ids.ndim == 0:
                raise ValueError(f"{name} must have shape (*batch, tokens); got ()")
        return Mask(Documents(query_ids, key_ids))

    @staticmethod
    def where(predicate: Callable[[Tensor, Tensor], Tensor]) -> "Mask":
        """Where a function of the positions of queries, shape ``(rows, 1)``, and keys, shape
        ``(1, columns)``, is true. It is asked for any rows and columns, more than once, and again
        for the gradient: what it looks up must not change before."""
        check_of_positions("predicate", predicate)
        return Mask(Where(predicate))

    @staticmethod
    def tensor(boolean: Bool[Tensor, "..."]) -> "Mask":
        """A boolean tensor that broadcasts to the scores; True = may be attended to."""
        if not isinstance(boolean, Tensor) or boolean.dtype != torch.bool:
            got = boolean.dtype if isinstance(boolean, Tensor) else type(boolean).__name__
            raise TypeError(
                f"mask must be a boolean tensor or a Mask, True = may be attended to; got {got} "
                "(an additive mask of floats is another convention: Biased adds it to the scores)"
            )
        return Mask(Booleans(boolean))

    def __and__(self, other: "Mask | Bool[Tensor, '...']") -> "Mask":
        if isinstance(other, Tensor):
            other = Mask.tensor(other)
        if not isinstance(other, Mask):
            return NotImplemented
        return Mask(Both(self._restriction, other._restriction))

    def __or__(self, other: "Mask | Bool[Tensor, '...']") -> "Mask":
        if isinstance(other, Tensor):
            other = Mask.tensor(other)
        if not isinstance(other, Mask):
            return NotImplemented
        # De Morgan: one kind of joint is enough. By name, as `torch.compile` knows no `~` of ours.
        neither = self.__invert__() & other.__invert__()
        return neither.__invert__()

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> "Mask":
        inner = self._restriction
        return Mask(inner.inner if isinstance(inner, Inverse) else Inverse(inner))

    def __bool__(self) -> bool:
        raise TypeError("a mask has no truth value: masks are joined by & and |, inverted by ~")

    def dense(
        self, num_queries: int, num_keys: int, *, device: torch.device | str | None = None
    ) -> Bool[Tensor, "*batch {num_queries} {num_keys}"]:
        """All of it as booleans, with the batch axes that its tensors have.

        Of lengths with two axes or more, the last stands for the queries if it is as long.
        """
        check_count("num_queries", num_queries)
        check_count("num_keys", num_keys)
        if device is None:
            tensors = pytree.tree_leaves(self)
            device = tensors[0].device if tensors else torch.get_default_device()
        device = torch.device(device)
        try:
            batch = self._restriction.batch_of(num_queries)
        except RuntimeError as error:
            raise ValueError(f"batch axes within {self!r} must broadcast; {error}") from None
        shape = (*batch, num_queries, num_keys)
        allowed = self._restriction.bind(shape, device).allowed(Block.whole(shape), device)
        return allowed.expand(shape).clone(memory_format=torch.contiguous_format)

    def __repr__(self) -> str:
        return repr(self._restriction)


def restriction(
    valid_lens: Int[Tensor, "..."] | None,
    mask: "Mask | Bool[Tensor, '...'] | None",
    shape: tuple[int, ...],
    device: torch.device,
    *,
    of_heads: bool = False,
) -> Restriction | None:
    """Lengths and mask as one, checked against scores of this shape; None where all is allowed.

    Of heads, the shape is ``(*batch, heads, queries, keys)``, and lengths and masks are without
    heads unless they have one axis more.
    """
    if valid_lens is None and mask is None:
        return None

    def bound(given: Restriction) -> Restriction:
        found = given.bind_to_heads(shape, device) if of_heads else given.bind(shape, device)
        tensors = list(found.tensors())
        if not is_ordinary(*tensors) or torch.is_inference_mode_enabled():
            return found
        if any(x.is_inference() for x in tensors):  # which no gradient can be made of
            found = pytree.tree_map(lambda x: x.clone() if x.is_inference() else x, found)
        return found

    parts = []
    if valid_lens is not None:
        check_integers("valid_lens", valid_lens)
        parts.append(bound(Lengths(valid_lens)))
    if mask is not None:
        mask = mask if isinstance(mask, Mask) else Mask.tensor(mask)
        parts.append(bound(mask._restriction))
    return parts[0] if len(parts) == 1 else Both(*parts)


register_tree(Mask)
