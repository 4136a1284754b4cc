"""The code that runs inside a trial: one run of raygen's own loop, which reports to Ray Tune.

A trial with one worker runs the loop in Tune's process. Only with several workers does it start Ray
Train, which takes tens of seconds on a small machine.
"""

import os
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
import torch
from ray import tune

from raygen.cluster import connection as cluster
from raygen.cluster.connection import Poll, own_actor
from raygen.config.domains import Values
from raygen.config.run import RunConfig
from raygen.core.errors import RunError, StorageError, UserError, one_line
from raygen.core.patient_filesystem import patient_filesystem
from raygen.core.retry import OUTAGES, is_lasting, not_written
from raygen.core.status import (
    RUN,
    Callbacks,
    Measured,
    Notice,
    Outcome,
    Progress,
    State,
    Status,
    tell_outage,
)
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.object_store import StoredImages
from raygen.data.stream.ray_data import RayDataReader, ReadTasks
from raygen.data.stream.stream import ReadAhead, own_threads
from raygen.evaluation.features import Extractor
from raygen.evaluation.objective import Objective
from raygen.training import checkpoint, checkpoint_index
from raygen.training.hardware import use_cores
from raygen.training.placement import Placement
from raygen.training.ray_driver import fit
from raygen.training.record import RunRecord
from raygen.training.run import RunFolder
from raygen.training.run_session import run_session
from raygen.training.session import Session
from raygen.training.workers import Workers
from raygen.tuning.capacity import Capacity
from raygen.tuning.records import SweepFolder, Trial
from raygen.tuning.schedulers import LAST, TIME

THREAD_SECONDS = "60"
"""Time that Tune gives a stopped trial to save its work before it starts the next one in a new
process, in seconds."""


