"""What a page asks of the network: one style sheet, one script, the icons it shows.

Runs over the finished pages. Style sheets and scripts that every page loads become one file
each; Font Awesome, 1.5 MB of script, becomes a font of the icons in use; images say how large
they are, so that nothing moves when they arrive; what nothing refers to is not published.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import posixpath
import re
import shutil
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from editions import is_chinese
from fontTools import subset
from fontTools.ttLib import TTFont
from interface import AROUND, ENGLISH, says
from sphinx.application import Sphinx

STYLE = re.compile(r'\s*<link[^>]*href="([^"]*?_static/)([^"?]+\.css)[^"]*"[^>]*>')
SCRIPT = re.compile(r'[ \t]*<script[^>]*src="([^"]*?_static/)([^"?]+\.js)[^"]*"[^>]*></script>\n?')
PRELOAD = re.compile(r'[ \t]*<link rel="preload" as="script"[^>]*>\n?')
PAGENAME = re.compile(r"\s*<script>DOCUMENTATION_OPTIONS\.pagename = [^<]*</script>")
IMAGE = re.compile(r'<img (?![^>]*\b(?:height|loading)=)[^>]*src="(?:\.\./)*_images/([^"]+)"[^>]*>')
ICON = re.compile(r'class="[^"]*\bfa[srb]?(?:-solid|-regular|-brands)? fa-([a-z-]+)[^"]*"')
MARK = re.compile(r'src="[^"]*_static/mark\.svg"')
IMPORT = re.compile(r'@import (?:url\()?"([^":]+)"\)?;')
RELATIVE = re.compile(r"url\(([\"']?)(?![\"'/#]|data:)")
ICON_RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"[^"]*"\}')
FACE = re.compile(r"@font-face\{[^}]*Font Awesome[^}]*\}")

# Light or dark is decided before the first paint; decided later, lines of code would move.
THEME = 'localStorage.getItem("theme") || "auto"'
THEME_NOW = (
    '(mode => mode !== "auto" ? mode : matchMedia("(prefers-color-scheme: dark)").matches '
    '? "dark" : "light")(document.documentElement.dataset.mode)'
)
# The logo is part of a landmark, as everything on a page should be.
SIDEBAR = 'id="pst-primary-sidebar" role="complementary" aria-label="{}"'
FOLDED = '<summary><span class="toctree-toggle"'  # beside an entry of the contents
AROUND_WORDS = re.compile(f'(?<=[">])({"|".join(AROUND)})(?=["<])')
EDIT = re.compile(r'(/edit/[^"]+)/book/([^"]+)\.(?:ipynb|md)"')  # words are elsewhere than code
# Left out: the icons as a script, and tabs, which no page has.
UNUSED = {"scripts/fontawesome.js", "design-tabs.js"}
EMBED = 2500  # bytes of a font that are less than what asking for a file costs
FORMULA_FACE = re.compile(
    r'@font-face[^{]*\{\s*font-family: ([\w-]+);[^}]*url\("(mathjax/[^"]+)"\)[^}]*\}'
)
CONTENT = re.compile(r'([^{}]*)\{[^{}]*?content: "([^"]*)"')
ROLE = re.compile(r"(?<=\.)TEX-\w+")
# What a character without a role of its own is drawn in; a bracket grows out of the last three
PLAIN = ("MJXTEX", "MJXTEX-S1", "MJXTEX-S4", "MJXTEX-A")
WEIGHTS = {"solid-900": ("Free", 900), "regular-400": ("Free", 400), "brands-400": ("Brands", 400)}


logging.getLogger("fontTools").setLevel(logging.ERROR)  # it tells of every table


def smaller(path: Path, codes: set[int], number: int = -1) -> bytes:
    """The font, of several in a file the one of this number, with these characters alone;
    unchanged if it has none of them."""
    font = TTFont(path, fontNumber=number, recalcTimestamp=False, recalcBBoxes=False)
    buffer = BytesIO()
    if not codes & font.getBestCmap().keys():
        return path.read_bytes()
    options = subset.Options(flavor="woff", layout_features=[], glyph_names=False)
    tool = subset.Subsetter(options)
    tool.populate(unicodes=codes)
    tool.subset(font)
    subset.save_font(font, buffer, options)
    return buffer.getvalue()


def embedded(font: bytes) -> str:
    return f"url(data:font/woff;base64,{base64.b64encode(font).decode()})"


def icon_font(css: str, folder: Path) -> str:
    """Font rules for the icons that the style sheet names."""
    codes = {int(code, 16) for code in re.findall(r'"\\(f[0-9a-f]{3})"', css)}
    codes |= {ord(char) for char in re.findall(r'"([\uf000-\uf8ff])"', css)}
    return "".join(
        f'@font-face{{font-family:"Font Awesome 6 {family}";font-weight:{weight};'
        f"src:{embedded(smaller(folder / f'fa-{file}.ttf', codes))}}}\n"
        for file, (family, weight) in WEIGHTS.items()
        if codes & TTFont(folder / f"fa-{file}.ttf").getBestCmap().keys()
    )


def characters(css: str) -> dict[str, set[int]]:
    """The characters that MathJax's style sheet draws in each of its font families."""
    drawn = dict[str, set[int]]()
    for selector, content in CONTENT.findall(css):
        role = ROLE.search(selector)
        codes = {int(code, 16) for code in re.findall(r"\\([0-9A-Fa-f]{2,5})", content)}
        codes |= {ord(char) for char in re.sub(r"\\[0-9A-Fa-f]+ ?", "", content)}
        for family in [f"MJX{role[0]}"] if role else PLAIN:
            drawn.setdefault(family, set()).update(codes)
    drawn["MJXZERO"] = set().union(*drawn.values())
    return drawn


