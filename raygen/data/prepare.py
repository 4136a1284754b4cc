"""From a source to datasets on disk: decode each image once, and write it in every wanted size.

The work is cut into parts, each a range of images that become whole files of every dataset. Ray
Data spreads the parts over the cluster. What goes into which file depends on the source and the
options alone, so the result is the same for any number of processors.

While a dataset is being made, a folder `.prepare` in it holds the plan and a record of each
finished file, written after the file itself. A preparation that was interrupted goes on from
there; the folder is deleted once the manifest is written.
"""

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raygen.config import ImageFormat
from raygen.data.files import UNREADABLE
from raygen.data.images import BadImage, fit_images
from raygen.data.shards import CHANNELS, MANIFEST, Manifest, ShardFile, write_shard
from raygen.data.sources import Source
from raygen.errors import RunError, UserError
from raygen.storage import Folder

SHARD_BYTES = 64 * 2**20
"""Aim for files of this size: large enough for object stores, small enough to spread."""
FILES_PER_WORKER = 4
TASK_IMAGES = 128
MAX_ATTEMPTS = 4
"""At a task whose process died. Ray would go on for ever."""
RECORDS = ".prepare"
PLAN = "plan.json"
SHARD = r"\w+-\d{5}\.parquet"
TEMPORARY = SHARD + r"\.[0-9a-f]{32}\.tmp"
"""What a process leaves behind that is killed while it writes a shard."""
PIXELS_VERSION = 2
"""Of the way from files to pixels: what one version began, another does not go on with."""

Progress = Callable[[int, int, float], None]
"""Called with images done, images in total, and images per second."""


@dataclass(frozen=True)
class Target:
    """A dataset to be made: where, and of what images."""

    folder: Folder
    image: ImageFormat

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
    """A file that is written, or None where no image could be kept, and what was left out."""

    file: ShardFile | None
    rejected: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        file = dataclasses.asdict(self.file) if self.file else None
        return {"file": file, "rejected": self.rejected}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Record":
        file = ShardFile.from_json(values["file"]) if values["file"] else None
        return Record(file, values["rejected"])


Part = list[list[File]]
"""For each target, the files that are made together: they hold the same range of the source."""


def plan_parts(
    splits: dict[str, range], image_bytes: Sequence[int], expected_workers: int
) -> list[Part]:
    """Cut each split into blocks, and the blocks into files of about `SHARD_BYTES`.

    There are at least four files of a split for each expected worker, as far as there are images.
    A target's files do not depend on the other targets.

    Args: image_bytes: of each target.
    """
    parts: list[Part] = []
    for split, positions in splits.items():
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


def prepare(
    source: Source,
    targets: Sequence[Target],
    expected_workers: int = 4,
    progress: Progress | None = None,
    allowed: int | None = None,
) -> list[Manifest]:
    """Write a source as datasets, in parallel over the Ray cluster.

    A folder that already holds its dataset is left as it is; of one that was begun, only what is
    missing is made.

    Args:
        expected_workers: of the training that will read it; there are at least 4 files for each.
        allowed: how many images may be left out because they cannot be read; None: any number.
    Returns: the manifest of each target.
    Raises: UserError if a folder holds another dataset or cannot be written, or if too many images
        were left out; RunError if writing fails later. What is finished is kept.
    """
    _check_attributes(source.attributes)
    about = source.description()
    found = [find_prepared(about, target) for target in targets]
    sizes = tuple(target.image.size for target in targets)
    plan = {
        "pixels_version": PIXELS_VERSION,
        "source": about,
        "expected_workers": expected_workers,
        "decoded_for": list(sizes),
    }
    parts = plan_parts(
        source.splits(), [target.image_bytes for target in targets], expected_workers
    )
    records: list[dict[str, Record]] = []
    for target, manifest in zip(targets, found, strict=True):
        records.append({} if manifest else _begin(target, plan | dataclasses.asdict(target.image)))

    missing = [
        [
            [file for file in files if not manifest and file.name not in known]
            for files, manifest, known in zip(part, found, records, strict=True)
        ]
        for part in parts
    ]
    todo = _tasks([part for part in missing if any(part)])
    total, done, started = sum(map(_images, todo)), 0, time.monotonic()
    for part, made in _run(source, targets, todo):
        for known, new in zip(records, made, strict=True):
            known |= new
        done += _images(part)
        if progress:
            progress(done, total, done / (time.monotonic() - started))

    manifests = []
    for number, (target, manifest) in enumerate(zip(targets, found, strict=True)):
        if not manifest:
            files = [file for part in parts for file in part[number]]
            manifest = _manifest(source, about, target, sizes, files, records[number])
        if allowed is not None and len(manifest.rejected) > allowed:
            raise _too_many(manifest, len(source.ids), allowed)
        manifests.append(manifest)
    for target, manifest, before in zip(targets, manifests, found, strict=True):
        if not before:
            target.folder.write_json(MANIFEST, manifest.to_json())
            target.records.delete()
            for name in target.folder.names():
                if re.fullmatch(TEMPORARY, name):
                    target.folder.delete_file(name)
    return manifests


