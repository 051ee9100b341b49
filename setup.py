"""What the package says about itself that only the place of its publication knows: addresses.

GitHub Actions names the repository in the environment. Then the metadata link to it, and so do
the README's links and picture, which would lead nowhere on the page of a package index. A source
distribution keeps what it was built with, whoever builds a wheel from it later.
"""

import os
import re
from collections.abc import Mapping
from email import message_from_string
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def repository(environment: Mapping[str, str]) -> str:
    """The address of the repository, without a slash at its end; "" where nothing names one."""
    server = environment.get("GITHUB_SERVER_URL", "").strip().rstrip("/")
    name = environment.get("GITHUB_REPOSITORY", "").strip().strip("/")
    return f"{server}/{name}" if server and name else ""


def project_urls(environment: Mapping[str, str]) -> dict[str, str]:
    """The links of the metadata, by name; ``BOOK_URL`` is where the book is published."""
    source = repository(environment)
    book = environment.get("BOOK_URL", "").strip().rstrip("/")
    urls = {"Documentation": f"{book}/"} if book else {}
    if source:
        urls["Source"] = source
        urls["Issues"] = f"{source}/issues"
        urls["Changelog"] = f"{source}/blob/HEAD/CHANGELOG.md"
    return urls


def readme(text: str, environment: Mapping[str, str]) -> str:
    """The README with links to files of the repository, as they are at the tag, if there is one."""
    source = repository(environment)
    if not source:
        return text
    tagged = environment.get("GITHUB_REF_TYPE") == "tag"
    version = (tagged and environment.get("GITHUB_REF_NAME", "").strip()) or "HEAD"
    relative = r"(?![a-z]+:|[#/])"
    text = re.sub(rf'(<img src="){relative}', rf"\g<1>{source}/raw/{version}/", text)
    return re.sub(rf"(\]\(){relative}", rf"\g<1>{source}/blob/{version}/", text)


def metadata(environment: Mapping[str, str]) -> dict[str, object]:
    """Description and links: those of the source distribution, if this is one."""
    kept = HERE / "PKG-INFO"
    if kept.is_file():
        information = message_from_string(kept.read_text(encoding="utf-8"))
        description = information.get_payload()
        lines = information.get_all("Project-URL", [])
        urls = dict(line.split(", ", maxsplit=1) for line in lines)
    else:
        description = readme((HERE / "README.md").read_text(encoding="utf-8"), environment)
        urls = project_urls(environment)
    return {
        "long_description": description,
        "long_description_content_type": "text/markdown",
        "project_urls": urls,
    }


setup(**metadata(os.environ))
