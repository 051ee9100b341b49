"""Measurements, and the curves that were drawn through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.checks import check_same_shape
from d2lattn.plotting.style import (
    INK,
    LINES,
    QUERY,
    VALUE,
    WIDTH,
    array,
    house_figure,
    line_style,
    name_outer_axes,
    reds,
    two_in_a_row,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_regression(
    x: Float[Tensor, " n"],
    y: Float[Tensor, " n"],
    *,
    grid: Float[Tensor, " m"] | None = None,
    truth: Float[Tensor, " m"] | None = None,
    curves: Mapping[str, Float[Tensor, " m"]] | None = None,
    queries: Float[Tensor, " k"] | None = None,
    predictions: Float[Tensor, " k"] | None = None,
    weights: Float[Tensor, " n"] | None = None,
    bands: Mapping[str, Float[Tensor, " m"]] | None = None,
    panels: bool = False,
    xlabel: str = "x",
    ylabel: str = "y",
    size: tuple[float, float] | None = None,
) -> Figure:
    """Measurements as points, with the curves that were drawn through them.

    Parameters
    ----------
    x, y
        The measurements: where (the keys) and what (the values).
    grid
        Where the truth and the curves are evaluated.
    truth
        The function without noise, on the grid: a thin dashed line.
    curves
        Predictions on the grid, by name.
    queries, predictions
        Single predictions, drawn as triangles.
    weights
        An attention weight for each measurement. Its point is as red as in a heat map, and as
        big as its share of the largest weight says.
    bands
        For curves by name, how far a band reaches above and below, such as two standard errors.
    panels
        Whether each curve gets a panel of its own, two in a row, with its name as the title.
    xlabel, ylabel
        Names of the axes.
    size
        Width and height of a panel in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If what should be a tensor is none.
    ValueError
        If a tensor has more than one axis or is empty, tensors that belong together differ in
        shape or are not all given, a weight or a band is negative or not finite, or a band has
        no curve.

    Examples
    --------
    >>> x = torch.arange(4.0)
    >>> show_regression(x, x.sin(), grid=x, curves={"a line": x / 4})
    <Figure size ... with 1 Axes>
    """
    curves = dict(curves or {})
    check_same_shape("y", y, "x", x)
    if weights is not None:
        check_same_shape("weights", weights, "x", x)
        if not bool(((weights >= 0) & weights.isfinite()).all()):
            raise ValueError(f"weights must be finite and not negative; got {weights.tolist()}")
    if (queries is None) != (predictions is None):
        raise ValueError("queries and predictions must be given together; got only one of them")
    if queries is not None and predictions is not None:
        check_same_shape("predictions", predictions, "queries", queries)
    on_grid = {"truth": truth} if truth is not None else {}
    for name, curve in {**on_grid, **{f"curves[{n!r}]": c for n, c in curves.items()}}.items():
        if grid is None:
            raise ValueError(f"grid must be given, for {name} is evaluated there; got None")
        check_same_shape(name, curve, "grid", grid)

    for name, band in (bands or {}).items():
        if name not in curves:
            raise ValueError(f"bands must belong to curves, {list(curves)}; got {name!r}")
        check_same_shape(f"bands[{name!r}]", band, f"curves[{name!r}]", curves[name])
        if not bool(((band >= 0) & band.isfinite()).all()):
            raise ValueError(f"bands[{name!r}] must be finite and not negative")
    if panels and not curves:
        raise ValueError("curves must hold at least one curve for panels; got none")

    groups: list[dict[str, Tensor]] = [{n: c} for n, c in curves.items()] if panels else [curves]
    rows, columns = len(two_in_a_row(groups)), min(2, len(groups))
    width, height = size or ((WIDTH / 2, 2.3) if panels else (WIDTH, 3.2))
    with house_figure(min(width, WIDTH / columns) * columns, height * rows) as figure:
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for ax, group in zip(axes.flat, groups, strict=False):
            _draw_measurements(ax, x, y, weights)
            if grid is not None and truth is not None:
                ax.plot(array(grid), array(truth), color=INK, ls=":", lw=1.2, label="truth")
            for j, (name, curve) in enumerate(group.items()):
                style = {"color": LINES[0]} if panels else line_style(j)
                ax.plot(array(grid), array(curve), label=None if panels else name, **style)
                if bands is not None and name in bands:
                    low, high = array(curve - bands[name]), array(curve + bands[name])
                    ax.fill_between(array(grid), low, high, color=style["color"], alpha=0.2, lw=0)
            if queries is not None and predictions is not None:
                ax.plot(
                    array(queries), array(predictions), ls="", marker="^", color=QUERY,
                    ms=8, label="prediction at a query",
                )  # fmt: skip
            if panels:
                ax.set_title(next(iter(group)))
        name_outer_axes(axes, len(groups), xlabel, ylabel)
        if not panels:
            axes[0, 0].legend(loc="best")
    return figure


def _draw_measurements(ax: Axes, x: Tensor, y: Tensor, weights: Tensor | None) -> None:
    if weights is None:
        ax.plot(
            array(x), array(y), ls="", marker="o", ms=5, color=VALUE, alpha=0.75,
            mew=0, label="measurements",
        )  # fmt: skip
        return
    share = weights / weights.max().clamp_min(torch.finfo(weights.dtype).tiny)
    ax.scatter(
        array(x), array(y), s=array(15 + 85 * share), c=array(weights), cmap=reds(),
        vmin=0.0, vmax=1.0, edgecolors=INK, linewidths=0.5,
        label="measurements, by weight", zorder=3,
    )  # fmt: skip
