"""The Sphinx extension in book/_ext/house.py."""

from __future__ import annotations

import operator
import re
from itertools import pairwise
from pathlib import Path

import house
import pytest
import torch
from docutils import nodes
from docutils.utils import new_document
from interface import ENGLISH
from matplotlib.colors import to_hex

from d2lattn import plotting
from d2lattn.plotting.style import KEY, LINES, QUERY, VALUE


@pytest.mark.parametrize("environment", [{}, {"BOOK_REPOSITORY_URL": " "}])
def test_without_a_repository_there_are_no_links(environment: dict[str, str]) -> None:
    assert house.repository_options(environment) == {}


@pytest.mark.parametrize("ending", ["", "/", ".git"])
def test_a_fork_gets_links_to_itself(ending: str) -> None:
    options = house.repository_options(
        {
            "BOOK_REPOSITORY_URL": "https://github.com/someone/course" + ending,
            "BOOK_REPOSITORY_BRANCH": "draft",
        }
    )
    assert options["repository_url"] == "https://github.com/someone/course"
    assert options["repository_branch"] == "draft"
    assert options["use_edit_page_button"]
    assert options["use_source_button"]
    assert options["use_issues_button"]


def test_the_branch_is_main_unless_named() -> None:
    options = house.repository_options({"BOOK_REPOSITORY_URL": "https://github.com/a/b"})
    assert options["repository_branch"] == "main"


def test_a_folded_cell_is_called_what_it_shows() -> None:
    folded = '<summary aria-label="Toggle hidden content"><span>Show code</span></summary>'
    assert house.mended(folded) == "<summary><span>Show code</span></summary>"


def test_the_empty_corner_of_a_table_is_no_heading() -> None:
    corner = '<tr><th class="head"><p></p></th><th class="head"><p>d</p></th></tr>'
    assert house.mended(corner) == corner.replace(
        '<th class="head"><p></p></th>', '<td class="head"></td>'
    )


def test_a_formula_that_heads_a_column_has_a_name() -> None:
    formula = "<mjx-container><math><msub><mi>k</mi><mn>1</mn></msub></math></mjx-container>"
    heading = f'<th class="head"><p>{formula}</p></th>'
    assert '<math aria-label="k sub 1"><msub>' in house.mended(heading)
    with_words = heading.replace("<p>", "<p>key ")
    assert house.mended(with_words) == with_words


@pytest.mark.parametrize(
    ("glued", "printed"),
    [("-0.39", "−0.39"), ("2.0e-06", "2.0 · 10<sup>−6</sup>"), ("3e+12", "3 · 10<sup>12</sup>"),
     ("0.04", "0.04"), ("x-1", "x-1"), ("12", "12")],
)  # fmt: skip
def test_a_glued_number_is_written_as_in_print(glued: str, printed: str) -> None:
    pasted = '<p>It is <span class="pasted-text">{}</span>, -1.</p>'
    assert house.mended(pasted.format(glued)) == pasted.format(printed)


def test_the_arguments_of_a_signature_are_no_definitions() -> None:
    signature = "<dl>\n<dd><em>scores</em>,</dd>\n</dl>"
    assert house.mended(signature) == '\n<span class="sig-line"><em>scores</em>,</span>\n'


def test_a_chapter_tells_how_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOOK_REPOSITORY_URL", raising=False)
    assert house.elsewhere("book/01-a") == {}
    monkeypatch.setenv("BOOK_REPOSITORY_URL", "https://github.com/someone/course")
    places = house.elsewhere("book/01-a")
    assert list(places) == ["Binder", "Colab"]
    for address in places.values():
        assert "/someone/course/" in address
        assert "/notebooks" in address, "not the source, but the plain edition"
        assert address.endswith("/01-a.ipynb")
    line = house.about(14.5, "01-a.ipynb", places, ENGLISH)
    assert "14 minutes" in line
    assert 'href="01-a.ipynb" download' in line
    assert all(f'href="{address}"' in line for address in places.values())


