"""Weights that may be negative, in red and blue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.checks import check_vectors
from d2lattn.plotting.style import INK, WIDTH, array, house_figure, reds

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


def show_signed_weights(
    weights: Sequence[Float[Tensor, "queries keys"]],
    *,
    titles: Sequence[str],
    xlabel: str,
    ylabel: str,
    yticks: Sequence[str],
    limit: float,
    height: float = 1.6,
) -> Figure:
    """Maps of weights one above the other: red for a weight, blue for a negative one.

    Red goes up to the limit, blue as far down, and no weight is white. Colour follows the square
    root of the weight, so that small ones show.

    Parameters
    ----------
    weights
        Maps of one shape, a row for each query, a column for each key.
    titles
        One for each map.
    xlabel, ylabel
        What the columns and the rows are.
    yticks
        A name for each query.
    limit
        The weight of the strongest red, and minus that of the strongest blue.
    height
        Inches of a map.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If the weights are no floating-point tensors.
    ValueError
        If there is no map, their shapes, titles and names do not fit, or a weight is not a
        number or beyond the limit.

    Examples
    --------
    >>> import torch
    >>> show_signed_weights([torch.tensor([[1.2, -0.2]])], titles=["a line"], xlabel="keys",
    ...                     ylabel="queries", yticks=["0"], limit=1.2)
    <Figure size ... with 2 Axes>
    """
    if len(weights) == 0 or len(titles) != len(weights):
        raise ValueError(f"titles must be as many as the maps, {len(weights)}; got {len(titles)}")
    check_vectors("weights[0]", weights[0], (None, None))
    queries, keys = weights[0].shape
    for i, panel in enumerate(weights):
        check_vectors(f"weights[{i}]", panel, (queries, keys))
        if not bool((panel.abs() <= limit * (1 + 1e-6)).all()):
            raise ValueError(
                f"weights[{i}] must lie in [{-limit}, {limit}]; got values from "
                f"{float(panel.min())} to {float(panel.max())}"
            )
    if len(yticks) != queries:
        raise ValueError(f"yticks must have a name for each of {queries}; got {len(yticks)}")
    with house_figure(WIDTH, height * len(weights) + 0.5) as figure:
        from matplotlib.colors import FuncNorm

        norm = FuncNorm((_root, _square), vmin=-limit, vmax=limit)
        axes = figure.subplots(len(weights), 1, sharex=True, squeeze=False)[:, 0]
        for ax, panel, title in zip(axes, weights, titles, strict=True):
            image = ax.imshow(
                array(panel), cmap=_reds_and_blues(), norm=norm, interpolation="none", aspect="auto"
            )
            ax.spines[["top", "right"]].set_visible(True)
            ax.set_title(title)
            ax.set_yticks(range(queries), labels=list(yticks))
            ax.set_ylabel(ylabel)
        axes[-1].set_xlabel(xlabel)
        ticks = [-limit, -limit / 4, 0.0, limit / 4, limit]
        colorbar = figure.colorbar(image, ax=list(axes), ticks=ticks, pad=0.02, shrink=0.9)
        colorbar.set_label("weight", color=INK)
        colorbar.outline.set_linewidth(0.5)
    return figure


def _reds_and_blues() -> Colormap:
    """Red upwards, as much blue downwards, and white between."""
    from matplotlib.colors import LinearSegmentedColormap

    strongest: Any = reds()(255)
    blue: Any = (*strongest[2::-1], 1.0)
    return LinearSegmentedColormap.from_list("reds and blues", [blue, "white", strongest], 257)


def _root(weights: Any) -> Any:
    import numpy as np

    return np.sign(weights) * np.sqrt(np.abs(weights))


def _square(roots: Any) -> Any:
    import numpy as np

    return np.sign(roots) * np.square(roots)
