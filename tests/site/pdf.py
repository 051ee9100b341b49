"""`make pdf`: the whole book on one page, printed by the system's Chromium.

Everything that unfolds is open, and the solutions of the exercises stand at the end.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.site.serving import QUIET, build, served, system_chromium

PREPARE = """
async () => {
    document.documentElement.dataset.mode = document.documentElement.dataset.theme = "light";
    document.querySelectorAll("details").forEach(e => { e.open = true; });
    const article = document.querySelector("article");
    const back = document.createElement("section");
    back.innerHTML = "<h2>Solutions</h2>";
    back.className = "solutions";
    const heading = (level, title) => {
        const copy = document.createElement(level);
        copy.append(...title.cloneNode(true).childNodes);
        copy.querySelectorAll(".headerlink").forEach(e => e.remove());
        return copy;
    };
    let chapter = null;
    for (const solution of article.querySelectorAll("details.solution")) {
        const exercise = solution.closest("section");
        const home = solution.closest(".toctree-wrapper > section");
        if (home !== chapter) {
            chapter = home;
            back.append(heading("h3", chapter.querySelector("h1, h2")));
        }
        back.append(heading("h4", exercise.querySelector("h2, h3, h4")));
        const code = solution.nextElementSibling;
        const note = document.createElement("p");
        note.innerHTML = "<em>The solution is at the end of the book.</em>";
        solution.before(note);
        back.append(solution);
        if (code && code.matches(".cell.tag_hide-cell")) back.append(code);
    }
    if (chapter) article.append(back);
    document.querySelectorAll("mjx-assistive-mml").forEach(e => e.remove());
    for (const image of document.images) { image.loading = "eager"; await image.decode(); }
    await document.fonts.ready;
}
"""
FOOT = (
    '<div style="width:100%;font:8px sans-serif;text-align:center;color:#555">'
    '<span class="pageNumber"></span></div>'
)


def printed(site: Path, program: str) -> bytes:
    with served(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        page = browser.new_page(color_scheme="light")
        page.goto(f"{address}/all.html", wait_until="networkidle")
        page.emulate_media(media="print")
        page.evaluate(PREPARE)
        answer = page.context.new_cdp_session(page).send(
            "Page.printToPDF",
            {
                "paperWidth": 8.27,
                "paperHeight": 11.69,
                "marginTop": 0.7,
                "marginBottom": 0.8,
                "marginLeft": 0.8,
                "marginRight": 0.8,
                "scale": 0.85,
                "printBackground": True,
                "displayHeaderFooter": True,
                "headerTemplate": "<span></span>",
                "footerTemplate": FOOT,
                "generateTaggedPDF": True,
                "generateDocumentOutline": True,
            },
        )
        browser.close()
    return base64.b64decode(answer["data"])


def main(target: Path) -> int:
    program = system_chromium()
    if program is None:
        print("`make pdf` needs Chromium: install it first", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        result = build(Path(folder), "singlehtml")
        if result.returncode:
            print(result.stderr[-4000:], file=sys.stderr)
            return 1
        site = Path(folder, "_build", "singlehtml")
        # Sphinx links this page as if it stood at the top.
        (site / "book" / "index.html").rename(site / "all.html")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(printed(site, program))
    print(f"The book as a PDF: {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
