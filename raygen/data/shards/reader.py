"""Reads images and attributes from a dataset's shards by row number."""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.core.errors import ShardError, UserError
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest, ShardFile, as_array
from raygen.data.shards.rows import RowGroup, Rows

HELD_OUT_BATCH = 64
"""Batch size of validation; small enough for the largest presets on small GPUs."""

LOCAL_THREADS, REMOTE_THREADS = 2, 16
"""Numbers of threads that read row groups. Object stores are slow to answer, but answer many
requests concurrently."""
ATTRIBUTES = "attributes"
MOST_COLUMNS = 3
ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED"}
"""Encodings that `write_shard` produces; others could expand when they are read."""
_checked: set[tuple[str, str, int]] = set()
"""Row groups that this process has verified, by file, its SHA-256, and number in the file."""


class Stored(Protocol):
    """A copy of a dataset's rows that is faster to read than its files (see object_store.py)."""

    def group(self, split: str, number: int) -> RowGroup:
        """The row group of a split with this number in the manifest's order."""


@dataclass(frozen=True)
class ShardReader:
    """Reads rows of a split by their numbers in the manifest's order. Threads may share it.

    Attributes: stored: a copy of the rows to read instead of the files, if there is one.
    """

    folder: Folder
    manifest: Manifest
    split: str
    stored: Stored | None = None

    @functools.cached_property
    def _groups(self) -> list[tuple[ShardFile, int]]:
        """The file of each row group, and the group's number in that file."""
        files = self.manifest.splits.get(self.split, ())
        return [(file, number) for file in files for number in range(len(file.row_groups))]

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """(row groups,) int64: the number of each row group's first row."""
        return np.cumsum([0, *(file.row_groups[number] for file, number in self._groups)][:-1])

    def places(self, rows: np.ndarray) -> dict[int, np.ndarray]:
        """Group rows by row group: for each group, the positions in `rows` of its rows."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        by_group = np.argsort(groups, kind="stable")
        present, begins = np.unique(groups[by_group], return_index=True)
        # np.split returns one part even if there are no rows.
        parts = np.split(by_group, begins[1:]) if len(rows) else []
        return dict(zip(present.tolist(), parts, strict=True))

    def group(self, group: int) -> RowGroup:
        """The images and attributes of a row group.

        Raises: ShardError if its file is missing, damaged, or differs from the manifest.
        """
        if self.stored:
            return self.stored.group(self.split, group)
        if self.manifest.originals:
            return self.manifest.originals.group(self.split, group)
        file, number = self._groups[group]
        has_attributes = bool(self.manifest.attributes)
        found = self._read(file, number, ["image", ATTRIBUTES] if has_attributes else ["image"])
        images = as_array(found["image"])
        if not has_attributes:
            return RowGroup(images, np.empty((len(images), 0), np.int8))
        return RowGroup(images, as_array(found[ATTRIBUTES]).view(np.int8))

    def row_in_group(self, rows: np.ndarray, group: int) -> np.ndarray:
        """Positions of rows inside their row group. Args: group: the group that holds them all."""
        inside: np.ndarray = rows - self._starts[group]
        return inside

    def read(self, rows: np.ndarray) -> Rows:
        """Read the images and attributes of these rows, in order.

        Args: rows: row numbers, (N,) int64.
        Raises: ShardError.
        """
        images = np.empty((len(rows), self.manifest.image_bytes), np.uint8)
        attributes = np.empty((len(rows), len(self.manifest.attributes)), np.int8)
        # The rows that were really read, which a stream compares with its plan.
        arrived = np.full(len(rows), -1)

        def fill(place: tuple[int, np.ndarray]) -> None:
            group, positions = place
            found, inside = self.group(group), self.row_in_group(rows[positions], group)
            images[positions] = found.images[inside]
            attributes[positions] = found.attributes[inside]
            arrived[positions] = rows[positions]

        places = self.places(rows).items()
        if self.folder.is_local or self.stored or len(places) < 2:
            for place in places:
                fill(place)
        else:
            with ThreadPoolExecutor(REMOTE_THREADS, "read") as pool:
                for done in [pool.submit(fill, place) for place in places]:
                    done.result()
        return Rows(images.reshape(self.manifest.shape(len(rows))), attributes, arrived)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Read only the images of these rows, in order: (N, H, W, 3) uint8. Raises: ShardError."""
        return self.read(rows).images

    def ids(self) -> list[str]:
        """The id of every row of the split, in row order."""
        return [name for column in self._columns("id") for name in column.to_pylist()]

    def attribute(self, name: str) -> np.ndarray:
        """An attribute of every row of the split, in row order: 1 true, -1 false, 0 unknown.

        Raises: UserError if the dataset has no such attribute.
        """
        known = self.manifest.attributes
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"--attribute {name}: the dataset {self.folder.uri} lacks it; {has}")
        return self.attributes()[name]

    def attributes(self) -> dict[str, np.ndarray]:
        """All attributes of every row of the split by name, as `attribute` returns one."""
        known = self.manifest.attributes
        if not known:
            return {}
        parts = [as_array(c).view(np.int8) for c in self._columns(ATTRIBUTES)]
        values = np.concatenate([np.empty((0, len(known)), np.int8), *parts])
        return dict(zip(known, values.T, strict=True))

    def labels(self, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Read the ids of these rows, in order, and all their attributes, (N, attributes) int8."""
        if self.manifest.originals:
            return self.manifest.originals.labels(self.split, rows)
        ids = [""] * len(rows)
        values = np.zeros((len(rows), len(self.manifest.attributes)), np.int8)
        columns = ["id", ATTRIBUTES] if self.manifest.attributes else ["id"]
        for group, positions in self.places(rows).items():
            found = self._read(*self._groups[group], columns)
            inside = self.row_in_group(rows[positions], group)
            for position, row in zip(positions.tolist(), inside.tolist(), strict=True):
                ids[position] = found["id"][row].as_py()
            if self.manifest.attributes:
                values[positions] = as_array(found[ATTRIBUTES]).view(np.int8)[inside]
        return ids, values

    def _columns(self, name: str) -> Iterator[pa.ChunkedArray]:
        """Yield a column of each file."""
        for file in self.manifest.splits.get(self.split, ()):

            def read(file: ShardFile = file) -> pa.Table:
                parquet = self._open(file, True)
                self._check_groups(file, parquet.metadata)
                return parquet.read([name], use_threads=False)

            with self._explained(file):
                table = self.folder.patiently(read)
            yield self._column(file, table, name, file.rows)

    def _read(self, file: ShardFile, number: int, columns: list[str]) -> dict[str, pa.ChunkedArray]:
        """Read columns of a row group of a file, by name."""
        key = (self.folder.path_of(file.name), file.sha256, number)
        # Check once per process, because checking takes longer than reading.
        check = "image" not in columns or key not in _checked

        def read() -> pa.Table:
            parquet = self._open(file, check)
            if check:
                self._check_groups(file, parquet.metadata)
            return parquet.read_row_group(number, columns, use_threads=False)

        with self._explained(file):
            table = self.folder.patiently(read)
        rows = file.row_groups[number]
        found = {name: self._column(file, table, name, rows, check) for name in columns}
        if "image" in columns:
            _checked.add(key)
        return found

    def _check_groups(self, file: ShardFile, metadata: pq.FileMetaData) -> None:
        """Raises: ShardError if a file's row groups differ from the manifest."""
        count = metadata.num_row_groups
        if count != len(file.row_groups):
            self._fail(file, f"has {count} row groups, not {len(file.row_groups)}")
        if metadata.num_columns > MOST_COLUMNS:
            self._fail(file, f"has {metadata.num_columns} columns, not {MOST_COLUMNS} at most")
        for number, rows in enumerate(file.row_groups):
            group = metadata.row_group(number)
            if group.num_rows != rows:
                self._fail(file, f"row group {number} has {group.num_rows} rows, not {rows}")
            for place in range(group.num_columns):
                column = group.column(place)
                # Compressed data could expand to many times the size of the file.
                if column.compression != "UNCOMPRESSED" or not ENCODINGS.issuperset(
                    column.encodings
                ):
                    self._fail(file, f"its column {column.path_in_schema} is compressed")

    def _column(
        self, file: ShardFile, table: pa.Table, name: str, rows: int, check: bool = True
    ) -> pa.ChunkedArray:
        """A column of a table that was read from a file, checked.

        Args:
            rows: expected number of rows.
            check: whether to check all values, too, which takes longer than reading them.
        Raises: ShardError if the column is not as `write_shard` writes it.
        """
        types = {
            "image": pa.binary(self.manifest.image_bytes),
            "id": pa.string(),
            ATTRIBUTES: pa.binary(len(self.manifest.attributes)),
        }
        if table.column_names.count(name) != 1:
            self._fail(file, f"has no column {name}, or several")
        column = table.column(name)
        if column.type != types[name]:
            self._fail(file, f"its column {name} is of type {column.type}, not {types[name]}")
        if len(column) != rows or column.null_count:
            missing = f"{len(column)} rows, {column.null_count} of them empty"
            self._fail(file, f"its column {name} has {missing}, not {rows}")
        with self._explained(file):
            # Full validation also checks that texts are UTF-8, which the Parquet reader does not.
            column.validate(full=name != "image")
        if name == ATTRIBUTES and check and not _are_truths(as_array(column)):
            self._fail(file, "has attributes other than -1, 0 and 1")
        return column

    def _open(self, file: ShardFile, check: bool) -> pq.ParquetFile:
        """Open a shard. It is not cached, because an open ParquetFile keeps what it read last."""
        where = self.folder.join(file.name)
        return pq.ParquetFile(
            where.open_file(),
            metadata=_metadata(where, file.sha256),
            page_checksum_verification=check,
        )

    @contextmanager
    def _explained(self, file: ShardFile) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            self._fail(file, "is missing")
        except ShardError:
            raise
        # For a damaged file, the Python part of pyarrow may raise many kinds of errors.
        except (OSError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
            self._fail(file, f"is damaged or cannot be read ({error})")

    def _fail(self, file: ShardFile, problem: str) -> NoReturn:
        raise ShardError(
            f"{self.folder.join(file.name).uri}: {problem}; copy the dataset again or prepare it "
            "again with --restart"
        )


def _are_truths(values: np.ndarray) -> bool:
    return bool(np.isin(values.view(np.int8), (-1, 0, 1)).all())


@functools.lru_cache(maxsize=1024)
def _metadata(file: Folder, sha256: str) -> pq.FileMetaData:
    """Read a shard's footer, of about 0.1 MB. Args: sha256: makes the cache notice a new file."""
    with file.open_file() as opened:
        return pq.read_metadata(opened)


@dataclass(frozen=True)
class HeldOut:
    """The first images of a split, always in the same batches.

    Attributes: count: number of images, at most as many as the split has.
    """

    reader: ShardReader
    count: int

    @staticmethod
    def of(
        folder: Folder, manifest: Manifest, split: str, count: int, stored: Stored | None = None
    ) -> "HeldOut":
        """The first `count` images of a split, or as many as there are."""
        reader = ShardReader(folder, manifest, split, stored)
        return HeldOut(reader, min(count, manifest.rows(split)))

    def batches(self, rank: int = 0, world_size: int = 1) -> Iterator[tuple[int, Rows]]:
        """Yield one worker's share of the batches.

        Yields: (number, rows): the batch's number among those of all workers, and its rows, at
            most `HELD_OUT_BATCH`.
        Raises: ShardError.
        """
        for number in range(rank, -(-self.count // HELD_OUT_BATCH), world_size):
            first = number * HELD_OUT_BATCH
            yield number, self.read(first, first + HELD_OUT_BATCH)

    def read(self, first: int, stop: int) -> Rows:
        """Read rows [first, stop), or fewer at the end. Raises: ShardError."""
        return self.reader.read(np.arange(first, min(stop, self.count)))
