"""A run inside Ray Train: starting its workers, and watching them.

`fit` runs in the job's own process. It starts the workers through a TorchTrainer and a `Monitor`
actor beside them, through which the first worker reports its progress and learns that it should
stop. Checkpoints are raygen's own, in the run's folder: wherever a worker group starts, the first
time or after a failure, it goes on from the newest complete one there.
"""

import os
import posixpath
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer, get_device

from raygen.cluster import Question, start_actor
from raygen.errors import RunError, UserError
from raygen.training.control import Control, Outcome, Progress
from raygen.training.monitor import Known, Monitor
from raygen.training.session import Session, run_session
from raygen.training.workers import Workers

POLL_SECONDS = 0.25
ANSWER_SECONDS = 30
"""Without an answer for so long, Ray is taken for dead."""


class MonitorControl(Control):
    """The first worker's line to the monitor."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._stopping = Question()
        self._has_started = False

    def started(self, step: int) -> None:
        # A group that goes back to a checkpoint by itself starts more than once.
        ray.get(self._monitor.started.remote(step, not self._has_started))
        self._has_started = True

    def notice(self, text: str) -> None:
        ray.get(self._monitor.notice.remote(text))

    def exchange(self, progress: Progress) -> bool:
        return bool(self._stopping.ask(self._monitor.exchange, progress))

    def measured(self, progress: Progress) -> None:
        ray.get(self._monitor.measured.remote(progress))


def fit(
    session: Session,
    watch: Callable[[Known], None],
    stop: threading.Event,
    cpus_per_worker: float,
    threads: int = 0,
) -> Outcome:
    """Train on the Ray cluster.

    Args:
        watch: called a few times a second with what is known.
        stop: set it to have the run saved and ended early.
        cpus_per_worker: to reserve.
        threads: that each worker computes with on CPUs; 0: all that its node has for this run.
    Returns: how the run ended.
    Raises: UserError for a mistake found by a worker; RunError for anything else.
    """
    monitor = start_actor(Monitor)
    # Ray wants a folder for a record of its own. Checkpoints are not in it, so it is deleted.
    record = session.run.folder.join(f".ray-{uuid.uuid4().hex}")
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"session": session, "monitor": monitor, "threads": threads},
        scaling_config=ScalingConfig(
            num_workers=session.num_workers,
            use_gpu=session.use_gpu,
            resources_per_worker={"CPU": cpus_per_worker} | ({"GPU": 1} if session.use_gpu else {}),
        ),
        run_config=RayRunConfig(
            name=posixpath.basename(record.path),
            storage_path=session.run.folder.path,
            storage_filesystem=session.run.folder.filesystem,
            failure_config=FailureConfig(max_failures=session.config.max_failures),
        ),
    )
    failure: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    # A thread of its own: the main one stays free for Ctrl-C and the progress line.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        report = _watch(session, thread, monitor, watch, stop)
    finally:
        record.delete()
    if failure:
        raise _failed(session, str(failure[0])) from failure[0]
    if report.outcome is None:
        raise _failed(session, "the workers ended without saying how")
    return report.outcome


def _watch(
    session: Session,
    training: threading.Thread,
    monitor: Any,
    watch: Callable[[Known], None],
    stop: threading.Event,
) -> Known:
    """Pass on reports until the training ends, and the wish to stop. Returns: the last report."""
    told = False
    while True:
        training.join(POLL_SECONDS)
        ended = not training.is_alive()
        try:
            report: Known = ray.get(monitor.report.remote(), timeout=ANSWER_SECONDS)
        except RayError as error:
            raise _failed(session, "Ray stopped answering") from error
        watch(report)
        if report.error:
            raise report.error
        if ended:
            return report
        if stop.is_set() and not told:
            monitor.stop.remote()
            told = True


def _failed(session: Session, reason: str) -> RunError:
    step = session.run.position().global_step
    kept = f"is saved up to step {step:,}" if step else "had not been saved yet"
    return RunError(f"training failed: {reason}\nthe run {kept}; the same command goes on with it")


def _worker(settings: dict[str, Any]) -> None:
    """What each worker does."""
    session: Session = settings["session"]
    monitor = settings["monitor"]
    if ray.get(monitor.report.remote()).error:
        # Ray starts the workers again after any error, but this one would only repeat.
        return
    try:
        context = ray.train.get_context()
        device = get_device()
        workers = Workers(context.get_world_rank(), context.get_world_size(), device)
        if device.type == "cpu":
            use_cores(settings["threads"] or cores() // context.get_local_world_size())
        outcome = run_session(session, workers, MonitorControl(monitor))
        if workers.is_first:
            ray.get(monitor.ended.remote(outcome))
    except (UserError, RunError) as error:
        ray.get(monitor.failed.remote(error))
        raise
    except torch.OutOfMemoryError as error:
        message = f"--batch-size {session.config.batch_size}: out of GPU memory ({error}); lower it"
        ray.get(monitor.failed.remote(UserError(message)))
        raise
    except Exception:
        if session.verbose:
            traceback.print_exc()
        raise


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cores(count: int) -> None:
    """Compute with so many threads. Ray gives each CPU worker as many as it reserved: too few."""
    torch.set_num_threads(max(1, min(count, cores())))


def summary(session: Session, outcome: Outcome, began_at: float) -> dict[str, Any]:
    """What `summary.json` says. Args: began_at: Unix time of the job's start, in seconds."""
    first = outcome.first_step_at
    return {
        "preset": session.config.preset,
        "images_seen": outcome.position.images_seen,
        "global_step": outcome.position.global_step,
        "seconds": round(time.time() - began_at, 2),
        "images_per_second": round(outcome.images_per_second, 1),
        "seconds_to_first_step": round(first - began_at, 2) if first else None,
        "data_wait_fraction": round(outcome.data_wait_fraction, 5),
        "num_workers": session.num_workers,
        "device": "cuda" if session.use_gpu else "cpu",
        "metrics": outcome.metrics,
        "data": session.data.uri,
    }
