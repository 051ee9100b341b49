"""The book for electronic readers, as their specification wants it, and for paper, on one page.

Sphinx's EPUB builder leaves sections out of the contents when a table of contents shows titles
only, says nowhere that there are formulas, and links styles that it does not pack. On one page it
takes links to two sections of the same name for one; `make pdf` tells them apart.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from editions import is_chinese
from fontTools.ttLib import TTCollection
from interface import says
from lean import smaller
from sphinx.application import Sphinx
from sphinx.builders.epub3 import Epub3Builder
from sphinx.builders.singlehtml import SingleFileHTMLBuilder
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Chinese characters for readers that have none; where Debian's fonts-noto-cjk has them
HAN_FONT = Path("/usr/share/fonts/opentype/noto/NotoSerifCJK-Regular.ttc")
HAN_NAME = "Noto Serif CJK SC"
HAN = re.compile("[\u2014-\u2026\u3000-\u303f\u3400-\u9fff\uff00-\uffef]")
HAN_STYLE = """
@font-face { font-family: "Book Han"; src: url(han.woff); }
body { font-family: "Book Han", serif; }
em, cite, i { font-style: normal; font-weight: bold; }
p, li, dd { line-height: 1.7; text-align: justify; }
"""
PACKED = {"pygments.css", "epub.css", "mark.svg"}  # of _static

INERT = re.compile(r'<script type="application/json">.*?</script>', re.DOTALL)
SUMMARY = re.compile(r"<summary([^>]*)>\s*<p[^>]*>(.*?)</p>.*?</summary>", re.DOTALL)
IMAGE_ID = re.compile(r' id="(image\w+)"')
DOCTYPE = re.compile(r"<!DOCTYPE[^>]*>\s*")
EMPTY_PATH = re.compile(r"<path((?:\s(?!d=)[\w:-]+=\"[^\"]*\")*)\s*/>")


def plain(body: str) -> str:
    """A page's HTML without what no reader of such books can use, or may hold."""
    return SUMMARY.sub(r"<summary\1>\2</summary>", INERT.sub("", body))


def valid(drawing: str) -> str:
    """An SVG as EPUB takes it: without the DOCTYPE that Matplotlib writes, and without the ids
    that it gives to every copy of an image; a space, which is a path of nothing, says so."""
    drawing = EMPTY_PATH.sub(r'<path\1 d="M0 0"/>', DOCTYPE.sub("", drawing, count=1))
    return IMAGE_ID.sub(lambda match: match[0] if f"#{match[1]}" in drawing else "", drawing)


class Book(Epub3Builder):  # type: ignore[misc, unused-ignore]
    def get_toc(self) -> None:
        super().get_toc()
        self.refnodes = [entry for page in self.refnodes for entry in self.with_sections(page)]

    def build_navigation_doc(self) -> None:
        if self.use_index:  # now, as Sphinx has put it at the end of the book by itself
            index, text = "genindex" + self.out_suffix, says(self.app)["index"]
            self.refnodes.append({"level": 1, "refuri": index, "text": text})
        super().build_navigation_doc()

    def with_sections(self, page: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The entry of a page, with its number as on the page itself, and those of its sections."""
        name = page["refuri"].removesuffix(self.out_suffix)
        numbers = self.env.toc_secnumbers.get(name, {})

        def numbered(anchor: str, text: str) -> str:
            number = numbers.get(anchor) or (() if anchor else numbers.get("", ()))
            return html.escape(f"{'.'.join(map(str, number))}. {text}" if number else text)

        yield {**page, "text": numbered("", html.unescape(page["text"]))}
        if name == self.config.root_doc:
            return
        for item in self.env.tocs[name].findall(nodes.reference):
            anchor = item.get("anchorname", "")
            if anchor and depth(item) == 2:
                address = page["refuri"] + self.fix_fragment("", anchor)
                text = numbered(anchor, in_letters(item))
                yield {"level": page["level"] + 1, "refuri": address, "text": text}

    def build_content(self) -> None:
        out = Path(self.outdir)
        for drawing in (out / self.imagedir).glob("*.svg"):
            text = drawing.read_text(encoding="utf-8")
            drawing.write_text(valid(text), encoding="utf-8")
        for path in (out / "_static").rglob("*"):
            if path.is_file() and path.name not in PACKED:
                path.unlink()
        if is_chinese(self.app):
            self.embed_characters()
        # Of an earlier build here; Sphinx would list it twice.
        (out / self.coverpage_name).unlink(missing_ok=True)
        super().build_content()
        package = out / "content.opf"
        text = package.read_text(encoding="utf-8")
        package.write_text(re.sub(r'<item id="\S+" href="([^"]+)"', self.item, text), "utf-8")

    def embed_characters(self) -> None:
        """The Chinese characters that the book uses, as a font of its own."""
        out = Path(self.outdir)
        if not HAN_FONT.exists():
            logger.info("no %s here: the EPUB goes without a font for Chinese", HAN_FONT.name)
            return
        texts = [path.read_text(encoding="utf-8") for path in out.rglob("*.xhtml")]
        used = {ord(sign) for text in texts for sign in HAN.findall(text)}
        names = [font["name"].getDebugName(4) for font in TTCollection(HAN_FONT, lazy=True).fonts]
        font = smaller(HAN_FONT, used, names.index(HAN_NAME))
        (out / "_static" / "han.woff").write_bytes(font)
        sheet = out / "_static" / "epub.css"
        sheet.write_text(sheet.read_text(encoding="utf-8") + HAN_STYLE, encoding="utf-8")

    def item(self, match: re.Match[str]) -> str:
        """The entry of a file, with what a reader must know before it opens it."""
        path = Path(self.outdir, match[1])
        if path.name == Path(self.config.epub_cover[0]).name:
            return f'{match[0]} properties="cover-image"'
        page = path.suffix == ".xhtml" and path.exists()  # Sphinx has yet to write nav.xhtml
        formulas = page and "<math" in path.read_text(encoding="utf-8")
        return f'{match[0]} properties="mathml"' if formulas else match[0]

    def toc_metadata(self, level: int, navpoints: list[Any]) -> dict[str, Any]:
        return {**super().toc_metadata(level, navpoints), "uid": self.config.epub_identifier}


class OnePage(SingleFileHTMLBuilder):  # type: ignore[misc, unused-ignore]
    def fix_refuris(self, tree: nodes.Node) -> None:
        """Links keep the name of the page that they led to, as in ``#document-book/api#name``."""


def in_letters(title: nodes.Element) -> str:
    """A title for the contents, which hold no formula: 1/√d is all that one of them has."""
    title = title.deepcopy()
    for formula in list(title.findall(nodes.math)):
        formula.replace_self(nodes.Text(formula.astext().replace("\\sqrt ", "√")))
    return title.astext()


def depth(item: nodes.Element) -> int:
    """How many lists of the contents an entry stands in."""
    lists = 0
    while item.parent is not None:
        item = item.parent
        lists += isinstance(item, nodes.bullet_list)
    return lists


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if app.builder.name != "epub":
        return
    if "body" in context:
        context["body"] = plain(context["body"])
    sheets = {str(sheet.filename): sheet for sheet in context["css_files"]}
    context["css_files"] = [sheets["_static/epub.css"]]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_builder(Book, override=True)
    app.add_builder(OnePage, override=True)
    app.connect("html-page-context", mend, priority=900)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
