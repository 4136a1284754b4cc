"""The log of a run: TensorBoard events, `metrics.jsonl` and sample pictures."""

import math
import os
import shutil
import tempfile
import time
from types import TracebackType

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from torch.utils.tensorboard import FileWriter, SummaryWriter

from raygen.core.history import Measurement, cut_history, part_name, part_number
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.evaluation.grids import encode_png
from raygen.evaluation.metrics import metric_of

SAMPLES = "samples"
"""Folder of a run's pictures."""
PART_BYTES = 2**20
"""Size of a log's file in an object store from which on another one follows it."""


class RunLog:
    """Logs a run's scalars and pictures by the number of images seen.

    Event files and `metrics.jsonl` are appended to, which object stores do not support: for those
    they are written to the local disk, and what has changed is copied as a whole at each `flush`.
    So that this takes no longer as a run goes on, files of more than `PART_BYTES` are followed by
    new ones.
    """

    def __init__(self, folder: Folder, images_seen: int) -> None:
        """
        Args:
            folder: the run's folder.
            images_seen: position at which the run goes on; later events, of an earlier session that
                was cut off, are hidden, and later lines of `metrics.jsonl` are dropped.
        Raises: UserError if `metrics.jsonl` is damaged.
        """
        last, kept = cut_history(folder, images_seen)
        self._folder = folder
        self._described: set[str] = set()
        self._local = folder.path if folder.is_local else tempfile.mkdtemp(prefix="raygen")
        self._copied: dict[str, int] = {}
        self._history = os.path.join(self._local, last)
        self._open_events(images_seen + 1 if images_seen else 0)
        # The new file replaces the old one only when it is complete, so that nothing gets lost.
        Folder.at(self._local).write_bytes(last, kept)

    def _open_events(self, purge_step: int | None = None) -> None:
        self._writer = SummaryWriter(self._local, purge_step=purge_step, flush_secs=10)
        self._events_began = int(time.time())

    def text(self, tag: str, text: str) -> None:
        self._writer.add_text(tag, text)

    def scalars(self, values: dict[str, float], at: Position) -> None:
        """Log values by tag at a position of the run."""
        line = Measurement(at.global_step, at.images_seen, at.seconds, values).to_line()
        # Reopened each time, so that a killed process leaves no lines in a buffer.
        with open(self._history, "ab") as history:
            history.write(line)
        file: FileWriter = self._writer._get_file_writer()
        for tag, value in values.items():
            # TensorBoard reads the description from a tag's first value.
            about = None
            if tag not in self._described:
                about = SummaryMetadata(summary_description=metric_of(tag).description)
                self._described.add(tag)
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value, metadata=about)])
            file.add_summary(summary, at.images_seen)

    def picture(self, name: str, pixels: np.ndarray, images_seen: int) -> None:
        """Log a picture, (height, width, 3) uint8, and keep it as a PNG in `samples/`."""
        self._writer.add_image(name, pixels, images_seen, dataformats="HWC")
        self._folder.join(SAMPLES).write_bytes(f"{name}-{images_seen:09d}.png", encode_png(pixels))
        self._begin_parts()

    def flush(self) -> None:
        self._writer.flush()
        with open(self._history, "ab") as history:
            # A checkpoint may follow; the measurements before it have to be on the disk first.
            os.fsync(history.fileno())
        if not self._folder.is_local:
            self._begin_parts()
            self._copy()

    def _begin_parts(self) -> None:
        """Begin new files in place of long ones, where those are copied as a whole."""
        if self._folder.is_local:
            return
        if os.path.getsize(self._history) > PART_BYTES:
            number = part_number(os.path.basename(self._history)) + 1
            self._history = os.path.join(self._local, part_name(number))
            with open(self._history, "xb"):
                pass
        events: FileWriter = self._writer._get_file_writer()
        events.flush()
        # TensorBoard reads files in the order of their names, which begin with the second.
        is_later = int(time.time()) > self._events_began
        if is_later and os.path.getsize(events.event_writer._file_name) > PART_BYTES:
            self._writer.close()
            self._open_events()

    def _copy(self) -> None:
        """Copy the files that have changed to the storage."""
        with os.scandir(self._local) as entries:
            files = sorted(entries, key=lambda entry: entry.stat().st_mtime_ns)
        # A reader goes on to the next file once it is there, so those before it come first.
        for entry in files:
            size = entry.stat().st_size
            if self._copied.get(entry.name) != size:
                with open(entry.path, "rb") as file:
                    self._folder.write_bytes(entry.name, file.read())
                self._copied[entry.name] = size

    def close(self, flush: bool = True) -> None:
        """Close the log. Args: flush: whether to write the latest entries to the storage."""
        if flush:
            self.flush()
        self._writer.close()
        if not self._folder.is_local:
            shutil.rmtree(self._local, ignore_errors=True)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error, such as an outage, the run goes on from its last checkpoint anyway.
        self.close(flush=error is None)


def write_events(folder: Folder, values: dict[str, float], images_seen: int) -> None:
    """Write scalars, by tag, into TensorBoard events of their own in a folder.

    Values that are not finite are left out. Raises: StorageError if they cannot be written.
    """
    with tempfile.TemporaryDirectory() as place:
        writer = FileWriter(place)
        for tag, value in values.items():
            if math.isfinite(value):
                about = SummaryMetadata(summary_description=metric_of(tag).description)
                found = Summary.Value(tag=tag, simple_value=value, metadata=about)
                writer.add_summary(Summary(value=[found]), images_seen)
        writer.close()
        for name in os.listdir(place):
            with open(os.path.join(place, name), "rb") as file:
                folder.write_bytes(name, file.read())
