"""What is stored for chapter 9 is what its command trains: files, first steps, measures."""

from __future__ import annotations

from datetime import date

import pytest
import torch

from d2lattn.date_reader import (
    ISO,
    LETTERS,
    RUNS,
    STEPS,
    STORED,
    VARIANTS,
    draw_for,
    make_reader,
    read,
    start,
    stored,
    stored_results,
)
from d2lattn.dates import (
    AMBIGUOUS,
    DAYS,
    FORMATS,
    LOCALES,
    readings,
    split_days,
    write_ambiguous,
    write_date,
)
from d2lattn.decoding import beam_search
from d2lattn.training import train

KEPT = [name for name, run in RUNS.items() if run.keep]
RESULTS = stored_results()
SEEDS = ["", "-1", "-2", "-3", "-4"]


def dates_of(days, locales=LOCALES, forms=FORMATS):
    return [write_date(day, place, form) for day in days for place in locales for form in forms]


def test_the_letters_are_those_of_all_written_dates():
    written = "".join(x.text for x in dates_of(DAYS[:800:9]))
    written += "".join(write_ambiguous(day, order).text for day in DAYS[:40] for order in AMBIGUOUS)
    assert set(written) == set(LETTERS.characters)
    assert set("".join(map(str, DAYS[:800]))) == set(ISO.characters)


# One of each kind, and another seed.
@pytest.mark.parametrize("name", [*(n for n in RUNS if RUNS[n].seed == 0), "dot-product-3"])
def test_a_run_of_every_kind_begins_as_the_stored_one_did(name):
    steps, run = 3, RUNS[name]
    curve = train(
        start(run).double(), draw_for(run), steps=STEPS, seed=run.seed, until=steps, progress=False
    )
    known = torch.tensor(RESULTS[name]["curve"], dtype=torch.float64)
    assert len(known) == STEPS
    # Stored with five digits, trained in float32; this one in float64.
    torch.testing.assert_close(curve, known[:steps], rtol=0, atol=1e-4)


def test_every_run_has_its_results_and_nothing_else_has():
    assert list(RESULTS) == list(RUNS)


def test_another_seed_begins_otherwise():
    first = [round(RESULTS[f"additive{seed}"]["curve"][0], 4) for seed in SEEDS]
    assert len(set(first)) == 5


@pytest.mark.parametrize("name", KEPT)
def test_a_stored_model_is_small_and_as_good_as_its_results_say(name):
    assert (STORED / f"{name}.pt").stat().st_size < 150_000
    reading = read(stored(name), dates_of(split_days().test[:12]))
    assert reading.right.double().mean() > 0.98
    assert reading.on_field is not None
    assert reading.on_character is not None
    assert abs(float(reading.on_field.mean()) - RESULTS[name]["field"]) < 0.03
    assert abs(float(reading.on_character.mean()) - RESULTS[name]["character"]) < 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_reaches_the_target_on_days_that_were_never_seen(seed):
    assert RESULTS[f"additive{seed}"]["exact"] >= 0.995
    assert RESULTS[f"dot-product{seed}"]["exact"] >= 0.99


def test_the_ambiguous_model_finds_all_three_readings_where_the_chapter_says_so():
    tokens, lens = LETTERS.encode(["10/11/12"])
    found = beam_search(stored("ambiguous"), tokens, lens, max_steps=12, beam_size=3)
    assert set(ISO.decode(found.tokens[0])) == {str(day) for day in readings("10/11/12").values()}
    assert found.log_probs[0].exp().sum() > 0.7


def test_a_reading_is_measured_where_something_is_copied():
    dates = [write_date(date(2005, 3, 4), "en_US", "medium")]  # Mar 4, 2005
    reading = read(stored("additive"), dates)
    assert reading.texts == ["2005-03-04"]
    assert reading.weights is not None
    assert reading.on_field is not None
    assert reading.on_character is not None
    weights = reading.weights[0]
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(10))
    year = sum(float(weights[i, 7 + i]) for i in range(4))
    assert float(reading.on_character[0]) == pytest.approx((year + float(weights[9, 4])) / 5)
    field = float(weights[:4, 7:11].sum()) + float(weights[9, 4])
    assert float(reading.on_field[0]) == pytest.approx(field / 5)


def test_a_model_that_does_not_attend_has_no_alignment():
    reading = read(make_reader("fixed context", 0), dates_of(DAYS[:1]))
    assert reading.weights is reading.on_field is reading.on_character is None
    assert reading.right.shape == (20,)


def test_what_is_unknown_is_refused():
    with pytest.raises(ValueError, match="variant must be one of additive, dot product"):
        make_reader("multiplicative", 0)
    with pytest.raises(ValueError, match="name must be one of additive, dot-product, bilinear"):
        stored("fixed-context")
    with pytest.raises(ValueError, match="texts must hold at least one text"):
        read(make_reader("additive", 0), [])
    assert set(VARIANTS) == {run.variant for run in RUNS.values()}
