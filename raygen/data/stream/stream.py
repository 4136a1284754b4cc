"""Streams shards as batches, in an order that is known before the run starts.

Its guarantees, each of which is tested:

- every epoch delivers each image exactly once, whatever the batch size and worker count;
- the order depends on (seed, epoch, global batch size) alone: the images of step k are the same
  for any number of workers, and a run resumed at step k sees what an uninterrupted one saw;
- epochs follow each other without a pause: a batch may hold the end of one and the beginning of
  the next, so no batch is short and no image is left out;
- memory is bounded by the chunk size, not by the dataset;
- every delivered row is checked against the plan: a lost or repeated image raises.

A `StreamPlan` says which rows each worker uses in each step. They are read ahead chunk by chunk, by
tasks of Ray Data (`ray_data.py`) or by threads of the worker (`own_threads`).
"""

import functools
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from raygen.core.errors import ShardError
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import LOCAL_THREADS, REMOTE_THREADS, ShardReader, Stored
from raygen.data.shards.rows import RowGroup, Rows
from raygen.data.stream.order import Piece, StreamPlan

_NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class ImageStream:
    """A split of a dataset, as batches for training.

    Attributes:
        folder: the dataset's folder.
        stored: a copy of the rows to read instead of the files, if there is one.
    """

    folder: Folder
    manifest: Manifest
    split: str
    batch_size: int
    seed: int
    stored: Stored | None = None

    @functools.cached_property
    def shards(self) -> ShardReader:
        return ShardReader(self.folder, self.manifest, self.split, self.stored)

    @functools.cached_property
    def plan(self) -> StreamPlan:
        groups = [rows for file in self.manifest.splits[self.split] for rows in file.row_groups]
        return StreamPlan(tuple(groups), self.batch_size, self.manifest.image_bytes, self.seed)

    def batches(
        self,
        first_step: int,
        stop_step: int,
        rank: int = 0,
        world_size: int = 1,
        read: "ReadAhead | None" = None,
    ) -> Iterator[Rows]:
        """Yield one worker's share of each of the steps [first_step, stop_step), reading ahead.

        No two steps share memory.

        Args:
            rank: number of the worker, from 0.
            world_size: number of workers; must divide `batch_size`.
            read: what reads ahead; None: threads of this process.
        Raises: ShardError if a file is missing or damaged, or an image was lost or repeated.
        """
        expected = itertools.chain.from_iterable(
            self.plan.worker_rows(chunk, rank, world_size)[first:stop]
            for chunk, first, stop in self.plan.pieces(first_step, stop_step)
        )
        delivered = 0
        for batch in (read or own_threads)(self, first_step, stop_step, rank, world_size):
            if not np.array_equal(batch.rows, next(expected, _NO_ROWS)):
                raise ShardError(
                    f"{self.folder.uri}: step {first_step + delivered} received other images than "
                    f"planned (rank {rank} of {world_size}, rows {batch.rows[:4].tolist()}...); "
                    "the data stream lost or repeated some"
                )
            delivered += 1
            yield batch
        if delivered != stop_step - first_step:
            raise ShardError(
                f"{self.folder.uri}: the data stream ended after {delivered} of "
                f"{stop_step - first_step} steps (rank {rank} of {world_size})"
            )


class ReadAhead(Protocol):
    """Reads a worker's share of the steps [first_step, stop_step) of a stream ahead of their use.

    What it yields is compared with the plan by `ImageStream.batches`. Raises: ShardError.
    """

    def __call__(
        self, stream: ImageStream, first_step: int, stop_step: int, rank: int, world_size: int
    ) -> Iterator[Rows]: ...


def own_threads(
    stream: ImageStream, first_step: int, stop_step: int, rank: int, world_size: int
) -> Iterator[Rows]:
    """Read a worker's part of the plan in threads of this process, one piece ahead.

    Raises: ShardError.
    """
    plan, shards = stream.plan, stream.shards
    pieces = plan.pieces(first_step, stop_step)
    first_piece = next(pieces, None)
    if not first_piece:
        return
    share = plan.batch_size // world_size
    threads = LOCAL_THREADS if shards.folder.is_local else REMOTE_THREADS
    # Row groups that the last piece used only in part; the next one may use the rest.
    partial: dict[int, RowGroup] = {}

    def start(piece: Piece) -> _Reading:
        chunk, first, stop = piece
        rows = plan.worker_rows(chunk, rank, world_size)[first:stop]
        images = deque(np.empty((share, plan.image_bytes), np.uint8) for _ in rows)
        flat, at_hand = rows.reshape(-1), partial
        attributes = np.empty((len(flat), len(shards.manifest.attributes)), np.int8)
        of_steps = attributes.reshape(*rows.shape, attributes.shape[1])
        # The rows that were really read, which `batches` compares with the plan.
        arrived = np.full(len(flat), -1)

        def fill(group: int, positions: np.ndarray) -> RowGroup | None:
            found = at_hand[group] if group in at_hand else shards.group(group)
            sources = shards.row_in_group(flat[positions], group)
            # Copy image by image, because indexing with arrays would copy twice.
            for position, source in zip(positions.tolist(), sources.tolist(), strict=True):
                step, place = divmod(position, share)
                images[step][place] = found.images[source]
            attributes[positions] = found.attributes[sources]
            arrived[positions] = flat[positions]
            return found if len(positions) < len(found.images) else None

        places = shards.places(flat).items()
        loads = {group: pool.submit(fill, group, positions) for group, positions in places}
        return _Reading(arrived.reshape(rows.shape), images, of_steps, loads)

    pool = ThreadPoolExecutor(threads, "read")
    try:
        ahead = start(first_piece)
        for following in itertools.chain(pieces, [None]):
            reading = ahead
            loaded = {group: load.result() for group, load in reading.loads.items()}
            partial = {group: found for group, found in loaded.items() if found is not None}
            if following:
                ahead = start(following)
            for rows, attributes in zip(reading.rows, reading.attributes, strict=True):
                # Remove the images from the queue, so that a step's memory is freed after the step.
                images = reading.images.popleft()
                yield Rows(images.reshape(shards.manifest.shape(share)), attributes, rows)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Reading:
    """A piece that is being read.

    Attributes:
        rows: (steps, share) int64: row numbers; -1 for rows that are not read yet.
        images: (share, image_bytes) uint8 for each step.
        attributes: (steps, share, attributes) int8.
        loads: the pending reads, by row group.
    """

    rows: np.ndarray
    images: deque[np.ndarray]
    attributes: np.ndarray
    loads: dict[int, Future[RowGroup | None]]
