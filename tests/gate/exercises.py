"""Exercises and questions have all their parts, in order, and give nothing away.

An exercise begins with a heading of the third level below `## Exercises`. Where it can be run, a
cell to start from follows, then hints and the solution, closed, and the solution's code, folded.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.gate.pages import Book, Cell, Page

DETAILS = re.compile(
    r'^<details class="(?P<kind>\w+)"(?P<open>[^>]*)><summary>(?P<summary>.+?)</summary>\n\n'
    r"(?P<text>.+?)\n\n</details>$",
    re.DOTALL | re.MULTILINE,
)
VERDICTS = {"right": "✓ Right.", "open": "○ Your turn."}
SHORTEST = 30  # letters in a statement, a solution or an explanation


def exercises(page: Page, book: Book) -> list[str]:
    """What an exercise lacks, and what would show its solution too early."""
    return [finding for parts in exercises_of(page) for finding in _incomplete(page, parts)]


def questions(page: Page, book: Book) -> list[str]:
    """Each question offers options, one of them right, and explains every one."""
    return [finding for cell in questions_of(page) for finding in _unclear(cell)]


def exercises_of(page: Page) -> list[list[Cell]]:
    """The cells of each exercise; the first is the statement."""
    found: list[list[Cell]] = []
    inside = False
    for cell in page.cells:
        text = "" if cell.is_code else cell.source
        if headings := re.findall(r"^## .+$", text, re.MULTILINE):
            inside = headings[-1] == "## Exercises"
        elif inside and text.startswith("### "):
            found.append([cell])
        elif inside and found:
            found[-1].append(cell)
    return found


def questions_of(page: Page) -> list[Cell]:
    """The cells that hold a multiple-choice question."""
    return [c for c in page.cells if not c.is_code and '<div class="quiz">' in c.source]


def checks_in(cell: Cell) -> set[str]:
    """The checks of :mod:`d2lattn.exercises` that a cell calls."""
    calls = (node.func for node in ast.walk(cell.tree) if isinstance(node, ast.Call))
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    return {name for name in names if re.match(r"check_\d\d_", name)}


def _incomplete(page: Page, parts: list[Cell]) -> Iterator[str]:
    statement, *rest = parts
    title = statement.source.partition("\n")[0].removeprefix("### ")
    where = f"exercise “{title}”"
    helps = [cell for cell in rest if not cell.is_code]
    if len(statement.source) < len(title) + SHORTEST:
        yield f"{where} has no statement"
    if DETAILS.search(statement.source) or len(helps) != 1:
        yield f"{where} needs its hints and its solution in one cell of their own"
        return
    at = rest.index(helps[0])
    blocks = list(DETAILS.finditer(helps[0].source))
    kinds = [block["kind"] for block in blocks]
    if kinds.count("solution") != 1 or kinds[-1:] != ["solution"] or "hint" not in kinds:
        yield f"{where} needs hints, then one solution; it has {', '.join(kinds) or 'nothing'}"
    if DETAILS.sub("", helps[0].source).strip() or any(block["open"] for block in blocks):
        yield f"{where} shows something of its hints or solution before they are opened"
    if any(len(b["text"]) < SHORTEST for b in blocks if b["kind"] == "solution"):
        yield f"{where} does not explain its solution"
    starts, solutions = rest[:at], rest[at + 1 :]
    for cell in solutions:
        hidden = cell.node.metadata.get("jupyter", {}).get("source_hidden")
        if "hide-cell" not in cell.tags or not hidden:
            yield f"{where} shows its solution in code: tag {cell.where} hide-cell, source_hidden"
    yield from _unchecked(where, page.name[:2], starts, solutions)


def _unchecked(
    where: str, chapter: str, starts: list[Cell], solutions: list[Cell]
) -> Iterator[str]:
    if not starts:
        return  # an exercise of thought, with a model answer
    if len(starts) > 1:
        yield f"{where} has {len(starts)} cells to start from"
    wanted = checks_in(starts[0])
    if len(wanted) != 1 or not all(name.startswith(f"check_{chapter}_") for name in wanted):
        yield f"{where}: its first cell should call one check_{chapter}_…"
    if _verdict(starts[0]) != VERDICTS["open"]:
        yield f"{where}: unfinished, its check should say “{VERDICTS['open']}”"
    if not any(checks_in(c) == wanted and _verdict(c) == VERDICTS["right"] for c in solutions):
        yield f"{where}: its solution does not pass its own check"


def _verdict(cell: Cell) -> str:
    texts = [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return next((v for v in VERDICTS.values() if any(t.startswith(v) for t in texts)), "")


def _unclear(cell: Cell) -> Iterator[str]:
    options = [block for block in DETAILS.finditer(cell.source) if block["kind"] == "option"]
    right = [option for option in options if option["text"].startswith("**Right.** ")]
    wrong = [option for option in options if option["text"].startswith("**Not quite.** ")]
    if len(options) < 2 or len(right) != 1 or len(right) + len(wrong) != len(options):
        yield f"{cell.where}: a question needs options, one **Right.**, the others **Not quite.**"
    if any(option["open"] for option in options):
        yield f"{cell.where}: an option is open from the start"
    if any(len(option["text"]) < SHORTEST for option in options):
        yield f"{cell.where}: an option has no explanation"
    if "**Check yourself.** " not in cell.source:
        yield f"{cell.where}: a question begins with **Check yourself.**"
