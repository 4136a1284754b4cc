"""What a sweep found."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygen.config.domains import Choice, Range, Space, Value
from raygen.config.run import PRESETS, RunConfig
from raygen.core.storage import Folder
from raygen.evaluation.objective import Objective
from raygen.tuning.confirming import Training, compare
from raygen.tuning.findings import (
    as_csv,
    best_config,
    counts,
    over_seeds,
    sentence,
    write_findings,
)
from raygen.tuning.records import Report, Trial, TrialStatus

SPACE: Space = {
    "lr_g": Range(1e-5, 1e-3, log=True),
    "schedule": Choice(("1:1", "2:1", "two-phase")),
    "label_smoothing": Range(0.0, 0.2),
    "beta1": Choice((0.0, 0.5)),
}
LOW = Objective("quality/swd")
CONFIG = PRESETS["dcgan-celeba"].updated(
    {"steps": 90, "keep": 1, "width": 0.5, "data": "data/celeba"}, "test"
)


def trial(
    number: int,
    objective: float,
    status: TrialStatus = "finished",
    images: int = 900,
    **values: Value,
) -> Trial:
    all_values: dict[str, Value] = {"lr_g": 1e-4, "schedule": "1:1", "label_smoothing": 0.1}
    reports = [Report(images, objective, 12.345, 1, {"quality/swd": objective, "loss/x": 1.0})]
    return Trial(number, all_values | {"beta1": 0.5} | values, status, reports=reports)


TRIALS = [
    trial(0, 34.04),
    trial(17, 21.42, lr_g=2.13e-4, schedule="2:1"),
    trial(3, 80.0, "stopped", 100, schedule="two-phase", beta1=0.0),
    # Far beyond the others, and a default that the space does not have.
    trial(4, 5e4, lr_g=9e-4, label_smoothing=0.2),
    trial(5, 30.0, lr_g=0.5, schedule="7:1"),
    Trial(6, {"lr_g": 1e-4, "schedule": "1:1", "label_smoothing": 0.1, "beta1": 0.5}),
]


def test_the_sentence_says_how_much_was_gained() -> None:
    assert sentence(TRIALS, LOW) == (
        "best SWD 21.42 against 34.04 for the defaults, trial 17: lr_g 2.1e-04, schedule 2:1, "
        "label_smoothing 0.1, beta1 0.5"
    )
    assert sentence(TRIALS[:1], LOW) == (
        "best SWD 34.04: the defaults, trial 0; no other trial is better"
    )
    assert sentence([], LOW) == "no trial has been measured yet"
    short = [trial(0, 34.0, images=450), trial(1, 20.0)]
    assert "against 34 for the defaults (after 450 of 900 images), trial 1" in sentence(short, LOW)
    assert "validation MSE" in sentence(TRIALS, Objective("validation/mse"))


def test_the_best_options_are_those_of_a_run_of_full_length() -> None:
    best = best_config(CONFIG, TRIALS[1])
    preset = PRESETS["dcgan-celeba"]
    assert (best.steps, best.epochs, best.keep) == (0, 0, preset.keep)
    assert best.validation_count == preset.validation_count
    assert (best.width, best.data) == (0.5, "data/celeba")
    assert best.to_json()["lr_g"] == 2.13e-4
    assert best.to_json()["schedule"] == "2:1"


def test_the_table_has_a_row_for_each_trial() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(TRIALS, SPACE, LOW))))
    assert [row["trial"] for row in rows] == ["0", "17", "3", "4", "5", "6"]
    assert rows[1]["sweep_objective"] == rows[1]["quality/swd"] == "21.42"
    assert rows[1]["schedule"] == "2:1"
    assert rows[1]["seconds"] == "12.35"
    assert (rows[5]["sweep_objective"], rows[5]["images_seen"]) == ("", "0")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_everything_is_written_and_the_pictures_show_something(tmp_path: Path, mode: str) -> None:
    objective = Objective("quality/swd", "max" if mode == "max" else "min")
    # The trainings of trial 5 were better, those of trial 17 and the defaults not.
    settings = [TRIALS[0], TRIALS[1], TRIALS[4]]
    runs = [trial(k, objective.sign * value) for k, value in enumerate((30, 29, 9, 31, 30, 10))]
    listed = [Training(t.number, seed) for seed in (1, 2) for t in settings]
    confirmed = compare(settings, listed, runs, objective, [1, 2])
    names = write_findings(
        Folder.at(tmp_path), CONFIG, SPACE, TRIALS, objective, mode == "min", confirmed
    )
    pictures = ["parallel-coordinates.png", "sensitivity.png", "expected-best.png"]
    assert names == ["trials.csv", "best.json", *pictures, "confirmed.json"]
    assert sorted(names) == sorted(file.name for file in tmp_path.iterdir())
    best = json.loads((tmp_path / "best.json").read_text())
    assert RunConfig.from_json(best, "best.json").to_json() == best
    assert best["schedule"] == "7:1"
    for name in pictures:
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
        assert min(pixels.shape[:2]) > 500
        crimson = (abs(pixels - np.array([220, 20, 60])) < 12).all(axis=2)
        # The best trial is there, and is no more than a line or some marks.
        assert 50 < crimson.sum() < 0.1 * crimson.size


def test_a_single_trial_is_a_finding(tmp_path: Path) -> None:
    for number, trials in enumerate((TRIALS[:1], [trial(0, 0.0)], [trial(0, 5.0), trial(1, 5.0)])):
        names = write_findings(Folder.at(tmp_path / str(number)), CONFIG, SPACE, trials, LOW)
        assert len(names) == 5
        best = json.loads((tmp_path / str(number) / "best.json").read_text())
        assert best["schedule"] == "1:1"


def test_failed_and_collapsed_trials_are_counted() -> None:
    assert counts(TRIALS) == "6 trials"
    repeating = [Report(900, 9.0, 1, 1, {"quality/variety_domain": variety}) for variety in (0, 1)]
    more = [replace(TRIALS[0], reports=[report]) for report in repeating]
    more.append(replace(TRIALS[0], status="failed"))
    assert counts(more) == "3 trials: 1 failed, 1 collapsed (samples repeat)"
    assert counts(more[1:2]) == "1 trial"


def test_without_a_measurement_there_is_only_the_table(tmp_path: Path) -> None:
    nothing = [TRIALS[5]]
    assert write_findings(Folder.at(tmp_path), CONFIG, SPACE, nothing, LOW) == ["trials.csv"]


def test_settings_with_several_seeds_are_told_by_mean_and_spread() -> None:
    trials = [
        trial(0, 30.0, seed=0),
        trial(1, 40.0, seed=1),
        trial(2, 20.0, schedule="two-phase", seed=0),
        trial(3, 22.0, schedule="two-phase", seed=1),
        trial(4, 24.0, schedule="two-phase", seed=2),
        # Once is no spread, and half a training no comparison.
        trial(5, 1.0, schedule="2:1", seed=0),
        trial(6, 99.0, "stopped", 100, seed=2),
    ]
    heading, *rows = over_seeds(trials, LOW)
    assert heading[-3:] == ["seeds", "mean SWD", "standard deviation"]
    assert [row[1] for row in rows] == ["two-phase", "1:1"]
    assert [row[-3:] for row in rows] == [["3", "22", "2"], ["2", "35", "7.1"]]
    assert over_seeds(trials, Objective("quality/swd", "max"))[1][1] == "1:1"
    assert over_seeds([], LOW) == over_seeds(trials[5:6], LOW) == []
