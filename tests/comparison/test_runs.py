"""Which runs a storage holds, on a disk and in an object store, whole and damaged."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import save_run, tiny_config, write_checkpoint

import raygen
from raygen.comparison.runs import RunInfo
from raygen.core import marker
from raygen.core.errors import UserError
from raygen.core.history import Measurement
from raygen.core.storage import Folder
from raygen.training.run import RunFolder
from raygen.training.summary import Summary
from raygen.tuning.records import Report, SweepFolder, Trial

SUMMARY = Summary(
    preset="dcgan-celeba",
    images_seen=32,
    global_step=4,
    seconds=1.0,
    images_per_second=9.0,
    seconds_to_first_step=0.5,
    data_wait_fraction=0.0,
    num_workers=2,
    device="cpu",
    metrics={"quality/swd": 30.0},
    data="drawn",
    run_name="x",
    raygen_version="1",
)


@pytest.fixture(params=["local", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder.at(tmp_path)
    folder: Folder = request.getfixturevalue("s3")
    return folder


def write_history(run: Folder, *steps: int) -> None:
    lines = [Measurement(k, 8 * k, k / 2, {"loss": 1 / k}).to_line() for k in steps]
    run.write_bytes("metrics.jsonl", b"".join(lines))


def write_sweep(folder: Folder) -> SweepFolder:
    """A sweep of two trials, one of which has ended."""
    sweep = SweepFolder(folder)
    marker.write(folder, "sweep")
    folder.write_json("sweep.json", {"run": {}, "sweep": {}, "space": {}, "dataset": "ab"})
    folder.write_json("summary.json", {"found": "nothing"})
    for number, status in enumerate(("stopped", "running")):
        run = sweep.trial_run(number)
        run.note(tiny_config(lr_g=1e-3 * (number + 1)))
        report = Report(16, 2.0, 1.0, 1e9, {"quality/swd": 2.0})
        sweep.write_trial(Trial(number, {"lr_g": 1e-3}, status, reports=[report]))  # type: ignore[arg-type]
        write_checkpoint(run.folder, 2, {"quality/swd": 2.0})
    return sweep


def by_name(storage: Folder) -> dict[str, RunInfo]:
    found = raygen.list_runs(storage.uri)
    assert all("\n" not in run.problem for run in found)
    return {run.name: run for run in found}


def test_runs_and_trials_of_a_storage_are_found_in_order(storage: Folder) -> None:
    for name in ("b", "a"):
        RunFolder(storage.join(name)).note(tiny_config(seed=3))
    write_sweep(storage.join("s"))
    marker.write(storage.join("faces"), "dataset")
    storage.join("notes").write_bytes("config.json", b'{"hidden_size": 768}')
    storage.join("deeper", "run").write_bytes("x", b"")
    storage.write_bytes("readme.txt", b"")
    found = raygen.list_runs(storage.uri)
    assert [(run.name, run.kind, run.sweep) for run in found] == [
        ("a", "training", ""),
        ("b", "training", ""),
        ("000", "trial", "s"),
        ("001", "trial", "s"),
    ]
    assert [run.problem for run in found] == [""] * 4
    assert found[0].uri == storage.join("a").uri
    assert found[0].config == tiny_config(seed=3).explicit.to_json()
    assert found[3].config["lr_g"] == 2e-3
    assert {run.preset for run in found} == {"dcgan-celeba"}
    assert [run.status for run in found] == ["begun", "begun", "stopped", "begun"]
    assert (found[2].global_step, found[2].images_seen) == (2, 16)
    assert found[2].updates == {"generator": 2, "discriminator": 2}
    assert found[2].metrics == {"quality/swd": 2.0}


def test_updates_are_counted_by_the_schedule_of_a_run(tmp_path: Path) -> None:
    def updates(name: str, summary: Summary | None, **options: Any) -> dict[str, int]:
        run = Folder.at(tmp_path / name)
        RunFolder(run).note(tiny_config(**options))
        write_checkpoint(run, 4)
        if summary:
            run.write_json("summary.json", summary.to_json())
        return by_name(Folder.at(tmp_path))[name].updates

    ended = replace(SUMMARY, status="finished")
    assert updates("a", ended, schedule="1:2") == {"generator": 4, "discriminator": 2}
    # Half of a two-phase run, whose length is said by its options or by its summary.
    half = {"generator": 1, "discriminator": 4}
    two_phase: dict[str, Any] = {"schedule": "two-phase"}
    assert updates("b", None, steps=8, **two_phase) == half
    long = replace(SUMMARY, status="interrupted", total_steps=8)
    assert updates("c", long, steps=0, **two_phase) == half
    # A summary of an earlier version says it only if it is that of a whole run.
    whole = {"generator": 2, "discriminator": 2}
    assert updates("d", ended, steps=0, **two_phase) == whole
    assert updates("e", replace(SUMMARY, status="interrupted"), steps=0, **two_phase) == {}
    assert updates("f", None, steps=0, schedule="5:1") == {"generator": 0, "discriminator": 4}


def test_trials_are_listed_by_number(tmp_path: Path) -> None:
    sweep = write_sweep(Folder.at(tmp_path / "s"))
    for number in (10_000, 999, 1000, 1001):
        sweep.write_trial(Trial(number, {"lr_g": 1e-3}))
    names = [run.name for run in raygen.list_runs(tmp_path)]
    assert names == ["000", "001", "999", "1000", "1001", "10000"]


def test_the_storage_may_be_a_single_run_or_sweep(storage: Folder) -> None:
    RunFolder(storage.join("a")).note(tiny_config())
    write_sweep(storage.join("s"))
    [run] = raygen.list_runs(storage.join("a").uri)
    assert (run.name, run.kind, run.sweep, run.problem) == ("a", "training", "", "")
    for place in (storage.join("s"), storage.join("s", "trials")):
        found = raygen.list_runs(place.uri)
        assert [(run.name, run.sweep) for run in found] == [("000", "s"), ("001", "s")]
    [trial] = raygen.list_runs(storage.join("s", "trials", "001").uri)
    assert (trial.name, trial.kind, trial.sweep, trial.problem) == ("001", "trial", "s", "")


def test_a_run_is_as_far_as_its_summary_its_checkpoint_or_its_history_says(
    storage: Folder,
) -> None:
    names = ("new", "logged", "saved", "measured", "going", "ended", "failed")
    for name in names:
        run = storage.join(name)
        RunFolder(run).note(tiny_config())
        if name != "new":
            write_history(run, 1, 2, 3)
        if name not in ("new", "logged"):
            write_checkpoint(run, 1)
            write_checkpoint(run, 2, {"quality/swd": math.nan} if name != "saved" else {})
            # One that is not complete does not count.
            run.join("checkpoints", "step-00000003").write_bytes("x.safetensors", b"")
    status: dict[str, Any] = {"going": "running", "ended": "finished", "failed": "failed"}
    for name, said in status.items():
        storage.join(name).write_json("summary.json", replace(SUMMARY, status=said).to_json())
    found = by_name(storage)
    assert {name: run.problem for name, run in found.items()} == dict.fromkeys(names, "")
    assert {
        name: (run.status, run.global_step, run.images_seen) for name, run in found.items()
    } == {
        "new": ("begun", 0, 0),
        "logged": ("begun", 3, 24),
        "saved": ("begun", 2, 16),
        "measured": ("begun", 2, 16),
        "going": ("begun", 2, 16),
        "ended": ("finished", 4, 32),
        "failed": ("failed", 4, 32),
    }
    assert found["new"].metrics == {}
    assert found["logged"].metrics == found["saved"].metrics == {"loss": 1 / 3}
    assert math.isnan(found["measured"].metrics["quality/swd"])
    assert found["ended"].metrics == {"quality/swd": 30.0}


def test_runs_of_earlier_versions_are_found(tmp_path: Path) -> None:
    """Without a marker and without what summaries say today."""
    save_run(tmp_path / "old", "dcgan-celeba", steps=2)
    old = SUMMARY.to_json()
    for name in ("kind", "run_name", "status", "best", "raygen_version", "torch_version"):
        del old[name]
    for name, step in (("finished", 4), ("went on", 5)):
        run = Folder.at(tmp_path / name)
        run.write_json("config.json", tiny_config().to_json())
        write_checkpoint(run, step)
        run.write_json("summary.json", old)
    sweep = write_sweep(Folder.at(tmp_path / "sweep"))
    sweep.folder.delete_file("raygen.json")
    sweep.trial_run(0).folder.delete_file("raygen.json")
    found = by_name(Folder.at(tmp_path))
    assert {run.problem for run in found.values()} == {""}
    said = {name: (run.kind, run.status, run.global_step) for name, run in found.items()}
    assert said == {
        "old": ("training", "begun", 2),
        "finished": ("training", "finished", 4),
        "went on": ("training", "begun", 5),
        "000": ("trial", "stopped", 2),
        "001": ("trial", "begun", 2),
    }


def test_damaged_runs_are_listed_with_their_problem(storage: Folder) -> None:
    damage = {
        "config.json": "not valid JSON",
        "summary.json": "not valid JSON",
        "metrics.jsonl": "line 1: not valid JSON",
        "checkpoints/step-00000002/state.json": "not valid JSON",
    }
    for number, file in enumerate(damage):
        run = storage.join(str(number))
        RunFolder(run).note(tiny_config())
        write_history(run, 1)
        write_checkpoint(run, 2)
        run.write_bytes(file, b"{\n")
    RunFolder(storage.join("unknown")).note(tiny_config())
    storage.join("unknown").write_json("config.json", {"preset": "gan-of-tomorrow"})
    RunFolder(storage.join("gone")).note(tiny_config())
    storage.join("gone").delete_file("config.json")
    marker.write(storage.join("deleting"), "run", deleting=True)
    RunFolder(storage.join("both")).note(tiny_config())
    write_checkpoint(storage.join("both"), 2)
    for name in ("raygen.json", "config.json"):
        storage.join("both").write_bytes(name, b"{")
    sweep = write_sweep(storage.join("sweep"))
    for name in ("trial.json", "config.json"):
        sweep.trial_run(1).folder.write_bytes(name, b"{")
    found = by_name(storage)
    for number, (file, problem) in enumerate(damage.items()):
        assert found[str(number)].problem.startswith(storage.join(str(number), file).uri)
        assert problem in found[str(number)].problem
    # What is known of them is told.
    assert found["0"].config == {}
    assert [found[name].global_step for name in "0123"] == [2, 2, 2, 1]
    assert found["1"].metrics == {"loss": 1.0}
    assert "'gan-of-tomorrow'" in found["unknown"].problem
    assert found["gone"].problem.startswith(
        f"{storage.join('gone', 'config.json').uri}: is missing"
    )
    assert found["deleting"].problem.endswith("is being deleted by --restart")
    assert (found["both"].kind, found["both"].global_step) == ("training", 2)
    assert found["000"].problem == ""
    assert (found["001"].kind, found["001"].sweep) == ("trial", "sweep")
    damaged = sweep.trial_run(1).folder.join("config.json").uri
    assert found["001"].problem.startswith(f"{damaged}: not valid JSON")


def test_a_sweep_whose_trials_cannot_be_looked_up_hides_no_other(tmp_path: Path) -> None:
    storage = Folder.at(tmp_path)
    RunFolder(storage.join("a")).note(tiny_config())
    marker.write(storage.join("s"), "sweep")
    storage.join("s").write_bytes("trials", b"")
    first, second = raygen.list_runs(tmp_path)
    assert (first.name, first.problem) == ("a", "")
    assert (second.sweep, second.problem) == ("s", f"{tmp_path}/s/trials: is a file; name a folder")


def test_an_empty_storage_has_no_runs_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    assert raygen.list_runs(tmp_path) == []
    with pytest.raises(UserError, match="typo: does not exist; name the folder"):
        raygen.list_runs(tmp_path / "typo")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is a file"):
        raygen.list_runs(tmp_path / "file")
    with pytest.raises(UserError, match="credentials"):
        raygen.list_runs("s3://key:secret@bucket/runs")


def test_listing_loads_no_torch_and_no_ray(tmp_path: Path) -> None:
    write_sweep(Folder.at(tmp_path / "s"))
    code = (
        "import sys, raygen\n"
        "print(len(raygen.list_runs(sys.argv[1])))\n"
        "assert not {'torch', 'ray', 'tensorboard'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == 2
