"""Search for better hyperparameters of a preset: what `jobs/tune.py` does."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raygen.cli import (
    Interrupted,
    TuneCommand,
    command_line,
    given_options,
    parse_run,
    watch_command,
)
from raygen.cluster import connection as cluster
from raygen.cluster.lease import only_owner
from raygen.config.fields import option, updated
from raygen.config.job import JobOptions
from raygen.config.run import RESUMABLE_CHANGES
from raygen.core.checked import bare
from raygen.core.errors import RunError, UserError
from raygen.core.progress import ProgressLine, describe
from raygen.core.retry import OUTAGES
from raygen.core.signals import Signals
from raygen.core.status import Status
from raygen.core.uris import names_host
from raygen.data.dataset import check_files, draw_dataset, open_dataset
from raygen.data.shards.manifest import MANIFEST
from raygen.data.shards.object_store import store_images
from raygen.data.sources.source import TRAIN
from raygen.training.placement import check_sync_bn
from raygen.training.run import SUMMARY, RunFolder
from raygen.tuning.capacity import plan_capacity
from raygen.tuning.findings import BEST, SEED, over_seeds, sentence, write_findings
from raygen.tuning.options import SweepOptions
from raygen.tuning.planning import (
    Plan,
    check_dataset,
    check_folder,
    check_length,
    lengths,
    make_plan,
    open_folder,
    read_history,
)
from raygen.tuning.records import ENDED, SWEEP, SweepFolder
from raygen.tuning.sweep import Finished, run_sweep
from raygen.tuning.table import LiveTable, aligned, trial_rows
from raygen.tuning.trial import Task

MAY_CHANGE = {"trials", "max_concurrent", "time_budget", "resume", "workers_per_trial"}
"""Options of a sweep that may differ when it is resumed."""


def tune(command: TuneCommand) -> None:
    """Run a sweep, or go on with it.

    Raises: UserError, RunError, Interrupted.
    """
    job = command.job
    sweep = SweepFolder(RunFolder.at(job.storage, job.run_name).folder)
    plan = make_plan(command.run, command.sweep)
    data, manifest = open_dataset(plan.config, job.storage)
    if manifest:
        check_length(plan, manifest)
    check_folder(sweep, job, command.sweep, plan)
    # All have answered: from here on, they are waited for.
    sweep, data = sweep.patient(job.patience), data.patient(job.patience)

    line, table = ProgressLine(), LiveTable()

    def leave_line() -> None:
        line.close()
        table.close()

    line.show("starting Ray")
    with (
        Signals(leave_line, "trials are being saved") as signals,
        OUTAGES.told_to(line.warn),
        # Left after Ray, whose workers may write until it has ended.
        contextlib.ExitStack() as leases,
        cluster.connected(job.verbose),
        contextlib.ExitStack() as stack,
    ):
        capacity = plan_capacity(
            cluster.possible_nodes(),
            command.sweep.workers_per_trial,
            command.sweep.max_concurrent,
            plan.count,
            plan.config.reader,
        )
        check_sync_bn(plan.config, capacity.use_gpu)
        read = {"--data": data.join(MANIFEST)} if manifest else {}
        cluster.check_shared(read, {"--storage": sweep.folder.parent})
        lease = leases.enter_context(only_owner(sweep.folder, "--run-name", line.show))
        sweep = replace(sweep, fence=lease.fence)
        # Another job may have been at work here until just now.
        check_folder(sweep, job, command.sweep, plan)
        history = read_history(sweep, plan) if command.sweep.resume else []
        status = stack.enter_context(cluster.own_actor(Status))
        if manifest is None:
            manifest = draw_dataset(plan.config, data, line)
            check_length(plan, manifest)
        elif job.restart:
            check_files(data, manifest, line)
        if command.sweep.resume:
            check_dataset(sweep, command.run.data, manifest)
        total_images, report_images = lengths(plan.config, manifest)
        open_folder(sweep, command.run, command.sweep, plan, manifest)
        stored = store_images(
            data,
            manifest,
            lambda done, total: line.show(f"into the object store: {describe(done, total, 0)}"),
        )
        line.close()
        print(
            f"{plan.config.preset}: {plan.count} trials of at most {total_images:,} images, "
            f"{capacity}; {manifest.rows(TRAIN):,} training images in {data.uri}"
        )
        if not stored:
            print("the dataset is too large for the object store; trials read its files themselves")
        for name, domain in plan.space.items():
            print(f"  {name}: {domain}, default {plan.planned[0][name]}")
        ended = [trial for trial in history if trial.status in ENDED]
        if command.sweep.resume:
            begun = len(history) - len(ended)
            print(f"resuming {sweep.folder.uri}: {len(ended)} trials have ended, {begun} go on")
        print(f"TensorBoard: {watch_command(sweep.folder)}")
        task = Task(
            config=plan.config,
            sweep=sweep,
            data=data,
            manifest=manifest,
            stored=stored,
            objective=plan.objective,
            capacity=capacity,
            status=status,
            total_images=total_images,
            report_images=report_images,
            verbose=job.verbose,
        )
        finished = run_sweep(
            task,
            command.sweep,
            plan,
            history,
            table,
            signals,
            lease,
        )
        # The last one follows, with all trials.
        table.clear()
        leave_line()
        signals.ignore()
        left = conclude(sweep, command, plan, finished, capacity.at_once)
        if left and signals.stop.is_set():
            raise Interrupted("interrupted")


def resumed(command: TuneCommand, argv: Sequence[str]) -> TuneCommand:
    """The options of the sweep that is resumed, replaced by the command line's.

    Args: command: what the command line alone says, which names the sweep.
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
    # What may be repeated would be added to the default.
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
    may_change = RESUMABLE_CHANGES - {"steps", "epochs", "validation_count"}
    for name, value in command.run.to_json().items():
        if name not in may_change and saved.run.get(name, value) != value:
            raise UserError(
                f"{option(name)} {value}: the sweep in {folder.uri} has {bare(saved.run[name])}; "
                "leave it out to resume it, or choose another --run-name for a new sweep"
            )
    return command


