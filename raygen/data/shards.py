"""Datasets on disk: `prepare` turns a source into Parquet shards and a manifest.

A dataset is a folder of `<split>-<number>.parquet` files and a `manifest.json`. Both are written
atomically and the manifest last, so a file that exists is complete, and so is a dataset whose
manifest exists.

Pixels are one `fixed_size_binary` column of height * width * 3 bytes, without compression or
dictionary: such a column is read 20 times faster than a list or tensor column and can be viewed
as a NumPy array without a copy. Every page carries a CRC, which each read checks.
"""

import dataclasses
import hashlib
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from raygen.config import ImageFormat, size_name
from raygen.data.sources import TRAIN, Source
from raygen.errors import ShardError, UserError
from raygen.storage import Folder

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CHANNELS = 3
SHARD_BYTES = 64 * 2**20
"""Aim for files of this size: large enough for object stores, small enough to spread."""
ROW_GROUP_BYTES = 2 * 2**20
"""The unit of one read, and so the grain in which the order of a dataset can be shuffled."""
FILES_PER_WORKER = 4

Progress = Callable[[int, int, float], None]
"""Called with images done, images in total, and images per second."""


@dataclass(frozen=True)
class ShardFile:
    """One Parquet file.

    Attributes:
        rows, bytes: its images and its size.
        sha256: of the whole file, in hexadecimal.
        row_groups: rows of each of its row groups, in order.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says of a dataset."""

    height: int
    width: int
    attributes: tuple[str, ...]
    splits: dict[str, tuple[ShardFile, ...]]
    source: dict[str, Any]
    crop: int
    rejected: tuple[dict[str, str], ...]

    @property
    def image_bytes(self) -> int:
        return self.height * self.width * CHANNELS

    @property
    def size(self) -> str:
        return size_name(self.height, self.width)

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """Of an array of so many images."""
        return count, self.height, self.width, CHANNELS

    def rows(self, split: str) -> int:
        return sum(file.rows for file in self.splits[split])

    @property
    def fingerprint(self) -> str:
        """Equal for datasets of equal content, wherever they lie."""
        digests = {split: [f.sha256 for f in files] for split, files in self.splits.items()}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        fixed = {"format_version": FORMAT_VERSION, "channels": CHANNELS, "dtype": "uint8"}
        return fixed | {"resize": "lanczos"} | dataclasses.asdict(self)

    @staticmethod
    def load(folder: Folder) -> "Manifest":
        """Read a dataset's manifest and check that its files are there in their sizes.

        Raises: ShardError if there is no dataset, or one that is incomplete or of another version.
        """
        try:
            values = folder.read_json(MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            raise ShardError(
                f"--data {folder.uri}: holds no {MANIFEST}; name a folder that jobs/prepare.py "
                "wrote (--out), or `drawn`"
            ) from None
        except OSError as error:
            raise ShardError(f"--data {folder.uri}: cannot be read ({error})") from error
        try:
            if values["format_version"] != FORMAT_VERSION:
                raise ShardError(
                    f"{folder.join(MANIFEST).uri}: format version {values['format_version']}, "
                    f"but this raygen reads version {FORMAT_VERSION}; prepare the dataset again"
                )
            manifest = Manifest(
                height=values["height"],
                width=values["width"],
                attributes=tuple(values["attributes"]),
                splits={
                    split: tuple(
                        ShardFile(**{**file, "row_groups": tuple(file["row_groups"])})
                        for file in files
                    )
                    for split, files in values["splits"].items()
                },
                source=values["source"],
                crop=values["crop"],
                rejected=tuple(values["rejected"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ShardError(
                f"{folder.join(MANIFEST).uri}: damaged ({error!r}); prepare the dataset again"
            ) from error
        sizes = folder.sizes()
        for file in (file for files in manifest.splits.values() for file in files):
            found = sizes.get(file.name)
            if found != file.bytes:
                problem = "is missing" if found is None else f"has {found:,} bytes"
                raise ShardError(
                    f"{folder.join(file.name).uri}: {problem}, the manifest says {file.bytes:,} "
                    "bytes; copy the dataset again or prepare it again"
                )
        return manifest


def fit_image(image: Image.Image, target: ImageFormat) -> np.ndarray:
    """An image as the model sees it: upright, RGB on white, cropped, resized with antialiasing.

    Returns: (height, width, 3) uint8.
    """
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    if target.crop:
        side = min(target.crop, *image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size != (target.width, target.height):
        image = ImageOps.fit(image, (target.width, target.height), Image.Resampling.LANCZOS)
    return np.asarray(image)


@dataclass(frozen=True)
class _Part:
    """One shard to write: which positions of the source go into which file."""

    name: str
    split: str
    start: int
    stop: int


def plan_parts(
    splits: dict[str, range], image_bytes: int, expected_workers: int
) -> tuple[_Part, ...]:
    """Cut each split into files of about `SHARD_BYTES`, at least four per expected worker."""
    parts = []
    for split, positions in splits.items():
        count = max(
            math.ceil(len(positions) * image_bytes / SHARD_BYTES),
            FILES_PER_WORKER * expected_workers,
        )
        count = min(count, len(positions))
        bounds = [positions.start + len(positions) * i // count for i in range(count + 1)]
        parts += [
            _Part(f"{split}-{i:05d}.parquet", split, bounds[i], bounds[i + 1]) for i in range(count)
        ]
    return tuple(parts)


def write_shard(folder: Folder, name: str, table: pa.Table, image_bytes: int) -> ShardFile:
    """Write one shard atomically. `table` holds the columns `image`, `id` and the attributes."""
    rows_per_group = max(1, ROW_GROUP_BYTES // image_bytes)
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=rows_per_group,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    data = sink.getvalue()
    folder.write_bytes(name, data)
    groups = pq.ParquetFile(pa.BufferReader(data)).metadata
    return ShardFile(
        name=name,
        rows=table.num_rows,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        row_groups=tuple(groups.row_group(i).num_rows for i in range(groups.num_row_groups)),
    )


def _make_shard(
    source: Source, ids: list[str], part: _Part, folder: Folder, target: ImageFormat
) -> tuple[ShardFile | None, list[dict[str, str]]]:
    """Load, fit and write the images of one part; what cannot be decoded is listed instead."""
    images: list[bytes] = []
    kept: list[str] = []
    values: list[list[int]] = []
    rejected: list[dict[str, str]] = []
    for position in range(part.start, part.stop):
        try:
            image, attributes = source.load(position)
            images.append(fit_image(image, target).tobytes())
        # Pillow reports broken files with all of these; struct.error and zlib.error among them.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            rejected.append({"id": ids[position], "split": part.split, "reason": reason})
            continue
        kept.append(ids[position])
        values.append(attributes)
    if not kept:
        return None, rejected
    image_bytes = target.height * target.width * CHANNELS
    columns: dict[str, pa.Array] = {
        "image": pa.array(images, pa.binary(image_bytes)),
        "id": pa.array(kept, pa.string()),
    }
    for column, name in enumerate(source.attributes):
        columns[name] = pa.array([row[column] for row in values], pa.int8())
    return write_shard(folder, part.name, pa.table(columns), image_bytes), rejected


def prepare(
    source: Source,
    folder: Folder,
    target: ImageFormat,
    expected_workers: int = 4,
    progress: Progress | None = None,
    restart: bool = False,
) -> Manifest:
    """Write a source as a dataset, in parallel over the Ray cluster.

    A folder that already holds the same dataset is left as it is.

    Args:
        target: size and crop of the images.
        expected_workers: of the training that will read it; there are at least 4 files for each.
        restart: replace the dataset that the folder holds.
    Returns: the manifest.
    Raises: UserError if the folder holds another dataset, cannot be written, or if no image of
        the training split could be decoded.
    """
    if restart:
        _delete_dataset(folder)
    present = find_prepared(source, folder, target)
    if present:
        return present
    folder.check_writable()
    ids = source.ids
    image_bytes = target.height * target.width * CHANNELS
    parts = plan_parts(source.splits(), image_bytes, expected_workers)

    total, done, started = len(ids), 0, time.monotonic()
    files: dict[int, ShardFile] = {}
    rejected: dict[int, list[dict[str, str]]] = {}
    for number, file, bad in _run_parts(source, ids, parts, folder, target):
        rejected[number] = bad
        if file:
            files[number] = file
        done += parts[number].stop - parts[number].start
        if progress:
            progress(done, total, done / (time.monotonic() - started))

    splits = {
        split: tuple(files[i] for i in sorted(files) if parts[i].split == split)
        for split in source.splits()
    }
    if not splits[TRAIN]:
        first = rejected[0][0] if rejected.get(0) else {"id": "?", "reason": "no images"}
        raise UserError(
            f"no image for training could be decoded; the first, {first['id']}: {first['reason']}"
        )
    manifest = Manifest(
        height=target.height,
        width=target.width,
        attributes=source.attributes,
        splits=splits,
        source=source.description(),
        crop=target.crop,
        rejected=tuple(entry for i in sorted(rejected) for entry in rejected[i]),
    )
    folder.write_json(MANIFEST, manifest.to_json())
    return manifest


def find_prepared(source: Source, folder: Folder, target: ImageFormat) -> Manifest | None:
    """The manifest of the folder's dataset if it is just this one; None if there is none.

    Raises: UserError if the folder holds another dataset.
    """
    if not folder.exists(MANIFEST):
        return None
    present = Manifest.load(folder)
    same_format = ImageFormat(present.height, present.width, present.crop) == target
    if present.source == source.description() and same_format:
        return present
    raise UserError(
        f"--out {folder.uri}: already holds another dataset ({present.size}, from "
        f"{present.source}); choose another folder, or replace it with --restart"
    )


def _delete_dataset(folder: Folder) -> None:
    """Delete the manifest, then the shards, and nothing else that the folder may hold."""
    for name in sorted(folder.names(), key=lambda name: name != MANIFEST):
        if name == MANIFEST or re.fullmatch(r"\w+-\d{5}\.parquet", name):
            folder.delete_file(name)


def _run_parts(
    source: Source, ids: list[str], parts: tuple[_Part, ...], folder: Folder, target: ImageFormat
) -> Iterator[tuple[int, ShardFile | None, list[dict[str, str]]]]:
    """Make the shards as a Ray Data pipeline; yields each part's number and result when done."""
    import ray

    # Sent to each node once, not with each task: a list of 200,000 names and attributes is large.
    shared = ray.put((source, ids, parts, folder, target))

    def make(row: dict[str, Any]) -> dict[str, Any]:
        source, ids, parts, folder, target = ray.get(shared)
        number = int(row["id"])
        file, rejected = _make_shard(source, ids, parts[number], folder, target)
        return {
            "number": number,
            "file": json.dumps(dataclasses.asdict(file) if file else None),
            "rejected": json.dumps(rejected),
        }

    results = ray.data.range(len(parts), override_num_blocks=len(parts)).map(make)
    for row in results.iter_rows():
        values = json.loads(row["file"])
        file = (
            ShardFile(**{**values, "row_groups": tuple(values["row_groups"])}) if values else None
        )
        yield int(row["number"]), file, json.loads(row["rejected"])
