"""Reading rows by number, and what is said of shards that are missing or damaged."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import damage, write_dataset

from raygen.core.errors import ShardError, UserError
from raygen.core.storage import Folder
from raygen.data.shards import reader
from raygen.data.shards.manifest import Manifest, ShardFile, write_shard
from raygen.data.shards.reader import HeldOut, ShardReader
from raygen.data.splits import TRAIN, VALIDATION

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
        assert [len(batches[number].images) for number in sorted(batches)][:-1] == [2] * (
            total // 2
        )
        together = np.concatenate([batches[number].images for number in sorted(batches)])
        assert np.array_equal(together, pixels[VALIDATION][:total])
        assert np.array_equal(images.read(2, 5).images, pixels[VALIDATION][2:5])
    assert len(images.read(8, 50).images) == 1


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


def replace_shard(
    path: Path, table: pa.Table, attributes: tuple[str, ...] = (), **options: Any
) -> ShardReader:
    """A dataset of one file that holds a table, whatever that is. Images are of 2 x 2 pixels."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"compression": "none", "use_dictionary": False} | options)
    data = sink.getvalue()
    path.mkdir()
    (path / "train-0.parquet").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    file = ShardFile("train-0.parquet", table.num_rows, len(data), digest, (table.num_rows,))
    manifest = Manifest(2, 2, attributes, {TRAIN: (file,)}, {}, 0, ())
    return ShardReader(Folder.at(path), manifest, TRAIN)


PIXELS = pa.array([b"x" * 12] * 3, pa.binary(12))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": pa.array([b"x" * 12, None, b"x" * 12], pa.binary(12))}, "1 of them empty"),
        ({"image": pa.array([b"x" * 11] * 3, pa.binary(11))}, r"fixed_size_binary\[11\], not"),
        ({"image": pa.array([b"x" * 12] * 3)}, "its column image is of type binary"),
        ({"image": pa.array([[1]] * 3)}, "its column image is of type list"),
        ({"image": pa.array([{"a": b"x"}] * 3)}, "its column image is of type struct"),
        ({"id": pa.array(["a"] * 3)}, "no column image"),
        ({"image": PIXELS, "id": pa.array([1, 2, 3])}, "its column id is of type int64"),
        ({"image": PIXELS, "id": pa.array(["a", None, "b"])}, "1 of them empty"),
        ({"image": PIXELS, "id": pa.array([b"\xff"] * 3).view(pa.string())}, "damaged .*UTF-?8"),
        ({"image": PIXELS}, "no column id|damaged"),
        ({"image": PIXELS} | {f"{k}": PIXELS for k in range(9)}, "has 1[01] columns, not 3"),
        (
            {
                "image": PIXELS,
                "id": pa.array(["a"] * 3),
                "attributes": pa.array([b"\2"] * 3, pa.binary(1)),
            },
            "attributes other than -1, 0 and 1",
        ),
        (
            {
                "image": PIXELS,
                "id": pa.array(["a"] * 3),
                "attributes": pa.array([b"\1\1"] * 3, pa.binary(2)),
            },
            "its column attributes is of type",
        ),
    ],
)
def test_columns_that_are_not_as_raygen_writes_them_are_refused(
    tmp_path: Path, columns: dict[str, pa.Array], message: str
) -> None:
    if "attributes" not in columns:
        # A dataset's only attribute, which is as it should be.
        columns = columns | {"attributes": pa.array([b"\1"] * 3, pa.binary(1))}
    shards = replace_shard(tmp_path / "a", pa.table(columns), ("Bald",))
    with pytest.raises(ShardError, match=f"train-0.parquet: .*({message})"):
        [shards.images(np.arange(3)), shards.ids(), shards.labels(np.arange(3))]


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"use_dictionary": True}])
def test_shards_that_could_become_larger_than_their_files_are_refused(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    columns = {"image": PIXELS, "id": pa.array(["x" * 1_000_000] * 3)}
    shards = replace_shard(tmp_path / "a", pa.table(columns), **options)
    for read in (shards.ids, lambda: shards.images(np.arange(3))):
        with pytest.raises(ShardError, match="its column image is compressed"):
            read()
    assert replace_shard(tmp_path / "b", pa.table(columns)).ids()[2] == "x" * 1_000_000
