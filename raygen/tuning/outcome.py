"""What a sweep has found so far, read back from its files. Does not need Ray or torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from raygen.config.domains import Value
from raygen.config.fields import updated
from raygen.config.run import RunConfig
from raygen.core.errors import RunError, UserError, one_line
from raygen.core.parallel import parallel
from raygen.core.storage import Folder
from raygen.evaluation.objective import Objective
from raygen.training.run import SUMMARY
from raygen.tuning.options import SweepOptions
from raygen.tuning.records import (
    SWEEP,
    TRIALS,
    SavedSweep,
    SweepFolder,
    Trial,
    best_trial,
    read_value,
    saved_objective,
    without_seed,
)

CONFIRMED = "confirmed.json"
DECIDING = ("metric", "mode", "max_kl")
"""Options of a sweep that decide what its trials are compared by."""
_ADVICE = "restore the file, or go on with the sweep (--resume), which writes it again"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Confirmation:
    """What `confirmed.json` says of the setting that new seeds have shown to be the best.

    Attributes:
        trial: number of the trial of the search that had it; 0: the defaults.
        values: its values; seeds: number of new seeds.
        established: whether it is better than the defaults beyond doubt.
        found: the same as a sentence.
    """

    trial: int
    values: dict[str, Value]
    seeds: int
    established: bool
    found: str


@dataclass
class Outcome:
    """What a sweep has found so far.

    Attributes:
        saved: what it was started with; None if that cannot be read.
        objective: what its trials are compared by; None if that is not known.
        trials: those that have begun, by number.
        best: the best of them; None if none has been measured.
        found: the sentence in which the sweep summed up; empty: it has not.
        confirmation: None if its results were not confirmed.
        trainings: folders of the trainings of the confirmed setting that have finished.
        problems: what is wrong with its files, a line each.
    """

    saved: SavedSweep | None = None
    objective: Objective | None = None
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    found: str = ""
    confirmation: Confirmation | None = None
    trainings: list[Folder] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_outcome(sweep: SweepFolder) -> Outcome:
    """What a sweep has found so far. Files that are missing or damaged hide no others."""
    outcome = Outcome()

    def read(reader: Callable[[], Result]) -> Result | None:
        found, problem = _try(reader)
        outcome.problems += [problem] if problem else []
        return found

    def trials_in(place: SweepFolder) -> list[Trial]:
        names = read(place.folder.join(TRIALS).names) or []
        found = list(parallel(lambda name: _try(partial(place.read_trial, name)), names))
        outcome.problems += [problem for _, problem in found if problem]
        return sorted((trial for trial, _ in found if trial), key=lambda trial: trial.number)

    saved = outcome.saved = read(sweep.saved)
    if saved:
        outcome.objective = read(lambda: _objective(sweep, saved))
    elif not outcome.problems:
        outcome.problems.append(f"{sweep.folder.join(SWEEP).uri}: is missing")
    outcome.trials = trials_in(sweep)
    if outcome.objective:
        outcome.best = best_trial(outcome.trials, outcome.objective)
    outcome.found = read(lambda: _found(sweep.folder)) or ""
    confirmation = outcome.confirmation = read(lambda: read_confirmation(sweep.folder))
    if confirmation:
        place = sweep.confirmation
        finished = [trial for trial in trials_in(place) if trial.status == "finished"]
        own = [trial for trial in finished if without_seed(trial.values) == confirmation.values]
        outcome.trainings = [place.trial_run(trial.number).folder for trial in own]
    return outcome


def _try(reader: Callable[[], Result]) -> tuple[Result | None, str]:
    """What a file holds, and what is wrong with it."""
    try:
        return reader(), ""
    except (FileNotFoundError, NotADirectoryError):
        # The sweep has not come so far, or somebody has put a file there.
        return None, ""
    except (UserError, RunError, OSError) as error:
        return None, one_line(error)


def _objective(sweep: SweepFolder, saved: SavedSweep) -> Objective:
    where = sweep.folder.join(SWEEP).uri
    # Other options decide nothing here, and may be those of a later version.
    known = {name: saved.sweep[name] for name in DECIDING if name in saved.sweep}
    options = updated(SweepOptions(), known, where)
    return saved_objective(saved, RunConfig.from_json(saved.run, where), options)


def _found(folder: Folder) -> str:
    return folder.read_checked(SUMMARY, advice=_ADVICE).entry("found").text()


def read_confirmation(folder: Folder) -> Confirmation:
    """Read a sweep's `confirmed.json`.

    Raises: FileNotFoundError if its results were not confirmed; UserError if the file is damaged.
    """
    values = folder.read_checked(CONFIRMED, advice=_ADVICE)
    settings = values.entry("settings")
    if not settings.items():
        settings.fail("at least one setting")
    best = settings.items()[0]
    return Confirmation(
        trial=best.entry("trial").integer(),
        values=without_seed({n: read_value(v) for n, v in best.entry("values").entries().items()}),
        seeds=values.entry("seeds").integer(),
        established=values.entry("established").flag(),
        found=values.entry("found").text(),
    )


def counts(trials: Sequence[Trial]) -> str:
    """Count trials by their status, as `20 finished, 3 stopped, 1 failed`."""
    known = dict.fromkeys(("finished", "stopped", "failed"), 0)
    for trial in trials:
        known[trial.status] = known.get(trial.status, 0) + 1
    return ", ".join(f"{count:,} {status}" for status, count in known.items() if count)
