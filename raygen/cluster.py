"""Connecting to Ray: a cluster if there is one, this machine otherwise."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data  # Sets its loggers' levels when imported, so before ours are set.
import yaml

from raygen.errors import UserError

HEAD = "node:__internal_head__"
"""A resource that the head node alone has."""
BOOTSTRAP = "~/ray_bootstrap_config.yaml"
"""Where Ray's cluster launcher leaves the cluster's configuration, on the head node."""


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


def possible_nodes() -> list[dict[str, float]]:
    """The resources of each node that there is, or that an autoscaler may add.

    Known where Ray's cluster launcher started the cluster: it leaves its configuration on the head
    node. Any other cluster is taken to stay as it is.
    """
    heads = [node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    if not heads:
        return nodes()
    [head] = heads
    if ray.get_runtime_context().get_node_id() == head["NodeID"]:
        launched = read_launched()
    else:
        read = ray.remote(num_cpus=0, resources={HEAD: 0.001})(read_launched)
        launched = ray.get(read.remote())
    return max(nodes(), [head["Resources"], *launched], key=_size)


def read_launched(path: str = BOOTSTRAP) -> list[dict[str, float]]:
    """The resources of each worker node that the cluster launcher's configuration allows for.

    Args: path: of the configuration; if there is none, there are no such nodes.
    """
    try:
        with open(os.path.expanduser(path)) as file:
            config = yaml.safe_load(file)
    except OSError:
        return []
    kinds = config["available_node_types"]
    workers = [
        kind.get("resources", {})
        for name, kind in kinds.items()
        if name != config["head_node_type"]
        for _ in range(kind.get("max_workers", 0))
    ]
    # The cluster has a limit of its own. Those that are wanted for training come first.
    workers.sort(key=lambda resources: _size([resources]), reverse=True)
    return workers[: config.get("max_workers", len(workers))]


def _size(nodes: list[dict[str, float]]) -> tuple[float, float]:
    return sum(node.get("GPU", 0) for node in nodes), sum(node.get("CPU", 0) for node in nodes)


class Question:
    """Something that an actor is asked for again and again, without waiting for its answer."""

    def __init__(self) -> None:
        self._answer: Any = None

    def ask(self, method: Any, *arguments: Any) -> Any:
        """Ask once more, if the last question is answered.

        Returns: the answer to the question before; None as long as there is none.
        """
        answer = None
        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if not ready:
                return None
            answer = ray.get(self._answer)
        self._answer = method.remote(*arguments)
        return answer
