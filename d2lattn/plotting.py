"""Red heat maps of attention weights, and curves through measurements, in the book's style.

Every function takes tensors and returns a :class:`matplotlib.figure.Figure`; in a notebook it
is shown if it is the last expression of a cell. Queries, keys and values keep one colour each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = [
    "HOUSE_STYLE",
    "KEY",
    "QUERY",
    "VALUE",
    "show_bars",
    "show_convex_hull",
    "show_curves",
    "show_heatmaps",
    "show_histograms",
    "show_pair_table",
    "show_plane",
    "show_regression",
]

# Okabe and Ito's colours, and Tol's wine: told apart by the colour-blind, legible on white and,
# as book/_ext/house.py recolours them, on a dark page.
QUERY, KEY, VALUE = "#0072B2", "#D55E00", "#009E73"
_INK = "#333333"
_WIDTH = 5.4  # inches: as wide as a figure gets, so that a phone still shows its letters
_LINES = (QUERY, KEY, VALUE, "#882255", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))

HOUSE_STYLE: Any = {  # settings of matplotlib
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
    "font.size": 11.0,
    "axes.titlesize": 11.0,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlecolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "path.simplify": False,  # which vertices it drops depends on the last digits
    "svg.hashsalt": "d2lattn",  # the same drawing gives the same file
    "svg.fonttype": "path",  # the same letters on every machine
}


def show_heatmaps(
    weights: Float[Tensor, "*grid queries keys"] | Sequence[Float[Tensor, "queries keys"]],
    *,
    titles: Sequence[str] | None = None,
    xlabel: str = "keys",
    ylabel: str = "queries",
    xticks: Sequence[str] | None = None,
    yticks: Sequence[str] | None = None,
    annotate: bool = False,
    gamma: float = 1.0,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Attention weights as red heat maps: a row for each query, a column for each key.

    The colour scale is always the same, from 0 (faint) to 1 (strong red), so that colours can be
    compared between panels and between figures.

    Parameters
    ----------
    weights
        Attention weights in [0, 1]: one map ``(queries, keys)``; several, ``(maps, queries, keys)``
        or a list, two in a row; or a grid of maps ``(rows, columns, queries, keys)``.
    titles
        One for each map, row by row.
    xlabel, ylabel
        What the columns and the rows are.
    xticks, yticks
        A name for each key and for each query, "" for no tick; by default a few numbers.
    annotate
        Whether to write the weight into each cell, to two decimals.
    gamma
        Colour follows ``weight ** gamma``: below 1, small weights show more.
    size
        Width and height of one map in inches; by default chosen from its shape.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If the weights are not floating-point tensors.
    ValueError
        If a weight lies outside [0, 1] or is not a number, or the numbers of maps, titles or
        tick names do not fit together.

    Examples
    --------
    >>> show_heatmaps(torch.eye(3), titles=["each query finds its key"])
    <Figure size ... with 2 Axes>
    """
    import matplotlib
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    grid = _grid_of_maps(weights)
    maps = [panel for row in grid for panel in row]
    if titles is not None and len(titles) != len(maps):
        raise ValueError(f"titles must be as many as the maps, {len(maps)}; got {len(titles)}")
    num_queries, num_keys = maps[0].shape
    for name, ticks, count in (("xticks", xticks, num_keys), ("yticks", yticks, num_queries)):
        if ticks is not None and len(ticks) != count:
            raise ValueError(f"{name} must have a name for each of {count}; got {len(ticks)}")
    if not gamma > 0:
        raise ValueError(f"gamma must be positive; got {gamma}")

    rows, columns = len(grid), len(grid[0])
    width, height = size or _size_of_map(num_queries, num_keys)
    width = min(width, (_WIDTH - 0.9) / columns)
    norm = PowerNorm(gamma, vmin=0.0, vmax=1.0)
    with matplotlib.rc_context(HOUSE_STYLE):
        figure = Figure(figsize=(width * columns + 0.9, height * rows + 0.5))
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, (panel, ax) in enumerate(zip(maps, axes.flat, strict=False)):
            image = ax.imshow(
                panel.numpy(), cmap=_reds(), norm=norm, interpolation="none", aspect="auto"
            )
            ax.spines[["top", "right"]].set_visible(True)
            if titles is not None:
                ax.set_title(titles[i])
            if i % columns == 0:
                ax.set_ylabel(ylabel)
            if i + columns >= len(maps):  # nothing below
                ax.set_xlabel(xlabel)
                ax.tick_params(labelbottom=True)
            if annotate:
                _write_weights(ax, panel, gamma)
        _name_ticks(axes[0, 0], xticks, yticks)
        for ax in axes.flat[len(maps) :]:
            ax.remove()
        colorbar = figure.colorbar(
            image,
            ax=list(axes.flat[: len(maps)]),
            ticks=[0.0, 0.25, 0.5, 0.75, 1.0],
            pad=0.02,
            shrink=0.9,
        )
        colorbar.set_label("attention weight")
        colorbar.outline.set_linewidth(0.5)
    return figure