def formula_styles(static: Path) -> str:
    """MathJax's style sheet, its fonts cut down to what the formulas draw in each of them."""
    css = (static / "mathjax.css").read_text(encoding="utf-8")
    drawn, kept = characters(css), set[Path]()

    def cut(face: re.Match[str]) -> str:
        path, codes = static / face[2], drawn.get(face[1], set())
        if not codes & TTFont(path).getBestCmap().keys() and face[1] != "MJXZERO":
            return ""
        font = smaller(path, codes)
        if len(font) < EMBED:
            return face[0].replace(f'url("{face[2]}")', embedded(font))
        path.write_bytes(font)
        kept.add(path)
        return face[0]

    css = FORMULA_FACE.sub(cut, css)
    for path in set((static / "mathjax").iterdir()) - kept:
        path.unlink()
    return css


def whole_sheet(name: str, static: Path) -> str:
    """A style sheet and those that it imports, the addresses in it as seen from ``static``."""
    text = (static / name).read_text(encoding="utf-8")
    folder, parts = posixpath.dirname(name), IMPORT.split(text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = whole_sheet(posixpath.normpath(posixpath.join(folder, part)), static)
        elif folder:
            parts[i] = RELATIVE.sub(rf"url(\1{folder}/", part)
    return re.sub(r"/\*# sourceMappingURL=.*?\*/", "", FACE.sub("", "".join(parts)))


def joined_styles(names: list[str], static: Path, used_icons: set[str]) -> str:
    css = ICON_RULE.sub(
        lambda rule: rule[0] if used_icons & set(re.findall(r"fa-([\w-]+)", rule[1])) else "",
        "\n".join(whole_sheet(name, static) for name in names),
    )
    return css + icon_font(css, static / "vendor" / "fontawesome" / "webfonts")


def joined_scripts(names: list[str], static: Path) -> str:
    texts = [(static / name).read_text(encoding="utf-8") for name in names]
    return "".join(";" + re.sub(r"//# sourceMappingURL=.*", "", text) + "\n" for text in texts)


def on_every_page(pattern: re.Pattern[str], pages: dict[Path, str]) -> list[str]:
    lists = [[name for _, name in pattern.findall(text)] for text in pages.values()]
    shared = set(lists[0]).intersection(*lists[1:]) - UNUSED
    return [name for name in dict.fromkeys(lists[0]) if name in shared]


def size_of(image: Path) -> tuple[float, float] | None:
    """Width and height of an SVG file in CSS pixels."""
    head = image.read_text(encoding="utf-8")[:2000] if image.suffix == ".svg" else ""
    tag = re.search(r"<svg[^>]*>", head)
    box = tag and re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', tag[0])
    if not tag or not box:
        return None
    points = 4 / 3 if re.search(r'width="[\d.]+pt"', tag[0]) else 1
    return float(box[1]) * points, float(box[2]) * points


def with_sizes(text: str, site: Path) -> str:
    """The page, its images with their sizes, all but the first fetched when they come near."""
    seen = 0

    def sized(match: re.Match[str]) -> str:
        nonlocal seen
        seen += 1
        size = size_of(site / "_images" / match[1])
        more = f' width="{size[0]:.0f}" height="{size[1]:.0f}"' if size else ""
        if seen > 1:
            more += ' loading="lazy" decoding="async"'
        return match[0].replace("<img ", f"<img{more} ", 1)

    return IMAGE.sub(sized, text)


@cache
def data_address(site: Path) -> str:
    """The mark beside the title, on every page, as an address that asks for nothing."""
    drawing = (site / "_static" / "mark.svg").read_bytes()
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"


def lean(
    text: str,
    site: Path,
    styles: set[str],
    scripts: set[str],
    stamp: dict[str, str],
    words: dict[str, str] = ENGLISH,
) -> str:
    done = set[str]()

    def bundled(match: re.Match[str], kind: str, tag: str) -> str:
        """The link to the bundle in place of its first part, nothing in place of the others."""
        if kind in done:
            return ""
        done.add(kind)
        return tag.format(f"{match[1]}book.{kind}?v={stamp[kind]}")

    def styled(match: re.Match[str]) -> str:
        if match[2] not in styles:
            return match[0]
        return bundled(match, "css", '\n<link rel="stylesheet" href="{}" />')

    def scripted(match: re.Match[str]) -> str:
        if match[2] in UNUSED:
            return ""
        if match[2] in scripts:
            return bundled(match, "js", '<script defer src="{}"></script>\n')
        return match[0] if "defer" in match[0] else match[0].replace("<script", "<script defer", 1)

    text = PAGENAME.sub("", PRELOAD.sub("", text))
    text = text.replace(
        FOLDED, FOLDED.replace("<summary>", f'<summary aria-label="{words["pages"]}">')
    )
    text = MARK.sub(lambda _: f'src="{data_address(site)}"', text)
    text = text.replace('<script src="searchindex.js"', '<script defer src="searchindex.js"')
    text = text.replace('id="pst-primary-sidebar"', SIDEBAR.format(words["book"]), 1).replace(
        THEME, THEME_NOW, 1
    )
    return with_sizes(SCRIPT.sub(scripted, STYLE.sub(styled, text)), site)


def finish(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name not in ("html", "dirhtml", "singlehtml"):
        return
    site = Path(app.outdir)
    static = site / "_static"
    found = (path for path in site.rglob("*.html") if "_static" not in path.parts)
    pages = {path: path.read_text(encoding="utf-8") for path in found}
    pages = {path: text for path, text in pages.items() if "data-content_root" in text}
    styles, scripts = on_every_page(STYLE, pages), on_every_page(SCRIPT, pages)
    used = {name for text in pages.values() for name in ICON.findall(text)} | {"xmark"}
    if (static / "mathjax.css").exists():
        (static / "mathjax.css").write_text(formula_styles(static), encoding="utf-8")
        styles.insert(styles.index("print.css"), "mathjax.css")
    bundle = {
        "css": joined_styles(styles, static, used),
        "js": joined_scripts(scripts, static),
    }
    stamp = {kind: hashlib.sha1(text.encode()).hexdigest()[:8] for kind, text in bundle.items()}
    for kind, text in bundle.items():
        (static / f"book.{kind}").write_text(text, encoding="utf-8")
    for path, text in pages.items():
        slim = lean(text, site, set(styles), set(scripts), stamp, says(app))
        if is_chinese(app):
            slim = AROUND_WORDS.sub(lambda said: AROUND[said[1]], slim)
            slim = EDIT.sub(r'\1/book/zh/\2.md"', slim)
        path.write_text(slim, encoding="utf-8")
    for name in {*styles, *scripts, *UNUSED}:
        (static / name).unlink(missing_ok=True)
    for rubbish in [*static.rglob("*.map"), *static.glob("*webpack-macros.html")]:
        rubbish.unlink()
    for folder in ("locales", "vendor"):
        shutil.rmtree(static / folder, ignore_errors=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", finish, priority=900)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
