"""Histograms over a common axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.checks import check_same_shape
from d2lattn.plotting.style import INK, LINES, WIDTH, array, house_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_histograms(
    samples: Mapping[str, Float[Tensor, " n"]],
    *,
    grid: Float[Tensor, " m"] | None = None,
    curves: Mapping[str, Float[Tensor, " m"]] | None = None,
    xlabel: str,
    bins: int = 60,
    size: tuple[float, float] = (WIDTH, 3.1),
) -> Figure:
    """Histograms over a common axis, each of area one, with densities to compare them with.

    Parameters
    ----------
    samples
        What was drawn, by name.
    grid
        Where the curves are evaluated.
    curves
        Densities on the grid, by name: thin dotted lines, without entries in the legend.
    xlabel
        Name of the horizontal axis.
    bins
        Number of bins; the same for all, from the smallest to the largest number of any sample.
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
        If there is no sample, a sample is empty, has more than one axis or is not finite, or a
        curve differs from the grid in shape.

    Examples
    --------
    >>> import torch
    >>> show_histograms({"even": torch.linspace(0, 1, 100)}, xlabel="x", bins=5)
    <Figure size ... with 1 Axes>
    """
    if not samples:
        raise ValueError("samples must hold at least one sample; got none")
    for name, sample in samples.items():
        check_same_shape(f"samples[{name!r}]", sample, f"samples[{name!r}]", sample)
        if not bool(sample.isfinite().all()):
            raise ValueError(f"samples[{name!r}] must be finite; got NaN or infinity")
    for name, curve in (curves or {}).items():
        if grid is None:
            raise ValueError(f"grid must be given, for curves[{name!r}] is on it; got None")
        check_same_shape(f"curves[{name!r}]", curve, "grid", grid)

    span = (
        min(float(sample.min()) for sample in samples.values()),
        max(float(sample.max()) for sample in samples.values()),
    )
    with house_figure(*size) as figure:
        ax = figure.subplots()
        for i, (name, sample) in enumerate(samples.items()):
            ax.hist(
                array(sample), bins=bins, range=span, density=True, histtype="stepfilled",
                label=name, facecolor=(LINES[i % len(LINES)], 0.12),
                edgecolor=LINES[i % len(LINES)], linewidth=1.4,
            )  # fmt: skip
        for curve in (curves or {}).values():
            ax.plot(array(grid), array(curve), color=INK, ls=":", lw=1.2)
        ax.set(xlabel=xlabel, ylabel="density")
        if len(samples) > 1:
            ax.legend(loc="best")
    return figure
