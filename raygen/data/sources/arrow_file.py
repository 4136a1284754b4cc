"""Reads files in Arrow's stream format batch by batch, and checks each batch before its use.

They are not memory-mapped: a file that is truncated while it is mapped crashes the process.
"""

import functools
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from raygen.core.errors import UserError
from raygen.core.storage import Folder


@dataclass(frozen=True)
class BatchLocation:
    """The position of a batch of rows in its file.

    Attributes: offset: in bytes; first: number of its first row; rows: number of its rows.
    """

    offset: int
    first: int
    rows: int


@dataclass(frozen=True)
class ArrowFile:
    """A file whose batches have been found.

    Attributes:
        file: its location.
        scanned: unique id of the scan, so that a file that was replaced is not confused with it.
    """

    file: Folder
    scanned: str
    schema: pa.Schema = field(compare=False)
    batches: tuple[BatchLocation, ...] = field(compare=False)

    @property
    def rows(self) -> int:
        return sum(batch.rows for batch in self.batches)

    def patient(self, seconds: float) -> "ArrowFile":
        """The same file, for a job that outlasts its object store's outages."""
        return replace(self, file=self.file.patient(seconds))

    def cell(self, column: str, row: int) -> Any:
        """The value of a column in a row, as a Python object.

        Raises: UserError if the file has changed or can no longer be read; StorageError if its
            object store stops answering.
        """
        batch = self.batches[bisect_right(self.batches, row, key=lambda b: b.first) - 1]
        with explained(self.file):
            found = self.file.patiently(lambda: _read_batch(self, batch))
            return found.column(column)[row - batch.first].as_py()


def scan(file: Folder, without: Callable[[pa.Schema], str]) -> tuple[ArrowFile, pa.Table]:
    """Read a file once, to find and check its batches.

    Args: without: returns, for the schema, the name of the column to leave out of the table.
    Returns: the file, and a table of all other columns.
    Raises: UserError if the file is damaged or cannot be read.
    """
    batches: list[BatchLocation] = []
    kept: list[pa.RecordBatch] = []
    with explained(file), file.open_file() as source:
        schema = pa.ipc.read_schema(_required(pa.ipc.read_message(source), "schema"))
        if len(set(schema.names)) != len(schema.names):
            raise pa.ArrowInvalid("two columns have the same name")
        left_out = without(schema)
        first = 0
        while True:
            offset = source.tell()
            try:
                message = pa.ipc.read_message(source)
            except EOFError:
                break
            batch = _checked(message, schema)
            batches.append(BatchLocation(offset, first, batch.num_rows))
            first += batch.num_rows
            kept.append(batch.drop_columns([left_out]))
        others = pa.Table.from_batches(kept, schema.remove(schema.get_field_index(left_out)))
    filled = tuple(batch for batch in batches if batch.rows)
    return ArrowFile(file, uuid.uuid4().hex, schema, filled), others


@functools.lru_cache(maxsize=1)
def _read_batch(file: ArrowFile, batch: BatchLocation) -> pa.RecordBatch:
    """Read a batch. Only the last one is cached, because rows are read in order."""
    with file.file.open_file() as source:
        source.seek(batch.offset)
        found = _checked(pa.ipc.read_message(source), file.schema)
    if found.num_rows != batch.rows:
        raise pa.ArrowInvalid("the file has changed")
    return found


def _checked(message: pa.Message, schema: pa.Schema) -> pa.RecordBatch:
    """Decode and check a record batch. Raises: pa.ArrowException if it is not valid."""
    batch = pa.ipc.read_record_batch(_required(message, "record batch"), schema)
    # Full validation also finds offsets beyond the buffers, which could crash the process.
    batch.validate(full=True)
    return batch


def _required(message: pa.Message, kind: str) -> pa.Message:
    """Return a message if it has the expected type; decoding another could crash the process.

    Raises: pa.ArrowException if it has another type.
    """
    if message.type != kind:
        raise pa.ArrowInvalid(f"found a message of type {message.type} in place of a {kind}")
    return message


@contextmanager
def explained(file: Folder) -> Iterator[None]:
    """Turn read errors into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    # For a damaged file, the Python part of pyarrow may raise many kinds of errors.
    except (OSError, EOFError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{file.uri}: cannot be read ({error}); save the dataset again") from error
