"""What was chosen, against what would have been best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.checks import check_same_shape
from d2lattn.plotting.style import INK, LINES, array, house_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_choices(
    best: Float[Tensor, " n"],
    chosen: Float[Tensor, " n"],
    *,
    xlabel: str,
    ylabel: str,
    size: tuple[float, float] = (4.2, 4.0),
) -> Figure:
    """Choices as points, on two equal logarithmic axes; on the diagonal they would be right.

    Parameters
    ----------
    best
        What would have been best, positive.
    chosen
        What was chosen, positive.
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
        If what should be a tensor is none.
    ValueError
        If the numbers are none, not as many, or not positive.

    Examples
    --------
    >>> import torch
    >>> numbers = torch.tensor([0.2, 0.3])
    >>> show_choices(numbers, numbers, xlabel="best", ylabel="chosen")
    <Figure size ... with 1 Axes>
    """
    check_same_shape("chosen", chosen, "best", best)
    for name, numbers in (("best", best), ("chosen", chosen)):
        if not bool((numbers > 0).all()):
            raise ValueError(f"{name} must be positive; got {float(numbers.min())}")
    low = 0.9 * min(float(best.min()), float(chosen.min()))
    high = 1.1 * max(float(best.max()), float(chosen.max()))
    with house_figure(*size) as figure:
        ax = figure.subplots()
        ax.plot([low, high], [low, high], color=INK, ls=":", lw=1.2, label="as good as possible")
        ax.plot(
            array(best), array(chosen), ls="", marker="o", ms=5, mew=0, color=LINES[1], alpha=0.6,
            label="one set of data",
        )  # fmt: skip
        ax.set(
            xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log",
            xlim=(low, high), ylim=(low, high), aspect="equal",
        )  # fmt: skip
        ticks = [tick for tick in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6) if low < tick < high]
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            axis.set_ticks([], minor=True)
        ax.legend(loc="best")
    return figure
