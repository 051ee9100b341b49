"""Bars that become more from panel to panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.checks import check_vectors
from d2lattn.plotting.style import INK, WIDTH, array, house_figure, reds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_bars(
    heights: Float[Tensor, "panels bars"],
    *,
    groups: int = 1,
    notes: Sequence[str] | None = None,
    xlabel: str,
    ylabel: str,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Bars that become more from panel to panel: those that a panel adds stand out.

    Parameters
    ----------
    heights
        A panel for each row, from the top; NaN where there is no bar yet.
    groups
        A thin line separates every so many bars.
    notes
        A line to write above each panel.
    xlabel, ylabel
        What the bars stand for, and what their heights are; bars are numbered from 1.
    size
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If the heights are no floating-point tensor.
    ValueError
        If they have not two axes, the groups are not positive, or the notes are not as many as
        the panels.

    Examples
    --------
    >>> show_bars(torch.tensor([[1.0, torch.nan], [0.5, 1.0]]), xlabel="key", ylabel="weight")
    <Figure size ... with 2 Axes>
    """
    check_vectors("heights", heights, (None, None))
    if groups < 1:
        raise ValueError(f"groups must be at least 1; got {groups}")
    num_panels, num_bars = heights.shape
    if notes is not None and len(notes) != num_panels:
        raise ValueError(f"notes must be as many as the panels, {num_panels}; got {len(notes)}")
    top = float(heights.nan_to_num(0.0).amax()) or 1.0
    with house_figure(*size or (WIDTH, 0.9 + 1.15 * num_panels)) as figure:
        axes = figure.subplots(num_panels, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        shown = torch.zeros(num_bars, dtype=torch.bool)
        for panel, (ax, row) in enumerate(zip(axes, heights.detach().cpu(), strict=True)):
            there = ~row.isnan()
            for bars, shade in ((there & shown, 0.3), (there & ~shown, 0.75)):
                at = bars.nonzero().squeeze(-1)
                ax.bar(array(at + 1), array(row[at]), color=reds()(shade), width=0.8)
            shown |= there
            for line in range(groups, num_bars, groups):
                ax.axvline(line + 0.5, color=INK, lw=0.6, ls=":")
            ax.set(xlim=(0.4, num_bars + 0.6), ylim=(0, 1.08 * top), ylabel=ylabel)
            ax.set_xticks(range(1, num_bars + 1))
            if notes is not None:
                ax.set_title(notes[panel], loc="left")
        axes[-1].set_xlabel(xlabel)
    return figure
