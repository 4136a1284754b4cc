"""The page that lists all runs and sweeps of a storage: one HTML file, nothing beside it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from raygen.comparison.index import Index, ListedRun, ListedSweep
from raygen.comparison.rendering import number, render
from raygen.config.families import FD
from raygen.core.printable import printable
from raygen.core.uris import without_keys
from raygen.evaluation.metrics import DOMAIN, MEASURED, RANDOM_VGG, in_features, metric_of
from raygen.tuning.outcome import Outcome, counts
from raygen.tuning.table import describe_values

HEADLINE = ("features/fd", "features/coverage", "swd/by_real")
"""Metrics of evaluations, with `features/` for the extractor's name."""
WHILE_TRAINING = (
    in_features(FD, DOMAIN),
    in_features(FD, RANDOM_VGG),
    "quality/swd",
    "validation/mse",
)
"""Metrics that are measured on validation images while a run trains."""
MOST_OTHERS = 3
"""Upper limit of the other metrics of that kind, for runs that have none of these."""
NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes: sort: what it is sorted by, a number or a text; empty: it comes last.
        note: a second line.
    """

    shown: str
    sort: float | str = ""
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column of figures. Attributes: note: what they rest on; cells: one for each run."""

    name: str
    note: str
    description: str
    cells: Sequence[Cell]


def render_index(index: Index, title: str, command: str) -> str:
    """The page as HTML. All texts of users are escaped.

    Args: title: its heading; command: the beginning of the command line that it composes.
    """
    runs = sorted(index.runs, key=_newest_first)
    sweeps = sorted(index.sweeps, key=_newest_first)
    columns = [*_evaluated(runs), *_while_training(runs)]
    return render(
        "index.html",
        title=title,
        subtitle=f"{counted(len(runs), 'run')}, {counted(len(sweeps), 'sweep')}",
        columns=columns,
        runs=[_run_row(run, [c.cells[k] for c in columns]) for k, run in enumerate(runs)],
        sweeps=[_sweep_row(sweep) for sweep in sweeps],
        command=command,
    )


def _newest_first(listed: ListedRun | ListedSweep) -> float:
    return -(listed.active_at or 0.0)


def counted(count: int, noun: str) -> str:
    """A number of things, as `1 run` or `2 runs`."""
    return f"{count:,} {noun}{'s'[count == 1 :]}"


def _run_row(listed: ListedRun, figures: Sequence[Cell]) -> dict[str, Any]:
    run = listed.run
    name = f"{run.sweep}/{run.name}" if run.sweep else run.name
    return {
        "name": name,
        "path": run.uri,
        # Without its options, a run cannot be compared.
        "words": [shell_word(run.uri)] if run.config else [],
        "dataset": listed.dataset,
        "problem": _inside(run.uri, listed.problem),
        "picture": listed.picture,
        "preset": Cell(run.preset or NOTHING, run.preset, _about(run.config)),
        "status": Cell(run.status, run.status),
        "images": Cell(f"{run.images_seen:,}", run.images_seen),
        "active": _time(listed.active_at),
        "figures": figures,
    }


def _inside(uri: str, problem: str) -> str:
    """A problem of a file, without the place of its run, which stands beside it."""
    return problem.removeprefix(f"{uri.rstrip('/')}/")


def _about(config: Mapping[str, Any]) -> str:
    """What a run was trained on, in a few words."""
    if not config:
        return ""
    return f"{config.get('size', '')} {without_keys(str(config.get('data', '')))}".strip()


