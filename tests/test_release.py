"""A release: the tag says what the package says, and nobody but the workflow may publish it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import d2lattn
from tools.tag import main, problems, version

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A package that is ready for its tag, v1.2.3."""
    (tmp_path / "d2lattn").mkdir()
    (tmp_path / "d2lattn" / "__init__.py").write_text('"""Doc."""\n\n__version__ = "1.2.3"  # ok\n')
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 1.2.3\n")
    (tmp_path / "_config.yml").write_text('sphinx:\n  config:\n    version: "1.2"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [1.2.3] - 2026-12-24\n")
    return tmp_path


def test_the_version_is_read_without_importing_the_package() -> None:
    assert version() == d2lattn.__version__


def test_a_tag_that_everything_agrees_with_may_be_published(released: Path) -> None:
    assert problems("v1.2.3", released) == []


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2.30", "v1.2.4", "v1.2.3rc1", ""])
def test_a_tag_of_another_version_may_not(released: Path, tag: str) -> None:
    (problem,) = problems(tag, released)
    assert problem.startswith("the tag must be v1.2.3")
    assert problem.endswith(f"got {tag}")


@pytest.mark.parametrize("file", ["CITATION.cff", "_config.yml", "CHANGELOG.md"])
def test_a_file_that_was_left_behind_is_named(released: Path, file: str) -> None:
    text = (released / file).read_text()
    (released / file).write_text(text.replace("1.2", "1.1"))
    (problem,) = problems("v1.2.3", released)
    assert file in problem


def test_a_package_without_a_version_is_an_error(released: Path) -> None:
    (released / "d2lattn" / "__init__.py").write_text("")
    with pytest.raises(LookupError, match="must say __version__"):
        problems("v1.2.3", released)


def test_a_wrong_tag_fails_the_workflow(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("v0.0.0") == 1
    assert f"must be v{d2lattn.__version__}" in capsys.readouterr().out


def job(name: str) -> str:
    found = re.search(rf"^  {name}:\n((?:    .*\n|\n)+)", WORKFLOW, re.MULTILINE)
    assert found, f"release.yml has no job {name}"
    return found[1]


def test_a_release_waits_for_every_test_and_for_the_right_tag() -> None:
    assert re.search(r'^on:\n  push:\n    tags: \["v\*"\]$', WORKFLOW, re.MULTILINE)
    assert "uses: ./.github/workflows/ci.yml" in job("verify")
    checks = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.search(r"^  workflow_call:", checks, re.MULTILINE)
    assert 'python -m tools.tag "$GITHUB_REF_NAME"' in job("build")
    assert "twine check --strict" in job("build")
    assert "needs: [verify, build]" in job("publish")


def test_the_index_trusts_the_workflow_and_there_is_no_password() -> None:
    assert "id-token: write" in job("publish")
    assert WORKFLOW.count("id-token: write") == 1  # where nothing of ours runs
    assert "run:" not in job("publish")
    assert "gh-action-pypi-publish@" in job("publish")
    assert not re.search(r"secrets\.|password|api.token", WORKFLOW.replace("No password", ""))
