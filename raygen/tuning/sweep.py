"""Runs a sweep with Ray Tune, and records everything as it happens."""

import contextlib
import logging
import os
import posixpath
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raygen.cluster.connection import Poll, answer
from raygen.cluster.lease import Lease
from raygen.config.domains import Space
from raygen.core.errors import RunError, one_line
from raygen.core.patient_filesystem import patient_filesystem
from raygen.core.signals import Signals
from raygen.core.status import Notice, Progress, State
from raygen.tensorboard import hparams
from raygen.training.ray_driver import RAY_RECORDS, forget_records
from raygen.training.record import note_end
from raygen.tuning.options import Scheduler, SweepOptions
from raygen.tuning.optuna_search import OptunaSearch
from raygen.tuning.planned_search import PlannedSearch
from raygen.tuning.planning import Plan
from raygen.tuning.records import ENDED, Report, Trial, trial_name
from raygen.tuning.schedulers import LAST, TIME, Halving, Population, number_of
from raygen.tuning.table import LiveTable, headline, seconds_left, trial_rows
from raygen.tuning.trial import Task, run_trial

SAVE_SECONDS = 600
"""Time that trials get to save before the sweep exits, in seconds."""
CHECKPOINTS_FOR_CLONES = 4
RETRIES = 1
LOST = re.compile(r"\bactor\b.*\b(died|unavailable)\b|ActorDied|ActorUnavailable", re.IGNORECASE)
"""Matches what Ray says of a process that was killed, and of a node that does not answer any more.
"""
DIED = "its process died: killed, out of memory, or with its machine"


@dataclass(frozen=True)
class Finished:
    """The outcome of a sweep.

    Attributes:
        trials: all trials, by number.
        seconds: duration of this session.
        busy_share: share of this time, over all slots for trials, in which trials trained.
    """

    trials: list[Trial]
    seconds: float
    busy_share: float


def run_sweep(
    task: Task,
    options: SweepOptions,
    plan: Plan,
    history: Sequence[Trial],
    table: LiveTable,
    signals: Signals,
    lease: Lease,
    reserve: Callable[[Sequence[Trial]], float] = lambda trials: 0.0,
) -> Finished:
    """Run all trials that have not ended yet, at most until the time budget is spent.

    Args:
        history: trials of earlier sessions.
        lease: ownership of the sweep's folder.
        reserve: seconds of the time budget to leave for what follows, given the trials so far.
    Returns: all trials in their current state, and how the time was spent.
    Raises: RunError if the sweep cannot go on, or another job has taken it over.
    """
    report_images, objective, seed = task.report_images, task.objective, task.config.seed
    task = replace(task, clones=options.scheduler == "pbt")
    search: OptunaSearch | PlannedSearch
    # Trials that population-based training has paused would count as running.
    at_once = None if task.clones else task.capacity.at_once
    if options.search == "optuna":
        search = OptunaSearch(
            plan.space, plan.defaults, objective, plan.count, seed, history, plan.allows
        )
    else:
        search = PlannedSearch(plan.trials(), plan.count, history, at_once)
    watch = Watch(
        task,
        plan.space,
        plan.count,
        history,
        table,
        signals,
        options,
        lease,
        search.set_finished,
        reserve,
    )
    if not search.left:
        return Finished(list(history), 0.0, 0.0)
    scheduler: TrialScheduler
    if options.scheduler == "asha":
        scheduler = Halving(objective, report_images, task.total_images, history)
    elif options.scheduler == "pbt":
        scheduler = Population(objective, report_images, plan.mutable, seed)
    else:
        scheduler = FIFOScheduler()
    _quiet(task.verbose)
    # Trials that wait for a place are those that Ray Tune has asked for in advance.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(task.capacity.at_once)
    record = task.sweep.folder.join(f"{RAY_RECORDS}{uuid.uuid4().hex}")
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(run_trial, task=task), task.capacity.trial_resources
        ),
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            search_alg=search,
            num_samples=search.left,
            # The planned search sees to this itself.
            max_concurrent_trials=at_once if isinstance(search, OptunaSearch) else None,
            # Reusing processes saves the import of torch, the slowest part of a start. But what a
            # trial has started with Ray Train only ends with its process.
            reuse_actors=task.capacity.workers == 1,
            trial_name_creator=lambda trial: trial_name(trial.config["trial"]["number"]),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=posixpath.basename(record.path),
            storage_path=task.sweep.folder.path,
            storage_filesystem=patient_filesystem(task.sweep.folder),
            stop=watch.ending,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=CHECKPOINTS_FOR_CLONES),
            callbacks=[watch, Silence()],
            verbose=0,
        ),
    )
    before = sum(trial.seconds for trial in history)
    began_at = time.monotonic()
    try:
        tuner.fit()
    except (tune.TuneError, RayError) as error:
        raise RunError(
            f"the sweep failed: {error}\nwhat its trials have done is kept; --resume goes on"
        ) from error
    finally:
        seconds = time.monotonic() - began_at
        watch.close()
        forget_records(task.sweep.folder, task.sweep.fence)
    if watch.error:
        raise RunError(
            f"{watch.error}\nwhat the trials have saved is kept; once that is mended, --resume "
            "goes on with them"
        )
    trained = sum(trial.seconds for trial in watch.trials) - before
    return Finished(watch.trials, seconds, trained / (task.capacity.at_once * seconds))


