"""Functions as Ray tasks, or aside in a process of their own, and waiting for them."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from raygen.cluster import connection as cluster
from raygen.core.errors import RunError, UserError, one_line


def task(function: Callable[..., Any], gpus: float, cores: float = 1) -> Any:
    """A function as a Ray task. Args: gpus, cores: what it takes while it runs."""
    # Libraries keep the number of threads that they were loaded with, on which their rounding
    # depends. So that what is measured does not depend on what a process did before, those of more
    # threads are not used again.
    kept: dict[str, Any] = {} if cores <= 1 else {"max_calls": 1}
    return ray.remote(num_cpus=cores, num_gpus=gpus, **kept)(function)


class Pool(Protocol):
    """Where functions run."""

    def submit(
        self, function: Callable[..., Any], *arguments: Any, returns: int = 1, on_gpu: bool = True
    ) -> Any:
        """Run a function on other processes.

        Args:
            arguments: what it is called with; of references to objects, the objects.
            returns: how many results it has.
            on_gpu: whether it can use a GPU.
        Returns: a reference to its result; several of them for several results.
        """


class Tasks:
    """Runs functions as Ray tasks of one core each, in parallel."""

    def __init__(self, gpus: float) -> None:
        """Args: gpus: GPUs, or the share of one, that each takes which can use one."""
        self._gpus = gpus

    def submit(
        self, function: Callable[..., Any], *arguments: Any, returns: int = 1, on_gpu: bool = True
    ) -> Any:
        """See `Pool`."""
        run = task(function, self._gpus if on_gpu else 0)
        return run.options(num_returns=returns).remote(*arguments)


class Aside:
    """Runs functions one after the other, in a process that gives way to all others.

    It takes none of Ray's CPUs, so that it runs even where others have reserved all of them, and of
    the GPUs one that nobody has reserved, if there is one.
    """

    def __init__(self) -> None:
        gpus = 1 if cluster.free("GPU") >= 1 else 0
        self._actor: Any = ray.remote(num_cpus=0, num_gpus=gpus)(_Polite).remote(bool(gpus))

    def submit(
        self, function: Callable[..., Any], *arguments: Any, returns: int = 1, on_gpu: bool = True
    ) -> Any:
        """See `Pool`."""
        return self._actor.call.options(num_returns=returns).remote(function, *arguments)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        with contextlib.suppress(RayError):
            ray.kill(self._actor)


class _Polite:
    """Actor of `Aside`."""

    def __init__(self, has_gpu: bool) -> None:
        os.nice(19)
        if not has_gpu:
            # Those that are there belong to others.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Imported here, as whoever only submits does not need it.
        import torch

        torch.set_num_threads(1)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def cause_of(error: RayTaskError) -> UserError | RunError:
    """The error that made a task fail, as one line."""
    cause = error.cause
    return cause if isinstance(cause, UserError) else RunError(one_line(error))


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
