"""The Chinese edition: the same pages, code, outputs and numbers, with the words of `book/zh/`.

A second Sphinx builds it while the first builds the English pages, and what it makes becomes the
folder `zh` of the site. Both read the same sources; in one of them other words take their place.

    python book/_ext/editions.py FOLDER    writes the settings of the Chinese edition into a folder
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import yaml  # type: ignore[import-untyped]
from babel.messages.pofile import read_po
from docutils import nodes
from docutils.utils import new_document
from interface import CHINESE as CHINESE_WORDS
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from words import BOOK, FENCE, FOLDER, exchanged, kept, kept_in

logger = logging.getLogger(__name__)

SETTINGS = FOLDER / "config.yml"
CHINESE = "zh_CN"
LOCALE = BOOK.parent / "d2lattn" / "locale"
UNDER = "zh"  # where in the site


def is_chinese(app: Sphinx) -> bool:
    return bool(app.config.language == CHINESE)


def site_address(language: str = "en") -> str:
    """Where an edition is published, if the environment says it."""
    address = os.environ.get("BOOK_URL", "").strip().rstrip("/")
    return f"{address}/{UNDER}" if address and language == CHINESE else address


# Settings


def write_settings(folder: Path) -> list[str]:
    """Settings and contents of the Chinese edition, and the options that name them."""
    root, own = BOOK.parent, yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config = merged(config, own["config"])
    config["sphinx"]["local_extensions"] = {"house": str(BOOK / "_ext")}
    config["sphinx"]["config"]["extensions"].remove("sphinx.ext.viewcode")  # sources are English
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    for part in contents.get("parts", []):
        part["caption"] = own["captions"][part["caption"]]
    options = list[str]()
    for name, value in (("config", config), ("toc", contents)):
        path = (folder / f"_{name}.yml").resolve()
        path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
        options += [f"--{name}", str(path)]
    return options


def merged(settings: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Settings with others in their place, group by group."""
    result = dict(settings)
    for name, value in others.items():
        inner = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if inner else value
    return result


# Building both

CHILD: dict[str, subprocess.Popen[str]] = {}


def begin(app: Sphinx) -> None:
    if app.builder.name != "html" or not SETTINGS.exists():
        return
    folder = Path(app.outdir).parent / UNDER
    command = [
        *(sys.executable, "-c", "from jupyter_book.cli.main import main; main()"),
        *("build", str(app.srcdir), "--path-output", str(folder), "--keep-going", "--all"),
        *write_settings(folder),
    ]
    if app.config.nitpicky:
        command.append("-n")
    CHILD[str(app.outdir)] = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=BOOK.parent
    )


def join(app: Sphinx, error: Exception | None) -> None:
    """Wait for the Chinese pages and put them into the site."""
    child = CHILD.pop(str(app.outdir), None)
    if child is None:
        return
    if error is not None:
        child.kill()
        child.communicate()
        return
    _, said = child.communicate()
    for line in said.splitlines():
        if "WARNING" in line or "ERROR" in line:
            logger.warning("%s: %s", UNDER, line.strip())
    if child.returncode:
        raise ExtensionError(f"the Chinese edition cannot be built:\n{said[-4000:]}")
    site = Path(app.outdir, UNDER)
    Path(app.outdir).parent.joinpath(UNDER, "_build", "html").rename(site)
    (site / ".buildinfo").unlink()


# Other words


def source(app: Sphinx, name: str) -> str:
    """The source of a page in the language of this edition."""
    path = Path(app.env.doc2path(name))
    text = path.read_text(encoding="utf-8")
    return in_chinese(path.relative_to(BOOK), text) if is_chinese(app) else text


@cache
def in_chinese(page: Path, text: str) -> str:
    """A page with the words that `book/zh/` has for it, and verdicts as the package has them."""
    words = kept(page)

    def other(name: str, english: str) -> str:
        if name not in words:
            logger.warning("%s has no words for %s", kept_in(page), name)
            return english
        return words[name].text

    text = exchanged(page, text, other)
    return with_verdicts(text) if page.suffix == ".ipynb" else text


def with_verdicts(text: str) -> str:
    """A notebook whose folded cells are called, and whose checks answer, in Chinese."""
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        shown = cell.metadata.get("mystnb", {})
        for label in {"code_prompt_show", "code_prompt_hide"} & shown.keys():
            shown[label] = CHINESE_WORDS[shown[label]]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in {"text/markdown", "text/plain"} & data.keys():
                if data[kind].startswith(("✓", "✗", "○")):
                    data[kind] = verdict(data[kind])
    return nbformat.writes(notebook)


@cache
def catalogue() -> list[tuple[re.Pattern[str], str]]:
    """What the exercises say in English, as patterns, and in Chinese."""
    path = LOCALE / CHINESE / "LC_MESSAGES" / "d2lattn.po"
    if not path.exists():
        return []
    with path.open("rb") as file:
        messages = [m for m in read_po(file) if m.id and m.string]
    messages.sort(key=lambda message: -len(PLACE.sub("", str(message.id))))  # what says most, first
    return [(pattern_of(str(m.id)), str(m.string)) for m in messages]


