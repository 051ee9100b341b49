"""What backward passes of our own share: how one hands over to PyTorch's operations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from d2lattn.ordinary import ordinary_again

Gradients = tuple[Tensor | None, ...]


def alias(tensor: Tensor) -> Tensor:
    """The same numbers and the same gradient, but without the hooks of the tensor, and whatever
    becomes of its ``requires_grad``."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach()


def gradients(
    made: Sequence[Tensor], d_made: Sequence[Tensor | None], wanted: Sequence[Tensor]
) -> Gradients:
    """Of what was made, with respect to what is wanted; None where nothing depends on it."""
    asked = [(x, d) for x, d in zip(made, d_made, strict=True) if d is not None and x.requires_grad]
    if not asked or not wanted:
        return (None,) * len(wanted)
    return torch.autograd.grad(
        [x for x, _ in asked], wanted, [d for _, d in asked],
        create_graph=torch.is_grad_enabled(), allow_unused=True,
    )  # fmt: skip


def gradients_again(
    make: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    d_made: Sequence[Tensor | None],
    others: Sequence[Tensor] = (),
) -> Gradients:
    """By making it again, of operations that can be differentiated again: one for each input and
    each of the ``others``, which ``make`` knows of; None where it is not needed."""
    with ordinary_again():
        aliases = [x.view_as(x) for x in inputs]  # one tensor may be given twice
        made = make(*aliases)
    every = zip((*aliases, *others), needed, strict=True)
    wanted = [x for x, is_needed in every if is_needed]
    found = iter(gradients(made, d_made, wanted))
    return tuple(next(found) if is_needed else None for is_needed in needed)
