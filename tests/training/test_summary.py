"""`summary.json`: what it says at each point of a run, and what of a file is refused."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_config, write_checkpoint, write_dataset

import raygen
from raygen.cluster.lease import Fence
from raygen.core.errors import RunError, UserError
from raygen.core.history import Measurement
from raygen.core.retry import OUTAGES, Retries
from raygen.core.status import Outcome, Position, Progress
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.training.record import RunRecord, note_end
from raygen.training.run import RunFolder
from raygen.training.session import Session
from raygen.training.summary import Best, Summary, read_summary
from raygen.training.usage import Usage

OLD: dict[str, Any] = {
    "preset": "dcgan-celeba",
    "images_seen": 64,
    "global_step": 8,
    "seconds": 12.5,
    "images_per_second": 33.3,
    "seconds_to_first_step": 4.25,
    "data_wait_fraction": 0.00125,
    "num_workers": 2,
    "device": "cpu",
    "metrics": {"loss/generator": 1.5, "quality/swd": 70},
    "data": "drawn",
}
"""What version 0.1.0 wrote."""
OUTCOME = Outcome(True, Position(4, 32, 9.0), 0.0, 21.04, 0.25, {"quality/swd": 3.0})


def read(tmp_path: Path, values: Any) -> Summary:
    (tmp_path / "summary.json").write_text(json.dumps(values))
    return read_summary(Folder.at(tmp_path))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    best = Best(31.5, "quality/swd", 4)
    summary = Summary(**OLD, kind="trial", run_name="003", status="stopped", best=best)
    summary = replace(summary, dataset="ab", began_at=1e9, ended_at=1e9 + 5, torch_version="2.9")
    summary = replace(summary, total_steps=9, updates={"generator": 4, "discriminator": 8})
    summary = replace(summary, usage=Usage(7200.0, {"4 x A10G": 1800.0}, 3, 640))
    assert "retries" not in summary.to_json()
    summary = replace(summary, retries=Retries(14, 41.5))
    assert read(tmp_path, summary.to_json()) == summary


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    summary = read(tmp_path, OLD)
    assert summary == Summary(**OLD)
    assert (summary.kind, summary.status, summary.best) == ("training", "finished", None)
    assert (summary.total_steps, summary.updates) == (0, {})
    assert not summary.is_final
    # All that it said is still said, under the same names.
    assert summary.to_json().items() >= OLD.items()
    # It may hold NaN, which is no JSON.
    assert math.isnan(read(tmp_path, OLD | {"metrics": {"a": math.nan}}).metrics["a"])


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    values = Summary(**OLD | {"metrics": {"a": math.inf, "b": 1.0}}).to_json()
    assert json.loads(json.dumps(values, allow_nan=False))["metrics"] == {"a": None, "b": 1.0}
    assert math.isnan(read(tmp_path, values).metrics["a"])


DAMAGED: dict[str, tuple[Any, str]] = {
    "list": ([], "holds a list of 0 values, but must be an object"),
    "sweep's": ({"found": "x", "trials": 3}, "metrics is missing"),
    "status": (OLD | {"status": "gone"}, "status is 'gone', but must be one of running, finished"),
    "kind": (OLD | {"kind": "sweep"}, "kind is 'sweep'"),
    "steps": (OLD | {"global_step": -1}, "global_step is -1"),
    "metrics": (OLD | {"metrics": {"a": "x"}}, "metrics.a is 'x', but must be a number, or null"),
    "best": (OLD | {"best": {"score": 1}}, "best.metric is missing"),
    "updates": (OLD | {"updates": {"generator": -1}}, "updates.generator is -1"),
    "usage": (OLD | {"usage": {"node_seconds": {"a": -1}}}, "usage.worker_seconds is missing"),
    "retries": (OLD | {"retries": {"requests": 1}}, "retries.seconds is missing"),
    "began": (OLD | {"began_at": "today"}, "began_at is 'today'"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    values, problem = DAMAGED[case]
    with pytest.raises(UserError, match=rf"summary\.json: damaged \({problem}") as error:
        read(tmp_path, values)
    assert "\n" not in str(error.value)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    write_dataset(tmp_path / "data", (16,), (4,), size=32)
    folder = Folder.at(tmp_path / "data")
    run = RunFolder.at(str(tmp_path), "run")
    return Session(tiny_config(), run, folder, Manifest.load(folder), 2, False)


def summary_of(session: Session) -> Summary:
    return read_summary(session.run.folder)


def test_a_run_says_that_it_began_and_how_it_ended(session: Session) -> None:
    began_at, repeated = time.time() - 5, OUTAGES.retries
    # Before the job knew what to record.
    OUTAGES.count(Retries(2, 0.5))
    record = RunRecord(session, "training", began_at, repeated)
    record.begin()
    begun = summary_of(session)
    assert (begun.status, begun.global_step, begun.metrics) == ("running", 0, {})
    assert (begun.ended_at, begun.best) == (None, None)
    folder = session.run.folder
    for step, score in ((3, 2.5), (4, 3.0)):
        write_checkpoint(folder, step, {"quality/swd": score}, score)
    OUTAGES.count(Retries(3, 1.5))
    record.end(replace(OUTCOME, first_step_at=began_at + 2))
    ended = summary_of(session)
    assert ended == Summary(
        preset="dcgan-celeba",
        images_seen=32,
        global_step=4,
        seconds=ended.seconds,
        images_per_second=21.0,
        seconds_to_first_step=2.0,
        data_wait_fraction=0.25,
        num_workers=2,
        device="cpu",
        metrics={"quality/swd": 3.0},
        data=session.data.uri,
        kind="training",
        run_name="run",
        status="finished",
        best=Best(2.5, "quality/swd", 3),
        dataset=session.manifest.fingerprint,
        began_at=round(began_at, 2),
        ended_at=ended.ended_at,
        raygen_version=raygen.__version__,
        torch_version=torch.__version__,
        total_steps=4,
        updates={"generator": 4, "discriminator": 4},
        retries=Retries(5, 2.0),
    )
    assert ended.ended_at
    assert ended.ended_at - began_at == pytest.approx(ended.seconds, abs=0.02)
    assert ended.seconds >= 5


def test_a_session_that_goes_on_begins_where_the_last_one_left_off(session: Session) -> None:
    folder = session.run.folder
    write_checkpoint(folder, 2)
    lines = [Measurement(k, 8 * k, 1.0, {"loss": k, f"x{k}": 0.0}).to_line() for k in (1, 2, 3)]
    folder.write_bytes("metrics.jsonl", b"".join(lines))
    record = RunRecord(session, "training", time.time())
    record.begin()
    begun = summary_of(session)
    assert (begun.status, begun.global_step, begun.images_seen) == ("running", 2, 16)
    # What was measured beyond the checkpoint will be measured again.
    assert begun.metrics == {"loss": 2.0, "x1": 0.0, "x2": 0.0}
    record.end(replace(OUTCOME, finished=False))
    assert summary_of(session).status == "interrupted"
    record.fail()
    assert (summary_of(session).status, summary_of(session).global_step) == ("failed", 2)


def test_a_trial_says_how_far_it_is_each_time_that_it_is_measured(session: Session) -> None:
    record = RunRecord(session, "trial", time.time())
    record.begin()
    metrics = {"quality/swd": math.nan, "throughput/images_per_second": 12.5}
    record.measured(Progress(24, 64, 99.0, metrics, 3.0))
    summary = summary_of(session)
    assert (summary.kind, summary.status) == ("trial", "running")
    assert (summary.global_step, summary.images_seen) == (3, 24)
    assert summary.updates == {"generator": 3, "discriminator": 3}
    assert summary.images_per_second == 12.5
    # The sweep stops it.
    note_end(session.run.folder, "stopped")
    stopped = summary_of(session)
    assert (stopped.status, stopped.global_step) == ("stopped", 3)
    assert stopped.ended_at is not None
    note_end(session.run.folder, "stopped")
    assert summary_of(session).ended_at == stopped.ended_at


def test_a_run_without_a_summary_gets_none_from_its_sweep(tmp_path: Path) -> None:
    note_end(Folder.at(tmp_path / "run"), "failed")
    assert not (tmp_path / "run").exists()


def test_a_job_that_has_lost_the_run_leaves_its_summary_alone(session: Session) -> None:
    RunRecord(session, "training", 5.0).begin()
    lost = replace(session.run, fence=Fence(session.run.folder, ".lease-of-another"))
    record = RunRecord(replace(session, run=lost), "training", 6.0)
    with pytest.raises(RunError, match="another job has taken this folder over"):
        record.end(OUTCOME)
    record.fail()
    assert (summary_of(session).status, summary_of(session).began_at) == ("running", 5.0)