def conclude(
    sweep: SweepFolder, command: TuneCommand, plan: Plan, finished: Finished, at_once: int
) -> int:
    """Write and say what came out. Returns: how many trials are left to run.

    Raises: RunError if nothing came out.
    """
    trials = finished.trials
    names = write_findings(sweep.folder, plan.config, plan.space, trials, plan.objective)
    print("\n".join(aligned(trial_rows(trials, plan.objective, plan.space, {}))))
    ended = sum(trial.status in ENDED for trial in trials)
    if BEST not in names:
        reasons = [trial.reason for trial in trials if trial.reason]
        raise RunError(
            f"no trial has been measured: {reasons[0] if reasons else 'none has begun'}\n"
            f"{sweep.folder.uri} holds what there is; --resume goes on with what has not ended"
        )
    if SEED in plan.space:
        print("\n".join(aligned(over_seeds(trials, plan.objective))))
    found = sentence(trials, plan.objective)
    print(found)
    summary: dict[str, Any] = {"preset": plan.config.preset, "found": found, "trials": len(trials)}
    summary |= {"images_seen": sum(trial.images_seen for trial in trials), "at_once": at_once}
    if finished.seconds:
        summary |= {"seconds": finished.seconds, "busy_share": finished.busy_share}
        sweep.folder.write_json(SUMMARY, summary)
    print(f"found:       {', '.join(sweep.folder.join(name).uri for name in names)}")
    best = sweep.folder.join(BEST).uri
    there = ["--storage", command.job.storage] if command.job.storage != JobOptions.storage else []
    # It has to be said again where a file alone does not decide.
    data = ["--data", plan.config.data] if names_host(plan.config.data) else []
    again = ["jobs/train.py", "--config", best, "--run-name", "tuned", *there, *data]
    print(f"train it:    {command_line(*again)}")
    if ended < plan.count:
        again = ["jobs/tune.py", plan.config.preset, "--storage", command.job.storage]
        again += ["--run-name", command.job.run_name, "--resume", *data]
        print(f"{ended} of {plan.count} trials have ended; to go on: {command_line(*again)}")
    return plan.count - ended
