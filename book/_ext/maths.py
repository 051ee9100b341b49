"""Formulas set when the book is built, by the MathJax that pages would otherwise load.

A page then needs no script for its formulas, nothing moves when they appear, and a book in EPUB
form gets them as MathML. Speech and braille come from the MathML that stands beside each one.
Queries, keys and values get a class each, and so the colour they have in prose and figures.
"""

from __future__ import annotations

import html
import re
import shutil
import unicodedata
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from py_mini_racer import MiniRacer
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number, wrap_displaymath

logger = logging.getLogger(__name__)

PARTS = (
    "loader",
    "core",
    "adaptors/liteDOM",
    "input/tex-full",
    "output/chtml",
    "output/chtml/fonts/tex",
    "a11y/assistive-mml",
)
PACKAGES = "['base', 'ams', 'boldsymbol', 'html', 'newcommand', 'textmacros']"
FONTS = "output/chtml/fonts/woff-v2"

# What browsers space otherwise than TeX: "logc" for log c, and the second bar of |u|.
APPLIED = re.compile(r'(<mo data-mjx-texclass="NONE")(>&#x2061;</mo>\s*<(?!mo|mrow [^>]*"OPEN"))')
BAR = re.compile(r'(<mo stretchy="false")(>\|</mo>)')

VARIANT = re.compile(r'<(mi)(?= )[^>]*mathvariant="(bold|double-struck|script)"[^>]*>([A-Z])<')

BEFORE = """
var MathJax = {loader: {load: []}, startup: {typeset: false}};
var console = {log() {}, warn() {}, error() {}};
"""
AFTER = f"""
var _ = MathJax._, adaptor = _.adaptors.liteAdaptor.liteAdaptor(), page;
_.a11y['assistive-mml'].AssistiveMmlHandler(_.handlers.html_ts.RegisterHTMLHandler(adaptor));
var output = new _.output.chtml_ts.CHTML({{
    font: new _.output.chtml.fonts.tex_ts.TeXFont({{fontURL: 'mathjax'}})}});
var writer = new _.core.MmlTree.SerializedMmlVisitor.SerializedMmlVisitor();
function open() {{
    var input = new _.input.tex_ts.TeX({{packages: {PACKAGES}}});
    input.postFilters.add(colour);
    page = _.mathjax.mathjax.document('', {{InputJax: input, OutputJax: output}});
    return true;
}}
function typeset(tex, display) {{
    return adaptor.outerHTML(page.convert(tex, {{display: display, em: 16, ex: 8}}));
}}
function mathml(tex, display) {{
    var stop = _.core.MathItem.STATE.CONVERT;
    return writer.visitTree(page.convert(tex, {{display: display, end: stop}}));
}}
function styles() {{ return adaptor.textContent(output.styleSheet(page)); }}
"""

# A query, a key or a value, alone or as a matrix, but not as an index: the k of a sum, W_q.
ROLES = """
var ROLES = {q: 'query', k: 'key', v: 'value', Q: 'query', K: 'key', V: 'value'};
function isIndex(node) {
    return node.parent && (node.parent.childIndex(node) === node.parent.sub
        || node.parent.childIndex(node) === node.parent.under || isIndex(node.parent));
}
function colour(set) {
    set.data.root.walkTree(function (node) {
        if (!node.isKind('mi')) return;
        var letter = node.getText(), bold = node.attributes.get('mathvariant') === 'bold';
        var role = bold === (letter < 'a') && ROLES[letter];
        if (role && !isIndex(node)) node.attributes.set('class', role);
    });
}
"""


class Typesetter:
    """MathJax in a JavaScript engine of its own. It remembers which characters it has set.

    What a page defines, with ``\\newcommand`` or otherwise, holds on that page alone.
    """

    page: str | None = None

    def __init__(self) -> None:
        self.source = Path(str(files("sphinx-mathjax-offline"))) / "static" / "mathjax"
        self.engine = MiniRacer()
        self.engine.eval(BEFORE)
        for part in PARTS:
            self.engine.eval((self.source / f"{part}.js").read_text(encoding="utf-8"))
        self.engine.eval(ROLES)
        self.engine.eval(AFTER)
        self.html = cache(lambda tex, display: self._call("typeset", tex, display))
        self.mathml = cache(lambda tex, display: self._call("mathml", tex, display))
        self.turn_to("")

    def turn_to(self, page: str) -> None:
        """Forget what the page before has defined."""
        if page != self.page:
            self.page = page
            self._call("open")
            self.html.cache_clear()
            self.mathml.cache_clear()

    def portable(self, tex: str, display: bool) -> str:
        """MathML for readers of every kind, its letters as such: browsers know no ``mathvariant``
        but "normal", and would set an expectation as a variable."""
        formula = VARIANT.sub(letter, self.mathml(tex, display))
        formula = APPLIED.sub(r'\1 rspace="0.167em"\2', formula)
        return BAR.sub(r'\1 lspace="0em" rspace="0em"\2', formula)

    def _call(self, name: str, *arguments: Any) -> str:
        return str(self.engine.call(name, *arguments))

    def styles(self) -> str:
        """The style sheet of every formula set so far; fonts are in the folder ``mathjax``."""
        return self._call("styles")

    def close(self) -> None:
        self.engine.close()


