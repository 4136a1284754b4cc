"""The order in which a run uses the images of a split, known before it starts.

From the manifest's row counts alone, `StreamPlan` computes which rows of the dataset each of any
number of workers uses in each step.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CHUNK_BYTES = 64 * 2**20
"""Size of a chunk, which all workers together read and shuffle at once, in bytes."""
MAX_CHUNK_STEPS = 1024
"""Upper limit of a chunk's steps; a chunk of a tiny dataset would else hold thousands of epochs."""
MAX_LANES = 8

Piece = tuple[int, int, int]
"""Part of a chunk: the chunk's number, and the range [first, stop) of steps within it."""


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
        """The largest number of lanes, up to `MAX_LANES`, that divides the batch size."""
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
            # The lane's part of the epoch begins after those of the previous lanes.
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

        Each batch is sorted by lane and split into equal parts. If `world_size` divides `lanes`,
        or `lanes` divides `world_size`, no worker reads row groups of more lanes than necessary.
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

    def pieces(
        self, first_step: int, stop_step: int, at_most: int = MAX_CHUNK_STEPS
    ) -> Iterator[Piece]:
        """Cut the steps [first_step, stop_step) at the boundaries of chunks.

        Args: at_most: maximal length of a piece, in steps; longer chunks are cut too.
        """
        step = first_step
        while step < stop_step:
            chunk, first = divmod(step, self.chunk_steps)
            full = (first // at_most + 1) * at_most
            stop = min(full, self.chunk_steps, stop_step - chunk * self.chunk_steps)
            yield chunk, first, stop
            step += stop - first
