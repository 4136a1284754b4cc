"""The runs to compare, gathered into contenders: a setting each, trained with one or more seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raygen.comparison.runs import RunInfo, list_runs
from raygen.config.domains import short
from raygen.config.run import RESUMABLE_CHANGES
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.evaluation.record import Evaluation
from raygen.training.summary import Summary, read_summary
from raygen.tuning.records import CONFIRMATION, TRIALS

LENGTH = {"steps", "epochs"}
"""Options that may change when a run is resumed, but make another contender."""
NO_PART = (RESUMABLE_CHANGES - LENGTH) | {"seed"}
"""Options in which the runs of one contender may differ."""
MOST_IN_NAME = 2
"""Upper limit of the options that a contender's name tells."""


@dataclass(frozen=True)
class Entry:
    """A run of a contender.

    Attributes:
        run: its state; summary: None if it never recorded an end.
        evaluation: its figures on held-out images; None if it failed, or could not be measured.
        problem: why there is no evaluation, in one line.
    """

    run: RunInfo
    summary: Summary | None = None
    evaluation: Evaluation | None = None
    problem: str = ""

    @property
    def seed(self) -> int:
        return int(self.run.config.get("seed", 0))


@dataclass(frozen=True)
class Contender:
    """Runs that differ in nothing but their seeds.

    Attributes: settings: all options that decide what is learnt, but for the seed.
    """

    name: str
    settings: Mapping[str, Any]
    entries: Sequence[Entry]

    @property
    def measured(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.evaluation]

    @property
    def failed(self) -> int:
        """Number of runs without figures."""
        return len(self.entries) - len(self.measured)

    def values(self, tag: str) -> list[float]:
        """A metric's value in each run that has it."""
        found = [e.evaluation.metrics.get(tag) for e in self.measured if e.evaluation]
        return [m.value for m in found if m and math.isfinite(m.value)]


@dataclass
class _Group:
    settings: dict[str, Any]
    runs: list[RunInfo] = field(default_factory=list)


def open_runs(paths: Sequence[str]) -> list[RunInfo]:
    """The runs at these places, in their order.

    Raises: UserError if one is no run, is named twice, or has no usable options.
    """
    found: list[RunInfo] = []
    for path in paths:
        folder = Folder.at(path)
        runs = list_runs(path) if folder.exists() else []
        if len(runs) != 1 or runs[0].uri.rstrip("/") != folder.uri.rstrip("/"):
            which = "holds several runs; name the folders of runs" if runs else "is no run"
            raise UserError(f"{path}: {which}, such as runs/NAME")
        [run] = runs
        if run.uri in [other.uri for other in found]:
            raise UserError(f"{path}: is named twice; name each run once")
        if not run.config:
            raise UserError(f"{path}: {run.problem or 'its options are not known'}")
        found.append(run)
    return found


def gather(runs: Sequence[RunInfo]) -> list[tuple[str, dict[str, Any], list[RunInfo]]]:
    """Group runs that differ in nothing but their seeds, in the order of their first ones.

    Returns: a name, the settings, and the runs of each contender.
    """
    groups: dict[str, _Group] = {}
    for run in runs:
        settings = settings_of(run)
        key = repr(sorted(settings.items()))
        groups.setdefault(key, _Group(settings)).runs.append(run)
    found = list(groups.values())
    names = _names([group.settings for group in found])
    return [(name, g.settings, g.runs) for name, g in zip(names, found, strict=True)]


def settings_of(run: RunInfo) -> dict[str, Any]:
    """A run's options in which the runs of a contender agree."""
    return {name: value for name, value in run.config.items() if name not in NO_PART}


def sweep_of(run: str) -> str:
    """The sweep that a training belongs to, as one of its trials or confirming it; else empty."""
    trials = Folder.at(run).parent
    if trials.name != TRIALS:
        return ""
    sweep = trials.parent
    return sweep.parent.uri if sweep.name == CONFIRMATION else sweep.uri


def _names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each setting: the preset, and what distinguishes it from others of that preset.

    Where that is too much for a name, it is a letter; the page lists what differs.
    """
    names = []
    for own in settings:
        same = [s for s in settings if s.get("preset") == own.get("preset")]
        differing = [n for n in own if any(s.get(n) != own[n] for s in same)]
        preset = str(own.get("preset", "run"))
        if len(differing) > MOST_IN_NAME:
            names.append(f"{preset} {_letters(same.index(own))}")
        else:
            parts = [f"{name} {_shown(own[name])}" for name in differing]
            names.append(", ".join([preset, *parts]))
    return names


def _letters(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    more, last = divmod(number, 26)
    return (_letters(more - 1) if more else "") + chr(ord("A") + last)


def _shown(value: Any) -> str:
    return short(value) if isinstance(value, str | int | float | bool) else str(value)


def differences(contenders: Sequence[Contender]) -> list[tuple[str, list[str]]]:
    """The options in which contenders differ, and the value of each; empty where it has none."""
    options = list(dict.fromkeys(name for c in contenders for name in c.settings))
    rows = []
    for option in options:
        values = [_shown(c.settings[option]) if option in c.settings else "" for c in contenders]
        if len(set(values)) > 1:
            rows.append((option, values))
    return rows


def summary_of(run: RunInfo) -> Summary | None:
    """A run's summary; None if there is none that can be read."""
    try:
        return read_summary(Folder.at(run.uri))
    except (FileNotFoundError, UserError):
        return None
