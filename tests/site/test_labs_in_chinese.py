"""The laboratories in Chinese: each text has its own, and a reader's hand brings out no English."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from editions import UNDER
from playwright.sync_api import Browser

from tests.site.test_labs import PAGES, SCRIPTS, opened
from tools.translation import faults

CHINESE = SCRIPTS / "zh.js"
LABS = [SCRIPTS / f"{name}.js" for name in ["shared", *PAGES]]

# What comes with the data of a chapter and is read, typed or written by a model, not said.
KEPT = {"characters", "days", "iso", "languages", "letters", "strange", "texts", "weights"}
# Latin words for a Chinese reader too: a name, what code prints and calls its values.
LATIN = {"Epanechnikov", "softmax", "nan", "float16", "float32", "short", "medium", "long", "full"}


# As files


class Text(NamedTuple):
    """A text in a script, and whether `labs.say` gets it."""

    text: str
    said: bool


COMMENTS = r"/\*.*?\*/|//[^\n]*"
COMMENTS_AND_TEXTS = re.compile(
    COMMENTS + r"""|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'""", re.DOTALL
)


def texts(code: str) -> list[Text]:
    """The texts of a script in order; those that are added to each other are one."""
    found, end = list[Text](), 0
    for match in COMMENTS_AND_TEXTS.finditer(code):
        if match[0].startswith("/"):
            continue
        text = ast.literal_eval(match[0])
        between = re.sub(COMMENTS, "", code[end : match.start()], flags=re.DOTALL)
        if found and re.fullmatch(r"\s*\+\s*", between):
            found[-1] = found[-1]._replace(text=found[-1].text + text)
        else:
            found.append(Text(text, between.rstrip().endswith("labs.say(")))
        end = match.end()
    return found


def unsaid(code: str) -> list[str]:
    """Texts that a reader would see in English: letters beside a space, and nobody says them."""
    return [
        text
        for text, said in texts(code)
        if not said
        and re.search(r"[A-Za-z][^\w\s]? | [A-Za-z]", text)
        and text not in ("use strict", "font-size: ")
        and not all(re.fullmatch(r"(lab|has)-[\w-]+", name) for name in text.split())  # classes
    ]


@pytest.fixture(scope="module")
def words() -> dict[str, str]:
    """What `zh.js` says, each text once."""
    code = CHINESE.read_text(encoding="utf-8")
    found = re.fullmatch(r"/\*.*?\*/\nwindow\.houseLabs\.words = (\{.*\});\n", code, re.DOTALL)
    assert found
    pairs = json.loads(found[1], object_pairs_hook=list)
    words = dict(pairs)
    assert len(words) == len(pairs)
    return words


