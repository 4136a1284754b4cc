"""Records of a sweep on disk, as JSON: its options, and each trial's values, reports and end.

    <storage>/<run-name>/
        sweep.json              options, search space, dataset
        trials/<number>/        a run's folder for each trial, and in it
            trial.json          what this file reads and writes
        confirmation/           the trainings that confirm the best settings, kept likewise

A sweep that was cut off goes on from these files alone.
"""

import contextlib
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import compress, pairwise
from typing import Any, Literal, cast, get_args

from raygen.cluster.lease import Fence
from raygen.config.domains import Value, Values
from raygen.config.families import FD
from raygen.config.fields import MOST
from raygen.config.run import QUALITY_SAMPLES, RunConfig
from raygen.core import marker
from raygen.core.checked import Checked
from raygen.core.errors import UserError
from raygen.core.marker import Marker
from raygen.core.parallel import parallel
from raygen.core.storage import Folder
from raygen.evaluation.metrics import VARIETY
from raygen.evaluation.objective import Objective, choose_objective
from raygen.training.run import RunFolder
from raygen.tuning.options import MOST_TRIALS, SweepOptions

SWEEP = "sweep.json"
TRIAL = "trial.json"
TRIALS = "trials"
CONFIRMATION = "confirmation"
"""Folder of the trainings with which a sweep's results are confirmed."""
OWN = re.compile(
    r"sweep\.json|best\.json|summary\.json|rejected\.json|confirmed\.json|trials|confirmation|"
    r"trials\.csv|sensitivity\.png|parallel-coordinates\.png|expected-best\.png|events\.out\.tfevents\..*|\.ray-.*"
)
"""Matches the names that raygen writes into a sweep's folder. All others are the user's."""

_ADVICE = "restore the file, or begin another sweep under another --run-name"

SEED = "seed"
"""Name of the option whose values are repetitions of the same setting."""
COLLAPSED = 0.2
"""Variety of samples below which a trial counts as collapsed: its samples repeat."""

TrialStatus = Literal["waiting", "running", "finished", "stopped", "failed", "interrupted"]
ENDED: tuple[TrialStatus, ...] = ("finished", "stopped", "failed")
"""States of trials that `--resume` does not continue."""
REDUCTION = 3
"""Reduction factor of successive halving, which keeps the best third at each rung."""
REPORTS = REDUCTION**2
"""Number of equally spaced reports per trial, so that rungs are at 1/9 and 1/3 of its length."""
NEARLY = 0.9
"""Least share of the furthest trial's images for a trial to be compared with it: batch sizes differ
between trials, and so do the images seen after the last step."""


