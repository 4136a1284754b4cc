"""Datasets on disk: Parquet shards and their manifest.

A dataset is a folder of `<split>-<number>.parquet` files and a `manifest.json`. Both are written
atomically and the manifest last, so a file that exists is complete, and so is a dataset whose
manifest exists.

Pixels are one `fixed_size_binary` column of height * width * 3 bytes, without compression or
dictionary: such a column is read 20 times faster than a list or tensor column and can be viewed
as a NumPy array without a copy. Every page carries a CRC. The attributes, a signed byte each in the
manifest's order, share one such column: with a column for each of CelebA's 40, parsing a file's
footer would take longer than reading a row group.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.config.run import ImageFormat, size_name
from raygen.core.checked import Checked
from raygen.core.errors import ShardError
from raygen.core.storage import Folder
from raygen.data.shards.rows import Undecoded

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
CHANNELS = 3
MANIFEST_BYTES = 256 * 2**20
"""Largest manifest that is read, in bytes. It may list many images that were left out."""
MOST_PIXELS = 2**16
"""Largest height or width, in pixels; no JPEG exceeds it."""
_ADVICE = "copy the dataset again or prepare it again with --restart"
ROW_GROUP_BYTES = 2 * 2**20
"""Size of a row group, in bytes. Row groups are the units of reading, and so of shuffling."""


@dataclass(frozen=True)
class ShardFile:
    """One Parquet file.

    Attributes:
        rows: number of its images.
        bytes: its size in bytes.
        sha256: hash of the whole file, in hexadecimal.
        row_groups: number of rows of each row group, in order.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]

    @staticmethod
    def from_json(values: Checked, row_bytes: int) -> "ShardFile":
        """Read a file's entry in the manifest.

        Args: row_bytes: size of a row: an image, with its attributes if they are known.
        Raises: ShardError.
        """
        file = ShardFile(
            # The name must not lead out of the dataset's folder.
            name=values.entry("name").text(r"\w[\w.-]{,200}\.parquet", "the name of a shard"),
            rows=values.entry("rows").integer(at_least=1),
            bytes=values.entry("bytes").integer(),
            sha256=values.entry("sha256").text("[0-9a-f]{64}", "a SHA-256 in hexadecimal"),
            row_groups=tuple(n.integer(at_least=1) for n in values.entry("row_groups").items()),
        )
        if sum(file.row_groups) != file.rows:
            values.entry("rows").fail(f"the sum of its row groups, {sum(file.row_groups):,}")
        # As nothing is compressed, a file is at least as large as its rows are in memory.
        if file.bytes < file.rows * row_bytes:
            values.entry("bytes").fail(f"room for {file.rows:,} images of {row_bytes:,} bytes")
        return file


