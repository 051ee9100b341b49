"""Curves over a common axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.checks import check_same_shape
from d2lattn.plotting.style import INK, WIDTH, array, house_figure, line_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_curves(
    x: Float[Tensor, " n"],
    curves: Mapping[str, Float[Tensor, " n"]],
    *,
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    logy: bool = False,
    xticks: Sequence[float] | None = None,
    marks: Mapping[str, tuple[float, float]] | None = None,
    legend_above: bool = False,
    size: tuple[float, float] = (WIDTH, 3.1),
) -> Figure:
    """Curves over a common axis, each with its own colour and dash.

    Parameters
    ----------
    x
        The common axis.
    curves
        What to draw, by name.
    xlabel, ylabel
        Names of the axes.
    logx, logy
        Whether an axis is logarithmic.
    xticks
        Where the horizontal axis has ticks, written as plain numbers; by default a few places.
    marks
        Single points to point out, by name.
    legend_above
        Whether the legend stands above the axes: for curves that leave no room between them.
    size
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If what should be a tensor is none.
    ValueError
        If a tensor has more than one axis or is empty, or a curve differs from ``x`` in shape.

    Examples
    --------
    >>> import torch
    >>> x = torch.linspace(0, 1, 5)
    >>> show_curves(x, {"square": x**2}, xlabel="x", ylabel="y")
    <Figure size ... with 1 Axes>
    """
    for name, curve in curves.items():
        check_same_shape(f"curves[{name!r}]", curve, "x", x)
    with house_figure(*size) as figure:
        ax = figure.subplots()
        for i, (name, curve) in enumerate(curves.items()):
            ax.plot(array(x), array(curve), label=name, **line_style(i))
        for i, (name, (at, height)) in enumerate((marks or {}).items()):
            ax.plot([at], [height], ls="", marker="os^Dv"[i % 5], color=INK, ms=7, label=name)
        ax.set(
            xlabel=xlabel, ylabel=ylabel,
            xscale="log" if logx else "linear", yscale="log" if logy else "linear",
        )  # fmt: skip
        if xticks is not None:
            ax.set_xticks(list(xticks), labels=[f"{tick:g}" for tick in xticks])
            ax.set_xticks([], minor=True)
        if len(curves) + len(marks or {}) > 1:
            if legend_above:
                figure.legend(loc="outside upper center", ncols=len(curves) + len(marks or {}))
            else:
                ax.legend(loc="best")
    return figure
