"""Reads ahead with Ray Data: tasks on the cluster read planned rows into the object store.

Ray Train hands each worker its shard of one execution, which runs in an actor of Ray Data's, so
that the training process only takes finished blocks out of the object store. The steps of a run are
cut into pieces; the rows that one worker uses in one piece are a block, which one task reads.
Blocks are numbered piece by piece, and in each piece worker by worker: so Ray Data deals out blocks
of equal length.
"""

import contextlib
import functools
import itertools
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import DataIterator, Dataset

from raygen.core.errors import ShardError, StorageError
from raygen.core.memory import keep_memory
from raygen.core.retry import OUTAGES
from raygen.data.shards.manifest import as_array, as_column
from raygen.data.shards.reader import ATTRIBUTES
from raygen.data.shards.rows import Rows
from raygen.data.stream.order import MAX_CHUNK_STEPS, Piece
from raygen.data.stream.stream import ImageStream

STORE_SHARE = 0.05
"""Largest share of an object store that one piece may fill."""
BLOCK_SHARE = 4
"""A block holds at least this fraction of a chunk: with more workers, a piece is several chunks."""
MOST_BLOCKS = 2048
"""Most blocks of one execution, because Ray Data keeps track of each from the beginning. They hold
tens of gigabytes of images."""
TASK_CPUS = 0.25
"""CPUs reserved per task, which mostly waits and copies. They must fit beside the workers."""
LEAST_TASKS = 2
REST_SECONDS = 0.01
"""Pause between two steps of Ray Data's scheduling."""
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ShardError, StorageError, RuntimeError)
}
"""Errors that a block can stand for, by the name of the column with their text."""


def tell_nobody(text: str) -> None:
    """Ignore an outage of the storage."""


def tasks_at_once(workers: int) -> int:
    """Number of tasks that read at once for so many workers."""
    return max(LEAST_TASKS, workers)


@dataclass(frozen=True)
class ReadTasks:
    """How tasks read a stream.

    Attributes:
        store_bytes: size of the cluster's smallest object store.
        told: called with a line about an outage of the storage, and with "" when it is over.
        at_once: how many read at once; 0: as many as `tasks_at_once` says.
    """

    store_bytes: float
    told: Callable[[str], None] = tell_nobody
    at_once: int = 0


