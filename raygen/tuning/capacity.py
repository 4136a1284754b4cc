"""How many trials run at once on the Ray cluster at hand, and what each reserves.

Everything that runs is counted: the workers of each trial, the tasks that read for them where
Ray Data reads, and the process that drives a trial's workers where there are several. What is
planned fits all at once, so that no trial ever waits for what another one holds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raygen.config import RAY_DATA, Reader
from raygen.data.ray_reader import TASK_CPUS, TASKS_IN_FLIGHT
from raygen.errors import UserError

DRIVER_CPUS = 0.01
"""A trial's driver only waits for its workers."""
TRIAL_MEMORY = 1.5 * 2**30
"""Bytes that a worker process takes without its networks, about."""
LEAST_CPUS = 0.25
"""Per worker. More workers than four for each CPU only get in each other's way."""


@dataclass(frozen=True)
class Capacity:
    """How trials share a cluster.

    Attributes:
        at_once: trials that run at the same time.
        workers: of each trial.
        use_gpu: whether the workers are on GPUs.
        cpus_per_worker: that each worker reserves.
        gpus_per_worker: likewise; below 1 where several trials share a GPU.
        threads: that each worker computes with, where it does so on CPUs.
    """

    at_once: int
    workers: int
    use_gpu: bool
    cpus_per_worker: float
    gpus_per_worker: float
    threads: int

    @property
    def trial_resources(self) -> dict[str, float]:
        """What Ray Tune is to reserve for a trial's own process.

        A single worker is that process; several reserve for themselves.
        """
        if self.workers > 1:
            return {"CPU": DRIVER_CPUS}
        gpu = {"GPU": self.gpus_per_worker} if self.use_gpu else {}
        return {"CPU": self.cpus_per_worker} | gpu

    def __str__(self) -> str:
        each = f" of {self.workers} workers" if self.workers > 1 else ""
        place = "GPUs" if self.use_gpu else "CPUs"
        return (
            f"{self.at_once} {'trial' if self.at_once == 1 else 'trials'} at once{each} on {place}"
        )


def plan_capacity(
    nodes: Sequence[Mapping[str, float]], workers: int, wish: str, trials: int, reader: Reader
) -> Capacity:
    """Decide how many trials run at once.

    Args:
        nodes: the resources of each node.
        workers: of each trial.
        wish: what the user said: `auto`, or a number of trials.
        trials: how many there are at most.
    Raises: UserError, with the numbers, if the cluster cannot hold what is wished for.
    """
    cpus = sum(node.get("CPU", 0) for node in nodes)
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    memory = sum(node.get("memory", math.inf) for node in nodes)
    use_gpu = gpus > 0
    number = int(wish) if wish.isdecimal() else 0
    if wish != "auto" and number < 1:
        raise UserError(f"--max-concurrent {wish}: must be auto, or a number of trials from 1 on")
    most_workers = gpus if use_gpu else int(cpus / LEAST_CPUS)
    each = f"{workers} worker{'s' if workers > 1 else ''}"
    device = f"{gpus} GPUs" if use_gpu else f"{cpus:g} CPUs"
    if workers > most_workers:
        raise UserError(
            f"--workers-per-trial {workers}: the cluster has {device}; use at most {most_workers}"
        )
    if number:
        # Small networks leave much of a GPU idle, which several trials may share.
        most = int(cpus / LEAST_CPUS) if workers == 1 else most_workers // workers
        if number > most:
            raise UserError(
                f"--max-concurrent {number}: {number} trials of {each} need more than "
                f"the {device} of the cluster; use at most {most}, or auto"
            )
        at_once = min(number, trials)
    else:
        units = gpus if use_gpu else cpus
        fits = min(units // workers, memory // (workers * TRIAL_MEMORY))
        at_once = max(1, min(trials, int(fits)))
    count = at_once * workers
    # Wherever they land, the drivers and the stream's tasks find their place beside the workers.
    drivers = DRIVER_CPUS * at_once if workers > 1 else 0.0
    tasks = TASK_CPUS * TASKS_IN_FLIGHT * count if reader == RAY_DATA else 0.0
    usable = []
    for node in nodes:
        own = node.get("CPU", 0)
        stream = min(own / 2, max(TASK_CPUS, tasks * own / cpus)) if tasks else 0.0
        usable.append(max(0.0, own - drivers - stream))
    share = _fitting_share(usable, count)
    if use_gpu or workers > 1:
        share = min(1.0, share)
    if share < 0.01:
        raise UserError(
            f"--max-concurrent {wish}: {at_once} trials of {each} leave no CPU for each "
            f"worker of the {cpus:g} CPUs of the cluster; use less"
        )
    gpu_share = 1 / math.ceil(at_once / gpus) if use_gpu and workers == 1 else float(use_gpu)
    threads = max(1, int(cpus / count))
    return Capacity(at_once, workers, use_gpu, share, math.floor(gpu_share * 1e4) / 1e4, threads)


def _fitting_share(nodes: Sequence[float], count: int) -> float:
    """The most CPUs that each of `count` workers may reserve such that all fit on the nodes.

    Args: nodes: CPUs of each that workers may have.
    """
    candidates = {node / k for node in nodes for k in range(1, count + 1)}
    # In steps of Ray's own precision, and never rounded up.
    shares = (math.floor(share * 1e4) / 1e4 for share in candidates)
    fitting = (
        share
        for share in shares
        if share > 0 and sum(int(node / share + 1e-6) for node in nodes) >= count
    )
    return max(fitting, default=0.0)
