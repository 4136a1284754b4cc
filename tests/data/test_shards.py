"""Datasets on disk: exact, complete or absent, and honest about what was left out."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import write_dataset
from PIL import Image

from raygen.config import ImageFormat
from raygen.data import shards
from raygen.data.drawn_faces import write_celeba_layout
from raygen.data.reader import ShardReader
from raygen.data.shards import Manifest, fit_image, plan_parts, prepare
from raygen.data.sources import TRAIN, VALIDATION, CelebA, DrawnFaces
from raygen.errors import ShardError, UserError
from raygen.storage import Folder

SMALL = ImageFormat(32, 32, 150)


@pytest.mark.slow
def test_a_prepared_dataset_holds_the_sources_images_bit_for_bit(
    ray_session: str, tmp_path: Path
) -> None:
    source, folder = DrawnFaces(43, seed=5), Folder.at(tmp_path / "faces")
    seen: list[tuple[int, int]] = []
    manifest = prepare(
        source, folder, SMALL, 2, lambda done, total, rate: seen.append((done, total))
    )
    assert Manifest.load(folder) == manifest
    assert seen[-1] == (43, 43)
    assert (manifest.rows(TRAIN), manifest.rows(VALIDATION)) == (34, 9)
    assert all(len(files) == 8 for files in manifest.splits.values())
    assert manifest.attributes == source.attributes
    for split, positions in source.splits().items():
        expected = np.stack([fit_image(source.load(p)[0], SMALL) for p in positions])
        assert np.array_equal(
            ShardReader(folder, manifest, split).images(np.arange(manifest.rows(split))), expected
        )
        assert ShardReader(folder, manifest, split).ids() == [source.ids[p] for p in positions]

    first = manifest.splits[TRAIN][0]
    table = pq.read_table(tmp_path / "faces" / first.name)
    assert table.schema.field("image").type == pa.binary(32 * 32 * 3)
    assert table.column("Smiling").to_pylist() == [
        source.load(p)[1][source.attributes.index("Smiling")] for p in range(first.rows)
    ]
    column = pq.ParquetFile(tmp_path / "faces" / first.name).metadata.row_group(0).column(0)
    assert column.compression == "UNCOMPRESSED"
    assert "PLAIN" in column.encodings
    assert not column.has_dictionary_page


@pytest.mark.slow
def test_what_is_prepared_already_is_kept_and_nothing_else_is_overwritten(
    ray_session: str, tmp_path: Path
) -> None:
    folder = Folder.at(tmp_path)
    manifest = prepare(DrawnFaces(20), folder, SMALL, 1)
    (tmp_path / "notes.txt").write_text("mine")
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert prepare(DrawnFaces(20), folder, SMALL, 1) == manifest
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
    for source, target in ((DrawnFaces(21), SMALL), (DrawnFaces(20), ImageFormat(16, 16))):
        with pytest.raises(UserError, match="already holds another dataset"):
            prepare(source, folder, target, 1)
    again = prepare(DrawnFaces(24), folder, ImageFormat(16, 16), 2, restart=True)
    assert Manifest.load(folder) == again
    assert (again.size, again.rows(TRAIN)) == ("16x16", 19)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_an_interrupted_preparation_leaves_no_dataset_and_can_be_done_again(
    ray_session: str, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int, rate: float) -> None:
        raise KeyboardInterrupt

    folder = Folder.at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        prepare(DrawnFaces(20), folder, SMALL, 1, interrupt)
    with pytest.raises(ShardError, match=r"holds no manifest\.json"):
        Manifest.load(folder)
    assert prepare(DrawnFaces(20), folder, SMALL, 1).rows(TRAIN) == 16


@pytest.mark.slow
def test_images_that_cannot_be_read_are_listed_and_left_out(
    ray_session: str, tmp_path: Path
) -> None:
    images, table = write_celeba_layout(tmp_path / "celeba", 20)
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(images) as archive:
        archive.extractall(unpacked)
    pictures = unpacked / "img_align_celeba"
    (pictures / "000003.jpg").write_bytes(b"no picture")
    (pictures / "000019.jpg").write_bytes((pictures / "000019.jpg").read_bytes()[:900])
    source = CelebA.open(unpacked, table)
    manifest = prepare(source, Folder.at(tmp_path / "out"), SMALL, 1)
    assert (manifest.rows(TRAIN), manifest.rows(VALIDATION)) == (15, 3)
    assert [entry["id"] for entry in manifest.rejected] == ["000003.jpg", "000019.jpg"]
    assert "UnidentifiedImageError" in manifest.rejected[0]["reason"]
    assert "truncated" in manifest.rejected[1]["reason"]
    ids = ShardReader(Folder.at(tmp_path / "out"), manifest, TRAIN).ids()
    assert "000003.jpg" not in ids


@pytest.mark.slow
def test_a_source_without_a_single_readable_image_is_an_error(
    ray_session: str, tmp_path: Path
) -> None:
    _, table = write_celeba_layout(tmp_path, 5)
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(1, 6):
        (folder / f"{number:06d}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"no image for training could be decoded.*000001\.jpg"):
        prepare(CelebA.open(folder, table), Folder.at(tmp_path / "out"), SMALL, 1)


@pytest.mark.parametrize(
    ("count", "image_bytes", "workers"), [(1000, 3072, 4), (7, 3072, 4), (200_000, 116_412, 2)]
)
def test_files_hold_all_rows_in_useful_sizes(count: int, image_bytes: int, workers: int) -> None:
    splits = {TRAIN: range(count * 4 // 5), VALIDATION: range(count * 4 // 5, count)}
    parts = plan_parts(splits, image_bytes, workers)
    covered = [position for part in parts for position in range(part.start, part.stop)]
    assert covered == list(range(count))
    assert len({part.name for part in parts}) == len(parts)
    for split, positions in splits.items():
        mine = [part for part in parts if part.split == split]
        assert len(mine) >= min(4 * workers, len(positions))
        assert max(part.stop - part.start for part in mine) * image_bytes <= 128 * 2**20


def load_changed(path: Path, **changes: Any) -> Manifest:
    values = json.loads((path / shards.MANIFEST).read_text()) | changes
    (path / shards.MANIFEST).write_text(json.dumps(values))
    return Manifest.load(Folder.at(path))


def test_a_manifest_says_what_is_wrong_with_a_dataset(tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        write_dataset(tmp_path / name, (5, 5), (2,))
        return tmp_path / name

    with pytest.raises(ShardError, match=r"--data .*nowhere: holds no manifest\.json"):
        Manifest.load(Folder.at(tmp_path / "nowhere"))
    with pytest.raises(ShardError, match="format version 99"):
        load_changed(fresh("version"), format_version=99)
    with pytest.raises(ShardError, match="damaged"):
        load_changed(fresh("splits"), splits={"train": [{"name": "x"}]})
    path = fresh("junk")
    (path / shards.MANIFEST).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Manifest.load(Folder.at(path))
    path = fresh("missing")
    (path / "train-00001.parquet").unlink()
    with pytest.raises(ShardError, match=r"train-00001\.parquet: is missing"):
        Manifest.load(Folder.at(path))
    path = fresh("short")
    whole = (path / "train-00000.parquet").read_bytes()
    (path / "train-00000.parquet").write_bytes(whole[:-1])
    with pytest.raises(ShardError, match=r"train-00000\.parquet: has [\d,]+ bytes, the manifest"):
        Manifest.load(Folder.at(path))


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first, _ = write_dataset(tmp_path / "a", (5, 5))
    same, _ = write_dataset(tmp_path / "b", (5, 5))
    other, _ = write_dataset(tmp_path / "c", (5, 6))
    assert first.fingerprint == same.fingerprint != other.fingerprint


def picture(size: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def test_the_crop_is_the_centre_and_a_fitting_image_is_left_as_it_is() -> None:
    image = picture((178, 218))
    pixels = np.asarray(image)
    assert np.array_equal(fit_image(image, ImageFormat(218, 178)), pixels)
    assert np.array_equal(fit_image(image, ImageFormat(150, 150, 150)), pixels[34:184, 14:164])


def test_resizing_averages_instead_of_skipping_pixels() -> None:
    checks = np.indices((128, 128)).sum(axis=0) % 2 * 255
    image = Image.fromarray(np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8))
    assert np.abs(fit_image(image, ImageFormat(32, 32)).astype(int) - 127).max() <= 8


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "1"])
def test_any_kind_of_image_becomes_rgb(mode: str) -> None:
    image = picture((20, 30))
    image = image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    assert fit_image(image, ImageFormat(32, 32, 150)).shape == (32, 32, 3)


def test_transparency_is_laid_on_white_and_rotation_is_undone() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (fit_image(clear, ImageFormat(8, 8)) == 255).all()
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned a quarter clockwise.
    file = io.BytesIO()
    Image.fromarray(np.rot90(upright).copy()).save(file, "PNG", exif=exif)
    assert np.array_equal(fit_image(Image.open(file), ImageFormat(8, 8)), upright)


def test_the_manifest_survives_json(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, (5,), (2,))
    values = json.loads(json.dumps(manifest.to_json()))
    assert values["dtype"] == "uint8"
    assert values["channels"] == 3
    assert Manifest.load(Folder.at(tmp_path)) == manifest
    assert {field.name for field in dataclasses.fields(manifest)} <= set(values)
