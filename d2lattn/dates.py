"""Written dates: sequences to learn from, of which every digit's origin is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from functools import cache
from typing import Any, NamedTuple, cast

import torch

from d2lattn.checks import check_count, check_sizes
from d2lattn.extras import needs

__all__ = [
    "AMBIGUOUS",
    "DAYS",
    "FORMATS",
    "LOCALES",
    "DaySplit",
    "WrittenDate",
    "draw_dates",
    "readings",
    "split_days",
    "write_ambiguous",
    "write_date",
]

LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "zh_CN")
FORMATS = ("short", "medium", "long", "full")
DAYS = tuple(date(1970, 1, 1) + timedelta(n) for n in range(20454))  # to the end of 2025

# Not one of CLDR's: the same text, three ways to read it.
AMBIGUOUS: Mapping[str, str] = {
    "day first": "dd/MM/yy", "month first": "MM/dd/yy", "year first": "yy/MM/dd",
}  # fmt: skip

_Pattern = tuple[tuple[str, str], ...]
_PLACES = {"y": range(4), "M": range(5, 7), "d": range(8, 10)}  # where ISO 8601 writes a field


class WrittenDate(NamedTuple):
    """A date as people write it, as ISO 8601 writes it, and what the one takes from the other.

    Attributes
    ----------
    text, iso
        For instance ``'Mar 4, 2005'`` and ``'2005-03-04'``.
    day, locale, form
        Which day it is, and how it was written.
    fields
        For each character of ``iso`` the positions in ``text`` of the day, month or year that it
        belongs to; empty for a hyphen.
    copied
        For each character of ``iso`` the position in ``text`` of the digit that it repeats; None
        where it repeats none, as in months that are written as words.
    """

    text: str
    iso: str
    day: date
    locale: str
    form: str
    fields: tuple[range, ...]
    copied: tuple[int | None, ...]


def write_date(day: date, locale: str, form: str) -> WrittenDate:
    """A day in words and digits, as a language's Unicode locale data (CLDR) write it.

    Parameters
    ----------
    day
        Any day of a year with four digits; where the year is written with two, of 1970 to 2069.
    locale
        One of ``LOCALES``.
    form
        One of ``FORMATS``.

    Raises
    ------
    TypeError
        If the day is not a ``datetime.date``.
    ValueError
        If locale or form are others, or the year cannot be told from what would be written.
    ModuleNotFoundError
        If Babel is not installed.

    Examples
    --------
    >>> from datetime import date
    >>> written = write_date(date(2018, 12, 31), "en_US", "medium")
    >>> written.text, written.iso
    ('Dec 31, 2018', '2018-12-31')
    >>> written.copied  # the month's digits are not in the text
    (8, 9, 10, 11, None, None, None, None, 4, 5)
    >>> written.fields[5], written.fields[8]
    (range(0, 3), range(4, 6))

    Notes
    -----
    CLDR's ``y`` is the year. Its ``Y`` is the year that the *week* belongs to: with it the text
    above would say 2019, and one label in 250 would be wrong.
    """
    _check_one_of("locale", locale, LOCALES)
    _check_one_of("form", form, FORMATS)
    return _write(day, locale, form, _pattern(locale, form))


def write_ambiguous(day: date, order: str) -> WrittenDate:
    """A day in three pairs of digits, which do not say which of them is the year.

    Parameters
    ----------
    day
        Any day of 1970 to 2069.
    order
        One of ``AMBIGUOUS``: ``"day first"``, ``"month first"`` or ``"year first"``.

    Raises
    ------
    TypeError, ValueError, ModuleNotFoundError
        As :func:`write_date`.

    Examples
    --------
    >>> write_ambiguous(date(2005, 4, 3), "day first").text
    '03/04/05'
    """
    _check_one_of("order", order, tuple(AMBIGUOUS))
    return _write(day, "en_GB", order, _parsed(AMBIGUOUS[order]))


def readings(text: str) -> dict[str, date]:
    """Which days three pairs of digits may mean, by the order in which they are read.

    Raises
    ------
    ValueError
        If the text is no such date.

    Examples
    --------
    >>> for order, day in readings("03/04/05").items():
    ...     print(order, day)
    day first 2005-04-03
    month first 2005-03-04
    year first 2003-04-05
    """
    parts = text.split("/")
    if [len(part) for part in parts] != [2, 2, 2] or not "".join(parts).isdecimal():
        raise ValueError(f"text must be three pairs of digits, such as 03/04/05; got {text!r}")
    found = {}
    for order, pattern in AMBIGUOUS.items():
        number = {
            field[0]: int(part) for field, part in zip(pattern.split("/"), parts, strict=True)
        }
        century = 1900 if number["y"] >= 70 else 2000
        try:
            found[order] = date(century + number["y"], number["M"], number["d"])
        except ValueError:  # no such day
            continue
    return found


class DaySplit(NamedTuple):
    """Days to learn from, days to choose with, and days that nothing was ever learned from."""

    train: tuple[date, ...]
    valid: tuple[date, ...]
    test: tuple[date, ...]


def split_days(seed: int = 0, *, valid: int = 500, test: int = 1000) -> DaySplit:
    """Every day of ``DAYS`` in one of three parts: no form of a test day is in the others.

    Raises
    ------
    TypeError, ValueError
        If a number is not an integer of at least 0, or nothing is left to learn from.

    Examples
    --------
    >>> [len(days) for days in split_days()]
    [18954, 500, 1000]
    """
    for name, number in (("seed", seed), ("valid", valid), ("test", test)):
        check_count(name, number)
    if valid + test >= len(DAYS):
        raise ValueError(f"valid + test must be less than {len(DAYS)} days; got {valid + test}")
    order = torch.randperm(len(DAYS), generator=torch.Generator().manual_seed(seed)).tolist()
    days = tuple(DAYS[i] for i in order)
    return DaySplit(days[valid + test :], days[test : valid + test], days[:test])


def draw_dates(
    days: Sequence[date],
    number: int,
    generator: torch.Generator,
    *,
    ambiguous: bool = False,
) -> list[WrittenDate]:
    """Days at random, in random locales and formats, all equally likely.

    Parameters
    ----------
    days
        Where to draw from, with replacement.
    number
        How many.
    generator
        What draws: the same state gives the same dates.
    ambiguous
        Whether every second date, on average, comes in one of the ``AMBIGUOUS`` orders.

    Raises
    ------
    TypeError, ValueError
        If there is nothing to draw, or from.

    Examples
    --------
    >>> drawn = draw_dates(DAYS, 3, torch.Generator().manual_seed(0))
    >>> [written.iso for written in drawn] == [str(written.day) for written in drawn]
    True
    """
    check_sizes(number=number)
    if len(days) == 0:
        raise ValueError("days must hold at least one day to draw from; got none")
    which = torch.randint(len(days), (number,), generator=generator).tolist()
    forms = torch.randint(40 if ambiguous else 20, (number,), generator=generator).tolist()
    orders = torch.randint(3, (number,), generator=generator).tolist()
    return [
        write_date(days[i], LOCALES[form // 4], FORMATS[form % 4])
        if form < 20
        else write_ambiguous(days[i], tuple(AMBIGUOUS)[order])
        for i, form, order in zip(which, forms, orders, strict=True)
    ]


def _write(day: date, locale: str, form: str, pattern: _Pattern) -> WrittenDate:
    if not isinstance(day, date):
        raise TypeError(f"day must be a datetime.date; got {type(day).__name__}")
    day = date(day.year, day.month, day.day)  # without a time of day
    value = {"y": day.year, "M": day.month, "d": day.day, "E": day.weekday()}
    words = [
        token if kind == "chars" else _field(locale, token, value[token[0]])
        for kind, token in pattern
    ]
    if ("field", "yy") in pattern and not 1970 <= day.year <= 2069:
        raise ValueError(f"day must lie in 1970 to 2069, its year has two digits; got {day}")
    fields, copied = _aligned(pattern, tuple(map(len, words)))
    return WrittenDate("".join(words), day.isoformat(), day, locale, form, fields, copied)


@cache
def _aligned(
    pattern: _Pattern, lengths: tuple[int, ...]
) -> tuple[tuple[range, ...], tuple[int | None, ...]]:
    """The fields and the digits that each character of the ISO date comes from."""
    fields: list[range] = [range(0)] * 10
    copied: list[int | None] = [None] * 10
    start = 0
    for (kind, token), length in zip(pattern, lengths, strict=True):
        span = range(start, start + length)
        start += length
        if kind == "chars" or token[0] not in _PLACES:
            continue
        for place in _PLACES[token[0]]:
            fields[place] = span
        if token not in ("MMM", "MMMM"):  # its digits are the field's, or the last of them
            for place, position in zip(reversed(_PLACES[token[0]]), reversed(span), strict=False):
                copied[place] = position
    return tuple(fields), tuple(copied)


@cache
def _pattern(locale: str, form: str) -> _Pattern:
    with needs("notebook"):
        from babel.dates import get_date_format

    return _parsed(get_date_format(cast(Any, form), locale).pattern)


@cache
def _parsed(pattern: str) -> _Pattern:
    """Its parts: ("chars", what to write) or ("field", for instance "dd")."""
    with needs("notebook"):
        from babel.dates import tokenize_pattern

    parts: list[tuple[str, Any]] = tokenize_pattern(pattern)
    return tuple((kind, x if kind == "chars" else x[0] * x[1]) for kind, x in parts)


@cache
def _field(locale: str, token: str, value: int) -> str:
    """A year, a month, a day or a weekday (0 is Monday), as a pattern's field says."""
    with needs("notebook"):
        from babel.dates import format_date

    on = {
        "y": lambda: date(value, 7, 1),
        "M": lambda: date(2001, value, 1),
        "d": lambda: date(2001, 1, value),
        "E": lambda: date(2001, 1, 1 + value),  # a Monday
    }[token[0]]()
    return format_date(on, token, locale)


def _check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
