"""The plain edition: each chapter as a notebook that needs no Sphinx to be read.

The page's own machinery says what a role, a link or a number is; what is left is Markdown as any
notebook program takes it. It is what the download button gives, and what `make notebooks` puts
into a folder.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any

import nbformat
from docutils import nodes
from docutils.utils import new_document
from edition import Voice, plain_cells
from editions import site_address, source
from interface import says
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import sphinx_domains
from words import FENCE

# What stands in Markdown, in the order in which it must be looked for
TOKEN = re.compile(
    r"""
    (?P<fence>^(?P<ticks>`{3,}|~{3,}|:{3,})(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=ticks)[ ]*$)
    | (?P<role>\{[\w:.+-]+\}(?P<quote>`+)(?:.+?)(?<!`)(?P=quote)(?!`))
    | (?P<code>(?<!`)(?P<run>`+)(?!`).+?(?<!`)(?P=run)(?!`))
    | (?P<display>^\$\$(?P<formula>.+?)\$\$(?:[ ]*\((?P<label>[\w:-]+)\))?[ ]*$)
    | (?P<inline>(?<![\\$])\$(?!\s)[^$\n]+?\$)
    | (?P<target>^\((?P<name>[\w-]+)\)=\n)
    | (?P<link>(?<!!)\[(?P<words>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<to>[^()\s]*)\))
    | \[(?P<span>[^\[\]]+)\]\{[^{}]*\}
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
OUTSIDE = re.compile(r"[a-z]+:")
OPTION = re.compile(r"^:(\w[\w-]*):[ ]*(.*)\n", re.MULTILINE)
HEADING = re.compile(r"^(#{1,6}) +(.+?)\s*$", re.MULTILINE)
BOXES = {"note", "tip", "hint", "important", "warning", "caution", "danger", "seealso", "attention"}


@dataclass
class Chapter:
    """A page of the book, and how to say in plain Markdown what stands on it."""

    app: Sphinx
    name: str  # book/01-…
    site: str  # where the pages are published, or nothing
    cells: list[Any]
    images: dict[str, Path] = field(default_factory=dict)
    cited: dict[str, None] = field(default_factory=dict)

    @cached_property
    def words(self) -> dict[str, str]:
        return says(self.app)

    @cached_property
    def answers(self) -> dict[str, nodes.Element]:
        """What Sphinx makes of each role and link of this chapter."""
        snippets = dict.fromkeys(snippet for text in self.texts() for snippet in asked(text))
        found = dict[str, nodes.Element]()
        env = self.app.env
        env.prepare_settings(self.name)
        document = new_document(env.doc2path(self.name), copy(self.tree.settings))
        parser = MystParser()
        parser.set_application(self.app)
        # Each in a paragraph of its own, behind a word, so that none of them is a block.
        with sphinx_domains(env):
            parser.parse("\n\n".join(f"x {snippet}" for snippet in snippets), document)
        env.apply_post_transforms(document, self.name)
        paragraphs = list(document.findall(nodes.paragraph))
        env.temp_data.clear()
        if len(paragraphs) != len(snippets):
            raise ExtensionError(f"{self.name}: {len(snippets)} roles, {len(paragraphs)} answers")
        for snippet, paragraph in zip(snippets, paragraphs, strict=True):
            first = paragraph[0]
            paragraph.replace(first, nodes.Text(first.astext().removeprefix("x ")))
            found[snippet] = paragraph
        return found

    @cached_property
    def tree(self) -> nodes.document:
        return self.app.env.get_doctree(self.name)

    @cached_property
    def headings(self) -> dict[str, str]:
        """The title of each section as this notebook writes it, by every name of the section."""
        found = dict[str, str]()
        text = "\n\n".join(FENCE.sub("", cell.source)
                           for cell in self.cells if cell.cell_type == "markdown")  # fmt: skip
        written = [match[2] for match in HEADING.finditer(text)]
        sections = list(self.tree.findall(nodes.section))
        if len(written) != len(sections):
            raise ExtensionError(f"{self.name}: {len(written)} titles, {len(sections)} sections")
        for title, section in zip(written, sections, strict=True):
            found.update(dict.fromkeys(section["ids"], title))
            found.update(dict.fromkeys(section["names"], title))
        return found

    def texts(self) -> Iterator[str]:
        for cell in self.cells:
            if cell.cell_type == "markdown":
                yield cell.source
            elif figure := cell.metadata.get("mystnb", {}).get("figure"):
                yield figure["caption"]
                yield f"{{numref}}`{figure['name']}`"

    def say(self, text: str) -> str:
        """Markdown of the book in plain Markdown."""
        return TOKEN.sub(self.plain, text).strip("\n")

    def plain(self, match: re.Match[str]) -> str:
        if match["fence"]:
            return self.block(match)
        if match["target"]:
            return ""
        if match["display"] and match["label"]:
            number = self.inline(self.answers[equation(match["label"])]).strip("()")
            return f"$${match['formula'].rstrip()}\n\\tag{{{number}}}\n$$"
        if match["role"] or (match["link"] and not OUTSIDE.match(match["to"])):
            return self.inline(self.answers[match[0]])
        if match["span"]:
            return match["span"]
        if match["link"]:
            return f"[{self.say(match['words'])}]({match['to']})"
        return match[0]

    def block(self, match: re.Match[str]) -> str:
        """A fenced block: code stays, a figure or a box is said in Markdown."""
        kind = re.fullmatch(r"\{([\w:-]+)\}\s*(.*?)\s*", match["info"])
        if not kind:
            return match[0]
        options = dict(OPTION.findall(match["body"]))
        body = OPTION.sub("", match["body"]).strip()
        if kind[1] in ("figure", "image"):
            path = Path(self.app.env.doc2path(self.name)).parent / kind[2]
            self.images[path.name] = path
            image = f"![{options.get('alt', '')}](attachment:{path.name})"
            caption = self.caption(options["name"], body) if body else ""
            return f"{image}\n\n{caption}".strip()
        if kind[1] in ("code-block", "code"):
            return f"```{kind[2]}\n{body}\n```"
        if kind[1] in BOXES or kind[1] == "admonition":
            title = self.say(kind[2]) or kind[1].capitalize()
            return "\n".join(
                f"> {line}".rstrip() for line in [f"**{title}**", "", *self.say(body).splitlines()]
            )
        raise ExtensionError(f"{self.name}: the plain edition cannot say {{{kind[1]}}}")

    def caption(self, name: str, text: str) -> str:
        number = self.inline(self.answers[f"{{numref}}`{name}`"])
        return f"**{number}.** {self.say(text)}"

    # What Sphinx answered, in Markdown

    def inline(self, node: nodes.Node) -> str:
        if isinstance(node, nodes.Text):
            return node.astext()
        inside = "".join(map(self.inline, node.children))
        if isinstance(node, nodes.literal):
            return f"`{node.astext()}`"
        if isinstance(node, nodes.math):
            return f"${node.astext()}$"
        if isinstance(node, nodes.emphasis | nodes.title_reference):
            return f"*{inside}*"
        if isinstance(node, nodes.strong):
            return f"**{inside}**"
        if isinstance(node, nodes.reference):
            address = self.address(node)
            return f"[{inside}]({address})" if address else inside
        if isinstance(node, nodes.inline | nodes.paragraph | nodes.abbreviation):
            return inside
        raise ExtensionError(f"{self.name}: the plain edition cannot say {node.tagname}: {node}")

    def address(self, node: nodes.reference) -> str:
        """Where a link leads from a notebook: within it, to the published pages, or nowhere."""
        uri = node.get("refuri", "")
        if OUTSIDE.match(uri):
            return uri
        page, _, anchor = uri.partition("#")
        anchor = node.get("refid", anchor)
        page = normpath(join(dirname(self.name), page)) if page else f"{self.name}.html"
        if page == f"{self.name}.html":
            title = self.headings.get(anchor)
            return in_notebook(title) if title else ""
        if page == self.bibliography:
            self.cited[anchor] = None
            return in_notebook(self.words["references"])
        if self.site:
            return f"{self.site}/{page}" + (f"#{anchor}" if anchor else "")
        notebook = Path(self.app.srcdir, page).with_suffix(".ipynb")
        return notebook.name if notebook.exists() else ""

    # At the end

    @cached_property
    def bibliography(self) -> str:
        """The page of the works that chapters cite."""
        domain: Any = self.app.env.get_domain("cite")
        return next((f"{key.docname}.html" for key in domain.bibliographies), "")

    def references(self) -> str:
        """The works that this chapter cites, each as the book's bibliography has it."""
        tree = finished(self.app, self.bibliography.removesuffix(".html"))
        entries = [
            "- " + self.inline(next(entry.findall(nodes.paragraph)))
            for entry in tree.findall(nodes.citation)
            if self.cited.keys() & set(entry["ids"])
        ]
        return "\n".join([f"## {self.words['references']}", "", *entries])


@cache
def finished(app: Sphinx, page: str) -> nodes.document:
    """A page with all that it refers to, made once for all chapters."""
    return app.env.get_and_resolve_doctree(page, app.builder)


def asked(text: str) -> Iterator[str]:
    """The roles and links of a text for which Sphinx must be asked."""
    for match in TOKEN.finditer(text):
        if match["fence"]:
            options = dict(OPTION.findall(match["body"]))
            if match["info"].startswith("{figure}"):
                yield f"{{numref}}`{options['name']}`"
            if match["info"].startswith("{"):
                yield from asked(OPTION.sub("", match["body"]))
        elif match["display"] and match["label"]:
            yield equation(match["label"])
        elif match["role"] or (match["link"] and not OUTSIDE.match(match["to"])):
            yield match[0]
        elif match["link"]:
            yield from asked(match["words"])


def equation(label: str) -> str:
    return f"{{eq}}`{label}`"


def in_notebook(title: str) -> str:
    """A link to a section by its title, as notebook programs name it; none for a formula's."""
    if "$" in title or "{" in title:
        return ""
    name = re.sub(r"[`*]", "", title).replace(" ", "-")
    return "#" + re.sub(r"[()<>%]", lambda sign: f"%{ord(sign[0]):02X}", name)


def requirement(environment: dict[str, str]) -> str:
    """What a notebook installs: the fork's own package, if it says where it is."""
    from house import repository_options

    options = repository_options(environment)
    if not options:
        return "d2lattn[notebook]"
    url, branch = options["repository_url"], options["repository_branch"]
    if url.startswith("https://github.com/"):  # which needs no git
        return f"d2lattn[notebook] @ {url}/archive/{branch}.zip"
    return f"d2lattn[notebook] @ git+{url}@{branch}"


def plain_notebook(app: Sphinx, name: str) -> nbformat.NotebookNode:
    """A chapter in the plain edition."""
    notebook = nbformat.reads(source(app, name), as_version=4)
    site = site_address(app.config.language)
    chapter = Chapter(app, name, site, notebook.cells)
    voice = Voice(
        say=chapter.say,
        caption=chapter.caption,
        words=chapter.words,
        page=f"{site}/{name}.html" if site else "",
        requirement=requirement(dict(os.environ)),
        language=app.config.language,
    )
    cells = plain_cells(notebook.cells, voice)
    for cell in cells:
        used = [image for image in chapter.images if f"(attachment:{image})" in cell.source]
        for image in used:
            data = base64.b64encode(chapter.images[image].read_bytes()).decode()
            cell.setdefault("attachments", {})[image] = {"image/svg+xml": data}
    number = ".".join(map(str, app.env.toc_secnumbers.get(name, {}).get("", ())))
    if number:
        title = next(cell for cell in cells if cell.cell_type == "markdown")
        title.source = re.sub(r"^# ", f"# {number}. ", title.source, count=1)
    if chapter.cited:
        cells.append(nbformat.v4.new_markdown_cell(chapter.references(), id="references"))
    plain = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    nbformat.validate(plain)
    return plain


def finish(app: Sphinx, error: Exception | None) -> None:
    """In place of the source, which is what the page's download button gives."""
    if error is not None or app.builder.name != "html":
        return
    for name in sorted(app.env.found_docs):
        kind = Path(app.env.doc2path(name)).suffix
        target = Path(app.outdir, "_sources", f"{name}{kind}")
        if kind == ".ipynb":
            nbformat.write(plain_notebook(app, name), target)
        else:
            target.write_text(source(app, name), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", finish, priority=300)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
