"""The rules about exercises can fail, and every chapter has what they ask for."""

from __future__ import annotations

from typing import Any

import pytest
from nbformat import from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from d2lattn import exercises as package
from tests.gate.exercises import checks_in, exercises, exercises_of, questions, questions_of
from tests.gate.pages import Page, read_book
from tests.gate.test_hygiene import chapter

BOOK = read_book()
CHAPTERS = [page for page in BOOK.pages if page.name[:2].isdigit()]


def test_every_chapter_has_exercises_and_questions() -> None:
    counts = {page.name: (len(exercises_of(page)), len(questions_of(page))) for page in CHAPTERS}
    assert len(counts) >= 8
    assert {name for name, (some, others) in counts.items() if some < 5 or others < 2} == set()


def test_every_check_belongs_to_an_exercise() -> None:
    called = {name for page in CHAPTERS for cell in page.code for name in checks_in(cell)}
    assert called == set(package.__all__) - {"Verdict", "speak"}


def verdict(text: str) -> list[Any]:
    return [new_output("execute_result", {"text/plain": text})]


START = new_code_cell("check_01_sum(...)", outputs=verdict("○ Your turn. Go on."))
SOLUTION = new_code_cell(
    "check_01_sum(3)",
    outputs=verdict("✓ Right. Good."),
    metadata={"tags": ["hide-cell"], "jupyter": {"source_hidden": True}},
)
STATEMENT = "### Sums\n\nWhat is one and two? Answer with a number."
HINT = '<details class="hint"><summary>A hint</summary>\n\nCount.\n\n</details>'
ANSWER = (
    '<details class="solution"><summary>The solution</summary>\n\n'
    "Three, as counting on from one by two shows.\n\n</details>"
)


def page_with(
    statement: str = STATEMENT,
    helps: str = f"{HINT}\n\n{ANSWER}",
    start: Any = START,
    solution: Any = SOLUTION,
) -> tuple[Page, Any]:
    cells = [new_markdown_cell("## Exercises"), new_markdown_cell(statement), start]
    cells += [new_markdown_cell(helps), solution, new_markdown_cell("## Further reading")]
    return chapter(*(cell for cell in cells if cell))


def test_a_whole_exercise_passes_with_or_without_code() -> None:
    assert exercises(*page_with()) == []
    assert exercises(*page_with(start=None, solution=None)) == []
    assert len(exercises_of(page_with()[0])) == 1


BAD_EXERCISES: list[tuple[dict[str, Any], str]] = [
    ({"statement": "### Sums"}, "no statement"),
    ({"helps": ANSWER}, "needs hints"),
    ({"helps": HINT}, "needs hints"),
    ({"helps": f"{ANSWER}\n\n{HINT}"}, "needs hints"),
    ({"helps": f"{HINT}\n\n{ANSWER}\n\nIt is three."}, "before they are opened"),
    ({"helps": f"{HINT}\n\n{ANSWER}".replace('"solution">', '"solution" open>')}, "before they"),
    ({"statement": f"{STATEMENT}\n\n{ANSWER}"}, "in one cell of their own"),
    ({"solution": new_code_cell("check_01_sum(3)", outputs=SOLUTION.outputs)}, "hide-cell"),
    (
        {"solution": from_dict(SOLUTION | {"outputs": verdict("✗ Not yet. No.")})},
        "pass its own check",
    ),
    ({"solution": from_dict(SOLUTION | {"source": "check_01_other(3)"})}, "pass its own check"),
    ({"solution": None}, "pass its own check"),
    ({"start": from_dict(START | {"source": "answer = ..."})}, "should call one check_01_"),
    ({"start": from_dict(START | {"source": "check_02_sum(...)"})}, "should call one check_01_"),
    ({"start": from_dict(START | {"outputs": verdict("✓ Right. Good.")})}, "unfinished"),
]


@pytest.mark.parametrize(("changes", "said"), BAD_EXERCISES)
def test_an_incomplete_exercise_is_found(changes: dict[str, Any], said: str) -> None:
    assert any(said in finding for finding in exercises(*page_with(**changes)))


OPTION = '<details class="option"><summary>{}</summary>\n\n{}\n\n</details>'
RIGHT = OPTION.format(3, "**Right.** One and two is three.")
WRONG = OPTION.format(4, "**Not quite.** That is two and two.")
QUIZ = '<div class="quiz">\n\n**Check yourself.** How much is it?\n\n{}\n\n</div>'


def test_a_clear_question_passes() -> None:
    page, book = chapter(new_markdown_cell(QUIZ.format(f"{RIGHT}\n\n{WRONG}")))
    assert len(questions_of(page)) == 1
    assert questions(page, book) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (QUIZ.format(RIGHT), "needs options"),
        (QUIZ.format(f"{WRONG}\n\n{WRONG}"), "needs options"),
        (QUIZ.format(f"{RIGHT}\n\n{RIGHT}"), "needs options"),
        (QUIZ.format(f"{RIGHT}\n\n{WRONG}").replace("Not quite.", "Wrong."), "needs options"),
        (QUIZ.format(f"{RIGHT}\n\n{WRONG}").replace('"option">', '"option" open>'), "is open"),
        (QUIZ.format(f"{RIGHT}\n\n{WRONG}").replace(" That is two and two.", " "), "explanation"),
        (QUIZ.format(f"{RIGHT}\n\n{WRONG}").replace("Check yourself", "Quiz"), "begins with"),
    ],
)
def test_an_unclear_question_is_found(text: str, said: str) -> None:
    assert any(said in finding for finding in questions(*chapter(new_markdown_cell(text))))