def _time(seconds: float | None) -> Cell:
    """A time on the clock of whoever makes the page."""
    if seconds is None:
        return Cell(NOTHING)
    try:
        return Cell(datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M"), seconds)
    except (OverflowError, ValueError, OSError):
        return Cell(NOTHING)


def _evaluated(runs: Sequence[ListedRun]) -> list[Column]:
    """The headline metrics of evaluations, in the features that all of these have."""
    known = [run.evaluation for run in runs if run.evaluation]
    own = all(f"{DOMAIN}/fd" in evaluation.metrics for evaluation in known)
    extractor = DOMAIN if own else RANDOM_VGG
    columns = []
    for tag in (name.replace("features/", f"{extractor}/") for name in HEADLINE):
        found = [run.evaluation.metrics.get(tag) if run.evaluation else None for run in runs]
        if any(found):
            cells = [_figure(m.value, f"{m.n:,} images") if m else Cell(NOTHING) for m in found]
            columns.append(_column(tag, "evaluated", cells))
    return columns


def _while_training(runs: Sequence[ListedRun]) -> list[Column]:
    """The newest values on validation images, of the usual metrics and a few others."""
    tags = list(WHILE_TRAINING)
    for run in runs:
        if not run.run.metrics.keys() & set(WHILE_TRAINING):
            others = sorted(tag for tag in run.run.metrics if tag.startswith(MEASURED))
            tags += [tag for tag in others[:1] if tag not in tags]
    columns = []
    for tag in tags[: len(WHILE_TRAINING) + MOST_OTHERS]:
        found = [run.run.metrics.get(tag) for run in runs]
        if any(value is not None for value in found):
            cells = [Cell(NOTHING) if value is None else _figure(value) for value in found]
            columns.append(_column(tag, "while training", cells))
    return columns


def _column(tag: str, note: str, cells: Sequence[Cell]) -> Column:
    metric = metric_of(tag)
    arrow = "↓" if metric.direction == "min" else "↑"
    return Column(f"{metric.name} {arrow}", note, metric.description, cells)


def _figure(value: float, note: str = "") -> Cell:
    shown = number(value)
    return Cell(shown, value, note) if shown else Cell(NOTHING)


def _sweep_row(sweep: ListedSweep) -> dict[str, Any]:
    outcome = sweep.outcome
    saved = outcome.saved
    about = _about(saved.run) if saved else ""
    count = len(outcome.trials)
    return {
        "name": sweep.name,
        "path": sweep.uri,
        "words": [shell_word(uri) for uri in sweep.contenders],
        "chooses": _chosen(outcome),
        "dataset": saved.dataset if saved else "",
        "problem": _inside(sweep.uri, sweep.problem),
        "preset": Cell(sweep.preset or NOTHING, sweep.preset, about),
        "trials": Cell(f"{count:,}", count, counts(outcome.trials)),
        "best": _best(outcome),
        "found": outcome.found,
        "confirmation": _confirmation(outcome),
        "active": _time(sweep.active_at),
    }


def _best(outcome: Outcome) -> Cell:
    trial, objective = outcome.best, outcome.objective
    if trial is None or objective is None or trial.objective is None:
        return Cell(NOTHING)
    shown = f"{objective.name} {number(trial.objective)}, trial {trial.number}"
    return Cell(shown, trial.objective, describe_values(trial))


def _confirmation(outcome: Outcome) -> Cell:
    confirmation = outcome.confirmation
    if confirmation is None:
        return Cell("not confirmed")
    if not confirmation.trial:
        shown = "nothing is better than the defaults"
    else:
        better = "is better" if confirmation.established else "is not established to be better"
        shown = f"trial {confirmation.trial} {better} than the defaults"
    # A sweep that has ended sums up in the same words.
    said = confirmation.found == outcome.found
    return Cell(shown, int(confirmation.established), "" if said else confirmation.found)


def _chosen(outcome: Outcome) -> str:
    """Which runs represent a sweep in a comparison."""
    if outcome.trainings:
        return counted(len(outcome.trainings), "training") + " of the confirmed setting"
    return f"trial {outcome.best.number}" if outcome.best else ""


def shell_word(path: str) -> str:
    """A path as a word of a command line for a POSIX shell, all of whose characters are shown."""
    if path.startswith("-"):
        path = f"./{path}"
    if printable(path) == path:
        return shlex.quote(path)
    # Bash, zsh and others read the octets of such names from escapes.
    octets = path.encode("utf-8", "surrogateescape")
    return "$'" + "".join(_octet(value) for value in octets) + "'"


def _octet(value: int) -> str:
    character = chr(value)
    if character in "\\'":
        return f"\\{character}"
    return character if " " <= character <= "~" else f"\\x{value:02x}"
