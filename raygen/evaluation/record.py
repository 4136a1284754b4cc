"""`evaluation.json`: what an evaluation found, and what it rests on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raygen.core.checked import Checked
from raygen.core.errors import UserError
from raygen.core.storage import Folder

FILE = "evaluation.json"
FORMAT_VERSION = 1
MOST_BYTES = 2**24
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
        known = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return known | {"n": self.n, "extractor": self.extractor}

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
