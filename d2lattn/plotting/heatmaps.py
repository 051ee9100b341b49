"""Attention weights as red heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.style import INK, WIDTH, house_figure, name_outer_axes, reds, two_in_a_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_heatmaps(
    weights: Float[Tensor, "*grid queries keys"] | Sequence[Float[Tensor, "queries keys"]],
    *,
    titles: Sequence[str] | None = None,
    xlabel: str = "keys",
    ylabel: str = "queries",
    xticks: Sequence[str] | None = None,
    yticks: Sequence[str] | None = None,
    annotate: bool = False,
    gamma: float = 1.0,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Attention weights as red heat maps: a row for each query, a column for each key.

    The colour scale is always the same, from 0 (faint) to 1 (strong red), so that colours can be
    compared between panels and between figures.

    Parameters
    ----------
    weights
        Attention weights in [0, 1]: one map ``(queries, keys)``; several, ``(maps, queries, keys)``
        or a list, two in a row; or a grid of maps ``(rows, columns, queries, keys)``.
    titles
        One for each map, row by row.
    xlabel, ylabel
        What the columns and the rows are.
    xticks, yticks
        A name for each key and for each query, "" for no tick; by default a few numbers.
    annotate
        Whether to write the weight into each cell, to two decimals.
    gamma
        Colour follows ``weight ** gamma``: below 1, small weights show more.
    size
        Width and height of one map in inches; by default chosen from its shape.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If the weights are not floating-point tensors.
    ValueError
        If a weight lies outside [0, 1] or is not a number, or the numbers of maps, titles or
        tick names do not fit together.

    Examples
    --------
    >>> show_heatmaps(torch.eye(3), titles=["each query finds its key"])
    <Figure size ... with 2 Axes>
    """
    grid = _grid_of_maps(weights)
    maps = [panel for row in grid for panel in row]
    if titles is not None and len(titles) != len(maps):
        raise ValueError(f"titles must be as many as the maps, {len(maps)}; got {len(titles)}")
    num_queries, num_keys = maps[0].shape
    for name, ticks, count in (("xticks", xticks, num_keys), ("yticks", yticks, num_queries)):
        if ticks is not None and len(ticks) != count:
            raise ValueError(f"{name} must have a name for each of {count}; got {len(ticks)}")
    if not gamma > 0:
        raise ValueError(f"gamma must be positive; got {gamma}")

    rows, columns = len(grid), len(grid[0])
    width, height = size or _size_of_map(num_queries, num_keys)
    width = min(width, (WIDTH - 0.9) / columns)
    with house_figure(width * columns + 0.9, height * rows + 0.5) as figure:
        from matplotlib.colors import PowerNorm

        norm = PowerNorm(gamma, vmin=0.0, vmax=1.0)
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, (panel, ax) in enumerate(zip(maps, axes.flat, strict=False)):
            image = ax.imshow(
                panel.numpy(), cmap=reds(), norm=norm, interpolation="none", aspect="auto"
            )
            ax.spines[["top", "right"]].set_visible(True)
            if titles is not None:
                ax.set_title(titles[i])
            if annotate:
                _write_weights(ax, panel, gamma)
        _name_ticks(axes[0, 0], xticks, yticks)
        name_outer_axes(axes, len(maps), xlabel, ylabel)
        colorbar = figure.colorbar(
            image,
            ax=list(axes.flat[: len(maps)]),
            ticks=[0.0, 0.25, 0.5, 0.75, 1.0],
            pad=0.02,
            shrink=0.9,
        )
        colorbar.set_label("attention weight")
        colorbar.outline.set_linewidth(0.5)
    return figure


def _grid_of_maps(weights: Tensor | Sequence[Tensor]) -> list[list[Tensor]]:
    """The maps as rows of panels, checked, on the CPU, in float32."""
    if isinstance(weights, Tensor):
        if not 2 <= weights.ndim <= 4:
            raise ValueError(
                "weights must have shape (queries, keys), with one or two axes of panels before; "
                f"got {tuple(weights.shape)}"
            )
        if weights.ndim == 4:
            grid = [list(row) for row in weights]
        else:
            grid = two_in_a_row(list(weights if weights.ndim == 3 else weights[None]))
    else:
        grid = two_in_a_row(list(weights))
    if not grid or not grid[0]:
        raise ValueError("weights must hold at least one map; got none")
    for panel in (panel for row in grid for panel in row):
        if not isinstance(panel, Tensor) or not panel.is_floating_point():
            got = panel.dtype if isinstance(panel, Tensor) else type(panel).__name__
            raise TypeError(f"weights must be floating-point tensors; got {got}")
        if panel.ndim != 2 or panel.shape != grid[0][0].shape or 0 in panel.shape:
            raise ValueError(
                "weights must be maps of one shape (queries, keys), not empty; "
                f"got {tuple(panel.shape)} beside {tuple(grid[0][0].shape)}"
            )
        low, high = float(panel.detach().min()), float(panel.detach().max())
        # Sums of rounded weights may exceed 1 by a little; NaN fails both comparisons.
        if not (low >= 0.0 and high <= 1.0 + 1e-2):
            raise ValueError(f"weights must lie in [0, 1]; got values from {low} to {high}")
    return [[panel.detach().float().cpu() for panel in row] for row in grid]


def _size_of_map(num_queries: int, num_keys: int) -> tuple[float, float]:
    """Inches: cells as square as they can be, no map tiny or huge."""
    cell = min(0.6, 3.2 / max(num_queries, num_keys))
    return max(1.7, cell * num_keys + 0.6), max(1.2, cell * num_queries + 0.4)


def _name_ticks(ax: Axes, xticks: Sequence[str] | None, yticks: Sequence[str] | None) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis, names in ((ax.xaxis, xticks), (ax.yaxis, yticks)):
        if names is not None:
            named = [i for i, name in enumerate(names) if name]
            axis.set_ticks(named, labels=[names[i] for i in named])
        else:
            axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if xticks is not None and max(map(len, xticks)) > 3:
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")


def _write_weights(ax: Axes, panel: Tensor, gamma: float) -> None:
    for (i, j), weight in zip(torch.cartesian_prod(*map(torch.arange, panel.shape)).tolist(),
                              panel.flatten().tolist(), strict=True):  # fmt: skip
        color = "white" if weight**gamma > 0.65 else INK
        ax.text(j, i, f"{weight:.2f}", ha="center", va="center", color=color, fontsize=8)
