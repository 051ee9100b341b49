"""axe's rules for accessibility, page after page: each kind of text is looked at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

# All that the theme decides: colours, and which of two images of a pair is there.
OF_COLOUR = ["color-contrast", "link-in-text-block", "image-alt"]
# Contrast takes axe most of its time, the same for the thousandth word of a kind as for the first.
# So it looks at one text of each kind of all pages. Of one kind are texts under the same style
# sheets whose tags, classes, styles and looks are equal up to the top; rows of a table take turns,
# and a link amid text is another thing than a link alone. What a formula says aloud is not seen.
KINDS = """() => {
    const looks = ["display", "color", "backgroundColor", "backgroundImage", "opacity", "filter",
                   "fontSize", "fontWeight", "textDecorationLine", "textShadow"];
    const sheets = [...document.querySelectorAll("link[rel~=stylesheet], style")]
        .map(e => e.getAttribute("href")?.split("/").pop() ?? e.textContent);
    const {lang, dataset: {theme}} = document.documentElement, told = new Map();
    const kind = e => {
        if (!e) return [lang, theme, ...sheets].join();
        if (!told.has(e)) {
            const style = getComputedStyle(e);
            told.set(e, [e.localName, e.getAttribute("class"), e.getAttribute("style"),
                /^(pst|house)-/.test(e.id) && e.id, e.rowIndex % 2,
                ...looks.map(name => style[name])].join() + "; " + kind(e.parentElement));
        }
        return told.get(e);
    };
    const says = e => e.matches("input, select") ||
        [...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const letters = e => e.textContent.replace(/\\s/g, "").length;
    const amid = link => {
        let block = link.parentElement;
        while (/^(inline|contents)$/.test(getComputedStyle(block).display))
            block = block.parentElement;
        return [...block.querySelectorAll("a, button")].reduce((n, e) => n - letters(e),
            letters(block)) > 0 ? "amid text" : "alone";
    };
    window.firsts = new Map();
    for (const e of document.querySelectorAll("body *:not(mjx-container *)")) {
        const link = e.matches("a[href], [role=link]");
        if (!(link || says(e)) || !e.checkVisibility()) continue;
        const key = kind(e) + (link ? amid(e) : "");
        if (!firsts.has(key)) firsts.set(key, e);
    }
    return [...firsts.keys()];
}"""
# What no rule can see is out of axe's way. Of formulas, most of all elements: their characters are
# drawn by the style sheet, have no text and only looks as attributes, and leave a box of their
# size; of what is said aloud in their place, the words stay. Of words of code of one kind only the
# text stays. Returns what should be said but is seen.
SIMPLIFY = """() => {
    const told = /^(?:id|role|tabindex|href|lang|dir|title|alt|on.*|aria-(?!hidden$).*)$/;
    const plain = e => ![...e.attributes].some(attribute => told.test(attribute.name));
    const simple = e => [...e.querySelectorAll("*")].every(plain);
    const drawn = [...document.querySelectorAll("mjx-math")]
        .filter(e => !e.textContent.trim() && simple(e))
        .map(e => [e, e.offsetWidth, e.offsetHeight]);
    const said = [...document.querySelectorAll("mjx-assistive-mml")];
    const seen = said.filter(e => getComputedStyle(e).clip !== "rect(1px, 1px, 1px, 1px)")
        .map(e => e.outerHTML);
    // Only now: after each change the next look would lay the page out again.
    for (const [e, width, height] of drawn) {
        e.replaceChildren();
        e.style.cssText += `; display: inline-block; width: ${width}px; height: ${height}px`;
    }
    said.filter(simple).forEach(e => { e.firstChild.textContent = e.textContent; });
    const kept = new Set(firsts.values());
    for (const e of [...document.querySelectorAll("pre span, dt :is(span, em)")].reverse())
        if (!kept.has(e) && !e.firstElementChild && plain(e)) e.replaceWith(...e.childNodes);
    document.querySelectorAll("pre, dt").forEach(e => e.normalize());
    return seen;
}"""
RUN = """([fresh, options]) => {
    document.querySelectorAll("[data-distinct]").forEach(e => e.removeAttribute("data-distinct"));
    const all = [...firsts.values()];
    fresh.forEach(number => { all[number].dataset.distinct = ""; });
    axe.configure({rules: [{id: "color-contrast", selector: "[data-distinct]"},
        {id: "link-in-text-block", selector: ":is(a[href], [role=link])[data-distinct]"}]});
    return axe.run(document, options);
}"""
DARK = "document.documentElement.dataset.theme = 'dark'"


class Inspector:
    """Remembers the kinds of text that it has seen."""

    def __init__(self) -> None:
        self.seen = set[str]()

    def faults(self, page: Page) -> list[str]:
        """By every rule in light, then by those that depend on the theme in dark."""
        page.evaluate(Axe().axe_script)
        kinds = page.evaluate(KINDS)
        assert kinds
        assert not page.evaluate(SIMPLIFY)
        rules = {"target-size": {"enabled": True}}  # of WCAG 2.2
        found = list(self._found(page, kinds, rules=rules))
        page.evaluate(DARK)
        dark = self._found(page, page.evaluate(KINDS), runOnly=OF_COLOUR)
        return found + [f"in dark, {fault}" for fault in dark]

    def _found(self, page: Page, kinds: list[str], **options: Any) -> Iterator[str]:
        fresh = [number for number, kind in enumerate(kinds) if kind not in self.seen]
        self.seen.update(kinds)
        options["resultTypes"] = ["violations"]
        for fault in page.evaluate(RUN, [fresh, options])["violations"]:
            where = "; ".join(node["html"][:160] for node in fault["nodes"][:3])
            yield f"{fault['id']} ({fault['impact']}): {where}"
