"""jobs/bench.py on a handful of images: what it measures, not how fast this machine is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import run_script

from raygen.benchmarks.figures import Figure
from raygen.benchmarks.scaling import tables

ROOT = Path(__file__).parents[2]


def measure(place: Path, kind: str, *options: str) -> list[dict[str, Any]]:
    """The figures of a measurement, in a process of its own: it starts a Ray of its own."""
    command = [sys.executable, str(ROOT / "jobs/bench.py"), kind, "--storage", str(place), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads((place / f"{kind}.json").read_text())
    assert results["machine"]["cpus"] >= 1
    names = [figure["name"] for figure in results["figures"]]
    assert len(names) == len(set(names))
    for figure in results["figures"]:
        assert figure["value"] >= 0
        assert figure["name"] in done.stdout
        bar, value = figure["bar"], figure["value"]
        met = None if bar is None else value >= bar if figure["at_least"] else value <= bar
        assert figure["met"] == met
    return list(results["figures"])


@pytest.mark.slow
def test_ingestion_is_measured(tmp_path: Path) -> None:
    options = ("--images", "80", "--repeats", "1", "--steps", "2")
    assert len(measure(tmp_path, "ingest", *options)) == 17


@pytest.mark.slow
def test_sweeps_are_measured(tmp_path: Path) -> None:
    options = ("--trials", "3", "--steps", "9", "--batch-size", "8", "--width", "0.03")
    figures = measure(tmp_path, "sweep", *options, "--drawn-count", "60", "--startups", "1")
    assert len(figures) == 4
    start, images, best, busy = (figure["value"] for figure in figures)
    assert start > 0
    # The defaults run to their end in any case.
    assert 1 / 3 < images <= 1
    assert best >= 1
    assert 0 < busy < 1


@pytest.mark.slow
def test_a_training_whose_workers_fail_counts_every_image(tmp_path: Path) -> None:
    options = ("--minutes", "1.2", "--every", "6", "--checkpoint-images", "80")
    figures = measure(tmp_path, "soak", *options, "--batch-size", "8", "--width", "0.03")
    counted, repeated, restarts, _ = figures
    assert counted["value"] == 1
    # A node that is taken away may hold no worker.
    assert "undisturbed" not in counted["note"]
    assert repeated["value"] < 1
    assert restarts["value"] <= 2


@pytest.mark.slow
def test_the_start_is_measured(tmp_path: Path) -> None:
    options = ("--repeats", "1", "--drawn-count", "60", "--batch-size", "8", "--width", "0.03")
    [figure] = measure(tmp_path, "start", *options)
    assert figure["value"] > 0
    assert (tmp_path / "start/summary.json").exists()


def test_the_model_of_many_gpus_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("bench", "scaling") == 0
    assert capsys.readouterr().out == f"{tables()}\n"


@pytest.mark.slow
def test_steps_are_measured(tmp_path: Path) -> None:
    options = ("--batch-size", "4", "--width", "0.03", "--repeats", "2", "--precision", "fp32")
    figures = measure(tmp_path, "step", *options)
    assert len(figures) == 8
    assert all(figure["value"] > 0 for figure in figures)
    assert sum(figure["bar"] is None for figure in figures) == 1
    others = ("--precision", "bf16", "--preset", "dcgan-celeba")
    figures = measure(tmp_path, "step", *options, *others)
    assert [figure["bar"] for figure in figures] == [1.9, 0.6]


@pytest.mark.slow
def test_evaluations_are_measured(tmp_path: Path) -> None:
    figures = measure(tmp_path, "evaluate", "--images", "60", "--train-images", "80")
    # Features and four kinds of figures of two extractors, three kinds of images, and the sums.
    assert len(figures) == 2 * (1 + 4) + 3 + 3
    assert all(figure["value"] > 0 for figure in figures)
    # The target is for 10,000 images.
    assert all(figure["bar"] is None for figure in figures)


def test_a_figure_says_whether_it_meets_its_bar() -> None:
    assert "MISSED" in str(Figure("speed", 1.6, 1.7, True))
    assert "yes" in str(Figure("speed", 1.7, 1.7, True))
    assert "MISSED" in str(Figure("pause", 1.1, 1, False))
    assert "yes" in str(Figure("pause", 0.9, 1, False))
    assert not {"yes", "MISSED"} & set(str(Figure("share", 0.9, None, True)).split())


def test_mistakes_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ((), "the first word must be one of ingest, sweep, start, scaling, step, evaluate"),
        (("ingest", "--images", "3"), "--images 3: must be at least 40"),
        (("ingest", "--repeats", "0"), "--repeats 0: must be at least 1"),
        (("sweep", "--trials", "1"), "--trials 1: must be at least 2"),
        (("start", "--repeats", "0"), "--repeats 0: must be at least 1"),
        (("step", "--repeats", "0"), "--repeats 0: must be at least 1"),
        (("evaluate", "--images", "9"), "--images 9: must be at least 50"),
        (("step", "--preset", "gan"), "--preset gan: must be among vae-celeba"),
    ):
        assert run_script("bench", *arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
