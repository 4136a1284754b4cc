"""What TensorBoard will find."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raygen.training.logging import RunLog
from raygen.training.run import RunFolder


def events(path: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(path), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def test_scalars_pictures_and_text_are_found_against_images_seen(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    with RunLog(RunFolder.at(str(tmp_path), "run"), 0) as log:
        log.text("config", "| option | value |")
        log.scalars({"loss/generator": 0.5}, 128)
        log.scalars({"loss/generator": 0.25}, 256)
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
    with RunLog(run, 0) as log:
        # An attempt that ended before its first checkpoint.
        log.scalars({"loss": -5}, 0)
    with RunLog(run, 0) as log:
        for images in (100, 200, 300):
            log.scalars({"loss": images}, images)
    with RunLog(run, 200) as log:
        log.scalars({"loss": -1}, 300)
    scalars = events(tmp_path / "run").Scalars("loss")
    assert [(s.step, s.value) for s in scalars] == [(100, 100), (200, 200), (300, -1)]


def test_where_files_cannot_be_appended_to_events_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import fs

    from raygen.storage import Folder

    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(local))
    # A filesystem that raygen does not take for the local disk, as object stores are.
    elsewhere = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    run = RunFolder(Folder("s3://bucket/run", elsewhere, "run"))
    with RunLog(run, 0) as log:
        log.scalars({"loss": 1.0}, 10)
        log.flush()
        assert [s.value for s in events(tmp_path / "run").Scalars("loss")] == [1.0]
        log.scalars({"loss": 2.0}, 20)
        assert list(local.iterdir())
    assert [s.value for s in events(tmp_path / "run").Scalars("loss")] == [1.0, 2.0]
    assert list(local.iterdir()) == []