def _quiet(verbose: bool) -> None:
    """Set the environment variables that keep Ray Tune quiet until the context ends."""
    # The trials write their own logs.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # The job handles signals itself.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # The other way of telling, which is silent when it is told to be.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    # A trial that is ended before it has been measured reports nothing, which is no mistake.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    if not verbose:
        # The table says that a trial failed, and why.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


class Ending(tune.Stopper):
    """Ends the sweep for Ray Tune, once its trials have saved their work."""

    def __init__(self) -> None:
        self.now = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.now


class Silence(TrialProgressCallback):
    """Replaces Ray Tune's lines about trials, some of which it prints at any verbosity."""

    def _print(self, msg: str) -> None:
        """Print nothing."""


class Watch(tune.Callback):
    """Records what happens to trials, in their files and for TensorBoard, and shows it."""

    def __init__(
        self,
        task: Task,
        space: Space,
        count: int,
        history: Sequence[Trial],
        table: LiveTable,
        signals: Signals,
        options: SweepOptions,
        lease: Lease,
        end_search: Callable[[], None] = lambda: None,
        reserve: Callable[[Sequence[Trial]], float] = lambda trials: 0.0,
    ) -> None:
        """Args: end_search: called when no more trials are to begin; reserve: see `run_sweep`."""
        self.ending = Ending()
        # What confirms trials is told from them.
        self._noun = "training" if task.sweep.name else "trial"
        self._task = task
        self._space = space
        self._count = count
        self._trials = {trial.number: trial for trial in history}
        for trial in history:
            if trial.status not in ENDED:
                trial.status, trial.reason = "waiting", ""
        self._table = table
        self._signals = signals
        self._lease = lease
        self._end_search = end_search
        self._scheduler: Scheduler = options.scheduler
        self._budget = options.budget_seconds()
        self._reserve = reserve
        self._began_at = time.monotonic()
        self._stop_at: float | None = None
        self._state = Poll()
        self._events = 0
        self._progress: dict[int, Progress] = {}
        self._died_after: dict[int, int] = {}
        self._outage = self.error = ""

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles callbacks to resume a sweep, but raygen resumes from its own records.
        return {}

    @property
    def trials(self) -> list[Trial]:
        """All trials that have begun, by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._stop_at is not None:
            # Ray Tune still starts trials that it has asked for; such a trial ends at once.
            return
        known, values = self._known(trial), trial.config["trial"]["values"]
        if known.values != values:
            changed = [
                f"{name} {known.values[name]} -> {value}"
                for name, value in values.items()
                if known.values[name] != value
            ]
            known.changes.append(f"{known.images_seen:,} images: {', '.join(changed)}")
            known.values = values
        known.status, known.reason = "running", ""
        self._progress.pop(known.number, None)
        run = self._task.sweep.trial_run(known.number).folder
        # TensorBoard would merge sessions of one name into one trial, even across sweeps.
        sweep = self._task.sweep
        name = f"{sweep.name or sweep.folder.name}/{trial_name(known.number)}"
        hparams.write_start(run, name, self._space, values, time.time())
        self._note(known)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        known = self._trials[number_of(trial)]
        metrics = dict(result["metrics"]["values"])
        seen, objective, seconds = result[TIME], result["objective"], result["seconds"]
        known.add(Report(seen, objective, seconds, result["at"], metrics))
        if result[LAST]:
            known.status = "finished"
        self._note(known)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = self._trials.get(number_of(trial))
        if known is None or (known.status in ENDED and known.status != "finished"):
            return
        self._look()
        name, value = self._task.objective.name, known.objective
        told = "" if value is None else f": {name} {value:.4g}"
        if known.status == "finished":
            self._end(known, f"{self._noun} {known.number} finished{told}")
        elif self._stop_at is not None or self.error:
            self._interrupt(known, "the sweep was ended")
        elif value is None:
            self._fail(known, "it ended without having been measured")
        else:
            known.status = "stopped"
            known.reason = f"not among the best third after {known.images_seen:,} images"
            self._end(known, f"{self._noun} {known.number} stopped{told} is {known.reason}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # The trial's process may have died before the run began.
        known, reason = self._known(trial), _reason(trial)
        known.failures.append(reason)
        if reason == DIED:
            # Machines of a cluster come and go. Only a trial that dies without having got any
            # further since may be at fault itself.
            if known.images_seen > self._died_after.get(known.number, 0):
                trial.max_failures += 1
            self._died_after[known.number] = known.images_seen
        known.status, known.reason = "waiting", "to be started again"
        self._table.tell(f"{self._noun} {known.number} failed ({reason}); it is started again")
        self._note(known)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known, reason = self._known(trial), _reason(trial)
        known.failures.append(reason)
        self._look()
        if self.error:
            self._interrupt(known, reason)
        elif reason == DIED:
            # The trial may not be at fault: its machines may have been taken away soon each time.
            self._interrupt(known, reason)
            self._table.tell(
                f"{self._noun} {known.number}: {reason}, again before it got any further; "
                "--resume goes on with it"
            )
        else:
            self._fail(known, reason)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        left = self._budget_left()
        over = left is not None and left < 0
        self._lease.check()
        if self._stop_at is None and (over or self.error or self._signals.stop.is_set()):
            self._stop_at = now
            if over:
                self._table.tell(
                    f"the time budget of these {self._noun}s is spent; they are being saved"
                )
            self._end_search()
            self._task.status.stop.remote()
        if self._stop_at is not None:
            running = any(trial.status == "running" for trial in self._trials.values())
            self.ending.now = not running or now - self._stop_at > SAVE_SECONDS
        if any(trial.reports for trial in self._trials.values()):
            self._signals.save()
        if self._table.is_due:
            state = self._state.ask(self._task.status.state, self._events)
            if state is not None:
                self._take(state)
            self._show()

    def _budget_left(self) -> float | None:
        """Seconds for which trials may still run; negative: they have to end."""
        if self._budget is None:
            return None
        # However much is to follow, half of the time is the search's.
        to_follow = min(self._reserve(self.trials), self._budget / 2)
        return self._budget - to_follow - (time.monotonic() - self._began_at)

    def close(self) -> None:
        """Record trials that have not ended as interrupted, because the sweep is over."""
        self._look()
        if self._lease.is_lost:
            # Another job owns the trials now.
            return
        for trial in self._trials.values():
            if trial.status not in (*ENDED, "interrupted"):
                self._interrupt(trial, "the sweep was ended")

    def _look(self) -> None:
        """Poll the current state."""
        with contextlib.suppress(RayError):
            self._take(answer(self._task.status.state, self._events))

    def _take(self, state: State) -> None:
        """Record the state, and report the events since the last time."""
        self._progress, self._outage = state.progress, state.outage
        self.error = one_line(state.error) if state.error else ""
        for event in state.after(self._events):
            if isinstance(event, Notice):
                self._table.tell(event.text)
            self._events += 1

    def _known(self, trial: Any) -> Trial:
        """The record of a Ray Tune trial."""
        number = number_of(trial)
        return self._trials.setdefault(number, Trial(number, trial.config["trial"]["values"]))

    def _show(self) -> None:
        task, trials = self._task, self.trials
        to_the_end = self._scheduler != "asha"
        left = seconds_left(trials, self._count, self._progress, task.total_images, to_the_end)
        rest = self._budget_left()
        if rest is not None:
            left = max(0.0, rest if left is None else min(left, rest))
        text = headline(trials, self._count, task.objective, self._progress, left, self._noun)
        stopping = "stopping: " if self._stop_at is not None else ""
        stopping += f"{self._outage} - " if self._outage else ""
        rows = trial_rows(trials, task.objective, self._space, self._progress, task.updates)
        self._table.show(stopping + text, rows)

    def _note(self, trial: Trial) -> None:
        self._task.sweep.write_trial(trial)

    def _interrupt(self, trial: Trial, reason: str) -> None:
        trial.status, trial.reason = "interrupted", reason
        self._note_end(trial)

    def _note_end(self, trial: Trial) -> None:
        self._note(trial)
        if trial.status != "waiting" and trial.status != "running":
            # A stopped trial has no time left to record its own end.
            note_end(self._task.sweep.trial_run(trial.number).folder, trial.status)

    def _end(self, trial: Trial, text: str) -> None:
        hparams.write_end(self._task.sweep.trial_run(trial.number).folder, trial.status != "failed")
        self._note_end(trial)
        self._table.tell(text, in_table=True)

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.status, trial.reason = "failed", reason
        self._end(trial, f"{self._noun} {trial.number} failed: {reason}")


def _reason(trial: Any) -> str:
    """The reason for a Ray Tune trial's last failure, in one line."""
    try:
        with open(trial.error_file) as file:
            text = file.read().rpartition("Failure #")[2]
    except (OSError, TypeError):
        return "unknown"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(LOST.search(line) for line in lines):
        return DIED
    # `RunError: a loss was not finite`; Ray puts the worker's whole traceback above it.
    errors = [
        re.sub(r"^[\w.]*\.(?=\w+:)", "", line) for line in lines if re.match(r"[\w.]+: ", line)
    ]
    return (errors or lines or ["unknown"])[-1].removeprefix("RunError: ")
