"""Watches the groups of workers of a run from Ray Train's controller, and ends those that hang.

Ray Train notices a worker whose process has ended, but none that has stopped working: its others
would wait for it for ever.
"""

import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raygen.cluster import connection as cluster
from raygen.core.progress import duration
from raygen.core.status import Group, Notice
from raygen.training.activity import stalled

ACCELERATOR = "accelerator_type:"
"""Prefix of a resource by which a node tells what GPUs it has."""
PROCESSES = Path("/proc")
WORKER = b"ray::"
"""What the command line of each of Ray's worker processes begins with."""


class Overseer(WorkerGroupCallback):
    """Tells a job's `Status` of each group of workers, and replaces workers that hang.

    Ray Train calls it in its controller.
    """

    def __init__(self, status: Any, stall_seconds: float) -> None:
        """Args: status: an actor of `Status`; stall_seconds: see `activity.stalled`; 0.0: never."""
        self._status = status
        self._limit = stall_seconds
        self._beats = cluster.Poll()
        self._workers: list[Any] = []
        self._ended: set[int] = set()

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._workers, self._ended = list(worker_group.get_workers()), set()
        self._beats = cluster.Poll()
        kinds = {node["NodeID"]: kind_of(node["Resources"]) for node in ray.nodes()}
        places = {worker.metadata.node_id for worker in self._workers}
        found = Counter(kinds.get(place, "unknown") for place in places)
        self._status.begin_group.remote(Group(len(self._workers), dict(found)))

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        self._workers = []
        self._status.begin_group.remote(Group(0, {}))

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        if not self._limit or not self._workers:
            return
        beats = self._beats.ask(self._status.beats) or {}
        for rank in stalled(beats, self._limit):
            if rank in self._ended or rank >= len(self._workers):
                continue
            self._ended.add(rank)
            beat, _ = beats[rank]
            text = (
                f"worker {rank} on {beat.place} has done nothing for {duration(self._limit)}, and "
                f"is replaced; it was {beat.describe()}"
            )
            self._status.tell.remote(Notice(text))
            self._status.expect.remote(f"worker {rank} hung")
            metadata = self._workers[rank].metadata
            there = NodeAffinitySchedulingStrategy(metadata.node_id, soft=False)
            # A process that is stopped answers no request of Ray's to end.
            remote: Any = ray.remote(end_process)
            remote.options(num_cpus=0, scheduling_strategy=there).remote(metadata.pid)


def end_process(pid: int) -> None:
    """Kill a process of this machine if it is one of Ray's workers, even one that is stopped."""
    with suppress(FileNotFoundError, ProcessLookupError):
        # The number may belong to another process by now. Only Linux lists the command lines.
        command = PROCESSES / str(pid) / "cmdline"
        if not PROCESSES.exists() or command.read_bytes().startswith(WORKER):
            os.kill(pid, signal.SIGKILL)


def kind_of(resources: dict[str, float]) -> str:
    """Describe a node, as `8 CPUs` or `4 x A10G`."""
    gpus = resources.get("GPU", 0)
    if not gpus:
        cpus = resources.get("CPU", 0)
        return f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    names = [name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)]
    return f"{gpus:g} x {names[0] if names else 'GPU'}"
