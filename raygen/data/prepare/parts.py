"""Plans the parts of a preparation, and makes them on the cluster.

A part is a range of images that become whole files of every dataset. Ray Data spreads the parts
over the cluster. Images in an object store are read concurrently, ahead of their use.
"""

import contextlib
import dataclasses
import functools
import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raygen.cluster.lease import Fence
from raygen.config.run import ImageFormat
from raygen.core import retry
from raygen.core.checked import Checked, parse
from raygen.core.errors import RunError, UserError, one_line
from raygen.core.status import State, Status
from raygen.core.storage import Folder
from raygen.data.images import BadImage, fit_images
from raygen.data.shards.manifest import CHANNELS, ShardFile, rejections, write_shard
from raygen.data.sources.source import Source

SHARD_BYTES = 64 * 2**20
"""Target size of files: large enough for object stores, small enough to spread over workers."""
FILES_PER_WORKER = 4
TASK_IMAGES = 128
MAX_ATTEMPTS = 4
"""How often a task is tried whose process dies; Ray alone would retry for ever."""
READERS = 16
"""Concurrent reads per process from an object store, where each takes tens of milliseconds."""
READ_AHEAD_BYTES = 128 * 2**20
"""Limit on the bytes of images that are read but not used yet, so that memory is bounded."""
TELL_SECONDS = 1.0
ANSWER_SECONDS = 5
"""Time to wait for a count, in seconds; the last wait delays the end of the job."""
RECORDS = ".prepare"

ProgressCallback = Callable[[int, int, float], None]
"""Called with images done, images in total, and images per second."""


@dataclass(frozen=True)
class Target:
    """A dataset to be made: its folder and image format.

    Attributes: fence: lets writers check that the job still owns the folder.
    """

    folder: Folder
    image: ImageFormat
    fence: Fence | None = None

    @property
    def image_bytes(self) -> int:
        return self.image.height * self.image.width * CHANNELS

    @property
    def records(self) -> Folder:
        return self.folder.join(RECORDS)


@dataclass(frozen=True)
class File:
    """A file to write: positions [start, stop) of the source, all of one split."""

    name: str
    split: str
    start: int
    stop: int


@dataclass(frozen=True)
class Record:
    """The record of a finished file.

    Attributes: file: None if no image could be kept; rejected: the images that were left out.
    """

    file: ShardFile | None
    rejected: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        file = dataclasses.asdict(self.file) if self.file else None
        return {"file": file, "rejected": self.rejected}

    @staticmethod
    def from_json(values: Checked, image_bytes: int) -> "Record":
        """Read what `to_json` wrote. Args: image_bytes: size of an image. Raises: ShardError."""
        found = values.entry("file")
        file = None if found.value is None else ShardFile.from_json(found, image_bytes)
        return Record(file, list(rejections(values.entry("rejected"))))


Part = list[list[File]]
"""For each target, the files that are made together from the same range of the source."""


