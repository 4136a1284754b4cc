"""Lists the runs in a storage: trainings, and the trials of sweeps. Does not need torch."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, get_args

from raygen.config.run import RunConfig
from raygen.core import marker
from raygen.core.errors import RunError, UserError, one_line
from raygen.core.history import METRICS_FILE, Measurement, last_values, read_history
from raygen.core.marker import MARKER, Marker
from raygen.core.parallel import parallel
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.training import checkpoint_index
from raygen.training.run import CHECKPOINTS, CONFIG, SUMMARY, RunFolder
from raygen.training.summary import RunKind, Summary, read_summary
from raygen.tuning.records import SWEEP, TRIAL, TRIALS, SweepFolder, Trial

Result = TypeVar("Result")
ListedStatus = Literal["begun", "finished", "interrupted", "stopped", "failed"]


@dataclass(frozen=True)
class RunInfo:
    """The state of a run according to its files, during training as well as afterwards.

    Attributes:
        uri: path or URI of its folder.
        name: name of its folder.
        kind: `training`, or `trial` for a sweep's trial.
        sweep: name of the folder of the trial's sweep, with `/confirmation` for trainings that
            confirm its results; empty for trainings.
        preset: empty if it is unknown.
        status: the status that the run or its sweep recorded; `begun` if none recorded an end:
            the run may still be training, or may have been killed.
        global_step, images_seen: the last recorded progress.
        updates: optimizer steps of each network by then, by name; empty if they depend on the run's
            length, which older runs did not record.
        metrics: the last recorded value of each metric.
        config: all options by name; empty if `config.json` is missing or damaged.
        problem: the first problem with its files, in one line; empty if there is none.
    """

    uri: str
    name: str
    kind: RunKind
    sweep: str = ""
    preset: str = ""
    status: ListedStatus = "begun"
    global_step: int = 0
    images_seen: int = 0
    updates: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Place:
    """A folder that holds a run or a sweep.

    Attributes:
        names: names of the folder's entries; empty if they are not known yet.
        is_sweep: whether it holds a sweep.
        sweep: name of the sweep whose trial it is; empty for other runs.
        deleting: whether --restart has begun to delete it.
    """

    folder: Folder
    names: Sequence[str]
    is_sweep: bool = False
    sweep: str = ""
    deleting: bool = False


def list_runs(storage: str | os.PathLike[str]) -> list[RunInfo]:
    """List the runs in a storage and in its sweeps. The storage may itself be a run or a sweep.

    Damaged runs are listed with what is known of them and with their `problem`. Other folders are
    skipped, and not searched.

    Args: storage: folder or URI.
    Returns: the runs in the order of their names, a sweep's trials together.
    Raises: UserError if the storage does not exist or cannot be reached.
    """
    runs = (run for found in parallel(runs_of, find_places(storage)) for run in found)
    return list(parallel(describe, runs))


def find_places(storage: str | os.PathLike[str]) -> list[Place]:
    """The runs and sweeps that a storage holds, or that it is, in the order of their names.

    Raises: UserError if the storage does not exist or cannot be reached.
    """
    root = Folder.at(storage)
    names = root.names()
    if not names and not root.exists():
        raise UserError(
            f"{root.uri}: does not exist; name the folder or URI that the jobs had as --storage"
        )
    alone = _recognised(root, names)
    if alone is None and root.name == TRIALS and root.parent.exists(SWEEP):
        alone = Place(root.parent, (), is_sweep=True)
    if alone:
        return [alone]
    folders = [root.join(name) for name in root.folders()]
    return list(filter(None, parallel(_recognise, folders)))


def _recognise(folder: Folder) -> Place | None:
    try:
        return _recognised(folder, folder.names())
    except UserError:
        # Skip a folder that the user has no permission to read.
        return None


def _recognised(folder: Folder, names: Sequence[str]) -> Place | None:
    """The run or sweep in a folder; None if there is none."""
    known = marker.read(folder) if MARKER in names else None
    if known is None and SWEEP in names:
        known = SweepFolder(folder).marker()
    elif known is None and CONFIG in names:
        known = RunFolder(folder).marker()
        if known is None and {MARKER, CHECKPOINTS} <= set(names):
            # The marker and the options are both damaged.
            known = Marker("run")
    if known is None or known.raygen == "dataset":
        return None
    is_trial = TRIAL in names and folder.parent.name == TRIALS
    sweep = folder.parent.parent.name if is_trial else ""
    return Place(folder, names, known.raygen == "sweep", sweep, known.deleting)


def runs_of(place: Place) -> list[Place]:
    """The runs in a place: the run itself, or the trials of a sweep, and of its confirmation."""
    if not place.is_sweep:
        return [place]
    sweep = SweepFolder(place.folder)
    found = _trials(place.folder, place.folder.name)
    return found + _trials(sweep.confirmation.folder, sweep.confirmation.name)


def _trials(folder: Folder, sweep: str) -> list[Place]:
    """The trials in a sweep's folder. Args: sweep: its name."""
    trials = folder.join(TRIALS)
    try:
        names = trials.folders()
    except UserError:
        # Listing it as a run meets the problem again and reports it.
        return [Place(trials, (), sweep=sweep)]
    # By number: 1000 comes after 999.
    ordered = sorted(names, key=lambda name: (len(name), name))
    return [Place(trials.join(name), (), sweep=sweep) for name in ordered]


