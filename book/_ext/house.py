"""What this book asks of Sphinx beyond its settings: links to the fork it was built
from, laboratories where a chapter placed them, and labels that say what they label. `maths`,
`lean` and `ebook`, beside it, do the rest."""

from __future__ import annotations

import html
import os
import re
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from editions import is_chinese, site_address
from interface import A_MINUTE, says
from maths import spoken
from sphinx.application import ENV_PICKLE_FILENAME, Sphinx
from sphinx.config import Config

# Not in _static, whose scripts Jupyter Book loads on every page.
LABS = Path(__file__).resolve().parents[1] / "_labs"
DOWNLOADS = LABS.parents[1] / "_build" / "downloads"  # as the Makefile has it


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
    }


def mended(body: str, english: bool = True) -> str:
    """A page's HTML with what the writers cannot say in Markdown, or say wrongly.

    A folded cell is called what it shows ("Show code cell source"), not "Toggle hidden
    content"; Chinese words say that they are Chinese, for the choice of font and voice; an
    empty corner of a table is no heading, and a formula alone is one that has a name; the works
    of a bibliography are items of a list, and the arguments of a long signature are not a list of
    definitions. Glued numbers are written as in print.
    """
    body = body.replace(' aria-label="Toggle hidden content"', "")
    if english:
        body = CHINESE.sub(lambda part: part[1] or f'<span lang="zh-Hans">{part[2]}</span>', body)
        body = body.replace('<span class="zh">', '<span class="zh" lang="zh-Hans">')
    else:  # the documentation of the package is English, under Chinese names of its parts
        body = body.replace('<dl class="py ', '<dl lang="en" class="py ')
        body = body.replace('<dt class="field-', '<dt lang="zh-CN" class="field-')
        body = re.sub(r'(?<=<dt lang="zh-CN" class="field-)(\w+">)Type<', r"\1类型<", body)
    body = re.sub(r'<th class="([^"]*)">(?:\s*<p>\s*</p>)?\s*</th>', r'<td class="\1"></td>', body)
    body = re.sub(r"<th\b.*?</th>", named, body, flags=re.DOTALL)
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    body = GLUED.sub(lambda part: part[1] + in_print(part[2]), body)
    return SIGNATURE.sub(lambda lines: re.sub(r"</?d[ld]>", as_span, lines[0]), body)


def named(heading: re.Match[str]) -> str:
    """The heading of a table; if a formula is all that it holds, the formula in words too."""
    words = re.sub(r"<mjx-container.*?</mjx-container>|<[^>]*>", "", heading[0], flags=re.DOTALL)
    if words.strip():
        return heading[0]
    return re.sub(
        r"<math\b(.*?</math>)",
        lambda formula: f'<math aria-label="{html.escape(spoken(formula[0]))}"{formula[1]}',
        heading[0],
        flags=re.DOTALL,
    )


def in_print(number: str) -> str:
    """A number that code has written, with a true minus sign and powers of ten."""
    number = re.sub(
        r"e([-+])0*(\d+)", lambda power: f" · 10<sup>{power[1].strip('+')}{power[2]}</sup>", number
    )
    return re.sub(r"-(?=\d)", "\N{MINUS SIGN}", number)


HAN = "[\u4e00-\u9fff]"
GLUED = re.compile(r'(<span class="pasted-text">)([-+.\de]+)(?=</span>)')
# A tag or what is known to be Chinese; other Chinese words
CHINESE = re.compile(r'(<span class="zh">.*?</span>|<[^>]*>)|([\u4e00-\u9fff]+)', re.DOTALL)
SIGNATURE = re.compile(r"<dl>\s*<dd>.*?</dl>", re.DOTALL)


def as_span(tag: re.Match[str]) -> str:
    return {"<dd>": '<span class="sig-line">', "</dd>": "</span>"}.get(tag[0], "")


# Figures are drawn in dark ink on nothing. On a dark page house.css turns them round with these
# four columns, which send red, green, blue and one to the new red, green and blue: white becomes
# the page and ink becomes light, while red stays red and every role its colour.
DARK = """<svg width="0" height="0" aria-hidden="true" style="position: absolute">
<filter id="house-dark" color-interpolation-filters="sRGB"><feColorMatrix values="
 0.05 -0.62 -0.35 0 0.99
-0.77  0.30 -0.45 0 0.98
-0.75 -0.57  0.40 0 0.98
 0     0     0    1 0" /></filter></svg>
"""