def show_regression(
    x: Float[Tensor, " n"],
    y: Float[Tensor, " n"],
    *,
    grid: Float[Tensor, " m"] | None = None,
    truth: Float[Tensor, " m"] | None = None,
    curves: Mapping[str, Float[Tensor, " m"]] | None = None,
    queries: Float[Tensor, " k"] | None = None,
    predictions: Float[Tensor, " k"] | None = None,
    weights: Float[Tensor, " n"] | None = None,
    panels: bool = False,
    xlabel: str = "x",
    ylabel: str = "y",
    size: tuple[float, float] | None = None,
) -> Figure:
    """Measurements as points, with the curves that were drawn through them.

    Parameters
    ----------
    x, y
        The measurements: where (the keys) and what (the values).
    grid
        Where the truth and the curves are evaluated.
    truth
        The function without noise, on the grid: a thin dashed line.
    curves
        Predictions on the grid, by name.
    queries, predictions
        Single predictions, drawn as triangles.
    weights
        An attention weight for each measurement: the larger, the redder and bigger its point.
    panels
        Whether each curve gets a panel of its own, two in a row, with its name as the title.
    xlabel, ylabel
        Names of the axes.
    size
        Width and height of a panel in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; not yet drawn anywhere.

    Raises
    ------
    TypeError
        If what should be a tensor is none.
    ValueError
        If a tensor has more than one axis or is empty, tensors that belong together differ in
        shape or are not all given, or a weight is negative or not finite.

    Examples
    --------
    >>> x = torch.arange(4.0)
    >>> show_regression(x, x.sin(), grid=x, curves={"a line": x / 4})
    <Figure size ... with 1 Axes>
    """
    import matplotlib
    from matplotlib.figure import Figure

    curves = dict(curves or {})
    _check_same_shape("y", y, "x", x)
    if weights is not None:
        _check_same_shape("weights", weights, "x", x)
        if not bool(((weights >= 0) & weights.isfinite()).all()):
            raise ValueError(f"weights must be finite and not negative; got {weights.tolist()}")
    if (queries is None) != (predictions is None):
        raise ValueError("queries and predictions must be given together; got only one of them")
    if queries is not None and predictions is not None:
        _check_same_shape("predictions", predictions, "queries", queries)
    on_grid = {"truth": truth} if truth is not None else {}
    for name, curve in {**on_grid, **{f"curves[{n!r}]": c for n, c in curves.items()}}.items():
        if grid is None:
            raise ValueError(f"grid must be given, for {name} is evaluated there; got None")
        _check_same_shape(name, curve, "grid", grid)

    if panels and not curves:
        raise ValueError("curves must hold at least one curve for panels; got none")

    groups: list[dict[str, Tensor]] = [{n: c} for n, c in curves.items()] if panels else [curves]
    rows, columns = len(_two_in_a_row(groups)), min(2, len(groups))
    width, height = size or ((_WIDTH / 2, 2.3) if panels else (_WIDTH, 3.2))
    with matplotlib.rc_context(HOUSE_STYLE):
        figure = Figure(figsize=(min(width, _WIDTH / columns) * columns, height * rows))
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, (ax, group) in enumerate(zip(axes.flat, groups, strict=False)):
            _draw_measurements(ax, x, y, weights)
            if grid is not None and truth is not None:
                ax.plot(_array(grid), _array(truth), color=_INK, ls=":", lw=1.2, label="truth")
            for j, (name, curve) in enumerate(group.items()):
                style = {"color": QUERY} if panels else _line_style(j)
                ax.plot(_array(grid), _array(curve), label=None if panels else name, **style)
            if queries is not None and predictions is not None:
                ax.plot(
                    _array(queries), _array(predictions), ls="", marker="^", color=QUERY,
                    ms=8, label="prediction at a query",
                )  # fmt: skip
            if panels:
                ax.set_title(next(iter(group)))
            if i + columns >= len(groups):  # nothing below
                ax.set_xlabel(xlabel)
                ax.tick_params(labelbottom=True)
            if i % columns == 0:
                ax.set_ylabel(ylabel)
        for ax in axes.flat[len(groups) :]:
            ax.remove()
        if not panels:
            axes[0, 0].legend(loc="best")
    return figure


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
    size: tuple[float, float] = (_WIDTH, 3.1),
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
    >>> x = torch.linspace(0, 1, 5)
    >>> show_curves(x, {"square": x**2}, xlabel="x", ylabel="y")
    <Figure size ... with 1 Axes>
    """
    import matplotlib
    from matplotlib.figure import Figure

    for name, curve in curves.items():
        _check_same_shape(f"curves[{name!r}]", curve, "x", x)
    with matplotlib.rc_context(HOUSE_STYLE):
        figure = Figure(figsize=size)
        ax = figure.subplots()
        for i, (name, curve) in enumerate(curves.items()):
            ax.plot(_array(x), _array(curve), label=name, **_line_style(i))
        for i, (name, (at, height)) in enumerate((marks or {}).items()):
            ax.plot([at], [height], ls="", marker="os^Dv"[i % 5], color=_INK, ms=7, label=name)
        ax.set(
            xlabel=xlabel, ylabel=ylabel,
            xscale="log" if logx else "linear", yscale="log" if logy else "linear",
        )  # fmt: skip
        if xticks is not None:
            ax.set_xticks(list(xticks), labels=[f"{tick:g}" for tick in xticks])
            ax.set_xticks([], minor=True)
        if len(curves) + len(marks or {}) > 1:
            ax.legend(loc="best")
    return figure


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
    import matplotlib
    from matplotlib.figure import Figure

    _check_vectors("heights", heights, (None, None))
    if groups < 1:
        raise ValueError(f"groups must be at least 1; got {groups}")
    num_panels, num_bars = heights.shape
    if notes is not None and len(notes) != num_panels:
        raise ValueError(f"notes must be as many as the panels, {num_panels}; got {len(notes)}")
    reds = _reds()
    top = float(heights.nan_to_num(0.0).amax()) or 1.0
    with matplotlib.rc_context(HOUSE_STYLE):
        figure = Figure(figsize=size or (_WIDTH, 0.9 + 1.15 * num_panels))
        axes = figure.subplots(num_panels, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        shown = torch.zeros(num_bars, dtype=torch.bool)
        for panel, (ax, row) in enumerate(zip(axes, heights.detach().cpu(), strict=True)):
            there = ~row.isnan()
            for bars, shade in ((there & shown, 0.3), (there & ~shown, 0.75)):
                at = bars.nonzero().squeeze(-1)
                ax.bar(_array(at + 1), _array(row[at]), color=reds(shade), width=0.8)
            shown |= there
            for line in range(groups, num_bars, groups):
                ax.axvline(line + 0.5, color=_INK, lw=0.6, ls=":")
            ax.set(xlim=(0.4, num_bars + 0.6), ylim=(0, 1.08 * top), ylabel=ylabel)
            ax.set_xticks(range(1, num_bars + 1))
            if notes is not None:
                ax.set_title(notes[panel], loc="left")
        axes[-1].set_xlabel(xlabel)
    return figure


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
    >>> q, k = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0, 30.0])
    >>> show_pair_table(q, k, q[:, None] + k[None, :])
    <Figure size ... with 1 Axes>
    """
    import matplotlib
    from matplotlib.figure import Figure

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
    with matplotlib.rc_context(HOUSE_STYLE):
        figure = Figure(figsize=(width * len(panels), height))
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