@dataclass(frozen=True)
class Manifest:
    """The content of a dataset's `manifest.json`.

    Attributes:
        height, width: size of the images, in pixels.
        attributes: names of the attributes.
        splits: the files of each split.
        source: description of the images' origin.
        crop: side of the centred square that was cut out of each image first, in pixels; 0: none.
        rejected: id, split and reason of each image that was left out.
        decoded_for: the sizes that were prepared together. They matter, because each JPEG is
            decoded once, at the smallest scale that suffices for the largest of them.
        ignored: names of other files that lay beside the images.
        originals: the images themselves where no shards hold them; then there is no
            `manifest.json` either, and the files and their hashes here stand for the originals.
    """

    height: int
    width: int
    attributes: tuple[str, ...]
    splits: dict[str, tuple[ShardFile, ...]]
    source: dict[str, Any]
    crop: int
    rejected: tuple[dict[str, str], ...]
    decoded_for: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    originals: Undecoded | None = dataclasses.field(default=None, compare=False)

    @property
    def image_bytes(self) -> int:
        return self.height * self.width * CHANNELS

    @property
    def image(self) -> ImageFormat:
        return ImageFormat(self.height, self.width, self.crop)

    @property
    def size(self) -> str:
        return size_name(self.height, self.width)

    def patient(self, seconds: float) -> "Manifest":
        """The same dataset; originals are retried for so many seconds during outages."""
        originals = self.originals and self.originals.patient(seconds)
        return dataclasses.replace(self, originals=originals)

    def telling(self, rejected: Callable[[dict[str, str], int], None]) -> "Manifest":
        """The same dataset; `rejected` is called when an original cannot be read."""
        originals = self.originals and self.originals.telling(rejected)
        return dataclasses.replace(self, originals=originals)

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """Shape of an array of `count` images."""
        return count, self.height, self.width, CHANNELS

    @property
    def files(self) -> list[ShardFile]:
        """The files of all splits."""
        return [file for files in self.splits.values() for file in files]

    def rows(self, split: str) -> int:
        return sum(file.rows for file in self.splits.get(split, ()))

    @property
    def fingerprint(self) -> str:
        """Hash of the content, equal for equal datasets in different places."""
        digests = {split: [f.sha256 for f in files] for split, files in self.splits.items()}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        fixed = {"format_version": FORMAT_VERSION, "channels": CHANNELS, "dtype": "uint8"}
        known = dataclasses.asdict(dataclasses.replace(self, originals=None))
        del known["originals"]
        return fixed | {"resize": "lanczos"} | known

    @staticmethod
    def from_json(values: Checked) -> "Manifest":
        """Read what `to_json` wrote. Raises: ShardError."""
        version = values.entry("format_version").integer()
        if version != FORMAT_VERSION:
            raise ShardError(
                f"{values.file}: format version {version}, but this raygen reads version "
                f"{FORMAT_VERSION}; prepare the dataset again with --restart"
            )
        height = values.entry("height").integer(1, MOST_PIXELS)
        width = values.entry("width").integer(1, MOST_PIXELS)
        attributes = values.entry("attributes").texts()
        row_bytes = height * width * CHANNELS + len(attributes)
        splits = {
            split: tuple(ShardFile.from_json(f, row_bytes) for f in files.items())
            for split, files in values.entry("splits").entries().items()
        }
        source = values.entry("source")
        for name, value in source.entries().items():
            if name in ("kind", "images"):
                value.text()
            elif name in ("count", "seed"):
                value.integer()
        manifest = Manifest(
            height=height,
            width=width,
            attributes=attributes,
            splits=splits,
            source=source.value,
            crop=values.entry("crop").integer(0, MOST_PIXELS),
            rejected=rejections(values.entry("rejected")),
            decoded_for=_optional_texts(values, "decoded_for"),
            ignored=_optional_texts(values, "ignored"),
        )
        names = [file.name for file in manifest.files]
        if len(set(names)) != len(names):
            values.entry("splits").refuse("splits names a file twice")
        if len(set(attributes)) != len(attributes):
            values.entry("attributes").refuse("attributes has a name twice")
        return manifest

    @staticmethod
    def load(folder: Folder, option: str = "--data") -> "Manifest":
        """Read a dataset's manifest, and check that its files exist and have the right sizes.

        Args: option: the option that named the folder, for messages.
        Raises: ShardError if there is no dataset, or one that is incomplete or of another version.
        """
        try:
            values = folder.read_checked(MANIFEST, ShardError, _ADVICE, MANIFEST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            if folder.is_file():
                raise ShardError(
                    f"{option} {folder.uri}: is a file; name the folder of a dataset, which "
                    f"holds a {MANIFEST}"
                ) from None
            inside = [n for n in folder.names() if folder.join(n).exists(MANIFEST)]
            advice = "name a folder that jobs/prepare.py wrote (--out)"
            if inside:
                advice = f"name one of the datasets in it: {', '.join(inside)}"
            raise ShardError(f"{option} {folder.uri}: holds no {MANIFEST}; {advice}") from None
        manifest = Manifest.from_json(values)
        sizes = folder.sizes()
        for file in manifest.files:
            found = sizes.get(file.name)
            if found != file.bytes:
                problem = "is missing" if found is None else f"has {found:,} bytes"
                raise ShardError(
                    f"{folder.join(file.name).uri}: {problem}, the manifest says {file.bytes:,} "
                    "bytes; copy the dataset again or prepare it again with --restart"
                )
        return manifest


def rejections(values: Checked) -> tuple[dict[str, str], ...]:
    """Read the id, split and reason of each image that was left out. Raises: ShardError."""
    known = ("id", "split", "reason")
    return tuple({name: v.entry(name).text() for name in known} for v in values.items())


def _optional_texts(values: Checked, name: str) -> tuple[str, ...]:
    found = values.optional(name)
    return found.texts() if found else ()


def write_shard(
    folder: Folder, name: str, images: np.ndarray, ids: Sequence[str], attributes: np.ndarray
) -> ShardFile:
    """Write one shard atomically.

    Args:
        images: (N, height, width, 3) or (N, image_bytes) uint8.
        ids: the images' names.
        attributes: (N, attributes) int8: 1 true, -1 false, 0 unknown; there may be none.
    Returns: the file's entry for the manifest.
    """
    pixels = images.reshape(len(images), -1)
    columns = {"image": as_column(pixels), "id": pa.array(ids, pa.string())}
    if attributes.shape[1]:
        columns["attributes"] = as_column(attributes.astype(np.int8).view(np.uint8))
    table, image_bytes = pa.table(columns), pixels.shape[1]
    rows_per_group = max(1, ROW_GROUP_BYTES // image_bytes)
    sink = pa.BufferOutputStream()
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
    groups = pq.read_metadata(pa.BufferReader(data))
    return ShardFile(
        name=name,
        rows=table.num_rows,
        bytes=data.size,
        sha256=hashlib.sha256(data).hexdigest(),
        row_groups=tuple(groups.row_group(i).num_rows for i in range(groups.num_row_groups)),
    )


def as_column(values: np.ndarray) -> pa.FixedSizeBinaryArray:
    """(N, bytes) uint8 -> a column of N values, without a copy if the array is contiguous."""
    flat = np.ascontiguousarray(values)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(flat.shape[1]), len(flat), [None, pa.py_buffer(flat)]
    )


def as_array(column: pa.ChunkedArray) -> np.ndarray:
    """A fixed-size binary column of N values -> (N, bytes) uint8, a view where possible."""
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    size = values.type.byte_width
    flat = np.frombuffer(values.buffers()[1], np.uint8)
    return flat[values.offset * size : (values.offset + len(values)) * size].reshape(-1, size)
