"""`metrics.jsonl`: all that a run has measured, a line of JSON for each measurement.

    {"step": 20, "images_seen": 2560, "seconds": 31.4, "values": {"loss/generator": 1.25}}

It says what TensorBoard's events say, for whoever has no TensorBoard. Lines stand in the order of
`images_seen`. JSON has no NaN and no infinities: in their place it says null.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields

from raygen.core.checked import Checked, finite_or_none, parse
from raygen.core.errors import UserError
from raygen.core.storage import Folder, unreadable

METRICS = "metrics.jsonl"
MOST_BYTES = 2**28
"""Largest history that is read, in bytes: those of a million measurements."""
_ADVICE = "restore the file, or move it away to go on without the measurements so far"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was logged at a point of a run.

    Attributes:
        step: training steps taken.
        images_seen: by all workers.
        seconds: spent training, over all sessions of the run.
        values: by the tag that TensorBoard shows each under; NaN where one was not finite.
    """

    step: int
    images_seen: int
    seconds: float
    values: dict[str, float]

    def to_line(self) -> bytes:
        """The line of `metrics.jsonl`, with its end."""
        entries = {
            "step": self.step,
            "images_seen": self.images_seen,
            "seconds": round(self.seconds, 3),
            "values": finite_or_none(self.values),
        }
        return (json.dumps(entries, allow_nan=False) + "\n").encode()

    @staticmethod
    def from_json(values: Checked) -> "Measurement":
        """What `to_line` wrote. Raises: UserError."""
        values.only([field.name for field in fields(Measurement)])
        return Measurement(
            step=values.entry("step").integer(),
            images_seen=values.entry("images_seen").integer(),
            seconds=values.entry("seconds").number(at_least=0),
            # A text for each tag, not one for each time that the file names it.
            values={
                sys.intern(tag): value.number_or_nan()
                for tag, value in values.entry("values").entries().items()
            },
        )


def read_history(folder: Folder) -> list[Measurement]:
    """All measurements of a run, oldest first; none if it has no `metrics.jsonl`.

    A last line that is just being written, or was being written when its job was killed, is left
    out.

    Args: folder: the run's.
    Raises: UserError if the file cannot be read, is too large, or has a line that is damaged.
    """
    data = _read(folder, MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(
            f"{folder.join(METRICS).uri}: has more than {MOST_BYTES:,} bytes; read it with other "
            "software, and log less often (--log-images)"
        )
    return [measurement for _, measurement in _lines(folder, data)]


def lines_up_to(folder: Folder, images_seen: int) -> bytes:
    """The lines that a run keeps which goes on from a checkpoint.

    Lines beyond it are those of a session that was cut off, and will be written again.

    Args: folder: the run's; images_seen: by the checkpoint; 0: there is none, and nothing is kept.
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
        return folder.read_bytes(METRICS, at_most)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as problem:
        raise unreadable(folder.join(METRICS).uri, problem) from problem


def _lines(folder: Folder, data: bytes) -> Iterator[tuple[int, Measurement]]:
    """Where each line ends, and what it says. Raises: UserError."""
    where = folder.join(METRICS).uri
    begin, number, before = 0, 1, 0
    while (end := data.find(b"\n", begin) + 1) > 0:
        values = parse(data[begin:end], f"{where}, line {number}", advice=_ADVICE)
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
