"""The search: sections as results, found by what their prose says, with a sentence of it.

Sphinx's own search knows pages, shows a piece of code as soon as of prose, and wants every word
of a question on one page. Here each section, each term of the glossary and each name of the
reference is an entry with its words; `book/_search/search.js` ranks them. `book/_search/words.txt`
has what readers ask for in words that the book does not use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from editions import is_chinese
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.util import logging

logger = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parents[1] / "_search"
WORDS = {"exp", "log", "max", "min", "softmax", "tanh"}
SIGNS = {  # of TeX, in excerpts; other commands are left out
    "alpha": "α",
    "cdot": "·",
    "ge": "≥",
    "infty": "∞",
    "kappa": "κ",
    "le": "≤",
    "ll": "≪",
    "lVert": "‖",
    "rVert": "‖",
    "sigma": "σ",
    "sqrt": "√",
    "sum": "Σ",
    "times": "×",
    "to": "→",
    "top": "⊤",
    "varepsilon": "ε",
}
FOUND: dict[str, list[dict[str, Any]]] = {}  # by page
BEGIN = "_ready(Search.init);"
PARTS = (nodes.section, addnodes.desc, addnodes.glossary)  # entries themselves
LEFT_OUT = (
    *PARTS,
    addnodes.desc_signature,
    addnodes.index,
    nodes.comment,
    nodes.doctest_block,
    nodes.literal_block,
    nodes.math_block,
    nodes.title,
)


class Nothing(SearchEnglish):
    """Sphinx's own index, empty: nobody asks it. Its script for English is what ours stems with."""

    def split(self, text: str) -> list[str]:
        return []


class NothingInChinese(Nothing):
    lang, language_name = "zh", "Chinese"


def collect(app: Sphinx, name: str, template: str, context: Any, tree: Any) -> None:
    """Note what can be found on a page while it is written."""
    if tree is not None and app.builder.name == "html":
        FOUND[name] = list(entries(app, name, tree))


def entries(app: Sphinx, name: str, tree: nodes.document) -> Iterator[dict[str, Any]]:
    """What can be found on a page: its sections, the terms it explains, the names it documents."""
    numbers = app.env.toc_secnumbers.get(name, {})
    for node in tree.findall(nodes.section):
        ids = set(node["ids"])
        anchor = "" if isinstance(node.parent, nodes.document) else node["ids"][0]
        number = ".".join(map(str, numbers.get(f"#{node['ids'][0]}" if anchor else "", ())))
        title = said(node.next_node(nodes.title))
        yield {
            "title": f"{number}. {title}" if number else title,
            "anchor": anchor,
            "names": ids,
            "text": " ".join(prose(node)),
            # Found, but behind what it is an exercise in
            "drill": "exercises" in node.parent.get("ids", []),
        }
    for node in tree.findall(addnodes.desc):
        signature = node.next_node(addnodes.desc_signature)
        if node["domain"] == "py" and signature["ids"]:
            names = {signature["ids"][0]}
            title = signature["ids"][0]
            yield {"title": title, "anchor": title, "names": names, "text": " ".join(prose(node))}
    for node in tree.findall(addnodes.glossary):
        for item in node.findall(nodes.definition_list_item):
            # In Chinese an entry has its English term below, whose name both editions know.
            first, *others = item.findall(nodes.term)
            anchor, text = [first, *others][-1]["ids"][0], " ".join(prose(item))
            yield {"title": said(first), "anchor": anchor, "names": set(), "text": text}


def prose(node: nodes.Element) -> Iterator[str]:
    """The sentences of a section, without those of the sections in it, code and solutions."""
    folded = 0
    for part in node.children:
        if isinstance(part, nodes.raw):
            text = part.astext()
            # What a reader has not asked for yet
            folded += text.count('<details class="solution"') + text.count('<details class="hint"')
            folded -= text.count("</details>") if folded else 0
        elif folded or isinstance(part, LEFT_OUT) or not isinstance(part, nodes.Element):
            continue
        elif "cell_input" in part.get("classes", []) or "cell_output" in part.get("classes", []):
            yield from (said(caption) for caption in part.findall(nodes.caption))
        elif isinstance(part, nodes.paragraph | nodes.caption | nodes.term | nodes.rubric):
            yield said(part)
        elif isinstance(part, nodes.Element):
            yield from prose(part)


def said(node: nodes.Element) -> str:
    """Words, with formulas in letters."""
    pieces = []
    for part in node.findall(lambda n: isinstance(n, nodes.Text | nodes.math)):
        if isinstance(part, nodes.math):
            tex = re.sub(
                r"\\([A-Za-z]+) ?",
                lambda m: SIGNS.get(m[1], m[1] if m[1] in WORDS else ""),
                part.astext(),
            )
            pieces.append(re.sub(r"[\\{}$]|\s+(?=_)", "", tex))
        elif not isinstance(part.parent, nodes.math):
            pieces.append(part.astext())
    return " ".join("".join(pieces).split())


def other_words(chinese: bool = False) -> dict[str, str]:
    file = "words.zh.txt" if chinese else "words.txt"
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {name.strip(): words.strip() for name, _, words in pairs}


def write(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    more, found = other_words(is_chinese(app)), []
    for name in sorted(app.env.found_docs):
        page = ""
        if name not in FOUND:  # not written this time
            tree = app.env.get_and_resolve_doctree(name, app.builder)
            FOUND[name] = list(entries(app, name, tree))
        for entry in FOUND[name]:
            page = page or entry["title"]
            words = " ".join(more.pop(key, "") for key in sorted(entry["names"])).strip()
            where = page if entry["anchor"] else ""
            drill = "exercises" in entry["anchor"] or entry.get("drill", False)
            place = [f"{name}.html", entry["anchor"], entry["title"], where]
            found.append([*place, entry["text"], words, int(drill)])
    if app.env.found_docs >= {"book/glossary", "book/07-summary-and-questions"}:  # the whole book
        for name in more:
            logger.warning("no section has the name %r of _search/words*.txt", name)
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    tools = Path(app.outdir, "_static", "searchtools.js")
    script = tools.read_text(encoding="utf-8")
    if script.count(BEGIN) != 1:
        logger.warning("Sphinx's search does not begin as it did: %s", tools.name)
    script = script.replace(BEGIN, f"installBookSearch(Search);\n{BEGIN}")
    ours = (HERE / "search.js").read_text(encoding="utf-8")
    # In one file: a page of this book loads few.
    tools.write_text(f"window.bookEntries = {text};\n{ours}\n{script}", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    FOUND.clear()
    app.add_search_language(Nothing)
    app.add_search_language(NothingInChinese)
    app.connect("html-page-context", collect)
    app.connect("build-finished", write, priority=300)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": False}
