"""The checks answer in Chinese as well: all of what they say, and nothing of it in English."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
import torch
from torch import Tensor

from d2lattn import exercises
from d2lattn.exercises import Verdict, language, speak
from d2lattn.exercises.language import _
from tests.exercises import Check
from tests.exercises.test_answers import RIGHT, WRONG
from tests.exercises.test_engine import CHEATS, ODD
from tools import catalogue
from tools.translation import LEFT_OVER, faults

PACKAGE = Path(exercises.__file__).parent
ANSWERED = sorted({check.__name__ for check, *_rest in RIGHT})


@pytest.fixture
def chinese() -> Iterator[None]:
    speak("zh_CN")
    yield
    speak("en")


# The catalogue


(PO,) = catalogue.CATALOGUES
PLACES = {str(m.id): [place for place, _line in m.locations] for m in catalogue.read(PO) if m.id}
CHINESE = {str(m.id): str(m.string or "") for m in catalogue.read(PO) if m.id and not m.fuzzy}


TITLE = re.compile(r"[Ss]ee (?:the \w+ \w+ )?“([^”]*)”")
SECTION = re.compile("见“([^”]*)”")


def placeholders(text: str) -> Counter[tuple[str | None, str | None]]:
    return Counter((name, form) for _text, name, form, _how in Formatter().parse(text) if name)


def test_every_message_has_its_chinese_and_there_is_no_other() -> None:
    said = {text for path in PACKAGE.glob("*.py") for text in literals(ast.parse(path.read_text()))}
    assert set(CHINESE) == said
    assert all(CHINESE.values())


def test_the_chinese_has_the_same_placeholders_code_numbers_and_terms() -> None:
    """Code of one placeholder is allowed: it sets apart what another program said in English."""
    for english, chinese in CHINESE.items():
        assert placeholders(english) == placeholders(chinese), english
        assert english.count("*") == chinese.count("*"), english
        found = [f for f in faults(english, chinese) if not re.search(r"code `\{\w+\}`$", f)]
        assert not found, (english, found)


def test_the_committed_catalogue_is_what_the_tool_writes() -> None:
    assert PO.read_bytes() == catalogue.written(catalogue.updated(PO))
    assert PO.with_suffix(".mo").read_bytes() == catalogue.compiled(catalogue.read(PO))


def test_a_section_that_is_named_has_that_title_in_chinese() -> None:
    """On the page of its chapter; as long as that is in English there, its English title."""
    named = 0
    for english, places in PLACES.items():
        named_in_chinese = SECTION.findall(CHINESE[english])
        for title, section in zip(TITLE.findall(english), named_in_chinese, strict=True):
            for chapter in re.findall(r"chapter_(\d\d)", " ".join(places)):
                (page,) = PACKAGE.parents[1].glob(f"book/zh/{chapter}-*.md")
                text = page.read_text(encoding="utf-8").replace("$", "").replace(r"\sqrt d", "√d")
                assert section in text or title in text, (chapter, title, section)
                named += 1
    assert named > 40


# The code


PROSE = re.compile(r"[A-Za-z]{2,}[,;:.]? [A-Za-z]|^[A-Z][a-z]+[.?!]$")


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
            yield node


def literals(tree: ast.AST) -> Iterator[str]:
    for call in calls(tree):
        match call.args:
            case [ast.Constant(value=str() as text)]:
                yield text


def escaped(source: str) -> list[str]:
    """What might be said to a reader and does not go through ``_``.

    Any string that reads like words, and within the message of a verdict or a mistake any string
    with a letter. Not docstrings; not keys of dictionaries, which are looked up; not what is
    handed to ``_``, if it is one literal, which an extractor finds.
    """
    tree = ast.parse(source)
    allowed, said = set[ast.AST](), set[ast.AST]()
    odd = [ast.unparse(node) for node in calls(tree) if not isinstance(node.args[0], ast.Constant)]
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("_"), args=[literal]):
                allowed.add(literal)
            case ast.Expr(value=ast.Constant() as docstring):
                allowed.add(docstring)
            case ast.Dict():
                allowed.update(key for key in node.keys if key)
            case ast.Call(func=ast.Name("Verdict" | "Mistake"), args=[_first, message, *_more]):
                said.update(ast.walk(message))
            case ast.keyword(arg="right" | "message"):
                said.update(ast.walk(node.value))
    return odd + [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in allowed
        if PROSE.search(node.value) or (node in said and re.search("[A-Za-z]", node.value))
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_said_without_the_catalogue(path: Path) -> None:
    """But to programmers, by an error of `speak`."""
    found = escaped(path.read_text(encoding="utf-8"))
    assert [text for text in found if path.stem != "language"] == []


@pytest.mark.parametrize(
    "planted",
    [
        'Mistake(1, "Divide.")',
        'Verdict(False, "No")',
        "Verdict(False, f'{where} Again')",
        'check_function(answer, right="Fine")',
        'check_function(answer, right=_("Fine") + "!" + "Well done")',
        'said = "It drops the same weights."',
        'said = f"got {thing} instead of it"',
        'hints = {"must match": "Two shapes do not fit"}',
        'raise ValueError("return two tensors")',
        'said = _("Two shapes " + "do not fit")',
        'said = _(f"Try {this} again")',
        'Mistake(1, _("The softmax runs over the {}.").format("keys"))',
    ],
)
def test_a_planted_message_is_found(planted: str) -> None:
    assert escaped(planted)


def test_what_is_no_message_is_not_found() -> None:
    source = '''
        """A docstring of some words."""
        hints = {"must match": _("Two shapes do not fit.")}
        Mistake(1, _("Divide by "
                     "the sum."))
        Verdict(False, joined(_("Try {this}.").format(this=f"`{name}({', '.join(names)})`"), where))
    '''
    assert escaped("\n".join(line[8:] for line in source.splitlines())) == []


# What is said


def english_in(verdict: Verdict) -> list[str]:
    """Sentences that are left in English: four words in a row, outside of code."""
    return LEFT_OVER.findall(re.sub("`[^`]*`", "", f"{verdict} {verdict._repr_markdown_()}"))


def assert_chinese(verdict: Verdict) -> None:
    assert not english_in(verdict), verdict
    assert re.match("[✓✗○] (对|还不对|轮到你了)。", repr(verdict)), verdict
    assert re.search("[\u4e00-\u9fff]", verdict.message), verdict
    assert re.search("[。？]$", verdict.message), verdict
    assert not re.search("[{}]", re.sub("`[^`]*`", "", verdict.message)), verdict
    assert not re.search(" [\u4e00-\u9fff]|[。？] ", verdict.message), verdict


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize("name", ANSWERED)
def test_every_answer_is_judged_in_chinese(name: str) -> None:
    check: Check = getattr(exercises, name)
    answers = [row[1] for row in (*RIGHT, *WRONG) if row[0] is check] + ODD + CHEATS
    for answer in answers:
        assert_chinese(check(answer))


def stops(*args: Any) -> Any:
    raise RuntimeError("this is what a program says")


def unknown(*args: Any) -> Any:
    return undefined  # type: ignore[name-defined]


def chatty(*args: Any) -> Any:
    print("three, two, one")


def cheats(*args: Any) -> Any:
    setattr(torch, "equal", lambda *args: True)  # noqa: B010
    return args[0]


def turns_the_language(*args: Any) -> Any:
    speak("en")
    return args[0]


def forgets_the_language(*args: Any) -> Any:
    del language.spoken
    return args[0]


def in_place(weights: Tensor, number: int) -> Tensor:
    return weights.zero_()


HOSTILE: list[tuple[Callable[..., Any], str]] = [
    (stops, "✗ 还不对。它因`RuntimeError`而停下：`this is what a program says`。试一试`weights = "),
    (unknown, "✗ 还不对。有个名字不认识：`name 'undefined' is not defined`。"),
    (chatty, "○ 轮到你了。让`chatty(weights, i)`返回结果。\n它输出了：\nthree, two, one"),
    (cheats, "`equal`变成了别的东西，而这项检查需要它保持原样。"),
    (turns_the_language, "✗ 还不对。"),
    (forgets_the_language, "✗ 还不对。"),
    (in_place, "✗ 还不对。参数被就地改动了：请在副本上做。试一试`"),
    (lambda: 0, "✗ 还不对。它会这样调用：`<lambda>(weights, i)`，可它接受不了这些参数。"),
    (lambda w, i: object(), "✗ 还不对。要的是张量；得到的是`<object object at"),
    (lambda w, i: "I do not know that", "✗ 还不对。要的是张量；得到的是`'I do not know that'`。"),
]


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize(("answer", "said"), HOSTILE)
def test_a_hostile_answer_is_met_in_chinese(answer: Any, said: str) -> None:
    verdict = exercises.check_03_gradient(answer)
    assert said in repr(verdict)
    assert_chinese(Verdict(verdict.right, verdict.message))  # without what it printed


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((3, 1.477), "✓ 对。相隔两个单位，"),
        ([3, 3], "✗ 还不对。你在0处的预测没有理会问题。离0更近的是哪次测量？"),
        ([2, 1.477], "✗ 还不对。不是这个。再看看第1个数。提示也许有帮助。"),
        ([1, 2, 3], "✗ 还不对。数的个数与要求的不同：要2个，形状为(2,)；得到的是`[1, 2, 3]`。"),
        ([..., 3], "○ 轮到你了。把省略号换成你的答案。"),
        ({1, 2}, "✗ 还不对。这是`set`。请只交出里面的数，按要求的次序列成列表。"),
    ],
)
def test_numbers_are_judged_in_chinese(answer: Any, said: str) -> None:
    assert repr(exercises.check_01_by_hand(answer)).startswith(said)


@pytest.mark.usefixtures("chinese")
def test_bold_heads_close_before_chinese_letters() -> None:
    assert Verdict(True, "两个。")._repr_markdown_() == "✓ **对**。两个。"
    printed = Verdict(None, "两个。", "x")._repr_markdown_()
    assert printed == "○ **轮到你了**。两个。\n\n它输出了：\n\n    x"


def test_english_is_the_language_until_another_is_chosen_and_after_an_error() -> None:
    code = (
        "from d2lattn.exercises import check_01_by_hand as check, speak\n"
        "print(check([3, 3]))\n"
        "try: speak('fr')\n"
        "except ValueError as error: print(error)\n"
        "print(check([..., 3]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, error, last = run.stdout.splitlines()
    assert first.startswith("✗ Not yet. Your prediction at 0 ignores the question.")
    assert error == "language must be one of 'en', 'zh_CN'; got 'fr'"
    assert last == "○ Your turn. Put your answer in place of the dots."


@pytest.mark.usefixtures("chinese")
def test_one_goes_to_chinese_and_back() -> None:
    assert _("A hint may help.") == "提示也许有帮助。"
    with pytest.raises(ValueError, match="'en', 'zh_CN'; got 'zh'"):
        speak("zh")
    assert _("A hint may help.") == "提示也许有帮助。", "an error changes nothing"
    speak("en")
    assert _("A hint may help.") == "A hint may help."


def test_chinese_needs_no_babel() -> None:
    code = "import sys, d2lattn.exercises as e; e.speak('zh_CN'); sys.exit('babel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
