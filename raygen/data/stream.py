"""Shards to batches: one stream per run, in an order that is known before it starts.

What it promises, each tested:

- every epoch delivers each image exactly once, whatever the batch size and worker count;
- the order depends on (seed, epoch, global batch size) alone: the images of step k are the same
  for any number of workers, and a run resumed at step k sees what an uninterrupted one saw;
- epochs follow each other without a pause: a batch may hold the end of one and the beginning of
  the next, so no batch is short and no image is left out;
- memory is bounded by the chunk size, not by the dataset;
- every delivered row is checked against the plan: a lost or repeated image raises.

How: `StreamPlan` computes, from the manifest's row counts alone, which row of the dataset stands
at which position of each step. `ImageStream` has Ray Data carry out one worker's part of the plan
a few chunks at a time, ahead of the training, in tasks that read row groups and sort their rows.
"""

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.data.shards import Manifest, ShardFile
from raygen.errors import ShardError, UserError
from raygen.storage import Folder

Piece = tuple[int, int, int]
"""Part of a chunk: its number, and the first and last + 1 of its steps."""

CHUNK_BYTES = 64 * 2**20
"""Images that all workers together read and shuffle at once. Larger shuffles more widely."""
MAX_CHUNK_STEPS = 1024
"""Tiny sets would otherwise have thousands of epochs in a chunk, each with a plan of its own."""
PIECES_AT_ONCE = 4
"""Pieces that are read ahead together. Twice as many chunks are in memory at most."""
MAX_LANES = 8
HELD_OUT_BATCH = 64
"""Images that are measured at once; small enough for the largest presets on small GPUs."""
TASKS_IN_FLIGHT = 2
TASK_CPUS = 0.25
"""A read is mostly waiting and copying. Must fit beside the training workers (see ray_worker)."""
_NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Batch:
    """One worker's share of one step.

    Attributes:
        images: (N, H, W, 3) uint8.
        rows: (N,) int64, each image's row number in the split, in the manifest's order.
    """

    images: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class StreamPlan:
    """The order in which a run uses the rows of a split: a pure function of its fields.

    Positions count the images of the whole run: step k uses positions k * batch_size up to
    (k + 1) * batch_size, epoch e positions e * rows up to (e + 1) * rows. Position g belongs to
    lane g mod `lanes`, so each batch takes equally many images of each lane. An epoch permutes the
    row groups and deals them out to the lanes in equal, contiguous parts, and so a worker that
    serves some of the lanes reads only their row groups. Within a chunk of `chunk_steps` steps,
    each lane's rows are shuffled.

    Attributes:
        row_groups: rows of each row group of the split, in the manifest's order.
        batch_size: images per step over all workers.
        image_bytes: size of one image.
    """

    row_groups: tuple[int, ...]
    batch_size: int
    image_bytes: int
    seed: int

    @functools.cached_property
    def rows(self) -> int:
        return sum(self.row_groups)

    @functools.cached_property
    def lanes(self) -> int:
        """The largest number of lanes that deals a batch out evenly."""
        return max(n for n in range(1, MAX_LANES + 1) if self.batch_size % n == 0)

    @functools.cached_property
    def chunk_steps(self) -> int:
        steps = round(CHUNK_BYTES / (self.batch_size * self.image_bytes))
        return min(max(steps, 1), MAX_CHUNK_STEPS)

    @functools.cached_property
    def group_starts(self) -> np.ndarray:
        """(row groups,) int64: the number of each row group's first row."""
        return np.cumsum([0, *self.row_groups[:-1]])

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's permutation of the row groups, and where each starts in that order."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.row_groups))
        ends = np.cumsum(np.asarray(self.row_groups)[order])
        return order, np.concatenate([[0], ends])

    def _lane_rows(self, lane: int, first: int, stop: int) -> np.ndarray:
        """Row numbers of a lane at positions [first, stop) of one chunk, in order of use."""
        parts = []
        for epoch in range(first // self.rows, (stop - 1) // self.rows + 1):
            begin, end = epoch * self.rows, (epoch + 1) * self.rows
            order, starts = self._epoch(epoch)
            # The lane's part of the epoch begins behind those of the lanes before it.
            part = sum(self._count(other, begin, end) for other in range(lane))
            low, high = max(first, begin), min(stop, end)
            slots = part + np.arange(
                self._count(lane, begin, low), self._count(lane, begin, high), dtype=np.int64
            )
            which = np.searchsorted(starts, slots, side="right") - 1
            rows = self.group_starts[order[which]] + slots - starts[which]
            np.random.default_rng((self.seed, epoch, low, lane)).shuffle(rows)
            parts.append(rows)
        return np.concatenate(parts)

    def _count(self, lane: int, first: int, stop: int) -> int:
        """How many of the positions [first, stop) belong to a lane."""
        return (stop - lane - 1) // self.lanes - (first - lane - 1) // self.lanes

    def worker_rows(self, chunk: int, rank: int, world_size: int) -> np.ndarray:
        """The rows that a worker uses in a chunk: (chunk_steps, batch_size / world_size) int64.

        Workers take equal parts of each batch sorted by lane. Where `world_size` divides `lanes`
        or the other way round, none reads a row group for more lanes than it must.
        """
        share = self.batch_size // world_size
        per_lane = self.batch_size // self.lanes
        first = chunk * self.chunk_steps * self.batch_size
        stop = first + self.chunk_steps * self.batch_size
        columns = []
        for lane in range(rank * share // per_lane, ((rank + 1) * share - 1) // per_lane + 1):
            rows = self._lane_rows(lane, first, stop).reshape(self.chunk_steps, per_lane)
            low = max(0, rank * share - lane * per_lane)
            high = min(per_lane, (rank + 1) * share - lane * per_lane)
            columns.append(rows[:, low:high])
        return np.concatenate(columns, axis=1)

    def pieces(self, first_step: int, stop_step: int) -> list[Piece]:
        """Steps [first_step, stop_step) cut at the chunks: (chunk, first, stop) within each."""
        size = self.chunk_steps
        chunks = range(first_step // size, -(-stop_step // size)) if first_step < stop_step else ()
        return [
            (chunk, max(first_step - chunk * size, 0), min(stop_step - chunk * size, size))
            for chunk in chunks
        ]


@dataclass(frozen=True)
class ImageStream:
    """A split of a dataset, as batches for training.

    Attributes: folder: where the dataset lies.
    """

    folder: Folder
    manifest: Manifest
    split: str
    batch_size: int
    seed: int

    @functools.cached_property
    def plan(self) -> StreamPlan:
        groups = [rows for file in self.manifest.splits[self.split] for rows in file.row_groups]
        return StreamPlan(tuple(groups), self.batch_size, self.manifest.image_bytes, self.seed)

    def batches(
        self, first_step: int, stop_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """One worker's batches for the steps [first_step, stop_step), read ahead by Ray Data.

        Args: rank, world_size: which worker of how many; `world_size` must divide `batch_size`.
        Raises: ShardError if a file is missing or damaged, or an image was lost or repeated.
        """
        pieces = self.plan.pieces(first_step, stop_step)
        share = self.batch_size // world_size
        expected = itertools.chain.from_iterable(
            self.plan.worker_rows(chunk, rank, world_size)[first:stop]
            for chunk, first, stop in pieces
        )
        delivered = 0
        for table in self._tables(pieces, rank, world_size):
            rows, images = _columns(table, self.manifest)
            for start in range(0, len(rows), share):
                batch = Batch(images[start : start + share], rows[start : start + share])
                if not np.array_equal(batch.rows, next(expected, _NO_ROWS)):
                    raise ShardError(
                        f"{self.folder.uri}: step {first_step + delivered} received other images "
                        f"than planned (rank {rank} of {world_size}, rows "
                        f"{batch.rows[:4].tolist()}...); the data stream lost or repeated some"
                    )
                delivered += 1
                yield batch
        if delivered != stop_step - first_step:
            raise ShardError(
                f"{self.folder.uri}: the data stream ended after {delivered} of "
                f"{stop_step - first_step} steps (rank {rank} of {world_size})"
            )

    def _tables(self, pieces: list[Piece], rank: int, world_size: int) -> Iterator[pa.Table]:
        """One table for each piece, read ahead by one Ray Data execution for a few pieces each.

        A single execution for all pieces would be simpler. But inside a training worker, once
        its results have to wait to be used, its scheduling thread was seen never to rest (Ray
        2.60), and training ran at a third of its speed. These run to their end at once.
        """
        # Ray is imported where it is used, so that the plan can be used without it.
        import ray

        reader, plan = ShardReader(self.folder, self.manifest, self.split), self.plan

        def execute(group: list[Piece]) -> list[ray.ObjectRef[pa.Table]]:
            def read(batch: dict[str, np.ndarray]) -> pa.Table:
                chunk, first, stop = group[int(batch["id"][0])]
                rows = plan.worker_rows(chunk, rank, world_size)[first:stop]
                try:
                    return reader.read(rows.reshape(-1))
                except ShardError as error:
                    # Raised here, it would arrive buried in Ray's own messages.
                    return pa.table({"error": [str(error)]})

            tables = ray.data.range(len(group), override_num_blocks=len(group)).map_batches(
                read,
                batch_size=1,
                num_cpus=TASK_CPUS,
                # Ray warns where there are fewer blocks than tasks.
                compute=ray.data.TaskPoolStrategy(size=min(TASKS_IN_FLIGHT, len(group))),
            )
            tables.context.execution_options.preserve_order = True
            # One block for each piece, as it was read: to split or merge blocks copies the images.
            tables.context.target_max_block_size = None
            tables.context.enable_progress_bars = False
            tables.context.print_on_execution_start = False
            refs: list[ray.ObjectRef[pa.Table]] = tables.materialize().to_arrow_refs()
            return refs

        if not pieces:
            return
        first_group, *groups = _grouped(pieces)
        with ThreadPoolExecutor(1, "stream") as thread:
            ahead = thread.submit(execute, first_group)
            for following in [*groups, None]:
                refs = ahead.result()
                if following:
                    ahead = thread.submit(execute, following)
                while refs:
                    # Dropping the reference lets Ray free the images once they are used.
                    table: pa.Table = ray.get(refs.pop(0))
                    if "error" in table.column_names:
                        raise ShardError(table.column("error")[0].as_py())
                    yield table


def _grouped(pieces: list[Piece]) -> list[list[Piece]]:
    """Cut into groups of 1, 2 and then 4 pieces: the first batch is not to wait for four."""
    groups, size = [], 1
    while pieces:
        groups.append(pieces[:size])
        pieces = pieces[size:]
        size = min(2 * size, PIECES_AT_ONCE)
    return groups


def _columns(table: pa.Table, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, and images as (N, H, W, 3) uint8, both views of the table's memory."""
    image = table.column("image").combine_chunks()
    if isinstance(image, pa.ChunkedArray):
        image = pa.concat_arrays(image.chunks)
    return table.column("row").to_numpy(), _as_array(image, manifest.image_bytes).reshape(
        -1, manifest.height, manifest.width, 3
    )


def _as_array(images: pa.FixedSizeBinaryArray, image_bytes: int) -> np.ndarray:
    """(N, image_bytes) uint8 view of a fixed-size binary column."""
    start = images.offset * image_bytes
    flat = np.frombuffer(images.buffers()[1], np.uint8)
    return flat[start : start + len(images) * image_bytes].reshape(-1, image_bytes)


@dataclass(frozen=True)
class ShardReader:
    """Reads rows of a split by their numbers in the manifest's order."""

    folder: Folder
    manifest: Manifest
    split: str

    @functools.cached_property
    def _groups(self) -> list[tuple[ShardFile, int, int]]:
        """Each row group's file, number in the file, and first row."""
        groups, first = [], 0
        for file in self.manifest.splits[self.split]:
            for number, rows in enumerate(file.row_groups):
                groups.append((file, number, first))
                first += rows
        return groups

    def read(self, rows: np.ndarray) -> pa.Table:
        """Columns `image` and `row` for these row numbers, in this order.

        Raises: ShardError if a file is missing, damaged, or other than the manifest says.
        """
        image_bytes = self.manifest.image_bytes
        images = np.empty((len(rows), image_bytes), np.uint8)
        starts = np.array([first for _, _, first in self._groups])
        which = np.searchsorted(starts, rows, side="right") - 1
        by_group = np.argsort(which, kind="stable")
        groups, begins = np.unique(which[by_group], return_index=True)
        # Without rows there are no groups, but `split` would make one.
        targets_of = np.split(by_group, begins[1:]) if len(rows) else []
        for group, targets in zip(groups, targets_of, strict=True):
            file, number, first = self._groups[group]
            stored = self._read_group(file, number, ["image"]).column("image")
            for chunk in stored.chunks:
                inside = rows[targets] - first
                mine = (inside >= 0) & (inside < len(chunk))
                images[targets[mine]] = _as_array(chunk, image_bytes)[inside[mine]]
                first += len(chunk)
        column = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(image_bytes), len(rows), [None, pa.py_buffer(images)]
        )
        return pa.table({"image": column, "row": pa.array(rows)})

    def images(self, rows: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8: the images of these row numbers. Raises: ShardError."""
        return _columns(self.read(rows), self.manifest)[1]

    def ids(self) -> list[str]:
        """The id of every row of the split, in row order."""
        return self._values("id")

    def attribute(self, name: str) -> np.ndarray:
        """An attribute of every row of the split, in row order: 1 true, -1 false, 0 unknown.

        Raises: UserError if the dataset has no such attribute.
        """
        known = self.manifest.attributes
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"--attribute {name}: the dataset {self.folder.uri} lacks it; {has}")
        return np.array(self._values(name), dtype=np.int8)

    def _values(self, column: str) -> list[Any]:
        return [
            value
            for file, number, _ in self._groups
            for value in self._read_group(file, number, [column]).column(column).to_pylist()
        ]

    def _read_group(self, file: ShardFile, number: int, columns: list[str]) -> pa.Table:
        where = self.folder.join(file.name)
        try:
            parquet = _open(where, file.sha256)
            found = parquet.metadata.row_group(number).num_rows
            if found == file.row_groups[number]:
                return parquet.read_row_group(number, columns)
            problem = f"row group {number} has {found} rows, not {file.row_groups[number]}"
        except FileNotFoundError:
            problem = "is missing"
        except (OSError, pa.ArrowException, KeyError, IndexError) as error:
            problem = f"is damaged ({error})"
        raise ShardError(f"{where.uri}: {problem}; copy the dataset again or prepare it again")


@functools.lru_cache(maxsize=64)
def _open(file: Folder, sha256: str) -> pq.ParquetFile:
    """A shard, kept open in the reading process: its footer is read and parsed once.

    Args: sha256: tells a file from an earlier one at the same place.
    """
    return pq.ParquetFile(
        file.path,
        filesystem=file.filesystem,
        page_checksum_verification=True,
        # Row groups are read whole: one request each from an object store.
        pre_buffer=True,
    )


@dataclass(frozen=True)
class HeldOut:
    """The first images of a split, always in the same batches; read without Ray.

    Attributes: count: of images, at most as many as the split has.
    """

    reader: ShardReader
    count: int

    @staticmethod
    def of(folder: Folder, manifest: Manifest, split: str, count: int) -> "HeldOut":
        """The first `count` images of a split, or as many as there are."""
        return HeldOut(ShardReader(folder, manifest, split), min(count, manifest.rows(split)))

    def batches(self, rank: int = 0, world_size: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """A worker's batches: the number of each among those of all workers, and its images.

        Yields: (number, (N, H, W, 3) uint8), N up to `HELD_OUT_BATCH`.
        Raises: ShardError.
        """
        for number in range(rank, -(-self.count // HELD_OUT_BATCH), world_size):
            first = number * HELD_OUT_BATCH
            yield number, self.images(first, first + HELD_OUT_BATCH)

    def images(self, first: int, stop: int) -> np.ndarray:
        """(N, H, W, 3) uint8: images [first, stop), fewer if there are fewer."""
        return self.reader.images(np.arange(first, min(stop, self.count)))
