"""Search for better hyperparameters of a preset: the work of `jobs/tune.py`."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raygen.cli import TuneCommand, command_line, given_options, parse_run, watch_command
from raygen.cluster import connection as cluster
from raygen.config.fields import option, updated
from raygen.config.job import JobOptions
from raygen.config.run import RESUMABLE_CHANGES, RunConfig
from raygen.core.checked import bare
from raygen.core.errors import Interrupted, RunError, UserError
from raygen.core.progress import ProgressLine, describe
from raygen.core.status import tell_rejected
from raygen.core.uris import names_host
from raygen.data.dataset import check_files, draw_as_begun, open_dataset, place_of
from raygen.data.shards.object_store import store_images
from raygen.data.splits import TRAIN, VALIDATION
from raygen.launch import launched, list_rejected
from raygen.training.placement import check_sync_bn
from raygen.training.run import SUMMARY, RunFolder
from raygen.tuning.capacity import plan_capacity
from raygen.tuning.findings import BEST, SEED, best_config, over_seeds, sentence, write_findings
from raygen.tuning.judging import choose_judge
from raygen.tuning.options import SweepOptions
from raygen.tuning.planning import (
    Plan,
    check_dataset,
    check_folder,
    check_length,
    continued,
    lengths,
    make_plan,
    open_folder,
    read_trials,
)
from raygen.tuning.records import ENDED, SWEEP, SweepFolder, Trial, best_trial
from raygen.tuning.sweep import Finished, run_sweep
from raygen.tuning.table import LiveTable, aligned, trial_rows
from raygen.tuning.trial import Task

MAY_CHANGE = {"trials", "max_concurrent", "time_budget", "resume", "workers_per_trial"}
"""Options of a sweep that may differ when it is resumed."""


@dataclass(frozen=True)
class Findings:
    """The results of a sweep so far.

    Attributes:
        trials: all trials that have begun, in the order of their numbers.
        best: the options of the best trial, at the preset's full length.
        sentence: a summary of the results in one line.
        left: number of trials that have not ended.
    """

    trials: list[Trial]
    best: RunConfig
    sentence: str
    left: int


def tune(command: TuneCommand, line: ProgressLine | None = None) -> Findings:
    """Run a sweep, or resume it.

    Args: line: shows the progress; None: on the terminal, with a live table.
    Raises: UserError, RunError, Interrupted.
    """
    job, options = command.job, command.sweep
    sweep = SweepFolder(RunFolder.at(job.storage, job.run_name).folder)
    plan = make_plan(command.run, options)
    begun = ""
    if options.resume and sweep.folder.exists(SWEEP):
        saved = sweep.saved()
        begun, plan = saved.dataset, continued(plan, saved)
    data, manifest = open_dataset(plan.config, job.storage, begun)
    if manifest:
        check_length(plan, manifest)
    check_folder(sweep, job, options, plan)
    # All storages have answered once. From now on, outages are waited for.
    sweep, data = sweep.patient(job.patience), data.patient(job.patience)
    manifest = manifest and manifest.patient(job.patience)

    table = LiveTable(io.StringIO() if line else None)
    line = line or ProgressLine()

    def leave() -> None:
        line.close()
        table.close()

    with launched(line, "trials are being saved", job.verbose, leave) as launch:
        capacity = plan_capacity(
            cluster.possible_nodes(),
            options.workers_per_trial,
            options.max_concurrent,
            plan.count,
            plan.config.reader,
        )
        check_sync_bn(plan.config, capacity.use_gpu)
        lease = launch.own(sweep.folder, place_of(data, manifest) if manifest else None)
        sweep = replace(sweep, fence=lease.fence)
        # Check again, because another job may have changed the folder before this one owned it.
        check_folder(sweep, job, options, plan)
        history = read_trials(sweep, plan) if options.resume else []
        status = launch.status()
        if manifest is None:
            data, manifest = draw_as_begun(plan.config, data, line, begun)
            check_length(plan, manifest)
        elif job.restart:
            check_files(data, manifest, line)
        if options.resume:
            check_dataset(sweep, command.run.data, manifest)
        total_images, report_images = lengths(plan.config, manifest)
        gpus = float(capacity.use_gpu)
        judge = choose_judge(plan.objective, plan.config, total_images, data, manifest, line, gpus)
        judged_by = replace(plan.config, quality_samples=judge.samples)
        plan = replace(plan, config=judged_by, objective=judge.objective)
        open_folder(sweep, command.run, options, plan, manifest)
        manifest = manifest.telling(partial(tell_rejected, status))
        stored, manifest = store_images(
            data,
            manifest,
            lambda done, total: line.show(f"into the object store: {describe(done, total, 0)}"),
        )
        task = Task(
            config=plan.config,
            sweep=sweep,
            data=data,
            manifest=manifest,
            stored=stored,
            objective=plan.objective,
            extractor=judge.extractor,
            capacity=capacity,
            status=status,
            total_images=total_images,
            report_images=report_images,
            verbose=job.verbose,
        )
        _announce(task, plan, history if options.resume else None, line)
        try:
            finished = run_sweep(task, options, plan, history, table, launch.signals, lease)
        finally:
            list_rejected(sweep.folder, manifest, status)
        # The live table gives way to the final one, which lists all trials.
        table.clear()
        leave()
        launch.signals.ignore()
        findings = conclude(task, command, plan, finished, line)
        if findings.left and launch.signals.stop.is_set():
            raise Interrupted("interrupted")
        return findings


def _announce(task: Task, plan: Plan, history: list[Trial] | None, line: ProgressLine) -> None:
    """Announce the search. Args: history: trials of earlier sessions, if the sweep goes on."""
    line.tell(
        f"{plan.config.preset}: {plan.count:,} trials of at most {task.total_images:,} images, "
        f"{task.capacity}; {task.manifest.rows(TRAIN):,} training images in {task.data.uri}"
    )
    if task.objective.metric.startswith("quality/"):
        count = min(plan.config.quality_samples, task.manifest.rows(VALIDATION))
        line.tell(f"  compared by {task.objective.name} of {count:,} samples")
    if not task.stored:
        line.tell("the dataset is too large for the object store; trials read its files themselves")
    for name, domain in plan.space.items():
        line.tell(f"  {name}: {domain}, default {plan.defaults[name]}")
    if history is not None:
        ended = sum(trial.status in ENDED for trial in history)
        begun = len(history) - ended
        uri = task.sweep.folder.uri
        line.tell(f"resuming {uri}: {ended} trials have ended, {begun} go on")
    line.tell(f"TensorBoard: {watch_command(task.sweep.folder)}")


def resumed(command: TuneCommand, argv: Sequence[str]) -> TuneCommand:
    """The options of the sweep to resume, replaced by those of the command line.

    Args: command: the options of the command line alone, which name the sweep.
    Raises: UserError.
    """
    folder = RunFolder.at(command.job.storage, command.job.run_name).folder
    if not folder.exists(SWEEP):
        raise UserError(
            f"--resume: {folder.uri} holds no sweep; check --storage and --run-name, or leave "
            "--resume out to begin one"
        )
    saved = SweepFolder(folder).saved()
    where = folder.join(SWEEP).uri
    sweep = updated(SweepOptions(), saved.sweep | {"set": []}, where)
    # A repeatable option on the command line adds to its default, so the default has to be empty.
    if "set" not in given_options(argv):
        sweep = replace(sweep, set=tuple(saved.sweep.get("set", ())))
    command = parse_run(TuneCommand, argv, "", "-sweep", sweep, saved.run)
    for name, before in saved.sweep.items():
        value = getattr(command.sweep, name)
        value = list(value) if isinstance(value, tuple) else value
        if name not in MAY_CHANGE and value != before:
            raise UserError(
                f"{option(name)} {value}: the sweep in {folder.uri} has {bare(before)}; leave it "
                "out to resume it, or choose another --run-name for a new sweep"
            )
    may_change = RESUMABLE_CHANGES - {"steps", "epochs", "validation_count", "quality_samples"}
    for name, value in command.run.to_json().items():
        if name not in may_change and saved.run.get(name, value) != value:
            raise UserError(
                f"{option(name)} {value}: the sweep in {folder.uri} has {bare(saved.run[name])}; "
                "leave it out to resume it, or choose another --run-name for a new sweep"
            )
    return command


def conclude(
    task: Task, command: TuneCommand, plan: Plan, finished: Finished, line: ProgressLine
) -> Findings:
    """Write the results and print a summary.

    Raises: RunError if there are no results.
    """
    sweep, at_once = task.sweep, task.capacity.at_once
    trials = finished.trials
    names = write_findings(sweep.folder, plan.config, plan.space, trials, plan.objective)
    rows = trial_rows(trials, plan.objective, plan.space, {}, task.updates)
    line.tell("\n".join(aligned(rows)))
    ended = sum(trial.status in ENDED for trial in trials)
    best = best_trial(trials, plan.objective)
    if best is None:
        reasons = [trial.reason for trial in trials if trial.reason]
        raise RunError(
            f"no trial has been measured: {reasons[0] if reasons else 'none has begun'}\n"
            f"{sweep.folder.uri} holds what there is; --resume goes on with what has not ended"
        )
    if SEED in plan.space:
        line.tell("\n".join(aligned(over_seeds(trials, plan.objective))))
    found = sentence(trials, plan.objective)
    line.tell(found)
    summary: dict[str, Any] = {"preset": plan.config.preset, "found": found, "trials": len(trials)}
    summary |= {"images_seen": sum(trial.images_seen for trial in trials), "at_once": at_once}
    if finished.seconds:
        summary |= {"seconds": finished.seconds, "busy_share": finished.busy_share}
        sweep.folder.write_json(SUMMARY, summary)
    line.tell(f"found:       {', '.join(sweep.folder.join(name).uri for name in names)}")
    there = ["--storage", command.job.storage] if command.job.storage != JobOptions.storage else []
    # A file alone may not decide which machine is sent credentials, so --data is repeated.
    data = ["--data", plan.config.data] if names_host(plan.config.data) else []
    again = [
        "jobs/train.py",
        "--config",
        sweep.folder.join(BEST).uri,
        "--run-name",
        "tuned",
        *there,
        *data,
    ]
    line.tell(f"train it:    {command_line(*again)}")
    if ended < plan.count:
        again = ["jobs/tune.py", plan.config.preset, "--storage", command.job.storage]
        again += ["--run-name", command.job.run_name, "--resume", *data]
        line.tell(
            f"{ended:,} of {plan.count:,} trials have ended; to go on: {command_line(*again)}"
        )
    return Findings(trials, best_config(plan.config, best), found, plan.count - ended)
