"""The book's style: its colours, its settings of matplotlib, an empty figure that has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d2lattn.extras import needs

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by the colour-blind.
QUERY, KEY, VALUE = "#0072B2", "#D55E00", "#009E73"
INK = "#333333"
# A curve is no query, key or value, and no weight: it has none of their colours, nor red. Ink,
# violet, olive, wine, grey and brown differ in brightness and in their dashes, and are legible on
# white and, as book/_ext/house.py recolours them, on a dark page.
LINES = (INK, "#6A3D9A", "#7A6A00", "#882255", "#6B6B6B", "#6B4A2B")
WIDTH = 5.4  # inches: as wide as a figure gets, so that a phone still shows its letters
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))

HOUSE_STYLE: Any = {  # settings of matplotlib
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
    "font.size": 11.0,
    "axes.titlesize": 11.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "path.simplify": False,  # which vertices it drops depends on the last digits
    "svg.hashsalt": "d2lattn",  # the same drawing gives the same file
    "svg.fonttype": "path",  # the same letters on every machine
}


@contextmanager
def house_figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure, in inches, and the book's settings for what is drawn into it inside."""
    with needs("notebook"):
        import matplotlib
        from matplotlib.figure import Figure
    with matplotlib.rc_context(HOUSE_STYLE):
        yield Figure(figsize=(width, height))


@cache
def reds() -> Colormap:
    """Matplotlib's Reds without their darkest fifth, which is no longer red on a dark page."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["Reds"](array(torch.linspace(0, 0.8, 256))), "reds")


def line_style(i: int) -> dict[str, Any]:
    """Colour and dash of the curve that is drawn as number ``i``."""
    return {"color": LINES[i % len(LINES)], "ls": _DASHES[i % len(_DASHES)]}


def array(tensor: Tensor | None) -> Any:
    """The numbers of a tensor as matplotlib takes them."""
    assert tensor is not None
    return tensor.detach().cpu().double().numpy()


def two_in_a_row(panels: Sequence[Any]) -> list[list[Any]]:
    """What still can be read on a phone."""
    return [list(panels[i : i + 2]) for i in range(0, len(panels), 2)]


def name_outer_axes(grid: Any, num_panels: int, xlabel: str, ylabel: str) -> None:
    """Name the axes at the left and below; take away the places that no panel needs.

    ``grid`` holds matplotlib's axes, rows by columns, filled row by row.
    """
    columns = grid.shape[1]
    for i, ax in enumerate(grid.flat):
        if i >= num_panels:
            ax.remove()
            continue
        if i % columns == 0:
            ax.set_ylabel(ylabel)
        if i + columns >= num_panels:  # nothing below
            ax.set_xlabel(xlabel)
            ax.tick_params(labelbottom=True)
