"""Logs in object stores: long ones go on in further files, which readers take for one."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from failing_store import FailingStore
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raygen.core import history
from raygen.core.errors import UserError
from raygen.core.history import read_history, read_newest
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.tensorboard import run_log
from raygen.tensorboard.mirror import Mirror
from raygen.tensorboard.run_log import RunLog

SMALL_PARTS = 5_000
"""In place of a mebibyte, in bytes."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "PART_BYTES", SMALL_PARTS)
    # A file's name has the second in which it began, and each of these tests takes only some.
    seconds = iter(range(1_700_000_000, 2_000_000_000))
    monkeypatch.setattr(run_log, "time", mock.Mock(time=lambda: next(seconds)))
    monkeypatch.setattr(
        "tensorboard.summary.writer.event_file_writer.time", mock.Mock(time=lambda: next(seconds))
    )


def log_steps(folder: Folder, start: int, stop: int) -> None:
    """Log values at each step, of one image each, and flush at some."""
    with RunLog(folder, start) as log:
        for step in range(start + 1, stop + 1):
            values = {f"loss/{k}": step + k / 10 for k in range(5)}
            log.scalars(values, Position(step, step, float(step)))
            if not step % 10:
                log.flush()


def steps_in(folder: Folder) -> list[int]:
    return [m.images_seen for m in read_history(folder)]


def events_in(folder: Path) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("loss/0")]


def test_what_a_flush_uploads_does_not_grow_with_the_log(
    s3: Folder, store: FailingStore, tmp_path: Path
) -> None:
    folder = Folder.at(store.uri(s3.uri))
    sent = []
    with RunLog(folder, 0) as log:
        for step in range(1, 121):
            log.scalars({f"loss/{k}": step + k / 10 for k in range(5)}, Position(step, step, 1.0))
            if not step % 3:
                store.forget()
                log.flush()
                sent.append(store.bytes_in)
    # A part of the history and one of the events, each with what was logged since it was copied.
    assert max(sent) < 2 * (SMALL_PARTS + 3_000)
    assert sum(sent[20:]) < 1.5 * sum(sent[:20])
    assert len(history.parts_of(s3)) > 2
    assert sum("tfevents" in name for name in s3.names()) > 2
    assert steps_in(s3) == list(range(1, 121))
    Mirror(s3, str(tmp_path)).update()
    assert events_in(tmp_path) == [(step, step) for step in range(1, 121)]


def test_many_pictures_are_spread_over_files(s3: Folder, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with RunLog(s3, 0) as log:
        for number in range(1, 11):
            log.picture("samples", pixels, number)
    sizes = [size for name, size in s3.sizes().items() if "tfevents" in name]
    assert len(sizes) > 3
    assert max(sizes) < SMALL_PARTS + 2 * 64 * 64 * 3
    Mirror(s3, str(tmp_path)).update()
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    accumulator.Reload()
    assert [image.step for image in accumulator.Images("samples")] == list(range(1, 11))


@pytest.mark.parametrize("kept", [0, 10, 50, 99, 100])
def test_a_run_goes_on_from_any_part(s3: Folder, tmp_path: Path, kept: int) -> None:
    log_steps(s3, 0, 100)
    assert len(history.parts_of(s3)) > 2
    log_steps(s3, kept, kept + 30)
    assert steps_in(s3) == list(range(1, kept + 31))
    Mirror(s3, str(tmp_path)).update()
    assert [step for step, _ in events_in(tmp_path)] == list(range(1, kept + 31))


def test_the_newest_values_are_read_over_the_ends_of_parts(
    s3: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_steps(s3, 0, 100)
    whole = read_history(s3)
    assert read_newest(s3) == whole
    for most in (1_000, SMALL_PARTS, 2 * SMALL_PARTS + 500):
        monkeypatch.setattr(history, "END_BYTES", most)
        newest = read_newest(s3)
        assert newest == whole[-len(newest) :]
        lengths = [len(m.to_line()) for m in whole]
        assert most - 400 < sum(lengths[-len(newest) :]) <= most


def test_a_part_that_is_damaged_is_named_and_nothing_is_deleted(s3: Folder) -> None:
    log_steps(s3, 0, 100)
    names = s3.names()
    s3.write_bytes("metrics-0001.jsonl", b"{\n")
    for read in (lambda: read_history(s3), lambda: RunLog(s3, 95)):
        with pytest.raises(UserError, match=r"metrics-0001\.jsonl.*, line 1: not valid JSON"):
            read()
    assert s3.names() == names


def test_parts_are_parts_on_a_disk_too(tmp_path: Path, s3: Folder) -> None:
    """A run that was copied from an object store goes on in its last part."""
    log_steps(s3, 0, 100)
    for name in s3.names():
        (tmp_path / name).write_bytes(s3.read_bytes(name))
    there = Folder.at(tmp_path)
    parts = history.parts_of(there)
    log_steps(there, 100, 200)
    assert steps_in(there) == list(range(1, 201))
    assert history.parts_of(there) == parts
    log_steps(there, 10, 20)
    assert steps_in(there) == list(range(1, 21))
    assert history.parts_of(there) == ["metrics.jsonl"]
