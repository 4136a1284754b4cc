"""How a sweep takes note of what Ray Tune says, also where that comes in an odd order."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from helpers import tiny_config

from raygen.config.domains import Range
from raygen.core.errors import RunError
from raygen.core.status import State
from raygen.core.storage import Folder
from raygen.evaluation.objective import Objective
from raygen.tuning import sweep
from raygen.tuning.options import SweepOptions
from raygen.tuning.records import SweepFolder, Trial
from raygen.tuning.sweep import Watch
from raygen.tuning.table import LiveTable
from raygen.tuning.trial import Task


@pytest.fixture(autouse=True)
def errors(monkeypatch: pytest.MonkeyPatch) -> list[RunError]:
    """Why the sweep has to end, if it has to."""
    known: list[RunError] = []

    def answer(method: Any, since: int) -> State:
        return State({}, error=known[0] if known else None)

    monkeypatch.setattr(sweep, "answer", answer)
    return known


def watch(
    path: Path,
    history: Sequence[Trial] = (),
    stop: bool = False,
    end_search: Callable[[], None] = lambda: None,
) -> Watch:
    task: Any = SimpleNamespace(
        sweep=SweepFolder(Folder.at(path)),
        objective=Objective("quality/swd"),
        status=mock.Mock(),
        total_images=900,
        updates=lambda trial, images: {},
    )
    signals: Any = mock.Mock()
    signals.stop.is_set.return_value = stop
    space: Any = {"lr_g": Range(1e-5, 1e-3, log=True)}
    options, lease = SweepOptions(), mock.Mock()
    return Watch(task, space, 4, history, LiveTable(), signals, options, lease, end_search)


def test_a_trial_s_updates_follow_from_its_values(tmp_path: Path) -> None:
    nothing: Any = None
    task = Task(
        config=tiny_config(),
        sweep=SweepFolder(Folder.at(tmp_path)),
        data=nothing,
        manifest=nothing,
        stored=nothing,
        objective=Objective("quality/swd"),
        capacity=nothing,
        status=nothing,
        total_images=800,
        report_images=80,
    )

    def updates(images: int, *changes: str, **values: Any) -> dict[str, int]:
        return task.updates(Trial(0, values, changes=list(changes)), images)

    assert updates(80) == {"generator": 10, "discriminator": 10}
    assert updates(80, schedule="5:1") == {"generator": 2, "discriminator": 10}
    # Trials see equally many images, whatever their batch.
    assert updates(80, batch_size=4) == {"generator": 20, "discriminator": 20}
    # The first half of 100 steps is 4:1.
    assert updates(800, schedule="two-phase") == {"generator": 62, "discriminator": 62}
    assert updates(320, schedule="two-phase") == {"generator": 10, "discriminator": 40}
    assert updates(80, "8 images: lr_g 0.1 -> 0.2") == updates(80)
    # What it was before is not known any more, nor anything of values that conflict.
    assert updates(80, "8 images: lr_g 0.1 -> 0.2, schedule 1:1 -> 5:1") == {}
    assert updates(80, "8 images: schedule 1:1 -> 5:1") == {}
    assert updates(80, schedule="0:1") == {}


def tune_trial(number: int) -> Any:
    values = {"lr_g": 1e-4}
    return SimpleNamespace(
        custom_trial_name=f"{number:03d}",
        config={"trial": {"number": number, "values": values}},
        error_file=None,
        max_failures=1,
    )


def record(path: Path, number: int) -> dict[str, Any]:
    return dict(json.loads((path / f"trials/{number:03d}/trial.json").read_text()))


def result(images: int) -> dict[str, Any]:
    metrics = {"values": [("quality/swd", 3.0)]}
    told = {"images_seen": images, "objective": 3.0, "seconds": 1.0, "last": False, "at": 1.0}
    return told | {"metrics": metrics}


def test_a_trial_whose_process_dies_before_it_begins_is_a_trial_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = watch(tmp_path)
    noted.on_trial_recover(1, [], tune_trial(2))
    assert record(tmp_path, 2)["status"] == "waiting"
    noted.on_trial_start(2, [], tune_trial(2))
    noted.on_trial_error(3, [], tune_trial(2))
    assert record(tmp_path, 2)["status"] == "failed"
    assert len(record(tmp_path, 2)["failures"]) == 2
    assert "trial 2 failed" in capsys.readouterr().out


LOSSES = (
    "The actor died because its node has died.",
    "ray.exceptions.ActorUnavailableError: The actor 86cc is unavailable: The actor is temporarily "
    "unavailable: RpcError: RPC error: Socket closed rpc_code: 14.",
)


def lost_trial(tmp_path: Path, number: int, loss: str = LOSSES[0]) -> Any:
    """A trial whose node has died."""
    lost = tmp_path / "error.txt"
    lost.write_text(
        "Failure # 1 (occurred at ...)\nRunError: another one\n"
        f"Failure # 2 (occurred at ...)\n{loss}\n"
    )
    trial = tune_trial(number)
    trial.error_file = str(lost)
    return trial


@pytest.mark.parametrize("loss", LOSSES)
def test_lost_machines_are_no_failures_as_long_as_a_trial_gets_further(
    tmp_path: Path, loss: str
) -> None:
    trial = lost_trial(tmp_path, 2, loss)
    noted = watch(tmp_path)
    for deaths in range(1, 6):
        noted.on_trial_start(1, [], trial)
        noted.on_trial_result(1, [], trial, result(100 * deaths))
        noted.on_trial_recover(1, [], trial)
        assert trial.max_failures == 1 + deaths
    # As one that needs more memory than there is.
    noted.on_trial_start(1, [], trial)
    noted.on_trial_recover(1, [], trial)
    assert trial.max_failures == 6
    other = tune_trial(3)
    noted.on_trial_start(1, [], other)
    noted.on_trial_result(1, [], other, result(100))
    noted.on_trial_recover(1, [], other)
    assert other.max_failures == 1


def test_a_trial_whose_machines_are_taken_away_is_left_for_another_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = lost_trial(tmp_path, 2)
    noted = watch(tmp_path)
    noted.on_trial_start(1, [], trial)
    noted.on_trial_recover(1, [], trial)
    noted.on_trial_error(2, [], trial)
    assert record(tmp_path, 2)["status"] == "interrupted"
    assert "trial 2: its process died" in capsys.readouterr().out


def test_stopping_waits_for_running_trials_and_begins_no_others(tmp_path: Path) -> None:
    waiting = Trial(1, {"lr_g": 1e-4}, "interrupted")
    end_search = mock.Mock()
    noted = watch(tmp_path, [waiting], stop=True, end_search=end_search)
    noted.on_trial_start(1, [], tune_trial(0))
    noted.on_trial_result(1, [], tune_trial(0), result(100))
    end_search.assert_not_called()
    noted.on_step_end(1, [])
    end_search.assert_called_once()
    assert not noted.ending.now
    # Ray Tune fills the places that become free with those it has asked for.
    for number in (1, 2):
        noted.on_trial_start(2, [], tune_trial(number))
        noted.on_trial_complete(2, [], tune_trial(number))
    noted.on_step_end(2, [])
    assert not noted.ending.now
    noted.on_trial_complete(3, [], tune_trial(0))
    noted.on_step_end(3, [])
    assert noted.ending.now
    assert [trial.number for trial in noted.trials] == [0, 1]
    assert [trial.status for trial in noted.trials] == ["interrupted", "interrupted"]
    assert not (tmp_path / "trials/002").exists()


@pytest.mark.parametrize("measured", [True, False])
def test_trials_that_end_because_the_storage_fails_are_left_for_another_time(
    tmp_path: Path, errors: list[RunError], measured: bool
) -> None:
    noted = watch(tmp_path)
    noted.on_trial_start(1, [], tune_trial(2))
    if measured:
        noted.on_trial_result(1, [], tune_trial(2), result(300))
    errors.append(RunError("the disk is full"))
    noted.on_trial_complete(2, [], tune_trial(2))
    assert record(tmp_path, 2)["status"] == "interrupted"
    noted.on_trial_start(3, [], tune_trial(3))
    noted.on_trial_error(4, [], tune_trial(3))
    assert record(tmp_path, 3)["status"] == "interrupted"
    assert noted.error == "the disk is full"
