"""The number of workers that fit on a cluster, and the resources that each reserves.

A plan always fits on the nodes all at once, so that no worker waits for resources that another one
holds: Ray waits for ever, and silently, for CPUs that are all reserved.
"""

import math
from dataclasses import dataclass

from raygen.cluster.connection import Nodes, total
from raygen.cluster.growth import size_of
from raygen.config.run import MOST_WORKERS, RAY_DATA, Reader, RunConfig
from raygen.core.errors import UserError
from raygen.data.stream.ray_data import TASK_CPUS, tasks_at_once

LEAST_CPUS = 0.25
"""Least CPUs per worker: more than four workers per CPU only slow each other down."""


@dataclass(frozen=True)
class Placement:
    """The workers of a run.

    Attributes:
        workers: how many there are; where that may change, the most.
        cpus_per_worker: CPUs that each worker reserves.
        sizes: the numbers of workers between which the run may change, from the smallest; empty if
            it may not.
    """

    workers: int
    use_gpu: bool
    cpus_per_worker: float
    sizes: tuple[int, ...] = ()

    @property
    def resource(self) -> str:
        """The resource that limits the number of workers: GPU or CPU."""
        return "GPU" if self.use_gpu else "CPU"

    @property
    def wanted(self) -> float:
        """Amount of that resource without which the run cannot train."""
        fewest = self.sizes[0] if self.sizes else self.workers
        return fewest * (1 if self.use_gpu else self.cpus_per_worker)

    def missing(self, nodes: Nodes) -> str:
        """Describe what workers wait for, as `2 of 4 GPUs are there`; empty if all have room.

        Args: nodes: the nodes that exist by now.
        """
        there = total(nodes, self.resource)
        if there >= self.wanted:
            return ""
        return f"{there:g} of {self.wanted:g} {self.resource}s are there"

    def fitting(self, nodes: Nodes, reader: Reader, at_most: int | None = None) -> int:
        """The largest of `sizes` for which the nodes have room; 0 if there is none.

        Args: reader: needs room beside the workers; at_most: an upper limit besides.
        """
        gpus_each = 1.0 if self.use_gpu else 0.0
        allowed = (n for n in self.sizes if at_most is None or n <= at_most)
        fitting = (
            n
            for n in allowed
            if _places(_free_cpus(nodes, n, reader, gpus_each), self.cpus_per_worker) >= n
        )
        return max(fitting, default=0)

    def describe(self) -> str:
        """Describe the workers, as `2 to 8 GPU workers`."""
        count = f"{self.sizes[0]} to {self.workers}" if self.sizes else str(self.workers)
        return f"{count} {self.resource} workers"


def plan_workers(config: RunConfig, nodes: Nodes, possible: Nodes) -> Placement:
    """Decide how many workers train, and on what.

    Args: nodes: the existing nodes; possible: those and all that an autoscaler may add.
    Raises: UserError if the cluster can never hold them, or the batch cannot be split over them.
    """
    gpus, cpus = total(possible, "GPU"), total(possible, "CPU")
    use_gpu = gpus > 0
    least, most = config.worker_bounds
    if most:
        has_bounds = least < most
    elif has_bounds := size_of(possible) > size_of(nodes):
        # An autoscaler takes its time, and spot machines come and go.
        least, most = 1, most_workers(config, int(gpus) or 2)
    else:
        least = most = most_workers(config, int(total(nodes, "GPU")) or 2)
    room = int(gpus if use_gpu else cpus / LEAST_CPUS)
    if least > room:
        # Workers that share a CPU are only useful for tests with many workers.
        advised = room if use_gpu else int(cpus)
        advice = f"use --num-workers {advised}" if advised else "add machines to it"
        raise UserError(
            f"--num-workers {least}: the cluster has {resources(possible)}, on which there is room "
            f"for {room} workers at most; {advice}"
        )
    check_sync_bn(config, use_gpu)
    sizes = splits(config, least, most) if has_bounds else ()
    if not has_bounds:
        check_batch(config, most)
    elif not sizes:
        known = ", ".join(map(str, splits(config, 1, MOST_WORKERS)))
        raise UserError(
            f"--num-workers {least}:{most}: --batch-size {config.batch_size} cannot be split "
            f"evenly over any number of workers from {least} to {most}; it can over {known}"
        )
    # Machines may come of which nothing is known yet, so only some of the sizes have to fit now.
    now = max(least, int(gpus if use_gpu else cpus))
    count = max((size for size in sizes if size <= now), default=sizes[0]) if sizes else most
    gpus_each = 1.0 if use_gpu else 0.0
    share = fitting_cpus(possible, count, config.reader, gpus_each)
    if sizes:
        # One worker has to fit on each machine alone, for any may be the last that is left.
        alone = (fitting_cpus([node], 1, config.reader, gpus_each) for node in possible)
        share = min([share, *(own for own in alone if own)])
    if not share:
        raise UserError(
            f"--num-workers {count}: leaves no CPU for each worker of the {resources(possible)} of "
            "the cluster; use less"
        )
    # Reserving more than one each would keep workers off nodes with many GPUs and few CPUs.
    workers = max(sizes, default=most)
    return Placement(workers, use_gpu, min(1.0, share), sizes if len(sizes) > 1 else ())


