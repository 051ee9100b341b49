"""`make pdf`: the whole book on one page, printed by the system's Chromium.

    python -m tools.pdf BOOK.pdf    in Chinese if it ends in .zh-CN.pdf

`paper.js` puts title and contents in front and the solutions behind everything.
"""

from __future__ import annotations

import base64
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import pikepdf
from playwright.sync_api import Browser, Page, sync_playwright

from tools.serving import QUIET, build, served, system_chromium

PREPARE = (Path(__file__).parent / "paper.js").read_text(encoding="utf-8")
PAPER = {  # its size and margins are in book/_static/print.css
    "preferCSSPageSize": True,
    "printBackground": True,
    "generateTaggedPDF": True,
    "generateDocumentOutline": True,
}


@contextmanager
def book_on_paper(site: Path, browser: Browser) -> Iterator[Page]:
    """The book on one page, prepared for printing; ``site`` is what Sphinx's singlehtml built."""
    page = browser.new_page(color_scheme="light")
    with served(site) as address:
        # Sphinx links this page as if it stood at the top.
        shutil.copy(site / "book" / "index.html", site / "all.html")
        page.goto(f"{address}/all.html")  # until all of it is there, however slow the machine
        page.emulate_media(media="print")
        page.evaluate(PREPARE)
        yield page
    page.close()


def printed(page: Page) -> pikepdf.Pdf:
    answer = page.context.new_cdp_session(page).send("Page.printToPDF", PAPER)
    return pikepdf.open(BytesIO(base64.b64decode(answer["data"])))


def beginnings(book: pikepdf.Pdf) -> dict[str, int]:
    """The page, from 1, of every place that a link leads to."""
    numbers = {page.obj.objgen: number for number, page in enumerate(book.pages, 1)}
    places = book.Root.Dests.items()
    return {unquote(name[1:]): numbers[place[0].objgen] for name, place in places}


ABOUT = {  # title, author, rights
    False: (
        "Attention Scoring Functions",
        "the contributors",
        "Text and figures: CC BY 4.0. Code: MIT.",
    ),
    True: ("注意力评分函数", "本书贡献者", "文字与图：CC BY 4.0。代码：MIT。"),
}


def write_book(page: Page, target: Path, *, chinese: bool = False) -> None:
    """Print until every page has the number that it is said to have: it takes room itself."""
    book = printed(page)
    for _ in range(5):
        said = beginnings(book)
        page.evaluate(PREPARE, said)
        book = printed(page)
        if beginnings(book) == said:
            break
    else:
        raise RuntimeError("the pages have other numbers after each printing")
    with book.open_metadata() as about:
        about["dc:title"], author, about["dc:rights"] = ABOUT[chinese]
        about["dc:creator"] = [author]
    book.Root.PageMode = pikepdf.Name.UseOutlines
    target.parent.mkdir(parents=True, exist_ok=True)
    # Chromium writes every object by itself; together they take a third of the room.
    book.save(target, object_stream_mode=pikepdf.ObjectStreamMode.generate)


def main(target: Path, *, chinese: bool = False) -> int:
    program = system_chromium()
    if program is None:
        print("`make pdf` needs Chromium: install it first", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        result = build(Path(folder), "singlehtml", chinese=chinese)
        if result.returncode:
            print(result.stderr[-4000:], file=sys.stderr)
            return 1
        site = Path(folder, "_build", "singlehtml")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=QUIET)
            with book_on_paper(site, browser) as page:
                write_book(page, target, chinese=chinese)
            browser.close()
    print(f"The book as a PDF: {target}")
    return 0


if __name__ == "__main__":
    path = Path(sys.argv[1])
    raise SystemExit(main(path, chinese=".zh-CN" in path.suffixes))
