"""`evaluation.json` and `evaluations.jsonl`: what was found, and what it rests on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raygen.core.checked import Checked, finite_or_none, parse
from raygen.core.errors import UserError
from raygen.core.storage import Folder, unreadable

FILE = "evaluation.json"
FORMAT_VERSION = 1
MOST_BYTES = 2**24
LINES_FILE = "evaluations.jsonl"
"""The evaluations of a run's checkpoints that were made while it trained, one a line."""
MOST_LINES_BYTES = 2**28
ADVICE = "evaluate again with jobs/evaluate.py"


@dataclass(frozen=True)
class Measured:
    """A metric's figure.

    Attributes:
        value: the figure; low, high: its 95 % interval over the images; NaN: not known.
        floor: the value of real images in place of generated ones; NaN: not known.
        untrained: the value of the same network before its training; NaN: not known.
        n: number of images that it rests on.
        extractor: the network whose features are compared; empty: none.
    """

    value: float
    low: float
    high: float
    floor: float
    untrained: float
    n: int
    extractor: str = ""

    def to_json(self) -> dict[str, Any]:
        numbers = {
            name: getattr(self, name) for name in ("value", "low", "high", "floor", "untrained")
        }
        # JSON has neither NaN nor infinities.
        return finite_or_none(numbers) | {"n": self.n, "extractor": self.extractor}

    @staticmethod
    def from_json(values: Checked) -> "Measured":
        """Read what `to_json` wrote. Raises: UserError."""
        names = ("value", "low", "high", "floor", "untrained")
        value, low, high, floor, untrained = (values.entry(n).number_or_nan() for n in names)
        n, extractor = values.entry("n").integer(), values.entry("extractor").text()
        return Measured(value, low, high, floor, untrained, n, extractor)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's figures.

    Attributes:
        objective: tag of the metric that decides, where one has to.
        metrics: the figures, by tag.
        about: what they rest on: run, checkpoint, dataset, split, extractors, machine, ...
    """

    objective: str
    metrics: Mapping[str, Measured]
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "objective": self.objective,
            "metrics": {tag: measured.to_json() for tag, measured in self.metrics.items()},
            "about": dict(self.about),
        }

    @staticmethod
    def from_json(values: Checked) -> "Evaluation":
        """Read what `to_json` wrote. Raises: UserError."""
        version = values.entry("format_version").integer()
        if version != FORMAT_VERSION:
            values.refuse(f"format version {version}, but this raygen reads {FORMAT_VERSION}")
        metrics = {
            tag: Measured.from_json(measured)
            for tag, measured in values.entry("metrics").entries().items()
        }
        objective = values.entry("objective").choice(metrics)
        about = values.entry("about")
        about.entries()
        return Evaluation(objective, metrics, about.value)

    @staticmethod
    def read(folder: Folder, name: str = FILE) -> "Evaluation":
        """Read a file. Raises: UserError; FileNotFoundError if there is none."""
        return Evaluation.from_json(folder.read_checked(name, UserError, ADVICE, MOST_BYTES))


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """An evaluation that was made while a run trained.

    Attributes: images_seen, step: the position of the checkpoint.
    """

    images_seen: int
    step: int
    evaluation: Evaluation

    def to_line(self) -> bytes:
        """Serialise as a line of `evaluations.jsonl`, newline included."""
        position = {"images_seen": self.images_seen, "step": self.step}
        return (json.dumps(position | self.evaluation.to_json(), allow_nan=False) + "\n").encode()

    @staticmethod
    def from_json(values: Checked) -> "EvaluatedCheckpoint":
        """Read what `to_line` wrote. Raises: UserError."""
        images_seen, step = (values.entry(name).integer() for name in ("images_seen", "step"))
        return EvaluatedCheckpoint(images_seen, step, Evaluation.from_json(values))


def read_evaluations(folder: Folder) -> list[EvaluatedCheckpoint]:
    """The evaluations in a run's `evaluations.jsonl`, in order; none if there is no such file.

    An incomplete last line is left out.

    Args: folder: the run's folder.
    Raises: UserError if the file cannot be read, is too large, or has a line that is damaged.
    """
    uri = folder.join(LINES_FILE).uri
    return [
        EvaluatedCheckpoint.from_json(parse(line, f"{uri}, line {number}", advice=_MOVE_AWAY))
        for number, line in enumerate(_complete_lines(folder), 1)
    ]


def add_evaluation(folder: Folder, evaluated: EvaluatedCheckpoint) -> None:
    """Add a line to a run's `evaluations.jsonl`.

    The file is replaced as a whole, because object stores cannot append to one. Only the run's
    owner may do so.

    Raises: UserError, as `read_evaluations`; StorageError if it cannot be written.
    """
    lines = [*_complete_lines(folder), evaluated.to_line()]
    folder.write_bytes(LINES_FILE, b"".join(lines))


_MOVE_AWAY = "restore the file, or move it away to go on without the evaluations so far"


def _complete_lines(folder: Folder) -> list[bytes]:
    uri = folder.join(LINES_FILE).uri
    try:
        data = folder.read_bytes(LINES_FILE, MOST_LINES_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as problem:
        raise unreadable(uri, problem) from problem
    if len(data) > MOST_LINES_BYTES:
        raise UserError(f"{uri}: has more than {MOST_LINES_BYTES:,} bytes; {_MOVE_AWAY}")
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
