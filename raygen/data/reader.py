"""Images and attributes out of a dataset's shards, by row number."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.data.shards import Manifest, ShardFile
from raygen.errors import ShardError, UserError
from raygen.storage import Folder

HELD_OUT_BATCH = 64
"""Images that are measured at once; small enough for the largest presets on small GPUs."""

IMAGE = ["image"]
_checked: set[tuple[str, str, int]] = set()
"""Row groups whose checksums this process has checked: file, its SHA-256, number in the file."""


@dataclass(frozen=True)
class ShardReader:
    """Reads rows of a split by their numbers in the manifest's order. Threads may share it."""

    folder: Folder
    manifest: Manifest
    split: str

    @functools.cached_property
    def _groups(self) -> list[tuple[ShardFile, int]]:
        """Each row group's file, and its number in the file."""
        files = self.manifest.splits[self.split]
        return [(file, number) for file in files for number in range(len(file.row_groups))]

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """(row groups,) int64: the number of each row group's first row."""
        return np.cumsum([0, *(file.row_groups[number] for file, number in self._groups)][:-1])

    def places(self, rows: np.ndarray) -> dict[int, np.ndarray]:
        """Where rows lie: row group -> positions in `rows` of those that it holds."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        by_group = np.argsort(groups, kind="stable")
        present, begins = np.unique(groups[by_group], return_index=True)
        # Without rows there are no groups, but `split` would make one.
        parts = np.split(by_group, begins[1:]) if len(rows) else []
        return dict(zip(present.tolist(), parts, strict=True))

    def group(self, group: int) -> np.ndarray:
        """(rows, image_bytes) uint8: the images of a row group, not to be written to.

        Raises: ShardError if its file is missing, damaged, or other than the manifest says.
        """
        file, number = self._groups[group]
        column = self._read(file, number, IMAGE).column("image").combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
        return as_array(column, self.manifest.image_bytes)

    def row_in_group(self, rows: np.ndarray, group: int) -> np.ndarray:
        """Numbers of rows in the row group that holds them."""
        inside: np.ndarray = rows - self._starts[group]
        return inside

    def images(self, rows: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8: the images of these row numbers, in order. Raises: ShardError."""
        images = np.empty((len(rows), self.manifest.image_bytes), np.uint8)
        for group, positions in self.places(rows).items():
            images[positions] = self.group(group)[self.row_in_group(rows[positions], group)]
        return images.reshape(self.manifest.shape(len(rows)))

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

    def labels(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """The id and all attributes of these row numbers, in order."""
        columns = ["id", *self.manifest.attributes]
        found: dict[int, dict[str, Any]] = {}
        for group, positions in self.places(rows).items():
            file, number = self._groups[group]
            inside = self.row_in_group(rows[positions], group)
            values = self._read(file, number, columns).take(inside).to_pylist()
            found |= dict(zip(positions.tolist(), values, strict=True))
        return [found[position] for position in range(len(rows))]

    def _values(self, column: str) -> list[Any]:
        values: list[Any] = []
        for file in self.manifest.splits[self.split]:
            with self._explained(file):
                found = self._open(file, True).read([column], use_threads=False)
            values += found.column(column).to_pylist()
        return values

    def _read(self, file: ShardFile, number: int, columns: list[str]) -> pa.Table:
        """Columns of a row group."""
        key = (self.folder.path_of(file.name), file.sha256, number)
        # Once for each process: checking takes longer than reading.
        check = columns != IMAGE or key not in _checked
        with self._explained(file):
            parquet = self._open(file, check)
            found = parquet.metadata.row_group(number).num_rows
            if found != file.row_groups[number]:
                self._fail(
                    file, f"row group {number} has {found} rows, not {file.row_groups[number]}"
                )
            table = parquet.read_row_group(number, columns, use_threads=False)
        if columns == IMAGE:
            _checked.add(key)
        return table

    def _open(self, file: ShardFile, check: bool) -> pq.ParquetFile:
        """A shard. Not kept: one that is kept, keeps what it read last."""
        where = self.folder.join(file.name)
        return pq.ParquetFile(
            where.path,
            filesystem=where.filesystem,
            metadata=_metadata(where, file.sha256),
            page_checksum_verification=check,
        )

    @contextmanager
    def _explained(self, file: ShardFile) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            self._fail(file, "is missing")
        except (OSError, pa.ArrowException, KeyError, IndexError) as error:
            self._fail(file, f"is damaged or cannot be read ({error})")

    def _fail(self, file: ShardFile, problem: str) -> NoReturn:
        raise ShardError(
            f"{self.folder.join(file.name).uri}: {problem}; copy the dataset again or prepare it "
            "again with --restart"
        )


@functools.lru_cache(maxsize=64)
def _metadata(file: Folder, sha256: str) -> pq.FileMetaData:
    """A shard's footer. With CelebA's 40 attributes, one takes a megabyte and a millisecond.

    Args: sha256: tells it from another at the same place.
    """
    return pq.read_metadata(file.path, filesystem=file.filesystem)


def as_array(images: pa.FixedSizeBinaryArray, image_bytes: int) -> np.ndarray:
    """(N, image_bytes) uint8 view of a fixed-size binary column."""
    start = images.offset * image_bytes
    flat = np.frombuffer(images.buffers()[1], np.uint8)
    return flat[start : start + len(images) * image_bytes].reshape(-1, image_bytes)


@dataclass(frozen=True)
class HeldOut:
    """The first images of a split, always in the same batches.

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
