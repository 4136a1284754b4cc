"""Images that are decoded on the way: like prepared ones, and honest about what cannot be read."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import fails, run_script
from PIL import Image

from raygen.config.run import ImageFormat
from raygen.core.errors import ShardError, UserError
from raygen.core.status import Notice, Status
from raygen.core.storage import Folder
from raygen.data.originals import Originals, holds_originals, open_originals
from raygen.data.prepare.parts import Target, make_part, plan_parts
from raygen.data.shards import object_store
from raygen.data.shards.object_store import store_images
from raygen.data.shards.reader import HeldOut, ShardReader
from raygen.data.sources.image_files import folder
from raygen.data.splits import TRAIN, VALIDATION
from raygen.data.stream.stream import ImageStream

SMALL = ImageFormat(32, 32, 0)
COUNT = 40


def write_images(path: Path, count: int = COUNT, size: tuple[int, int] = (48, 40)) -> list[Path]:
    """Write PNG files of random pixels."""
    path.mkdir()
    files = [path / f"{number:03d}.png" for number in range(count)]
    for number, file in enumerate(files):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(file)
    return files


def zipped(path: Path) -> Path:
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for image in sorted(path.iterdir()):
            file.write(image, image.name)
    return archive


def test_they_are_the_images_that_would_be_prepared(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    source = folder(str(tmp_path / "photos"))
    prepared: dict[str, np.ndarray] = {}
    target = Target(Folder.at(tmp_path / "prepared"), SMALL)
    for part in plan_parts(source.splits(), [target.image_bytes], 1):
        [made] = make_part(source, source.ids, [target], part)
        for name in made:
            table = pq.read_table(tmp_path / "prepared" / name)
            for id, image in zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True):
                prepared[id] = np.frombuffer(image, np.uint8)
    assert len(prepared) == COUNT
    for data in (tmp_path / "photos", zipped(tmp_path / "photos")):
        assert holds_originals(Folder.at(data))
        manifest = open_originals(str(data), SMALL)
        assert {split: manifest.rows(split) for split in manifest.splits} == {
            split: len(positions) for split, positions in source.splits().items()
        }
        seen: dict[str, np.ndarray] = {}
        for split in manifest.splits:
            reader = ShardReader(Folder.at(data), manifest, split)
            rows = np.arange(manifest.rows(split))
            ids, attributes = reader.labels(rows)
            assert attributes.shape == (len(rows), 0)
            seen |= dict(zip(ids, reader.images(rows), strict=True))
        assert seen.keys() == prepared.keys()
        for id, image in seen.items():
            assert np.array_equal(image.reshape(-1), prepared[id])


def test_a_stream_of_them_has_each_image_once_an_epoch(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    manifest = open_originals(str(tmp_path / "photos"), SMALL)
    stream = ImageStream(Folder.at(tmp_path / "photos"), manifest, TRAIN, 4, 3)
    count = manifest.rows(TRAIN)
    reader = ShardReader(stream.folder, manifest, TRAIN)
    uses = np.zeros(count, int)
    for batch in stream.batches(0, 3 * count // 4):
        assert np.array_equal(batch.images, reader.images(batch.rows))
        np.add.at(uses, batch.rows, 1)
    assert uses.min() >= 2
    assert uses.max() <= 3
    assert uses.sum() == 3 * count // 4 * 4


def test_another_image_takes_the_place_of_one_that_cannot_be_read(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    data = Folder.at(tmp_path / "photos")
    whole = open_originals(data.uri, SMALL)
    told: list[tuple[dict[str, str], int]] = []
    for split in (TRAIN, VALIDATION):
        reader = ShardReader(data, whole, split)
        rows = np.arange(whole.rows(split))
        images, (ids, _) = reader.images(rows), reader.labels(rows)
        (tmp_path / "photos" / ids[0]).write_bytes(b"not an image")
        broken = open_originals(data.uri, SMALL).telling(lambda *said: told.append(said))
        found = ShardReader(data, broken, split).images(rows)
        assert np.array_equal(found[0], images[1])
        assert np.array_equal(found[1:], images[1:])
        [(entry, most)] = told
        assert (entry["id"], entry["split"], most) == (ids[0], split, COUNT // 100)
        assert entry["reason"]
        told.clear()


def test_images_that_are_gone_end_the_stream_in_one_line(tmp_path: Path) -> None:
    files = write_images(tmp_path / "photos")
    manifest = open_originals(str(tmp_path / "photos"), SMALL)
    for file in files:
        file.unlink()
    with pytest.raises(ShardError, match="cannot be read .* still where they were"):
        ShardReader(Folder.at(tmp_path / "photos"), manifest, TRAIN).images(np.arange(2))


def test_validation_images_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos")
    data = Folder.at(tmp_path / "photos")
    manifest = open_originals(data.uri, SMALL)
    held_out = HeldOut.of(data, manifest, VALIDATION, 2)
    first = [rows.images for _, rows in held_out.batches()]
    assert isinstance(manifest.originals, Originals)
    monkeypatch.setattr(type(manifest.originals.source), "read", None)
    again = [rows.images for _, rows in held_out.batches()]
    assert np.array_equal(first, again)


def test_a_job_ends_when_too_many_cannot_be_read() -> None:
    status = Status()
    for number in range(5):
        entry = {"id": f"{number}.jpg", "split": TRAIN, "reason": "is truncated"}
        for _ in range(2):
            status.reject(entry, 4)
    assert len(status.rejected()) == 5
    assert len([e for e in status.state().events if isinstance(e, Notice)]) == 3
    assert isinstance(status.error(), UserError)
    assert "5 images cannot be read" in str(status.error())


def test_what_is_no_dataset_and_no_images_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/readme.txt").write_text("nothing")
    write_images(tmp_path / "photos", 4)
    (tmp_path / "broken.zip").write_bytes(zipped(tmp_path / "photos").read_bytes()[:-20])
    (tmp_path / "sizes/32x32").mkdir(parents=True)
    (tmp_path / "sizes/32x32/manifest.json").write_text("{}")
    for name, said in (
        ("missing", "holds no manifest.json"),
        ("empty", "holds no manifest.json"),
        ("text", "holds no images"),
        ("broken.zip", "broken.zip: is damaged"),
        ("sizes", "name one of the datasets in it: 32x32"),
    ):
        data = str(tmp_path / name)
        line = fails(capsys, "train", "dcgan-celeba", "--data", data, "--storage", tmp_path / "r")
        assert said in line, line
        assert data in line


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_trials_share_a_decoded_copy(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    data = Folder.at(tmp_path / "photos")
    manifest = open_originals(data.uri, SMALL)
    stored, larger = store_images(data, manifest)
    assert stored
    assert larger.fingerprint == manifest.fingerprint
    assert set(stored.groups) == {TRAIN, VALIDATION}
    for split in stored.groups:
        assert len(stored.groups[split]) == 1
        rows = np.arange(manifest.rows(split))
        copied = ShardReader(data, larger, split, stored)
        decoded = ShardReader(data, manifest, split)
        assert np.array_equal(copied.images(rows), decoded.images(rows))
        assert copied.labels(rows)[0] == decoded.labels(rows)[0]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_and_a_sweep_train_straight_from_an_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos", 120, (32, 32))
    ids = folder(str(tmp_path / "photos"))
    (tmp_path / "photos" / ids.ids[3]).write_bytes(b"not an image")
    archive = zipped(tmp_path / "photos")
    common = ["--data", str(archive), "--storage", str(tmp_path / "runs"), "--width", "0.05"]
    common += ["--batch-size", "16", "--sample-count", "1"]
    run = tmp_path / "runs/run"
    train = ["dcgan-celeba", *common, "--crop", "0", "--run-name", "run"]
    assert run_script("train", *train, "--steps", "10") == 0
    said = capsys.readouterr().out
    assert f"left out {ids.ids[3]}" in said
    [entry] = json.loads((run / "rejected.json").read_text())
    assert entry["id"] == ids.ids[3]
    assert run_script("train", *train, "--steps", "12") == 0
    assert "resuming" in capsys.readouterr().out
    assert json.loads((run / "summary.json").read_text())["images_seen"] == 12 * 16
    # Other images under the same name are another dataset.
    write_images(tmp_path / "others", 30)
    zipped(tmp_path / "others").rename(archive)
    assert "is not the dataset" in fails(capsys, "train", *train, "--steps", "14")

    # As if they were too large for the object store: each trial has tasks read for it.
    monkeypatch.setattr(object_store, "STORE_SHARE", 0.0)
    tune = ["dcgan-celeba", *common, "--crop", "0", "--trials", "2", "--steps", "9"]
    tune += ["--run-name", "sweep", "--scheduler", "none", "--confirm", "0"]
    assert run_script("tune", *tune) == 0
    assert "trials read its files themselves" in capsys.readouterr().out
    summary = json.loads((tmp_path / "runs/sweep/summary.json").read_text())
    assert (summary["trials"], summary["images_seen"]) == (2, 2 * 9 * 16)
