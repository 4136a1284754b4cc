"""What a sweep notes on disk, as JSON: its options, and each trial's values, reports and end.

    <storage>/<run-name>/
        sweep.json              options, search space, dataset
        trials/<number>/        a run's folder for each trial, and in it
            trial.json          what this file reads and writes

A sweep that was cut off goes on from these files alone.
"""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from raygen import marker
from raygen.errors import UserError
from raygen.lease import Fence
from raygen.marker import Marker
from raygen.search_space import Values
from raygen.storage import Folder
from raygen.training.run import RunFolder
from raygen.tuning.objective import Objective

SWEEP = "sweep.json"
TRIAL = "trial.json"
TRIALS = "trials"
OWN = re.compile(
    r"sweep\.json|best\.json|summary\.json|trials|trials\.csv|sensitivity\.png|"
    r"parallel-coordinates\.png|events\.out\.tfevents\..*|\.ray-.*"
)
"""What raygen writes into a sweep's folder. Whatever else lies there is the user's."""

Status = Literal["waiting", "running", "finished", "stopped", "failed", "interrupted"]
ENDED: tuple[Status, ...] = ("finished", "stopped", "failed")
"""The states that `--resume` leaves alone."""
REDUCTION = 3
"""Successive halving keeps the best third of the trials at each rung."""
REPORTS = REDUCTION**2
"""Of a trial, equally far apart: so that the rungs are at 1/9 and 1/3 of its length."""
NEARLY = 0.9
"""Trials that have seen so large a share of the images of the furthest one are compared with it:
with other batch sizes, the last step ends elsewhere."""


@dataclass(frozen=True)
class Report:
    """What a trial has told after so many images.

    Attributes:
        seconds: that it has trained.
        at: Unix time, in seconds.
        metrics: all that was logged.
    """

    images_seen: int
    objective: float
    seconds: float
    at: float
    metrics: dict[str, float]


@dataclass
class Trial:
    """One trial of a sweep.

    Attributes:
        number: from 0, which has the defaults.
        values: the options that are searched, as it has them now.
        reason: why it ended as it did.
        failures: why it had to be started again, or failed.
        changes: what population-based training did to it, and when.
    """

    number: int
    values: Values
    status: Status = "waiting"
    reason: str = ""
    failures: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Note a report, and forget later ones, which a trial that went back will make again."""
        for number, old in enumerate(self.reports):
            told_again = old.images_seen == report.images_seen and old.objective == report.objective
            if told_again or old.images_seen >= report.images_seen:
                self.reports = [*self.reports[:number], old if told_again else report]
                return
        self.reports.append(report)

    @property
    def objective(self) -> float | None:
        """The last one reported."""
        return self.reports[-1].objective if self.reports else None

    @property
    def images_seen(self) -> int:
        return self.reports[-1].images_seen if self.reports else 0

    @property
    def seconds(self) -> float:
        return self.reports[-1].seconds if self.reports else 0.0

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Trial":
        reports = [Report(**report) for report in values["reports"]]
        return Trial(**(values | {"reports": reports}))


@dataclass(frozen=True)
class SweepFolder:
    """`<storage>/<run-name>/` of a sweep.

    Attributes: fence: what proves that the job still owns the sweep, for those that write to it.
    """

    folder: Folder
    fence: Fence | None = None

    def patient(self, seconds: float) -> "SweepFolder":
        """The same sweep, for a job that outlasts its storage's outages."""
        return replace(self, folder=self.folder.patient(seconds))

    def marker(self) -> Marker | None:
        """What the folder is, also if an earlier version made it, which left no marker."""
        found = marker.read(self.folder)
        if found is None and self.folder.exists(SWEEP):
            with contextlib.suppress(UserError):
                values = self.folder.read_json(SWEEP)
                if isinstance(values, dict) and {"run", "sweep", "space"} <= values.keys():
                    return Marker("sweep")
        return found

    def trial_run(self, number: int) -> RunFolder:
        """The run's folder of a trial."""
        return RunFolder(self.folder.join(TRIALS, trial_name(number)), self.fence)

    def write_trial(self, trial: Trial) -> None:
        self.trial_run(trial.number).folder.write_json(TRIAL, asdict(trial))

    def read_trials(self) -> list[Trial]:
        """All trials that have begun, in the order of their numbers."""
        trials = self.folder.join(TRIALS)
        names = [name for name in trials.names() if trials.join(name).exists(TRIAL)]
        found = [Trial.from_json(trials.join(name).read_json(TRIAL)) for name in names]
        return sorted(found, key=lambda trial: trial.number)


def trial_name(number: int) -> str:
    return f"{number:03d}"


def comparable(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that have come about as far as the furthest one."""
    reported = [trial for trial in trials if trial.reports]
    furthest = max((trial.images_seen for trial in reported), default=0)
    return [trial for trial in reported if trial.images_seen >= NEARLY * furthest]


def best_trial(trials: Iterable[Trial], objective: Objective) -> Trial | None:
    """The trial with the best last report, among those that have come furthest.

    A report of a longer training is worth more than a better one of a shorter: the numbers of
    trials that were stopped early are not what their settings lead to.
    """
    best: Trial | None = None
    for trial in comparable(trial for trial in trials if trial.status != "failed"):
        value = trial.objective
        if value is None:
            continue
        if best is None or best.objective is None or objective.is_better(value, best.objective):
            best = trial
    return best