@dataclass(frozen=True)
class Reading:
    """Steps of a stream to read for some of its workers, in one execution of Ray Data.

    Attributes:
        ranks: the workers that it serves.
        first_step, stop_step: the range of steps. An execution may end before it.
    """

    stream: ImageStream
    ranks: Sequence[int]
    world_size: int
    first_step: int
    stop_step: int
    tasks: ReadTasks

    @functools.cached_property
    def pieces(self) -> list[tuple[Piece, ...]]:
        """The pieces of this execution, each of them one or several parts of chunks."""
        plan = self.stream.plan
        room = STORE_SHARE * self.tasks.store_bytes
        steps = max(1, int(room / (plan.batch_size * plan.image_bytes)))
        parts = plan.pieces(self.first_step, self.stop_step, min(steps, MAX_CHUNK_STEPS))
        together = max(1, min(self.world_size // BLOCK_SHARE, steps // plan.chunk_steps))
        count = max(1, MOST_BLOCKS // len(self.ranks))
        pieces = iter(lambda: tuple(itertools.islice(parts, together)), ())
        return list(itertools.islice(pieces, count))

    @property
    def end(self) -> int:
        """The step after the last one of this execution."""
        return self.first_step + sum(stop - first for p in self.pieces for _, first, stop in p)

    def block(self, number: int) -> pa.Table:
        """Read a block: columns `image`, `row`, and `attributes` if there are any."""
        piece, rank = divmod(number, len(self.ranks))
        rows = np.concatenate(
            [
                self.stream.plan.worker_rows(chunk, self.ranks[rank], self.world_size)[first:stop]
                for chunk, first, stop in self.pieces[piece]
            ]
        ).reshape(-1)
        with OUTAGES.told_to(self.tasks.told):
            found = self.stream.shards.read(rows)
        columns = {"image": as_column(found.images.reshape(len(rows), -1)), "row": found.rows}
        if found.attributes.size:
            columns[ATTRIBUTES] = as_column(found.attributes.view(np.uint8))
        return pa.table(columns)

    def dataset(self) -> Dataset:
        """All blocks in order, as a dataset that reads them when it is executed."""
        reading = ray.put(self)

        def read(numbers: pa.Table) -> pa.Table:
            # Ray would repeat a task that raises for ever, and bury the error in its own messages.
            try:
                return _reading(reading).block(numbers.column("block")[0].as_py())
            except (ShardError, StorageError) as error:
                kind = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
                return pa.table({kind: [str(error)]})
            except Exception:
                return pa.table({RuntimeError.__name__: [traceback.format_exc()]})

        tasks = self.tasks.at_once or tasks_at_once(len(self.ranks))
        return _blocks_of(read, len(self.pieces) * len(self.ranks), tasks)

    def shards(self) -> list[DataIterator]:
        """For each worker, an iterator over its blocks. They share one execution."""
        shards: list[DataIterator] = self.dataset().streaming_split(len(self.ranks))
        return shards


def _blocks_of(read: Callable[[pa.Table], pa.Table], count: int, tasks: int) -> Dataset:
    """A dataset of so many blocks, each of which a task makes of its number, in order."""
    # `from_blocks` starts many blocks in a fraction of the time that `range` takes.
    numbers = ray.data.from_blocks([pa.table({"block": [number]}) for number in range(count)])
    blocks: Dataset = numbers.map_batches(
        read,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
        compute=ray.data.TaskPoolStrategy(size=min(tasks, count)),
    )
    context = blocks.context
    context.execution_options.preserve_order = True
    # Keep the blocks as they are, because splitting and merging them copies the images.
    context.target_max_block_size = None
    callbacks: list[Any] = [_Rests]
    context.custom_execution_callback_classes = callbacks
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return blocks


class _Rests:
    """Has Ray Data's scheduling rest after each step; an `ExecutionCallback` of Ray Data's.

    While finished blocks wait to be used, as they do whenever training is slower than reading, Ray
    Data's loop finds that none of its tasks has anything to wait for, and goes round without a
    pause: it took half of a core.
    """

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(REST_SECONDS)

    def before_execution_starts(self, executor: Any) -> None: ...

    def after_execution_succeeds(self, executor: Any) -> None: ...

    def after_execution_fails(self, executor: Any, error: Exception) -> None: ...


def warm_up(workers: int) -> None:
    """Start the processes that reading will need, so that they start beside the workers.

    These are the tasks' processes and actors that all of Ray Data's executions share. Raises
    nothing: without them, the first batch only comes later.
    """
    tasks = tasks_at_once(workers)
    with contextlib.suppress(Exception):
        _blocks_of(_imported, tasks, tasks).materialize()


def _imported(numbers: pa.Table) -> pa.Table:
    """Does nothing in a process that had to import this module to do so."""
    return numbers


@functools.lru_cache(maxsize=8)
def _reading(reference: "ray.ObjectRef[Reading]") -> Reading:
    """Get what a task reads, once per process, because a manifest can be large."""
    # Each block needs as much memory as the last one.
    keep_memory()
    found: Reading = ray.get(reference)
    return found


class RayDataReader:
    """Takes a worker's images from the shards of Ray Data's executions; it is a `ReadAhead`."""

    def __init__(
        self, tasks: ReadTasks, handed_out: Callable[[], DataIterator] | None = None
    ) -> None:
        """
        Args:
            handed_out: gets the worker's shard of an execution for all workers. It is used first.
                Later executions are the worker's own: when the run has gone back to a checkpoint,
                and when one execution has come to its end.
        """
        self._tasks = tasks
        self._handed_out = handed_out

    def __call__(
        self, stream: ImageStream, first_step: int, stop_step: int, rank: int, world_size: int
    ) -> Iterator[Rows]:
        """Yield the worker's share of each step. Raises: ShardError, StorageError."""
        if first_step >= stop_step:
            return
        ranks = range(world_size) if self._handed_out else range(rank, rank + 1)
        reading = Reading(stream, ranks, world_size, first_step, stop_step, self._tasks)
        if self._handed_out:
            blocks = _blocks(self._handed_out())
            self._handed_out = None
        else:
            blocks = _begin(reading)
        thread = ThreadPoolExecutor(1, "stream")
        try:
            while True:
                ahead: Future[Iterator[pa.Table]] | None = None
                for number, block in enumerate(blocks, 1):
                    if number == len(reading.pieces) and reading.end < stop_step:
                        ranks = range(rank, rank + 1)
                        reading = replace(reading, ranks=ranks, first_step=reading.end)
                        ahead = thread.submit(_begin, reading)
                    yield from _steps(block, stream, world_size)
                if ahead is None:
                    return
                blocks = ahead.result()
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


def _begin(reading: Reading) -> Iterator[pa.Table]:
    """Begin an execution for one worker. Returns: its blocks, the first of which has arrived."""
    [shard] = reading.shards()
    blocks = _blocks(shard)
    return itertools.chain([next(blocks)], blocks)


def _blocks(shard: DataIterator) -> Iterator[pa.Table]:
    whole: Any = None  # Ray takes None for whole blocks, which its types do not know.
    return iter(shard.iter_batches(batch_size=whole, batch_format="pyarrow", prefetch_batches=1))


def _steps(table: pa.Table, stream: ImageStream, world_size: int) -> Iterator[Rows]:
    """Cut a block into steps."""
    [kind, *_] = table.column_names
    if kind in _ERRORS:
        raise _ERRORS[kind](table.column(kind)[0].as_py())
    share = stream.batch_size // world_size
    images, rows = as_array(table.column("image")), table.column("row").to_numpy()
    attributes = np.empty((len(rows), 0), np.int8)
    if stream.manifest.attributes:
        attributes = as_array(table.column(ATTRIBUTES)).view(np.int8)
    for start in range(0, len(rows), share):
        part = slice(start, start + share)
        # Copy, so that the store's memory can be freed, and can be written to.
        pixels = images[part].reshape(stream.manifest.shape(share)).copy()
        yield Rows(pixels, attributes[part].copy(), rows[part].copy())
