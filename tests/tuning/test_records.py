"""What a sweep notes on disk."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raygen.config.domains import Values
from raygen.config.run import PRESETS
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.evaluation.objective import Objective
from raygen.tuning.options import SweepOptions
from raygen.tuning.planning import Plan, make_plan, read_trials
from raygen.tuning.records import (
    SWEEP,
    Report,
    SweepFolder,
    Trial,
    TrialStatus,
    best_trial,
    trial_name,
)

LOW = Objective("quality/swd")


def report(images: int, objective: float) -> Report:
    return Report(images, objective, images / 10, 1e9, {"quality/swd": objective})


def trial(
    number: int, *objectives: float, status: TrialStatus = "finished", every: int = 100
) -> Trial:
    reports = [report(every * (k + 1), value) for k, value in enumerate(objectives)]
    return Trial(number, {"lr_g": number / 10}, status, reports=reports)


def test_trials_are_read_as_they_were_written(tmp_path: Path) -> None:
    sweep = SweepFolder(Folder.at(tmp_path))
    assert sweep.read_trials() == []
    trials = [trial(0, 3.0, 2.0), trial(1, status="failed"), trial(12, 4.0, status="stopped")]
    trials[1].failures, trials[1].reason = ["no", "again"], "again"
    for each in reversed(trials):
        sweep.write_trial(each)
    # Names are those of earlier versions, and numbers have no limit in them.
    assert [trial_name(number) for number in (0, 999, 1000, 123456)] == [
        "000",
        "999",
        "1000",
        "123456",
    ]
    # A trial whose folder was made, but that had not begun.
    (tmp_path / "trials/002").mkdir()
    assert sweep.read_trials() == trials


def test_reports_after_one_that_is_made_again_are_forgotten() -> None:
    known = trial(0, 3.0, 2.0, 1.0)
    known.add(report(200, 2.5))
    assert [(r.images_seen, r.objective) for r in known.reports] == [(100, 3.0), (200, 2.5)]
    assert (known.images_seen, known.objective, known.seconds) == (200, 2.5, 20)
    # Told again after a restart: it is as it was.
    known.add(Report(200, 2.5, 21, 2e9, {}))
    assert known.reports[-1] == report(200, 2.5)
    known.add(report(150, 2.5))
    assert [r.images_seen for r in known.reports] == [100, 150]
    known.add(report(300, 1.0))
    assert [r.images_seen for r in known.reports] == [100, 150, 300]


def test_the_best_trial_is_among_those_that_have_come_furthest() -> None:
    short = trial(1, 1.0, status="stopped")
    finished = [trial(0, 9.0, 5.0, 4.0), trial(2, 9.0, 2.0, 3.0)]
    assert best_trial([*finished, short], LOW) is finished[1]
    assert best_trial([*finished, short], Objective("quality/swd", "max")) is finished[0]
    # Another batch size ends a little earlier.
    nearly = trial(3, 2.0, every=280)
    assert best_trial([*finished, nearly], LOW) is nearly
    assert best_trial([], LOW) is None
    assert best_trial([trial(0, status="running")], LOW) is None


def test_neither_failed_trials_nor_nan_are_best() -> None:
    good = trial(1, 5.0)
    assert best_trial([trial(0, float("nan")), good], LOW) is good
    assert best_trial([good, trial(0, float("nan"))], LOW) is good
    assert best_trial([trial(0, 1.0, status="failed"), good], LOW) is good


def write_sweep(path: Path, **changes: Any) -> SweepFolder:
    """The records of a sweep with one trial, with other entries in `sweep.json`."""
    sweep = SweepFolder(Folder.at(path))
    run = PRESETS["dcgan-celeba"].to_json()
    about = {"run": run, "sweep": {"set": ["lr_g=uniform(0,1)"]}, "dataset": "ab"}
    sweep.folder.write_json(SWEEP, about | {"space": {"lr_g": "uniform(0,1)"}} | changes)
    sweep.write_trial(trial(0, 3.0, float("nan")))
    return sweep


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    saved = sweep.saved()
    assert saved.run == PRESETS["dcgan-celeba"].to_json()
    assert (saved.space, saved.dataset) == ({"lr_g": "uniform(0,1)"}, "ab")
    assert math.isnan(sweep.read_trials()[0].reports[1].objective)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": [1]}, "run is a list"),
        ({"run": {"preset": ["x"]}}, "preset a list of 1 values: unknown"),
        ({"run": {"steps": 10**400}}, "steps is 1000000"),
        ({"sweep": None}, "sweep is null"),
        ({"sweep": {"set": "x"}}, "sweep.set is 'x', but must be a list"),
        ({"sweep": {"set": [1]}}, r"sweep.set\[0\] is 1, but must be a text"),
        ({"space": {"lr_g": 3}}, "space.lr_g is 3, but must be a text"),
        ({"dataset": 5}, "dataset is 5"),
    ],
)
def test_a_damaged_sweep_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_sweep(tmp_path, **changes).saved()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": 1}, "number is 1, but must be that of its folder, 000"),
        ({"number": 10**400}, "number is 1000000"),
        ({"number": True}, "number is true"),
        ({"values": [1]}, "values is a list"),
        ({"values": {"lr_g": {}}}, "values.lr_g is an object"),
        ({"status": "gone"}, "status is 'gone', but must be one of waiting"),
        ({"status": ["waiting"]}, "status is a list"),
        ({"reason": 3}, "reason is 3"),
        ({"failures": "x"}, "failures is 'x'"),
        ({"changes": [None]}, r"changes\[0\] is null"),
        ({"reports": {}}, "reports is an object"),
        ({"reports": [{}]}, r"reports\[0\].metrics is missing"),
        ({"speed": 3}, "speed is unknown"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, changes: Any, message: str) -> None:
    sweep = write_sweep(tmp_path)
    file = tmp_path / "trials/000/trial.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=message) as caught:
        sweep.read_trials()
    assert "trials/000/trial.json: damaged" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images_seen": -1}, "images_seen is -1"),
        ({"images_seen": 200}, "reports is not in the order"),
        ({"objective": None}, "objective is null"),
        ({"seconds": math.inf}, "seconds is Infinity"),
        ({"metrics": {"a": "x"}}, "metrics.a is 'x'"),
        ({"more": 1}, r"reports\[0\].more is unknown"),
    ],
)
def test_damaged_reports_are_refused(tmp_path: Path, changes: Any, message: str) -> None:
    sweep = write_sweep(tmp_path)
    file = tmp_path / "trials/000/trial.json"
    values = json.loads(file.read_text())
    values["reports"][0] |= changes
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        sweep.read_trials()


def test_records_of_another_search_are_refused(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    run = PRESETS["dcgan-celeba"].updated({"width": 0.03}, "test")

    def plan(setting: str) -> Plan:
        return make_plan(run, SweepOptions(space="none", set=(setting,)))

    sweep.write_trial(replace(trial(0, 3.0), values={"lr_g": 0.5}))
    [trial_0] = read_trials(sweep, plan("lr_g=uniform(1e-5,1)"))
    wrong: list[tuple[Values, str]] = [
        ({"lr_g": "much"}, "lr_g is 'much', but must be a finite number"),
        ({"lr_g": -1.0}, "--lr-g -1.0: must be above 0"),
        ({"lr_d": 1e-3}, "its values are those of 'lr_d', not of lr_g"),
    ]
    for values, message in wrong:
        sweep.write_trial(replace(trial_0, values=values))
        with pytest.raises(UserError, match=message):
            read_trials(sweep, plan("lr_g=uniform(1e-5,1)"))


def test_what_is_not_finite_is_never_the_best() -> None:
    further = trial(1, 1.0, 1.0, math.nan)
    assert best_trial([trial(0, 3.0, status="stopped"), further], LOW) == trial(
        0, 3.0, status="stopped"
    )
    assert best_trial([further, trial(2, math.inf)], LOW) is None
