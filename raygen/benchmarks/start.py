"""Measures how long a training takes to start, compared with a Ray Train script of a user's own."""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from raygen.benchmarks.figures import Figure, say
from raygen.benchmarks.options import StartBenchOptions
from raygen.core.errors import RunError
from raygen.core.storage import Folder
from raygen.training.summary import read_summary

PRESET = "dcgan-celeba"
WORKERS = 2
EMPTY = Path(__file__).with_name("empty_trainer.py")


def start(options: StartBenchOptions, place: Path, jobs: Path) -> list[Figure]:
    """Measure the figure. Args: place: a folder for faces and runs; jobs: the scripts' folder."""
    faces = place / "faces-32"
    say("preparing faces")
    count = ("--count", str(options.drawn_count))
    run([str(jobs / "prepare.py"), "drawn", *count, "--size", "32", "--out", str(faces)])
    trainings, empties = [], []
    for repeat in range(options.repeats + 1):
        # The first of each fills the system's cache of files, and is not counted.
        say(f"measuring the start, {repeat} of {options.repeats}" if repeat else "warming up")
        empties.append(start_of_empty(place))
        trainings.append(start_of_training(options, faces, place, jobs))
    pairs = list(zip(trainings, empties, strict=True))[1:]
    training, empty = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    return [
        Figure(
            f"from command to first step of {PRESET} : empty TorchTrainer",
            statistics.median(training / empty for training, empty in pairs),
            1.25,
            False,
            f"{training:.1f} s : {empty:.1f} s",
        )
    ]


def run(command: list[str]) -> None:
    """Run a Python script with a Ray of its own. Raises: RunError if it fails."""
    environment = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RunError(f"{' '.join(command)} failed: {done.stderr or done.stdout}")


def start_of_empty(place: Path) -> float:
    """Time from starting a user's script until the last worker's function is called, in seconds."""
    calls = place / "calls.txt"
    calls.unlink(missing_ok=True)
    began_at = time.time()
    run([str(EMPTY), str(calls)])
    times = [float(line) for line in calls.read_text().splitlines()]
    if len(times) != WORKERS:
        raise RunError(f"{len(times)} of {WORKERS} workers began")
    return max(times) - began_at


def start_of_training(options: StartBenchOptions, faces: Path, place: Path, jobs: Path) -> float:
    """Time from starting a training's script until its first step has ended, in seconds."""
    folder = place / "start"
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(jobs / "train.py"), PRESET, "--data", str(faces), "--steps", "2"]
    command += ["--num-workers", str(WORKERS), "--width", str(options.width)]
    command += ["--batch-size", str(options.batch_size)]
    began_at = time.time()
    run([*command, "--storage", str(place), "--run-name", folder.name])
    summary = read_summary(Folder.at(folder))
    assert summary.began_at is not None
    assert summary.seconds_to_first_step is not None
    return summary.began_at + summary.seconds_to_first_step - began_at
