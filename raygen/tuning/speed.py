"""How fast the machine, or the cluster, trains."""

import statistics
import time
from collections.abc import Sequence

import ray
import torch
from ray.exceptions import RayTaskError

from raygen.cluster import connection as cluster
from raygen.config.run import RunConfig
from raygen.core.progress import ProgressLine
from raygen.measuring.dispatch import cause_of, task
from raygen.measuring.tasks import device
from raygen.tuning.capacity import plan_capacity
from raygen.tuning.gpu_sharing import trials_per_gpu
from raygen.tuning.random_steps import random_steps

SECONDS, LEAST_STEPS = 2.0, 5
"""Time after which no more steps are timed, if there were so many."""
MOST_SECONDS = 20.0
"""The same, however few there were."""
SLOW = 4.0
"""A step that took so many times longer than most waited for other processes of the machine."""


def training_speeds(
    runs: Sequence[RunConfig],
    most: int,
    line: ProgressLine,
    verbose: bool = False,
    machines: cluster.Nodes = (),
) -> tuple[list[float], int]:
    """How fast trainings of one worker are, while as many as possible run at once.

    Some steps of each are taken on random images, by as many processes as a sweep would run trials.

    Args:
        most: upper limit of the trainings that run at once.
        machines: that the user says may come.
    Returns: images/s that the steps of each run's training reach; and how many run at once.
    Raises: UserError, RunError.
    """
    speeds = []
    with cluster.connected(verbose):
        # A node that an autoscaler may add is added for the tasks below.
        reader = runs[0].reader
        possible = cluster.possible_nodes(machines)
        per_gpu = trials_per_gpu(runs, most, possible, line)
        capacity = plan_capacity(possible, 1, "auto", most, reader, per_gpu)
        needed = {"CPU": capacity.cpus_per_worker, "GPU": capacity.gpus_per_worker}
        # Tasks that ask for what others have reserved would wait for them to end.
        is_free = all(
            cluster.free(name) >= capacity.at_once * number for name, number in needed.items()
        )
        count = capacity.at_once if is_free else 1
        timed = task(_images_per_second, needed["GPU"], needed["CPU"])
        for number, run in enumerate(runs):
            line.show(f"measuring the speed: {number + 1} of {len(runs)}")
            try:
                found = ray.get([timed.remote(run, capacity.threads) for _ in range(count)])
            except RayTaskError as error:
                raise cause_of(error) from error
            speeds.append(statistics.fmean(found))
    return speeds, capacity.at_once


def _images_per_second(run: RunConfig, threads: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _timed(run)
    finally:
        # The process may measure something else next, whose rounding depends on it.
        torch.set_num_threads(before)


def _timed(run: RunConfig) -> float:
    take = random_steps(run, torch.device(device()))
    # The first step chooses algorithms and allocates memory.
    take(0)
    took: list[float] = []
    while sum(took) < (SECONDS if len(took) >= LEAST_STEPS else MOST_SECONDS):
        began = time.perf_counter()
        take(len(took) + 1)
        took.append(time.perf_counter() - began)
    limit = SLOW * statistics.median(took)
    return run.step_images / statistics.fmean(min(each, limit) for each in took)
