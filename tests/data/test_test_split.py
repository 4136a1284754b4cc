"""The test split is read by evaluation alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import random_images, run_script, tiny_config, write_dataset
from PIL import Image

import raygen
from raygen.config.run import ImageFormat
from raygen.core import storage as storage_module
from raygen.core.errors import ShardError
from raygen.core.progress import ProgressLine
from raygen.core.regular_file import open_regular
from raygen.core.status import Callbacks
from raygen.core.storage import Folder
from raygen.data.dataset import check_files
from raygen.data.inspect import table, verify
from raygen.data.originals import open_originals
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.splits import TEST
from raygen.training.run import RunFolder
from raygen.training.run_session import run_session
from raygen.training.session import Session
from raygen.training.workers import Workers


def spoil_test_split(data: Path) -> None:
    """Overwrite the files of the test split with others of the same size, which are no shards."""
    manifest = Manifest.load(Folder.at(data))
    assert manifest.splits[TEST]
    for file in manifest.splits[TEST]:
        (data / file.name).write_bytes(b"x" * file.bytes)
    # What is not opened is not missed.
    assert Manifest.load(Folder.at(data)) == manifest
    with pytest.raises(ShardError, match=r"test-00000\.parquet: is damaged or cannot be read"):
        ShardReader(Folder.at(data), manifest, TEST).images(np.arange(1))


def test_the_check_before_a_restart_does_not_read_it(tmp_path: Path) -> None:
    manifest, pixels = write_dataset(tmp_path, (5, 7), (4,), test=(3, 3))
    folder = Folder.at(tmp_path)
    assert np.array_equal(ShardReader(folder, manifest, TEST).images(np.arange(6)), pixels[TEST])
    assert "test         6 images in 2 files" in table(folder, manifest)
    spoil_test_split(tmp_path)
    check_files(folder, manifest, ProgressLine())
    assert len(verify(folder, manifest)) == 2
    (tmp_path / "validation-00000.parquet").write_bytes(b"")
    with pytest.raises(ShardError, match=r"validation-00000\.parquet"):
        check_files(folder, manifest, ProgressLine())


def test_a_dataset_without_one_says_what_is_measured_instead(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, (5,), (4,))
    said = table(Folder.at(tmp_path), manifest)
    assert "test         none; measurements will use validation images" in said


@contextmanager
def opened_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Record the names of the original files that are opened to be read."""
    names: set[str] = set()

    def recording(path: str) -> object:
        if path.endswith(".png"):
            names.add(os.path.basename(path))
        return open_regular(path)

    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "open_regular", recording)
        yield names


def write_pictures(place: Path, count: int) -> str:
    place.mkdir()
    for number, pixels in enumerate(random_images(count, 32).numpy()):
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return str(place)


def test_of_originals_only_training_and_validation_images_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_pictures(tmp_path / "photos", 60)
    with opened_files(monkeypatch) as opened:
        manifest = open_originals(place, ImageFormat(32, 32, 0))
        config = tiny_config(steps=14, batch_size=8, checkpoint_images=48, log_images=48)
        run = RunFolder.at(str(tmp_path), "run")
        session = Session(config, run, Folder.at(place), manifest, 1, False)
        assert run_session(session, Workers(), Callbacks()).finished
    readers = {split: ShardReader(Folder.at(place), manifest, split) for split in manifest.splits}
    ids = {
        split: set(reader.labels(np.arange(manifest.rows(split)))[0])
        for split, reader in readers.items()
    }
    assert {split: len(names) for split, names in ids.items()} == {
        "train": 54,
        "validation": 3,
        "test": 3,
    }
    assert opened == ids["train"] | ids["validation"]
    with opened_files(monkeypatch) as opened:
        readers[TEST].images(np.arange(3))
    assert opened == ids[TEST]


SMALL = ("--width", "0.125", "--batch-size", "8", "--latent-size", "8", "--sample-count", "2")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_jobs_other_than_evaluation_do_not_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, storage = tmp_path / "data", tmp_path / "runs"
    faces = ("drawn", "--size", "32", "--count", "80", "--num-workers", "1", "--out", data)
    assert run_script("prepare", *faces) == 0
    assert "64 train, 8 validation and 8 test images of 32x32" in capsys.readouterr().out
    spoil_test_split(data)
    there = ("--data", data, "--storage", storage, "--size", "32", *SMALL)
    train = ("vae-celeba", *there, "--num-workers", "1", "--run-name", "run", "--log-images", "16")
    assert run_script("train", *train, "--steps", "4") == 0
    assert run_script("train", *train, "--steps", "6") == 0
    assert "resuming" in capsys.readouterr().out
    assert run_script("train", *train, "--steps", "4", "--restart") == 0
    tune = ("vae-celeba", *there, "--run-name", "sweep", "--trials", "2", "--steps", "9")
    tune_to_the_end = (*tune, "--scheduler", "none", "--confirm")
    assert run_script("tune", *tune_to_the_end, "1") == 0
    assert "confirmed with 1 new seed: " in capsys.readouterr().out
    assert run_script("tune", *tune_to_the_end, "0", "--restart") == 0
    strip = ("--attribute", "Smiling", "--out", tmp_path / "strip.png", "-n", "2")
    assert run_script("sample", storage / "run", *strip) == 0
    assert run_script("sample", storage / "run", "-n", "2", "--out", tmp_path / "grid.png") == 0
    assert {run.name for run in raygen.list_runs(str(storage))} >= {"run"}
    # A second preparation finds all files in their place; only a check of all of them reads them.
    assert run_script("prepare", *faces) == 0
    assert run_script("prepare", "show", data, "--verify", "-n", "0") == 1
    assert "test-00000.parquet: its content is not what was prepared" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_jobs_on_originals_do_not_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_pictures(tmp_path / "photos", 60)
    manifest = open_originals(place, ImageFormat(32, 32, 0))
    names, _ = ShardReader(Folder.at(place), manifest, TEST).labels(np.arange(3))
    for name in names:
        file = tmp_path / "photos" / name
        file.write_bytes(b"x" * file.stat().st_size)
    # An image that cannot be read is left out, listed, and said to be so.
    storage = tmp_path / "runs"
    common = ("dcgan-celeba", "--data", place, "--crop", "0", "--storage", storage)
    small = ("--width", "0.05", "--batch-size", "8", "--sample-count", "1")
    train = (*common, *small, "--num-workers", "1", "--run-name", "run")
    assert run_script("train", *train, "--steps", "8") == 0
    assert run_script("train", *train, "--steps", "8", "--restart") == 0
    tune = (*common, *small, "--run-name", "sweep", "--trials", "2", "--steps", "9")
    assert run_script("tune", *tune, "--scheduler", "none", "--confirm", "0") == 0
    assert "left out" not in capsys.readouterr().out
    assert [*storage.rglob("rejected.json")] == []
    with pytest.raises(ShardError):
        ShardReader(Folder.at(place), manifest, TEST).images(np.arange(1))
