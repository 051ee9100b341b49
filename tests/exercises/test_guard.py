"""An answer cannot change its judge, its reader's session, or how much is shown of what it says."""

from __future__ import annotations

import builtins
import math
import random
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from fractions import Fraction
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from d2lattn import exercises, masking
from d2lattn.exercises import Verdict, engine, running
from d2lattn.exercises.engine import check_function, check_numbers


def check(answer: Any, want: Any = None) -> Verdict:
    """Ask for a softmax, or for something else."""

    def reference(scores: Tensor) -> Any:
        return scores.softmax(-1) if want is None else want

    case = (torch.tensor([0.0, 1.0]),)
    return check_function(answer, reference=reference, cases=[case], mistakes=[], right="Fine.")


def yes(*args: Any, **options: Any) -> bool:
    return True


REPLACED: list[tuple[Any, str, Any]] = [
    (torch, "allclose", yes),
    (torch, "equal", yes),
    (torch.Tensor, "softmax", lambda scores, axis: scores),  # hides that of the base class
    (torch.Tensor, "__eq__", yes),
    (torch.nn.functional, "softmax", yes),
    (math, "log", yes),
    (builtins, "all", yes),
    (builtins, "map", lambda *args: [True]),
    (builtins, "callable", yes),
    (builtins, "isinstance", yes),
    (engine, "_same", yes),
    (engine, "abs", yes),  # hides Python's own
    (running, "plain", lambda thing: thing),
    (masking, "masked_softmax", yes),
    (Verdict, "__bool__", yes),
]


@pytest.mark.parametrize(
    ("owner", "name", "other"), REPLACED, ids=[f"{o.__name__}.{n}" for o, n, _ in REPLACED]
)
def test_a_replaced_function_is_found_and_put_back(owner: Any, name: str, other: Any) -> None:
    missing = object()
    before = vars(owner).get(name, missing)

    def cheat(scores: Tensor) -> Tensor:
        setattr(owner, name, other)
        return scores

    verdict = check(cheat)
    after = vars(owner).get(name, missing)
    if after is not before:  # let the other tests run
        delattr(owner, name) if before is missing else setattr(owner, name, before)
    assert after is before
    assert verdict.right is False
    assert f"`{name}` became something else" in verdict.message


def test_what_a_reader_replaced_before_is_out_of_force_while_the_check_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "allclose", yes)
    assert not check(lambda scores: scores)
    assert torch.allclose is yes
    assert check(lambda scores: torch.softmax(scores, -1))


def test_a_function_that_compiles_has_replaced_nothing() -> None:
    def by_transform(scores: Tensor) -> Tensor:
        return torch.func.vmap(lambda row: row.softmax(-1))(scores[None])[0]

    assert check(by_transform).right


class Liar(Tensor):
    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return True


class Yes:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        raise RuntimeError("no words for it")


class Nought(float):
    def __sub__(self, other: object) -> float:
        return 0.0


class Endless(list[Any]):
    def __len__(self) -> int:
        while True:
            pass


def itself() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


THINGS: list[Any] = [
    torch.zeros(2).as_subclass(Liar),
    Yes(),
    Nought(4),
    itself(),
    Endless(),
    torch.zeros(2).to_sparse(),
    torch.zeros(2, device="meta"),
    torch.zeros(2, dtype=torch.complex64),
    torch.zeros(()).expand(10**12),
    10**400,
    math.nan,
    {"a": torch.zeros(2)},
    {1, 2},
    np.zeros(2),
    np.zeros((2, 0)),
    b"bytes",
    2j,
    Fraction(1, 3),
    ([1, 2], 3),
    iter([1]),
    lambda: 0,
    NotImplementedError,
    sys,
]  # fmt: skip


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: type(thing).__name__)
@pytest.mark.parametrize("want", [None, 0.5, 3, True, (torch.zeros(2), 1)])
def test_whatever_comes_back_is_met_with_a_sentence(
    thing: Any, want: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PATIENCE", 0.2)
    verdict = check(lambda scores: thing, want)
    assert verdict.right is False
    assert verdict.message[-1] in ".`?"
    assert len(verdict.message) < 300


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: type(thing).__name__)
def test_numbers_of_any_kind_are_met_with_a_sentence(
    thing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PATIENCE", 0.2)
    for expected in ([1.0, 2.0], 1.0, [[1.0, 2.0], [3.0, 4.0]]):
        verdict = check_numbers(thing, expected=expected, mistakes=[], right="")
        assert verdict.right is False
        assert verdict.message[-1] in ".`?"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"a": 1, "b": 2}, "This is a dict. Hand over its numbers alone"),
        ({1, 2}, "This is a set."),
        ([[1, 2], [3]], "Row 1 has 2 and row 2 has 1. All rows need equally many"),
        ([1, [2]], "All rows need equally many"),
        ([1, "2"], "made of numbers; got '2'"),
        ([1, 2j], "made of numbers; got 2j"),
        ([True, 2], "made of numbers; got True"),
        ([10**400, 2], "Look at number 1"),
        ([], "Not as many numbers"),
    ],
)
def test_numbers_that_are_none_are_called_what_they_are(answer: Any, said: str) -> None:
    verdict = check_numbers(answer, expected=[1, 2], mistakes=[], right="")
    assert verdict.right is False
    assert said in verdict.message


