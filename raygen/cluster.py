"""Connecting to Ray: a cluster if there is one, this machine otherwise."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data  # Sets its loggers' levels when imported, so before ours are set.

from raygen.errors import UserError


@contextmanager
def connected(verbose: bool = False, **options: Any) -> Iterator[None]:
    """Ray for the duration of a job.

    Connects to the cluster that `RAY_ADDRESS` names (a submitted job finds it set) or that runs
    on this machine; starts one for this job alone if there is none. Leaves a Ray that was already
    running in this process as it is.

    Args:
        verbose: let Ray's own messages and the workers' output through.
        options: further ones of `ray.init`.
    Raises: UserError if the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    level = logging.INFO if verbose else logging.ERROR
    # Workers' warnings would otherwise be repeated on the terminal, once per worker.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not verbose:
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    try:
        ray.init(logging_level=level, log_to_driver=verbose, **options)
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS", "auto")
        raise UserError(
            f"RAY_ADDRESS {address}: no Ray cluster answers there ({error}); start it with "
            "`ray start --head`, or unset RAY_ADDRESS to run on this machine alone"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    try:
        yield
    finally:
        ray.shutdown()


def nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive, by name."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
