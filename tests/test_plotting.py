"""Figures: what is drawn, on which scale, with which labels; and the same file each time."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from d2lattn import notebook
from d2lattn.plotting import (
    HOUSE_STYLE,
    KEY,
    QUERY,
    VALUE,
    show_bars,
    show_choices,
    show_convex_hull,
    show_curves,
    show_heatmaps,
    show_histograms,
    show_mask_blocks,
    show_pair_table,
    show_plane,
    show_regression,
    show_signed_weights,
)
from d2lattn.plotting.mask_blocks import FULL, MIXED
from tests.helpers import normal

WEIGHTS = normal(2, 3, 4, 5).softmax(dim=-1)
X = torch.linspace(0, 5, 20)


@pytest.fixture
def house_style() -> Iterator[None]:
    with matplotlib.rc_context():
        notebook.use_house_style(seed=0)
        yield
    torch.set_printoptions(profile="default")
    np.set_printoptions()


def maps_of(figure: Figure) -> list:
    return [ax for ax in figure.axes if ax.images]


def svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def test_every_heat_map_has_the_same_red_scale_from_0_to_1():
    figure = show_heatmaps(WEIGHTS)
    axes = maps_of(figure)
    assert len(axes) == 6
    images = [image for ax in axes for image in ax.images]
    assert {image.get_clim() for image in images} == {(0.0, 1.0)}
    assert {image.get_cmap().name for image in images} == {"reds"}
    assert len({id(image.norm) for image in images}) == 1
    assert len(show_heatmaps(WEIGHTS * 0.01).axes) == len(figure.axes)
    assert maps_of(show_heatmaps(WEIGHTS * 0.01))[0].images[0].get_clim() == (0.0, 1.0)


def test_one_row_of_a_heat_map_is_one_query_from_top_to_bottom():
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.25, 0.75]])
    (ax,) = maps_of(show_heatmaps(weights, xlabel="keys", ylabel="queries"))
    np.testing.assert_array_equal(ax.images[0].get_array(), weights.numpy())
    assert ax.get_xlabel() == "keys"
    assert ax.get_ylabel() == "queries"
    bottom, top = ax.get_ylim()
    assert bottom > top  # query 0 is at the top
    assert ax.get_xlim()[0] < ax.get_xlim()[1]  # key 0 is at the left


def test_d2l_defect_12_no_shared_scale_keys_by_queries_no_labels():
    figure = show_heatmaps([torch.eye(3), torch.eye(3) / 10])
    first, second = maps_of(figure)
    assert first.images[0].norm is second.images[0].norm
    assert first.get_ylabel() == "queries"
    assert first.get_xlabel() == second.get_xlabel() == "keys"
    (colorbar,) = (ax for ax in figure.axes if not ax.images and ax.get_ylabel())
    assert colorbar.get_ylabel() == "attention weight"


@pytest.mark.parametrize(
    ("shape", "panels"), [((2, 3), 1), ((1, 2, 3), 1), ((5, 2, 3), 5), ((2, 2, 2, 3), 4)]
)
def test_maps_may_come_alone_as_a_stack_or_as_a_grid(shape, panels):
    figure = show_heatmaps(torch.full(shape, 0.5))
    assert len(maps_of(figure)) == panels
    assert len(figure.axes) == panels + 1  # and the colour bar


def test_titles_and_ticks_name_panels_queries_and_keys():
    keys, queries = ["the", "quick", "fox"], ["a", "b"]
    figure = show_heatmaps(
        torch.full((2, 2, 3), 0.5), titles=["one", "two"], xticks=keys, yticks=queries
    )
    first, second = maps_of(figure)
    assert [ax.get_title() for ax in (first, second)] == ["one", "two"]
    assert [label.get_text() for label in second.get_xticklabels()] == keys
    assert [label.get_text() for label in first.get_yticklabels()] == queries


def test_a_key_or_query_without_a_name_has_no_tick():
    (ax,) = maps_of(show_heatmaps(torch.full((2, 4), 0.5), xticks=["-2", "", "", "2"]))
    assert ax.get_xticks().tolist() == [0, 3]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["-2", "2"]


def test_annotated_cells_show_their_weights():
    (ax,) = maps_of(show_heatmaps(torch.tensor([[0.125, 0.875]]), annotate=True))
    assert [(t.get_text(), *t.get_position()) for t in ax.texts] == [
        ("0.12", 0, 0),
        ("0.88", 1, 0),
    ]


def test_gamma_shows_small_weights_without_changing_the_scale():
    (ax,) = maps_of(show_heatmaps(torch.eye(2), gamma=0.5))
    assert ax.images[0].get_clim() == (0.0, 1.0)
    assert ax.images[0].norm(0.25) == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_floating_dtype_that_need_gradients_can_be_drawn(dtype):
    weights = torch.eye(3, dtype=dtype, requires_grad=True)
    assert maps_of(show_heatmaps(weights))
    assert weights.requires_grad


def test_measurements_truth_curves_and_predictions_are_drawn_where_they_are():
    grid = torch.linspace(0, 5, 50)
    figure = show_regression(
        X, X.sin(), grid=grid, truth=grid.cos(), curves={"fit": grid / 5},
        queries=X[:2], predictions=X[2:4], xlabel="place", ylabel="outcome",
    )  # fmt: skip
    (ax,) = figure.axes
    drawn = {line.get_label(): line for line in ax.lines}
    for label, x, y in (
        ("measurements", X, X.sin()), ("truth", grid, grid.cos()), ("fit", grid, grid / 5),
        ("prediction at a query", X[:2], X[2:4]),
    ):  # fmt: skip
        np.testing.assert_allclose(np.asarray(drawn[label].get_xdata()), x.numpy())
        np.testing.assert_allclose(np.asarray(drawn[label].get_ydata()), y.numpy())
    assert drawn["measurements"].get_color() == VALUE
    assert drawn["prediction at a query"].get_color() == QUERY
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("place", "outcome")
    legend = ax.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == set(drawn)


def test_a_legend_above_the_axes_leaves_them_to_the_curves():
    curves = {"sine": X.sin(), "cosine": X.cos()}
    figure = show_curves(X, curves, xlabel="x", ylabel="y", legend_above=True)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sine", "cosine"]
    (ax,) = figure.axes
    assert ax.get_legend() is None
    assert legend.get_window_extent().y0 > ax.get_window_extent().y1


def test_no_curve_is_left_out_however_many_there_are():
    curves = {f"curve {i}": X + i for i in range(9)}
    for figure in (
        show_regression(X, X, grid=X, curves=curves),
        show_curves(X, curves, xlabel="x", ylabel="y", marks={f"m{i}": (i, i) for i in range(7)}),
    ):
        labels = [line.get_label() for line in figure.axes[0].lines]
        assert set(curves) <= set(labels)
    assert {f"m{i}" for i in range(7)} <= set(labels)
    lines = [line for line in figure.axes[0].lines if line.get_label() in list(curves)[:6]]
    assert len({line.get_color() for line in lines}) == 6


def test_panels_show_one_curve_each_under_its_name_on_common_axes():
    figure = show_regression(X, X, grid=X, curves={"narrow": X, "wide": -X}, panels=True)
    assert [ax.get_title() for ax in figure.axes] == ["narrow", "wide"]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1


def test_the_outer_panels_name_the_axes():
    figure = show_regression(X, X, grid=X, curves={"a": X, "b": X, "c": X}, panels=True)
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "x", "x"]  # nothing below b and c
    assert [ax.get_ylabel() for ax in figure.axes] == ["y", "", "y"]


def test_measurements_with_weights_are_redder_and_bigger_the_more_they_count():
    weights = torch.linspace(0, 0.5, 20)
    (ax,) = show_regression(X, X, weights=weights).axes
    (points,) = ax.collections
    assert isinstance(points, PathCollection)
    assert (np.diff(points.get_sizes()) > 0).all()
    assert (np.diff(np.asarray(points.get_array())) > 0).all()


def test_a_band_reaches_as_far_above_and_below_its_curve():
    x = torch.linspace(0, 1, 5)
    figure = show_regression(
        x, x, grid=x, curves={"fit": x, "other": -x}, bands={"fit": torch.full((5,), 0.5)}
    )
    (band,) = figure.axes[0].collections
    corners = np.asarray(band.get_paths()[0].vertices)
    assert corners[:, 1].min() == pytest.approx(-0.5)
    assert corners[:, 1].max() == pytest.approx(1.5)


def test_signed_weights_are_red_above_zero_blue_below_and_white_between():
    figure = show_signed_weights(
        [torch.tensor([[1.0, 0.0, -1.0]]), torch.zeros(1, 3)],
        titles=["a", "b"], xlabel="keys", ylabel="queries", yticks=["0"], limit=1.0,
    )  # fmt: skip
    image: Any = figure.axes[0].images[0]
    (red, white, blue) = image.cmap(image.norm(image.get_array()))[0]
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert min(white[:3]) == 1.0
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a", "b"]
    assert figure.axes[1].get_xlabel() == "keys"


def test_choices_stand_on_the_diagonal_where_they_are_best():
    numbers = torch.tensor([0.1, 0.2, 0.9])
    ax: Any = show_choices(numbers, numbers, xlabel="best", ylabel="chosen").axes[0]
    diagonal, points = ax.lines
    assert (points.get_xdata() == points.get_ydata()).all()
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_curves_have_their_axes_logarithmic_if_asked():
    figure = show_curves(
        X + 1, {"a": X + 1}, xlabel="length", ylabel="seconds", logx=True, logy=True
    )
    (ax,) = figure.axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "seconds")
    assert ax.get_legend() is None  # one curve needs none


PAIR_QUERIES, PAIR_KEYS = normal(2, 3, seed=1), normal(2, 4, seed=2)
PAIRS = PAIR_QUERIES.unsqueeze(-1) + PAIR_KEYS.unsqueeze(-2)


def test_ticks_of_curves_stand_where_asked_as_plain_numbers():
    figure = show_curves(X + 1, {"a": X}, xlabel="x", ylabel="y", logx=True, xticks=[1, 2, 0.5])
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "0.5"]
    assert ax.get_xticks(minor=True).tolist() == []


def test_a_pair_table_has_queries_at_the_left_keys_at_the_top_and_pairs_where_they_cross():
    queries, keys = torch.tensor([1.0, -2.0]), torch.tensor([10.0, 20.0, 30.0])
    figure = show_pair_table(queries, keys, queries[:, None] + keys[None, :], titles=["sums"])
    (ax,) = figure.axes
    bottom, top = ax.get_ylim()
    assert bottom > top  # query 0 is at the top
    written = {
        (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text()
        for text in ax.texts
    }
    assert written == {
        (0, 1): "10", (0, 2): "20", (0, 3): "30",
        (1, 0): "1", (1, 1): "11", (1, 2): "21", (1, 3): "31",
        (2, 0): "\u22122", (2, 1): "8", (2, 2): "18", (2, 3): "28",
    }  # fmt: skip
    colors = {matplotlib.colors.to_hex(patch.get_facecolor()).upper() for patch in ax.patches}
    assert {QUERY, KEY} <= colors
    assert ax.get_title() == "sums"


def test_a_pair_table_has_a_panel_for_each_entry_of_an_axis_before_and_rounds_as_told():
    figure = show_pair_table(PAIR_QUERIES, PAIR_KEYS, PAIRS, decimals=2)
    assert len(figure.axes) == 2
    first = figure.axes[1].texts[0].get_text().replace("\u2212", "-")
    assert first == f"{PAIR_KEYS[1, 0].item():.2f}"
    (ax,) = show_pair_table(*(torch.tensor(t) for t in ([-0.1], [0.0], [[-0.4]]))).axes
    assert {text.get_text() for text in ax.texts} == {"0"}  # no "-0"


@pytest.mark.parametrize(
    ("queries", "keys", "pairs", "words"),
    [
        (PAIR_QUERIES, PAIR_KEYS, PAIRS.mT, "pairs must have shape"),
        (PAIR_QUERIES, PAIR_KEYS[0], PAIRS, "keys must have shape"),
        (PAIRS, PAIR_KEYS, PAIRS, "queries must have shape"),
        (PAIR_QUERIES[:, :0], PAIR_KEYS, PAIRS[:, :0], "queries must have shape"),
        (PAIR_QUERIES, PAIR_KEYS[:, :0], PAIRS[..., :0], "keys must have shape"),
    ],
)
def test_a_pair_table_whose_numbers_do_not_fit_together_is_refused(queries, keys, pairs, words):
    with pytest.raises(ValueError, match=words):
        show_pair_table(queries, keys, pairs)


def test_a_pair_table_wants_tensors_and_a_title_for_each_panel():
    with pytest.raises(TypeError, match="keys must be a tensor; got list"):
        show_pair_table(PAIR_QUERIES, [1.0], PAIRS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as many as the panels, 2; got 1"):
        show_pair_table(PAIR_QUERIES, PAIR_KEYS, PAIRS, titles=["one"])


STEPS = torch.tensor([[1.0, 0.5, torch.nan, torch.nan], [0.25, 0.125, 1.0, 0.75]])


def test_bars_that_a_panel_adds_are_darker_and_the_earlier_ones_are_drawn_again():
    figure = show_bars(STEPS, groups=2, notes=["one", "two"], xlabel="key", ylabel="share")
    bars = [[bar for bar in ax.patches if isinstance(bar, Rectangle)] for ax in figure.axes]
    heights = [[bar.get_height() for bar in panel] for panel in bars]
    assert heights == [[1.0, 0.5], [0.25, 0.125, 1.0, 0.75]]
    redness = [1 - matplotlib.colors.to_rgb(bar.get_facecolor())[1] for bar in bars[1]]
    assert max(redness[:2]) < min(redness[2:])
    assert bars[0][0].get_facecolor() == bars[1][2].get_facecolor()
    assert [bar.get_center()[0] for bar in bars[1]] == [1, 2, 3, 4]
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert np.asarray(figure.axes[1].lines[0].get_xdata())[0] == 2.5  # between the groups
    assert figure.axes[1].get_xlabel() == "key"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"heights": STEPS[0]}, "heights must have shape"),
        ({"heights": STEPS, "groups": 0}, "groups must be at least 1; got 0"),
        ({"heights": STEPS, "notes": ["one"]}, "as many as the panels, 2; got 1"),
    ],
)
def test_bars_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        show_bars(**arguments, xlabel="x", ylabel="y")


PAST = torch.ones(8, 8, dtype=torch.bool).tril()


def covered(ax: Axes, color: str, alpha: float) -> set[tuple[int, int]]:
    """Pairs (query, key) whose middle a patch of this colour covers."""
    wanted = matplotlib.colors.to_rgba(color, alpha)
    return {
        (i, j)
        for patch in ax.patches
        if patch.get_facecolor() == wanted
        for i in range(8)
        for j in range(8)
        if patch.get_path().contains_point((j + 0.5, i + 0.5))
    }


def test_full_blocks_are_of_one_colour_and_in_mixed_ones_the_pairs_that_count_stand_out():
    (ax,) = show_mask_blocks(PAST, 2, titles=["causal"]).axes
    pairs = {(i, j) for i in range(8) for j in range(8)}
    assert covered(ax, FULL, 1.0) == {(i, j) for i, j in pairs if j // 2 < i // 2}
    assert covered(ax, MIXED, 0.3) == {(i, j) for i, j in pairs if j // 2 == i // 2}
    assert covered(ax, MIXED, 1.0) == {(i, j) for i, j in pairs if j // 2 == i // 2 and j <= i}
    bottom, top = ax.get_ylim()
    assert bottom > top  # query 0 is at the top
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("keys", "queries", "causal")


def test_masks_stand_two_in_a_row_above_what_their_colours_mean():
    figure = show_mask_blocks(torch.stack([PAST, ~PAST, PAST | True]), 4, titles=list("abc"))
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["full", "mixed", "empty"]
    assert len(figure.axes[2].patches) == 1  # all full


@pytest.mark.parametrize(
    ("allowed", "block", "kind", "words"),
    [
        (PAST.float(), 2, TypeError, "boolean tensor; got torch.float32"),
        ([[True]], 1, TypeError, "boolean tensor; got list"),
        (PAST[0], 2, ValueError, "allowed must have shape"),
        (PAST[:0], 2, ValueError, "allowed must have shape"),
        (PAST, 3, ValueError, "block must divide"),
        (PAST, 0, ValueError, "block must divide"),
    ],
)
def test_masks_that_cannot_be_cut_are_refused(allowed, block, kind, words):
    with pytest.raises(kind, match=words):
        show_mask_blocks(allowed, block)


def test_masks_want_a_title_for_each_panel():
    with pytest.raises(ValueError, match="as many as the panels, 1; got 2"):
        show_mask_blocks(PAST, 2, titles=["one", "two"])


def test_queries_keys_and_values_have_three_colours_that_the_colour_blind_can_tell_apart():
    assert len({QUERY, KEY, VALUE}) == 3
    okabe_ito = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    assert {QUERY, KEY, VALUE} <= okabe_ito


def test_a_curve_has_the_colour_of_no_query_key_or_value():
    curves = {f"curve {i}": X + i for i in range(9)}
    for figure in (
        show_curves(X, curves, xlabel="x", ylabel="y"),
        show_regression(X, X, grid=X, curves=curves),
        show_regression(X, X, grid=X, curves=curves, panels=True),
    ):
        drawn = {line.get_color() for ax in figure.axes for line in ax.lines
                 if line.get_label() != "measurements"}  # fmt: skip
        assert not drawn & {QUERY, KEY, VALUE}


def every_figure() -> list[Figure]:
    grid = torch.linspace(0, 5, 30)
    return [
        show_heatmaps(WEIGHTS),
        show_heatmaps(WEIGHTS[0], titles=["a", "b", "c"], annotate=True, gamma=0.5),
        show_regression(X, X.sin(), grid=grid, curves={"fit": grid.sin()}),
        show_regression(X, X.sin(), weights=X / X.sum()),
        show_curves(X, {"a": X, "b": -X}, xlabel="x", ylabel="y", marks={"here": (1.0, 1.0)}),
        show_pair_table(PAIR_QUERIES, PAIR_KEYS, PAIRS, decimals=1),
        show_bars(STEPS, xlabel="x", ylabel="y"),
        show_histograms({"a": X, "b": X / 2}, grid=grid, curves={"flat": grid * 0}, xlabel="x"),
        show_plane(
            X[:2], PAIR_KEYS.mT, WEIGHTS[0, :, 0, :4], scores=PAIRS[:1, :3, :3].expand(3, 3, 3)
        ),
        show_mask_blocks(PAST, 2),
        show_convex_hull(PAIR_KEYS.mT, {"mean": PAIR_KEYS.mT.mean(0, keepdim=True)}),
    ]


def test_the_same_drawing_gives_the_same_svg_byte_for_byte(house_style):
    first, second = map(svg, every_figure()), map(svg, every_figure())
    for one, two in zip(first, second, strict=True):
        assert one == two
        assert b"<dc:date>" not in one


def test_figures_belong_to_their_caller_and_not_to_pyplot():
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    figures = every_figure()
    assert all(type(figure) is Figure for figure in figures)
    assert plt.get_fignums() == before


def test_drawing_leaves_tensors_and_settings_as_they_were():
    weights, x = WEIGHTS.clone(), X.clone()
    settings = dict(matplotlib.rcParams)
    every_figure()
    assert torch.equal(weights, WEIGHTS)
    assert torch.equal(x, X)
    assert dict(matplotlib.rcParams) == settings


def test_drawing_leaves_the_random_generator_where_it_was():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    every_figure()
    assert torch.equal(torch.rand(3), expected)


def test_the_house_style_consists_of_settings_that_matplotlib_knows():
    assert set(HOUSE_STYLE) <= set(matplotlib.rcParams)
    assert HOUSE_STYLE["svg.hashsalt"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: show_bars(STEPS, xlabel="x", ylabel="y"),
        lambda: show_convex_hull(torch.eye(2), {}),
        lambda: show_curves(X, {"a": X}, xlabel="x", ylabel="y"),
        lambda: show_heatmaps(WEIGHTS),
        lambda: show_histograms({"a": X}, xlabel="x"),
        lambda: show_pair_table(PAIR_QUERIES, PAIR_KEYS, PAIRS),
        lambda: show_plane(torch.ones(2), torch.eye(2), torch.tensor([[0.5, 0.5]])),
        lambda: show_regression(X, X),
        notebook.use_house_style,
    ],
)
def test_without_matplotlib_drawing_says_what_to_install(draw, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    with pytest.raises(ModuleNotFoundError, match=r"matplotlib.*pip install 'd2lattn\[notebook\]'"):
        draw()