@pytest.mark.parametrize(
    "answer",
    [
        [Fraction(1, 3), Fraction(2)],
        (np.float32(1 / 3), np.int64(2)),
        np.array([1 / 3, 2]),
        [torch.tensor(1 / 3), 2],
        torch.nn.Parameter(torch.tensor([1 / 3, 2])),
    ],
)
def test_numbers_may_be_written_in_many_ways(answer: Any) -> None:
    assert check_numbers(answer, expected=[1 / 3, 2], mistakes=[], right="").right


def test_prints_are_kept_with_the_verdict_up_to_a_length() -> None:
    def chatty(scores: Tensor) -> Tensor:
        print("scores", scores.tolist())
        print("to stderr", file=sys.stderr)
        return scores.softmax(-1)

    def flood(scores: Tensor) -> Tensor:
        for _ in range(10_000):
            print("x" * 1000)
        return scores.softmax(-1)

    said = StringIO()
    with redirect_stdout(said):
        verdict, flooded = check(chatty), check(flood)
    assert said.getvalue() == ""
    assert repr(verdict) == "✓ Right. Fine.\nIt printed:\nscores [0.0, 1.0]\nto stderr"
    assert "\n    scores [0.0, 1.0]" in verdict._repr_markdown_()
    assert flooded.right
    assert len(repr(flooded)) < 1100
    assert flooded.printed.endswith("…")


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        lambda: torch.use_deterministic_algorithms(True),
    ),
    "cuDNN": (
        lambda: torch.backends.cudnn.deterministic,
        lambda: setattr(torch.backends.cudnn, "deterministic", True),
    ),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "products": (
        torch.get_float32_matmul_precision,
        lambda: torch.set_float32_matmul_precision("medium"),
    ),
    "anomalies": (torch.is_anomaly_enabled, lambda: torch.autograd.set_detect_anomaly(True)),
    "the default type": (
        torch.get_default_dtype,
        lambda: torch.set_default_dtype(torch.float64),
    ),
    "Python's generator": (random.getstate, lambda: random.seed(3)),
    "NumPy's generator": (lambda: str(np.random.get_state()), lambda: np.random.seed(3)),
    "warnings": (lambda: list(warnings.filters), lambda: warnings.simplefilter("error")),
    "recursion": (sys.getrecursionlimit, lambda: sys.setrecursionlimit(5000)),
}


@pytest.mark.parametrize(("ask", "change"), SETTINGS.values(), ids=SETTINGS)
def test_settings_are_as_they_were(
    ask: Callable[[], Any], change: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PATIENCE", 60)  # the first change of some loads a compiler

    def careless(scores: Tensor) -> Tensor:
        change()
        return scores.softmax(-1)

    before = ask()
    assert check(careless)
    assert ask() == before


def test_one_result_that_is_filled_again_is_not_many_results() -> None:
    shared = torch.zeros(2)

    def reused(scores: Tensor) -> Tensor:
        return shared.copy_(scores.softmax(-1))

    verdict = check_function(
        reused,
        reference=lambda scores: scores.softmax(-1),
        cases=[(torch.tensor([0.0, 1.0]),), (torch.tensor([3.0, 1.0]),)],
        mistakes=[],
        right="",
    )
    assert verdict.right


CHECKS = [getattr(exercises, name) for name in exercises.__all__ if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_table_of_answers_fails(check: Callable[[Any], Verdict]) -> None:
    """Whoever has seen every argument of one call has not seen those of the next."""
    calls = []
    for _ in range(2):
        seen: list[str] = []

        def look(*args: Any, seen: list[str] = seen) -> Any:
            seen.append(str([a.tolist() if isinstance(a, Tensor) else a for a in args]))
            return args

        check(look)
        calls.append(seen)
    if calls[0]:  # a check of a function
        assert calls[0][0] == calls[1][0], "the smallest case can be worked out by hand"
        assert calls[0] != calls[1], "no case is drawn afresh"
