"""What can be wrong with a translated piece without anybody reading it: the rules of `book/zh/`.

Numbers, formulas, roles, links and code must be those of the English; terms are those of
`book/zh/terms.md`; and the Chinese is punctuated and spaced as Chinese.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from words import ROLES

TERMS = Path(__file__).resolve().parents[1] / "book" / "zh" / "terms.md"

HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
HELD = "\N{OBJECT REPLACEMENT CHARACTER}"  # for what is no words: code, formulas, roles
PARTS = re.compile(
    r"""
    (?P<fence>^(?P<ticks>`{3,}|~{3,}|:{3,})(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=ticks)[ ]*$)
    | (?P<role>\{(?P<kind>[\w:.+-]+)\}`(?P<said>[^`]+)`)
    | (?P<code>(?<!`)(?P<run>`+)(?!`).+?(?<!`)(?P=run)(?!`))
    | (?P<display>^\$\$(?P<tex>.+?)\$\$(?:[ ]*\((?P<number>[\w:-]+)\))?[ ]*$)
    | (?P<inline>(?<![\\$])\$(?!\s)[^$\n]+?\$)
    | (?P<target>^\((?P<label>[\w-]+)\)=$)
    | (?P<tag></?[a-z][^<>]*>)
    | (?P<link>\]\((?P<to>[^()\s]*)\))
    | (?P<span>\]\{(?P<class>[^{}]*)\})
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
OPTION = re.compile(r"^:([\w-]+):[ ]*(.*)\n", re.MULTILINE)
COMMENT = re.compile(r"(?m) *# (.*)$")
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\w])|(?<=[^\w.])\d+(?=[a-z%])", re.ASCII)

# What stands between two Chinese characters is Chinese, and there is no gap beside one. A gap
# after a mark of Markdown, such as that of a list, is none.
HALF_WIDTH = re.compile(
    rf"[{HAN}][,;:!?]|[{HAN}]\.(?!\w)|[,;:!?](?=[{HAN}])|\((?=[{HAN}])|[{HAN}]\)"
)
MARKS = "，。；：！？、（）《》“”"
GAP = re.compile(rf"[{HAN}{MARKS}] +[\w{HAN}{HELD}]|[\w{HELD}]+ +(?=[{HAN}{MARKS}])")
LEFT_OVER = re.compile(r"[A-Za-z][a-z'’]*(?:[ ,]+[A-Za-z'’]+){3,}")
TITLE_OF_A_WORK = re.compile(r"《[^》]*》|“[A-Za-z][^”]*”|\*[A-Z][^*]*\*|（[A-Za-z][^（）]*）")


@dataclass(frozen=True)
class Term:
    """A term of the book: how English says it, how Chinese may."""

    english: re.Pattern[str]
    chinese: tuple[str, ...]


@cache
def terms() -> tuple[Term, ...]:
    """The table of `terms.md`: English, Chinese and its other forms, note.

    What a note says to depend on the context (依语境) is left to the reader.
    """
    found = list[Term]()
    for line in TERMS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 3 or set(cells[0]) <= set("-: "):
            continue
        english, chinese, note = cells
        if english == "English" or note.startswith("依语境"):
            continue
        words = "|".join(_forms(word.strip()) for word in english.split(";"))
        found.append(
            Term(
                re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE),
                tuple(word.strip() for word in chinese.split("；")),
            )
        )
    return tuple(sorted(found, key=lambda term: -len(term.english.pattern)))


def _forms(word: str) -> str:
    """A word and its plural."""
    plural = rf"{word[:-1]}(?:ys?|ies)" if word.endswith("y") else rf"{word}(?:s|es)?"
    return plural.replace(" ", r"\s+")


@dataclass
class Read:
    """A text taken apart: its words, and what must be the same in both languages."""

    words: str
    parts: Counter[str]
    numbers: Counter[str]
    headings: list[int]
    rows: list[int]


def read(text: str) -> Read:
    taken = _Taken()
    words = PARTS.sub(taken, text)
    plain = re.sub(r"\$[^$\n]*\$|`[^`\n]*`", "", text).splitlines()
    return Read(
        re.sub(r"(?m)^(\s*)(?:[-*+]|\d+\.|>|#+|\|)\s+", r"\1", words).replace("[", ""),
        taken.parts,
        Counter(NUMBER.findall(words)),
        [len(match[1]) for match in re.finditer(r"(?m)^(#+) ", text)],
        [line.count("|") for line in plain if line.startswith("|")],
    )


class _Taken:
    """What stands between the words, counted. Called with each, it gives the words in it."""

    def __init__(self) -> None:
        self.parts = Counter[str]()

    def __call__(self, match: re.Match[str]) -> str:
        kind = next(name for name in KINDS if match[name])
        return str(getattr(self, f"_{kind}")(match))

    def _note(self, part: str, words: str = HELD) -> str:
        self.parts[part] += 1
        return words

    def _fence(self, match: re.Match[str]) -> str:
        code, directive = match[0], re.match(r"\{([\w-]+)\}(.*)", match["info"])
        if directive and directive[1] == "glossary":
            return self._note(f"block {match['info']}", match["body"])
        if directive and directive[1] == "figure":
            options = dict(OPTION.findall(match["body"]))
            alt = options.pop("alt", "")
            return self._note(f"figure {match['info']} {options}", self._inside(alt, match))
        if directive and directive[1] not in {"eval-rst", "code-block", "code"}:
            return self._note(f"block {directive[1]}", self._inside(directive[2], match))
        if match["info"] == "sh":  # whose comments are words
            said = "\n".join(COMMENT.findall(code))
            return self._note(f"code {COMMENT.sub('', code)}", f"{HELD}\n{said}")
        return self._note(f"code {code}")

    def _inside(self, title: str, match: re.Match[str]) -> str:
        inside = read(f"{title}\n\n{OPTION.sub('', match['body'])}")
        self.parts.update(inside.parts)
        return f"\n{inside.words}\n"

    def _role(self, match: re.Match[str]) -> str:
        target = re.fullmatch(r"(.*?)\s*<([^<>]+)>", match["said"], re.DOTALL)
        words, name = target.groups() if target else ("", match["said"])
        if match["kind"] == "term":  # its name is what is read, in whatever case
            words, name = words or name, name.lower()
        return self._note(f"role {match['kind']} {name}", words or HELD)

    def _code(self, match: re.Match[str]) -> str:
        return self._note(f"code {match['code']}")

    def _display(self, match: re.Match[str]) -> str:
        tex = " ".join(match["tex"].split())
        return self._note(f"formula {tex} ({match['number']})", f"\n{HELD}\n")

    def _inline(self, match: re.Match[str]) -> str:
        return self._note(f"formula {match['inline']}")

    def _target(self, match: re.Match[str]) -> str:
        return self._note(f"label {match['label']}", "")

    def _tag(self, match: re.Match[str]) -> str:
        block = match["tag"].strip("</>").split()[0] in BLOCKS
        return self._note(f"tag {match['tag']}", "\n" if block else "")

    def _link(self, match: re.Match[str]) -> str:
        return self._note(f"link {match['to']}", "")

    def _span(self, match: re.Match[str]) -> str:
        if match["class"] == ".zh":  # Chinese words beside the English, which say so
            return ""
        return self._note(f"class {match['class']}", "")


KINDS = ("fence", "role", "code", "display", "inline", "target", "tag", "link", "span")
BLOCKS = {"details", "summary", "div", "p", "br"}


def faults(english: str, chinese: str) -> Iterator[str]:
    """What is wrong with a translation, in sentences that say what to change."""
    source, target = read(english), read(chinese)
    if not chinese.strip():
        yield "there are no words"
        return
    yield from _different(source.parts, target.parts)
    yield from _different(source.numbers, target.numbers, "number ")
    if source.headings != target.headings:
        yield f"headings of other levels: {target.headings}, in English {source.headings}"
    if source.rows != target.rows:
        yield f"a table of another form: {target.rows}, in English {source.rows}"
    yield from typography(chinese)
    yield from terminology(source.words, target.words)


def _different(source: Counter[str], target: Counter[str], kind: str = "") -> Iterator[str]:
    missing, added = source - target, target - source
    if missing:
        yield f"missing: {_listed(missing, kind)}"
    if added:
        yield f"not in the English: {_listed(added, kind)}"


def _listed(some: Counter[str], kind: str) -> str:
    return "; ".join(
        f"{kind}{part}" + (f" ({n} times)" if n > 1 else "") for part, n in some.items()
    )


def typography(chinese: str) -> Iterator[str]:
    words = read(chinese).words
    kinds = {
        "half-width punctuation beside a Chinese character": HALF_WIDTH,
        "a gap beside a Chinese character or mark": GAP,
    }
    for what, pattern in kinds.items():
        found = [_around(words, match) for match in pattern.finditer(words)]
        if found:
            yield f"{what}: {'; '.join(found[:8])}"
    prose = TITLE_OF_A_WORK.sub("", words)
    left = [match[0] for match in LEFT_OVER.finditer(prose)]
    left = [words for words in left if not any(term.english.fullmatch(words) for term in terms())]
    if left:
        yield f"English left over: {'; '.join(left[:5])}"
    plain = re.sub(r"\$[^$]+\$|^```.*?^```$", "$x$", chinese, flags=re.MULTILINE | re.DOTALL)
    marks = re.sub(r"<code>.*?</code>", "", MarkdownIt("commonmark").render(plain), flags=re.DOTALL)
    bare = [_around(marks, match) for match in re.finditer(r"\*+", marks)]
    if bare:
        yield f"not taken for bold type, so move marks out of the asterisks: {'; '.join(bare)}"


def _around(text: str, match: re.Match[str]) -> str:
    return repr(text[max(0, match.start() - 8) : match.end() + 8].replace(HELD, "…"))


def terminology(english: str, chinese: str) -> Iterator[str]:
    """Terms of the English whose Chinese is not there; query, key and value also the other way,
    and paragraph by paragraph."""
    rest = english
    for term in terms():  # the longest first: what it has named is not also the shorter one
        has = term.english.search(rest)
        if has and not any(word in chinese for word in term.chinese):
            yield f"“{has[0]}” is {' or '.join(term.chinese)} in Chinese"
        role = ROLES.get(term.chinese[0])
        if role and not has and (found := re.search(role, chinese)):
            yield f"{found[0]} is not in the English: {_around(chinese, found)}"
        if "\\s+" in term.english.pattern or "-" in term.english.pattern:
            rest = term.english.sub(HELD, rest)
    first, second = (_paragraphs(text) for text in (english, chinese))
    if len(first) != len(second):
        yield f"{len(second)} paragraphs, in English {len(first)}"
        return
    for term in (term for term in terms() if term.chinese[0] in ROLES):
        for one, other in zip(first, second, strict=True):
            if term.english.search(one) and term.chinese[0] not in other:
                yield f"no {term.chinese[0]} in the paragraph {other.strip()[:30]!r}"


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]
