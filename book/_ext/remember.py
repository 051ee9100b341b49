"""What the build looks up for every reference, kept: a third of its time. And what it need not do.

For each numbered reference Sphinx reads the page that it leads to again from its pickle; for each
citation pybtex asks every installed package for plugins; for each listing of source the contents
beside it are made anew. Python goes again and again through all the trees of pages to see whether
one is not needed any more, and Matplotlib is imported for cards that the book has not.
"""

from __future__ import annotations

import gc
import posixpath
import sys
from functools import cache
from types import ModuleType
from typing import Any

import pybtex.plugin  # type: ignore[import-untyped]
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment

CONTENTS: dict[tuple[Any, ...], str] = {}  # beside the listings of a folder


class Reader:
    """An environment of which pages are only read, so that one copy serves all."""

    def __init__(self, env: BuildEnvironment) -> None:
        self._env = env
        self.get_doctree = cache(env.get_doctree)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


class Remembering(StandardDomain):
    """The domain of numbered references, which looks at the pages they lead to."""

    reader: Reader | None = None

    def resolve_xref(self, env: BuildEnvironment, *rest: Any) -> nodes.Element | None:
        if self.reader is None or self.reader._env is not env:
            self.reader = Reader(env)
        return super().resolve_xref(self.reader, *rest)  # type: ignore[arg-type]


def forget(app: Sphinx, env: BuildEnvironment) -> None:
    """Pages were read again."""
    env.get_domain("std").reader = None  # type: ignore[attr-defined]


def share_contents(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any
) -> None:
    """The listings of a folder, which the contents do not name, have the same beside them."""
    folder, make = posixpath.dirname(page), context.get("toctree")
    if not folder.startswith("_modules") or make is None:
        return

    def contents(**options: Any) -> str:
        key = folder, *sorted(options.items())
        if key not in CONTENTS:
            CONTENTS[key] = make(**options)
        return CONTENTS[key]

    context["toctree"] = contents


def without_cards() -> None:
    """What `sphinxext.opengraph` imports to draw cards, as it is without Matplotlib."""
    nothing = ModuleType("sphinxext.opengraph._social_cards")
    vars(nothing).update(DEFAULT_SOCIAL_CONFIG={}, create_social_card=None)
    sys.modules.setdefault(nothing.__name__, nothing)


def setup(app: Sphinx) -> dict[str, Any]:
    CONTENTS.clear()
    gc.set_threshold(200_000, 20, 100)
    without_cards()
    app.add_domain(Remembering, override=True)
    app.connect("env-updated", forget)
    app.connect("html-page-context", share_contents)
    if not hasattr(pybtex.plugin.find_plugin, "cache_info"):
        pybtex.plugin.find_plugin = cache(pybtex.plugin.find_plugin)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