def data_of_the_chapters() -> Iterator[Any]:
    for path in sorted(SCRIPTS.parent.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                html = output.get("data", {}).get("text/html", "")
                found = re.search(r'<div class="lab".*?<script[^>]*>(.*?)</script>', html)
                if found:
                    yield json.loads(found[1])


def words_in(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        if re.search(r"[A-Za-z]{2}", data):
            yield data
    elif isinstance(data, list):
        for part in data:
            yield from words_in(part)
    elif isinstance(data, dict):
        for name, part in data.items():
            if name not in KEPT:
                yield from words_in(part)


def test_every_text_has_its_chinese_and_no_other_has(words: dict[str, str]) -> None:
    said = {text for script in LABS for text, said in texts(script.read_text("utf-8")) if said}
    data = list(data_of_the_chapters())
    assert len(data) == len(PAGES)
    assert set(words) == said | {word for some in data for word in words_in(some)}


def test_what_is_said_is_written_there_or_comes_with_the_data() -> None:
    code = "".join(script.read_text("utf-8") for script in LABS)
    other = set(re.findall(r"labs\.say\(\s*([^\s\"][^,)]*)", code))
    assert other == {"feature", "form", "model.name", "name", "start.name"}


@pytest.mark.parametrize("script", LABS, ids=lambda path: path.stem)
def test_nothing_is_shown_unsaid(script: Path) -> None:
    assert not unsaid(script.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "planted",
    [
        'labs.button("Press here", press)',
        'summary.say("Row " + row)',
        'labs.write(cell, text + " minutes")',
        "labs.html('p', {}, ['nothing, yet'])",
        'labs.say("step"); labs.text("the end", 0, 0)',
        'labs.slider("query: " + feature, options)',
    ],
)
def test_a_planted_text_is_found(planted: str) -> None:
    assert unsaid(planted)


def test_texts_are_read_as_the_browser_reads_them() -> None:
    code = r"""
        labs.say("one, " + // not "this"
          "two \u2212"); /* nor "that" */ labs.html("p", { "class": "lab-a lab-b" }, [' + '])"""
    assert texts(code) == [
        Text("one, two −", True), Text("p", False), Text("class", False),
        Text("lab-a lab-b", False), Text(" + ", False),
    ]  # fmt: skip
    assert not unsaid(code)


def as_prose(text: str) -> str:
    """With its places as formulas, which the rules for Chinese know."""
    return re.sub(r"\{(\w+)\}", r"{math}`\1`", text)


def test_the_chinese_keeps_places_terms_and_punctuation(words: dict[str, str]) -> None:
    found = [
        f"{english} | {chinese}: {fault}"
        for english, chinese in words.items()
        for fault in faults(as_prose(english), as_prose(chinese))
    ]
    assert not found, "\n".join(found)


# In the hand

# A summary waits for the hand to rest; here nobody waits. What is looked up is written down.
PREPARE = """(() => {
    const later = window.setTimeout;
    window.setTimeout = (act, _, ...rest) => later(act, 0, ...rest);
    window.lookedUp = new Set();
    let labs, words;
    Object.defineProperty(window, "houseLabs", { get: () => labs, set: made => {
        labs = made;
        Object.defineProperty(labs, "words", { get: () => words, set: given => {
            const get = (all, text) => { lookedUp.add(text); return all[text]; };
            words = new Proxy(given, { get });
        } });
    } });
})()"""

# Every value of every choice, every slider at its ends, 0 and 5, alone and with the others, every
# button, and texts of all kinds: after each, all that is to be read and all that is said aloud.
DRIVE = """async (body, typed) => {
    const states = [];
    function texts() {
        const walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT), found = [];
        while (walker.nextNode()) found.push(walker.currentNode.data);
        for (const element of [body, ...body.querySelectorAll("*")])
            for (const name of ["aria-label", "aria-valuetext", "title", "placeholder", "alt"])
                if (element.hasAttribute(name)) found.push(element.getAttribute(name));
        return found;
    }
    async function look() {
        await new Promise(go => setTimeout(() => setTimeout(go)));
        states.push(texts());
    }
    function set(input, value) {
        input.value = value;
        input.dispatchEvent(new Event("input"));
    }
    async function choose() {
        for (const radio of body.querySelectorAll("input[type=radio]")) {
            radio.click();
            await look();
        }
    }
    const sliders = [...body.querySelectorAll("input[type=range]")];
    await look();
    for (const slider of sliders)
        for (const value of [slider.min, 0, 5, slider.max]) { set(slider, value); await look(); }
    for (const value of ["max", "min"]) {
        sliders.forEach(slider => set(slider, slider[value]));
        await choose();
    }
    for (const button of body.querySelectorAll("button")) {
        button.disabled || button.click();
        await look();
        await choose();
    }
    const last = sliders[sliders.length - 1];
    for (const field of body.querySelectorAll("input[type=text]"))
        for (const text of typed) {
            set(field, text);
            for (const value of [last.min, last.max]) { set(last, value); await look(); }
        }
    for (const input of sliders.slice(0, 2)) { set(input, 0); await look(); }
    return states;
}"""
# Neither, one or both of the models write a date, the same or not; they look at a space; one ends.
TYPED = ["", "4 März 2005!?", "March 2005", "March", "6 6", "99/99/99", "5 5 5"]


class Driven(NamedTuple):
    english: list[list[str]]
    chinese: list[list[str]]
    looked_up: set[str]


@pytest.fixture(scope="module")
def driven(browser: Browser, site: Path) -> dict[str, Driven]:
    """Each laboratory in both languages, after each of the same steps."""

    def drive(root: Path, lab: str) -> tuple[list[list[str]], set[str]]:
        page = browser.new_page()
        page.add_init_script(PREPARE)
        states = opened(page, root, lab).locator(".lab-body").evaluate(DRIVE, TYPED)
        looked_up = set(page.evaluate("[...lookedUp]"))
        page.close()
        return states, looked_up

    return {lab: Driven(drive(site, lab)[0], *drive(site / UNDER, lab)) for lab in PAGES}


@pytest.mark.parametrize("lab", PAGES)
def test_no_english_is_left(driven: dict[str, Driven], site: Path, lab: str) -> None:
    html = (site / UNDER / "book" / f"{PAGES[lab]}.html").read_text(encoding="utf-8")
    data = re.search(rf'data-lab="{lab}".*?<script[^>]*>(.*?)</script>', html, re.DOTALL)
    assert data
    given = json.loads(data[1])
    kept = {*LATIN, *given.get("languages", [])}
    for state in driven[lab].chinese:
        for text in state:
            if text not in given.get("strange", []):
                assert set(re.findall(r"[A-Za-z]\w*[A-Za-z]\w*", text, re.ASCII)) <= kept, text


@pytest.mark.parametrize("lab", PAGES)
def test_the_numbers_are_those_of_the_english_page(driven: dict[str, Driven], lab: str) -> None:
    english, chinese, _ = driven[lab]
    assert len(english) == len(chinese) > 10
    for one, other in zip(english, chinese, strict=True):
        assert len(one) == len(other)
        assert numbers(one) == numbers(other)


def numbers(texts: list[str]) -> list[str]:
    """Numbers and marks of a state, sorted: in another language a sentence has another order."""
    return sorted(re.findall(r"−?\d+(?:\.\d+)?|∞|nan|[✓✗]", "\n".join(texts)))


def test_every_word_is_said_at_some_time(driven: dict[str, Driven], words: dict[str, str]) -> None:
    assert set().union(*(driven[lab].looked_up for lab in PAGES)) == set(words)
