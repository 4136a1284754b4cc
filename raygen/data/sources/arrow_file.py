"""Files of Arrow's stream format, read a batch at a time, each checked before it is used.

They are not mapped into memory: one that becomes shorter while it is mapped ends the process.
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
class Batch:
    """Where a batch of rows lies in its file.

    Attributes: offset: in bytes; first: its first row; rows: how many it has.
    """

    offset: int
    first: int
    rows: int


@dataclass(frozen=True)
class ArrowFile:
    """A file whose batches have been found.

    Attributes:
        file: where it lies, as a folder would.
        scanned: tells what was found from what will be found after the file has changed.
    """

    file: Folder
    scanned: str
    schema: pa.Schema = field(compare=False)
    batches: tuple[Batch, ...] = field(compare=False)

    @property
    def rows(self) -> int:
        return sum(batch.rows for batch in self.batches)

    def patient(self, seconds: float) -> "ArrowFile":
        """The same file, for a job that outlasts its object store's outages."""
        return replace(self, file=self.file.patient(seconds))

    def cell(self, column: str, row: int) -> Any:
        """The value of a column in a row, as a Python object.

        Raises: UserError if the file has changed or cannot be read any more; StorageError if its
            object store does not answer any more.
        """
        batch = self.batches[bisect_right(self.batches, row, key=lambda b: b.first) - 1]
        with explained(self.file):
            found = self.file.patiently(lambda: _read_batch(self, batch))
            return found.column(column)[row - batch.first].as_py()


def scan(file: Folder, without: Callable[[pa.Schema], str]) -> tuple[ArrowFile, pa.Table]:
    """Read a file once, to find and check its batches.

    Args: without: says by the schema which column is not to be kept in memory.
    Returns: the file, and a table of all other columns.
    Raises: UserError if it is damaged, or cannot be read.
    """
    batches: list[Batch] = []
    kept: list[pa.RecordBatch] = []
    with explained(file), file.filesystem.open_input_file(file.path) as source:
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
            batches.append(Batch(offset, first, batch.num_rows))
            first += batch.num_rows
            kept.append(batch.drop_columns([left_out]))
        others = pa.Table.from_batches(kept, schema.remove(schema.get_field_index(left_out)))
    filled = tuple(batch for batch in batches if batch.rows)
    return ArrowFile(file, uuid.uuid4().hex, schema, filled), others


@functools.lru_cache(maxsize=1)
def _read_batch(file: ArrowFile, batch: Batch) -> pa.RecordBatch:
    """The batch that is being read. Sources are read in the order of their rows."""
    with file.file.filesystem.open_input_file(file.file.path) as source:
        source.seek(batch.offset)
        found = _checked(pa.ipc.read_message(source), file.schema)
    if found.num_rows != batch.rows:
        raise pa.ArrowInvalid("the file has changed")
    return found


def _checked(message: pa.Message, schema: pa.Schema) -> pa.RecordBatch:
    """Raises: pa.ArrowException."""
    batch = pa.ipc.read_record_batch(_required(message, "record batch"), schema)
    # Among much else, that no value lies outside the buffers: reading it might end the process.
    batch.validate(full=True)
    return batch


def _required(message: pa.Message, kind: str) -> pa.Message:
    """A message of the kind that is expected: reading another one so might end the process.

    Raises: pa.ArrowException.
    """
    if message.type != kind:
        raise pa.ArrowInvalid(f"found a message of type {message.type} in place of a {kind}")
    return message


@contextmanager
def explained(file: Folder) -> Iterator[None]:
    """Say which file it is that is damaged or cannot be read."""
    try:
        yield
    except UserError:
        raise
    # Of a damaged file, pyarrow raises whatever its Python part stumbles over.
    except (OSError, EOFError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{file.uri}: cannot be read ({error}); save the dataset again") from error
