"""Reads event files that grow, are replaced and go away, and keeps little of them in memory.

TensorBoard's own reader checks each byte in Python and holds all pictures: a thousand runs take it
a quarter of an hour and ten gigabytes. Here pictures stay in their files until they are looked at.
"""

import os
import struct
from array import array
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard import data_compat, dataclass_compat
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.util.tensor_util import make_ndarray

from raygen.core.regular_file import open_regular

LENGTH, CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
FRAME_BYTES = LENGTH.size + 2 * CHECKSUM.size
"""Size of a record without its data: its length, and a checksum of that and one of the data."""
HEAD_BYTES = 64
AT_ONCE = 1_000
"""Events that are read before what is shown changes."""
MOST_POINTS = 2_000
"""Points of a time series from which on every second one is left out; the page shows 1,000."""
IMAGE_PARTS = 3
"""What an old-style image consists of in the newest form: its width, its height and the PNG."""


class Damaged(Exception):
    """A file's content is no sequence of records, from somewhere on."""


@dataclass(frozen=True)
class Place:
    """A record of an event file: its path, where it begins, and its size, in bytes."""

    path: str
    offset: int
    size: int


@dataclass
class EventFile:
    """An event file as far as it was read.

    Attributes:
        inode: the file's number on its disk.
        head: its first bytes, which hold the time at which it was begun.
        offset: where the first unread record begins.
        is_damaged: whether what follows cannot be read.
    """

    path: str
    inode: int
    head: bytes = b""
    offset: int = 0
    is_damaged: bool = False

    def is_in(self, found: Mapping[str, os.stat_result]) -> bool:
        """Whether the file is still there, and not another one of its name. Raises: OSError."""
        state = found.get(self.path)
        if state is None or state.st_ino != self.inode or state.st_size < self.offset:
            return False
        # Disks give the numbers of deleted files to new ones.
        with open_regular(self.path) as file:
            return file.read(len(self.head)) == self.head

    def read(self) -> Iterator[tuple[Event, Place]]:
        """Read what has been added. A record that is still being written waits for the next time.

        Raises: OSError.
        """
        with open_regular(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            self.head = self.head or file.read(HEAD_BYTES)
            file.seek(self.offset)
            while not self.is_damaged:
                try:
                    data = _record(file, size - self.offset)
                    if data is None:
                        return
                    place = Place(self.path, self.offset, len(data) + FRAME_BYTES)
                    event = Event.FromString(data)
                except (Damaged, DecodeError):
                    self.is_damaged = True
                    return
                self.offset += place.size
                yield event, place


# Most records have one of a few lengths.
_checksum = lru_cache(4096)(masked_crc32c)


def _record(file: Any, left: int) -> bytes | None:
    """Read a record's data. Args: left: bytes from here to the end of the file.

    Returns: None if it is not complete yet. Raises: Damaged; OSError.
    """
    if left < FRAME_BYTES:
        return None
    header = file.read(LENGTH.size + CHECKSUM.size)
    length = header[: LENGTH.size]
    if len(header) < LENGTH.size + CHECKSUM.size:
        return None
    if _checksum(length) != CHECKSUM.unpack(header[LENGTH.size :])[0]:
        raise Damaged
    [size] = LENGTH.unpack(length)
    if size > left - FRAME_BYTES:
        return None
    # The data's own checksum would take most of the time, and only guard against a failing disk.
    data: bytes = file.read(size + CHECKSUM.size)[:size]
    return data if len(data) == size else None


@dataclass
class Series:
    """What a run logged under one tag, in the order of its files.

    Attributes:
        metadata: of the first value.
        steps, times: of each point; times are Unix seconds.
        values: a number of each point; empty unless the series is of scalars.
        others: of other series, each point's array, or where it lies if it is of pictures.
        most: the most parts, such as pictures, of any point.

    Of a long series every second point is kept, then every fourth, and so on, and the last one.
    """

    metadata: SummaryMetadata
    steps: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    others: list[Any] = field(default_factory=list)
    most: int = 0
    _seen: int = 0
    _stride: int = 1
    _is_last_extra: bool = False

    @property
    def plugin(self) -> str:
        return str(self.metadata.plugin_data.plugin_name)

    @property
    def is_scalar(self) -> bool:
        return bool(self.metadata.data_class == DATA_CLASS_SCALAR)

    @property
    def is_blob(self) -> bool:
        return bool(self.metadata.data_class == DATA_CLASS_BLOB_SEQUENCE)

    def add(self, event: Event, value: Any, parts: int = 1) -> None:
        data = self.values if self.is_scalar else self.others
        if self._is_last_extra:
            for column in (self.steps, self.times, data):
                column.pop()
        self.steps.append(event.step)
        self.times.append(event.wall_time)
        data.append(value)
        self.most = max(self.most, parts)
        self._is_last_extra = self._seen % self._stride != 0
        self._seen += 1
        last = len(self.steps) - 1
        if last >= MOST_POINTS - 1 and not self._is_last_extra:
            self._keep([k for k in range(last + 1) if not k % 2 or k == last])
            self._stride *= 2
            self._is_last_extra = bool(last % 2)

    def cut(self, step: int) -> None:
        """Forget the points from a step on, because the run goes on before it."""
        kept = [k for k, known in enumerate(self.steps) if known < step]
        if len(kept) < len(self.steps):
            self._keep(kept)
            self._seen, self._is_last_extra = len(kept) * self._stride, False

    def _keep(self, kept: list[int]) -> None:
        self.steps = array("q", [self.steps[k] for k in kept])
        self.times = array("d", [self.times[k] for k in kept])
        self.values = array("d", [self.values[k] for k in kept if self.values])
        self.others = [self.others[k] for k in kept if self.others]


@dataclass
class RunEvents:
    """A run's event files, and the time series that they hold so far."""

    files: dict[str, EventFile] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    began_at: float | None = None
    _was_started: bool = False
    _migrated: dict[str, SummaryMetadata] = field(default_factory=dict)

    def update(
        self, found: Mapping[str, os.stat_result], lock: AbstractContextManager[Any]
    ) -> None:
        """Read what has been added.

        Args: found: the run's event files, by their paths; lock: held while the series change.
        Raises: OSError if a file cannot be read.
        """
        for path, state in sorted(found.items()):
            file = self.files.setdefault(path, EventFile(path, state.st_ino))
            events = file.read()
            while part := list(islice(events, AT_ONCE)):
                with lock:
                    for event, place in part:
                        self._take(event, place)

    def is_in(self, found: Mapping[str, os.stat_result]) -> bool:
        """Whether all that was read of the run is still there. Raises: OSError."""
        return all(file.is_in(found) for file in self.files.values())

    def _take(self, event: Event, place: Place) -> None:
        if self.began_at is None:
            self.began_at = event.wall_time
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            # Other files, such as the record of a run's options, may precede its first session.
            for series in self.series.values() if self._was_started else ():
                series.cut(event.step)
            self._was_started = True
        values = event.summary.value
        if len(values) == 1 and (known := self.series.get(values[0].tag)):
            # Most events are such, and to bring them to the newest form takes the most time.
            form = values[0].WhichOneof("value")
            if form == "simple_value" and known.is_scalar:
                known.add(event, values[0].simple_value)
                return
            if form == "image" and known.is_blob:
                known.add(event, place, IMAGE_PARTS)
                return
        # Whoever made the run may have written anything, of which TensorBoard's code makes any kind
        # of error.
        with suppress(Exception):
            for value in migrated(event, self._migrated):
                self._take_value(event, value, place)

    def _take_value(self, event: Event, value: Summary.Value, place: Place) -> None:
        series = self.series.get(value.tag)
        if series is None:
            # A copy, because a part of an event keeps all of it in memory, with its picture.
            metadata = SummaryMetadata.FromString(value.metadata.SerializeToString())
            series = self.series[value.tag] = Series(metadata)
        if series.is_blob:
            series.add(event, place, len(value.tensor.string_val))
            return
        array_ = make_ndarray(value.tensor)
        series.add(event, float(array_.item()) if series.is_scalar else array_)


def migrated(event: Event, metadata: dict[str, SummaryMetadata]) -> list[Summary.Value]:
    """An event's values as the newest TensorBoard writes them.

    Args: metadata: of the run's tags so far; changed.
    """
    newest = dataclass_compat.migrate_event(data_compat.migrate_event(event), metadata)
    return [value for each in newest for value in each.summary.value]


def parts_at(place: Place, tag: str) -> list[bytes]:
    """Read what one value of a record consists of, such as a picture's width, height and PNG.

    Raises: OSError, DecodeError or Damaged if it is not there any more; LookupError.
    """
    with open_regular(place.path) as file:
        file.seek(place.offset)
        data = _record(file, place.size)
    if data is None:
        raise Damaged
    values = migrated(Event.FromString(data), {})
    return next(list(value.tensor.string_val) for value in values if value.tag == tag)
