"""The promises that raygen.data.stream.stream makes, one by one, for both ways of reading ahead."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Head, add_node
from helpers import damage, write_dataset

from raygen.core.errors import ShardError
from raygen.core.status import Status
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.shards.rows import Rows
from raygen.data.splits import TRAIN
from raygen.data.stream import order as plan
from raygen.data.stream import ray_data
from raygen.data.stream.ray_data import RayDataReader, Reading, ReadTasks
from raygen.data.stream.stream import ImageStream, ReadAhead, own_threads

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


@pytest.fixture
def images(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> ImageStream:
    """A stream of three steps in a chunk, so that a few epochs are many chunks."""
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * BATCH * 4 * 4 * 3)
    stream = ImageStream(Folder.at(dataset[0]), dataset[1], TRAIN, BATCH, 3)
    # Computed here, where the constant is another; other processes get it with the plan.
    assert stream.plan.chunk_steps == 3
    return stream


def by_ray_data() -> RayDataReader:
    return RayDataReader(ReadTasks(10**9))


@pytest.fixture(params=["direct", pytest.param("ray-data", marks=pytest.mark.slow)])
def read(request: pytest.FixtureRequest) -> Callable[[], ReadAhead]:
    """Makes each of the ways to read ahead."""
    if request.param == "direct":
        return lambda: own_threads
    request.getfixturevalue("ray_session")
    return by_ray_data


@pytest.mark.parametrize("world", [1, 2, 4])
def test_three_epochs_are_delivered_exactly_and_as_to_one_worker(
    images: ImageStream, dataset: Dataset, read: Callable[[], ReadAhead], world: int
) -> None:
    order = images.plan
    planned = [order.worker_rows(c, 0, 1)[low:high] for c, low, high in order.pieces(0, STEPS)]
    delivered = [list(images.batches(0, STEPS, rank, world, read())) for rank in range(world)]
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


def test_a_stream_goes_on_in_the_middle(images: ImageStream, read: Callable[[], ReadAhead]) -> None:
    whole = [batch.rows for batch in images.batches(0, STEPS)]
    for first in (1, 5):
        rest = [batch.rows for batch in images.batches(first, STEPS, read=read())]
        assert np.array_equal(rest, whole[first:])
    assert list(images.batches(STEPS, STEPS, read=read())) == []


def test_batches_stay_as_they_are_while_others_are_read(
    images: ImageStream, dataset: Dataset, read: Callable[[], ReadAhead]
) -> None:
    for batch in list(images.batches(0, STEPS, read=read())):
        assert np.array_equal(batch.images, dataset[2][batch.rows])
        batch.images[:] = 0


def test_ray_data_s_scheduling_rests(
    ray_session: str, images: ImageStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests = []
    monkeypatch.setattr(ray_data._Rests, "on_execution_step", lambda *_: rests.append(1))
    Reading(images, [0], 1, 0, STEPS, ReadTasks(2**30)).dataset().materialize()
    assert rests


@pytest.mark.parametrize("fault", ["lost", "repeated", "swapped", "missing"])
def test_a_row_that_is_lost_or_repeated_is_an_error(dataset: Dataset, fault: str) -> None:
    def faulty(
        stream: ImageStream, first_step: int, stop_step: int, rank: int, world_size: int
    ) -> Iterator[Rows]:
        batches = list(own_threads(stream, first_step, stop_step, rank, world_size))
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

    whole = ImageStream(Folder.at(dataset[0]), dataset[1], TRAIN, BATCH, 3)
    with pytest.raises(ShardError, match="other images than planned|ended after"):
        list(whole.batches(0, 2, read=faulty))


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
    images: ImageStream, read: Callable[[], ReadAhead], tmp_path: Path
) -> None:
    manifest, _ = write_dataset(tmp_path, FILES)
    damage(tmp_path / "train-00002.parquet")
    damaged = dataclasses.replace(images, folder=Folder.at(tmp_path), manifest=manifest)
    with pytest.raises(ShardError, match=r"train-00002\.parquet: is damaged"):
        list(damaged.batches(0, STEPS, read=read()))


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


def reading(images: ImageStream, workers: int, store_bytes: float, first_step: int = 0) -> Reading:
    return Reading(images, range(workers), workers, first_step, STEPS, ReadTasks(store_bytes))


def test_pieces_fit_the_object_store(images: ImageStream) -> None:
    chunk = images.plan.chunk_steps * BATCH * images.plan.image_bytes
    for store, expected in ((100 * chunk, [3, 3, 3, 1]), (20 * chunk, [3, 3, 3, 1])):
        pieces = reading(images, 2, store).pieces
        assert [sum(stop - first for _, first, stop in piece) for piece in pieces] == expected
    small = reading(images, 2, 7 * chunk).pieces
    assert [sum(stop - first for _, first, stop in piece) for piece in small] == [1] * STEPS


def test_with_many_workers_a_piece_is_several_chunks(images: ImageStream) -> None:
    for workers, chunks in ((4, 1), (12, 3)):
        pieces = reading(images, workers, 10**9).pieces
        assert len(pieces[0]) == chunks
        assert [part for piece in pieces for part in piece] == list(images.plan.pieces(0, STEPS))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_all_workers_take_their_own_images_from_one_execution(
    images: ImageStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where an execution ends before the run, each worker goes on with its own."""
    monkeypatch.setattr(ray_data, "MOST_BLOCKS", 5)
    first, world = 2, 2
    whole = reading(images, world, 10**9, first)
    assert len(whole.pieces) == 2
    assert whole.end < STEPS
    handed_out = whole.shards()

    def consume(rank: int) -> list[np.ndarray]:
        reader = RayDataReader(ReadTasks(10**9), lambda: handed_out[rank])
        return [batch.rows for batch in images.batches(first, STEPS, rank, world, reader)]

    with ThreadPoolExecutor(world) as threads:
        shares = list(threads.map(consume, range(world)))
    expected = [batch.rows for batch in images.batches(first, STEPS)]
    assert np.array_equal(np.concatenate(shares, axis=1), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_tasks_of_another_node_read(images: ImageStream, ray_head: Head) -> None:
    """The consumer's own node has no processor left for them."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    expected = list(images.batches(0, STEPS))
    with add_node(ray_head):
        remote: Any = ray.remote(num_cpus=2)(Status)
        busy = remote.options(scheduling_strategy=here).remote()
        try:
            assert ray.get(busy.error.remote()) is None
            delivered = list(images.batches(0, STEPS, read=by_ray_data()))
        finally:
            ray.kill(busy)
    for batch, other in zip(delivered, expected, strict=True):
        assert np.array_equal(batch.images, other.images)
