"""What a run logs: TensorBoard events, `metrics.jsonl` and sample pictures."""

import os
import shutil
import tempfile
from types import TracebackType

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from torch.utils.tensorboard import FileWriter, SummaryWriter

from raygen.core.history import METRICS, Measurement, lines_up_to
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.evaluation.metrics import metric_of
from raygen.evaluation.pictures import encode_png

SAMPLES = "samples"
"""Folder of a run's pictures."""


class RunLog:
    """Writes a run's scalars and pictures against the number of images seen.

    Event files and `metrics.jsonl` are appended to, which object stores cannot do: there, they are
    written on the local disk and copied whole at each `flush`.
    """

    def __init__(self, folder: Folder, images_seen: int) -> None:
        """
        Args:
            folder: the run's.
            images_seen: where the run goes on; events beyond it, of an earlier session that was
                cut off, are hidden, and lines of `metrics.jsonl` beyond it are dropped.
        Raises: UserError if `metrics.jsonl` is damaged.
        """
        kept = lines_up_to(folder, images_seen)
        self._folder = folder
        self._described: set[str] = set()
        self._local = folder.path if folder.is_local else tempfile.mkdtemp(prefix="raygen")
        purge_step = images_seen + 1 if images_seen else 0
        self._writer = SummaryWriter(self._local, purge_step=purge_step, flush_secs=10)
        # Written whole before it takes the old one's place: what was measured must not get lost.
        Folder.at(self._local).write_bytes(METRICS, kept)

    def text(self, tag: str, text: str) -> None:
        self._writer.add_text(tag, text)

    def scalars(self, values: dict[str, float], at: Position) -> None:
        """Values by tag, and where the run is."""
        line = Measurement(at.global_step, at.images_seen, at.seconds, values).to_line()
        # Opened each time, so that a process that is killed has no lines that are not written.
        with open(self._history, "ab") as history:
            history.write(line)
        file: FileWriter = self._writer._get_file_writer()
        for tag, value in values.items():
            # TensorBoard takes it from a tag's first value.
            about = None
            if tag not in self._described:
                about = SummaryMetadata(summary_description=metric_of(tag).description)
                self._described.add(tag)
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value, metadata=about)])
            file.add_summary(summary, at.images_seen)

    def picture(self, name: str, pixels: np.ndarray, images_seen: int) -> None:
        """(height, width, 3) uint8, shown in TensorBoard and kept as a PNG in `samples/`."""
        self._writer.add_image(name, pixels, images_seen, dataformats="HWC")
        self._folder.join(SAMPLES).write_bytes(f"{name}-{images_seen:09d}.png", encode_png(pixels))

    @property
    def _history(self) -> str:
        return os.path.join(self._local, METRICS)

    def flush(self) -> None:
        self._writer.flush()
        with open(self._history, "ab") as history:
            # A checkpoint that follows is on the disk, and so must be what was measured before.
            os.fsync(history.fileno())
        if not self._folder.is_local:
            for name in os.listdir(self._local):
                with open(os.path.join(self._local, name), "rb") as file:
                    self._folder.write_bytes(name, file.read())

    def close(self, flush: bool = True) -> None:
        """Args: flush: whether what was logged since the last time is to reach the storage."""
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
        # After an error, which may be that the storage is away, the run goes on from what is saved.
        self.close(flush=error is None)
