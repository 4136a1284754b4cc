"""What TensorBoard will find, and what `metrics.jsonl` says without it."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import fs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raygen.core.errors import UserError
from raygen.core.history import (
    END_BYTES,
    METRICS_FILE,
    Measurement,
    last_values,
    read_history,
    read_newest,
)
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.tensorboard.run_log import RunLog
from raygen.training.run import RunFolder


def events(path: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(path), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def test_scalars_pictures_and_text_are_found_against_images_seen(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    with RunLog(RunFolder.at(str(tmp_path), "run").folder, 0) as log:
        log.text("config", "| option | value |")
        log.scalars({"loss/generator": 0.5}, Position(images_seen=128))
        log.scalars({"loss/generator": 0.25}, Position(images_seen=256))
        log.picture("samples", pixels, 256)
    found = events(tmp_path / "run")
    scalars = found.Scalars("loss/generator")
    assert [(s.step, s.value) for s in scalars] == [(128, 0.5), (256, 0.25)]
    image = found.Images("samples")[0]
    assert (image.step, image.width, image.height) == (256, 8, 6)
    assert "config/text_summary" in found.Tags()["tensors"]
    saved = np.asarray(Image.open(tmp_path / "run/samples/samples-000000256.png"))
    assert np.array_equal(saved, pixels)


def test_a_resumed_run_hides_what_was_logged_beyond_its_checkpoint(tmp_path: Path) -> None:
    run = RunFolder.at(str(tmp_path), "run")
    with RunLog(run.folder, 0) as log:
        # An attempt that ended before its first checkpoint.
        log.scalars({"loss": -5}, Position(images_seen=0))
    with RunLog(run.folder, 0) as log:
        for images in (100, 200, 300):
            log.scalars({"loss": images}, Position(images_seen=images))
    with RunLog(run.folder, 200) as log:
        log.scalars({"loss": -1}, Position(images_seen=300))
    scalars = events(tmp_path / "run").Scalars("loss")
    assert [(s.step, s.value) for s in scalars] == [(100, 100), (200, 200), (300, -1)]


def test_where_files_cannot_be_appended_to_events_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(local))
    # A filesystem that raygen does not take for the local disk, as object stores are.
    elsewhere = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    run = RunFolder(Folder("s3://bucket/run", elsewhere, "run"))
    with RunLog(run.folder, 0) as log:
        log.scalars({"loss": 1.0}, Position(images_seen=10))
        log.flush()
        assert [s.value for s in events(tmp_path / "run").Scalars("loss")] == [1.0]
        log.scalars({"loss": 2.0}, Position(images_seen=20))
        assert list(local.iterdir())
    assert [s.value for s in events(tmp_path / "run").Scalars("loss")] == [1.0, 2.0]
    assert [m.values["loss"] for m in read_history(run.folder)] == [1.0, 2.0]
    assert list(local.iterdir()) == []


@pytest.fixture(params=["local", "object store"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    """A run's folder on either kind of storage."""
    if request.param == "local":
        return RunFolder.at(str(tmp_path), "run")
    return RunFolder(request.getfixturevalue("s3").join("run"))


