"""In which language the checks answer: a catalogue of messages, as Python's gettext reads it."""

from __future__ import annotations

from gettext import NullTranslations, translation
from pathlib import Path

LOCALES = Path(__file__).resolve().parents[1] / "locale"

spoken = NullTranslations()


def _(message: str) -> str:
    """A message in the language that is spoken now; English stands in the code."""
    return spoken.gettext(message)


def speak(language: str) -> None:
    """Let all checks answer in ``"zh_CN"``, Chinese, or again in ``"en"``, English.

    Examples
    --------
    >>> from d2lattn.exercises import check_01_by_hand, speak
    >>> speak("zh_CN")
    >>> check_01_by_hand([..., ...])
    ○ 轮到你了。把省略号换成你的答案。
    >>> speak("en")
    >>> check_01_by_hand([..., ...])
    ○ Your turn. Put your answer in place of the dots.
    """
    global spoken
    known = ["en", *sorted(path.name for path in LOCALES.iterdir())]
    if language not in known:
        raise ValueError(f"language must be one of {', '.join(map(repr, known))}; got {language!r}")
    spoken = NullTranslations() if language == "en" else translation("d2lattn", LOCALES, [language])
