"""What this book asks of Sphinx beyond its settings: links to the fork it was built
from, and labels that say what they label. `maths` and `lean`, beside it, do the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


def repository_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """Theme options for links to the repository that the environment names.

    ``BOOK_REPOSITORY_URL`` is the page a reader would open, such as
    ``https://github.com/somebody/book``; ``BOOK_REPOSITORY_BRANCH`` defaults to
    ``main``. Without an address there are no links.
    """
    url = environment.get("BOOK_REPOSITORY_URL", "").strip().rstrip("/").removesuffix(".git")
    if not url:
        return {}
    return {
        "repository_url": url,
        "repository_branch": environment.get("BOOK_REPOSITORY_BRANCH", "").strip() or "main",
        "use_repository_button": True,
        "use_source_button": True,
        "use_edit_page_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    }


def mended(body: str) -> str:
    """A page's HTML with what the writers cannot say in Markdown.

    A folded cell is called what it shows ("Show code cell source"), not "Toggle hidden
    content"; Chinese words say that they are Chinese, for the choice of font and voice.
    """
    body = body.replace(' aria-label="Toggle hidden content"', "")
    return body.replace('<span class="zh">', '<span class="zh" lang="zh-Hans">')


def fill_in_repository(app: Sphinx, config: Config) -> None:
    config.html_theme_options.update(repository_options(os.environ))


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        context["body"] = mended(context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("maths")
    app.setup_extension("lean")
    app.config.epub_cover = ("_static/mark.svg", "epub-cover.html")  # a tuple: not for _config.yml
    app.connect("config-inited", fill_in_repository)
    app.connect("html-page-context", mend)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
