"""The package as others install it: built, checked, and tried where there is nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Mapping, Sequence
from email import message_from_bytes
from email.message import Message
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import d2lattn

ROOT = Path(__file__).resolve().parents[1]
FILES = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"]
ADDRESS = "https://code.example/someone/course"
ACTIONS = {  # what GitHub sets for the workflow of a tag
    "GITHUB_SERVER_URL": "https://code.example",
    "GITHUB_REPOSITORY": "someone/course",
    "GITHUB_REF_TYPE": "tag",
    "GITHUB_REF_NAME": "v1.2.3",
}
ELSEWHERE = {**ACTIONS, "GITHUB_REPOSITORY": "somebody/else", "GITHUB_REF_NAME": "v9"}


def run(
    arguments: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    """What a Python program prints; its failure is the test's."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GITHUB_", "BOOK_", "PYTHON"))
    }
    done = subprocess.run(
        [*map(str, arguments)],
        cwd=folder,
        env={**inherited, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from; building leaves files beside it."""
    folder = tmp_path_factory.mktemp("source")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in ("d2lattn", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def dist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from it, as a tag publishes them."""
    target = tmp_path_factory.mktemp("dist")
    # Without isolation nothing is downloaded: setuptools comes with torch.
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", target], source, ACTIONS)
    return target


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def metadata_of(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def description_of(metadata: Message) -> str:
    content = metadata.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode()


def metadata_from(source: Path, target: Path, environment: Mapping[str, str]) -> Message:
    """What a wheel would say of itself if it were built from here, in this environment."""
    code = "import sys, setuptools.build_meta as b; b.prepare_metadata_for_build_wheel(sys.argv[1])"
    target.mkdir()
    run([sys.executable, "-c", code, target], source, environment)
    (path,) = target.glob("*.dist-info/METADATA")
    return message_from_bytes(path.read_bytes())


def test_an_index_would_take_both_distributions(dist: Path) -> None:
    assert len(list(dist.iterdir())) == 2
    run([sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir()], dist)


def test_a_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "d2lattn").rglob("*.py")}
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    data = [*(ROOT / "d2lattn/trained").iterdir(), *(ROOT / "d2lattn/locale").glob("*/*/*")]
    assert held == ours | {str(path.relative_to(ROOT)) for path in data} | {"d2lattn/py.typed"}


def test_a_source_distribution_holds_what_builds_a_wheel_and_no_half_of_the_tests(
    dist: Path,
) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert set(FILES) <= held
    assert not [name for name in held if name.startswith("tests")]


def test_the_metadata_say_what_the_package_says(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["Version"] == d2lattn.__version__
    assert metadata["License-Expression"] == "MIT"
    assert "contributors" in metadata["Author"]
    supported = re.findall(r'"(3\.\d+)"', (ROOT / ".github/workflows/ci.yml").read_text())
    classifiers = metadata.get_all("Classifier", [])
    for version in supported:  # on which the tests run
        assert f"Programming Language :: Python :: {version}" in classifiers


def test_where_it_is_published_the_metadata_link_to_the_repository(wheel: Path) -> None:
    urls = dict(url.split(", ") for url in metadata_of(wheel).get_all("Project-URL", []))
    assert urls["Source"] == ADDRESS
    assert urls["Issues"] == f"{ADDRESS}/issues"
    assert urls["Changelog"].startswith(f"{ADDRESS}/blob/")


def test_where_the_book_is_published_the_metadata_link_to_it(source: Path, tmp_path: Path) -> None:
    book = {"BOOK_URL": "https://someone.example/course"}
    metadata = metadata_from(source, tmp_path / "out", book)
    assert metadata.get_all("Project-URL") == ["Documentation, https://someone.example/course/"]


def test_elsewhere_the_metadata_have_no_links_and_the_readme_is_as_it_is(
    source: Path, tmp_path: Path
) -> None:
    metadata = metadata_from(source, tmp_path / "out", {})
    assert metadata.get_all("Project-URL") is None
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert description_of(metadata).strip() == readme.strip()


def test_a_wheel_made_later_from_a_source_distribution_says_what_that_says(
    dist: Path, wheel: Path, tmp_path: Path
) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    for number, environment in enumerate(({}, ELSEWHERE)):
        metadata = metadata_from(folder, tmp_path / str(number), environment)
        for name in ("Project-URL", "Version", "Requires-Dist"):
            assert metadata.get_all(name) == metadata_of(wheel).get_all(name)
        assert description_of(metadata).strip() == description_of(metadata_of(wheel)).strip()


def test_on_the_page_of_an_index_every_link_and_the_picture_lead_to_the_repository(
    wheel: Path,
) -> None:
    text = description_of(metadata_of(wheel))
    links, pictures = re.findall(r"\]\(([^)]+)\)", text), re.findall(r'<img src="([^"]+)"', text)
    assert pictures
    assert f"{ADDRESS}/blob/v1.2.3/LICENSE" in links
    for link in links + pictures:
        kind = "raw" if link in pictures else "blob"
        assert link.startswith(f"{ADDRESS}/{kind}/v1.2.3/"), link
        assert (ROOT / link.removeprefix(f"{ADDRESS}/{kind}/v1.2.3/")).is_file(), link


def test_a_build_of_no_tag_links_to_the_newest_files(source: Path, tmp_path: Path) -> None:
    branch = {**ACTIONS, "GITHUB_REF_TYPE": "branch", "GITHUB_REF_NAME": "an/idea"}
    text = description_of(metadata_from(source, tmp_path / "out", branch))
    assert f"({ADDRESS}/blob/HEAD/LICENSE)" in text


# --- Installed, with what it declares and nothing else ----------------------------------------


def needed(*names: str) -> set[str]:
    """These distributions and all that they require, here."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        found.add(name)
        for requirement in map(Requirement, distribution(name).requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return found


def link_to(name: str, folder: Path) -> None:
    """Make an installed distribution importable from another folder."""
    installed = distribution(name)
    for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
        place, link = Path(str(installed.locate_file(top))), folder / top
        if place.exists() and not link.exists():
            link.symlink_to(place)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's Python: the wheel, its declared dependencies, and theirs."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], folder)
    links = folder / "links"
    links.mkdir()
    required = map(Requirement, metadata_of(wheel).get_all("Requires-Dist", []))
    for name in needed(*(item.name for item in required if not item.marker)):
        link_to(name, links)
    (packages,) = (folder / "venv").rglob("site-packages")
    (packages / "needed.pth").write_text(f"{links}\n", encoding="utf-8")
    return python


def test_the_readme_runs_where_only_the_wheel_is_installed(
    python: Path, wheel: Path, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(description_of(metadata_of(wheel)), encoding="utf-8")
    code = (
        "import doctest, json, d2lattn, importlib.metadata, importlib.util\n"
        "options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE\n"
        "result = doctest.testfile('README.md', module_relative=False, optionflags=options)\n"
        "there = {m for m in ('matplotlib', 'IPython', 'pytest') if importlib.util.find_spec(m)}\n"
        "version = importlib.metadata.version('d2lattn')\n"
        "found = [*result, d2lattn.__file__, d2lattn.__version__ == version, *there]\n"
        "print(json.dumps(found))"
    )
    printed = run([python, "-I", "-c", code], tmp_path)
    failed, attempted, file, same_version, *there = json.loads(printed.splitlines()[-1])
    assert failed == 0, printed
    assert attempted > 5
    assert Path(file).is_relative_to(python.parents[1])  # not the checkout
    assert same_version
    assert there == []


def test_there_what_draws_says_what_to_install(python: Path, tmp_path: Path) -> None:
    code = (
        "import torch\nfrom d2lattn import notebook, plotting\n"
        "try: plotting.show_heatmaps(torch.eye(2))\n"
        "except ModuleNotFoundError as error: print(error)\n"
        "try: notebook.glue('answer', 42)\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    drawing, quoting = run([python, "-I", "-c", code], tmp_path).splitlines()
    assert re.match(r"matplotlib .*pip install 'd2lattn\[notebook\]'", drawing)
    assert re.match(r"IPython .*pip install 'd2lattn\[notebook\]'", quoting)
