"""How many trials share a GPU, by the memory that a training takes."""

from collections.abc import Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from raygen.cluster.connection import Nodes, total
from raygen.config.domains import Space
from raygen.config.run import RunConfig
from raygen.core.progress import ProgressLine
from raygen.measuring.dispatch import cause_of, finished, task
from raygen.tuning.random_steps import random_steps

MOST = 4
"""Upper limit of the trials that share a GPU: they take turns on it, and each needs a CPU."""
OTHER_MEMORY = 1.5 * 2**30
"""Approximate memory in bytes that a trial takes of a GPU besides that of its steps: CUDA's own,
and that of the networks in whose features it is measured."""
SPARE = 0.1
"""Share of a GPU's memory that is left free."""
STEPS = 4
"""Number of steps after which a training takes no more memory."""
GROWS_WITH = ("batch_size", "width")
"""Options with which the memory of a training grows."""
KIND = "accelerator_type:"
"""Ray has a resource whose name begins with this for each kind of GPU."""


def largest(run: RunConfig, space: Space) -> RunConfig:
    """The settings of a search space that take the most memory."""
    searched = [name for name in GROWS_WITH if name in space]
    values: dict[str, Any] = {name: max(space[name].extremes, key=float) for name in searched}
    return run.updated(values, "the search space")


def trials_per_gpu(runs: Sequence[RunConfig], trials: int, nodes: Nodes, line: ProgressLine) -> int:
    """How many trials of one worker are to share a GPU, as far as they fit there.

    They may train any of the runs. Some steps of each are taken on random images, on one GPU.

    Args:
        trials: upper limit of the number of trials.
        nodes: the existing nodes, and those that an autoscaler may add.
    Returns: from 1 to `MOST`; 1 if there are no GPUs, or enough of them for all trials, or if some
        may have less memory than others.
    Raises: UserError, RunError.
    """
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    kinds = {name for node in with_gpus for name in node if name.startswith(KIND)}
    # No process has more than a CPU to itself where several trials share a GPU.
    gpus = total(nodes, "GPU")
    most = min(MOST, int(total(nodes, "CPU") // max(1.0, gpus)))
    if not with_gpus or trials <= gpus or len(kinds) > 1 or most <= 1:
        return 1
    line.show("measuring how much GPU memory a training takes")
    measured = task(_memory, gpus=1)
    pending = [measured.remote(run) for run in runs]
    try:
        for _ in finished(pending):
            pass
    except RayTaskError as error:
        raise cause_of(error) from error
    fits = min(sharing(used, whole) for used, whole in ray.get(pending))
    return min(most, fits)


def sharing(used: int, whole: int) -> int:
    """How many trials fit on a GPU. Args: used: bytes of one's steps; whole: bytes of the GPU."""
    return max(1, int(whole * (1 - SPARE) / (used + OTHER_MEMORY)))


def _memory(run: RunConfig) -> tuple[int, int]:
    """Bytes that steps of a training take of this process's GPU, and those that it has."""
    where = torch.device("cuda")
    # The process may have measured another training before.
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(where)
    take = random_steps(run, where)
    for number in range(STEPS):
        take(number)
    whole = torch.cuda.get_device_properties(where).total_memory
    return torch.cuda.max_memory_reserved(where), whole
