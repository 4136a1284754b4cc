"""jobs/train.py, run for real on the session's Ray: to its end, on from there, and broken."""

import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from helpers import damage, fails, job, run_script, write_dataset
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raygen.cluster import connection as cluster
from raygen.core.history import last_values, read_history
from raygen.core.status import RUN, Callbacks, Progress, State
from raygen.core.storage import Folder
from raygen.jobs.train import Watcher
from raygen.training.placement import Placement
from raygen.training.summary import read_summary

SMALL = ("--width", "0.125", "--batch-size", "16", "--drawn-count", "60", "--num-workers", "2")


def train(*arguments: str | Path) -> int:
    return run_script("train", *arguments)


@pytest.mark.slow
def test_a_run_trains_and_leaves_everything_in_its_folder_and_goes_on(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "runs"
    options = ("--storage", storage, "--run-name", "first", "--log-images", "16", *SMALL)
    assert train("dcgan-celeba", "--steps", "4", *options) == 0
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert "4 steps of 16 images on 2 CPU workers; 48 training images" in output
    assert lines[-2].split()[-1] == f"{storage}/first/samples"
    assert lines[-4] == "updates:     generator 4, discriminator 4"
    assert re.fullmatch(
        r"used:        [\d:]+ of worker time; machines: [\d:]+ of 2 CPUs", lines[-3]
    )
    assert lines[-1].endswith(f"jobs/watch.py --storage {storage}")
    assert "ray::" not in output

    run = storage / "first"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["preset"] == "dcgan-celeba"
    assert (summary["kind"], summary["run_name"], summary["status"]) == (
        "training",
        "first",
        "finished",
    )
    history = read_history(Folder.at(run))
    assert history[-1].step == 4
    by = "quality/fd_random-vgg"
    scores = [m.values[by] for m in history if by in m.values]
    assert summary["best"]["score"] == min(scores)
    assert last_values(history) == summary["metrics"]
    assert (summary["images_seen"], summary["global_step"], summary["num_workers"]) == (64, 4, 2)
    assert (summary["total_steps"], summary["updates"]) == (
        4,
        {"generator": 4, "discriminator": 4},
    )
    assert 0 < summary["seconds_to_first_step"] < summary["seconds"]
    assert summary["images_per_second"] > 0
    assert 0 <= summary["data_wait_fraction"] <= 1
    assert json.loads((run / "config.json").read_text())["batch_size"] == 16
    pictures = sorted(file.name for file in (run / "samples").iterdir())
    assert pictures == [
        f"{name}-{images:09d}.png" for name in ("interpolation", "samples") for images in (0, 64)
    ]
    assert Image.open(run / "samples" / pictures[2]).size == (8 * 34 + 2, 8 * 34 + 2)

    events = EventAccumulator(str(run))
    events.Reload()
    for tag in (
        "loss/discriminator_real",
        "loss/discriminator_fake",
        "loss/generator",
        "accuracy/discriminator",
        "throughput/images_per_second",
        "throughput/data_wait_fraction",
        "validation/discriminator",
        "validation/generator",
        "quality/fd_random-vgg",
        "quality/swd",
    ):
        steps = [event.step for event in events.Scalars(tag)]
        assert steps[-1] == 64
        assert summary["metrics"][tag] == pytest.approx(events.Scalars(tag)[-1].value, rel=1e-5)
    assert [event.step for event in events.Images("samples")][-1] == 64
    assert "config/text_summary" in events.Tags()["tensors"]

    assert sorted(entry.name for entry in run.iterdir() if "tfevents" not in entry.name) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "raygen.json",
        "samples",
        "summary.json",
    ]
    before = load_file(run / "checkpoints/step-00000004/generator.safetensors")
    assert train("--steps", "6", "--reader", "direct", *options) == 0
    assert f"resuming {run} at step 4" in capsys.readouterr().out
    assert json.loads((run / "summary.json").read_text())["global_step"] == 6
    after = load_file(run / "checkpoints/step-00000006/generator.safetensors")
    assert any((before[name] != after[name]).any() for name in before)

    assert train("--steps", "6", *options) == 0
    assert "this run is complete at step 6" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "options", "shown"),
    [
        ("vae-celeba", ("--latent-size", "8", "--sample-count", "2"), "MSE"),
        ("dcgan-anime", ("--schedule", "two-phase"), "D loss"),
        ("vaegan-anime", ("--objective", "article"), "KL"),
    ],
)
def test_every_system_trains_and_is_sampled(
    ray_session: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    preset: str,
    options: tuple[str, ...],
    shown: str,
) -> None:
    storage = tmp_path / "runs"
    small = ("--width", "0.03", "--batch-size", "4", "--drawn-count", "24", "--num-workers", "1")
    assert train(preset, "--steps", "2", "--storage", storage, *small, *options) == 0
    assert f" - {shown} " in capsys.readouterr().out
    pictures = {file.name.split("-")[0] for file in (storage / preset / "samples").iterdir()}
    with_encoder = {"reconstructions", "codes"} if preset.startswith("vae") else set()
    assert pictures == {"samples", "interpolation"} | with_encoder
    summary = json.loads((storage / preset / "summary.json").read_text())
    assert {"quality/swd"} < {name for name in summary["metrics"] if "loss/" not in name}
    out = tmp_path / "strip.png"
    if with_encoder:
        strip = ("--attribute", "Smiling", "--out", out, "-n", "2")
        assert run_script("sample", storage / preset, *strip) == 0
    else:
        assert run_script("sample", storage / preset, "-n", "4", "--out", out) == 0
    assert out.exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_job(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--storage", tmp_path / "runs", "--steps", "50", "--on-nan", "restore", *SMALL)
    assert train("--lr-g", "1e30", *options) == 1
    captured = capsys.readouterr()
    assert captured.out.count("learning rates halved") == 3
    assert "a worker failed" not in captured.out
    assert re.search(r"error: .* was not finite at step \d+; the last good", captured.err)
    assert "halved 3 times already" in captured.err
    assert read_summary(Folder.at(tmp_path / "runs/dcgan-celeba")).status == "failed"


def worker_pids(address: str) -> list[int]:
    from ray.util.state import list_actors

    actors = list_actors(address, filters=[("state", "=", "ALIVE")])
    return [a.pid for a in actors if a.class_name == "RayTrainWorker" and a.pid is not None]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_ctrl_c_saves(ray_session: str, tmp_path: Path) -> None:
    checkpoints = tmp_path / "runs/run/checkpoints"

    def newest() -> int:
        states = checkpoints.glob("step-*/state.json")
        return max((int(state.parent.name[5:]) for state in states), default=-1)

    options = ("--storage", tmp_path / "runs", "--run-name", "run", *SMALL)
    endless = ("--steps", "1000000", "--checkpoint-images", "800")
    with job(ray_session, tmp_path / "log", "train", *endless, *options) as run:
        run.wait_for(lambda: newest() >= 50)
        os.kill(worker_pids(ray_session)[0], signal.SIGKILL)
        run.wait_for(lambda: "a worker failed; going on from step" in run.output)
        resumed = int(re.findall(r"going on from step ([\d,]+)", run.output)[0].replace(",", ""))
        assert resumed >= 50
        run.wait_for(lambda: newest() > resumed)
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == 130, run.output
    [stopped] = re.findall(r"interrupted: saved at step ([\d,]+) of 1,000,000", run.output)
    assert newest() == int(stopped.replace(",", ""))
    summary = read_summary(Folder.at(tmp_path / "runs/run"))
    assert (summary.status, summary.global_step) == ("interrupted", newest())
    history = read_history(Folder.at(tmp_path / "runs/run"))
    assert len(history) == len({(m.images_seen, *m.values) for m in history})


def test_mistakes_are_told_in_one_line_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ("--storage", tmp_path / "runs")
    assert "preset 'dcgan': unknown; choose one of vae-celeba" in fails(
        capsys, "train", "dcgan", *there
    )
    line = fails(capsys, "train", "--data", tmp_path / "nowhere", *there)
    assert f"--data {tmp_path}/nowhere: holds no manifest.json" in line
    write_dataset(tmp_path / "tiny", (5,), (2,))
    line = fails(capsys, "train", "--data", tmp_path / "tiny", *there)
    assert "holds 4x4 images, but dcgan-celeba trains on 32x32" in line
    line = fails(capsys, "train", "dcgan-anime", "--schedule", "0:1", *there)
    assert "--schedule 0:1: must be two-phase, or discriminator steps" in line
    assert "--steps -1: must be 0 or more" in fails(capsys, "train", "--steps", "-1", *there)
    assert "--stepz" in fails(capsys, "train", "--stepz", "3", *there)
    assert "--steps many: must be a whole number" in fails(
        capsys, "train", "--steps", "many", *there
    )
    assert "--width big: must be a number" in fails(capsys, "train", "--width", "big", *there)
    assert "--config nowhere.json: cannot be read" in fails(
        capsys, "train", "--config", "nowhere.json"
    )
    (tmp_path / "file").write_text("")
    assert "file" in fails(capsys, "train", "--storage", tmp_path / "file")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_waits_for_machines_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "nodes", lambda: [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}])

    def shown(placement: Placement) -> str:
        line = mock.Mock()
        Watcher(line, mock.Mock(), placement, mock.Mock(), Callbacks())(State({}))
        [[text]] = [call.args for call in line.show.call_args_list]
        return str(text)

    waiting = "starting workers, 0:00 so far"
    assert shown(Placement(8, True, 1.0)) == f"{waiting}; 2 of 8 GPUs are there"
    assert shown(Placement(40, False, 0.5)) == f"{waiting}; 16 of 20 CPUs are there"
    assert shown(Placement(2, True, 1.0)) == shown(Placement(32, False, 0.5)) == waiting