def log_losses(run: RunFolder, start: int, *images: int) -> None:
    """A session that goes on after so many images, and logs where it was after more."""
    with RunLog(run.folder, start) as log:
        for seen in images:
            log.scalars({"loss": seen + start / 1000}, Position(seen // 10, seen, seen / 100))


def logged(run: RunFolder) -> list[tuple[int, float]]:
    return [(m.images_seen, m.values["loss"]) for m in read_history(run.folder)]


def test_each_measurement_is_a_line_of_json(run: RunFolder) -> None:
    assert read_history(run.folder) == []
    with RunLog(run.folder, 0) as log:
        log.scalars({"loss/generator": 1.25, "loss/größe": 0.1}, Position(2, 128, 3.14159))
        log.flush()
        assert len(read_history(run.folder)) == 1
        log.scalars({"quality/swd": 30.0}, Position(2, 128, 4.0))
    lines = run.folder.read_bytes("metrics.jsonl").decode().splitlines()
    assert json.loads(lines[0]) == {
        "step": 2,
        "images_seen": 128,
        "seconds": 3.142,
        "values": {"loss/generator": 1.25, "loss/größe": 0.1},
    }
    history = read_history(run.folder)
    assert history[1] == Measurement(2, 128, 4.0, {"quality/swd": 30.0})
    expected = {"loss/generator": 1.25, "loss/größe": 0.1, "quality/swd": 30.0}
    assert last_values(history) == expected


def test_what_is_not_finite_is_null(run: RunFolder) -> None:
    with RunLog(run.folder, 0) as log:
        log.scalars({"a": math.nan, "b": -math.inf, "c": 1.0}, Position(1, 8, 0.5))
    assert b'"values": {"a": null, "b": null, "c": 1.0}' in run.folder.read_bytes("metrics.jsonl")
    [measurement] = read_history(run.folder)
    assert math.isnan(measurement.values["a"])
    assert math.isnan(measurement.values["b"])
    assert measurement.values["c"] == 1.0


def test_a_resumed_run_loses_and_doubles_no_line(run: RunFolder) -> None:
    # An attempt that ended before its first checkpoint.
    log_losses(run, 0, 100, 200)
    log_losses(run, 0, 100, 200, 200, 300)
    assert [seen for seen, _ in logged(run)] == [100, 200, 200, 300]
    log_losses(run, 200, 300, 400)
    log_losses(run, 400)
    expected = [(100, 100.0), (200, 200.0), (200, 200.0), (300, 300.2), (400, 400.2)]
    assert logged(run) == expected
    log_losses(run, 0, 50)
    assert logged(run) == [(50, 50.0)]


def test_a_line_that_was_being_written_is_left_out(run: RunFolder) -> None:
    log_losses(run, 0, 100, 200)
    whole = run.folder.read_bytes("metrics.jsonl")
    for cut in (1, 20, len(whole.splitlines()[-1])):
        run.folder.write_bytes("metrics.jsonl", whole[:-cut])
        assert logged(run) == [(100, 100.0)]
    log_losses(run, 200, 300)
    assert logged(run) == [(100, 100.0), (300, 300.2)]


def test_what_was_logged_before_a_kill_is_on_the_disk(tmp_path: Path) -> None:
    run = RunFolder.at(str(tmp_path), "run")
    log = RunLog(run.folder, 0)
    log.scalars({"loss": 1.0}, Position(1, 10, 0.1))
    assert logged(run) == [(10, 1.0)]
    log.close(flush=False)


GOOD = b'{"step": 1, "images_seen": 8, "seconds": 0.5, "values": {"loss": 1.0}}\n'
DAMAGED = {
    "no json": (b"loss: 1\n", "not valid JSON"),
    "empty line": (b"\n", "not valid JSON"),
    "list": (b"[1]\n", "must be an object"),
    "missing": (b'{"step": 1, "images_seen": 8, "seconds": 1}\n', "values is missing"),
    "unknown": (GOOD.replace(b"step", b"stop"), "stop is unknown"),
    "text": (GOOD.replace(b"1.0", b'"x"'), "values.loss is 'x', but must be a finite number"),
    "NaN": (GOOD.replace(b"1.0", b"NaN"), "values.loss is NaN, but must be a finite number"),
    "huge": (GOOD.replace(b"1.0", b"1e999"), "must be a finite number, or null"),
    "negative": (GOOD.replace(b"0.5", b"-1"), "seconds is -1"),
    "back": (GOOD.replace(b"8", b"7"), "images_seen is 7, but must be 8 or more"),
    "twice": (GOOD.replace(b'"step"', b'"step": 1, "step"'), "appears twice"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, case: str) -> None:
    line, problem = DAMAGED[case]
    folder = Folder.at(tmp_path)
    folder.write_bytes("metrics.jsonl", 2 * GOOD + line + GOOD)
    with pytest.raises(UserError, match=rf"metrics\.jsonl, line 3: .*{problem}"):
        read_history(folder)
    # A run does not go on by deleting what it cannot read.
    with pytest.raises(UserError, match="line 3"):
        RunLog(folder, 8)
    assert folder.read_bytes("metrics.jsonl") == 2 * GOOD + line + GOOD
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raygen.core.history.MOST_BYTES", len(GOOD))
    folder = Folder.at(tmp_path)
    folder.write_bytes("metrics.jsonl", GOOD)
    assert len(read_history(folder)) == 1
    folder.write_bytes("metrics.jsonl", 2 * GOOD)
    with pytest.raises(UserError, match="has more than .*--log-images"):
        read_history(folder)


def test_the_newest_measurements_are_read_from_the_end(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    assert read_newest(folder) == []
    lines = [Measurement(k, 8 * k, k / 2, {"loss": 1 / k}).to_line() for k in range(1, 20_000)]
    for count in (1, 100, len(lines)):
        folder.write_bytes(METRICS_FILE, b"".join(lines[:count]))
        history, newest = read_history(folder), read_newest(folder)
        assert newest == history[-len(newest) :]
        assert len(newest) == count or len(b"".join(lines[-len(newest) - 1 :])) >= END_BYTES
    # A line that is being written is left out; one before the end is not looked at.
    folder.write_bytes(METRICS_FILE, b"{\n" + b"".join(lines) + b'{"step": 1')
    assert read_newest(folder)[-1] == history[-1]
    folder.write_bytes(METRICS_FILE, b"".join(lines) + b"{\n")
    with pytest.raises(UserError, match="line [0-9]+ of the last 262,144 bytes: not valid JSON"):
        read_newest(folder)
    folder.write_bytes(METRICS_FILE, b"x" * END_BYTES + b"\n")
    assert read_newest(folder) == []
