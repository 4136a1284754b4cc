"""The Python API: calls that do the work of the jobs, in a notebook for instance.

Options have the same names as on the command line, with underscores, and the same defaults.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from raygen.cli import TrainCommand, TuneCommand
from raygen.comparison.options import CompareOptions
from raygen.config.fields import option, updated
from raygen.config.job import JobOptions
from raygen.config.run import PRESETS, RunConfig
from raygen.core.checked import shown
from raygen.core.errors import UserError
from raygen.core.progress import ProgressLine, Silence
from raygen.core.status import Callbacks
from raygen.data.options import SUBCOMMANDS, PrepareOptions
from raygen.data.shards.manifest import Manifest
from raygen.evaluation.record import Evaluation
from raygen.inference.options import EvaluateOptions
from raygen.jobs.prepare import prepare_dataset
from raygen.jobs.train import train as run_training
from raygen.jobs.tune import Findings, resumed
from raygen.jobs.tune import tune as run_sweep
from raygen.training.summary import Summary
from raygen.tuning.options import TRIAL_DEFAULTS, SweepOptions

if TYPE_CHECKING:
    from raygen.comparison.page import Comparison

Dataclass = TypeVar("Dataclass", JobOptions, SweepOptions, CompareOptions)
WHERE = "options"


def prepare(kind: str, out: str, quiet: bool, options: Mapping[str, Any]) -> list[Manifest]:
    """See `raygen.prepare`."""
    known = {name: o for name, o in SUBCOMMANDS.items() if issubclass(o, PrepareOptions)}
    if kind not in known:
        raise UserError(f"kind {shown(kind)}: must be one of {', '.join(known)}")
    values = dict(options)
    if isinstance(values.get("size"), int | str):
        values["size"] = [values["size"]]
    if "size" in values:
        values["size"] = [str(size) for size in values["size"]]
    default = known[kind]()
    wanted = updated(default, _as_texts(default, values | {"out": out}), WHERE)
    return prepare_dataset(wanted, _line(quiet))


def train(
    preset: str, quiet: bool, callbacks: Callbacks | None, options: Mapping[str, Any]
) -> Summary:
    """See `raygen.train`."""
    job, rest = _taken(JobOptions(run_name=preset), options)
    command = TrainCommand(_run(preset, rest), job)
    return run_training(command, frozenset(rest), line=_line(quiet), callbacks=callbacks)


def tune(preset: str, quiet: bool, options: Mapping[str, Any]) -> Findings:
    """See `raygen.tune`."""
    job, rest = _taken(JobOptions(run_name=f"{preset}-sweep"), options)
    sweep, rest = _taken(SweepOptions(), rest)
    command = TuneCommand(_run(preset, TRIAL_DEFAULTS | rest), job, sweep)
    if sweep.resume:
        # The options of the saved sweep take precedence over defaults, and given ones over them.
        command = resumed(command, [preset, *_words(options)])
    return run_sweep(command, _line(quiet))


def evaluate(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    quiet: bool,
    options: Mapping[str, Any],
) -> list[Evaluation]:
    """See `raygen.evaluate`."""
    several = [runs] if isinstance(runs, str | os.PathLike) else runs
    values = dict(options) | {"runs": [os.fspath(run) for run in several]}
    if isinstance(values.get("weights"), str):
        values["weights"] = [values["weights"]]
    default = EvaluateOptions()
    wanted = updated(default, _as_texts(default, values), WHERE)
    # Imported here because it imports torch, which a training has to leave until Ray starts.
    from raygen.jobs.evaluate import evaluate as run_evaluation

    return run_evaluation(wanted, _line(quiet))


def compare(
    runs: Sequence[str | os.PathLike[str]], quiet: bool, options: Mapping[str, Any]
) -> "Comparison | None":
    """See `raygen.compare`."""
    values = dict(options) | {"runs": [os.fspath(run) for run in runs]}
    for name in ("weights", "data"):
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
    default = CompareOptions()
    if not values.get("suite"):
        wanted = updated(default, _as_texts(default, values), WHERE)
        from raygen.jobs.compare import compare as run_comparison

        return run_comparison(wanted, _line(quiet))
    wanted, of_trainings = _taken(default, values)
    from raygen.jobs.suite import run_suite

    return run_suite(wanted, _words(of_trainings), _line(quiet))


def _run(preset: str, values: Mapping[str, Any]) -> RunConfig:
    if preset not in PRESETS:
        raise UserError(f"preset {shown(preset)}: unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[preset].updated(_as_texts(PRESETS[preset], values), WHERE)


def _taken(default: Dataclass, options: Mapping[str, Any]) -> tuple[Dataclass, dict[str, Any]]:
    """Split options into those of a dataclass and the others. There is no `config` in Python."""
    own = {field.name for field in fields(default)} - {"config"}
    taken = {name: value for name, value in options.items() if name in own}
    rest = {name: value for name, value in options.items() if name not in own}
    return updated(default, _as_texts(default, taken), WHERE), rest


def _as_texts(default: object, values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn numbers into text for options that are text but may be numbers, such as trials."""
    return {
        name: str(value)
        if isinstance(getattr(default, name, None), str) and type(value) in (int, float)
        else value
        for name, value in values.items()
    }


def _words(options: Mapping[str, Any]) -> list[str]:
    """Write options as the words of a command line."""
    words: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            words += [option(name)] if value else []
        else:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"{option(name)}={each}" for each in values]
    return words


def _line(quiet: bool) -> ProgressLine | None:
    return Silence() if quiet else None
