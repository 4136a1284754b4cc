"""Measures the overhead of sweeps, and how much early stopping of bad trials saves."""

import json
import statistics
from itertools import pairwise
from pathlib import Path

from raygen.benchmarks.figures import Figure, local_ray, run_job_script, say
from raygen.benchmarks.options import SweepBenchOptions
from raygen.config.families import FD
from raygen.core.errors import RunError
from raygen.core.storage import Folder
from raygen.evaluation.metrics import DOMAIN, in_features
from raygen.evaluation.objective import Objective
from raygen.tuning.records import SweepFolder, Trial, best_trial

PRESET = "dcgan-celeba"
SHORT_STEPS = 9
"""Length of the trials whose start is measured, in steps."""


def sweep(options: SweepBenchOptions, place: Path, jobs: Path) -> list[Figure]:
    """Measure all figures. Args: place: a folder for the sweeps; jobs: the scripts' folder."""
    length = ("--steps", str(options.steps), "--trials", str(options.trials))
    with local_ray():
        one = run_sweep(options, place, jobs, "one-worker", *short_sweep(options, 1))
        nested = run_sweep(options, place, jobs, "nested", *short_sweep(options, 2))
        halving = run_sweep(options, place, jobs, "asha", *length)
        whole = run_sweep(options, place, jobs, "to-the-end", *length, "--scheduler", "none")
    summary = json.loads((place / "asha/summary.json").read_text())
    alone, together = startup(one), startup(nested)
    images = [sum(trial.images_seen for trial in trials) for trials in (halving, whole)]
    best = [best_objective(trials) for trials in (halving, whole)]
    return [
        Figure(
            "start of a one-worker trial : of one with Ray Train inside",
            alone / together,
            0.3,
            False,
            f"{alone:.2f} s : {together:.2f} s",
        ),
        Figure(
            f"images of {options.trials} trials with asha : all to the end",
            images[0] / images[1],
            0.4,
            False,
            f"{images[0]:,} : {images[1]:,}",
        ),
        Figure(
            "best FD with asha : all to the end",
            best[0] / best[1],
            1,
            False,
            f"{best[0]:.4g} : {best[1]:.4g}",
        ),
        Figure(
            "time that trials train : places for trials x time of the sweep",
            summary["busy_share"],
            0.8,
            True,
            f"{summary['at_once']} places, {summary['seconds']:.0f} s",
        ),
    ]


def short_sweep(options: SweepBenchOptions, workers: int) -> list[str]:
    """Options of a sweep of short trials, one after the other."""
    arguments = ["--steps", str(SHORT_STEPS), "--trials", str(options.startups + 1)]
    arguments += ["--scheduler", "none", "--max-concurrent", "1"]
    return [*arguments, "--workers-per-trial", str(workers)]


def run_sweep(
    options: SweepBenchOptions, place: Path, jobs: Path, name: str, *arguments: str
) -> list[Trial]:
    """Run a sweep in a new process. Returns: its trials. Raises: RunError if one failed."""
    say(f"measuring a sweep: {name}")
    common = ["--batch-size", str(options.batch_size), "--width", str(options.width)]
    common += ["--drawn-count", str(options.drawn_count), "--storage", str(place)]
    common += ["--run-name", name, "--restart", "--confirm", "0"]
    run_job_script(jobs / "tune.py", PRESET, *common, *arguments)
    trials = SweepFolder(Folder.at(place / name)).read_trials()
    for trial in trials:
        if trial.status not in ("finished", "stopped"):
            raise RunError(f"{name}: trial {trial.number} {trial.status}: {trial.reason}")
    return trials


def startup(trials: list[Trial]) -> float:
    """Median time between a trial's end and the beginning of training in the next, in seconds.

    Args: trials: trials that ran one after the other.
    """
    gaps = []
    for before, after in pairwise(trials):
        first = after.reports[0]
        gaps.append(first.at - first.seconds - before.reports[-1].at)
    return statistics.median(gaps)


def best_objective(trials: list[Trial]) -> float:
    best = best_trial(trials, Objective(in_features(FD, DOMAIN)))
    if best is None or best.objective is None:
        raise RunError("no trial was measured")
    return best.objective
