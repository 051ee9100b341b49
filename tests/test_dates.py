"""Written dates: every day in every locale and format, against plain templates and Babel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime

import pytest
import torch
from babel.dates import format_date

from d2lattn.dates import (
    AMBIGUOUS,
    DAYS,
    FORMATS,
    LOCALES,
    draw_dates,
    readings,
    split_days,
    write_ambiguous,
    write_date,
)

EN_SHORT = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
GB_SHORT = [name.replace("Sep", "Sept") for name in EN_SHORT]
EN = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
EN_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
DE = [
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
]
DE_DAYS = ["Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"]
FR_SHORT = [
    "janv.",
    "févr.",
    "mars",
    "avr.",
    "mai",
    "juin",
    "juil.",
    "août",
    "sept.",
    "oct.",
    "nov.",
    "déc.",
]
FR = [
    "janvier",
    "février",
    "mars",
    "avril",
    "mai",
    "juin",
    "juillet",
    "août",
    "septembre",
    "octobre",
    "novembre",
    "décembre",
]
FR_DAYS = ["lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"]

# What a date consists of, in order: (field, how it is written); written by hand, from CLDR 47.
Part = tuple[str, Callable[[date], str]]


def year(d: date) -> str:
    return str(d.year)


def two(number: int) -> str:
    return f"{number:02d}"


Y: Part = ("y", year)
YY: Part = ("y", lambda d: two(d.year % 100))
M: Part = ("m", lambda d: str(d.month))
MM: Part = ("m", lambda d: two(d.month))
D: Part = ("d", lambda d: str(d.day))
DD: Part = ("d", lambda d: two(d.day))


def month(names: list[str]) -> Part:
    return "m", lambda d: names[d.month - 1]


def weekday(names: list[str]) -> Part:
    return "", lambda d: names[d.weekday()]


CHINESE = [weekday([f"星期{sign}" for sign in "一二三四五六日"])]
TEMPLATES: dict[tuple[str, str], list[Part | str]] = {
    ("en_US", "short"): [M, "/", D, "/", YY],
    ("en_US", "medium"): [month(EN_SHORT), " ", D, ", ", Y],
    ("en_US", "long"): [month(EN), " ", D, ", ", Y],
    ("en_US", "full"): [weekday(EN_DAYS), ", ", month(EN), " ", D, ", ", Y],
    ("en_GB", "short"): [DD, "/", MM, "/", Y],
    ("en_GB", "medium"): [D, " ", month(GB_SHORT), " ", Y],
    ("en_GB", "long"): [D, " ", month(EN), " ", Y],
    ("en_GB", "full"): [weekday(EN_DAYS), ", ", D, " ", month(EN), " ", Y],
    ("de_DE", "short"): [DD, ".", MM, ".", YY],
    ("de_DE", "medium"): [DD, ".", MM, ".", Y],
    ("de_DE", "long"): [D, ". ", month(DE), " ", Y],
    ("de_DE", "full"): [weekday(DE_DAYS), ", ", D, ". ", month(DE), " ", Y],
    ("fr_FR", "short"): [DD, "/", MM, "/", Y],
    ("fr_FR", "medium"): [D, " ", month(FR_SHORT), " ", Y],
    ("fr_FR", "long"): [D, " ", month(FR), " ", Y],
    ("fr_FR", "full"): [weekday(FR_DAYS), " ", D, " ", month(FR), " ", Y],
    ("zh_CN", "short"): [Y, "/", M, "/", D],
    ("zh_CN", "medium"): [Y, "年", M, "月", D, "日"],
    ("zh_CN", "long"): [Y, "年", M, "月", D, "日"],
    ("zh_CN", "full"): [Y, "年", M, "月", D, "日", *CHINESE],
}
FIELD_OF = "yyyy-mm-dd"  # to which field each character of an ISO date belongs


def by_hand(day: date, template: list[Part | str]) -> tuple[str, dict[str, tuple[int, str]]]:
    """The text, and where each field begins and what it says."""
    text, found = "", {}
    for part in template:
        if isinstance(part, str):
            text += part
            continue
        words = part[1](day)
        found[part[0]] = (len(text), words)
        text += words
    return text, found


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("locale", LOCALES)
def test_every_day_is_written_right_and_every_digit_comes_from_where_it_should(locale, form):
    template = TEMPLATES[locale, form]
    for day in DAYS:
        written = write_date(day, locale, form)
        text, found = by_hand(day, template)
        assert (written.text, written.iso, written.day) == (text, str(day), day)
        for place, field in enumerate(FIELD_OF):
            span, position = written.fields[place], written.copied[place]
            if field == "-":
                assert (len(span), position) == (0, None)
                continue
            begin, words = found[field]
            assert span == range(begin, begin + len(words))
            # The digits of a field that is written in digits are the last ones of ISO's.
            behind = FIELD_OF.rindex(field) - place
            if words.isdecimal() and behind < len(words):
                assert position == begin + len(words) - 1 - behind
                assert text[position] == written.iso[place]
            else:
                assert position is None


@pytest.mark.parametrize("locale", LOCALES)
def test_babel_writes_the_same_on_many_days_and_around_every_new_year(locale):
    days = [day for day in DAYS if (day.month, day.day) in {(12, 31), (1, 1), (12, 29), (1, 3)}]
    days += DAYS[::211]
    for day in days:
        for form in FORMATS:
            assert write_date(day, locale, form).text == format_date(day, form, locale)


def test_the_year_is_that_of_the_day_and_not_that_of_its_week():
    day = date(2018, 12, 31)
    assert format_date(day, "Y", "en_US") == "2019"  # the trap
    assert write_date(day, "en_US", "medium").text == "Dec 31, 2018"


def test_there_are_20454_days_of_1970_to_2025():
    assert (len(DAYS), DAYS[0], DAYS[-1]) == (20454, date(1970, 1, 1), date(2025, 12, 31))
    assert len(set(DAYS)) == len(DAYS)


def test_no_text_in_any_locale_and_format_means_two_days():
    meant: dict[str, str] = {}
    for locale, form in TEMPLATES:
        for day in DAYS[::7]:
            text, _ = by_hand(day, TEMPLATES[locale, form])
            assert meant.setdefault(text, str(day)) == str(day)


def test_a_time_of_day_is_no_part_of_a_date():
    assert write_date(datetime(2005, 3, 4, 12, 30), "fr_FR", "short") == write_date(
        date(2005, 3, 4), "fr_FR", "short"
    )


def test_three_pairs_of_digits_mean_what_each_order_reads():
    assert readings("03/04/05") == {
        "day first": date(2005, 4, 3),
        "month first": date(2005, 3, 4),
        "year first": date(2003, 4, 5),
    }
    assert readings("31/12/99") == {"day first": date(1999, 12, 31)}
    assert readings("29/02/01") == {"year first": date(2029, 2, 1)}


@pytest.mark.parametrize("order", AMBIGUOUS)
def test_an_ambiguous_date_can_be_read_as_what_was_written_and_is_aligned_to_it(order):
    for day in DAYS[::37]:
        written = write_ambiguous(day, order)
        assert readings(written.text)[order] == day
        for place, position in enumerate(written.copied):
            if position is not None:
                assert written.text[position] == written.iso[place]
        assert sum(position is not None for position in written.copied) == 6


def test_days_are_split_once_and_the_same_seed_splits_the_same_way():
    parts = split_days(seed=3)
    assert sorted(parts.train + parts.valid + parts.test) == list(DAYS)
    assert (len(parts.valid), len(parts.test)) == (500, 1000)
    assert split_days(seed=3) == parts
    assert split_days(seed=4).test != parts.test
    assert split_days(valid=0, test=0).test == ()


def test_the_same_generator_draws_the_same_dates_of_every_kind():
    def draw(seed: int, **options: bool) -> list:
        generator = torch.Generator().manual_seed(seed)
        return draw_dates(DAYS[:100], 600, generator, **options)

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert {(x.locale, x.form) for x in draw(0)} == set(TEMPLATES)
    assert {x.day for x in draw(0)} <= set(DAYS[:100])
    forms = [x.form for x in draw(0, ambiguous=True)]
    assert set(forms) == {*FORMATS, *AMBIGUOUS}
    assert 240 < sum(form in AMBIGUOUS for form in forms) < 360  # half of 600


DAY = DAYS[0]
GENERATOR = torch.Generator()
WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "locale": (lambda: write_date(DAY, "en", "short"), ValueError, "locale must be one of en_US"),
    "form": (lambda: write_date(DAY, "en_US", "tiny"), ValueError, "form must be one of short"),
    "day": (lambda: write_date("1970-01-01", "en_US", "full"), TypeError, "day must be a datetime"),  # type: ignore[arg-type]
    "century": (
        lambda: write_date(date(1969, 1, 1), "en_US", "short"),
        ValueError,
        "day must lie in 1970 to 2069, its year has two digits; got 1969-01-01",
    ),
    "order": (lambda: write_ambiguous(DAY, "year last"), ValueError, "order must be one of day f"),
    "text": (lambda: readings("3/4/05"), ValueError, "text must be three pairs of digits"),
    "empty text": (lambda: readings(""), ValueError, "text must be three pairs of digits"),
    "nothing left": (lambda: split_days(test=20454), ValueError, r"valid \+ test must be less"),
    "negative": (lambda: split_days(valid=-1), ValueError, "valid must be at least 0; got -1"),
    "no integer": (lambda: split_days(seed=0.5), TypeError, "seed must be an integer"),  # type: ignore[arg-type]
    "no days": (lambda: draw_dates([], 1, GENERATOR), ValueError, "days must hold at least one"),
    "no number": (lambda: draw_dates(DAYS, 0, GENERATOR), ValueError, "number must be at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named(case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call()
