"""All runs and sweeps of a storage, read for the page that lists them. Does not need torch."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from PIL import Image

from raygen.comparison.rendering import Encoded, as_webp
from raygen.comparison.runs import Place, RunInfo, describe, find_places, runs_of
from raygen.config.run import RunConfig
from raygen.core.errors import RunError, UserError, one_line
from raygen.core.history import PART, read_newest
from raygen.core.parallel import parallel
from raygen.core.storage import Folder
from raygen.evaluation.grids import PADDING, upper_part
from raygen.evaluation.record import FILE as EVALUATION
from raygen.evaluation.record import Evaluation
from raygen.training.run import CONFIG, SUMMARY, RunFolder
from raygen.training.summary import Summary, read_summary
from raygen.tuning.outcome import Outcome, read_outcome
from raygen.tuning.records import SWEEP, TRIAL, SweepFolder

SIGNS_OF_LIFE = (SUMMARY, CONFIG, TRIAL, SWEEP)
"""Files that are written while a run or sweep goes on, beside its history; evaluations come later.
"""
MOST_WIDE, MOST_HIGH = 160, 96
"""Largest size of a run's picture, in pixels."""
ROWS = 2
"""Rows of samples that a run's picture shows."""
QUALITY = 60
MOST_BYTES = 2**25
"""How much of a picture's file is read at most; its upper rows lie at the beginning."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class ListedRun:
    """A run of the index.

    Attributes:
        dataset: fingerprint of the images that it was trained on; empty: not known.
        active_at: when it was last active, in Unix seconds; None: not known.
        evaluation: its figures on held-out images; None: it was not evaluated.
        picture: its newest samples, those of the upper rows; None: there are none.
        problem: the first problem with its files, in one line; empty if there is none.
    """

    run: RunInfo
    dataset: str = ""
    active_at: float | None = None
    evaluation: Evaluation | None = None
    picture: Encoded | None = None
    problem: str = ""


@dataclass(frozen=True)
class ListedSweep:
    """A sweep of the index.

    Attributes:
        contenders: folders of the runs that represent it in a comparison: the trainings of its
            confirmed setting, or else its best trial.
        active_at, problem: as for a run.
    """

    uri: str
    name: str
    outcome: Outcome
    contenders: Sequence[str] = ()
    active_at: float | None = None
    problem: str = ""

    @property
    def preset(self) -> str:
        """Empty if it is not known."""
        return str(self.outcome.saved.run.get("preset", "")) if self.outcome.saved else ""


@dataclass(frozen=True)
class Index:
    """What a storage holds, in the order of names."""

    runs: Sequence[ListedRun] = field(default_factory=list)
    sweeps: Sequence[ListedSweep] = field(default_factory=list)


def read_index(
    storage: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> Index:
    """Read all runs and sweeps of a storage. Those that are damaged are listed with their problem.

    The storage may itself be a run, or a sweep, whose trials are then listed as well.

    Args: storage: folder or URI; progress: called with what is done and what there is in total.
    Raises: UserError if the storage does not exist, cannot be reached, or holds nothing.
    """
    runs: list[ListedRun] = []
    sweeps: list[ListedSweep] = []
    places = find_places(storage)
    if len(places) == 1 and places[0].is_sweep and not _holds(storage, places[0]):
        places += runs_of(places[0])
    for done, found in enumerate(parallel(_read, places), 1):
        if isinstance(found, ListedRun):
            runs.append(found)
        else:
            sweeps.append(found)
        progress(done, len(places))
    if not places:
        raise UserError(
            f"--storage {storage}: holds no runs and no sweeps; name the folder or URI that the "
            "jobs had as --storage"
        )
    return Index(runs, sweeps)


def _holds(storage: str, place: Place) -> bool:
    """Whether a place is an entry of the storage, and not the storage itself."""
    return place.folder.parent.path.rstrip("/") == Folder.at(storage).path.rstrip("/")


def _read(place: Place) -> ListedRun | ListedSweep:
    return _read_sweep(place) if place.is_sweep else _read_run(place)


def _read_run(place: Place) -> ListedRun:
    folder = place.folder
    problems: list[str] = []

    def read(reader: Callable[[], Result]) -> Result | None:
        try:
            return reader()
        except FileNotFoundError:
            return None
        except (UserError, RunError, OSError) as error:
            problems.append(one_line(error))
        return None

    run = describe(place, read_newest)
    times = read(folder.times) or {}
    # `describe` reads it too, but tells what all runs have, also those that have none.
    summary = read(lambda: read_summary(folder)) if SUMMARY in times else None
    evaluation = read(lambda: Evaluation.read(folder)) if EVALUATION in times else None
    return ListedRun(
        run,
        summary.dataset if summary else "",
        _active_at(times, summary),
        evaluation,
        read(lambda: _thumbnail(folder, run)),
        run.problem or (problems[0] if problems else ""),
    )


def _active_at(times: dict[str, float], summary: Summary | None = None) -> float | None:
    """When a run or sweep was last active. Args: times: of its files."""
    if summary and summary.is_final and summary.ended_at:
        # Files that were copied are younger.
        return summary.ended_at
    signs = (at for name, at in times.items() if name in SIGNS_OF_LIFE or PART.fullmatch(name))
    return max(signs, default=None)


def _thumbnail(run: Folder, info: RunInfo) -> Encoded | None:
    """A run's newest samples. Raises: UserError if the picture is damaged."""
    samples = RunFolder(run).samples
    names = [name for name in samples.names() if re.fullmatch(r"samples-\d{1,18}\.png", name)]
    if not names:
        return None
    name = max(names, key=lambda name: int(re.sub(r"\D", "", name)))
    size = RunConfig.from_json(info.config, run.uri).image if info.config else None
    try:
        data = samples.read_bytes(name, MOST_BYTES)
        return _reduced(data, ROWS * (size.height + PADDING) + PADDING if size else MOST_WIDE)
    # Pillow raises many kinds of exceptions for broken files.
    except Exception as error:
        where = samples.join(name).uri
        raise UserError(f"{where}: cannot be shown ({one_line(error)}); delete it") from None


def _reduced(png: bytes, rows: int) -> Encoded:
    """The upper part of a picture, small. Args: rows: height of the part in pixels."""
    with Image.open(io.BytesIO(upper_part(png, rows)), formats=["PNG"]) as image:
        image.thumbnail((MOST_WIDE, MOST_HIGH), Image.Resampling.LANCZOS)
        return as_webp(image, QUALITY)


def _read_sweep(place: Place) -> ListedSweep:
    folder, sweep = place.folder, SweepFolder(place.folder)
    outcome = read_outcome(sweep)
    problems = [f"{folder.uri}: is being deleted by --restart"] if place.deleting else []
    problems += outcome.problems
    contenders = [training.uri for training in outcome.trainings]
    if outcome.best and not contenders:
        contenders = [sweep.trial_run(outcome.best.number).folder.uri]
    try:
        times = folder.times()
    except UserError as error:
        times = {}
        problems.append(one_line(error))
    reports = [trial.reports[-1].at for trial in outcome.trials if trial.reports]
    active_at = max([*reports, *filter(None, [_active_at(times)])], default=None)
    problem = problems[0] if problems else ""
    return ListedSweep(folder.uri, folder.name, outcome, contenders, active_at, problem)
