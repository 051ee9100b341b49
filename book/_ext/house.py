"""What this book asks of Sphinx beyond its settings: links to the fork it was built
from, formulas without anybody else's server, laboratories where a chapter placed them,
and labels that say what they label."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

# All that pages load: 4.7 of the 27 MB that the package holds.
MATHJAX_PARTS = ("tex-chtml.js", "input", "output")

# Not in _static, whose scripts Jupyter Book loads on every page.
LABS = Path(__file__).resolve().parents[1] / "_labs"


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


def labs_on(body: str) -> list[str]:
    """The laboratories that a page holds, in order; see ``d2lattn.notebook.show_lab``."""
    return list(dict.fromkeys(re.findall(r'<div class="lab" data-lab="([\w-]+)"', body)))


def add_labs(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """A page loads the scripts of its own laboratories, after what they share."""
    names = labs_on(context.get("body", ""))
    if not names or app.builder.name == "epub":  # whose readers run no scripts
        return
    app.add_css_file("labs/labs.css")
    for name in ["shared", *names]:
        app.add_js_file(f"labs/{name}.js", loading_method="defer")


def copy_labs(app: Sphinx) -> None:
    """Before pages are written, so that their addresses carry a checksum."""
    if app.builder.format == "html" and app.builder.name != "epub":
        shutil.copytree(LABS, Path(app.outdir, "_static", "labs"), dirs_exist_ok=True)


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    source = Path(str(files("sphinx-mathjax-offline"))) / "static" / "mathjax"
    target = Path(app.outdir, "_static", "mathjax")
    target.mkdir(parents=True, exist_ok=True)
    for part in MATHJAX_PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, target / part)


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.mathjax")
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("config-inited", fill_in_repository)
    app.connect("builder-inited", copy_labs)
    app.connect("html-page-context", mend)
    app.connect("html-page-context", add_labs)
    app.connect("build-finished", copy_mathjax)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