def show_histograms(
    samples: Mapping[str, Float[Tensor, " n"]],
    *,
    grid: Float[Tensor, " m"] | None = None,
    curves: Mapping[str, Float[Tensor, " m"]] | None = None,
    xlabel: str,
    bins: int = 60,
    size: tuple[float, float] = (_WIDTH, 3.1),
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
    >>> show_histograms({"even": torch.linspace(0, 1, 100)}, xlabel="x", bins=5)
    <Figure size ... with 1 Axes>
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not samples:
        raise ValueError("samples must hold at least one sample; got none")
    for name, sample in samples.items():
        _check_same_shape(f"samples[{name!r}]", sample, f"samples[{name!r}]", sample)
        if not bool(sample.isfinite().all()):
            raise ValueError(f"samples[{name!r}] must be finite; got NaN or infinity")
    for name, curve in (curves or {}).items():
        if grid is None:
            raise ValueError(f"grid must be given, for curves[{name!r}] is on it; got None")
        _check_same_shape(f"curves[{name!r}]", curve, "grid", grid)

    span = (
        min(float(sample.min()) for sample in samples.values()),
        max(float(sample.max()) for sample in samples.values()),
    )
    with matplotlib.rc_context(HOUSE_STYLE):
        figure = Figure(figsize=size)
        ax = figure.subplots()
        for i, (name, sample) in enumerate(samples.items()):
            ax.hist(
                _array(sample), bins=bins, range=span, density=True, histtype="stepfilled",
                label=name, facecolor=(_LINES[i % len(_LINES)], 0.12),
                edgecolor=_LINES[i % len(_LINES)], linewidth=1.4,
            )  # fmt: skip
        for curve in (curves or {}).values():
            ax.plot(_array(grid), _array(curve), color=_INK, ls=":", lw=1.2)
        ax.set(xlabel=xlabel, ylabel="density")
        if len(samples) > 1:
            ax.legend(loc="best")
    return figure


def show_plane(
    query: Float[Tensor, "2"],
    keys: Float[Tensor, "keys 2"],
    weights: Float[Tensor, "panels keys"],
    *,
    scores: Float[Tensor, "panels points points"] | None = None,
    extent: float | None = None,
    names: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    size: tuple[float, float] = (_WIDTH / 2, 3.0),
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
    import matplotlib
    from matplotlib.figure import Figure

    for name, tensor, shape in (
        ("query", query, (2,)), ("keys", keys, (None, 2)), ("weights", weights, (None, None)),
        ("scores", scores, (None, None, None)),
    ):  # fmt: skip
        if tensor is not None:
            _check_vectors(name, tensor, shape)
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
    with matplotlib.rc_context(HOUSE_STYLE):
        figure = Figure(figsize=(min(size[0] * panels, _WIDTH), size[1]))
        axes = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
        for i, ax in enumerate(axes):
            if scores is not None:
                ticks = _array(torch.linspace(-half, half, scores.shape[-1]))
                ax.contour(
                    ticks, ticks, _array(scores[i]), levels=8, colors="#999999",
                    linewidths=0.7, linestyles="solid",
                )  # fmt: skip
            _draw_vectors(ax, query, keys, weights[i], names)
            ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
            ax.set_xlabel("first feature")
            if titles is not None:
                ax.set_title(titles[i])
        axes[0].set_ylabel("second feature")
    return figure


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
    import matplotlib
    from matplotlib.figure import Figure

    _check_vectors("values", values, (None, 2))
    for name, points in outputs.items():
        _check_vectors(f"outputs[{name!r}]", points, (None, 2))
    if names is not None and len(names) != len(values):
        raise ValueError(f"names must have one for each of {len(values)}; got {len(names)}")

    corners = _convex_hull(values)
    colors = [color for color in _LINES if color not in (KEY, VALUE)]
    with matplotlib.rc_context(HOUSE_STYLE):
        figure = Figure(figsize=(min(size[0], _WIDTH), size[1]))
        ax = figure.subplots()
        ax.fill(*_array(corners).T, facecolor=(VALUE, 0.1), edgecolor=VALUE, lw=1.0, ls="--")
        for i, (name, points) in enumerate(outputs.items()):
            ax.plot(
                *_array(points).T, ls="", marker="^+xs"[i % 4], ms=8 if len(points) < 20 else 4,
                color=colors[i % len(colors)], mew=1.2 if i % 4 in (1, 2) else 0, label=name,
                zorder=2.6 if i == 0 else 2.1,
            )  # fmt: skip
        ax.plot(*_array(values).T, ls="", marker="o", ms=9, color=VALUE, label="values", zorder=2.3)
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


def _grid_of_maps(weights: Tensor | Sequence[Tensor]) -> list[list[Tensor]]:
    """The maps as rows of panels, checked, on the CPU, in float32."""
    if isinstance(weights, Tensor):
        if not 2 <= weights.ndim <= 4:
            raise ValueError(
                "weights must have shape (queries, keys), with one or two axes of panels before; "
                f"got {tuple(weights.shape)}"
            )
        if weights.ndim == 4:
            grid = [list(row) for row in weights]
        else:
            grid = _two_in_a_row(list(weights if weights.ndim == 3 else weights[None]))
    else:
        grid = _two_in_a_row(list(weights))
    if not grid or not grid[0]:
        raise ValueError("weights must hold at least one map; got none")
    for panel in (panel for row in grid for panel in row):
        if not isinstance(panel, Tensor) or not panel.is_floating_point():
            got = panel.dtype if isinstance(panel, Tensor) else type(panel).__name__
            raise TypeError(f"weights must be floating-point tensors; got {got}")
        if panel.ndim != 2 or panel.shape != grid[0][0].shape or 0 in panel.shape:
            raise ValueError(
                "weights must be maps of one shape (queries, keys), not empty; "
                f"got {tuple(panel.shape)} beside {tuple(grid[0][0].shape)}"
            )
        low, high = float(panel.detach().min()), float(panel.detach().max())
        # Sums of rounded weights may exceed 1 by a little; NaN fails both comparisons.
        if not (low >= 0.0 and high <= 1.0 + 1e-2):
            raise ValueError(f"weights must lie in [0, 1]; got values from {low} to {high}")
    return [[panel.detach().float().cpu() for panel in row] for row in grid]


def _two_in_a_row(panels: list[Any]) -> list[list[Any]]:
    """What still can be read on a phone."""
    return [panels[i : i + 2] for i in range(0, len(panels), 2)]


def _size_of_map(num_queries: int, num_keys: int) -> tuple[float, float]:
    """Inches: cells as square as they can be, no map tiny or huge."""
    cell = min(0.6, 3.2 / max(num_queries, num_keys))
    return max(1.7, cell * num_keys + 0.6), max(1.2, cell * num_queries + 0.4)


def _name_ticks(ax: Axes, xticks: Sequence[str] | None, yticks: Sequence[str] | None) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis, names in ((ax.xaxis, xticks), (ax.yaxis, yticks)):
        if names is not None:
            named = [i for i, name in enumerate(names) if name]
            axis.set_ticks(named, labels=[names[i] for i in named])
        else:
            axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if xticks is not None and max(map(len, xticks)) > 3:
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")


@cache
def _reds() -> Colormap:
    """Matplotlib's Reds without their darkest fifth, which is no longer red on a dark page."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["Reds"](_array(torch.linspace(0, 0.8, 256))), "reds")


def _write_weights(ax: Axes, panel: Tensor, gamma: float) -> None:
    for (i, j), weight in zip(torch.cartesian_prod(*map(torch.arange, panel.shape)).tolist(),
                              panel.flatten().tolist(), strict=True):  # fmt: skip
        color = "white" if weight**gamma > 0.65 else _INK
        ax.text(j, i, f"{weight:.2f}", ha="center", va="center", color=color, fontsize=8)


def _draw_table(ax: Axes, q: Tensor, k: Tensor, table: Tensor, decimals: int) -> None:
    """Headers in their colours, numbers in the cells; row and column 0 are the headers."""
    from matplotlib.patches import Rectangle

    cells = [(0, j + 1, KEY, 0.2, number) for j, number in enumerate(k.tolist())]
    cells += [(i + 1, 0, QUERY, 0.2, number) for i, number in enumerate(q.tolist())]
    for i, row in enumerate(table.tolist()):
        cells += [(i + 1, j + 1, _INK, 0.04, number) for j, number in enumerate(row)]
    for row, column, color, alpha, number in cells:
        rounded = round(number, decimals) + 0.0  # no "-0"
        ax.add_patch(Rectangle((column, row), 0.94, 0.94, color=color, alpha=alpha, lw=0))
        ax.text(
            column + 0.47, row + 0.47, f"{rounded:.{decimals}f}".replace("-", "\u2212"),
            ha="center", va="center", color=_INK,
        )  # fmt: skip
    ax.set(xlim=(0, len(k) + 1), ylim=(len(q) + 1, 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _draw_measurements(ax: Axes, x: Tensor, y: Tensor, weights: Tensor | None) -> None:
    if weights is None:
        ax.plot(
            _array(x), _array(y), ls="", marker="o", ms=5, color=VALUE, alpha=0.75,
            mew=0, label="measurements",
        )  # fmt: skip
        return
    share = weights / weights.max().clamp_min(torch.finfo(weights.dtype).tiny)
    ax.scatter(
        _array(x), _array(y), s=_array(15 + 85 * share), c=_array(share), cmap=_reds(),
        vmin=0.0, vmax=1.0, edgecolors=_INK, linewidths=0.5,
        label="measurements, by weight", zorder=3,
    )  # fmt: skip


def _draw_vectors(
    ax: Axes, query: Tensor, keys: Tensor, weights: Tensor, names: Sequence[str] | None
) -> None:
    reds = _reds()
    for j, ((x, y), weight) in enumerate(zip(keys.tolist(), weights.tolist(), strict=True)):
        ax.plot([0, x], [0, y], color=KEY, lw=1.2, alpha=0.7)
        ax.plot(
            [x], [y], ls="", marker="s", ms=9, mec=KEY, mfc=reds(min(weight, 1.0)), zorder=3
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


def _check_vectors(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise an error that names the argument unless it fits a shape in which None is any size."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a floating-point tensor; got {got}")
    fits = tensor.ndim == len(shape) and 0 not in tensor.shape
    if not fits or any(w not in (None, n) for w, n in zip(shape, tensor.shape, strict=True)):
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape ({wanted}); got {tuple(tensor.shape)}")


def _array(tensor: Tensor | None) -> Any:
    assert tensor is not None
    return tensor.detach().cpu().double().numpy()


def _line_style(i: int) -> dict[str, Any]:
    return {"color": _LINES[i % len(_LINES)], "ls": _DASHES[i % len(_DASHES)]}


def _check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    for argument, given in ((other_name, other), (name, tensor)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{argument} must be a tensor; got {type(given).__name__}")
        if given.ndim != 1 or len(given) == 0:
            raise ValueError(
                f"{argument} must have shape (n,), with at least one number; "
                f"got {tuple(given.shape)}"
            )
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} must have the shape of {other_name}, {tuple(other.shape)}; "
            f"got {tuple(tensor.shape)}"
        )
