"""Confirming a sweep's results with new seeds."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from raygen.config.domains import Choice, Range, Space, Value
from raygen.config.run import PRESETS
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.evaluation.objective import Objective
from raygen.tuning import confirming
from raygen.tuning.confirming import (
    LIST,
    Training,
    candidates,
    compare,
    fresh_seeds,
    leaders,
    plan_confirmation,
    read_list,
    reserve_seconds,
    rows,
    sentence,
)
from raygen.tuning.planning import Plan
from raygen.tuning.records import Report, SweepFolder, Trial, TrialStatus

METRIC = "quality/fd_domain"
SPACE: Space = {"lr_g": Range(1e-5, 1e-3, log=True)}
CONFIG = PRESETS["dcgan-celeba"]
LOW = Objective(METRIC)
PLAN = Plan(CONFIG, LOW, SPACE, {"lr_g": 1e-4}, 16, "random")


def trial(
    number: int,
    objective: float,
    status: TrialStatus = "finished",
    images: int = 900,
    variety: float = 0.9,
    **values: Value,
) -> Trial:
    metrics = {METRIC: objective, "quality/swd": 10 * objective, "quality/variety_domain": variety}
    reports = [Report(images, objective, images / 100, 1.0, metrics)]
    own: dict[str, Value] = {"lr_g": (1 + number) / 1e4}
    return Trial(number, own | values, status, reports=reports)


TRIALS = [
    trial(0, 40),
    trial(1, 30),
    trial(2, 5, "stopped", 100),
    trial(3, 20),
    trial(4, 10, "failed"),
    trial(5, math.nan),
    trial(6, 8, "stopped", 300),
    # The same setting again is no other candidate.
    trial(7, 31, lr_g=2e-4),
]


def test_the_best_settings_that_got_farthest_are_confirmed_beside_the_defaults() -> None:
    assert [t.number for t in candidates(TRIALS, PLAN, 3)] == [0, 3, 1, 6]
    assert [t.number for t in candidates(TRIALS[:1], PLAN, 3)] == [0]
    # A few sharp faces are no better than many blurred ones.
    sharp = trial(9, 3, variety=0.01)
    assert [t.number for t in candidates([*TRIALS, sharp], PLAN, 3)] == [0, 3, 1, 9]
    higher = replace(PLAN, objective=Objective(METRIC, "max"))
    assert [t.number for t in candidates(TRIALS[:4], higher, 3)] == [0, 1, 3, 2]
    # Population-based training leaves the defaults as they are, but a search may lack them.
    [defaults, *_] = candidates(TRIALS[1:], PLAN, 3)
    assert (defaults.number, defaults.values) == (0, {"lr_g": 1e-4})
    seeds = [trial(0, 40, seed=0), trial(1, 30, seed=5), trial(2, 20, seed=6, lr_g=2e-4)]
    assert [t.number for t in candidates(seeds, PLAN, 3)] == [0, 2]


def test_trials_that_led_when_the_time_ended_are_confirmed_first() -> None:
    def at_thirds(number: int, *objectives: float, status: TrialStatus = "finished") -> Trial:
        reports = [trial(0, o, images=300 + 300 * k).reports[0] for k, o in enumerate(objectives)]
        return replace(trial(number, 0.0, status), reports=reports)

    ended = [at_thirds(0, 50, 40, 35), at_thirds(1, 60, 45, 30)]
    led = at_thirds(2, 55, 38, status="interrupted")
    assert leaders([*ended, led], LOW) == [led]
    assert [t.number for t in candidates([*ended, led], PLAN, 1)] == [0, 2]
    assert [t.number for t in candidates([*ended, led], PLAN, 3)] == [0, 2, 1]
    # Others were better at 600 images, or it was stopped for another reason, or has not got far.
    behind = at_thirds(3, 20, 41, status="interrupted")
    stopped = at_thirds(4, 20, 19, status="stopped")
    short = replace(trial(5, 1, "interrupted", 100), values={"lr_g": 0.5})
    repeating = trial(6, 1, "interrupted", 600, variety=0.01)
    others = [*ended, behind, stopped, short, repeating]
    assert not leaders(others, LOW)
    assert [t.number for t in candidates(others, PLAN, 1)] == [0, 1]
    # Nothing is known of a training's course before others have had it.
    assert not leaders([led], LOW)
    diverged = at_thirds(7, math.nan, math.nan, math.nan)
    assert leaders([diverged, led], LOW) == [led]


def test_no_trial_has_had_the_seeds() -> None:
    assert fresh_seeds(TRIALS, PLAN, 3) == [1, 2, 3]
    assert fresh_seeds([trial(0, 1, seed=7), trial(1, 1, seed=3)], PLAN, 2) == [8, 9]


def test_what_has_begun_is_ended_and_the_rest_planned_anew(tmp_path: Path) -> None:
    folder = SweepFolder(Folder.at(tmp_path)).confirmation
    plan, listed, begun = plan_confirmation(folder, TRIALS[:2], PLAN, 2, 3)
    assert listed == [Training(0, 1), Training(1, 1), Training(0, 2), Training(1, 2)]
    assert begun == []
    assert list(plan.trials()) == [
        {"lr_g": 1e-4, "seed": 1},
        {"lr_g": 2e-4, "seed": 1},
        {"lr_g": 1e-4, "seed": 2},
        {"lr_g": 2e-4, "seed": 2},
    ]
    assert plan.count == 4
    assert plan.space == SPACE | {"seed": Choice((1, 2))}
    folder.write_trial(trial(0, 41, seed=1))
    folder.write_trial(trial(1, 29, "running", 100, seed=1))
    # The search has gone on, and found something else.
    failed = replace(TRIALS[1], status="failed")
    _, again, begun = plan_confirmation(folder, [TRIALS[0], failed, TRIALS[3]], PLAN, 2, 3)
    assert [t.number for t in begun] == [0, 1]
    assert again == [*listed[:2], Training(3, 1), Training(0, 2), Training(3, 2)]
    assert read_list(folder) == again
    for damage in ("[[1]]", '[["a", 1]]', "{}", "[[1, 2]", "7"):
        (tmp_path / "confirmation" / LIST).write_text(f'{{"trainings": {damage}}}')
        with pytest.raises(UserError, match="trainings"):
            read_list(folder)


LISTED = [Training(number, seed) for seed in (1, 2, 3) for number in (0, 3, 1)]


def trained(*objectives: float) -> list[Trial]:
    """Trainings of trial 0, 3 and 1 with the first seed, then with the next."""
    return [trial(number, value) for number, value in enumerate(objectives)]


def test_a_clear_gain_is_told_with_its_interval() -> None:
    settings = [TRIALS[0], TRIALS[3], TRIALS[1]]
    runs = trained(40, 20, 31, 42, 22, 29, 41, 21, 30)
    found = compare(settings, LISTED, runs, PLAN.objective, [1, 2, 3])
    assert [s.trial.number for s in found.settings] == [3, 1, 0]
    assert [mean.value for mean in found.means] == pytest.approx([21, 30, 41])
    best = found.gains[0]
    assert best
    assert best.value == pytest.approx(20)
    assert 0 < best.low < 20 < best.high
    assert found.gains[2] is None
    assert found.is_established
    text = sentence(found)
    assert text.startswith("confirmed with 3 new seeds: trial 3 has FD (domain) 21 (19.59 to 22.4")
    assert "the defaults 41 (39.59 to 42.41); it is better by 20 (" in text
    assert text.endswith(": lr_g 4.0e-04")
    table = rows(found, PLAN)
    assert table[0][:4] == ["setting", "seeds", "FD (domain)", "SWD"]
    assert [row[0] for row in table[1:]] == ["trial 3", "trial 1", "defaults"]
    assert table[1][-1] == "all"
    values = json.loads(json.dumps(found.to_json()))
    assert values["established"] is True
    assert values["settings"][0]["gain"]["value"] == pytest.approx(20)
    assert values["settings"][2]["gain"] is None


def test_a_gain_within_the_spread_of_seeds_is_not_established() -> None:
    runs = trained(40, 38, 50, 30, 29, 50, 35, 34, 50)
    settings = [TRIALS[0], TRIALS[3], TRIALS[1]]
    found = compare(settings, LISTED, runs, PLAN.objective, [1, 2, 3])
    assert found.best.trial.number == 3
    assert not found.is_established
    assert "that it is better, by 1.333 (" in sentence(found)
    assert "is not established" in sentence(found)
    higher = compare(settings, LISTED, runs, Objective(METRIC, "max"), [1, 2, 3])
    assert higher.best.trial.number == 1
    assert higher.gains[0]
    assert higher.gains[0].value == pytest.approx(15)
    worst = compare(settings[:2], LISTED, trained(1, 2, 9, 1, 2), PLAN.objective, [1, 2])
    assert "no setting is better than the defaults, FD (domain) 1" in sentence(worst)


def test_failed_and_collapsed_trainings_count() -> None:
    runs = trained(40, 1, 31, 42, 2, 29, 41)
    runs[1].status, runs[4].status = "failed", "failed"
    runs[2] = replace(trial(2, 31, variety=0.05))
    found = compare([TRIALS[0], TRIALS[3], TRIALS[1]], LISTED, runs, PLAN.objective, [1, 2, 3])
    # The setting that failed comes last, whatever else it reached, and one that collapsed once
    # comes after one that never did.
    assert [s.trial.number for s in found.settings] == [0, 1, 3]
    assert [(s.failed, s.collapsed, s.left) for s in found.settings] == [
        (0, 0, 0),
        (0, 1, 1),
        (2, 0, 1),
    ]
    assert found.left == 2
    assert "(7 of 9 trainings have ended, 2 failed, 1 collapsed): no setting" in sentence(found)
    assert rows(found, PLAN)[3][-1] == "2 failed, 1 to come"


def test_one_training_of_each_says_nothing_of_the_difference() -> None:
    found = compare([TRIALS[0], TRIALS[3]], LISTED, trained(40, 20), PLAN.objective, [1])
    assert "trial 3 has FD (domain) 20, the defaults 40; there are too few" in sentence(found)
    assert json.loads(json.dumps(found.to_json()))["settings"][0]["mean"]["low"] is None
    nothing = compare([TRIALS[0], TRIALS[3]], [], [], PLAN.objective, [1])
    assert nothing.best.found == []
    # What was not trained yet is not the best, whether low or high values are good.
    for mode in ("min", "max"):
        objective = Objective(METRIC, "max" if mode == "max" else "min")
        some = compare([TRIALS[0], TRIALS[3]], LISTED[1:2], trained(20), objective, [1])
        assert some.best.trial.number == 3
    assert nothing.left == 2


def test_the_time_for_it_is_estimated_from_the_trials() -> None:
    assert reserve_seconds([], 12, 900, 2) == 0
    assert reserve_seconds(TRIALS, 0, 900, 2) == 0
    # 9 s each, and the start: 4 settings with 3 seeds, two at a time.
    expected = 6 * (9 + confirming.START_SECONDS)
    assert reserve_seconds(TRIALS[:2], 12, 900, 2) == pytest.approx(expected)
