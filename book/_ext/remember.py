"""What the build looks up for every reference, kept: a third of its time.

For each numbered reference Sphinx reads the page that it leads to again from its pickle; for each
citation pybtex asks every installed package for plugins.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pybtex.plugin  # type: ignore[import-untyped]
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment


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


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_domain(Remembering, override=True)
    app.connect("env-updated", forget)
    if not hasattr(pybtex.plugin.find_plugin, "cache_info"):
        pybtex.plugin.find_plugin = cache(pybtex.plugin.find_plugin)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
