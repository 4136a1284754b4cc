"""Functions as Ray tasks, and waiting for them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from raygen.cluster import connection as cluster
from raygen.core.errors import RunError


def task(function: Callable[..., Any], gpus: float, cores: int = 1) -> Any:
    """A function as a Ray task. Args: gpus, cores: what it takes while it runs."""
    # Libraries keep the number of threads that they were loaded with, on which their rounding
    # depends. So that what is measured does not depend on what a process did before, those of more
    # threads are not used again.
    kept: dict[str, Any] = {} if cores <= 1 else {"max_calls": 1}
    return ray.remote(num_cpus=cores, num_gpus=gpus, **kept)(function)


def finished(tasks: Sequence[Any]) -> Iterator[int]:
    """Wait for tasks; yield how many have finished so far, each time one has.

    Raises: RayTaskError if one of them fails.
    """
    waiting = list(tasks)
    while waiting:
        done, waiting = ray.wait(waiting, timeout=cluster.ANSWER_SECONDS)
        # Their results are small; what matters is the error that a task may have raised.
        ray.get(done)
        if done:
            yield len(tasks) - len(waiting)
        elif not cluster.is_alive():
            raise RunError("the connection to Ray is lost; run the same command again")