WORDS = {"msub": "{} sub {}", "msup": "{} to the {}", "mfrac": "{} over {}", "msqrt": "root of {}"}
NAMES = {"−": "minus", "‖": "double bar"}


def spoken(mathml: str) -> str:
    """A short formula in words, where a name is looked for and MathML is none: "k sub 1"."""

    def say(node: ElementTree.Element) -> str:
        text = (node.text or "").strip()
        parts = [word for word in [NAMES.get(text, text), *map(say, node)] if word]
        form = WORDS.get(node.tag.rpartition("}")[2])
        words = form.format(*parts) if form and form.count("{}") == len(parts) else " ".join(parts)
        return words.replace("to the ⊤", "transposed").replace("to the 2", "squared")

    return say(ElementTree.fromstring(mathml))


def letter(match: re.Match[str]) -> str:
    """A letter of a certain kind as a character of its own, such as ℝ, with its class."""
    role = re.search(r' class="\w+"', match[0])
    start = f"<{match[1]}{role[0] if role else ''}>"
    name = f"{match[2].upper()} CAPITAL {match[3]}"
    for prefix in ("", "MATHEMATICAL "):
        try:
            return f"{start}{unicodedata.lookup(prefix + name)}<"
        except KeyError:
            continue
    return match[0]


def set_formula(translator: Any, node: nodes.Node, tex: str, display: bool) -> str:
    app = translator.builder.app
    if not hasattr(app, "typesetter"):
        app.typesetter = Typesetter()
    app.typesetter.turn_to(translator.docnames[-1])
    if app.builder.name == "epub":  # and its source, for readers that show no MathML
        said = html.escape(" ".join(node.astext().split()))
        formula = app.typesetter.portable(tex, display)
        formula = formula.replace("<math ", f'<math alttext="{said}" ', 1)
    else:
        formula = app.typesetter.html(tex, display)
    if "<merror" in formula or "<mjx-merror" in formula:
        logger.warning("this formula cannot be set: %s", tex, location=node)
    return formula


def visit_math(self: Any, node: nodes.math) -> None:
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(set_formula(self, node, node.astext(), False) + "</span>")
    raise nodes.SkipNode


def visit_math_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        number = html.escape(get_node_equation_number(self, node))
        self.body.append(f'<span class="eqno">({number})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    tex = node.astext()
    tex = tex if node["nowrap"] else wrap_displaymath(tex, "", False)
    self.body.append(set_formula(self, node, tex, True) + "</div>\n")
    raise nodes.SkipNode


class StayTogether(SphinxPostTransform):
    """A formula and the comma behind it, or the bracket before it, stay on one line."""

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.math)):
            before = _cut(node, -1, r"[(\[“‘（《]+$")
            behind = _cut(node, 1, r"[,.;:?!)\]’”…，。、；：？！）》-]+")
            if before or behind:
                together = nodes.inline(classes=["together"])
                node.replace_self(together)
                together += [*before, node, *behind]


def _cut(node: nodes.math, step: int, pattern: str) -> list[nodes.Text]:
    """What the text beside a formula has of the pattern, taken away from that text."""
    siblings = node.parent.children
    place = siblings.index(node) + step
    text = siblings[place] if 0 <= place < len(siblings) else None
    if not isinstance(text, nodes.Text):
        return []
    found = (re.search if step < 0 else re.match)(pattern, text)
    if not found:
        return []
    rest = text[: found.start()] if step < 0 else text[found.end() :]
    node.parent.replace(text, [nodes.Text(rest)] if rest else [])
    return [nodes.Text(found.group())]


def finish(app: Sphinx, error: Exception | None) -> None:
    typesetter = getattr(app, "typesetter", None)
    if typesetter is None:
        return
    if error is None and app.builder.format == "html" and app.builder.name != "epub":
        static = Path(app.outdir, "_static")
        shutil.copytree(typesetter.source / FONTS, static / "mathjax", dirs_exist_ok=True)
        (static / "mathjax.css").write_text(typesetter.styles(), encoding="utf-8")
    typesetter.close()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("typeset", (visit_math, None), (visit_math_block, None))
    app.config.html_math_renderer = "typeset"
    app.add_post_transform(StayTogether)
    app.connect("build-finished", finish, priority=400)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": False}