def about(minutes: float, notebook: str, elsewhere: dict[str, str], words: dict[str, str]) -> str:
    """The line under a chapter's title: how long it takes to read, how to run it."""
    ways = [
        words["reading"].format(max(1, round(minutes))),
        f'<a href="{notebook}" download>{words["download"]}</a>',
        *(
            f'<a href="{address}">{words["run on"].format(name)}</a>'
            for name, address in elsewhere.items()
        ),
        f'<a href="index.html#how-to-run-it">{words["run at home"]}</a>',
    ]
    return f'<p class="house-meta">{" · ".join(filter(None, ways))}</p>'


def offers(first: str, downloads: list[str], words: dict[str, str]) -> str:
    """The way into the book, and the forms in which it can be taken along."""
    ways = [f'<li><a href="{first}">{words["begin"]}</a></li>'] + [
        f'<li><a href="../downloads/{name}" download>{Path(name).suffix[1:].upper()}</a></li>'
        for name in downloads
    ]
    return f'<ul class="house-downloads">{"".join(ways)}</ul>'


def downloads(chinese: bool = False) -> list[Path]:
    """This edition in other forms, if `make epub` and `make pdf` have made them."""
    folder = os.environ.get("BOOK_DOWNLOADS") or DOWNLOADS
    found = [path for kind in ("pdf", "epub") for path in sorted(Path(folder).glob(f"*.{kind}"))]
    return [path for path in found if (".zh-CN" in path.suffixes) == chinese]


def begin_anew(app: Sphinx) -> None:
    """Forget an earlier build, whatever command made it, before Sphinx looks for it.

    Nothing of one may be kept: numbers that a page quotes from another would be old, and pages
    that `lean` has gone over have lost what it looks for. Hidden files, such as a branch's
    ``.git``, stay, and so does a folder that Sphinx has not made. ``BOOK_WAS_READ`` says that the
    same pages were read there a moment ago, for another form, and need not be read again.
    """
    if "BOOK_WAS_READ" not in os.environ:
        Path(app.doctreedir, ENV_PICKLE_FILENAME).unlink(missing_ok=True)
    made_by_sphinx = Path(app.outdir, ".buildinfo")
    if not made_by_sphinx.exists():
        return
    made_by_sphinx.unlink()
    for path in Path(app.outdir).iterdir():
        if path.is_dir() and not path.name.startswith("."):
            shutil.rmtree(path)
        elif not path.name.startswith("."):
            path.unlink()


def fill_in(app: Sphinx, config: Config) -> None:
    """What only the environment knows: the repository, and the address of the published site."""
    config.html_theme_options.update(repository_options(os.environ))
    address = site_address(config.language)
    config.notfound_urls_prefix = urlsplit(address).path.rstrip("/") + "/"
    config.ogp_site_url = f"{address}/" if address else ""
    config.ogp_image = f"{site_address()}/_static/social.png" if address else None
    if address:
        config.html_baseurl = f"{address}/"
        config.sitemap_url_scheme = "{link}"
        config.sitemap_excludes = ["404.html", "genindex.html", "search.html", "index.html"]


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" not in context:
        return
    body, words = mended(context["body"], not is_chinese(app)), says(app)
    if app.builder.name == "html" and doctree is not None:
        line = ""
        if page == app.config.root_doc:
            first = app.env.toctree_includes[page][0].rpartition("/")[2] + ".html"
            line = offers(first, [path.name for path in downloads(is_chinese(app))], words)
            body = body.replace("<figure", line + "\n<figure", 1)
        elif re.search(r"/\d\d-", page):
            text = " ".join(node.astext() for node in doctree.findall(nodes.paragraph))
            units = len(re.findall(HAN, text)) if is_chinese(app) else len(text.split())
            minutes, notebook = units / A_MINUTE[app.config.language], f"../_sources/{page}.ipynb"
            line = about(minutes, notebook, elsewhere(page), words)
            body = body.replace("</h1>", f"</h1>\n{line}", 1)
        if "house-figure" in body:
            body += DARK
    context["body"] = body


# The branch that `.github/workflows/pages.yml` fills with the plain edition
NOTEBOOKS = "notebooks"