@dataclass(frozen=True)
class Task:
    """Everything that a trial needs besides its values.

    Attributes:
        config: the run's options that are not searched.
        extractor: whose features of samples and images the trials compare; None: random-vgg.
        status: an actor of `Status`; its parts are the trials.
        total_images: upper limit of the images that a trial sees.
        report_images: number of images between two reports.
        clones: whether trials are cloned, so that Tune needs their checkpoints.
    """

    config: RunConfig
    sweep: SweepFolder
    data: Folder
    manifest: Manifest
    stored: StoredImages | None
    objective: Objective
    capacity: Capacity
    status: Any = field(compare=False)
    total_images: int
    report_images: int
    extractor: Extractor | None = None
    clones: bool = False
    verbose: bool = False

    def config_of(self, values: Values) -> RunConfig:
        """The options of a trial's run. All trials see equally many images, at any batch size.

        Raises: UserError if the values conflict.
        """
        config = self.config.updated(values, "trial")
        return replace(
            config,
            steps=max(1, self.total_images // config.step_images),
            epochs=0.0,
            # A report is a measurement with a checkpoint and pictures beside it.
            validate_images=self.report_images,
            checkpoint_images=self.report_images,
            checkpoint_every="0",
            sample_images=self.report_images,
            # Tune itself restarts failed trials.
            max_failures=0,
            # Recovery would halve the learning rates, and so measure other values.
            on_nan="stop",
        )

    def updates(self, trial: Trial, images_seen: int) -> dict[str, int]:
        """Optimizer steps of each network of a trial after so many images, by name.

        Empty where they are not known: its values conflict, or its schedule has changed.
        """
        if any(": schedule " in change or ", schedule " in change for change in trial.changes):
            return {}
        try:
            config = self.config_of(trial.values)
        except UserError:
            return {}
        return config.updates(images_seen // config.step_images, config.steps)


def run_trial(config: dict[str, Any], task: Task) -> None:
    """Train one trial to its end, or until Tune or the user stops it; Tune calls it.

    Args: config: `values`, the options that are searched, under `trial`.
    Raises: RunError if the training fails.
    """
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", THREAD_SECONDS)
    number = int(tune.get_context().get_trial_name())
    if ray.get(task.status.stopping.remote()):
        return
    # A killed attempt may have reported an outage that is over now.
    task.status.outage.remote(number, "")
    with OUTAGES.told_to(partial(tell_outage, task.status, number)):
        _run_trial(config, task, number)


def _run_trial(config: dict[str, Any], task: Task, number: int) -> None:
    run, began_at = task.sweep.trial_run(number), time.time()
    try:
        _take_over(run, number, task)
        options = task.config_of(config["trial"]["values"])
        run.note(options)
        capacity = task.capacity
        session = Session(
            options,
            run,
            task.data,
            task.manifest,
            capacity.workers,
            capacity.use_gpu,
            task.verbose,
            task.stored,
            task.extractor,
            task.objective,
        )
        record = RunRecord(session, "trial", began_at)
        record.begin()
        callbacks = TrialCallbacks(number, task, run, record)
        if capacity.workers > 1:
            outcome = _train_nested(session, callbacks, capacity)
        else:
            device = torch.device("cuda" if capacity.use_gpu else "cpu")
            if not capacity.use_gpu:
                use_cores(capacity.threads)
            read: ReadAhead = own_threads
            if session.uses_ray_data:
                told = partial(tell_outage, task.status, number)
                read = RayDataReader(ReadTasks(cluster.smallest_store(), told, options.read_tasks))
            outcome = run_session(session, Workers(device=device), callbacks, read)
        record.end(outcome)
    except torch.OutOfMemoryError as error:
        raise RunError(f"out of GPU memory ({error})") from error
    except StorageError as error:
        ray.get(task.status.fail.remote(error))
        raise
    except OSError as error:
        if is_lasting(error):
            problem = not_written(error, error.filename or run.folder.uri)
            ray.get(task.status.fail.remote(problem))
        raise
    except (UserError, RunError) as error:
        # One line, which the sweep's table can show.
        raise RunError(one_line(error)) from error


def _take_over(run: RunFolder, number: int, task: Task) -> None:
    """Copy the checkpoint that Tune wants this trial to go on from, if any, into its run.

    This is how population-based training clones another trial.
    """
    given = tune.get_checkpoint()
    if given is None:
        return
    source = Folder(given.path, given.filesystem, given.path)
    maker = checkpoint_index.read_state(source)["about"]["run"]
    position = checkpoint_index.read_position(source)
    if maker == run.folder.name and run.position().global_step >= position.global_step:
        # Its own, from before a pause.
        return
    run.check_owner()
    checkpoint.adopt(source, run.checkpoints)
    if maker != run.folder.name:
        text = f"trial {number} goes on from trial {int(maker)}'s networks"
        notice = Notice(f"{text} at {position.images_seen:,} images")
        ray.get(task.status.tell.remote(notice))


class TrialCallbacks(Callbacks):
    """Reports a trial's progress to the sweep and to Ray Tune."""

    # Ray Tune may continue from a reported checkpoint, in another trial or another process.
    needs_checkpoints = True

    def __init__(self, number: int, task: Task, run: RunFolder, record: RunRecord) -> None:
        self._number = number
        self._task = task
        self._run = run
        self._record = record
        self._stopping = Poll()
        self._reported = 0

    def progress(self, progress: Progress) -> bool:
        return bool(self._stopping.ask(self._task.status.progress, self._number, progress))

    def measured(self, progress: Progress) -> None:
        """Report to Tune, which may end the trial here.

        Raises: SystemExit if Tune stops the trial.
        """
        if progress.images_seen <= self._reported:
            # Of workers that went back to it.
            return
        self._reported = progress.images_seen
        self._record.measured(progress)
        metrics = {
            "objective": self._task.objective.value(progress.metrics),
            TIME: progress.images_seen,
            LAST: progress.images_seen >= progress.total_images,
            "seconds": progress.seconds,
            "at": time.time(),
            # Keep metrics in one entry, because Tune takes slashes in names for nesting.
            "metrics": {"values": list(progress.metrics.items())},
        }
        saved = self._run.latest_checkpoint() if self._task.clones else None
        tune.report(
            metrics,
            checkpoint=tune.Checkpoint(saved.path, filesystem=patient_filesystem(saved))
            if saved
            else None,
        )


def _train_nested(session: Session, callbacks: TrialCallbacks, capacity: Capacity) -> Outcome:
    """Train with several workers, by Ray Train inside the trial."""
    stop = threading.Event()

    def watch(state: State) -> None:
        if RUN in state.progress and callbacks.progress(state.progress[RUN]):
            stop.set()
        for event in state.events:
            if isinstance(event, Measured):
                callbacks.measured(event.progress)

    placement = Placement(capacity.workers, capacity.use_gpu, capacity.cpus_per_worker)
    with own_actor(Status) as status:
        return fit(session, watch, stop, placement, status, capacity.threads)
