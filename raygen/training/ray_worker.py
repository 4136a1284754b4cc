"""A worker's side of a training inside Ray Train, which reports to the actor `Status`."""

import traceback
from functools import partial
from typing import Any

import ray
import torch
from ray.train.torch import get_device

from raygen.cluster.connection import Poll
from raygen.core.errors import RunError, UserError
from raygen.core.processors import cores
from raygen.core.retry import OUTAGES, is_lasting, not_written
from raygen.core.status import RUN, Callbacks, Ended, Measured, Notice, Progress, Saved, tell_outage
from raygen.data.splits import TRAIN
from raygen.data.stream.ray_data import RayDataReader
from raygen.data.stream.stream import ReadAhead, own_threads
from raygen.training.hardware import use_cores
from raygen.training.run_session import run_session
from raygen.training.session import Session
from raygen.training.workers import Workers


class WorkerCallbacks(Callbacks):
    """Forwards the first worker's reports to the actor `Status`."""

    def __init__(self, status: Any) -> None:
        self._status = status
        self._stopping = Poll()
        self._has_started = False

    def started(self, step: int) -> None:
        # A worker group that goes back to a checkpoint by itself starts more than once.
        ray.get(self._status.started.remote(RUN, step, not self._has_started))
        self._has_started = True

    def notice(self, text: str) -> None:
        ray.get(self._status.tell.remote(Notice(text)))

    def progress(self, progress: Progress) -> bool:
        return bool(self._stopping.ask(self._status.progress, RUN, progress))

    def measured(self, progress: Progress) -> None:
        ray.get(self._status.tell.remote(Measured(progress)))

    def saved(self, step: int) -> None:
        ray.get(self._status.tell.remote(Saved(step)))


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
        with OUTAGES.told_to(told):
            outcome = run_session(session, workers, WorkerCallbacks(status), read)
        if workers.is_first:
            ray.get(status.tell.remote(Ended(outcome)))
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