def elsewhere(page: str) -> dict[str, str]:
    """Where a chapter runs on somebody else's computer; nowhere if its repository is unknown."""
    options = repository_options(os.environ)
    owner = re.fullmatch(r"https://github\.com/([^/]+/[^/]+)", options.get("repository_url", ""))
    if not owner:
        return {}
    file = f"{page.rpartition('/')[2]}.ipynb"
    return {
        "Binder": f"https://mybinder.org/v2/gh/{owner[1]}/{NOTEBOOKS}?urlpath=lab/tree/{file}",
        "Colab": f"https://colab.research.google.com/github/{owner[1]}/blob/{NOTEBOOKS}/{file}",
    }


def description(doctree: nodes.document, length: int) -> str:
    """What a page says first: the whole sentences of its first paragraph that fit.

    The label with which every chapter begins is not one of them.
    """
    first = next((p for p in doctree.findall(nodes.paragraph) if says_something(p)), None)
    if first is None:
        return ""
    text = LABEL.sub("", " ".join(first.astext().split()))
    fitting = ""
    for sentence in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", text):
        gap = " " if fitting.endswith((".", "!", "?")) else ""
        if len(fitting) + len(gap) + len(sentence) > length:
            break
        fitting += gap + sentence
    return fitting or textwrap.shorten(text, length, placeholder=" …")


LABEL = re.compile(r"^(What you will do\. |你要做什么。)")


def says_something(paragraph: nodes.paragraph) -> bool:
    return isinstance(paragraph.parent, nodes.section) and bool(paragraph.astext().strip())


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Before `sphinxext.opengraph`, which would begin every chapter with the same label."""
    text = description(doctree, app.config.ogp_description_length) if doctree is not None else ""
    if app.builder.name == "epub" or "title" not in context:
        return
    title = re.sub(r"<[^>]*>", "", context["title"])
    text = html.escape(text or f"{html.unescape(title)}: {app.config.html_title}.")
    context["meta"] = {**(context.get("meta") or {}), "og:description": text}
    metatags = context.get("metatags", "")
    context["metatags"] = f'{metatags}<meta name="description" content="{text}" />\n'


def labs_on(body: str) -> list[str]:
    """The laboratories that a page holds, in order; see ``d2lattn.notebook.show_lab``."""
    return list(dict.fromkeys(re.findall(r'<div class="lab" data-lab="([\w-]+)"', body)))


def add_labs(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """A page loads one script: its own laboratories, after what they share."""
    names = labs_on(context.get("body", ""))
    if not names or app.builder.name == "epub":  # whose readers run no scripts
        return
    script = f"labs/{'-and-'.join(names)}.js"
    first = ["shared", "zh"] if is_chinese(app) else ["shared"]
    texts = [(LABS / f"{name}.js").read_text(encoding="utf-8") for name in [*first, *names]]
    Path(app.outdir, "_static", script).write_text("\n".join(texts), encoding="utf-8")
    app.add_js_file(script, loading_method="defer")


def style_labs(app: Sphinx) -> None:
    """The laboratories' style sheet is small, and `lean` joins what every page loads."""
    if app.builder.format == "html" and app.builder.name != "epub":
        folder = Path(app.outdir, "_static", "labs")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(LABS / "labs.css", folder)
        app.add_css_file("labs/labs.css", priority=900)


def copy_downloads(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        for path in downloads(is_chinese(app)):
            target = Path(app.outdir, "downloads")
            target.mkdir(exist_ok=True)
            shutil.copy2(path, target)


def setup(app: Sphinx) -> dict[str, Any]:
    begin_anew(app)
    for part in (
        "remember",
        "editions",
        "maths",
        "lean",
        "ebook",
        "plain",
        "finder",
        "notfound.extension",
        "sphinxext.opengraph",
    ):
        app.setup_extension(part)
    if site_address():
        app.setup_extension("sphinx_sitemap")
    cover = "epub-cover.zh.html" if is_chinese(app) else "epub-cover.html"
    app.config.epub_cover = ("_static/mark.svg", cover)  # a tuple: not for _config.yml
    app.connect("config-inited", fill_in, priority=100)
    app.connect("builder-inited", style_labs)
    app.connect("html-page-context", describe, priority=400)
    app.connect("html-page-context", mend)
    app.connect("html-page-context", add_labs)
    app.connect("build-finished", copy_downloads)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
