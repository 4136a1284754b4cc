"""Jobs on what was begun by a version that made no test split: it goes on, and without one."""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import random_images, run_script
from PIL import Image

from raygen.config.run import ImageFormat
from raygen.core.storage import Folder
from raygen.data import dataset, originals
from raygen.data.originals import open_originals
from raygen.data.shards.manifest import Manifest
from raygen.data.sources.drawn import drawn_folder
from raygen.data.sources.image_files import folder

FACES = ImageFormat(32, 32, 150)


@contextmanager
def older_version(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have drawn faces and originals made into two splits, as before there was a third."""
    with monkeypatch.context() as patch:
        patch.setattr(
            dataset,
            "find_drawn",
            lambda storage, image, count, begun="": drawn_folder(storage, image, count, False),
        )
        patch.setattr(originals, "folder", functools.partial(folder, test_share=0))
        yield


def trained_on(run: Path) -> str:
    """The fingerprint of a run's dataset."""
    return str(json.loads((run / "summary.json").read_text())["dataset"])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_and_a_sweep_on_drawn_faces_go_on_with_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--width", "0.03", "--batch-size", "4", "--drawn-count", "24")
    common = ("vae-celeba", "--size", "32", "--storage", tmp_path, *small, "--latent-size", "8")
    train = (*common, "--sample-count", "2", "--num-workers", "1", "--run-name")
    searched = ("dcgan-celeba", *small, "--sample-count", "1", "--scheduler", "none", "--confirm")
    there = ("--storage", tmp_path, "--run-name", "sweep")
    sweep = (*searched, "0", *there, "--steps", "9", "--trials")
    resume = ("dcgan-celeba", *there, "--resume", "--trials")
    with older_version(monkeypatch):
        assert run_script("train", *train, "run", "--steps", "2") == 0
        assert run_script("tune", *sweep, "1") == 0
    datasets = {file.name for file in (tmp_path / "datasets").iterdir()}
    assert not any(name.endswith("-with-test") for name in datasets)
    fingerprint = trained_on(tmp_path / "run")
    for steps in ("3", "4"):
        assert run_script("train", *train, "run", "--steps", steps) == 0
        assert "resuming" in capsys.readouterr().out
        assert trained_on(tmp_path / "run") == fingerprint
        # The second time, new faces lie beside them.
        assert run_script("train", *train, "new", "--steps", steps) == 0
        assert trained_on(tmp_path / "new") != fingerprint
    strip = ("--attribute", "Smiling", "-n", "1", "--out", tmp_path / "strip.png")
    assert run_script("sample", tmp_path / "run", *strip) == 0
    assert run_script("tune", *resume, "2") == 0
    trials = tmp_path / "sweep/trials"
    assert trained_on(trials / "000") == trained_on(trials / "001")
    assert run_script("train", *train, "run", "--steps", "2", "--restart") == 0
    assert trained_on(tmp_path / "run") == trained_on(tmp_path / "new")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_and_a_sweep_on_originals_go_on_with_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(random_images(40, 32).numpy()):
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    data = str(tmp_path / "photos")
    common = ("dcgan-celeba", "--data", data, "--crop", "0", "--storage", tmp_path)
    there = (*common, "--width", "0.03", "--batch-size", "4", "--sample-count", "1", "--run-name")
    train = (*there, "run", "--num-workers", "1", "--steps")
    sweep = (*there, "sweep", "--scheduler", "none", "--steps", "9", "--trials", "1", "--confirm")
    with older_version(monkeypatch):
        assert run_script("train", *train, "2") == 0
        assert run_script("tune", *sweep, "0") == 0
        older = open_originals(data, ImageFormat(32, 32, 0))
    assert set(older.splits) == {"train", "validation"}
    assert trained_on(tmp_path / "run") == older.fingerprint
    assert run_script("train", *train, "3") == 0
    assert "resuming" in capsys.readouterr().out
    assert trained_on(tmp_path / "run") == older.fingerprint
    resume = ("--storage", tmp_path, "--run-name", "sweep", "--resume", "--trials", "2")
    assert run_script("tune", "dcgan-celeba", *resume) == 0
    assert trained_on(tmp_path / "sweep/trials/001") == older.fingerprint
    assert run_script("train", *train, "2", "--restart") == 0
    now = open_originals(data, ImageFormat(32, 32, 0))
    assert trained_on(tmp_path / "run") == now.fingerprint != older.fingerprint


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_prepared_dataset_is_left_as_it_is_and_said_to_have_no_test_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    faces = ("drawn", "--size", "32", "--count", "40", "--num-workers", "1", "--out", out)
    # As an older version did it, whose description of the images was the same.
    assert run_script("prepare", *faces, "--test-share", "0") == 0
    said = capsys.readouterr().out
    assert "32 train and 8 validation images of 32x32" in said
    assert "test split: none; measurements will use validation images" in said
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    assert run_script("prepare", *faces) == 0
    said = capsys.readouterr().out
    assert (
        "these images are already prepared, without a test split; --restart prepares the images "
        "again, with one" in said
    )
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before
    # One that was being made goes on as it was begun.
    plan = {"pixels_version": 3, "source": Manifest.load(Folder.at(out)).source}
    plan |= {"expected_workers": 1, "decoded_for": ["32x32"], "height": 32, "width": 32}
    (out / "manifest.json").unlink()
    (out / ".prepare").mkdir()
    (out / ".prepare/plan.json").write_text(json.dumps(plan | {"crop": 150}))
    assert run_script("prepare", *faces) == 0
    said = capsys.readouterr().out
    assert "went on as it was begun, without a test split; --restart prepares the" in said
    assert set(Manifest.load(Folder.at(out)).splits) == {"train", "validation"}
    # What is asked for is not what the folder holds.
    assert run_script("prepare", *faces, "--test-share", "0.1") == 2
    assert "already holds another dataset" in capsys.readouterr().err
    assert run_script("prepare", *faces, "--restart") == 0
    assert "32 train, 4 validation and 4 test images" in capsys.readouterr().out
    assert run_script("prepare", *faces) == 0
    assert "these images are already prepared; --restart does it again" in capsys.readouterr().out