def test_a_run_whose_machines_were_taken_away_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    line, now = mock.Mock(), [0.0]
    monkeypatch.setattr(cluster, "nodes", lambda: [{"CPU": 8.0, "GPU": 2.0}])
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    signals = mock.Mock(stop=threading.Event())
    watcher = Watcher(line, signals, Placement(8, True, 1.0), mock.Mock(), Callbacks())
    progress = Progress(640, 1000, 10.0, {"loss/kl": 2.0})
    shown = "640/1,000 images, 64% - 10 images/s, 0:36 left - KL 2"
    for seconds, state, text in (
        (0, State({}), "starting workers, 0:00 so far; 2 of 8 GPUs are there"),
        (9, State({}), "starting workers, 0:09 so far; 2 of 8 GPUs are there"),
        (12, State({RUN: progress}), shown),
        (40, State({RUN: progress}), shown),
        (50, State({RUN: replace(progress, doing="validating")}), f"validating - {shown}"),
        (
            100,
            State({RUN: replace(progress, doing="validating")}),
            f"no word from the workers for 0:50; 2 of 8 GPUs are there - {shown}",
        ),
        (110, State({}), "starting workers, 0:00 so far; 2 of 8 GPUs are there"),
    ):
        now[0] = seconds
        watcher(state)
        assert line.show.call_args.args == (text,)


