"""The Chinese pages beside the English ones: the same places, numbers and figures, other words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import editions
import nbformat
import pytest
from bs4 import NavigableString, PageElement, Tag
from editions import UNDER
from playwright.sync_api import Browser
from words import pages as written

from tests.site.helpers import PUBLISHED
from tests.site.test_pages import soup_of
from tools.serving import DESK

HAN = re.compile("[\u4e00-\u9fff]")
# What is English for a Chinese reader too: code and what it prints, documentation of the package,
# works that are cited, names.
ENGLISH_TOO = (
    "pre, code, math, script, style, svg, dl.py, .citation, .cell_output, .genindextable, "
    "dl.glossary > dt, [lang=en], a.reference.internal[href*=references], .math, mjx-container, "
    ".house-edition"
)
FOUR_WORDS = re.compile(r"[A-Za-z]{2,}(?:[ ,]+[A-Za-z]{2,}){3,}")
TITLES = re.compile(r"《[^》]*》|“[A-Za-z][^”]*”|（[A-Za-z][^（）]*）")


def pairs(site: Path) -> list[tuple[Path, Path]]:
    """Each page of the book and the same in Chinese."""
    names = [f"book/{page.with_suffix('.html')}" for page in written()]
    return [(site / name, site / UNDER / name) for name in [*names, "search.html", "genindex.html"]]


def test_both_editions_have_the_same_pages_and_places(site: Path) -> None:
    for english, chinese in pairs(site):
        one, other = soup_of(english), soup_of(chinese)
        places = [str(section["id"]) for section in one.select("article section[id]")]
        assert [str(s["id"]) for s in other.select("article section[id]")] == places, chinese
        named = {str(e["id"]) for e in one.select("article figure[id], article div.math[id]")}
        assert {
            str(e["id"]) for e in other.select("article figure[id], article div.math[id]")
        } == named


def test_each_page_leads_to_the_same_in_the_other_language(site: Path) -> None:
    for english, chinese in pairs(site):
        for page, other in ((english, chinese), (chinese, english)):
            (switch,) = soup_of(page).select("a.house-edition")
            assert (page.parent / str(switch["href"])).resolve() == other
            assert HAN.search(switch.text) if other == chinese else switch.text == "English"
            assert switch["hreflang"] == switch["lang"]


def test_search_engines_are_told_of_both(site: Path) -> None:
    for english, chinese in pairs(site):
        if english.parent == site:
            continue
        wanted = {
            "en": f"{PUBLISHED['BOOK_URL']}/{english.relative_to(site)}",
            "zh-CN": f"{PUBLISHED['BOOK_URL']}/{chinese.relative_to(site)}",
        }
        wanted["x-default"] = wanted["en"]
        for page in (english, chinese):
            links = soup_of(page).select("link[rel=alternate][hreflang]")
            assert {str(a["hreflang"]): str(a["href"]) for a in links} == wanted


def shown(tag: Tag) -> list[str]:
    return [" ".join(part.get_text().split()) for part in tag.select(".cell_output pre")]


def test_code_numbers_and_figures_are_the_same(site: Path) -> None:
    for english, chinese in pairs(site):
        one, other = soup_of(english), soup_of(chinese)
        for what in ("div.cell_input pre", ".cell_output pre", "span.pasted-text"):
            texts = [
                [e.get_text() for e in soup.select(f"article {what}")] for soup in (one, other)
            ]
            if what == "span.pasted-text":  # whose order is that of the sentence
                texts = [sorted(some) for some in texts]
            assert texts[0] == texts[1], (english.name, what)
        images = [[Path(str(i["src"])).name for i in s.select("article img")] for s in (one, other)]
        assert images[0] == images[1]


def left_of(tag: Tag, out: set[int]) -> Iterator[PageElement]:
    """What a page holds, without some of its elements and all that is in them."""
    for part in tag.children:
        if id(part) not in out:
            yield part
            if isinstance(part, Tag):
                yield from left_of(part, out)


def test_no_english_sentence_is_left(site: Path) -> None:
    found = []
    for _, path in pairs(site):
        soup = soup_of(path)
        out = set(map(id, soup.select(ENGLISH_TOO)))
        if path.parent.name == "api":  # whose sections quote the package's documentation
            out |= set(map(id, soup.select("article p:not(figcaption p), article dd, article li")))
        parts = list(left_of(soup, out))
        text = "\n".join(str(part) for part in parts if type(part) is NavigableString)
        found += [f"{path.name}: {match[0]}" for match in FOUR_WORDS.finditer(TITLES.sub("", text))]
        for tag in parts:
            if not isinstance(tag, Tag):
                continue
            for name in ("aria-label", "title", "alt", "placeholder", "data-bs-title"):
                said = str(tag.get(name, ""))
                if re.search(r"[A-Za-z]{3,} [A-Za-z]{2,}", TITLES.sub("", said)):
                    found.append(f"{path.name}: {name}: {said[:80]}")
    assert not found, "\n".join(dict.fromkeys(found))


def test_titles_and_descriptions_are_chinese(site: Path) -> None:
    for _, path in pairs(site):
        soup = soup_of(path)
        assert soup.title
        assert HAN.search(soup.title.text), path.name
        for tag in soup.select("meta[name=description], meta[property='og:description']"):
            assert HAN.search(str(tag["content"])), path.name


@pytest.mark.parametrize("name", [page.stem for page in written() if page.suffix == ".ipynb"])
def test_a_chinese_notebook_has_the_same_code(site: Path, name: str) -> None:
    one, other = (
        nbformat.read(site / under / "_sources" / "book" / f"{name}.ipynb", as_version=4)
        for under in ("", UNDER)
    )
    nbformat.validate(other)
    code = [
        [
            re.sub(r"(?m)^ *#.*\n?", "", cell.source)
            for cell in book.cells
            if cell.cell_type == "code"
        ]
        for book in (one, other)
    ]
    assert code[0][1:] == code[1][1:]
    assert 'speak("zh_CN")' in code[1][0]
    texts = [cell.source for cell in other.cells if cell.cell_type == "markdown"]
    assert all(HAN.search(text) or text.lstrip().startswith("![") for text in texts)
    assert not [text for text in texts if re.search(r"\{[\w:.+-]+\}`|\]\{", text)]


# Verdicts that are stored in English


def test_a_stored_verdict_is_said_as_the_package_says_it() -> None:
    told = "✓ **Right.** "
    assert editions.verdict(told + "The answer is yours.").startswith("✓ **对**。")
    call = "○ **Your turn.** Let `answer(q, k)` return its result."
    said = editions.verdict(call)
    assert said.startswith("○ **轮到你了**。")
    assert "`answer(q, k)`" in said
    assert "return" not in said


def test_a_message_is_found_whatever_fills_its_places() -> None:
    pattern = editions.pattern_of("{name} (of {count:.1f}) and {name}.")
    match = pattern.fullmatch("q (of 2.5) and q.")
    assert match
    assert match.groupdict() == {"name": "q", "count": "2.5"}
    assert not pattern.fullmatch("q (of 2.5) and k.")


def test_settings_are_merged_group_by_group() -> None:
    one = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert editions.merged(one, {"a": {"c": [3]}}) == {"a": {"b": 1, "c": [3]}, "d": 3}
    assert one == {"a": {"b": 1, "c": [1, 2]}, "d": 3}


# The search, which knows no dictionary: characters, words of several, English among them

QUESTIONS = {
    "键": "glossary.html#term-key",
    "值": "glossary.html#term-value",
    "核": "01-kernel-regression.html",
    "带宽": "01-kernel-regression.html",
    "掩蔽softmax操作": "03-masked-softmax.html",
    "注意力汇聚": "glossary.html#term-attention-pooling",
    "过拟合": "01-kernel-regression.html#can-the-data-choose-the-width",
    "为什么除以根号d": "05-scaled-dot-product-attention.html#what-mends-it",
    "维数灾难": "#which-scores-go-blind-in-many-dimensions",
    "热图": "glossary.html#term-heat-map",
    "红色的热图是什么意思": "01-kernel-regression.html#what-is-the-red-picture",
    "边界偏差": "01-kernel-regression.html#what-goes-wrong-at-the-ends",
    "填充的梯度": "03-masked-softmax.html#does-padding-receive-a-gradient",
    "阈值怎么设": "03-masked-softmax.html#where-is-the-threshold",
    "神经网络": "04-additive-attention.html#is-this-a-neural-network",
    "半精度": "05-scaled-dot-product-attention.html#what-goes-wrong-in-half-precision",
    "kv缓存": "08-long-sequences.html#one-query-and-a-store-of-keys",
    "滑动窗口": "08-long-sequences.html#what-does-a-mask-cost",
    "怎样选择评分": "06-choosing-a-score.html",
    "常见错误": "07-summary-and-questions.html#ten-common-mistakes",
    "NadarayaWatson": "#d2lattn.NadarayaWatson",
    "留一法": "01-kernel-regression.html",
    "束搜索": "09-learning-to-align.html",
    "旋转位置编码": "10-heads-and-positions.html",
    "环形注意力": "glossary.html#term-ring-attention",
}
FIRST = 6


def test_chinese_questions_find_their_sections(browser: Browser, site: Path) -> None:
    context = browser.new_context(viewport=DESK)
    page, wrong = context.new_page(), []
    for question, place in QUESTIONS.items():
        page.goto((site / UNDER / "search.html").as_uri() + f"?q={question}")
        page.locator(".search-summary:not(:empty)").wait_for()
        links = page.locator("ul.search li > a")
        found = links.evaluate_all("all => all.map(a => a.href)")[:FIRST]
        if not any(place in address for address in found):
            wrong.append(f"{question}: {[address.rpartition('/')[2] for address in found]}")
    assert not wrong, "\n".join(wrong)
    marked = page.locator("ul.search mark").all_inner_texts()
    assert any("环形注意力" in text or text in "环形注意力" for text in marked)
    page.goto((site / UNDER / "search.html").as_uri() + "?q=饕餮")
    page.locator(".search-summary:not(:empty)").wait_for()
    assert "没有" in page.locator(".search-summary").inner_text()
    context.close()


def test_the_switch_keeps_the_place(browser: Browser, site: Path) -> None:
    """With scripts, the section that is being read; without, the page."""
    page = browser.new_page(reduced_motion="reduce")
    page.goto((site / "book" / "04-additive-attention.html").as_uri() + "#what-is-the-formula")
    arrived = "document.getElementById('what-is-the-formula').getBoundingClientRect().top < 100"
    page.wait_for_function(arrived)
    page.locator("a.house-edition").evaluate("link => link.click()")  # Playwright would scroll
    page.wait_for_url("**/zh/book/04-additive-attention.html#what-is-the-formula")
    page.wait_for_function(arrived)
    page.locator("a.house-edition").evaluate("link => link.focus({preventScroll: true})")
    page.keyboard.press("Enter")
    page.wait_for_url("**/html/book/04-additive-attention.html#what-is-the-formula")
    page.close()