@dataclass(frozen=True)
class Report:
    """A trial's report after a number of images.

    Attributes:
        seconds: time spent training.
        at: Unix time of the report, in seconds.
        metrics: all logged metrics.
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
        values: current values of the searched options.
        reason: why it ended as it did.
        failures: reasons for restarts or failure.
        changes: changes made by population-based training, with their times.
    """

    number: int
    values: Values
    status: TrialStatus = "waiting"
    reason: str = ""
    failures: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Add a report, dropping later ones, which a trial that went back will make again."""
        for number, old in enumerate(self.reports):
            told_again = old.images_seen == report.images_seen and old.objective == report.objective
            if told_again or old.images_seen >= report.images_seen:
                self.reports = [*self.reports[:number], old if told_again else report]
                return
        self.reports.append(report)

    @property
    def objective(self) -> float | None:
        """The last reported objective."""
        return self.reports[-1].objective if self.reports else None

    @property
    def is_measured(self) -> bool:
        """Whether the last report has a finite objective."""
        return self.objective is not None and math.isfinite(self.objective)

    @property
    def has_collapsed(self) -> bool:
        """Whether the samples of the last report repeat."""
        last = self.reports[-1].metrics if self.reports else {}
        return any(v < COLLAPSED for tag, v in last.items() if tag.startswith(f"{VARIETY}_"))

    @property
    def images_seen(self) -> int:
        return self.reports[-1].images_seen if self.reports else 0

    @property
    def seconds(self) -> float:
        return self.reports[-1].seconds if self.reports else 0.0

    @staticmethod
    def from_json(values: Checked) -> "Trial":
        """Read what `SweepFolder.write_trial` wrote. Raises: UserError."""
        values.only([field.name for field in fields(Trial)])
        trial = Trial(
            number=values.entry("number").integer(0, MOST_TRIALS),
            values={name: read_value(v) for name, v in values.entry("values").entries().items()},
            status=cast(TrialStatus, values.entry("status").choice(get_args(TrialStatus))),
            reason=values.entry("reason").text(),
            failures=list(values.entry("failures").texts()),
            changes=list(values.entry("changes").texts()),
            reports=[_report(report) for report in values.entry("reports").items()],
        )
        seen = [report.images_seen for report in trial.reports]
        if any(later <= earlier for earlier, later in pairwise(seen)):
            values.refuse("reports is not in the order of images_seen")
        return trial


def read_value(value: Checked) -> Value:
    """The value of a searched option. Raises: UserError if it is none."""
    if not isinstance(value.value, Value):
        value.fail("the value of an option")
    found: Value = value.value
    return found


def _report(values: Checked) -> Report:
    values.only([field.name for field in fields(Report)])
    metrics = values.entry("metrics").entries()
    # A diverged training reports values that are not finite.
    return Report(
        images_seen=values.entry("images_seen").integer(),
        objective=values.entry("objective").number(finite=False),
        seconds=values.entry("seconds").number(at_least=0),
        at=values.entry("at").number(at_least=0),
        metrics={name: metric.number(finite=False) for name, metric in metrics.items()},
    )


@dataclass(frozen=True)
class SavedSweep:
    """The content of `sweep.json`.

    Attributes:
        run, sweep: options by name, as given.
        space: the domain of each searched option, as text.
        dataset: the dataset's fingerprint.
        metric: tag of what the trials are compared by; empty in sweeps of earlier versions.
        quality_samples: number of samples of each trial that are measured.
    """

    run: dict[str, Any]
    sweep: dict[str, Any]
    space: dict[str, str]
    dataset: str
    metric: str = ""
    quality_samples: int = QUALITY_SAMPLES


@dataclass(frozen=True)
class SweepFolder:
    """`<storage>/<run-name>/` of a sweep.

    Attributes:
        fence: lets writers check that the job still owns the sweep.
        name: identifies it within its storage; empty: the folder's name does.
    """

    folder: Folder
    fence: Fence | None = None
    name: str = ""

    @property
    def confirmation(self) -> "SweepFolder":
        """The place of the trainings that confirm its results, as if they were a sweep's."""
        name = f"{self.folder.name}/{CONFIRMATION}"
        return replace(self, folder=self.folder.join(CONFIRMATION), name=name)

    def patient(self, seconds: float) -> "SweepFolder":
        """The same sweep, retrying for so many seconds during outages of its storage."""
        return replace(self, folder=self.folder.patient(seconds))

    def marker(self) -> Marker | None:
        """The folder's marker, inferred for sweeps of earlier versions, which wrote none."""
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

    def saved(self) -> SavedSweep:
        """Read what the sweep was started with. Raises: UserError if it cannot be read."""
        values = self.folder.read_checked(SWEEP, advice=_ADVICE)
        run, sweep = values.entry("run"), values.entry("sweep")
        run.entries()
        RunConfig.from_json(run.value, run.file)
        if "set" in sweep.entries():
            sweep.entry("set").texts()
        space, known = values.entry("space").entries(), values.entries()
        return SavedSweep(
            run=run.value,
            sweep=sweep.value,
            space={name: domain.text() for name, domain in space.items()},
            dataset=values.entry("dataset").text(),
            metric=values.entry("metric").text() if "metric" in known else "",
            quality_samples=values.entry("quality_samples").integer(0, MOST)
            if "quality_samples" in known
            else QUALITY_SAMPLES,
        )

    def write_trial(self, trial: Trial) -> None:
        self.trial_run(trial.number).folder.write_json(TRIAL, asdict(trial))

    def read_trials(self) -> list[Trial]:
        """Read all trials that have begun, in the order of their numbers."""
        trials = self.folder.join(TRIALS)
        names = trials.names()
        begun = compress(names, parallel(lambda name: trials.join(name).exists(TRIAL), names))
        return sorted(parallel(self.read_trial, begun), key=lambda trial: trial.number)

    def read_trial(self, name: str) -> Trial:
        """Read a trial. Args: name: of its folder.

        Raises: FileNotFoundError if it has not begun; UserError if its record is damaged.
        """
        advice = f"delete the folder {name} to have the trial repeated"
        values = self.folder.join(TRIALS, name).read_checked(TRIAL, advice=advice)
        trial = Trial.from_json(values)
        if trial_name(trial.number) != name:
            values.entry("number").fail(f"that of its folder, {name}")
        return trial


def saved_objective(saved: SavedSweep, config: RunConfig, options: SweepOptions) -> Objective:
    """What a sweep has compared its trials by so far.

    Raises: UserError if that is a metric that its runs never log.
    """
    metric = saved.metric or options.metric or config.model.best_by
    if metric == FD:
        # Earlier versions compared trials by this.
        metric = "quality/swd"
    return choose_objective(config, metric, options.mode, options.max_kl)


def without_seed(values: Values) -> Values:
    """A trial's values without the seed, which is part of no setting."""
    return {name: value for name, value in values.items() if name != SEED}


def trial_name(number: int) -> str:
    """The name of a trial's folder: 000, 001, ..., 999, 1000, ..."""
    return f"{number:03d}"


def comparable(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that have got about as far as the furthest one."""
    reported = [trial for trial in trials if trial.reports]
    furthest = max((trial.images_seen for trial in reported), default=0)
    return [trial for trial in reported if trial.images_seen >= NEARLY * furthest]


def best_trial(trials: Iterable[Trial], objective: Objective) -> Trial | None:
    """The trial with the best last report, among those that have got furthest.

    Only equally long trainings are comparable: the numbers of a trial that was stopped early do not
    show what its settings lead to. A trial whose samples repeat is only the best if those of all
    others do, too, because a few sharp images may be nearer to real ones than many blurred ones.
    """
    measured = [trial for trial in trials if trial.status != "failed" and trial.is_measured]
    far = comparable(measured)
    best: Trial | None = None
    for trial in [trial for trial in far if not trial.has_collapsed] or far:
        value = trial.objective
        if value is None:
            continue
        if best is None or best.objective is None or objective.is_better(value, best.objective):
            best = trial
    return best
