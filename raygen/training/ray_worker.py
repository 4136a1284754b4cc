"""A worker's side of a training inside Ray Train, which reports to the actor `Status`."""

import math
import os
import time
import traceback
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import torch
from ray.train.torch import get_device

from raygen.cluster.connection import Poll
from raygen.core.errors import RunError, UserError
from raygen.core.processors import cores
from raygen.core.progress import duration
from raygen.core.retry import OUTAGES, is_lasting, not_written
from raygen.core.status import RUN, Callbacks, Ended, Measured, Notice, Progress, Saved, tell_outage
from raygen.data.splits import TRAIN
from raygen.data.stream.ray_data import RayDataReader
from raygen.data.stream.stream import ReadAhead, own_threads
from raygen.training.activity import beating
from raygen.training.hardware import use_cores
from raygen.training.run_session import run_session
from raygen.training.session import Session
from raygen.training.workers import Workers

BEATS = 5
"""How many signs of life a worker gives within --stall-timeout."""
LEAST_INTERVAL, MOST_INTERVAL = 0.5, 10.0
"""Bounds of the time between two of them, in seconds."""


class WorkerCallbacks(Callbacks):
    """Forwards the first worker's reports to the actor `Status`."""

    def __init__(self, status: Any, workers: int) -> None:
        self._status = status
        self._count = workers
        self._stopping, self._restarting = Poll(), Poll()
        self._has_started = False

    def started(self, step: int) -> None:
        # A worker group that goes back to a checkpoint by itself starts more than once.
        is_new = not self._has_started
        ray.get(self._status.started.remote(RUN, step, is_new, self._count))
        self._has_started = True

    def notice(self, text: str) -> None:
        ray.get(self._status.tell.remote(Notice(text)))

    def progress(self, progress: Progress) -> bool:
        return bool(self._stopping.ask(self._status.progress, RUN, progress))

    def restarting(self) -> bool:
        return bool(self._restarting.ask(self._status.is_restarting))

    def waiting(self) -> None:
        ray.get(self._status.waiting.remote())

    def measured(self, progress: Progress) -> None:
        ray.get(self._status.tell.remote(Measured(progress)))

    def saved(self, step: int) -> None:
        ray.get(self._status.tell.remote(Saved(step)))


class AnnouncedEnd:
    """When the workers will be ended because a machine is to be taken away, as Ray Train knows."""

    def __init__(self, status: Any = None) -> None:
        """Args: status: an actor of `Status` to tell; None: do not tell."""
        self._status = status
        self._at = math.inf
        # Without its watcher, Ray Train knows of none, and asking costs a message each time.
        self._is_watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") != "0"

    def at(self) -> float:
        """Unix time in seconds; infinite if no end is announced. All workers call it together."""
        info = ray.train.get_preemption_info() if self._is_watched else None
        if info is None or math.isfinite(self._at):
            return self._at
        now = time.time()
        # Machines that go at an unknown time may go at once.
        self._at = info.deadline_ms / 1000 if info.deadline_ms else now
        if self._status:
            left = f" in {duration(self._at - now)}" if info.deadline_ms else ""
            text = f"a machine will be taken away{left}; the run is saved before"
            self._status.expect.remote("a machine was taken away")
            self._status.tell.remote(Notice(text))
        return self._at


def _place() -> str:
    """This process, as errors name it."""
    return f"{ray.util.get_node_ip_address()} (process {os.getpid()})"


def train_worker(settings: dict[str, Any]) -> None:
    """Entry point of each worker. Args: settings: as `ray_driver.fit` passes them."""
    session: Session = settings["session"]
    status = settings["status"]
    if ray.get(status.error.remote()):
        # Ray restarts the workers after any error that they raise, but this one would recur.
        return
    try:
        context = ray.train.get_context()
        device = get_device()
        workers = Workers(context.get_world_rank(), context.get_world_size(), device)
        if device.type == "cpu":
            use_cores(settings["threads"] or cores() // context.get_local_world_size())
        read: ReadAhead = own_threads
        told = partial(tell_outage, status, RUN)
        if tasks := settings["tasks"]:
            read = RayDataReader(tasks, partial(ray.train.get_dataset_shard, TRAIN))
        end = AnnouncedEnd(status) if workers.is_first else AnnouncedEnd()
        callbacks = WorkerCallbacks(status, workers.world_size)
        seconds = session.config.stall_seconds
        interval = min(max(seconds / BEATS, LEAST_INTERVAL), MOST_INTERVAL) if seconds else math.inf
        send = partial(status.beat.remote, workers.rank)
        with OUTAGES.told_to(told), beating(_place(), send, interval):
            outcome = run_session(session, workers, callbacks, read, end.at)
        if workers.is_first:
            ray.get(status.tell.remote(Ended(replace(outcome, retries=OUTAGES.retries))))
    except (UserError, RunError) as error:
        ray.get(status.fail.remote(error))
        raise
    except torch.OutOfMemoryError as error:
        message = f"--batch-size {session.config.batch_size}: out of GPU memory ({error}); lower it"
        ray.get(status.fail.remote(UserError(message)))
        raise
    except OSError as error:
        if is_lasting(error):
            # TensorBoard's event writer raises this on a full disk, for example.
            problem = not_written(error, error.filename or session.run.folder.uri)
            ray.get(status.fail.remote(problem))
        raise
    except Exception:
        if session.verbose:
            traceback.print_exc()
        raise
