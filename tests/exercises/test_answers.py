"""Right answers written in several ways, and the usual mistakes: see ``answers_NN.py``."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from d2lattn import exercises
from d2lattn.exercises import Verdict
from tests.exercises import Check

CHAPTERS = [
    import_module(f"tests.exercises.{path.stem}")
    for path in sorted(Path(__file__).parent.glob("answers_*.py"))
]
RIGHT = [row for chapter in CHAPTERS for row in chapter.RIGHT]
WRONG = [row for chapter in CHAPTERS for row in chapter.WRONG]


def timed(check: Check, answer: Any) -> Verdict:
    """The verdict, which takes less than two seconds: of the processor, as tests run together."""
    start = time.process_time()
    verdict = check(answer)
    assert time.process_time() - start < 2
    return verdict


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_are_accepted(check: Check, answer: Any) -> None:
    verdict = timed(check, answer)
    assert verdict.right, verdict


@pytest.mark.parametrize(("check", "answer", "said"), WRONG)
def test_a_usual_mistake_is_named(check: Check, answer: Any, said: str) -> None:
    verdict = timed(check, answer)
    assert verdict.right is False
    assert said in verdict.message, verdict


CHECKS = [getattr(exercises, name) for name in exercises.__all__ if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_two_right_and_four_wrong_answers_are_tried(check: Check) -> None:
    """Beside the solution, which runs in the book."""
    assert sum(row[0] is check for row in RIGHT) >= 2
    assert sum(row[0] is check for row in WRONG) >= 4
