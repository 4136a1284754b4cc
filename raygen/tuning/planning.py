"""The plan of a sweep: decided and checked before anything starts, and saved in its folder."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from raygen.config.domains import (
    SURE_TRIALS,
    Space,
    Values,
    grid_size,
    grid_trials,
    random_combinations,
    random_trials,
    read_space,
)
from raygen.config.fields import Policy, having
from raygen.config.job import JobOptions
from raygen.config.run import RESUMABLE_CHANGES, RunConfig
from raygen.core import marker
from raygen.core.checked import shown
from raygen.core.errors import UserError
from raygen.data.shards.manifest import Manifest
from raygen.data.splits import TRAIN, VALIDATION
from raygen.evaluation.metrics import COMPARED, MEASURED
from raygen.evaluation.objective import Objective, choose_objective
from raygen.tensorboard import hparams
from raygen.training.placement import check_batch
from raygen.tuning.options import MOST_TRIALS, Search, SweepOptions
from raygen.tuning.optuna_search import import_optuna
from raygen.tuning.records import (
    OWN,
    REPORTS,
    SWEEP,
    TRIAL,
    SavedSweep,
    SweepFolder,
    Trial,
    saved_objective,
)

DEFAULT_TRIALS = 16
CHECKED_COMBINATIONS = 5_000
"""Number of a grid's combinations that are checked before a sweep starts, in half a second. Larger
grids are checked at random; a forbidden combination that is missed fails when its trial begins."""
NOT_SEARCHED = RESUMABLE_CHANGES | having(RunConfig, Policy.NOT_SEARCHED)
"""Options that cannot be searched: trials must have equal lengths and be measured equally."""


@dataclass(frozen=True)
class Plan:
    """A sweep's search, decided before anything starts.

    Attributes:
        config: the run's options in trial 0.
        defaults: the values of trial 0.
        count: number of trials.
        search: how the values of the other trials are chosen.
        workers: workers per trial.
        listed: the values of all trials, if they are not searched for.
    """

    config: RunConfig
    objective: Objective
    space: Space
    defaults: Values
    count: int
    search: Search
    workers: int = 1
    listed: tuple[Values, ...] = ()

    @property
    def mutable(self) -> Space:
        """The part of the search space that may change in the middle of a trial."""
        known = _changeable(self.config)
        return {name: domain for name, domain in self.space.items() if name in known}

    def trials(self) -> Iterator[Values]:
        """Yield the values of each trial by number, made when they are asked for.

        The same each time. With `--search optuna`, which chooses from results, only trial 0's.
        Raises: UserError if no random values are allowed.
        """
        if self.listed:
            return iter(self.listed)
        if self.search == "grid":
            return grid_trials(self.space, self.defaults)
        if self.search == "optuna":
            return iter([self.defaults])
        endless = random_trials(self.space, self.defaults, self.config.seed, self.allows)
        return islice(endless, self.count)

    def check(self, values: Values) -> None:
        """Raises: UserError if values conflict with each other or with the other options."""
        check_batch(self.config.updated(values, "--set"), self.workers)

    def allows(self, values: Values) -> bool:
        try:
            self.check(values)
        except UserError:
            return False
        return True


def _changeable(run: RunConfig) -> frozenset[str]:
    return having(type(run.model), Policy.CHANGEABLE)


def make_plan(run: RunConfig, sweep: SweepOptions) -> Plan:
    """Decide what to search. Raises: UserError."""
    # Options that are not searched stay open where they are, because their default may depend on
    # searched options.
    explicit = run.explicit
    fixed = NOT_SEARCHED | having(type(run.model), Policy.NOT_SEARCHED)
    known = {name: value for name, value in explicit.to_json().items() if name not in fixed}
    space = read_space(explicit.model.search_space, sweep.space, sweep.set, known)
    if not space:
        raise UserError(
            f"--space {sweep.space or 'of the preset'}: there is nothing to search; name options "
            "with --set, as --set lr_g=loguniform(1e-5,1e-3)"
        )
    for name, domain in space.items():
        for value in domain.extremes:
            run.updated({name: value}, f"--set {name}={domain}")
    objective = choose_objective(run, sweep.metric, sweep.mode, sweep.max_kl)
    defaults: Values = {name: known[name] for name in space}
    count = sweep.count or DEFAULT_TRIALS
    plan = Plan(run, objective, space, defaults, count, sweep.search, sweep.workers_per_trial)
    plan.check(defaults)
    if sweep.scheduler == "pbt" and not plan.mutable:
        raise UserError(
            "--scheduler pbt: changes values in the middle of a run, which none of the search "
            f"space allows; add one of {', '.join(sorted(_changeable(run)))}"
        )
    if sweep.scheduler == "pbt" and sweep.workers_per_trial > 1:
        raise UserError(
            f"--workers-per-trial {sweep.workers_per_trial}: --scheduler pbt pauses and clones "
            "trials, which have to be of one worker each; use --scheduler asha"
        )
    if sweep.search == "grid":
        size = grid_size(space, defaults)
        if sweep.count and sweep.count < size:
            raise UserError(
                f"--trials {count}: --search grid has {size} combinations, the defaults among "
                "them; leave --trials out, or use --search random"
            )
        if size > MOST_TRIALS:
            raise UserError(
                f"--search grid: has {size:,} combinations, and a sweep at most {MOST_TRIALS:,} "
                "trials; use --search random, or search fewer values"
            )
        few = size <= CHECKED_COMBINATIONS
        combinations = plan.trials() if few else random_combinations(space)
        for values in islice(combinations, CHECKED_COMBINATIONS):
            plan.check(values)
        return replace(plan, count=size)
    if sweep.search == "optuna":
        import_optuna()
        if sweep.scheduler == "pbt":
            raise UserError(
                "--search optuna: has no say with --scheduler pbt, which changes values itself; "
                "use --search random, or another --scheduler"
            )
        return plan
    for _ in islice(plan.trials(), SURE_TRIALS):
        # Values that can hardly be found are refused now.
        pass
    return plan


def continued(plan: Plan, saved: SavedSweep, options: SweepOptions) -> Plan:
    """The plan of a sweep that goes on, whose trials are to be compared as they were so far.

    Raises: UserError if that is by a metric that its runs never log.
    """
    config = replace(plan.config, quality_samples=saved.quality_samples)
    return replace(plan, config=config, objective=saved_objective(saved, config, options))


def lengths(config: RunConfig, manifest: Manifest) -> tuple[int, int]:
    """Number of images that a trial sees, and number of images between two reports."""
    steps = config.total_steps(manifest.rows(TRAIN))
    return steps * config.step_images, -(-steps // REPORTS) * config.step_images


def check_length(plan: Plan, manifest: Manifest) -> None:
    """Raises: UserError if trials have no step, or the metric needs images that do not exist."""
    plan.config.total_steps(manifest.rows(TRAIN))
    metric = plan.objective.metric
    least = 2 if metric.startswith(tuple(COMPARED)) else 1
    if manifest.rows(VALIDATION) < least and metric.startswith(MEASURED):
        raise UserError(
            f"--metric {metric}: is measured on validation images, of which {plan.config.data} has "
            f"{manifest.rows(VALIDATION) or 'none'}; choose another metric, or prepare the dataset "
            "with more"
        )


def check_folder(sweep: SweepFolder, job: JobOptions, options: SweepOptions, plan: Plan) -> None:
    """Raises: UserError if the folder cannot take this sweep."""
    if job.restart and options.resume:
        raise UserError("--restart and --resume: choose one of them")
    folder, known = sweep.folder, sweep.marker()
    if options.resume and known and known.deleting:
        raise UserError(
            f"--resume: the sweep in {folder.uri} was being deleted by --restart; leave --resume "
            "out to begin a new one"
        )
    if options.resume:
        if sweep.saved().space != {name: str(domain) for name, domain in plan.space.items()}:
            raise UserError(
                f"--space {options.space}: the sweep in {folder.uri} searches other values; "
                "restore the file, or choose another --run-name for a new sweep"
            )
    elif known is None:
        if inside := marker.contents(folder):
            raise UserError(
                f"--run-name {job.run_name}: {folder.uri} exists and holds no sweep of raygen's "
                f"({inside[0]}{', ...' if inside[1:] else ''}), so nothing in it is touched; "
                "choose another name"
            )
    elif known.raygen != "sweep":
        raise UserError(
            f"--run-name {job.run_name}: {folder.uri} holds a {known.raygen}; choose another name"
        )
    elif not job.restart and not known.deleting:
        raise UserError(
            f"--run-name {job.run_name}: {folder.uri} holds a sweep; go on with it (--resume), "
            "start over (--restart), or choose another name"
        )


def read_trials(sweep: SweepFolder, plan: Plan) -> list[Trial]:
    """The trials of earlier sessions of a sweep, by number.

    Raises: UserError if a record is damaged, or its values are not those of this search.
    """
    trials = sweep.read_trials()
    for trial in trials:
        where = sweep.trial_run(trial.number).folder.join(TRIAL).uri
        if trial.values.keys() != plan.space.keys():
            raise UserError(
                f"{where}: its values are those of {shown(', '.join(trial.values))}, not of "
                f"{', '.join(plan.space)}; restore the file, or delete its folder to have the "
                "trial repeated"
            )
        # This refuses values that no trial could have been trained with.
        plan.config.updated(trial.values, where)
    return trials


def check_dataset(sweep: SweepFolder, data: str, manifest: Manifest) -> None:
    """Raises: UserError if the sweep was begun with other images."""
    if sweep.saved().dataset != manifest.fingerprint:
        raise UserError(
            f"--data {data}: is not the dataset of the sweep in {sweep.folder.uri}; "
            "use that one, or another --run-name for a new sweep"
        )


def open_folder(
    sweep: SweepFolder, run: RunConfig, options: SweepOptions, plan: Plan, manifest: Manifest
) -> None:
    """Save the sweep's options, after deleting a sweep that it replaces.

    Only the folder's owner may call this. Raises: UserError if the folder cannot be written.
    """
    sweep.folder.check_writable()
    if sweep.fence:
        sweep.fence.check()
    if not options.resume:
        # Delete what --restart replaces, or finish such a deletion.
        if sweep.marker():
            marker.delete_contents(sweep.folder, "sweep", OWN)
        marker.write(sweep.folder, "sweep")
    space = {name: str(domain) for name, domain in plan.space.items()}
    searched = asdict(replace(options, resume=False))
    about: dict[str, Any] = {"run": run.to_json(), "sweep": searched, "space": space}
    about |= {"dataset": manifest.fingerprint, "metric": plan.objective.metric}
    sweep.folder.write_json(SWEEP, about | {"quality_samples": plan.config.quality_samples})
    metrics = {plan.objective.metric: plan.objective.name}
    hparams.write_experiment(sweep.folder, plan.space, metrics)
