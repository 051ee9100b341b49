"""One query and its keys as arrows in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from d2lattn.plotting.checks import check_vectors
from d2lattn.plotting.style import KEY, QUERY, WIDTH, array, house_figure, reds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_plane(
    query: Float[Tensor, "2"],
    keys: Float[Tensor, "keys 2"],
    weights: Float[Tensor, "panels keys"],
    *,
    scores: Float[Tensor, "panels points points"] | None = None,
    extent: float | None = None,
    names: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    size: tuple[float, float] = (WIDTH / 2, 3.0),
) -> Figure:
    """One query and its keys as arrows in the plane; the redder a key, the more it weighs.

    Parameters
    ----------
    query, keys
        Vectors with two features.
    weights
        A row of attention weights in [0, 1] for each panel.
    scores
        For each panel the score that a key would get, on a square lattice of points from
        ``-extent`` to ``extent``, rows from bottom to top: drawn as level lines.
    extent
        Half the side of the square that is shown; by default what the vectors need.
    names
        A short name for each key; its weight is written beside it.
    titles
        One for each panel.
    size
        Width and height of a panel in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If the query, the keys, the weights or the scores are not floating-point tensors.
    ValueError
        If shapes or numbers of names or titles do not fit, or a weight lies outside [0, 1].

    Examples
    --------
    >>> show_plane(torch.ones(2), torch.eye(2), torch.tensor([[0.5, 0.5]]))
    <Figure size ... with 1 Axes>
    """
    for name, tensor, shape in (
        ("query", query, (2,)), ("keys", keys, (None, 2)), ("weights", weights, (None, None)),
        ("scores", scores, (None, None, None)),
    ):  # fmt: skip
        if tensor is not None:
            check_vectors(name, tensor, shape)
    panels, num_keys = len(weights), len(keys)
    if weights.shape[1] != num_keys:
        raise ValueError(f"weights must be as many as the keys, {num_keys}; got {weights.shape[1]}")
    if not bool(((weights >= 0.0) & (weights <= 1.0 + 1e-2)).all()):
        raise ValueError(f"weights must lie in [0, 1]; got {weights.tolist()}")
    if scores is not None and (len(scores) != panels or scores.shape[1] != scores.shape[2]):
        raise ValueError(
            f"scores must be a square lattice for each of {panels} panels; "
            f"got {tuple(scores.shape)}"
        )
    for name, texts, count in (("names", names, num_keys), ("titles", titles, panels)):
        if texts is not None and len(texts) != count:
            raise ValueError(f"{name} must have one for each of {count}; got {len(texts)}")

    half = extent or 1.25 * float(torch.cat([query[None], keys]).abs().max())
    with house_figure(min(size[0] * panels, WIDTH), size[1]) as figure:
        axes = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
        for i, ax in enumerate(axes):
            if scores is not None:
                ticks = array(torch.linspace(-half, half, scores.shape[-1]))
                ax.contour(
                    ticks, ticks, array(scores[i]), levels=8, colors="#999999",
                    linewidths=0.7, linestyles="solid",
                )  # fmt: skip
            _draw_vectors(ax, query, keys, weights[i], names)
            ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
            ax.set_xlabel("first feature")
            if titles is not None:
                ax.set_title(titles[i])
        axes[0].set_ylabel("second feature")
    return figure


def _draw_vectors(
    ax: Axes, query: Tensor, keys: Tensor, weights: Tensor, names: Sequence[str] | None
) -> None:
    for j, ((x, y), weight) in enumerate(zip(keys.tolist(), weights.tolist(), strict=True)):
        ax.plot([0, x], [0, y], color=KEY, lw=1.2, alpha=0.7)
        ax.plot(
            [x], [y], ls="", marker="s", ms=9, mec=KEY, mfc=reds()(min(weight, 1.0)), zorder=3
        )  # fmt: skip
        ax.annotate(
            f"{names[j]}  {weight:.2f}" if names else f"{weight:.2f}", (x, y), zorder=4,
            xytext=(0, 9 if y >= 0 else -9), textcoords="offset points", ha="center",
            va="bottom" if y >= 0 else "top", fontsize=9,
        )  # fmt: skip
    (x, y) = query.tolist()
    ax.plot([0, x], [0, y], color=QUERY, lw=1.8)
    ax.plot([x], [y], ls="", marker="^", ms=9, color=QUERY, zorder=3)
    ax.annotate(
        "q", (x, y), xytext=(8, -4), textcoords="offset points", va="top", color=QUERY, zorder=4
    )