PLACE = re.compile(r"\{(\w+)[^}]*\}")


def pattern_of(message: str) -> re.Pattern[str]:
    """The texts that a message becomes when its places are filled."""
    parts = PLACE.split(message)
    seen = set[str]()
    for i in range(1, len(parts), 2):
        name = parts[i]
        parts[i] = f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
        seen.add(name)
    return re.compile("".join(p if i % 2 else re.escape(p) for i, p in enumerate(parts)), re.DOTALL)


def verdict(text: str) -> str:
    """A stored verdict in Chinese: its mark, and what it says."""
    said = translated(text[2:])
    if said is None:
        logger.warning("the catalogue of the exercises does not have: %s", text)
    return f"{text[:2]}{said or text[2:]}"


def translated(text: str) -> str | None:
    """What a message is in Chinese, the sentences that fill its places included."""
    if not text.endswith((".", "?", "!", "”")):
        return None
    for pattern, chinese in catalogue():
        if match := pattern.fullmatch(text):
            places = {name: translated(part) or part for name, part in match.groupdict().items()}
            if places.get("message") in match.groups():  # a sentence that nobody translated
                return None
            return chinese.format(**places) if places else chinese
    return None


def exchange(app: Sphinx, name: str, content: list[str]) -> None:
    content[0] = in_chinese(Path(app.env.doc2path(name)).relative_to(BOOK), content[0])


class EnglishAnchors(SphinxTransform):
    """Sections are called as in English: what leads to one leads to it in both editions."""

    default_priority = 5  # before anything asks for a name

    def apply(self, **kwargs: Any) -> None:
        ours = list(self.document.findall(nodes.section))
        theirs = list(self.english().findall(nodes.section))
        if len(ours) != len(theirs):
            name = self.env.docname
            logger.warning("%s: %d sections, %d in English", name, len(ours), len(theirs))
            return
        slugs = self.env.metadata[self.env.docname].get("myst_slugs", {})
        renamed = {}
        for section in ours:
            self.document.ids.pop(section["ids"][0])
        for section, english in zip(ours, theirs, strict=True):
            anchor = english["ids"][0]
            section["ids"][0] = anchor
            self.document.ids[anchor] = section
            self.document.nameids.update(dict.fromkeys(section["names"], anchor))
            if "slug" in section:
                line, _, title = slugs[section["slug"]]
                section["slug"] = english["slug"]
                renamed[section["slug"]] = line, anchor, title
        slugs.clear()
        slugs.update(renamed)

    def english(self) -> nodes.document:
        """The titles of the English page, with the names that Sphinx gives them."""
        path = Path(self.env.doc2path(self.env.docname))
        texts = list[str]()

        def note(name: str, text: str) -> str:
            if not name.startswith(("caption", "alt")):
                texts.append(text)
            return text

        exchanged(path.relative_to(BOOK), path.read_text(encoding="utf-8"), note)
        about = self.env.metadata[self.env.docname]
        slugs = about.get("myst_slugs")
        document = new_document(str(path), copy(self.document.settings))
        parser = MystParser()
        parser.set_application(self.app)
        parser.parse("\n\n".join(titles("\n\n".join(texts))), document)
        if slugs is not None:
            about["myst_slugs"] = slugs
        return document


def titles(text: str) -> Iterator[str]:
    yield from (line for line in FENCE.sub("", text).splitlines() if line.startswith("#"))


# From one to the other


def other_edition(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any
) -> None:
    """The address of the same page in the other language, for the switch and for search engines."""
    if app.builder.name != "html" or not SETTINGS.exists() or page.startswith(("_modules", "404")):
        return
    here = f"{page}.html"
    up = "../" * page.count("/")
    address, chinese = site_address(), is_chinese(app)
    to = f"{up}../{here}" if chinese else f"{up}{UNDER}/{here}"
    context["other_edition"] = {
        "href": to,
        "lang": "en" if chinese else "zh-CN",
        "name": "English" if chinese else "中文",
        "title": "This page in English" if chinese else "本页中文版",
    }
    if tree is None:
        return
    places = {"en": f"{address}/{here}", "zh-CN": f"{address}/{UNDER}/{here}"}
    if not address:
        places = {
            "zh-CN" if chinese else "en": here.rpartition("/")[2],
            "en" if chinese else "zh-CN": to,
        }
    links = [("x-default", places["en"]), *places.items()]
    context["metatags"] = context.get("metatags", "") + "".join(
        f'<link rel="alternate" hreflang="{language}" href="{place}" />\n'
        for language, place in links
    )


def setup(app: Sphinx) -> dict[str, Any]:
    if is_chinese(app):
        app.connect("source-read", exchange, priority=100)
        app.add_transform(EnglishAnchors)
    else:
        app.connect("builder-inited", begin)
        app.connect("build-finished", join, priority=950)
    app.connect("html-page-context", other_edition)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    write_settings(Path(sys.argv[1]))
