"""Sweeps and trainings on TensorBoard's HParams page, asked as a browser asks it."""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import tiny_config, write_dataset
from torch.utils.tensorboard import SummaryWriter

from raygen.config.domains import Choice, Range, Space, Values
from raygen.core.status import Outcome, Position
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.tensorboard.hparams import forget_end, write_end, write_experiment, write_start
from raygen.tensorboard.run_log import RunLog
from raygen.training.record import RunRecord
from raygen.training.run import RunFolder
from raygen.training.session import Session

SPACE: Space = {"lr_g": Range(1e-5, 1e-3, log=True), "schedule": Choice(("1:1", "5:1"))}
METRIC = "quality/swd"
EVERYTHING = {
    "allowedStatuses": [f"STATUS_{s}" for s in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")],
    "colParams": [{"hparam": "lr_g"}, {"hparam": "schedule"}, {"metric": {"tag": METRIC}}],
    "sliceSize": 100,
}


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """TensorBoard on this machine. Yields: its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    try:
        for line in process.stderr:
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
            if address:
                yield address[0]
                break
        else:
            raise AssertionError("TensorBoard did not start")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def page(logdir: Path, wanted: int) -> dict[str, dict[str, Any]]:
    """What the page shows of each trial, once so many objectives are there."""
    deadline = time.monotonic() + 60
    with tensorboard(logdir) as address:
        while True:
            shown = ask(address)
            if sum(trial["objective"] is not None for trial in shown.values()) == wanted:
                return shown
            assert time.monotonic() < deadline, shown
            time.sleep(0.5)


def post(address: str, what: str, question: dict[str, Any]) -> dict[str, Any]:
    """What the page's server answers; nothing if it has read nothing yet."""
    request = urllib.request.Request(
        f"{address}/data/plugin/hparams/{what}",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError:
        return {}


def ask(address: str) -> dict[str, dict[str, Any]]:
    shown = {}
    for group in post(address, "session_groups", EVERYTHING).get("sessionGroups", []):
        [session] = group["sessions"]
        values = {m["name"]["tag"]: m.get("value") for m in group.get("metricValues", [])}
        shown[session["name"]] = {
            "status": session["status"],
            "values": group["hparams"],
            "objective": values.get(METRIC),
        }
    return shown


def write_trial(path: Path, number: int, rate: float, schedule: str, *scalars: float) -> Folder:
    folder = Folder.at(path / f"trials/{number:03d}")
    values: Values = {"lr_g": rate, "schedule": schedule}
    write_start(folder, f"{number:03d}", SPACE, values, 1_000.0)
    writer = SummaryWriter(folder.path)
    for step, value in enumerate(scalars):
        writer.add_scalar(METRIC, value, step)
    writer.close()
    return folder


def test_running_finished_and_failed_trials_are_all_on_the_page(tmp_path: Path) -> None:
    write_experiment(Folder.at(tmp_path), SPACE, {METRIC: "SWD"})
    write_end(write_trial(tmp_path, 0, 1e-4, "1:1", 50.0, 34.0), succeeded=True)
    write_trial(tmp_path, 1, 2e-4, "5:1", 80.0)
    write_end(write_trial(tmp_path, 2, 3e-4, "5:1"), succeeded=False)
    shown = page(tmp_path, 2)
    assert set(shown) == {"trials/000", "trials/001", "trials/002"}
    assert shown["trials/000"] == {
        "status": "STATUS_SUCCESS",
        "values": {"lr_g": 1e-4, "schedule": "1:1"},
        "objective": 34.0,
    }
    assert shown["trials/001"]["objective"] == 80.0
    assert shown["trials/001"]["values"] == {"lr_g": 2e-4, "schedule": "5:1"}
    assert shown["trials/001"]["status"] not in ("STATUS_SUCCESS", "STATUS_FAILURE")
    assert shown["trials/002"]["status"] == "STATUS_FAILURE"


def test_a_trial_that_goes_on_has_not_ended(tmp_path: Path) -> None:
    write_experiment(Folder.at(tmp_path), SPACE, {METRIC: "SWD"})
    folder = write_trial(tmp_path, 0, 1e-4, "1:1", 50.0)
    write_end(folder, succeeded=True)
    forget_end(folder)
    forget_end(folder)
    write_trial(tmp_path, 0, 9e-4, "1:1", 40.0)
    [trial] = page(tmp_path, 1).values()
    assert trial["values"]["lr_g"] == 9e-4
    assert trial["status"] not in ("STATUS_SUCCESS", "STATUS_FAILURE")


def train(storage: Path, name: str, swd: float, **options: Any) -> RunRecord:
    """A training that has begun, and has measured something."""
    if not (storage / "data").exists():
        write_dataset(storage / "data", (16,), (4,), size=32)
    data, run = Folder.at(storage / "data"), RunFolder.at(str(storage), name)
    config = tiny_config(**options)
    record = RunRecord(Session(config, run, data, Manifest.load(data), 2, False), "training", 1e9)
    record.begin()
    with RunLog(run.folder, 0) as log:
        log.scalars({METRIC: swd}, Position(1, 8, 0.5))
    return record


def test_trainings_stand_side_by_side_from_their_beginning(tmp_path: Path) -> None:
    """Without a sweep that says what its columns are."""
    outcome = Outcome(True, Position(1, 8, 0.5), 0.0, 9.0, 0.0, {METRIC: 40.0})
    train(tmp_path, "finished", 40.0, lr_g=1e-3).end(outcome)
    train(tmp_path, "failed", 50.0, lr_g=2e-3, schedule="5:1").fail()
    train(tmp_path, "interrupted", 60.0).end(replace(outcome, finished=False))
    train(tmp_path, "running", 70.0)
    # One that had ended goes on.
    train(tmp_path, "resumed", 80.0).end(outcome)
    train(tmp_path, "resumed", 85.0)
    deadline = time.monotonic() + 60
    with tensorboard(tmp_path) as address:
        while True:
            shown = ask(address)
            if sum(run["objective"] is not None for run in shown.values()) == 5:
                break
            assert time.monotonic() < deadline, shown
            time.sleep(0.5)
        experiment = post(address, "experiment", {"experimentName": ""})
    said = {name: run["status"] for name, run in shown.items()}
    ends = ("STATUS_SUCCESS", "STATUS_FAILURE")
    assert said.pop("finished") == ends[0]
    assert said.pop("failed") == ends[1]
    assert said.keys() == {"interrupted", "running", "resumed"}
    assert not set(said.values()) & set(ends)
    assert shown["failed"]["values"].items() >= {"lr_g": 2e-3, "schedule": "5:1"}.items()
    assert shown["finished"]["objective"] == 40.0
    columns = {column["name"]: column for column in experiment["hparamInfos"]}
    wanted = {n for n, v in tiny_config().to_json().items() if isinstance(v, str | int | float)}
    assert columns.keys() == wanted
    assert {name for name, column in columns.items() if column.get("differs")} == {
        "lr_g",
        "schedule",
    }
    tags = {metric["name"]["tag"] for metric in experiment["metricInfos"]}
    assert METRIC in tags


def test_trainings_beside_a_sweep_have_values_in_its_columns(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    write_experiment(Folder.at(sweep), SPACE, {METRIC: "SWD"})
    write_trial(sweep, 0, 1e-4, "1:1", 50.0)
    train(tmp_path, "tuned", 40.0, lr_g=1e-3, schedule="5:1")
    shown = page(tmp_path, 2)
    assert shown["tuned"]["values"].items() >= {"lr_g": 1e-3, "schedule": "5:1"}.items()
    assert shown["sweep/trials/000"]["values"] == {"lr_g": 1e-4, "schedule": "1:1"}