def test_the_other_forms_are_offered_once_they_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOOK_DOWNLOADS", str(tmp_path / "none"))
    assert house.downloads() == []
    monkeypatch.delenv("BOOK_DOWNLOADS")
    monkeypatch.setattr(house, "DOWNLOADS", tmp_path)
    (tmp_path / "course.epub").touch()
    (tmp_path / "course.zh-CN.epub").touch()
    assert [path.name for path in house.downloads()] == ["course.epub"]
    assert [path.name for path in house.downloads(chinese=True)] == ["course.zh-CN.epub"]
    assert "../downloads/course.epub" in house.offers("01-a.html", ["course.epub"], ENGLISH)


def test_chinese_words_say_so() -> None:
    assert house.mended('<span class="zh">键</span>') == '<span class="zh" lang="zh-Hans">键</span>'


def test_chinese_words_in_a_sentence_say_so_too() -> None:
    sentence = '<p title="汇">The word is 汇聚, to pool.</p>'
    assert house.mended(sentence) == sentence.replace("汇聚", '<span lang="zh-Hans">汇聚</span>')


def test_a_page_has_the_laboratories_that_its_chapter_placed() -> None:
    body = '<p>a</p><div class="lab" data-lab="scores" data-figure="fig-lab-scores">…</div>'
    assert house.labs_on("<p>no laboratory</p>") == []
    assert house.labs_on(body + body) == ["scores"]


def page_of(*paragraphs: nodes.paragraph) -> nodes.document:
    page = new_document("page")
    page += nodes.section("", nodes.title("", "A title"), *paragraphs)
    return page


def test_a_page_is_described_by_its_first_sentences_that_fit() -> None:
    label = nodes.strong("", "What you will do.")
    text = nodes.Text(" Take a softmax in small pieces.\nJoin the results. Measure the memory.")
    page = page_of(nodes.paragraph("", "", label, text), nodes.paragraph("", "More."))
    assert house.description(page, 200) == text.strip().replace("\n", " ")
    assert house.description(page, 50) == "Take a softmax in small pieces. Join the results."
    assert house.description(page, 20) == "Take a softmax in …"


def test_bold_words_that_are_no_label_stay_in_the_description() -> None:
    promise = nodes.paragraph("", "", nodes.strong("", "Attention is an average."))
    assert house.description(page_of(promise), 200) == "Attention is an average."
    assert house.description(page_of(), 200) == ""


def _on_a_dark_page(colour: str) -> list[float]:
    numbers = [float(number) for number in re.findall(r"-?\d\.?\d*", house.DARK.split('"')[-2])]
    rows = [numbers[i : i + 5] for i in (0, 5, 10)]
    light = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    turned = [sum(map(operator.mul, row, [*light, 0, 1])) for row in rows]
    return [min(max(channel, 0.0), 1.0) for channel in turned]


def _luminance(colour: list[float]) -> float:  # WCAG 2.2
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(map(operator.mul, (0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("colour", [*LINES, QUERY, KEY, VALUE])
def test_figures_can_be_read_on_a_dark_page(colour: str) -> None:
    page, ink = _luminance(_on_a_dark_page("#ffffff")), _luminance(_on_a_dark_page(colour))
    assert page < 0.01
    assert (ink + 0.05) / (page + 0.05) >= 4.5
    light = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    dark = _on_a_dark_page(colour)
    if colour in (QUERY, KEY, VALUE):  # the same channel leads: orange does not turn blue
        assert dark.index(max(dark)) == light.index(max(light))


def test_a_heat_map_is_red_on_a_dark_page_too() -> None:
    weights = torch.linspace(0, 1, 21).unsqueeze(0)
    image = plotting.show_heatmaps(weights).axes[0].images[0]
    colours = [
        _on_a_dark_page(to_hex(tuple(image.cmap(image.norm(w))))) for w in weights[0].tolist()
    ]
    assert all(a < b for a, b in pairwise(map(_luminance, colours)))
    assert all(red > 2 * max(green, blue) for red, green, blue in colours[10:])