def splits(config: RunConfig, least: int, most: int) -> tuple[int, ...]:
    """The numbers of workers from `least` to `most` over which a batch can be split evenly."""
    # Each worker needs at least this many images of a batch, unless statistics are synchronised.
    images = config.step_images // (1 if config.sync_bn else config.model.least_images)
    return tuple(n for n in range(least, min(most, images) + 1) if config.step_images % n == 0)


def most_workers(config: RunConfig, ready: int) -> int:
    """The largest number of ready workers that a batch can be split over.

    A run uses it to go on after it has lost some of its machines.
    """
    return max(splits(config, 1, ready), default=ready)


def check_batch(config: RunConfig, count: int) -> None:
    """Raises: UserError if a batch cannot be split over so many workers."""
    config.check_share(count)
    unit = count * config.model.images_divisor
    if config.batch_size % unit:
        lower = config.batch_size - config.batch_size % unit
        near = f"{lower} or {lower + unit}" if lower else f"{unit}"
        raise UserError(
            f"--batch-size {config.batch_size}: cannot be split evenly over {count} workers; "
            f"use {near}, or another number of workers"
        )


def check_sync_bn(config: RunConfig, use_gpu: bool) -> None:
    """Raises: UserError if synchronised batch norm is asked for where it is not supported."""
    if config.sync_bn and not use_gpu:
        raise UserError("--sync-bn: needs GPUs, the cluster has none; leave it out")


def resources(nodes: Nodes) -> str:
    """Describe the available resources for messages: `4 GPUs` or `2 CPUs`."""
    gpus, cpus = total(nodes, "GPU"), total(nodes, "CPU")
    number, name = (gpus, "GPU") if gpus else (cpus, "CPU")
    return f"{number:g} {name}{'' if number == 1 else 's'}"


def fitting_cpus(
    nodes: Nodes, count: int, reader: Reader, gpus_each: float, drivers: float = 0.0
) -> float:
    """The most CPUs that each worker may reserve such that all fit, wherever the rest lands.

    Args:
        count: number of workers.
        reader: Ray Data's tasks need room beside the workers.
        gpus_each: GPUs that each worker reserves.
        drivers: CPUs that other processes reserve on any of the nodes.
    Returns: CPUs, in steps of Ray's own precision; 0.0 if there is no room for so many.
    """
    free = _free_cpus(nodes, count, reader, gpus_each, drivers)
    candidates = {_floor(own / k) for own, most in free for k in range(1, most + 1)}
    fitting = (share for share in candidates if share > 0 and _places(free, share) >= count)
    return max(fitting, default=0.0)


def _free_cpus(
    nodes: Nodes, count: int, reader: Reader, gpus_each: float, drivers: float = 0.0
) -> list[tuple[float, int]]:
    """Each node's CPUs for workers, and how many workers it may hold; see `fitting_cpus`."""
    tasks = TASK_CPUS * tasks_at_once(count) if reader == RAY_DATA else 0.0
    cpus = total(nodes, "CPU")
    free: list[tuple[float, int]] = []
    for node in nodes:
        own = node.get("CPU", 0)
        stream = min(own / 2, max(TASK_CPUS, tasks * own / cpus)) if tasks and own else 0.0
        most = int(node.get("GPU", 0) / gpus_each + 1e-6) if gpus_each else count
        free.append((max(0.0, own - drivers - stream), min(most, count)))
    return free


def _places(free: list[tuple[float, int]], share: float) -> int:
    """How many workers that reserve a share of CPUs each have room."""
    return sum(min(most, int(own / share + 1e-6)) for own, most in free)


def _floor(number: float) -> float:
    """Round down to Ray's precision; rounded up, the result might no longer fit."""
    return math.floor(number * 1e4) / 1e4
