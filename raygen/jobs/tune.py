"""Search for better hyperparameters of a preset: the work of `jobs/tune.py`."""

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raygen.cli import TuneCommand, command_line, given_options, parse_run, watch_command
from raygen.cluster import connection as cluster
from raygen.cluster.lease import Lease
from raygen.config.fields import option, updated
from raygen.config.job import JobOptions
from raygen.config.machines import MAY_GROW_TO
from raygen.config.run import RESUMABLE_CHANGES, RunConfig
from raygen.core.checked import bare
from raygen.core.errors import Interrupted, RunError, UserError
from raygen.core.progress import ProgressLine, describe
from raygen.core.status import tell_rejected
from raygen.core.uris import names_host
from raygen.data.dataset import check_files, draw_as_begun, open_dataset, place_of
from raygen.data.shards.object_store import store_images
from raygen.data.splits import TRAIN, VALIDATION
from raygen.launch import Launch, launched, list_rejected
from raygen.training.placement import check_sync_bn
from raygen.training.run import SUMMARY, RunFolder
from raygen.training.usage import Usage
from raygen.tuning.capacity import Capacity, plan_capacity
from raygen.tuning.confirming import (
    Confirmed,
    candidates,
    compare,
    fresh_seeds,
    leaders,
    plan_confirmation,
    read_list,
    reserve_seconds,
)
from raygen.tuning.confirming import rows as confirmation_rows
from raygen.tuning.confirming import sentence as confirmation_sentence
from raygen.tuning.criterion import choose_criterion
from raygen.tuning.findings import BEST, best_config, counts, over_seeds, sentence, write_findings
from raygen.tuning.gpu_sharing import largest, trials_per_gpu
from raygen.tuning.options import AS_MANY_AS_FIT, SweepOptions
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
from raygen.tuning.records import ENDED, SEED, SWEEP, SweepFolder, Trial, best_trial
from raygen.tuning.sweep import Finished, run_sweep
from raygen.tuning.table import LiveTable, aligned, trial_rows
from raygen.tuning.trial import Task

MAY_CHANGE = {
    "trials",
    "max_concurrent",
    "time_budget",
    "resume",
    "workers_per_trial",
    "confirm",
    "confirm_best",
}
"""Options of a sweep that may differ when it is resumed."""


@dataclass(frozen=True)
class Findings:
    """The results of a sweep so far.

    Attributes:
        trials: all trials that have begun, in the order of their numbers.
        best: the options of the best trial, at the preset's full length.
        sentence: a summary of the results in one line.
        left: number of trials, and of trainings that confirm them, that have not ended.
        confirmed: what the best settings reached with new seeds; None if that was not tried.
    """

    trials: list[Trial]
    best: RunConfig
    sentence: str
    left: int
    confirmed: Confirmed | None = None


def tune(
    command: TuneCommand, line: ProgressLine | None = None, of_suite: bool = False
) -> Findings:
    """Run a sweep, or resume it.

    Args:
        line: shows the progress; None: on the terminal, with a live table.
        of_suite: the sweep is a part of a suite: its time budget is the search's alone, whatever
            time the confirmation takes, and what to do next is not told.
    Raises: UserError, RunError, Interrupted.
    """
    job, options = command.job, command.sweep
    sweep = SweepFolder(RunFolder.at(job.storage, job.run_name).folder)
    plan = make_plan(command.run, options)
    begun = ""
    if options.resume and sweep.folder.exists(SWEEP):
        saved = sweep.saved()
        begun, plan = saved.dataset, continued(plan, saved, options)
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
        capacity = _capacity(
            options, plan, job.machines, _per_gpu(options, plan, job.machines, line)
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
        criterion = choose_criterion(
            plan.objective, plan.config, total_images, data, manifest, line, gpus
        )
        config = replace(plan.config, quality_samples=criterion.samples)
        plan = replace(plan, config=config, objective=criterion.objective)
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
            extractor=criterion.extractor,
            capacity=capacity,
            status=status,
            total_images=total_images,
            report_images=report_images,
            verbose=job.verbose,
        )
        _announce(task, plan, history if options.resume else None, line)
        began = time.monotonic()
        reserve = partial(
            reserve_seconds,
            trainings=0 if of_suite else options.confirm * (1 + options.confirm_best),
            total_images=total_images,
            at_once=capacity.at_once,
        )
        try:
            if of_suite and read_list(sweep.confirmation):
                # What is confirmed has been chosen, so the search is over.
                finished = Finished(history, 0.0, 0.0)
            else:
                finished = run_sweep(
                    task, options, plan, history, table, launch.signals, lease, reserve
                )
            confirmed = None
            if options.confirm:
                spent = -math.inf if of_suite else time.monotonic() - began
                machines, trials = job.machines, finished.trials
                confirmed = _confirm(
                    task, options, plan, machines, trials, table, launch, lease, spent, of_suite
                )
        finally:
            list_rejected(sweep.folder, manifest, status)
        # The live table gives way to the final one, which lists all trials.
        table.clear()
        leave()
        launch.signals.ignore()
        findings = conclude(task, command, plan, finished, confirmed, line, of_suite)
        if findings.left and launch.signals.stop.is_set():
            raise Interrupted("interrupted")
        return findings


