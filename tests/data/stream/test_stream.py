"""The promises that raygen.data.stream.stream makes, one by one, for both ways of reading ahead."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import damage, write_dataset

from raygen.core.errors import ShardError
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.shards.rows import Rows
from raygen.data.splits import TRAIN
from raygen.data.stream import order as plan
from raygen.data.stream import ray_reader, stream
from raygen.data.stream.order import StreamPlan
from raygen.data.stream.stream import ImageStream

FILES = (13, 7, 11, 6)
COUNT = sum(FILES)
"""37 images: a prime number, so that no batch size or worker count divides it."""
BATCH = 12
STEPS = -(-3 * COUNT // BATCH)
"""Three epochs."""
Dataset = tuple[Path, Manifest, np.ndarray]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("dataset")
    manifest, pixels = write_dataset(path, FILES, (5, 4), attributes=3)
    return path, manifest, pixels[TRAIN]


@pytest.fixture(
    params=["direct", pytest.param("ray-data", marks=pytest.mark.slow)],
)
def images(
    request: pytest.FixtureRequest, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> ImageStream:
    """A stream of three steps in a chunk: a few epochs are many chunks and several executions."""
    if request.param == "ray-data":
        request.getfixturevalue("ray_session")
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * BATCH * 4 * 4 * 3)
    return ImageStream(Folder.at(dataset[0]), dataset[1], TRAIN, BATCH, 3, request.param)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_three_epochs_are_delivered_exactly_and_as_to_one_worker(
    images: ImageStream, dataset: Dataset, world: int
) -> None:
    order = images.plan
    planned = [order.worker_rows(c, 0, 1)[low:high] for c, low, high in order.pieces(0, STEPS)]
    delivered = [list(images.batches(0, STEPS, rank, world)) for rank in range(world)]
    shards = ShardReader(images.folder, images.manifest, TRAIN)
    ids, known = shards.ids(), shards.labels(np.arange(COUNT))[1]
    assert {-1, 0, 1} == set(known.flatten().tolist())
    seen: list[str] = []
    for step, expected in enumerate(np.concatenate(planned)):
        parts = [batches[step] for batches in delivered]
        assert all(len(part.rows) == BATCH // world for part in parts)
        rows = np.concatenate([part.rows for part in parts])
        assert [ids[row] for row in rows] == [ids[row] for row in expected]
        pixels = np.concatenate([part.images for part in parts])
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, dataset[2][rows])
        attributes = np.concatenate([part.attributes for part in parts])
        assert attributes.dtype == np.int8
        assert np.array_equal(attributes, known[rows])
        seen += [ids[row] for row in rows]
    for image in ids:
        assert 3 <= seen.count(image) <= 4
    assert len(seen) == STEPS * BATCH


def test_a_stream_goes_on_in_the_middle(images: ImageStream) -> None:
    whole = [batch.rows for batch in images.batches(0, STEPS)]
    for first in (1, 5):
        rest = [batch.rows for batch in images.batches(first, STEPS)]
        assert np.array_equal(rest, whole[first:])
    assert list(images.batches(STEPS, STEPS)) == []


def test_batches_stay_as_they_are_while_others_are_read(
    images: ImageStream, dataset: Dataset
) -> None:
    for batch in list(images.batches(0, STEPS)):
        assert np.array_equal(batch.images, dataset[2][batch.rows])
        batch.images[:] = 0


@pytest.mark.parametrize("fault", ["lost", "repeated", "swapped", "missing"])
def test_a_row_that_is_lost_or_repeated_is_an_error(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def faulty(
        shards: ShardReader, order: StreamPlan, first: int, stop: int, rank: int, world: int
    ) -> Iterator[Rows]:
        batches = list(read(shards, order, first, stop, rank, world))
        kept = np.arange(BATCH)
        if fault == "lost":
            kept = kept[:-1]
        elif fault == "repeated":
            kept[1] = kept[0]
        elif fault == "swapped":
            kept[[0, -1]] = kept[[-1, 0]]
        else:
            batches.pop()
        for batch in batches:
            yield Rows(batch.images[kept], batch.attributes[kept], batch.rows[kept])

    read = stream.read_ahead
    monkeypatch.setattr(stream, "read_ahead", faulty)
    whole = ImageStream(Folder.at(dataset[0]), dataset[1], TRAIN, BATCH, 3)
    with pytest.raises(ShardError, match="other images than planned|ended after"):
        list(whole.batches(0, 2))


def test_an_image_that_was_not_read_is_noticed(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(self: ShardReader, rows: np.ndarray) -> dict[int, np.ndarray]:
        found = places(self, rows)
        last = max(found)
        return found | {last: found[last][:-1]}

    places = ShardReader.places
    monkeypatch.setattr(ShardReader, "places", forgetful)
    whole = ImageStream(Folder.at(dataset[0]), dataset[1], TRAIN, BATCH, 3)
    with pytest.raises(ShardError, match="other images than planned"):
        list(whole.batches(0, STEPS))


def test_a_damaged_shard_stops_the_stream_with_its_name(
    images: ImageStream, tmp_path: Path
) -> None:
    manifest, _ = write_dataset(tmp_path, FILES)
    damage(tmp_path / "train-00002.parquet")
    damaged = dataclasses.replace(images, folder=Folder.at(tmp_path), manifest=manifest)
    with pytest.raises(ShardError, match=r"train-00002\.parquet: is damaged"):
        list(damaged.batches(0, STEPS))


def test_a_stream_that_is_left_early_ends_its_threads(dataset: Dataset) -> None:
    # Threads of an earlier stream may be ending still.
    before = set(threading.enumerate())
    batches = ImageStream(Folder.at(dataset[0]), dataset[1], TRAIN, BATCH, 3).batches(0, STEPS)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_what_is_read_ahead_is_bounded_by_the_object_store() -> None:
    order = StreamPlan((100,) * 100, 32, 116_412, 0)
    chunk = order.chunk_steps * 32 * 116_412
    for store, expected in (
        (100 * chunk, (order.chunk_steps, ray_reader.PIECES_AT_ONCE)),
        (8 * chunk, (order.chunk_steps, 2)),
        (4 * chunk, (order.chunk_steps, 1)),
        (2 * chunk, (order.chunk_steps // 2, 1)),
        (0, (1, 1)),
    ):
        assert ray_reader.plan_pieces(order, store) == expected
