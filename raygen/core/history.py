"""`metrics.jsonl`: everything that a run has measured, one line of JSON per measurement.

    {"step": 20, "images_seen": 2560, "seconds": 31.4, "values": {"loss/generator": 1.25}}

It holds the same numbers as TensorBoard's events, for readers without TensorBoard. Lines are in the
order of `images_seen`. JSON has no NaN and no infinities, so they are written as null.

In an object store, where nothing can be appended to, a long history goes on in further files,
`metrics-0001.jsonl` and so on.
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields

from raygen.core.checked import Checked, finite_or_none, parse
from raygen.core.errors import UserError
from raygen.core.parallel import parallel
from raygen.core.storage import Folder, unreadable

METRICS_FILE = "metrics.jsonl"
PART = re.compile(r"metrics(?:-(\d{4,9}))?\.jsonl", re.ASCII)
"""Matches the names of a history's files."""
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


def part_name(number: int) -> str:
    """The name of a history's file. Args: number: counts them, from 0."""
    return f"metrics-{number:04d}.jsonl" if number else METRICS_FILE


def part_number(name: str) -> int:
    """Which of a history's files this is, from 0."""
    match = PART.fullmatch(name)
    return int(match[1] or 0) if match else 0


def parts_of(folder: Folder) -> list[str]:
    """The names of a history's files, oldest first. Raises: UserError."""
    return sorted(filter(PART.fullmatch, folder.names()), key=part_number)


def read_history(folder: Folder) -> list[Measurement]:
    """All measurements of a run, oldest first; none if it has no `metrics.jsonl`.

    An incomplete last line is left out: it is being written, or its job was killed.

    Args: folder: the run's folder.
    Raises: UserError if the files cannot be read, are too large, or have a line that is damaged.
    """
    parts, left = [], MOST_BYTES
    for name, data in _read(folder, parts_of(folder), MOST_BYTES + 1):
        parts.append((name, data))
        left -= len(data)
        if left < 0:
            raise UserError(
                f"{folder.join(METRICS_FILE).uri}: has more than {MOST_BYTES:,} bytes; read it "
                "with other software, and log less often (--log-images)"
            )
    return [measurement for _, _, measurement in _lines(folder, parts)]


def read_newest(folder: Folder) -> list[Measurement]:
    """The newest measurements of a run, oldest first, without reading a long history as a whole.

    Args: folder: the run's folder.
    Raises: UserError if a file cannot be read, or one of these lines is damaged.
    """
    parts: list[tuple[str, bytes]] = []
    note, left = "", END_BYTES
    for name in reversed(parts_of(folder)):
        try:
            data = folder.read_end(name, left)
        except FileNotFoundError:
            continue
        except OSError as problem:
            raise unreadable(folder.join(name).uri, problem) from problem
        left -= len(data)
        if not left:
            # The first line is probably only the end of one.
            data, note = data[data.find(b"\n") + 1 :], f" of the last {len(data):,} bytes"
        parts.insert(0, (name, data))
        if not left:
            break
    return [measurement for _, _, measurement in _lines(folder, parts, note)]


def cut_history(folder: Folder, images_seen: int) -> tuple[str, bytes]:
    """Delete the files of a history that hold nothing to keep when a run goes on from a checkpoint.

    Later lines belong to a session that was cut off, and will be written again.

    Args:
        folder: the run's folder.
        images_seen: the checkpoint's count; 0 if there is no checkpoint: nothing is kept.
    Returns: the name of the last file, and its lines to keep.
    Raises: UserError if the files cannot be read, or have a line that is damaged.
    """
    names = parts_of(folder)
    parts = list(_read(folder, names)) if images_seen else []
    last, kept = METRICS_FILE, 0
    for name, end, measurement in _lines(folder, parts):
        if measurement.images_seen > images_seen:
            break
        last, kept = name, end
    # From the end, so that what is left has no gap, whenever this process is killed.
    for name in reversed(names):
        if part_number(name) > part_number(last):
            with contextlib.suppress(FileNotFoundError):
                folder.delete_file(name)
    return last, dict(parts).get(last, b"")[:kept]


def _read(
    folder: Folder, names: list[str], at_most: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of files, without those that have just been deleted."""

    def read(name: str) -> bytes | None:
        try:
            return folder.read_bytes(name, at_most)
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise unreadable(folder.join(name).uri, problem) from problem

    for name, data in zip(names, parallel(read, names), strict=True):
        if data is not None:
            yield name, data


def _lines(
    folder: Folder, parts: list[tuple[str, bytes]], note: str = ""
) -> Iterator[tuple[str, int, Measurement]]:
    """Yield each line's file, its end there, and its measurement.

    Args:
        parts: names and contents of files.
        note: where the lines of the first one are counted from, for errors.
    Raises: UserError.
    """
    before = 0
    for name, data in parts:
        where, begin, number = folder.join(name).uri, 0, 1
        while (end := data.find(b"\n", begin) + 1) > 0:
            values = parse(data[begin:end], f"{where}, line {number}{note}", advice=_ADVICE)
            measurement = Measurement.from_json(values)
            if measurement.images_seen < before:
                values.entry("images_seen").fail(f"{before:,} or more, as in the line before")
            yield name, end, measurement
            begin, number, before = end, number + 1, measurement.images_seen
        note = ""


def last_values(history: list[Measurement]) -> dict[str, float]:
    """The last value of each tag."""
    values: dict[str, float] = {}
    for measurement in history:
        values |= measurement.values
    return values
