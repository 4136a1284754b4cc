"""Reading rows by number, and what is said of shards that are missing or damaged."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import damage, write_dataset

from raygen.data import reader
from raygen.data.reader import HeldOut, ShardReader
from raygen.data.shards import Manifest, write_shard
from raygen.data.sources import TRAIN, VALIDATION
from raygen.errors import ShardError, UserError
from raygen.storage import Folder

FILES = (13, 7, 11, 6)
COUNT = sum(FILES)


def test_a_reader_finds_each_row(tmp_path: Path) -> None:
    manifest, pixels = write_dataset(tmp_path, FILES)
    shards = ShardReader(Folder.at(tmp_path), manifest, TRAIN)
    rows = np.random.default_rng(0).integers(0, COUNT, 50)
    assert np.array_equal(shards.images(rows), pixels[TRAIN][rows])
    assert shards.images(rows[:0]).shape == (0, 4, 4, 3)
    assert shards.ids() == [f"train{row}" for row in range(COUNT)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_held_out_images_come_in_the_same_batches_for_any_number_of_workers(
    tmp_path: Path, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "HELD_OUT_BATCH", 2)
    manifest, pixels = write_dataset(tmp_path, FILES, (5, 4))
    folder = Folder.at(tmp_path)
    for count, total in ((7, 7), (100, 9)):
        images = HeldOut.of(folder, manifest, VALIDATION, count)
        assert images.count == total
        batches = dict(batch for rank in range(world) for batch in images.batches(rank, world))
        assert sorted(batches) == list(range(-(-total // 2)))
        assert [len(batches[number]) for number in sorted(batches)][:-1] == [2] * (total // 2)
        together = np.concatenate([batches[number] for number in sorted(batches)])
        assert np.array_equal(together, pixels[VALIDATION][:total])
        assert np.array_equal(images.images(2, 5), pixels[VALIDATION][2:5])
    assert len(images.images(8, 50)) == 1


def test_attributes_are_read_in_row_order(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    values = [1, -1, 0, 1, 1]
    images, ids = np.arange(60, dtype=np.uint8).reshape(5, 12), [str(k) for k in range(5)]
    table = np.array([[0, value] for value in values])
    files = tuple(write_shard(folder, f"train-{k}.parquet", images, ids, table) for k in range(2))
    manifest = Manifest(2, 2, ("Bald", "Smiling"), {TRAIN: files}, {}, 0, ())
    shards = ShardReader(folder, manifest, TRAIN)
    assert shards.attribute("Smiling").tolist() == values * 2
    found, labels = shards.labels(np.array([7, 1, 4]))
    assert found == ["2", "1", "4"]
    assert labels.tolist() == [[0, 0], [0, -1], [0, 1]]
    with pytest.raises(UserError, match="--attribute Hat: the dataset .* it has Bald, Smiling"):
        shards.attribute("Hat")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, FILES)
    os.remove(tmp_path / "train-00001.parquet")
    with pytest.raises(ShardError, match=r"train-00001\.parquet: is missing"):
        ShardReader(Folder.at(tmp_path), manifest, TRAIN).images(np.arange(COUNT))


def test_a_shard_with_other_rows_than_the_manifest_says_is_an_error(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path / "a", FILES)
    write_dataset(tmp_path / "b", (12, 7, 11, 6))
    os.replace(tmp_path / "b/train-00000.parquet", tmp_path / "a/train-00000.parquet")
    with pytest.raises(ShardError, match=r"train-00000\.parquet: row group 2 has 2 rows, not 3"):
        ShardReader(Folder.at(tmp_path / "a"), manifest, TRAIN).images(np.arange(COUNT))


def test_each_row_group_is_checked_when_it_is_first_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, pixels = write_dataset(tmp_path, FILES)
    shards, opened = ShardReader(Folder.at(tmp_path), manifest, TRAIN), pq.ParquetFile
    checks: list[bool] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        checks.append(options["page_checksum_verification"])
        return opened(*arguments, **options)

    monkeypatch.setattr(pq, "ParquetFile", watched)
    for _ in range(2):
        assert np.array_equal(shards.images(np.arange(5)), pixels[TRAIN][:5])
    assert np.array_equal(shards.images(np.arange(10)), pixels[TRAIN][:10])
    assert checks == [True, False, False, True]
    damage(tmp_path / "train-00001.parquet")
    with pytest.raises(ShardError, match=r"train-00001\.parquet: is damaged"):
        shards.images(np.arange(13, 20))