@pytest.mark.slow
def test_mistakes_that_only_ray_or_a_worker_can_see(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, _ = write_dataset(tmp_path / "data", (40, 40), (10,), size=32, rows_per_group=20)
    there = ("--storage", tmp_path / "runs", "--data", tmp_path / "data", "--width", "0.125")
    line = fails(capsys, "train", "--batch-size", "9", "--num-workers", "2", *there)
    assert "--batch-size 9: cannot be split evenly over 2 workers; use 8 or 10" in line
    line = fails(capsys, "train", "--num-workers", "5000", *there)
    assert "--num-workers 5000: the cluster has" in line
    grown = ("--cluster-may-grow-to", "4x8CPU+1GPU")
    line = fails(capsys, "train", "--num-workers", "5", "--batch-size", "20", *grown, *there)
    assert "--num-workers 5: the cluster has 4 GPUs" in line
    assert "--sync-bn: needs GPUs" in fails(capsys, "train", "--sync-bn", *there)
    assert "make no full batch" in fails(capsys, "train", "--epochs", "0.1", *there)
    damage(tmp_path / "data/train-00001.parquet")
    line = fails(capsys, "train", "--batch-size", "16", "--num-workers", "1", *there)
    assert "train-00001.parquet: is damaged" in line
    assert manifest.size == "32x32"