def find_prepared(about: dict[str, Any], target: Target) -> Manifest | None:
    """The manifest of the folder's dataset if it is just this one; None if there is none.

    Args: about: the source's description.
    Raises: UserError if the folder holds another dataset.
    """
    folder = target.folder
    if not folder.exists(MANIFEST):
        return None
    present = Manifest.load(folder, "--out")
    if present.source == about and present.image == target.image:
        return present
    raise UserError(
        f"--out {folder.uri}: already holds another dataset ({present.size}, "
        f"{present.source}); choose another folder, or replace it with --restart"
    )


def _check_attributes(names: Sequence[str]) -> None:
    """Raises: UserError if attributes cannot be told apart by their names."""
    for number, name in enumerate(names):
        if not name or name in names[:number]:
            problem = "appears twice" if name else "is empty"
            raise UserError(
                f"the name of attribute {number + 1}, {name!r}, {problem}; rename it in the table, "
                "the subfolder or the column that it comes from"
            )


def delete_dataset(folder: Folder) -> None:
    """Delete the manifest, then the shards, and nothing else that the folder may hold."""
    for name in sorted(folder.names(), key=lambda name: name != MANIFEST):
        if name == MANIFEST or re.fullmatch(SHARD, name) or re.fullmatch(TEMPORARY, name):
            folder.delete_file(name)
    folder.join(RECORDS).delete()


def _begin(target: Target, plan: dict[str, Any]) -> dict[str, Record]:
    """Begin a dataset, or go on with it. Returns: the records of the files that are finished.

    Raises: UserError if something else was begun in the folder, or it cannot be written to.
    """
    records = target.records
    if records.exists(PLAN):
        if records.read_json(PLAN) != plan:
            raise UserError(
                f"--out {target.folder.uri}: holds a half-made dataset of other images or "
                "options; choose another folder, or replace it with --restart"
            )
        # A process that was killed leaves temporary files behind, too.
        names = [name for name in records.names() if name.endswith(".parquet.json")]
        sizes = target.folder.sizes()
        with ThreadPoolExecutor(16) as pool:
            read = pool.map(lambda name: Record.from_json(records.read_json(name)), names)
            known = dict(zip((name.removesuffix(".json") for name in names), read, strict=True))
        return {name: record for name, record in known.items() if _holds(record, sizes)}
    target.folder.check_writable()
    records.write_json(PLAN, plan)
    return {}


def _holds(record: Record, sizes: dict[str, int]) -> bool:
    """Whether a finished file need not be made again. Args: sizes: of the folder's files."""
    # What could not be read, such as for want of a permission, may be readable by now.
    if any(entry["reason"].startswith(UNREADABLE) for entry in record.rejected):
        return False
    return record.file is None or sizes.get(record.file.name) == record.file.bytes


def _tasks(parts: list[Part]) -> list[Part]:
    """Join neighbouring parts to tasks of some length: to start one takes as long as 50 images."""
    tasks: list[Part] = []
    for part in parts:
        if tasks and _images(tasks[-1]) < TASK_IMAGES:
            tasks[-1] = [before + files for before, files in zip(tasks[-1], part, strict=True)]
        else:
            tasks.append(part)
    return tasks


def _images(part: Part) -> int:
    """How many images of the source a part needs."""
    return len(_positions(part))


def _positions(part: Part) -> list[int]:
    return sorted({p for files in part for file in files for p in range(file.start, file.stop)})


def _manifest(
    source: Source,
    about: dict[str, Any],
    target: Target,
    sizes: tuple[str, ...],
    files: list[File],
    records: dict[str, Record],
) -> Manifest:
    """Raises: UserError if a split is left without images."""
    splits = {}
    for split in source.splits():
        made = [records[file.name] for file in files if file.split == split]
        splits[split] = tuple(record.file for record in made if record.file)
        rejected = [entry for record in made for entry in record.rejected]
        if not splits[split] and rejected:
            raise UserError(
                f"no image for {split} could be read; the first, {rejected[0]['id']}: "
                f"{rejected[0]['reason']}"
            )
    return Manifest(
        height=target.image.height,
        width=target.image.width,
        attributes=source.attributes,
        splits=splits,
        source=about,
        crop=target.image.crop,
        rejected=tuple(entry for file in files for entry in records[file.name].rejected),
        decoded_for=sizes,
        ignored=tuple(source.ignored),
    )


