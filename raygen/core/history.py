"""`metrics.jsonl`: everything that a run has measured, one line of JSON per measurement.

    {"step": 20, "images_seen": 2560, "seconds": 31.4, "values": {"loss/generator": 1.25}}

It holds the same numbers as TensorBoard's events, for readers without TensorBoard. Lines are in the
order of `images_seen`. JSON has no NaN and no infinities, so they are written as null.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields

from raygen.core.checked import Checked, finite_or_none, parse
from raygen.core.errors import UserError
from raygen.core.storage import Folder, unreadable

METRICS_FILE = "metrics.jsonl"
MOST_BYTES = 2**28
"""Largest history that is read, in bytes: about a million measurements."""
END_BYTES = 2**18
"""How much of a history's end tells its newest values, in bytes: about a thousand measurements."""
_ADVICE = "restore the file, or move it away to go on without the measurements so far"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The values logged at one point of a run.

    Attributes:
        step: training steps taken.
        images_seen: images that all workers have trained on.
        seconds: time spent training, over all sessions of the run.
        values: numbers by TensorBoard tag; NaN where one was not finite.
    """

    step: int
    images_seen: int
    seconds: float
    values: dict[str, float]

    def to_line(self) -> bytes:
        """Serialise as a line of `metrics.jsonl`, newline included."""
        entries = {
            "step": self.step,
            "images_seen": self.images_seen,
            "seconds": round(self.seconds, 3),
            "values": finite_or_none(self.values),
        }
        return (json.dumps(entries, allow_nan=False) + "\n").encode()

    @staticmethod
    def from_json(values: Checked) -> "Measurement":
        """Read what `to_line` wrote. Raises: UserError."""
        values.only([field.name for field in fields(Measurement)])
        return Measurement(
            step=values.entry("step").integer(),
            images_seen=values.entry("images_seen").integer(),
            seconds=values.entry("seconds").number(at_least=0),
            # Share one string per tag; a history repeats each tag many times.
            values={
                sys.intern(tag): value.number_or_nan()
                for tag, value in values.entry("values").entries().items()
            },
        )


def read_history(folder: Folder) -> list[Measurement]:
    """All measurements of a run, oldest first; none if it has no `metrics.jsonl`.

    An incomplete last line is left out: it is being written, or its job was killed.

    Args: folder: the run's folder.
    Raises: UserError if the file cannot be read, is too large, or has a line that is damaged.
    """
    data = _read(folder, MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(
            f"{folder.join(METRICS_FILE).uri}: has more than {MOST_BYTES:,} bytes; read it with "
            "other software, and log less often (--log-images)"
        )
    return [measurement for _, measurement in _lines(folder, data)]


def read_newest(folder: Folder) -> list[Measurement]:
    """The newest measurements of a run, oldest first, without reading a long history as a whole.

    Args: folder: the run's folder.
    Raises: UserError if the file cannot be read, or one of these lines is damaged.
    """
    try:
        data = folder.read_end(METRICS_FILE, END_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as problem:
        raise unreadable(folder.join(METRICS_FILE).uri, problem) from problem
    if len(data) < END_BYTES:
        return [measurement for _, measurement in _lines(folder, data)]
    # The first line is probably only the end of one.
    whole = data[data.find(b"\n") + 1 :]
    return [m for _, m in _lines(folder, whole, f" of the last {END_BYTES:,} bytes")]


def lines_up_to(folder: Folder, images_seen: int) -> bytes:
    """The lines to keep when a run goes on from a checkpoint.

    Later lines belong to a session that was cut off, and will be written again.

    Args:
        folder: the run's folder.
        images_seen: the checkpoint's count; 0 if there is no checkpoint: nothing is kept.
    Raises: UserError if the file cannot be read, or has a line that is damaged.
    """
    if not images_seen:
        return b""
    data, kept = _read(folder), 0
    for end, measurement in _lines(folder, data):
        if measurement.images_seen > images_seen:
            break
        kept = end
    return data[:kept]


def _read(folder: Folder, at_most: int | None = None) -> bytes:
    try:
        return folder.read_bytes(METRICS_FILE, at_most)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as problem:
        raise unreadable(folder.join(METRICS_FILE).uri, problem) from problem


def _lines(folder: Folder, data: bytes, part: str = "") -> Iterator[tuple[int, Measurement]]:
    """Yield each line's end offset and its measurement.

    Args: part: where the lines are counted from, for errors.
    Raises: UserError.
    """
    where = folder.join(METRICS_FILE).uri
    begin, number, before = 0, 1, 0
    while (end := data.find(b"\n", begin) + 1) > 0:
        values = parse(data[begin:end], f"{where}, line {number}{part}", advice=_ADVICE)
        measurement = Measurement.from_json(values)
        if measurement.images_seen < before:
            values.entry("images_seen").fail(f"{before:,} or more, as in the line before")
        yield end, measurement
        begin, number, before = end, number + 1, measurement.images_seen


def last_values(history: list[Measurement]) -> dict[str, float]:
    """The last value of each tag."""
    values: dict[str, float] = {}
    for measurement in history:
        values |= measurement.values
    return values
