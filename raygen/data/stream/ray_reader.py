"""Reads ahead with Ray Data: tasks on the cluster read rows into the object store.

This suits workers on nodes with few CPUs, or data that other nodes are closer to. On one machine
it is slower than the workers' own threads (`jobs/bench.py ingest` measures by how much).
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import ray

from raygen.core.errors import ShardError
from raygen.data.shards.manifest import as_array, as_column
from raygen.data.shards.reader import ATTRIBUTES, ShardReader
from raygen.data.shards.rows import Rows
from raygen.data.stream.order import Piece, StreamPlan

PIECES_AT_ONCE = 4
"""How many pieces are read ahead together if the object store has room for them."""
STORE_SHARE = 0.25
"""Share of the object store for the pieces that are read together. The previous pieces, which are
in use, take as much again."""
TASKS_IN_FLIGHT = 2
TASK_CPUS = 0.25
"""CPUs reserved per read, which mostly waits and copies. They must fit beside the workers."""


def read_ahead(
    shards: ShardReader,
    plan: StreamPlan,
    first_step: int,
    stop_step: int,
    rank: int,
    world_size: int,
) -> Iterator[Rows]:
    """Read a worker's part of the plan, with one Ray Data execution for every few pieces.

    A single execution for all pieces would be simpler. But when its results have to wait for the
    training, its scheduling thread keeps a CPU busy (Ray 2.60), and training in the same process
    runs at a third of its speed. Short executions finish without waiting.

    Raises: ShardError.
    """
    steps, at_once = plan_pieces(plan, ray.cluster_resources().get("object_store_memory", 0))
    groups = _grouped(plan.pieces(first_step, stop_step, steps), at_once)
    first_group = next(groups, None)
    if not first_group:
        return
    share = plan.batch_size // world_size

    def execute(group: list[Piece]) -> list[ray.ObjectRef[pa.Table]]:
        def read(row: pa.Table) -> pa.Table:
            chunk, first, stop = group[row.column("id")[0].as_py()]
            rows = plan.worker_rows(chunk, rank, world_size)[first:stop].reshape(-1)
            try:
                found = shards.read(rows)
            except ShardError as error:
                # Return the error, because Ray would bury a raised one in its own messages.
                return pa.table({"error": [str(error)]})
            columns = {"image": as_column(found.images.reshape(len(rows), -1)), "row": rows}
            if shards.manifest.attributes:
                columns[ATTRIBUTES] = as_column(found.attributes.view(np.uint8))
            return pa.table(columns)

        tables = ray.data.range(len(group), override_num_blocks=len(group)).map_batches(
            read,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=TASK_CPUS,
            # Ray warns if there are fewer blocks than tasks.
            compute=ray.data.TaskPoolStrategy(size=min(TASKS_IN_FLIGHT, len(group))),
        )
        tables.context.execution_options.preserve_order = True
        # Keep one block for each piece, because splitting and merging blocks copies the images.
        tables.context.target_max_block_size = None
        tables.context.enable_progress_bars = False
        tables.context.print_on_execution_start = False
        refs: list[ray.ObjectRef[pa.Table]] = tables.materialize().to_arrow_refs()
        return refs

    with ThreadPoolExecutor(1, "stream") as thread:
        ahead = thread.submit(execute, first_group)
        for following in itertools.chain(groups, [None]):
            refs = ahead.result()
            if following:
                ahead = thread.submit(execute, following)
            while refs:
                # Drop the reference, so that Ray frees the images once they are used.
                table: pa.Table = ray.get(refs.pop(0))
                if "error" in table.column_names:
                    raise ShardError(table.column("error")[0].as_py())
                images = as_array(table.column("image"))
                rows = table.column("row").to_numpy()
                attributes = np.empty((len(rows), 0), np.int8)
                if shards.manifest.attributes:
                    attributes = as_array(table.column(ATTRIBUTES)).view(np.int8)
                for start in range(0, len(rows), share):
                    part = slice(start, start + share)
                    # Copy, so that the store's memory can be freed.
                    pixels = images[part].reshape(shards.manifest.shape(share)).copy()
                    yield Rows(pixels, attributes[part].copy(), rows[part].copy())


def plan_pieces(plan: StreamPlan, store_bytes: float) -> tuple[int, int]:
    """Fit pieces to an object store. Returns: steps of a piece; number of pieces to read at once.

    Args: store_bytes: memory of the cluster's object stores, in bytes.
    """
    chunk_bytes = plan.chunk_steps * plan.batch_size * plan.image_bytes
    room = STORE_SHARE * store_bytes
    if room >= chunk_bytes:
        return plan.chunk_steps, min(PIECES_AT_ONCE, int(room / chunk_bytes))
    return max(1, int(plan.chunk_steps * room / chunk_bytes)), 1


def _grouped(pieces: Iterator[Piece], at_once: int) -> Iterator[list[Piece]]:
    """Group pieces by 1, 2, 4 and so on up to `at_once`, so that the first batch comes early."""
    size = 1
    while group := list(itertools.islice(pieces, size)):
        yield group
        size = min(2 * size, at_once)
