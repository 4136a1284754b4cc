"""The job's side of a training inside Ray Train: starting the workers and watching them.

`fit` runs in the job's own process. It starts the workers through a TorchTrainer; through the
actor `Status` the first worker reports its progress and learns that it should stop. Checkpoints
are raygen's own, in the run's folder: wherever a worker group starts, the first time or after a
failure, it goes on from the latest complete one there.
"""

import contextlib
import math
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import ray.data
from ray.exceptions import RayError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer

from raygen.cluster import connection as cluster
from raygen.cluster.lease import Fence
from raygen.core.errors import RunError, StorageError, UserError
from raygen.core.patient_filesystem import patient_filesystem
from raygen.core.retry import OUTAGES
from raygen.core.status import RUN, Ended, Event, Outcome, State, tell_outage
from raygen.core.storage import Folder
from raygen.data.splits import TRAIN
from raygen.data.stream.ray_data import ReadTasks, warm_up
from raygen.training.elastic import RESIZE_SECONDS, ElasticTrainer
from raygen.training.overseer import Overseer
from raygen.training.placement import Placement
from raygen.training.planned_shards import PlannedShards
from raygen.training.process_group import torch_config
from raygen.training.ray_worker import train_worker
from raygen.training.session import Session

POLL_SECONDS = 0.25
LOST_SECONDS = 10
"""Time without a machine that workers need, in seconds, after which they count as lost."""
END_SECONDS = 20
"""Time for workers to end after the job has failed, in seconds."""
GROUP_SECONDS = 1800
"""Time that workers wait for each other before they consider one dead, in seconds."""
RAY_RECORDS = ".ray-"
"""Prefix of the folders that Ray keeps its own records in."""


