"""Red heat maps of attention weights, and curves through measurements, in the book's style.

Every function takes tensors and returns a :class:`matplotlib.figure.Figure`; in a notebook it
is shown if it is the last expression of a cell. Queries, keys and values keep one colour each.
Matplotlib is imported when a figure is drawn: ``pip install 'd2lattn[notebook]'``.
"""

from d2lattn.plotting.bars import show_bars
from d2lattn.plotting.choices import show_choices
from d2lattn.plotting.convex_hull import show_convex_hull
from d2lattn.plotting.curves import show_curves
from d2lattn.plotting.heatmaps import show_heatmaps
from d2lattn.plotting.histograms import show_histograms
from d2lattn.plotting.mask_blocks import show_mask_blocks
from d2lattn.plotting.pair_table import show_pair_table
from d2lattn.plotting.plane import show_plane
from d2lattn.plotting.regression import show_regression
from d2lattn.plotting.signed_weights import show_signed_weights
from d2lattn.plotting.style import HOUSE_STYLE, KEY, QUERY, VALUE

__all__ = [
    "HOUSE_STYLE",
    "KEY",
    "QUERY",
    "VALUE",
    "show_bars",
    "show_choices",
    "show_convex_hull",
    "show_curves",
    "show_heatmaps",
    "show_histograms",
    "show_mask_blocks",
    "show_pair_table",
    "show_plane",
    "show_regression",
    "show_signed_weights",
]
