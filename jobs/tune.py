"""Search for better hyperparameters of a preset, on a Ray cluster or on this machine.

python jobs/tune.py dcgan-celeba --data data/celeba-32 --steps 500 --trials 24
python jobs/tune.py dcgan-celeba --resume
python jobs/train.py --config runs/dcgan-celeba-sweep/best.json --run-name tuned
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from raygen import cluster
from raygen.cli import Interrupted, TuneCommand, command_line, parse_run, run_job
from raygen.config import DRAWN, PRESETS, RESUMABLE_CHANGES, RunConfig
from raygen.data.prepare import Target, prepare
from raygen.data.shards import Manifest
from raygen.data.sources import TRAIN, VALIDATION, DrawnFaces, drawn_folder
from raygen.data.stored import store_images
from raygen.errors import RunError, UserError
from raygen.job_options import JobOptions, SweepOptions
from raygen.options import option, updated
from raygen.progress import ProgressLine, describe
from raygen.search_space import Space, Values, grid_trials, random_trials, read_space
from raygen.signals import Signals
from raygen.storage import Folder
from raygen.training.ray_worker import check_batch
from raygen.training.run import SUMMARY, RunFolder
from raygen.tuning import hparams
from raygen.tuning.capacity import nodes_of_cluster, plan_capacity
from raygen.tuning.findings import BEST, SEED, over_seeds, sentence, write_findings
from raygen.tuning.objective import Objective, choose_objective
from raygen.tuning.records import ENDED, REPORTS, SWEEP, SweepFolder
from raygen.tuning.schedulers import import_optuna
from raygen.tuning.sweep import Finished, run_sweep
from raygen.tuning.table import LiveTable, aligned, trial_rows
from raygen.tuning.trial import Task

TRIALS = 16
KEPT = 1
"""Checkpoints of each trial, unless the user wants more; the best one besides."""
NOT_SEARCHED = RESUMABLE_CHANGES | {"preset", "drawn_count"}
"""They decide how long trials are and how they are measured, which must be the same for all."""
MAY_CHANGE = {"trials", "max_concurrent", "time_budget", "resume", "workers_per_trial"}
"""Options of a sweep that may differ when it is resumed."""


@dataclass(frozen=True)
class Plan:
    """What a sweep searches, decided before anything starts.

    Attributes:
        config: the run's options, as trial 0 has them.
        planned: the values of each trial; of trial 0 alone, if a searcher chooses the others'.
        count: of trials.
    """

    config: RunConfig
    objective: Objective
    space: Space
    planned: list[Values]
    count: int


def main(argv: Sequence[str]) -> None:
    command = read_command(argv)
    job, sweep = command.job, SweepFolder(sweep_folder(command.job))
    history = sweep.read_trials() if command.sweep.resume else []
    plan = make_plan(command.run, command.sweep)
    manifest = None
    image = PRESETS[plan.config.preset].image.of_faces
    if plan.config.data == DRAWN:
        data = drawn_folder(Folder.at(job.storage), image, plan.config.drawn_count)
    else:
        data = Folder.at(plan.config.data)
        manifest = Manifest.load(data)
        plan.config.check_images(manifest.height, manifest.width)
        check_length(plan, manifest)
    check_folder(sweep, command, plan)

    line, table = ProgressLine(), LiveTable()

    def leave_line() -> None:
        line.close()
        table.close()

    line.show("starting Ray")
    with Signals(leave_line, "trials are being saved") as signals, cluster.connected(job.verbose):
        capacity = plan_capacity(
            nodes_of_cluster(),
            command.sweep.workers_per_trial,
            command.sweep.max_concurrent,
            plan.count,
            plan.config.reader,
        )
        check_batch(plan.config, capacity.workers)
        if manifest is None:
            [manifest] = prepare(
                DrawnFaces(plan.config.drawn_count),
                [Target(data, image)],
                progress=lambda done, total, rate: line.show(
                    f"drawing faces: {describe(done, total, rate)}"
                ),
            )
            check_length(plan, manifest)
        if job.restart:
            sweep.folder.delete()
        check_dataset(sweep, command, manifest)
        total_images, report_images = lengths(plan.config, manifest)
        open_folder(sweep, command, plan, manifest)
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
        print(f"TensorBoard: {command_line('tensorboard', '--logdir', sweep.folder.uri)}")
        task = Task(
            config=plan.config,
            sweep=sweep,
            data=data,
            manifest=manifest,
            stored=stored,
            objective=plan.objective,
            capacity=capacity,
            board=None,
            total_images=total_images,
            report_images=report_images,
            verbose=job.verbose,
        )
        finished = run_sweep(
            task,
            command.sweep,
            plan.space,
            plan.planned,
            plan.count,
            history,
            table,
            signals,
        )
        leave_line()
        signals.ignore()
        conclude(sweep, command, plan, finished, capacity.at_once)


def read_command(argv: Sequence[str]) -> TuneCommand:
    """The options: those of the sweep that is resumed, replaced by the command line's.

    Raises: UserError.
    """
    description = "Search for better hyperparameters."
    command = parse_run(TuneCommand, argv, description, "-sweep", saved={"keep": KEPT})
    if not command.sweep.resume:
        return command
    folder = sweep_folder(command.job)
    if not folder.exists(SWEEP):
        raise UserError(
            f"--resume: {folder.uri} holds no sweep; check --storage and --run-name, or leave "
            "--resume out to begin one"
        )
    saved = folder.read_json(SWEEP)
    where = folder.join(SWEEP).uri
    sweep = updated(SweepOptions(), saved["sweep"] | {"set": []}, where)
    given = any(word.split("=")[0] == "--set" for word in argv)
    # What may be repeated would be added to the default.
    if not given:
        sweep = replace(sweep, set=tuple(saved["sweep"]["set"]))
    command = parse_run(TuneCommand, argv, description, "-sweep", sweep, saved["run"])
    for name, before in saved["sweep"].items():
        value = getattr(command.sweep, name)
        value = list(value) if isinstance(value, tuple) else value
        if name not in MAY_CHANGE and value != before:
            raise UserError(
                f"{option(name)} {value}: the sweep in {folder.uri} has {before}; leave it out to "
                "resume it, or choose another --run-name for a new sweep"
            )
    may_change = RESUMABLE_CHANGES - {"steps", "epochs", "validation_count"}
    for name, value in command.run.to_json().items():
        if name not in may_change and saved["run"].get(name, value) != value:
            raise UserError(
                f"{option(name)} {value}: the sweep in {folder.uri} has {saved['run'][name]}; "
                "leave it out to resume it, or choose another --run-name for a new sweep"
            )
    return command


def sweep_folder(job: JobOptions) -> Folder:
    return RunFolder.at(job.storage, job.run_name).folder


def make_plan(run: RunConfig, sweep: SweepOptions) -> Plan:
    """Decide what is searched. Raises: UserError."""
    config = replace(run, model=run.model.explicit)
    known = {name: v for name, v in config.to_json().items() if name not in NOT_SEARCHED}
    space = read_space(config.model.search_space, sweep.space, sweep.set, known)
    if not space:
        raise UserError(
            f"--space {sweep.space or 'of the preset'}: there is nothing to search; name options "
            "with --set, as --set lr_g=loguniform(1e-5,1e-3)"
        )
    for name, domain in space.items():
        for value in domain.extremes:
            try:
                config.updated({name: value}, f"--set {name}")
            except UserError as error:
                raise UserError(f"--set {name}={domain}: {error}") from None
    objective = choose_objective(config, sweep.metric, sweep.mode, sweep.max_kl)
    defaults: Values = {name: known[name] for name in space}
    count = sweep.count or TRIALS
    planned = [defaults]
    if sweep.search == "grid":
        planned = grid_trials(space, defaults)
        if sweep.count and sweep.count < len(planned):
            raise UserError(
                f"--trials {count}: --search grid has {len(planned)} combinations, the defaults "
                "among them; leave --trials out, or use --search random"
            )
        count = len(planned)
    elif sweep.search == "random":
        planned = list(islice(random_trials(space, defaults, config.seed), count))
    else:
        import_optuna()
        if sweep.scheduler == "pbt":
            raise UserError(
                "--search optuna: has no say with --scheduler pbt, which changes values itself; "
                "use --search random, or another --scheduler"
            )
    return Plan(config, objective, space, planned, count)


def lengths(config: RunConfig, manifest: Manifest) -> tuple[int, int]:
    """Images that a trial sees, and images between two reports."""
    steps = config.total_steps(manifest.rows(TRAIN))
    return steps * config.step_images, -(-steps // REPORTS) * config.step_images


def check_length(plan: Plan, manifest: Manifest) -> None:
    """Raises: UserError if trials have no step, or the metric needs images that are not there."""
    plan.config.total_steps(manifest.rows(TRAIN))
    metric = plan.objective.metric
    if not manifest.rows(VALIDATION) and metric.startswith(("quality/", "validation/")):
        raise UserError(
            f"--metric {metric}: is measured on validation images, of which {plan.config.data} has "
            "none; choose another metric, or prepare the dataset with some"
        )


def check_folder(sweep: SweepFolder, command: TuneCommand, plan: Plan) -> None:
    """Raises: UserError if the folder cannot take this sweep."""
    job, folder = command.job, sweep.folder
    holds_sweep = folder.exists(SWEEP)
    if job.restart and command.sweep.resume:
        raise UserError("--restart and --resume: choose one of them")
    if command.sweep.resume:
        before = folder.read_json(SWEEP)["space"]
        if before != {name: str(domain) for name, domain in plan.space.items()}:
            raise UserError(
                f"--space {command.sweep.space}: the sweep in {folder.uri} searches other values; "
                "restore the file, or choose another --run-name for a new sweep"
            )
        return
    if holds_sweep and not job.restart:
        raise UserError(
            f"--run-name {job.run_name}: {folder.uri} holds a sweep; go on with it (--resume), "
            "start over (--restart), or choose another name"
        )
    if folder.names() and not holds_sweep:
        raise UserError(
            f"--run-name {job.run_name}: {folder.uri} holds something else; choose another name"
        )


def check_dataset(sweep: SweepFolder, command: TuneCommand, manifest: Manifest) -> None:
    """Raises: UserError if the sweep was begun with other images."""
    if not command.sweep.resume:
        return
    if sweep.folder.read_json(SWEEP)["dataset"] != manifest.fingerprint:
        raise UserError(
            f"--data {command.run.data}: is not the dataset of the sweep in {sweep.folder.uri}; "
            "use that one, or another --run-name for a new sweep"
        )


def open_folder(sweep: SweepFolder, command: TuneCommand, plan: Plan, manifest: Manifest) -> None:
    """Note what the sweep is. Raises: UserError if that cannot be written."""
    sweep.folder.check_writable()
    space: dict[str, Any] = {name: str(domain) for name, domain in plan.space.items()}
    options = asdict(replace(command.sweep, resume=False))
    about = {"run": command.run.to_json(), "sweep": options, "space": space}
    sweep.folder.write_json(SWEEP, about | {"dataset": manifest.fingerprint})
    metrics = {plan.objective.metric: plan.objective.name}
    hparams.write_experiment(sweep.folder, plan.space, metrics)


def conclude(
    sweep: SweepFolder, command: TuneCommand, plan: Plan, finished: Finished, at_once: int
) -> None:
    """Write and say what came out. Raises: RunError if nothing did; Interrupted if more is to."""
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
    summary |= {"seconds": finished.seconds, "busy_share": finished.busy_share}
    sweep.folder.write_json(SUMMARY, summary)
    print(f"found:       {', '.join(sweep.folder.join(name).uri for name in names)}")
    best = sweep.folder.join(BEST).uri
    print(f"train it:    {command_line('jobs/train.py', '--config', best, '--run-name', 'tuned')}")
    if ended < plan.count:
        again = ["jobs/tune.py", plan.config.preset, "--storage", command.job.storage]
        again += ["--run-name", command.job.run_name, "--resume"]
        raise Interrupted(
            f"{ended} of {plan.count} trials have ended; to go on: {command_line(*again)}"
        )


if __name__ == "__main__":
    sys.exit(run_job(main))