def plan_parts(
    splits: dict[str, range], image_bytes: Sequence[int], expected_workers: int
) -> list[Part]:
    """Cut each split into blocks, and the blocks into files of about `SHARD_BYTES`.

    Each split gets at least four files for each expected worker, if it has enough images. A
    target's files do not depend on the other targets.

    Args: image_bytes: size of an image of each target.
    """
    parts: list[Part] = []
    # Neighbouring parts, which tasks join, follow one another in the source.
    for split, positions in sorted(splits.items(), key=lambda item: item[1].start):
        if not positions:
            continue
        blocks = min(FILES_PER_WORKER * expected_workers, len(positions))
        block_bytes = [math.ceil(len(positions) / blocks) * size for size in image_bytes]
        files = [math.ceil(size / SHARD_BYTES) for size in block_bytes]
        per_block = math.gcd(*files)
        count = blocks * per_block
        for part in range(count):
            parts.append(
                [
                    [_file(split, positions, part * each + k, count * each) for k in range(each)]
                    for each in (number // per_block for number in files)
                ]
            )
    return parts


def _file(split: str, positions: range, number: int, count: int) -> File:
    bounds = (positions.start + len(positions) * k // count for k in (number, number + 1))
    return File(f"{split}-{number:05d}.parquet", split, *bounds)


def _tasks(parts: list[Part]) -> list[Part]:
    """Join neighbouring parts into longer tasks; starting one takes as long as 50 images."""
    tasks: list[Part] = []
    for part in parts:
        if tasks and _images(tasks[-1]) < TASK_IMAGES:
            tasks[-1] = [before + files for before, files in zip(tasks[-1], part, strict=True)]
        else:
            tasks.append(part)
    return tasks


def _images(part: Part) -> int:
    """The number of images that a part reads from the source."""
    return len(_positions(part))


def _positions(part: Part) -> list[int]:
    return sorted({p for files in part for file in files for p in range(file.start, file.stop)})


class Shard:
    """Collects the images of one file as they arrive."""

    def __init__(self, target: Target, file: File) -> None:
        self._target = target
        self.file = file
        self._images = np.empty((file.stop - file.start, target.image_bytes), np.uint8)
        self._ids: list[str] = []
        self._values: list[list[int]] = []
        self._rejected: list[dict[str, str]] = []

    def add(self, id: str, pixels: np.ndarray, values: list[int]) -> None:
        self._images[len(self._ids)] = pixels.reshape(-1)
        self._ids.append(id)
        self._values.append(values)

    def reject(self, id: str, reason: str) -> None:
        self._rejected.append({"id": id, "split": self.file.split, "reason": reason})

    def write(self) -> Record:
        """Write the file, then its record. Raises: OSError; RunError if the lease was lost."""
        if self._target.fence:
            self._target.fence.check()
        written = None
        if self._ids:
            images = self._images[: len(self._ids)]
            values = np.array(self._values, np.int8).reshape(len(self._ids), len(self._values[0]))
            written = write_shard(self._target.folder, self.file.name, images, self._ids, values)
        record = Record(written, self._rejected)
        self._target.records.write_json(f"{self.file.name}.json", record.to_json())
        return record


def _count_attempt(source: Source, targets: Sequence[Target], part: Part, run: str) -> None:
    """Record that an attempt at a part begins. Raises: OSError after too many attempts.

    Args: run: unique id of this preparation, so that earlier ones do not count.
    """
    files = [(t.records, file) for t, files in zip(targets, part, strict=True) for file in files]
    records, file = files[0]
    marks = [f"{file.name}.begun-{run}-{attempt}" for attempt in range(MAX_ATTEMPTS)]
    mark = next((mark for mark in marks if not records.exists(mark)), None)
    if not mark:
        unfinished = (f for folder, f in files if not folder.exists(f"{f.name}.json"))
        file = next(unfinished, file)
        first, last = source.ids[file.start], source.ids[file.stop - 1]
        raise OSError(
            f"a process that prepared the images {first} to {last} died {MAX_ATTEMPTS} times: one "
            "of them is made to do that, or there is too little memory"
        )
    # Losing this file does no harm, so it is written without the cost of an atomic write.
    records.patiently(lambda: records.filesystem.open_output_stream(records.path_of(mark)).close())


def make_part(
    source: Source,
    ids: list[str],
    targets: Sequence[Target],
    part: Part,
    tell: Callable[[int], None] | None = None,
) -> list[dict[str, Record]]:
    """Load, fit and write the images of one part; those that cannot be read are recorded.

    Args: tell: called after each image with the number of images done.
    Returns: for each target, the record of each file by name.
    Raises: OSError if a storage fails.
    """
    made: list[dict[str, Record]] = [{} for _ in targets]
    waiting = [list(files) for files in part]
    shards: list[Shard | None] = [None for _ in targets]
    images = [target.image for target in targets]
    for done, (position, read) in enumerate(_read_ahead(source, _positions(part)), start=1):
        for number, files in enumerate(waiting):
            if files and files[0].start == position:
                shards[number] = Shard(targets[number], files.pop(0))
        try:
            image, values = source.open(position, read())
            fitted, reason = fit_images(image, images), ""
        except BadImage as error:
            reason = str(error)
        for number, shard in enumerate(shards):
            if not shard:
                continue
            if reason:
                shard.reject(ids[position], reason)
            else:
                shard.add(ids[position], fitted[number], values)
            if position + 1 == shard.file.stop:
                made[number][shard.file.name] = shard.write()
                shards[number] = None
        if tell:
            tell(done)
    return made


def _read_ahead(
    source: Source, positions: Sequence[int]
) -> Iterator[tuple[int, Callable[[], bytes]]]:
    """Yield each position with a function that returns its bytes, or raises the read error."""
    if not source.is_remote:
        for position in positions:
            yield position, functools.partial(source.read, position)
        return
    with ThreadPoolExecutor(READERS) as pool:
        reading: deque[tuple[int, Callable[[], bytes]]] = deque()
        ahead = 0
        for position in positions:
            # Keep at least one read in flight, even of an image above the limit.
            while reading and (
                len(reading) > READERS or ahead + source.size(position) > READ_AHEAD_BYTES
            ):
                ahead -= source.size(reading[0][0])
                yield reading.popleft()
            ahead += source.size(position)
            reading.append((position, pool.submit(source.read, position).result))
        while reading:
            yield reading.popleft()


def make_all(
    source: Source,
    targets: Sequence[Target],
    parts: list[Part],
    progress: ProgressCallback | None = None,
) -> list[dict[str, Record]]:
    """Make parts as a Ray Data pipeline.

    Args: progress: called about once a second, from this or another thread, never concurrently.
    Returns: for each target, the record of each file by name.
    Raises: RunError if a storage can no longer be read or written.
    """
    tasks = _tasks(parts)
    if not tasks:
        return [{} for _ in targets]
    from raygen.cluster.connection import own_actor

    with own_actor(Status) if progress else contextlib.nullcontext() as status:
        return _make_tasks(source, targets, tasks, progress, status)


def _make_tasks(
    source: Source,
    targets: Sequence[Target],
    tasks: list[Part],
    progress: ProgressCallback | None,
    status: Any,
) -> list[dict[str, Record]]:
    import ray

    records: list[dict[str, Record]] = [{} for _ in targets]
    outage_told = ""
    # Put the arguments into the object store once, because 200,000 names and attributes are large.
    shared = ray.put((source, source.ids, targets, tasks))
    key = shared.hex()

    def make(row: dict[str, Any]) -> dict[str, Any]:
        source, ids, targets, tasks = _of_process(key, lambda: ray.get(shared))
        number = int(row["id"])
        part, told_at = tasks[number], time.monotonic()

        def tell(done: int) -> None:
            nonlocal told_at
            if status and time.monotonic() - told_at > TELL_SECONDS:
                status.progress.remote(number, done)
                told_at = time.monotonic()

        def outage(text: str) -> None:
            if status:
                status.outage.remote(number, text)

        # A killed attempt may have reported an outage that is over now.
        outage("")
        before = retry.OUTAGES.retries

        def answer(made: str, error: str) -> dict[str, Any]:
            retries = retry.OUTAGES.retries.since(before)
            numbers = {"requests": retries.requests, "seconds": retries.seconds}
            return {"number": number, "made": made, "error": error} | numbers

        try:
            # Name OUTAGES through its module, so that the task uses its own process's instance; a
            # global of this module would be pickled with the task.
            with retry.OUTAGES.told_to(outage):
                _count_attempt(source, targets, part, key)
                made = make_part(source, ids, targets, part, tell)
        except (OSError, pa.ArrowException, RunError, UserError) as error:
            # Return the error, because Ray would bury a raised one in its own messages.
            return answer("", one_line(error))
        text = json.dumps([{n: r.to_json() for n, r in files.items()} for files in made])
        return answer(text, "")

    def counted() -> dict[int, int]:
        nonlocal outage_told
        try:
            state: State = ray.get(status.state.remote(), timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError:
            # The cluster may be busy. Progress of finished tasks is known without an answer.
            return {}
        if state.outage != outage_told:
            retry.OUTAGES.tell(state.outage)
            outage_told = state.outage
        return state.progress

    results = ray.data.range(len(tasks), override_num_blocks=len(tasks)).map(make)
    # Otherwise Ray reserves CPUs for idle operators: nearly one of two.
    results.context.op_resource_reservation_enabled = False
    with _ProgressThread(progress, [_images(task) for task in tasks], counted) as telling:
        for row in results.iter_rows():
            retry.OUTAGES.count(retry.Retries(int(row["requests"]), float(row["seconds"])))
            if row["error"]:
                places = ", ".join(target.folder.uri for target in targets)
                raise RunError(
                    f"--out {places}: {row['error']}\nwhat is finished is kept; once that is "
                    "mended, the same command, without --restart, goes on"
                )
            made = parse(row["made"].encode(), "a task's answer").items()
            for target, known, files in zip(targets, records, made, strict=True):
                known |= {
                    name: Record.from_json(values, target.image_bytes)
                    for name, values in files.entries().items()
                }
            telling.ended(int(row["number"]))
    return records


class _ProgressThread:
    """Reports progress whenever a task ends, and about once a second."""

    def __init__(
        self,
        progress: ProgressCallback | None,
        images: list[int],
        counted: Callable[[], dict[int, int]],
    ) -> None:
        """Args: images: number of images of each task; counted: returns how many of its images
        each running task has done, by the task's number."""
        self._progress = progress
        self._images = images
        self._counted = counted
        self._done: dict[int, int] = {}
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_ProgressThread":
        if self._progress:
            self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._over.set()
        if self._progress:
            self._thread.join()
        if self._raised and not error:
            raise self._raised

    def ended(self, task: int) -> None:
        """Report that a task has ended. Raises: what `progress` raised, in either thread."""
        if self._raised:
            raise self._raised
        self._tell({task: self._images[task]})

    def _run(self) -> None:
        try:
            while not self._over.wait(TELL_SECONDS):
                self._tell(self._counted())
        except BaseException as error:
            self._raised = error

    def _tell(self, counts: dict[int, int]) -> None:
        with self._lock:
            for task, done in counts.items():
                # Counts may arrive after a task's end, and a task that died begins again at 0.
                self._done[task] = max(done, self._done.get(task, 0))
            done = sum(self._done.values())
            if self._progress:
                total = sum(self._images)
                self._progress(done, total, done / (time.monotonic() - self._began))


_process: dict[str, Any] = {}


def _of_process(key: str, load: Callable[[], Any]) -> Any:
    """Load what all tasks share once per process. Args: key: identifies the preparation."""
    if key not in _process:
        _process.clear()
        _process[key] = load()
    return _process[key]
