"""Storages of runs and sweeps that were never trained: their files alone."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from helpers import tiny_config
from PIL import Image

from raygen.core.history import Measurement
from raygen.evaluation.record import Evaluation, Measured
from raygen.training.summary import Summary
from raygen.tuning.records import Report, Trial, trial_name

DATASET = "ab" * 32
BEGAN = 1.7e9
"""Unix time at which the first run began, in seconds."""


def write_run(
    place: Path,
    number: int = 0,
    fd: float | None = None,
    swd: float = 30.0,
    samples: Sequence[bytes] = (),
    status: str = "finished",
    dataset: str = DATASET,
) -> None:
    """The files of a run of 1,000 steps.

    Args:
        number: decides when it was active; fd, swd: as evaluated, if there is an FD, and while it
        trained; samples: its pictures, the oldest first.
    """
    place.mkdir(parents=True)
    _write(place / "raygen.json", {"raygen": "run", "deleting": False})
    _write(place / "config.json", tiny_config(seed=number).explicit.to_json())
    metrics = {"quality/fd_random-vgg": 2 * swd, "quality/swd": swd, "loss/generator": 1.0}
    lines = [Measurement(k, 8 * k, k / 2, metrics).to_line() for k in (500, 1000)]
    (place / "metrics.jsonl").write_bytes(b"".join(lines))
    ended = BEGAN + 3600 * number
    summary = Summary(
        *("dcgan-celeba", 8000, 1000, 500.0, 9.0, 0.5, 0.0, 2, "cpu", metrics, "data/faces"),
        run_name=place.name,
        status=status,  # type: ignore[arg-type]
        dataset=dataset,
        began_at=ended - 500,
        ended_at=ended,
        raygen_version="1",
    )
    _write(place / "summary.json", summary.to_json())
    if fd is not None:
        values = {"random-vgg/fd": fd, "random-vgg/coverage": 0.5, "swd/by_real": swd + 1}
        measured = {
            tag: Measured(value, value, value, 0.1, 9.0, 10_000) for tag, value in values.items()
        }
        about = {"step": 1000, "split": "test"}
        _write(place / "evaluation.json", Evaluation("random-vgg/fd", measured, about).to_json())
    if samples:
        (place / "samples").mkdir()
    for k, picture in enumerate(samples, 1):
        (place / f"samples/samples-{8 * k:09d}.png").write_bytes(picture)


def picture(colour: tuple[int, int, int] = (200, 60, 60), side: int = 32) -> bytes:
    """A grid of 64 samples: the upper two rows in a colour, the others black."""
    pixels = np.zeros((8 * (side + 2) + 2, 8 * (side + 2) + 2, 3), np.uint8)
    pixels[: 2 * (side + 2) + 2] = colour
    return encoded(pixels)


def encoded(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG file. Args: pixels: (height, width, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_sweep(place: Path, found: str = "best SWD 20 against 40 for the defaults") -> None:
    """The files of a sweep of four trials, one of which failed, and of its confirmation."""
    place.mkdir(parents=True)
    _write(place / "raygen.json", {"raygen": "sweep", "deleting": False})
    about = {"run": tiny_config().to_json(), "sweep": {"trials": "4"}, "dataset": DATASET}
    about |= {"space": {"lr_g": "loguniform(1e-05,1e-03)"}, "metric": "quality/swd"}
    _write(place / "sweep.json", about)
    _write(place / "summary.json", {"preset": "dcgan-celeba", "found": found, "trials": 4})
    for number, (status, value) in enumerate(
        (("finished", 40.0), ("finished", 30.0), ("finished", 20.0), ("failed", 10.0))
    ):
        _write_trial(place, number, status, value, {"lr_g": number / 1000})


def confirm(place: Path, established: bool) -> None:
    """Trial 1 of a sweep, with three new seeds, one of which was interrupted."""
    best = {"trial": 1, "values": {"lr_g": 1 / 1000}}
    defaults = {"trial": 0, "values": {"lr_g": 0.0}}
    confirmed = {"metric": "quality/swd", "mode": "min", "seeds": 3, "established": established}
    confirmed |= {"found": "confirmed with 3 new seeds", "settings": [best, defaults]}
    _write(place / "confirmed.json", confirmed)
    for number, (lr, status) in enumerate(
        ((0.0, "finished"), (0.001, "finished"), (0.001, "finished"), (0.001, "interrupted"))
    ):
        values = {"lr_g": lr, "seed": 7 + number}
        _write_trial(place / "confirmation", number, status, 25.0, values)


def _write_trial(
    sweep: Path, number: int, status: str, value: float, values: dict[str, Any]
) -> None:
    place = sweep / "trials" / trial_name(number)
    place.mkdir(parents=True)
    _write(place / "raygen.json", {"raygen": "run", "deleting": False})
    _write(place / "config.json", tiny_config().explicit.to_json())
    report = Report(8000, value, 10.0, BEGAN, {"quality/swd": value})
    _write(place / "trial.json", asdict(Trial(number, values, status, reports=[report])))  # type: ignore[arg-type]


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))
