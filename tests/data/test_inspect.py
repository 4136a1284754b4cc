"""Looking into a dataset: the table, the checksums, the sheet of images."""

import dataclasses
from pathlib import Path

import numpy as np
from helpers import damage, write_dataset

from raygen.core.storage import Folder
from raygen.data.inspect import contact_sheet, table, verify
from raygen.data.shards.manifest import Manifest, ShardFile, write_shard
from raygen.data.splits import TRAIN, VALIDATION


def test_the_table_says_what_the_manifest_says(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, (5, 6), (4,))
    rejected = [{"id": f"{k}.png", "split": TRAIN, "reason": "empty file"} for k in range(4)]
    rejected.append({"id": "z.png", "split": TRAIN, "reason": "not an image"})
    manifest = dataclasses.replace(
        manifest,
        attributes=("Smiling", "Hat"),
        source={"kind": "folder", "images": "faces"},
        crop=150,
        rejected=tuple(rejected),
        ignored=("readme.txt",),
    )
    text = table(Folder.at(tmp_path), manifest)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "images 4x4 (height x width) RGB, uint8" in lines
    assert "crop 150 pixels, centred" in lines
    assert any(line.startswith("train 11 images in 2 files, 0.0 MB") for line in lines)
    assert any(line.startswith("validation 4 images in 1 files") for line in lines)
    assert "attributes Smiling, Hat" in lines
    assert "rejected 5" in lines
    assert "4 x empty file: 0.png, 1.png, 2.png, ..." in lines
    assert "1 x not an image: z.png" in lines
    assert "ignored 1: readme.txt" in lines
    assert f"fingerprint {manifest.fingerprint}" in lines


def test_every_file_is_compared_with_its_checksum(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, (5, 6), (4,))
    folder = Folder.at(tmp_path)
    seen: list[tuple[int, int]] = []
    assert verify(folder, manifest, lambda done, total: seen.append((done, total))) == []
    total = sum(file.bytes for files in manifest.splits.values() for file in files)
    assert seen[-1] == (total, total)
    damage(tmp_path / "train-00001.parquet")
    (tmp_path / "validation-00000.parquet").unlink()
    first, second = verify(folder, manifest)
    assert first.endswith("train-00001.parquet: its content is not what was prepared")
    assert second.endswith("validation-00000.parquet: is missing")


def test_the_sheet_shows_images_of_all_splits(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    files: dict[str, tuple[ShardFile, ...]] = {}
    for split, count in ((TRAIN, 9), (VALIDATION, 3)):
        shades = np.arange(count) * 20 + (10 if split == TRAIN else 15)
        images = np.repeat(shades[:, None], 48, axis=1).astype(np.uint8)
        ids, smiling = [f"{split}{s}" for s in shades], np.ones((count, 1))
        files[split] = (write_shard(folder, f"{split}-00000.parquet", images, ids, smiling),)
    manifest = Manifest(4, 4, ("Smiling",), files, {}, 0, ())
    sheet = contact_sheet(folder, manifest, 12, 0)
    expected = {*range(10, 190, 20), 15, 35, 55}
    large = {int(v) for v in np.unique(sheet) if (sheet[..., 0] == v).sum() >= 144 * 140}
    assert large - {255} == expected
    # Text stands below each image.
    assert (sheet < 5).sum() > 60
    assert np.array_equal(sheet, contact_sheet(folder, manifest, 12, 0))
    few = contact_sheet(folder, manifest, 2, 1)
    assert few.shape[0] * few.shape[1] < sheet.shape[0] * sheet.shape[1] / 3
    assert contact_sheet(folder, manifest, 500, 0).shape == sheet.shape