def _per_gpu(options: SweepOptions, plan: Plan, machines: cluster.Nodes, line: ProgressLine) -> int:
    """How many of the plan's trials may share a GPU. Raises: UserError, RunError."""
    if options.max_concurrent != "auto" or options.workers_per_trial > 1:
        return 1
    nodes = cluster.possible_nodes(machines)
    return trials_per_gpu([largest(plan.config, plan.space)], plan.count, nodes, line)


def _capacity(options: SweepOptions, plan: Plan, machines: cluster.Nodes, per_gpu: int) -> Capacity:
    """How the plan's trials share the cluster. Raises: UserError."""
    return plan_capacity(
        cluster.possible_nodes(machines),
        options.workers_per_trial,
        options.max_concurrent,
        plan.count,
        plan.config.reader,
        per_gpu,
    )


def _confirm(
    task: Task,
    options: SweepOptions,
    plan: Plan,
    machines: cluster.Nodes,
    trials: list[Trial],
    table: LiveTable,
    launch: Launch,
    lease: Lease,
    spent: float,
    of_suite: bool,
) -> Confirmed | None:
    """Train the best settings again, as far as the time goes.

    Args:
        machines: that the user says may come; trials: of the search; spent: seconds it has taken.
        of_suite: see `tune`; the defaults are trained whatever the search has found.
    Returns: None if the search has found nothing.
    """
    folder = task.sweep.confirmation
    best, leading = best_trial(trials, plan.objective), leaders(trials, plan.objective)
    if best is None and not of_suite:
        return None
    # A suite trains the defaults alone where nothing better was found.
    beaten = of_suite and not leading and (best is None or best.number == 0)
    most = 0 if beaten else options.confirm_best
    settings = candidates(trials, plan, most)
    seeds = fresh_seeds(trials, plan, options.confirm)
    budget = options.budget_seconds()
    left = math.inf if budget is None else budget - spent
    trained, listed = folder.read_trials(), read_list(folder)
    if left >= 1 and not launch.signals.stop.is_set():
        listed_plan, listed, trained = plan_confirmation(
            folder, trials, plan, options.confirm, most
        )
        ended = sum(trial.status in ENDED for trial in trained)
        if ended < len(listed):
            names = ["the defaults", *(f"trial {trial.number}" for trial in settings[1:])]
            table.clear()
            for trial in settings[1:]:
                if trial in leading:
                    table.tell(f"trial {trial.number} was the best so far when its time ended")
            table.tell(
                f"confirming {', '.join(names)} with {options.confirm} new seeds each: "
                f"{len(listed):,} trainings, of which {ended} have ended"
            )
        limit = f"{int(left)}s" if math.isfinite(left) else ""
        as_listed = replace(options, scheduler="none", search="random", time_budget=limit)
        # There may be fewer of these trainings at once than trials, each with more of the machine.
        capacity = _capacity(options, listed_plan, machines, task.capacity.per_gpu)
        status = launch.status()
        confirming = replace(task, sweep=folder, capacity=capacity, status=status)
        trained = run_sweep(
            confirming, as_listed, listed_plan, trained, table, launch.signals, lease
        ).trials
    return compare(settings, listed, trained, plan.objective, seeds)