def describe(
    place: Place, history: Callable[[Folder], list[Measurement]] = read_history
) -> RunInfo:
    """The state of a run according to its files.

    Args: history: reads what it has measured; the newest values are taken of that.
    """
    folder, run = place.folder, RunFolder(place.folder)
    problems = [f"{folder.uri}: is being deleted by --restart"] if place.deleting else []

    def read(reader: Callable[[], Result]) -> Result | None:
        try:
            return reader()
        except (UserError, RunError, OSError) as error:
            problems.append(one_line(error))
        return None

    names = place.names or read(folder.names) or ()
    config = read(lambda: RunConfig.from_json(run.saved_config(), folder.join(CONFIG).uri))
    summary = read(lambda: read_summary(folder)) if SUMMARY in names else None
    latest = None
    if CHECKPOINTS in names and not (summary and summary.is_final):
        latest = read(run.latest_checkpoint)
    status: ListedStatus = "begun"
    metrics: dict[str, float] | None = None
    position = Position()
    if summary and summary.status != "running" and not _is_beyond(latest, summary):
        status, metrics = summary.status, summary.metrics
        position = Position(summary.global_step, summary.images_seen)
    else:
        if place.sweep and TRIAL in names:
            trial = read(lambda: Trial.from_json(folder.read_checked(TRIAL)))
            if trial and trial.status in get_args(ListedStatus):
                status = cast(ListedStatus, trial.status)
        state = read(lambda: checkpoint_index.read_checked_state(latest)) if latest else None
        if state:
            position = checkpoint_index.position_of(state)
            # A checkpoint has metrics if the networks were measured when it was saved.
            metrics = state.value.get("metrics")
        measured = None
        if METRICS_FILE in names and not metrics:
            measured = read(lambda: history(folder))
        if measured:
            metrics = last_values(measured)
            if not state:
                position = Position(measured[-1].step, measured[-1].images_seen)
    return RunInfo(
        uri=folder.uri,
        name=folder.name,
        kind="trial" if place.sweep else "training",
        sweep=place.sweep,
        preset=config.preset if config else "",
        status=status,
        global_step=position.global_step,
        images_seen=position.images_seen,
        updates=_updates(config, position.global_step, summary) if config else {},
        metrics=metrics or {},
        config=config.to_json() if config else {},
        problem=problems[0] if problems else "",
    )


def _updates(config: RunConfig, steps: int, summary: Summary | None) -> dict[str, int]:
    """Optimizer steps of each network after so many training steps."""
    total = summary.total_steps if summary else 0
    if not total and summary and summary.status == "finished":
        total = summary.global_step
    total = total or config.steps
    if not total and config.is_two_phase:
        return {}
    return config.updates(steps, max(total, steps, 1))


def _is_beyond(latest: Folder | None, summary: Summary) -> bool:
    """Whether a run continued after its summary, which earlier versions did not update then."""
    return latest is not None and checkpoint_index.step_of(latest.name) > summary.global_step