def _too_many(manifest: Manifest, total: int, allowed: int) -> UserError:
    shown = [f"{entry['id']} ({entry['reason']})" for entry in manifest.rejected[:3]]
    count = len(manifest.rejected)
    return UserError(
        f"--max-rejected: {count:,} of {total:,} images cannot be read, {allowed:,} may be left "
        f"out: {', '.join(shown)}{', ...' if count > len(shown) else ''}; with "
        f"--max-rejected {count}, without --restart, the same command ends at once, as all else is "
        "done; or mend or remove them and start over with --restart"
    )


class Shard:
    """The images of one file, as they come."""

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
        """Raises: OSError."""
        written = None
        if self._ids:
            images = self._images[: len(self._ids)]
            values = np.array(self._values, np.int8).reshape(len(self._ids), len(self._values[0]))
            written = write_shard(self._target.folder, self.file.name, images, self._ids, values)
        record = Record(written, self._rejected)
        self._target.records.write_json(f"{self.file.name}.json", record.to_json())
        return record


def _count_attempt(source: Source, targets: Sequence[Target], part: Part, run: str) -> None:
    """Leave a mark that work on a part began. Raises: OSError if it has begun too often.

    Args: run: tells this preparation from earlier ones of the same dataset.
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
    # Nothing is lost with it, so it need not be written with the care that takes time.
    records.filesystem.open_output_stream(records.path_of(mark)).close()


def make_part(
    source: Source, ids: list[str], targets: Sequence[Target], part: Part
) -> list[dict[str, Record]]:
    """Load, fit and write the images of one part; what cannot be read is listed instead.

    Returns: for each target, the record of each file.
    Raises: OSError if a place fails.
    """
    made: list[dict[str, Record]] = [{} for _ in targets]
    waiting = [list(files) for files in part]
    shards: list[Shard | None] = [None for _ in targets]
    images = [target.image for target in targets]
    for position in _positions(part):
        for number, files in enumerate(waiting):
            if files and files[0].start == position:
                shards[number] = Shard(targets[number], files.pop(0))
        try:
            image, values = source.load(position)
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
    return made


def _run(
    source: Source, targets: Sequence[Target], parts: list[Part]
) -> Iterator[tuple[Part, list[dict[str, Record]]]]:
    """Make parts as a Ray Data pipeline; yields each with its records, when it is done.

    Raises: RunError if a place cannot be read or written any more.
    """
    if not parts:
        return
    import ray

    # Sent to each node once, not with each task: a list of 200,000 names and attributes is large.
    shared = ray.put((source, source.ids, targets, parts))
    key = shared.hex()

    def make(row: dict[str, Any]) -> dict[str, Any]:
        source, ids, targets, parts = _of_process(key, lambda: ray.get(shared))
        number = int(row["id"])
        try:
            _count_attempt(source, targets, parts[number], key)
            made = make_part(source, ids, targets, parts[number])
        except (OSError, pa.ArrowException) as error:
            # Raised here, it would arrive buried in Ray's own messages.
            return {"number": number, "made": "", "error": " ".join(str(error).split())}
        text = json.dumps([{n: r.to_json() for n, r in files.items()} for files in made])
        return {"number": number, "made": text, "error": ""}

    results = ray.data.range(len(parts), override_num_blocks=len(parts)).map(make)
    # Ray would keep processors free for operators that have nothing to do: of two, nearly one.
    results.context.op_resource_reservation_enabled = False
    for row in results.iter_rows():
        if row["error"]:
            places = ", ".join(target.folder.uri for target in targets)
            raise RunError(
                f"--out {places}: {row['error']}\nwhat is finished is kept; once that is mended, "
                "the same command, without --restart, goes on"
            )
        made = [
            {name: Record.from_json(values) for name, values in files.items()}
            for files in json.loads(row["made"])
        ]
        yield parts[int(row["number"])], made


_process: dict[str, Any] = {}


def _of_process(key: str, load: Callable[[], Any]) -> Any:
    """What all tasks share, unpacked once in each process."""
    if key not in _process:
        _process.clear()
        _process[key] = load()
    return _process[key]
