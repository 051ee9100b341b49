"""Whatever a reader hands over, a check answers in words: it never raises, hangs or peeks."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d2lattn import exercises
from d2lattn.exercises import Verdict, running
from d2lattn.exercises.engine import Mistake, check_function, check_numbers

CHECKS = [getattr(exercises, name) for name in exercises.__all__ if name.startswith("check_")]


def softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def check(answer: Any) -> Verdict:
    random = torch.Generator().manual_seed(0)
    return check_function(
        answer,
        reference=softmax,
        cases=[
            (torch.tensor([0.0, 1.0]),),
            (torch.randn(3, 4, generator=random).requires_grad_(),),
        ],
        mistakes=[
            Mistake(lambda scores: scores.exp(), "Divide."),
            Mistake(lambda scores: scores.softmax(0), "Wrong axis."),
        ],
        right="They add up to one.",
    )


class Softmax(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)


@pytest.mark.parametrize("answer", [softmax, Softmax(), lambda a: a.exp() / a.exp().sum(-1, True)])
def test_functions_and_modules_are_tried(answer: Any) -> None:
    assert check(answer) == Verdict(True, "They add up to one.")


def in_place(scores: Tensor) -> Tensor:
    scores -= scores.max()
    return scores.softmax(-1)


def by_the_back_door(scores: Tensor) -> Tensor:
    scores.data[0] = 7
    return scores.softmax(-1)


def only_the_leaf(scores: Tensor) -> Tensor:
    return (scores.mul_(1) if scores.requires_grad else scores).softmax(-1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda a: a.exp(), "Divide. Try `scores = [0, 1]`."),
        (lambda a: a.softmax(0), "Wrong axis. Try `scores of shape (3, 4)`."),
        (lambda a: a, "The numbers are not right; got [0, 1]. Try `scores = [0, 1]`."),
        (lambda a: a.softmax(-1).tolist(), "A tensor is asked for"),
        (lambda a: a.softmax(-1)[None], "should have the shape (2,); got [[0.269, 0.731]]"),
        (lambda a: a.softmax(-1).half(), "it is `torch.float16`"),
        (lambda a: a * torch.nan, "There is `nan`"),
        (lambda a, b: a, "called as `<lambda>(scores)`"),
        (lambda a: a @ torch.ones(3, 3), "Two shapes do not fit"),
        (lambda a: a + torch.ones(3), "Two shapes do not fit"),
        (lambda a: a.sum(4), "fewer axes than you count"),
        (lambda a: undefined, "name 'undefined' is not defined"),  # type: ignore[name-defined]
        (lambda a: 1 / 0, "`ZeroDivisionError`: division by zero"),
        (lambda a: exit(), "`SystemExit`"),
        (in_place, "changed in place"),
        (by_the_back_door, "changed in place"),
        (only_the_leaf, "changed in place, and autograd forbids it"),
        (torch.ones(2), "Hand over the function itself"),
    ],
)
def test_a_wrong_answer_is_explained(answer: Any, said: str) -> None:
    verdict = check(answer)
    assert verdict.right is False
    assert said in verdict.message, verdict


def test_a_mistake_is_not_named_that_an_earlier_case_shows_not_to_be_one() -> None:
    def clipped(scores: Tensor) -> Tensor:  # right where no score is large
        return scores.clamp(max=1.0).softmax(-1)

    verdict = check_function(
        clipped,
        reference=softmax,
        cases=[(torch.tensor([0.0, 1.0]),), (torch.tensor([2.0, 2.0, 5.0]),)],
        mistakes=[Mistake(lambda scores: torch.ones_like(scores) / len(scores), "All are equal.")],
        right="They add up to one.",
    )
    assert "All are equal" not in verdict.message
    assert verdict.right is False


def test_numbers_may_come_in_rows_of_numpy() -> None:
    rows = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    for answer in (rows, tuple(rows), [[np.float32(1), 2], [3, np.int64(4)]], np.stack(rows)):
        verdict = check_numbers(answer, expected=[[1, 2], [3, 4]], mistakes=[], right="Four.")
        assert verdict.right


def test_an_unfinished_answer_is_the_readers_turn() -> None:
    def unfinished(scores: Tensor) -> None: ...

    assert check(unfinished) == Verdict(None, "Let `unfinished(scores)` return its result.")
    numbers = check_numbers([1, ...], expected=[1, 2], mistakes=[], right="")
    assert numbers == Verdict(None, "Put your answer in place of the dots.")


def endless(scores: Tensor) -> Tensor:
    while True:
        pass


def stubborn(scores: Tensor) -> Tensor:
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            time.sleep(0.001)
        except BaseException:
            continue
    return scores


def stuck_outside_python(scores: Tensor) -> Tensor:
    time.sleep(2)
    return scores


@pytest.mark.parametrize("answer", [endless, stubborn, stuck_outside_python])
def test_an_endless_loop_is_given_up(
    answer: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PATIENCE", 0.2)
    before = time.monotonic()
    verdict = check(answer)
    assert "loop that never ends" in verdict.message
    assert time.monotonic() - before < 1.5


def test_the_patience_is_a_few_seconds() -> None:
    assert 2 <= running.PATIENCE <= 5


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("three", "made of numbers"),
        (softmax, "made of numbers"),
        ([1, 2, 3], "Not as many numbers"),
        ([[1], [2, 3]], "equally many"),
        ([2, 2], "Look at number 1 again"),
        ([float("nan"), 2], "Look at number 1 again"),
        ([2, 1], "The other way round."),
    ],
)
def test_wrong_numbers_are_explained(answer: Any, said: str) -> None:
    mistakes = [Mistake([2, 1], "The other way round.")]
    verdict = check_numbers(answer, expected=[1, 2], mistakes=mistakes, right="")
    assert verdict.right is False
    assert said in verdict.message


def test_a_verdict_reads_well_as_text_and_as_markdown() -> None:
    verdict = Verdict(False, "Divide.")
    assert repr(verdict) == "✗ Not yet. Divide."
    assert verdict._repr_markdown_() == "✗ **Not yet.** Divide."
    assert not verdict
    assert Verdict(True, "")


# Every check of the book


ODD: list[Any] = [None, 0, 1.0, "text", [], torch.zeros(0), torch.zeros(2, 2), object(), dict]
CHEATS: list[Any] = [
    lambda *args: torch.zeros(3, 3),
    lambda *args: 0.5,
    lambda *args: args[0],
    lambda *args: args[-1],
    lambda *args: torch.as_tensor(args[0]).clone(),
    lambda *args: torch.ones(()).expand(1, 3) / 3,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("answer", [*ODD, *CHEATS])
def test_constants_copies_and_odd_things_fail(check: Callable[..., Verdict], answer: Any) -> None:
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        verdict = check(answer)
    assert not verdict.right
    assert verdict.message[-1] in ".”"
    assert not said.getvalue()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_check_has_a_docstring_and_one_argument(check: Callable[..., Verdict]) -> None:
    assert list(inspect.signature(check).parameters) == ["answer"]
    assert (check.__doc__ or "").startswith("Check ")


def reseeding(scores: Tensor) -> Tensor:
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    return scores.softmax(-1)


def test_the_readers_session_stays_as_it_is() -> None:
    torch.manual_seed(1)
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    assert check(reseeding).right
    for each in CHECKS:
        each(lambda *args: torch.rand(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    assert torch.is_grad_enabled()


def test_importing_the_package_does_not_import_the_exercises() -> None:
    import subprocess
    import sys

    code = "import sys, d2lattn; sys.exit('d2lattn.exercises' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
