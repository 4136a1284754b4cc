"""The promises that raygen.data.stream makes, one by one."""

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from helpers import damage, write_dataset

from raygen.data import stream
from raygen.data.shards import Manifest, write_shard
from raygen.data.sources import TRAIN, VALIDATION
from raygen.data.stream import HeldOut, ImageStream, ShardReader, StreamPlan
from raygen.errors import ShardError, UserError
from raygen.storage import Folder

FILES = (13, 7, 11, 6)
COUNT = sum(FILES)
"""37 images: a prime number, so that no batch size or worker count divides it."""
BATCH = 6


def plan_of(groups: tuple[int, ...], batch_size: int = BATCH, seed: int = 0) -> StreamPlan:
    """A plan with chunks of three steps."""
    return StreamPlan(groups, batch_size, stream.CHUNK_BYTES // (3 * batch_size), seed)


def planned(plan: StreamPlan, first: int, stop: int, rank: int = 0, world: int = 1) -> np.ndarray:
    """(steps, batch_size / world) row numbers."""
    return np.concatenate(
        [plan.worker_rows(c, rank, world)[low:high] for c, low, high in plan.pieces(first, stop)]
    )


def steps_for(epochs: int, batch_size: int = BATCH) -> int:
    return -(-epochs * COUNT // batch_size)


@pytest.mark.parametrize("batch_size", [1, 6, 7, 8, 12, 64])
@pytest.mark.parametrize("groups", [(5, 5, 3, 5, 2, 5, 5, 1, 5, 1), (COUNT,), (1,) * COUNT])
def test_each_epoch_holds_each_image_once(groups: tuple[int, ...], batch_size: int) -> None:
    plan = plan_of(groups, batch_size)
    uses = np.zeros((4, COUNT), int)
    for step, rows in enumerate(planned(plan, 0, steps_for(3, batch_size))):
        # Position g belongs to lane g mod lanes, and a batch is sorted by lane.
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        by_lane = positions[np.argsort(positions % plan.lanes, kind="stable")]
        np.add.at(uses, (by_lane // COUNT, rows), 1)
    assert (uses[:3] == 1).all()


@pytest.mark.parametrize("world", [2, 3, 6])
def test_any_number_of_workers_shares_the_same_global_batches(world: int) -> None:
    plan = plan_of((5, 5, 3, 5, 2, 5, 5, 1, 5, 1))
    whole = planned(plan, 0, steps_for(3))
    parts = [planned(plan, 0, steps_for(3), rank, world) for rank in range(world)]
    assert all(part.shape[1] == BATCH // world for part in parts)
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_the_order_depends_on_seed_and_epoch() -> None:
    groups = (5,) * 8
    epoch_steps = 40 // 4

    def order(seed: int, epoch: int) -> list[int]:
        plan = plan_of(groups, 4, seed)
        first = epoch * epoch_steps
        rows: list[int] = planned(plan, first, first + epoch_steps).reshape(-1).tolist()
        return rows

    assert order(0, 0) == order(0, 0)
    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)] + [list(range(40))]
    assert all(sorted(rows) == list(range(40)) for rows in orders)
    assert len({tuple(rows) for rows in orders}) == len(orders)


def test_files_and_rows_within_them_are_both_shuffled() -> None:
    plan = StreamPlan((20,) * 250, 50, stream.CHUNK_BYTES // (50 * 10), 0)
    batches = planned(plan, 0, 100)
    rows = batches.reshape(-1)
    assert np.mean(rows[1:] == rows[:-1] + 1) < 0.02
    # A batch draws from many of the row groups of its chunk, ...
    assert min(len(set(batch // 20)) for batch in batches) >= 12
    # ... and a chunk of ten steps, 25 row groups' worth of images, reads hardly more than these.
    for first in range(0, 100, 10):
        assert len(set(batches[first : first + 10].reshape(-1) // 20)) <= 25 + plan.lanes


def test_a_run_that_starts_later_sees_the_rest_of_the_same_stream() -> None:
    plan = plan_of((5, 5, 3, 5, 2, 5, 5, 1, 5, 1))
    whole = planned(plan, 0, 20)
    for first in (1, 3, 7, 19):
        assert np.array_equal(planned(plan, first, 20), whole[first:])
    assert plan.pieces(20, 20) == []


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, np.ndarray]:
    path = tmp_path_factory.mktemp("dataset")
    manifest, pixels = write_dataset(path, FILES, (5, 4))
    return path, manifest, pixels[TRAIN]


def open_stream(dataset: tuple[Path, Manifest, np.ndarray]) -> ImageStream:
    return ImageStream(Folder.at(dataset[0]), dataset[1], TRAIN, BATCH, seed=3)


@pytest.fixture
def small_chunks() -> "mock._patch[int]":
    # Three steps in a chunk, so that a few epochs are many chunks and several executions.
    return mock.patch.object(stream, "CHUNK_BYTES", 3 * BATCH * 4 * 4 * 3)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ray_delivers_three_epochs_exactly(
    ray_session: str,
    dataset: tuple[Path, Manifest, np.ndarray],
    small_chunks: "mock._patch[int]",
    world: int,
) -> None:
    with small_chunks:
        images = open_stream(dataset)
        steps = steps_for(3)
        plan = planned(images.plan, 0, steps)
        delivered = [list(images.batches(0, steps, rank, world)) for rank in range(world)]
    for step in range(steps):
        parts = [batches[step] for batches in delivered]
        rows = np.concatenate([part.rows for part in parts])
        assert np.array_equal(rows, plan[step])
        pixels = np.concatenate([part.images for part in parts])
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, dataset[2][rows])


@pytest.mark.slow
def test_ray_goes_on_in_the_middle(
    ray_session: str,
    dataset: tuple[Path, Manifest, np.ndarray],
    small_chunks: "mock._patch[int]",
) -> None:
    with small_chunks:
        images = open_stream(dataset)
        whole = [batch.rows for batch in images.batches(0, 14)]
        rest = [batch.rows for batch in images.batches(5, 14)]
    assert np.array_equal(rest, whole[5:])
    assert list(images.batches(14, 14)) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["lost", "repeated", "swapped"])
def test_a_row_that_is_lost_or_repeated_is_an_error(
    ray_session: str,
    dataset: tuple[Path, Manifest, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    def faulty(table: pa.Table, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
        rows, images = columns(table, manifest)
        kept = np.arange(len(rows))
        if fault == "lost":
            kept = kept[:-1]
        elif fault == "repeated":
            kept[1] = kept[0]
        else:
            kept[[0, -1]] = kept[[-1, 0]]
        return rows[kept], images[kept]

    columns = stream._columns
    monkeypatch.setattr(stream, "_columns", faulty)
    with pytest.raises(ShardError, match="other images than planned|ended after"):
        list(open_stream(dataset).batches(0, 2))


@pytest.mark.slow
def test_a_damaged_shard_stops_the_stream_with_its_name(ray_session: str, tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, FILES)
    damage(tmp_path / "train-00002.parquet")
    images = ImageStream(Folder.at(tmp_path), manifest, TRAIN, BATCH, 0)
    with pytest.raises(ShardError, match=r"train-00002\.parquet: is damaged"):
        list(images.batches(0, 7))


def test_a_reader_finds_each_row(dataset: tuple[Path, Manifest, np.ndarray]) -> None:
    path, manifest, pixels = dataset
    reader = ShardReader(Folder.at(path), manifest, TRAIN)
    rows = np.random.default_rng(0).integers(0, COUNT, 50)
    table = reader.read(rows)
    assert table.column("row").to_pylist() == rows.tolist()
    assert table.column("image").to_pylist() == [pixels[row].tobytes() for row in rows]
    assert reader.ids() == [f"train{row}" for row in range(COUNT)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_held_out_images_come_in_the_same_batches_for_any_number_of_workers(
    tmp_path: Path, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HELD_OUT_BATCH", 2)
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
    table = pa.table(
        {
            "image": pa.array([bytes(12)] * 5, pa.binary(12)),
            "id": [str(k) for k in range(5)],
            "Smiling": pa.array(values, pa.int8()),
        }
    )
    files = tuple(write_shard(folder, f"train-{k}.parquet", table, 12) for k in range(2))
    manifest = Manifest(2, 2, ("Smiling",), {TRAIN: files}, {}, 0, ())
    reader = ShardReader(folder, manifest, TRAIN)
    assert reader.attribute("Smiling").tolist() == values * 2
    with pytest.raises(UserError, match="--attribute Hat: the dataset .* it has Smiling"):
        reader.attribute("Hat")


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