def _announce(task: Task, plan: Plan, history: list[Trial] | None, line: ProgressLine) -> None:
    """Announce the search. Args: history: trials of earlier sessions, if the sweep goes on."""
    trials = f"{plan.count:,} trials" if plan.count < AS_MANY_AS_FIT else "as many trials as fit"
    line.tell(
        f"{plan.config.preset}: {trials} of at most {task.total_images:,} images, "
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
    task: Task,
    command: TuneCommand,
    plan: Plan,
    finished: Finished,
    confirmed: Confirmed | None,
    line: ProgressLine,
    of_suite: bool,
) -> Findings:
    """Write the results and print a summary.

    Args: of_suite: see `tune`.
    Raises: RunError if there are no results.
    """
    sweep, at_once = task.sweep, task.capacity.at_once
    trials = finished.trials
    confirming = confirmed.left if confirmed else 0
    if confirmed and not confirmed.best.found:
        confirmed = None
    is_random = plan.search == "random" and command.sweep.scheduler != "pbt"
    names = write_findings(
        sweep.folder, plan.config, plan.space, trials, plan.objective, is_random, confirmed
    )
    rows = trial_rows(trials, plan.objective, plan.space, {}, task.updates)
    line.tell("\n".join(aligned(rows)))
    ended = sum(trial.status in ENDED for trial in trials)
    best = best_trial(trials, plan.objective)
    if best is None and not (of_suite and confirmed):
        reasons = [trial.reason for trial in trials if trial.reason]
        raise RunError(
            f"no trial has been measured: {reasons[0] if reasons else 'none has begun'}\n"
            f"{sweep.folder.uri} holds what there is; --resume goes on with what has not ended"
        )
    if SEED in plan.space:
        line.tell("\n".join(aligned(over_seeds(trials, plan.objective))))
    found = sentence(trials, plan.objective) if best else "none was measured"
    line.tell(f"{counts(trials)}; {found}")
    chosen = confirmed.best.trial if confirmed else best
    assert chosen
    if confirmed:
        line.tell("\n".join(aligned(confirmation_rows(confirmed, plan))))
        found = confirmation_sentence(confirmed)
        line.tell(found)
    elif not of_suite:
        line.tell("this is not confirmed: each setting was trained with one seed")
    summary: dict[str, Any] = {"preset": plan.config.preset, "found": found, "trials": len(trials)}
    summary |= {"images_seen": sum(trial.images_seen for trial in trials), "at_once": at_once}
    if finished.seconds:
        summary |= {"seconds": finished.seconds, "busy_share": finished.busy_share}
    # A trial is one worker's.
    seconds = sum(trial.seconds for trial in trials) + (confirmed.seconds if confirmed else 0.0)
    usage = Usage(round(seconds, 1))
    summary["worker_seconds"] = usage.worker_seconds
    sweep.folder.write_json(SUMMARY, summary)
    left = plan.count - ended + confirming
    findings = Findings(trials, best_config(plan.config, chosen), found, left, confirmed)
    if of_suite:
        return findings
    line.tell(f"used:        {usage.describe(command.job.price)}")
    line.tell(f"found:       {', '.join(sweep.folder.join(name).uri for name in names)}")
    there = ["--storage", command.job.storage] if command.job.storage != JobOptions.storage else []
    # A file alone may not decide which machine is sent credentials, so --data is repeated.
    rest = ["--data", plan.config.data] if names_host(plan.config.data) else []
    if machines := command.job.cluster_may_grow_to:
        rest += [MAY_GROW_TO, machines]
    again = [
        "jobs/train.py",
        "--config",
        sweep.folder.join(BEST).uri,
        "--run-name",
        "tuned",
        *there,
        *rest,
    ]
    line.tell(f"train it:    {command_line(*again)}")
    if left:
        again = ["jobs/tune.py", plan.config.preset, "--storage", command.job.storage]
        again += ["--run-name", command.job.run_name, "--resume", *rest]
        line.tell(
            f"{ended:,} of {plan.count:,} trials have ended"
            + (f", and {confirming} trainings to confirm them have not" if confirming else "")
            + f"; to go on: {command_line(*again)}"
        )
    return findings
