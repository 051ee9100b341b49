"""A number for every pair of a query and a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.style import INK, KEY, QUERY, house_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_pair_table(
    queries: Float[Tensor, "*panels queries"],
    keys: Float[Tensor, "*panels keys"],
    pairs: Float[Tensor, "*panels queries keys"],
    *,
    titles: Sequence[str] | None = None,
    decimals: int = 0,
    xlabel: str = "keys",
    ylabel: str = "queries",
    size: tuple[float, float] | None = None,
) -> Figure:
    """Every query meets every key: a number for each, and one for each pair, as a table.

    The numbers of the queries stand in blue at the left, those of the keys in orange at the
    top, and those of the pairs where row and column cross.

    Parameters
    ----------
    queries, keys, pairs
        The numbers to write; with one axis before, a panel for each of its entries.
    titles
        One for each panel.
    decimals
        How many decimals to write.
    xlabel, ylabel
        What the columns and the rows are.
    size
        Width and height of one panel in inches; by default chosen from its shape.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If what should be a tensor is none.
    ValueError
        If the shapes do not fit together, or the titles are not as many as the panels.

    Examples
    --------
    >>> import torch
    >>> q, k = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0, 30.0])
    >>> show_pair_table(q, k, q[:, None] + k[None, :])
    <Figure size ... with 1 Axes>
    """
    for name, given in (("queries", queries), ("keys", keys), ("pairs", pairs)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(given).__name__}")
    if queries.ndim not in (1, 2) or queries.numel() == 0:
        raise ValueError(
            "queries must have shape (queries,) or (panels, queries), not empty; "
            f"got {tuple(queries.shape)}"
        )
    if keys.shape[:-1] != queries.shape[:-1] or keys.ndim == 0 or keys.numel() == 0:
        raise ValueError(
            f"keys must have shape (*{tuple(queries.shape[:-1])}, keys), not empty; "
            f"got {tuple(keys.shape)}"
        )
    if pairs.shape != (*queries.shape, keys.shape[-1]):
        raise ValueError(
            f"pairs must have shape (*panels, queries, keys) = "
            f"{(*queries.shape, keys.shape[-1])}; got {tuple(pairs.shape)}"
        )
    alone = queries.ndim == 1
    stacks = (t.unsqueeze(0) if alone else t for t in (queries, keys, pairs))
    panels = list(zip(*stacks, strict=True))
    if titles is not None and len(titles) != len(panels):
        raise ValueError(f"titles must be as many as the panels, {len(panels)}; got {len(titles)}")
    num_queries, num_keys = pairs.shape[-2:]
    width, height = size or (0.55 * (num_keys + 1) + 0.5, 0.42 * (num_queries + 1) + 0.6)
    with house_figure(width * len(panels), height) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for i, (ax, (q, k, table)) in enumerate(zip(axes, panels, strict=True)):
            _draw_table(ax, q, k, table, decimals)
            ax.set_xlabel(xlabel, color=KEY)
            ax.xaxis.set_label_position("top")
            if i == 0:
                ax.set_ylabel(ylabel, color=QUERY)
            if titles is not None:
                ax.set_title(titles[i])
    return figure


def _draw_table(ax: Axes, q: Tensor, k: Tensor, table: Tensor, decimals: int) -> None:
    """Headers in their colours, numbers in the cells; row and column 0 are the headers."""
    from matplotlib.patches import Rectangle

    cells = [(0, j + 1, KEY, 0.2, number) for j, number in enumerate(k.tolist())]
    cells += [(i + 1, 0, QUERY, 0.2, number) for i, number in enumerate(q.tolist())]
    for i, row in enumerate(table.tolist()):
        cells += [(i + 1, j + 1, INK, 0.04, number) for j, number in enumerate(row)]
    for row, column, color, alpha, number in cells:
        rounded = round(number, decimals) + 0.0  # no "-0"
        ax.add_patch(Rectangle((column, row), 0.94, 0.94, color=color, alpha=alpha, lw=0))
        ax.text(
            column + 0.47, row + 0.47, f"{rounded:.{decimals}f}".replace("-", "\u2212"),
            ha="center", va="center", color=INK,
        )  # fmt: skip
    ax.set(xlim=(0, len(k) + 1), ylim=(len(q) + 1, 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
