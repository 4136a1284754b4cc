"""The number of trials that run at once on a Ray cluster, and the resources of each.

Everything that runs is counted: the workers of each trial, the tasks that read for them where
Ray Data reads, and the process that drives a trial's workers where there are several.
"""

import math
from dataclasses import dataclass

from raygen.cluster.connection import Nodes, total
from raygen.config.run import Reader
from raygen.core.errors import UserError
from raygen.training.placement import LEAST_CPUS, fitting_cpus, resources

DRIVER_CPUS = 0.01
"""CPUs reserved for a trial's driver, which only waits for its workers."""
TRIAL_MEMORY = 1.5 * 2**30
"""Approximate memory of a worker process without its networks, in bytes."""


@dataclass(frozen=True)
class Capacity:
    """How trials share a cluster.

    Attributes:
        at_once: number of trials that run at the same time.
        workers: workers per trial.
        use_gpu: whether the workers are on GPUs.
        cpus_per_worker: CPUs that each worker reserves.
        gpus_per_worker: GPUs likewise; below 1 if several trials share a GPU.
        threads: CPU threads of each worker, if it computes on CPUs.
        per_gpu: how many trials may share a GPU.
    """

    at_once: int
    workers: int
    use_gpu: bool
    cpus_per_worker: float
    gpus_per_worker: float
    threads: int
    per_gpu: int = 1

    @property
    def trial_resources(self) -> dict[str, float]:
        """Resources that Ray Tune reserves for a trial's own process.

        A single worker is that process; several reserve for themselves.
        """
        if self.workers > 1:
            return {"CPU": DRIVER_CPUS}
        gpu = {"GPU": self.gpus_per_worker} if self.use_gpu else {}
        return {"CPU": self.cpus_per_worker} | gpu

    def __str__(self) -> str:
        each = f" of {self.workers} workers" if self.workers > 1 else ""
        place = "GPUs" if self.use_gpu else "CPUs"
        if 0 < self.gpus_per_worker < 1:
            place += f", up to {int(1 / self.gpus_per_worker)} on each"
        return (
            f"{self.at_once} {'trial' if self.at_once == 1 else 'trials'} at once{each} on {place}"
        )


def plan_capacity(
    nodes: Nodes, workers: int, wish: str, trials: int, reader: Reader, per_gpu: int = 1
) -> Capacity:
    """Decide how many trials run at once.

    Args:
        nodes: the existing nodes, and those that an autoscaler may add.
        workers: workers per trial.
        wish: the user's option: `auto`, or a number of trials.
        trials: upper limit of the number of trials.
        per_gpu: how many trials of one worker may share a GPU if the user leaves that open.
    Raises: UserError, with the numbers, if the cluster can never hold what is asked for.
    """
    cpus, gpus = total(nodes, "CPU"), int(total(nodes, "GPU"))
    memory = sum(node.get("memory", math.inf) for node in nodes)
    use_gpu = gpus > 0
    number = int(wish) if wish.isdecimal() else 0
    if wish != "auto" and number < 1:
        raise UserError(f"--max-concurrent {wish}: must be auto, or a number of trials from 1 on")
    most_workers = gpus if use_gpu else int(cpus / LEAST_CPUS)
    each = f"{workers} worker{'s' if workers > 1 else ''}"
    if workers > most_workers:
        raise UserError(
            f"--workers-per-trial {workers}: the cluster has {resources(nodes)}; use at most "
            f"{most_workers}"
        )
    if number:
        # Small networks leave much of a GPU idle, which several trials may share.
        most = int(cpus / LEAST_CPUS) if workers == 1 else most_workers // workers
        if number > most:
            raise UserError(
                f"--max-concurrent {number}: {number} trials of {each} need more than "
                f"the {resources(nodes)} of the cluster; use at most {most}, or auto"
            )
        at_once = min(number, trials)
    else:
        units = gpus * (per_gpu if workers == 1 else 1) if use_gpu else cpus
        fits = min(units // workers, memory // (workers * TRIAL_MEMORY))
        at_once = max(1, min(trials, int(fits)))
    count = at_once * workers
    gpus_each = float(use_gpu)
    if use_gpu and workers == 1:
        gpus_each = math.floor(1e4 / math.ceil(at_once / gpus)) / 1e4
    # Wherever the drivers are placed, they fit beside the workers.
    drivers = DRIVER_CPUS * at_once if workers > 1 else 0.0
    share = fitting_cpus(nodes, count, reader, gpus_each, drivers)
    if not share:
        raise UserError(
            f"--max-concurrent {wish}: {at_once} trials of {each} leave no CPU for each "
            f"worker of the {cpus:g} CPUs of the cluster; use less"
        )
    if workers > 1:
        share = min(1.0, share)
    return Capacity(at_once, workers, use_gpu, share, gpus_each, max(1, int(cpus / count)), per_gpu)
