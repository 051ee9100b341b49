"""Values in the plane, and where their weighted averages can lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.checks import check_vectors
from d2lattn.plotting.style import LINES, QUERY, VALUE, WIDTH, array, house_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_convex_hull(
    values: Float[Tensor, "values 2"],
    outputs: Mapping[str, Float[Tensor, "outputs 2"]],
    *,
    names: Sequence[str] | None = None,
    xlabel: str = "first feature",
    ylabel: str = "second feature",
    size: tuple[float, float] = (4.6, 3.9),
) -> Figure:
    """Values as points of the plane, their convex hull, and weighted averages of them.

    Parameters
    ----------
    values
        Vectors with two features: green discs, with their convex hull shaded.
    outputs
        Further points, by name: each set has a colour and a marker of its own. The first set
        lies on top.
    names
        A short name for each value.
    xlabel, ylabel
        Names of the axes.
    size
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If the values or outputs are not floating-point tensors.
    ValueError
        If a shape is wrong, or the names are not as many as the values.

    Examples
    --------
    >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> show_convex_hull(corners, {"mean": corners.mean(0, keepdim=True)})
    <Figure size ... with 1 Axes>
    """
    check_vectors("values", values, (None, 2))
    for name, points in outputs.items():
        check_vectors(f"outputs[{name!r}]", points, (None, 2))
    if names is not None and len(names) != len(values):
        raise ValueError(f"names must have one for each of {len(values)}; got {len(names)}")

    corners = _convex_hull(values)
    colors = (QUERY, *LINES)
    with house_figure(min(size[0], WIDTH), size[1]) as figure:
        ax = figure.subplots()
        ax.fill(*array(corners).T, facecolor=(VALUE, 0.1), edgecolor=VALUE, lw=1.0, ls="--")
        for i, (name, points) in enumerate(outputs.items()):
            ax.plot(
                *array(points).T, ls="", marker="^+xs"[i % 4], ms=8 if len(points) < 20 else 4,
                color=colors[i % len(colors)], mew=1.2 if i % 4 in (1, 2) else 0, label=name,
                zorder=2.6 if i == 0 else 2.1,
            )  # fmt: skip
        ax.plot(*array(values).T, ls="", marker="o", ms=9, color=VALUE, label="values", zorder=2.3)
        middle = values.mean(dim=0)
        for name, value in zip(names or [], values, strict=names is not None):
            out = value - middle
            shift = 14 * out / out.norm().clamp_min(1e-12)
            ax.annotate(
                name, value.tolist(), xytext=shift.tolist(), textcoords="offset points",
                color=VALUE, ha="center", va="center",
            )  # fmt: skip
        ax.margins(0.12)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def _convex_hull(points: Float[Tensor, "points 2"]) -> Float[Tensor, "corners 2"]:
    """The corners, counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted(set(map(tuple, points.detach().cpu().tolist())))

    def chain(points: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        corners: list[tuple[float, ...]] = []
        for x, y in points:
            while len(corners) >= 2:
                (x0, y0), (x1, y1) = corners[-2:]
                if (x1 - x0) * (y - y0) > (y1 - y0) * (x - x0):
                    break  # a turn to the left: the last corner stays
                corners.pop()
            corners.append((x, y))
        return corners[:-1]

    return torch.tensor(chain(ordered) + chain(ordered[::-1]) or ordered, dtype=torch.float64)
