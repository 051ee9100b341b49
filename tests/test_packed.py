"""Weights in one character each, and back."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from d2lattn.date_reader import read, stored
from d2lattn.dates import FORMATS, LOCALES, split_days, write_date
from d2lattn.packed import CHARACTERS, pack, unpack


def layer(*rows: list[float]) -> nn.Linear:
    made = nn.Linear(len(rows[0]), len(rows), bias=False)
    made.weight.data.copy_(torch.tensor(rows))
    return made


def test_every_number_has_a_character_that_nothing_escapes():
    assert len(set(CHARACTERS)) == len(CHARACTERS) == 89
    text = json.dumps(CHARACTERS)
    assert len(text.encode()) == 91
    assert not set(text) & set("<>&\\")


def test_no_weight_moves_by_more_than_half_a_unit():
    made = nn.GRU(5, 7, bidirectional=True)
    packed = pack(made)
    for name, found in unpack(packed, made).items():
        weights = made.state_dict()[name]
        unit = weights.abs().max() / 44
        assert (found - weights).abs().max() <= 0.501 * unit
        assert (found - weights).abs().max() > 0.3 * unit  # it does round
        assert found.shape == weights.shape
        assert found.dtype == weights.dtype


def test_what_is_packed_again_is_the_same():
    made = nn.Linear(6, 4).half()
    packed = pack(made)
    again = copy.deepcopy(made)
    again.load_state_dict(unpack(packed, made))
    assert pack(again)["bias"]["numbers"] == packed["bias"]["numbers"]
    for name, weights in again.state_dict().items():
        assert torch.equal(weights, unpack(packed, made)[name])


def test_the_largest_weights_are_the_ends_and_zero_the_middle():
    assert pack(layer([-2.0, 0.0, 2.0]))["weight"]["numbers"] == "".join(CHARACTERS[::44])
    zeros = layer([0.0, 0.0])
    assert torch.equal(unpack(pack(zeros), zeros)["weight"], zeros.weight)


@pytest.mark.parametrize("name", ["additive", "dot-product"])
def test_a_reader_of_dates_reads_on(name):
    model = stored(name)
    small = copy.deepcopy(model)
    packed = pack(model)
    small.load_state_dict(unpack(packed, model))
    assert len(json.dumps(packed)) < 64_000
    days = split_days().test[400:402]
    dates = [write_date(day, place, form) for day in days for place in LOCALES for form in FORMATS]
    before, after = read(model, dates), read(small, dates)
    assert after.texts == before.texts
    assert before.on_character is not None
    assert after.on_character is not None
    assert (after.on_character - before.on_character).abs().mean() < 0.02


def test_what_cannot_be_packed_or_unpacked_is_named():
    with pytest.raises(ValueError, match=r"weight must have finite numbers; got tensor\(\[inf"):
        pack(layer([1.0, torch.inf]))
    with pytest.raises(TypeError, match="num_batches_tracked"):
        pack(nn.BatchNorm1d(3))
    packed = pack(layer([1.0, 2.0]))
    with pytest.raises(ValueError, match="packed must have weight, bias; got weight"):
        unpack(packed, nn.Linear(2, 1))
    with pytest.raises(ValueError, match="must hold 3 characters of CHARACTERS; got 2"):
        unpack(packed, layer([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="must hold 2 characters"):
        unpack({"weight": {"unit": 1.0, "numbers": "1<"}}, layer([1.0, 2.0]))
