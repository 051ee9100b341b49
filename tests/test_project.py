"""What the project says about itself."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from packaging.requirements import Requirement

import d2lattn

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "d2lattn"
LOCK = [
    line
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_lock_installs_the_package_itself_in_editable_mode() -> None:
    assert LOCK[0] == "-e ."


def test_the_lock_names_exactly_one_public_version_of_everything() -> None:
    for line in LOCK[1:]:
        (version,) = Requirement(line).specifier
        assert version.operator == "==", line
        assert "+" not in version.version, f"{line}: a build that only some machines can install"


def test_the_lock_holds_every_dependency_within_its_range() -> None:
    locked = {
        Requirement(line).name.lower().replace("_", "-"): next(
            iter(Requirement(line).specifier)
        ).version
        for line in LOCK[1:]
    }
    extras = dict(PROJECT["optional-dependencies"])
    del extras["keops"]  # needs a compiler: whoever wants this peer installs it
    del extras["lab"]  # as much as all the rest, for `make lab` alone
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *extras.values())):
        if requirement.name == PROJECT["name"]:
            continue
        assert requirement.name.lower() in locked, f"{requirement} is not locked"
        assert locked[requirement.name.lower()] in requirement.specifier, requirement


def test_every_file_names_the_version_of_the_package() -> None:
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [d2lattn.__version__]
    book = re.findall(r'^ +version: "(.*)"$', (ROOT / "_config.yml").read_text(), re.MULTILINE)
    assert book == [d2lattn.__version__.rpartition(".")[0]]


def test_the_package_is_as_small_as_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.search(r"It is small: ([\d,]+) lines of code", readme)
    assert said
    real = sum(lines_of_code(path.read_text(encoding="utf-8")) for path in sources())
    assert abs(int(said[1].replace(",", "")) - real) < 0.2 * real, f"it is {real} lines now"


def test_the_picture_of_the_course_shows_what_its_numbers_compute() -> None:
    picture = (ROOT / "book/_static/pipeline.svg").read_text(encoding="utf-8")
    shown = re.findall(r">([−\d.]+)</(?:text|tspan)>", picture)[4:]  # after the names of the keys
    scores, weights, values, (output,) = (
        torch.tensor([float(n.replace("−", "-")) for n in shown[i : i + 4]]) for i in (0, 4, 8, 12)
    )
    exact = scores.softmax(dim=0)
    torch.testing.assert_close(weights, exact, rtol=0, atol=0.005)  # two decimals
    torch.testing.assert_close(output, (exact * values).sum(), rtol=0, atol=0.05)  # one


def sources() -> Iterator[Path]:
    """The package, without what only checks the answers of its learners."""
    return (path for path in PACKAGE.rglob("*.py") if "exercises" not in path.parts)


def lines_of_code(source: str) -> int:
    """Lines that hold more than a comment, a docstring or nothing."""
    lines = source.splitlines()
    silent = {n for n, line in enumerate(lines, 1) if re.match(r"\s*(#|$)", line)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            silent |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines) - len(silent)
