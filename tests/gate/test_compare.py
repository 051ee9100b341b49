"""What the comparison lets pass, and what it says about the rest."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.gate.compare import compare
from tests.gate.figures import keep_figures
from tests.gate.measure import Tolerance

X = np.linspace(0, 5, 50)
HEAT = np.random.default_rng(0).random((8, 12)) * 0.9


def draw(
    change: Callable[[Axes, Axes], object] | None = None,
    *,
    noise: float = 0.0,
    heat: np.ndarray = HEAT,
    kind: str = "svg",
) -> Any:
    """A figure with a curve, points and a heat map, as a cell would output it."""
    with matplotlib.rc_context({"svg.hashsalt": "gate", "path.simplify": False}):
        figure = Figure(figsize=(5, 2.5))
        left, right = figure.subplots(1, 2)
        x = X + noise * np.sin(9 * X)
        left.plot(x, np.sin(x), color="#0072B2")
        left.scatter(x[::5], np.cos(x[::5]), color="#D55E00")
        left.set_xlabel("position")
        right.imshow(heat + noise, cmap="Reds", vmin=0, vmax=1, interpolation="none")
        if change:
            change(left, right)
        file = io.BytesIO()
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    if kind == "svg":
        return display({"image/svg+xml": file.getvalue().decode(), "text/plain": "<Figure>"})
    return display({"image/png": b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"})


def display(data: dict[str, str], **metadata: Any) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def printed(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def glued(name: str, value: float) -> dict[str, Any]:
    prefix = "application/papermill.record/"
    scrapbook = {"name": name, "mime_prefix": prefix}
    return display({f"{prefix}text/plain": repr(value)}, scrapbook=scrapbook)


def words(stored: list[Any], fresh: list[Any], **tolerance: float) -> str:
    return "\n".join(map(str, compare(stored, fresh, Tolerance(**tolerance))))  # type: ignore[arg-type]


SAME = {
    "a figure with the noise of another CPU": (draw(), draw(noise=1e-6)),
    "a PNG": (draw(kind="png"), draw(kind="png", noise=1e-6)),
    "the last digits of a number": (printed("loss 0.12345\n"), printed("loss 0.12346\n")),
    "what is left where float64 cancels": (printed("2.2e-16"), printed("8.9e-16")),
    "a small entry of a tensor": (
        printed("tensor([[ 0.5, -2.0],\n        [1.2e-9, 1.0]])"),
        printed("tensor([[ 0.5, -2.0],\n        [7.9e-9, 1.0]])"),
    ),
    "nan and inf": (printed("nan -inf"), printed("nan -inf")),
    "a glued value": (glued("mse", 0.3), glued("mse", 0.30000001)),
    "a carriage return": (printed("0%\r50%\r100%\n"), printed("100%\n")),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_noise_passes(pair: tuple[Any, Any]) -> None:
    assert words([pair[0]], [pair[1]]) == ""


CHANGED = {
    "a point that moved": (
        draw(),
        draw(lambda left, _: left.collections[0].set_offsets(np.c_[X[::5], np.cos(X[::5]) + 0.02])),
        ["PathCollection_1: moved by", "pt"],
    ),
    "a curve that bent": (
        draw(),
        draw(lambda left, _: left.lines[0].set_ydata(np.sin(X * 1.001))),
        ["line2d_", "moved by", "at vertex", "of 50"],
    ),
    "a colour": (
        draw(),
        draw(lambda left, _: left.lines[0].set_color("#009E73")),
        ["line2d_", "stroke #0072b2 became #009e73"],
    ),
    "a label": (
        draw(),
        draw(lambda left, _: left.set_xlabel("place")),
        ['text_', 'label "position" became "place"'],
    ),
    "a heat map": (
        draw(),
        draw(heat=HEAT + np.eye(8, 12) * 0.1),
        ["axes_2: image: pixels differ by", "RMS"],
    ),
    "a curve that is new": (
        draw(),
        draw(lambda left, _: left.plot(X, X / 5)),
        ["axes_1", "parts became", "new: line2d_"],
    ),
    "pixels": (draw(kind="png"), draw(kind="png", heat=HEAT * 0.9), ["image/png", "RMS"]),
    "a printed number": (
        printed("loss 0.1234\nerror 0.5\n"),
        printed("loss 0.1235\nerror 0.6\n"),
        ["2 of 2 numbers moved", "0.5 became 0.6 in line 2", "20.00%"],
    ),
    "a small number by a large factor": (
        printed("error 1.2e-9"), printed("error 7.9e-09"), ["1.2e-9 became 7.9e-09", "558.33%"],
    ),
    "a small number of a sentence": (
        printed("at h = 0.5 the error is 1.2e-9 in [0.0, 1.0]"),
        printed("at h = 0.5 the error is 7.9e-9 in [0.0, 1.0]"),
        ["1 of 4 numbers moved, most of all 1.2e-9 became 7.9e-9"],
    ),
    "a small number beside as small ones": (
        printed("tensor([1.2e-9, 3.4e-9])"), printed("tensor([7.9e-9, 3.4e-9])"), ["1 of 2"],
    ),
    "a small number beside a count": (printed("[400, 1.2e-9]"), printed("[400, 7.9e-9]"), ["1 of"]),
    "a small glued value": (glued("error", 6.3e-10), glued("error", 6.3e-9), ['"error"']),
    "a count": (printed("100000 points"), printed("100001 points"), ["100000 became 100001"]),
    "a word": (printed("one\ntwo"), printed("one\nthree"), ['line 2: "two" became "three"']),
    "a number that became nan": (printed("0.5"), printed("nan"), ['"0.5" became "nan"']),
    "a glued value": (glued("mse", 0.3), glued("mse", 0.301), ['"mse"', "0.3 became 0.301"]),
    "a glued name": (glued("mse", 0.3), glued("mae", 0.3), ["glued name", "mse", "mae"]),
    "a laboratory's data": (
        display({"text/html": '<div class="lab"><script>{"x": [0.333333, 2.0]}</script></div>'}),
        display({"text/html": '<div class="lab"><script>{"x": [0.333999, 2.0]}</script></div>'}),
        ["text/html", "1 of 2 numbers moved", "0.333333 became 0.333999"],
    ),
    "an output of another kind": (
        display({"text/plain": "1"}),
        display({"text/html": "1"}),
        ["text/plain", "text/html"],
    ),
    "a type that nothing compares": (
        display({"application/x": "1"}),
        display({"application/x": "1"}),
        ["application/x: nothing compares this type"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("stored", "fresh", "expected"), CHANGED.values(), ids=CHANGED)
def test_changes_are_named(stored: Any, fresh: Any, expected: list[str]) -> None:
    found = words([stored], [fresh])
    for part in expected:
        assert part in found


def test_a_missing_output_is_a_difference() -> None:
    assert "running the cell gives 1 (stdout)" in words([], [printed("a")])
    assert "running the cell gives none" in words([printed("a")], [])


def test_one_stream_in_pieces_is_the_same_stream() -> None:
    assert words([printed("ab")], [printed("a"), printed("b")]) == ""
    assert words([printed("ab")], [printed("a"), printed("b", "stderr")]) != ""


def test_errors_are_compared_by_name_and_message_and_not_by_traceback() -> None:
    def error(value: str, *traceback: str) -> dict[str, Any]:
        return {
            "output_type": "error",
            "ename": "ValueError",
            "evalue": value,
            "traceback": list(traceback),
        }

    assert words([error("n must be 2; got 3", "here")], [error("n must be 2; got 3")]) == ""
    assert "3 became 4" in words([error("n must be 2; got 3")], [error("n must be 2; got 4")])


def test_a_cell_may_widen_its_tolerance_but_not_invent_one() -> None:
    assert Tolerance.of({"metadata": {"gate": {"rtol": 0.5}}}).rtol == 0.5
    assert words([printed("0.3")], [printed("0.4")], rtol=0.5) == ""
    with pytest.raises(ValueError, match="knows no \\['rtoll'\\]"):
        Tolerance.of({"metadata": {"gate": {"rtoll": 0.5}}})


def test_a_figure_in_which_everything_moved_takes_a_few_lines() -> None:
    found = words([draw()], [draw(lambda left, _: left.set_position((0.3, 0.3, 0.2, 0.2)))])
    assert len(found.splitlines()) <= 6
    assert "more elements changed" in found


def test_images_and_their_difference_are_kept(tmp_path: Path) -> None:
    for kind in ("svg", "png"):
        pair = [draw(kind=kind)], [draw(kind=kind, heat=HEAT * 0.8)]
        assert keep_figures(compare(*pair), *pair, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{n}.{k}" for n in ("stored", "fresh", "difference") for k in ("svg", "png")}
    assert "mix-blend-mode: difference" in (tmp_path / "difference.svg").read_text()
