"""What book/_ext/lean.py joins and cuts down: no rule, script or character gets lost."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import lean
import pytest
from fontTools.ttLib import TTFont

Cmap = set[int]


@pytest.fixture(scope="module")
def css(site: Path) -> str:
    return (site / "_static" / "book.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fonts(site: Path, css: str) -> dict[str, Cmap]:
    """The characters that each font family of the style sheet can draw."""
    found = dict[str, Cmap]()
    for face in re.findall(r"@font-face[^{]*\{[^}]*\}", css):
        family = re.search(r'font-family:\s*"?([^;"]+)"?;', face)
        source = re.search(r'url\(["\']?([^"\')]+)', face)
        assert family, face[:80]
        assert source, face[:80]
        if source[1].startswith("data:"):
            data = base64.b64decode(source[1].partition(",")[2])
        else:
            data = (site / "_static" / source[1]).read_bytes()
        found.setdefault(family[1], set()).update(TTFont(BytesIO(data)).getBestCmap())
    return found


@pytest.fixture(scope="module")
def texts(pages: list[Path]) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in pages[1:]]


UNSEEN = {"mjx-c2061", "mjx-c2062", "mjx-c2063", "mjx-c2064"}  # "applied to", "times" and so on


# As functions


def test_joined_style_sheets_keep_every_rule_but_those_of_unused_icons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = {
        "a.css": '@import "more.css";\np{color:red}'
        '.fa-a:before{content:"x"}.fa-b:before{content:"y"}',
        "more.css": "q{color:blue}/*# sourceMappingURL=more.css.map */",
        "deep/c.css": '@import "../top.css";i{background:url("i.svg")}'
        "u{background:url(data:image/png,x)}s{background:url('data:image/png,y')}",
        "top.css": "b{background:url(b.svg)}",
    }
    for name, text in sheets.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(lean, "icon_font", lambda css, folder: "")
    joined = lean.joined_styles(["a.css", "deep/c.css"], tmp_path, {"a"})
    for rule in ("p{color:red}", "q{color:blue}", '.fa-a:before{content:"x"}'):
        assert rule in joined
    assert 'url("deep/i.svg")' in joined
    assert "url(b.svg)" in joined
    assert "url(data:image/png,x)" in joined
    assert "url('data:image/png,y')" in joined
    assert "fa-b" not in joined
    assert "sourceMappingURL" not in joined


def test_joined_scripts_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("var a = 1 // no semicolon\n//# sourceMappingURL=a.js.map")
    (tmp_path / "b.js").write_text("(function () {})()")
    joined = lean.joined_scripts(["a.js", "b.js"], tmp_path)
    assert joined == ";var a = 1 // no semicolon\n\n;(function () {})()\n"


def test_only_what_every_page_loads_is_joined() -> None:
    link = '<link rel="stylesheet" href="_static/{}.css?v=1" />'.format
    pages = {
        Path("a"): link("first") + link("labs/labs") + link("last"),
        Path("b"): link("first") + link("last"),
    }
    assert lean.on_every_page(lean.STYLE, pages) == ["first.css", "last.css"]


# On the built pages


def test_every_address_in_a_style_sheet_is_a_file(site: Path) -> None:
    for sheet in (site / "_static").rglob("*.css"):
        for address in re.findall(r"url\([\"']?([^\"')]+)", sheet.read_text(encoding="utf-8")):
            if not address.startswith(("data:", "#")):
                path = sheet.parent / re.split(r"[?#]", address)[0]
                assert path.is_file(), f"{sheet.name}: {address}"


def test_every_icon_in_use_has_a_rule_and_a_drawing(
    css: str, texts: list[str], fonts: dict[str, Cmap]
) -> None:
    drawn = set().union(*(fonts[name] for name in fonts if "Awesome" in name))
    used = {name for text in texts for name in lean.ICON.findall(text)}
    assert {"magnifying-glass", "bars"} <= used
    for name in used:
        rule = re.search(rf"\.fa-{name}:before[^{{]*\{{content:\"([^\"]+)\"", css)
        assert rule, name
        code = int(rule[1][1:], 16) if rule[1].startswith("\\") else ord(rule[1])
        assert code in drawn, name


def test_every_character_of_every_formula_has_a_rule_and_a_drawing(
    css: str, texts: list[str], fonts: dict[str, Cmap]
) -> None:
    """A class such as `mjx-c1D466 TEX-I` means: this character, from this font."""
    contents = dict(re.findall(r'mjx-c\.([\w.-]+)::before \{[^}]*content: "([^"]*)"', css))
    families = {
        name: set().union(*(fonts.get(family.strip(), set()) for family in listed.split(",")))
        for name, listed in re.findall(r"\n\.(TEX-\w+) \{\s*font-family: ([^;]+);", css)
    }
    plain = set().union(*(fonts[name] for name in ("MJXZERO", "MJXTEX")))
    used = {
        classes for text in texts for classes in re.findall(r'<mjx-c class="(mjx-c[^"]+)"', text)
    }
    assert len(used) > 100
    for classes in used - UNSEEN:
        content = contents.get(classes.replace(" ", "."))
        assert content is not None, f"no rule for {classes}"
        drawn = families.get(classes.partition(" ")[2], plain)
        text = re.sub(r"\\([0-9A-Fa-f]+) ?", lambda code: chr(int(code[1], 16)), content)
        assert {ord(character) for character in text} <= drawn, f"{classes}: {content!r}"


def test_the_theme_is_chosen_in_the_head_of_every_page(texts: list[str]) -> None:
    assert all(lean.THEME_NOW in text.partition("<body")[0] for text in texts)
