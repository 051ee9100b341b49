"""The search, asked as readers ask: each question finds its section, with a sentence of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import finder
import pytest
from playwright.sync_api import Browser, Page

from tools.serving import DESK

# A question, and the place that must be among the first three
QUESTIONS = {
    "overfitting": "01-kernel-regression.html#can-the-data-choose-the-width",
    "embedding": "02-queries-keys-values.html#where-do-they-come-from",
    "why divide by sqrt d": "05-scaled-dot-product-attention.html#what-mends-it",
    "curse of dimensionality": "#which-scores-go-blind-in-many-dimensions",
    "attention score": "glossary.html#term-attention-score",
    "what is a query": "glossary.html#term-query",
    "heat map": "glossary.html#term-heat-map",
    "red picture": "01-kernel-regression.html#what-is-the-red-picture",
    "boundary bias": "01-kernel-regression.html#what-goes-wrong-at-the-ends",
    "padding gradient": "03-masked-softmax.html#does-padding-receive-a-gradient",
    "query with nothing to attend to": "#what-should-a-query-get-that-has-nothing-to-attend-to",
    "threshold": "03-masked-softmax.html#where-is-the-threshold",
    "neural network": "04-additive-attention.html#is-this-a-neural-network",
    "order of the keys": "02-queries-keys-values.html#does-the-order-of-the-pairs-matter",
    "half precision": "05-scaled-dot-product-attention.html#what-goes-wrong-in-half-precision",
    "kv cache": "08-long-sequences.html#one-query-and-a-store-of-keys",
    "flash attention": "08-long-sequences.html#can-a-softmax-be-taken-one-piece-at-a-time",
    "sliding window": "08-long-sequences.html#what-does-a-mask-cost",
    "how do I choose a score": "06-choosing-a-score.html#how-do-i-choose",
    "common mistakes": "07-summary-and-questions.html#ten-common-mistakes",
    "NadarayaWatson": "#d2lattn.NadarayaWatson",
    "masked_softmax": "#d2lattn.masked_softmax",
    "leave-one-out": "glossary.html#term-leave-one-out",
}
FIRST = 3


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=DESK)
    yield context.new_page()
    context.close()


def ask(page: Page, site: Path, question: str) -> list[dict[str, str]]:
    """What the search page shows, opened from disk as by a reader who has the site there."""
    page.goto((site / "search.html").as_uri() + f"?q={question}")
    page.locator(".search-summary:not(:empty)").wait_for()
    return page.locator("ul.search li").evaluate_all(
        """all => all.map(item => {
            const link = item.querySelector("a"), text = item.querySelector("p");
            return {to: link.href, title: link.textContent, text: text ? text.textContent : ""};
        })"""
    )


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_finds_its_section(page: Page, site: Path, question: str) -> None:
    found = ask(page, site, question)
    addresses = [result["to"] for result in found]
    assert any(address.endswith(QUESTIONS[question]) for address in addresses[:FIRST]), found[:6]
    assert all(result["title"] for result in found)
    first = found[0]
    assert len(first["text"]) < 400
    assert "import " not in first["text"]
    assert "def " not in first["text"]


def written(site: Path) -> list[list[str]]:
    text = (site / "_static" / "searchtools.js").read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    return list(json.loads(first.removeprefix("window.bookEntries = ").removesuffix(";")))


def test_every_result_leads_to_a_place_on_its_page(site: Path) -> None:
    entries = written(site)
    assert len(entries) > 200
    pages = {name: (site / name).read_text(encoding="utf-8") for name, *_ in entries}
    for name, anchor, title, *_ in entries:
        assert title
        assert not anchor or f'id="{anchor}"' in pages[name], (name, anchor)


def test_a_question_without_an_answer_says_so(page: Page, site: Path) -> None:
    assert ask(page, site, "zzyzx") == []
    assert "Nothing in this book" in page.locator(".search-summary").inner_text()


def test_other_words_name_sections(site: Path) -> None:
    entries = written(site)
    said = [entry[5] for entry in entries if entry[5]]
    assert sorted(said) == sorted(finder.other_words().values())
