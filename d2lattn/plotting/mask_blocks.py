"""Masks cut into blocks: which are empty, which are full, and which have to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from d2lattn.plotting.style import INK, house_figure, name_outer_axes, two_in_a_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

FULL, MIXED = "#56B4E9", "#E69F00"  # Okabe and Ito's sky blue and orange
_FAINT = 0.3


def show_mask_blocks(
    allowed: Bool[Tensor, "*panels queries keys"],
    block: int,
    *,
    titles: Sequence[str] | None = None,
    xlabel: str = "keys",
    ylabel: str = "queries",
    size: tuple[float, float] | None = None,
) -> Figure:
    """Masks cut into square blocks: full ones blue, empty ones blank, mixed ones orange.

    In a mixed block the pairs that count stand out from those that do not.

    Parameters
    ----------
    allowed
        Who may attend to whom, True = may; with one axis before, a panel for each of its entries,
        two in a row.
    block
        How many queries and keys a block has.
    titles
        One for each panel.
    xlabel, ylabel
        What the columns and the rows are.
    size
        Width and height of one panel in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If the masks are no boolean tensor.
    ValueError
        If their shape does not fit, blocks do not divide them, or the titles are not as many as
        the panels.

    Examples
    --------
    >>> from d2lattn import Mask
    >>> show_mask_blocks(Mask.causal().dense(8, 8), 2)
    <Figure size ... with 1 Axes>
    """
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
        got = allowed.dtype if isinstance(allowed, Tensor) else type(allowed).__name__
        raise TypeError(f"allowed must be a boolean tensor; got {got}")
    if allowed.ndim not in (2, 3) or allowed.numel() == 0:
        raise ValueError(
            "allowed must have shape (queries, keys) or (panels, queries, keys), not empty; "
            f"got {tuple(allowed.shape)}"
        )
    if block < 1 or any(count % block for count in allowed.shape[-2:]):
        raise ValueError(
            f"block must divide the numbers of queries and keys, {tuple(allowed.shape[-2:])}; "
            f"got {block}"
        )
    panels = list(allowed.cpu() if allowed.ndim == 3 else allowed.cpu().unsqueeze(0))
    if titles is not None and len(titles) != len(panels):
        raise ValueError(f"titles must be as many as the panels, {len(panels)}; got {len(titles)}")
    rows = two_in_a_row(panels)
    columns = len(rows[0])
    width, height = size or (2.35, 2.35)
    with house_figure(width * columns, height * len(rows) + 0.4) as figure:
        axes = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
        for i, (panel, ax) in enumerate(zip(panels, axes.flat, strict=False)):
            _draw(ax, panel, block)
            if titles is not None:
                ax.set_title(titles[i])
        name_outer_axes(axes, len(panels), xlabel, ylabel)
        _explain(figure)
    return figure


def _draw(ax: Axes, allowed: Bool[Tensor, "queries keys"], block: int) -> None:
    from matplotlib.patches import PathPatch

    num_queries, num_keys = allowed.shape
    cut = allowed.view(num_queries // block, block, num_keys // block, block)
    some, every = cut.any(3).any(1), cut.all(3).all(1)
    mixed = some & ~every
    inside = mixed.repeat_interleave(block, 0).repeat_interleave(block, 1)
    for squares, side, color, alpha in (
        (every, block, FULL, 1.0), (mixed, block, MIXED, _FAINT), (allowed & inside, 1, MIXED, 1.0),
    ):  # fmt: skip
        if squares.any():
            ax.add_patch(PathPatch(_outline(squares, side), fc=color, alpha=alpha, lw=0))
    for lines, draw in ((num_queries, ax.axhline), (num_keys, ax.axvline)):
        for line in range(0, lines + 1, block):
            draw(line, color=INK, lw=0.4)
    ax.set(xlim=(0, num_keys), ylim=(num_queries, 0), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _outline(squares: Bool[Tensor, "rows columns"], side: int) -> Path:
    """The true ones as squares of this side; those next to each other in a row are one piece."""
    from matplotlib.path import Path

    pieces = []
    for row, line in enumerate(squares.tolist()):
        start = None
        for column, filled in enumerate([*line, False]):
            if filled and start is None:
                start = column
            elif not filled and start is not None:
                left, right, top = side * start, side * column, side * row
                corners = [(left, top), (right, top), (right, top + side), (left, top + side)]
                pieces.append(Path([*corners, corners[0]], closed=True))
                start = None
    return Path.make_compound_path(*pieces)


def _explain(figure: Figure) -> None:
    """What the colours mean, below all panels."""
    from matplotlib.patches import Patch

    kinds = [
        Patch(fc=FULL, label="full"),
        Patch(fc=MIXED, label="mixed"),
        Patch(fc="none", ec=INK, lw=0.6, label="empty"),
    ]
    figure.legend(handles=kinds, loc="outside lower center", ncols=3)