def fit(
    session: Session,
    watch: Callable[[State], None],
    stop: threading.Event,
    placement: Placement,
    status: Any,
    threads: int = 0,
) -> Outcome:
    """Train on the Ray cluster.

    Args:
        watch: called a few times a second with the state and the events since the last call.
        stop: set it to save the run and end it early.
        status: an actor of `Status`.
        threads: CPU threads of each worker; 0: all that its node has for this run.
    Returns: how the run ended.
    Raises: UserError for a mistake found by a worker; RunError for anything else.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            again = True
            while again:
                again = _fit_once(session, placement, status, threads, stop)
        except BaseException as error:
            failure.append(error)

    if session.uses_ray_data:
        threading.Thread(target=warm_up, args=(placement.workers,), daemon=True).start()
    # Ray Train runs in a thread, so that the main one handles Ctrl-C and the progress line.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        outcome = _watch(session, thread, status, watch, stop, placement)
    except BaseException:
        # pyarrow crashes if the thread waits for a storage while the process ends. And if it ends
        # before Ray Train does, the CPUs of the workers may stay reserved for them.
        stop.set()
        with contextlib.suppress(RayError):
            status.stop.remote()
        thread.join(END_SECONDS)
        raise
    finally:
        forget_records(session.run.folder, session.run.fence)
    if failure:
        raise _failed(session, str(failure[0])) from failure[0]
    if outcome is None:
        raise _failed(session, "the workers ended without saying how")
    OUTAGES.count(outcome.retries)
    return outcome


def _fit_once(
    session: Session,
    placement: Placement,
    status: Any,
    threads: int,
    stop: threading.Event,
) -> bool:
    """Train until the end, or until workers have failed too often.

    Returns: whether to try again. The limit of failures concerns runs that get nowhere, not those
        that lose a machine now and then over days.
    Raises: the error that the workers failed with.
    """
    may_fail = session.config.max_failures
    before = session.run.position().global_step
    datasets: dict[str, ray.data.Dataset | Callable[[], ray.data.Dataset]] = {}
    dataset_config = tasks = None
    if session.uses_ray_data:
        told = partial(tell_outage, status, RUN)
        tasks = ReadTasks(cluster.smallest_store(), told, session.config.read_tasks)
        # A dataset of row numbers; the config says who reads which of them, and when.
        datasets[TRAIN] = ray.data.range(session.manifest.rows(TRAIN))
        first = placement.workers
        if placement.sizes:
            first = placement.fitting(cluster.lasting_nodes(), session.config.reader) or first
        dataset_config = PlannedShards(session, tasks, status, first)
    gpu = {"GPU": 1} if placement.use_gpu else {}
    workers: Any = (placement.sizes[0], placement.workers) if placement.sizes else placement.workers
    scaling: dict[str, Any] = {
        "num_workers": workers,
        "elastic_resize_monitor_interval_s": RESIZE_SECONDS,
    }
    overseer: Any = Overseer(status, session.config.stall_seconds)
    kind: Any = TorchTrainer
    if placement.sizes:
        kind = partial(ElasticTrainer, placement, session.config.reader, status)
    trainer = kind(
        train_worker,
        train_loop_config={
            "session": session,
            "status": status,
            "threads": threads,
            "tasks": tasks,
        },
        datasets=datasets,
        dataset_config=dataset_config,
        # The others wait in a collective operation while one worker waits for the storage.
        torch_config=torch_config(int(GROUP_SECONDS + session.run.folder.patience)),
        scaling_config=ScalingConfig(
            use_gpu=placement.use_gpu,
            resources_per_worker={"CPU": placement.cpus_per_worker} | gpu,
            **scaling,
        ),
        run_config=RayRunConfig(
            # Ray needs a folder for its own records; checkpoints are kept elsewhere.
            name=f"{RAY_RECORDS}{uuid.uuid4().hex}",
            storage_path=session.run.folder.path,
            storage_filesystem=patient_filesystem(session.run.folder),
            failure_config=FailureConfig(max_failures=may_fail),
            callbacks=[overseer],
        ),
    )
    try:
        trainer.fit()
    except Exception:
        if not may_fail or stop.is_set() or session.run.position().global_step <= before:
            raise
        return True
    return False


def forget_records(folder: Folder, fence: Fence | None) -> None:
    """Delete Ray's records of this job and of killed ones, if this job still owns the folder."""
    # The storage may be what ends the job, and that error is reported already.
    with contextlib.suppress(RunError, UserError, OSError):
        folder = folder.patient(0)
        if fence:
            fence.at_once().check()
        for name in folder.names():
            if name.startswith(RAY_RECORDS):
                folder.join(name).delete()


def _watch(
    session: Session,
    training: threading.Thread,
    status: Any,
    watch: Callable[[State], None],
    stop: threading.Event,
    placement: Placement,
) -> Outcome | None:
    """Forward state to the caller and stop requests to the workers. Returns: how the run ended."""
    told_at = math.inf
    seen: list[Event] = []
    while True:
        training.join(POLL_SECONDS)
        ended = not training.is_alive()
        try:
            state: State = cluster.answer(status.state, len(seen))
        except RayError as error:
            raise _failed(session, "Ray stopped answering") from error
        seen += state.events
        watch(state)
        if isinstance(state.error, StorageError):
            raise StorageError(
                f"{state.error}\nwhat the run has saved is kept; once that is mended, the same "
                "command goes on with it"
            ) from state.error
        if state.error:
            raise state.error
        if ended:
            outcomes = [event.outcome for event in seen if isinstance(event, Ended)]
            return outcomes[-1] if outcomes else None
        now = time.monotonic()
        if stop.is_set() and now < told_at:
            status.stop.remote()
            told_at = now
        if now > told_at + LOST_SECONDS and placement.missing(cluster.nodes()):
            # A machine was lost: there are no workers left to stop, and nothing unsaved.
            return Outcome(False, session.run.position(), 0.0, 0.0, 0.0, {})


def _failed(session: Session, reason: str) -> RunError:
    step = session.run.position().global_step
    kept = f"is saved up to step {step:,}" if step else "had not been saved yet"
    return RunError(f"training failed: {reason}\nthe run {kept}; the same command goes on with it")
