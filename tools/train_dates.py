"""``python -m tools.train_dates``: train what chapter 9 shows, and store it in the package.

Every run goes on from where it was interrupted (``_build/dates``). What is there is not trained
again; to train everything anew, delete that folder. On two cores it takes half an hour.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from d2lattn.date_reader import RUNS, STEPS, STORED, Run, draw_for, read, start
from d2lattn.dates import FORMATS, LOCALES, WrittenDate, split_days, write_date
from d2lattn.seq2seq import Seq2Seq
from d2lattn.training import train

WORK = Path("_build/dates")
LOOKS = (25, 50, 100, 150, 200, 300, 450, STEPS)  # steps after which a model is looked at
DAYS_MEASURED = 250  # of the test days, each in every locale and format


def main() -> None:
    """Train, measure, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}; by default all")
    parser.add_argument("--steps", type=int, default=STEPS, help="stop after so many")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    STORED.mkdir(exist_ok=True)
    for name in tqdm(arguments.names or list(RUNS), unit="model", position=1):
        summary = WORK / f"{name}.json"
        if not summary.exists():
            found = trained(name, RUNS[name], arguments.steps)
            if arguments.steps < STEPS:
                continue
            summary.write_text(json.dumps(found), "utf-8")
        gather()


def trained(name: str, run: Run, steps: int) -> dict[str, Any]:
    """Train one model to its end; what was seen on the way, and what it can do."""
    model, draw = start(run), draw_for(run)
    path = WORK / f"{name}.pt"
    sample = dates_of_test_days(10)
    looks_file = WORK / f"{name}.looks.json"
    looks = json.loads(looks_file.read_text("utf-8")) if looks_file.exists() else {}
    for until in LOOKS:
        curve = train(
            model, draw, steps=STEPS, seed=run.seed, until=min(until, steps), path=path,
        )  # fmt: skip
        if until > steps:
            return {}
        if str(until) not in looks and len(curve) == until:
            looks[str(until)] = means(model, sample)
            looks_file.write_text(json.dumps(looks), "utf-8")
    rounded(model)
    if run.seed == 0 and run.keep:
        state = {key: value.half() for key, value in model.state_dict().items()}
        torch.save(state, STORED / f"{name}.pt")
    return {
        "curve": [round(loss, 5) for loss in curve.tolist()],
        "looks": looks,
        **measures(model, dates_of_test_days(DAYS_MEASURED)),
    }


def dates_of_test_days(number: int) -> list[WrittenDate]:
    """Days that no model learned from, in every locale and format."""
    days = split_days().test[:number]
    return [write_date(day, place, form) for day in days for place in LOCALES for form in FORMATS]


def rounded(model: Seq2Seq) -> None:
    """With the weights that are stored, in float16."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())


def means(model: Seq2Seq, dates: list[WrittenDate]) -> dict[str, float]:
    """Shares of exact answers, and mean weights on the right field and the right character."""
    reading = read(model, dates)
    found = {"exact": float(reading.right.double().mean())}
    if reading.on_field is not None and reading.on_character is not None:
        found["field"] = float(reading.on_field.double().mean())
        found["character"] = float(reading.on_character.double().mean())
    return {key: round(value, 5) for key, value in found.items()}


def measures(model: Seq2Seq, dates: list[WrittenDate]) -> dict[str, Any]:
    """The same, also for each locale, for each format and for each length."""
    reading = read(model, dates)
    lengths, right = Counter(), Counter()  # type: ignore[var-annotated]
    for written, good in zip(dates, reading.right.tolist(), strict=True):
        lengths[len(written.text)] += 1
        right[len(written.text)] += good
    table = [
        [
            means(model, [x for x in dates if (x.locale, x.form) == (place, form)])
            for form in FORMATS
        ]
        for place in LOCALES
    ]
    return {
        **means(model, dates),
        "table": table,
        "lengths": {str(length): [right[length], lengths[length]] for length in sorted(lengths)},
    }


def gather() -> None:
    """All results that there are, in one small file of the package."""
    found = {
        name: json.loads((WORK / f"{name}.json").read_text("utf-8"))
        for name in RUNS
        if (WORK / f"{name}.json").exists()
    }
    lines = [f"{json.dumps(name)}: {json.dumps(result)}" for name, result in found.items()]
    (STORED / "results.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
