"""What an autoscaler may add to a cluster, as far as its head node knows."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

BOOTSTRAP = "~/ray_bootstrap_config.yaml"
"""Path on the head node of the configuration that Ray's cluster launcher leaves there."""
MOST_OF_A_KIND = 1_000
"""Upper limit of the nodes of one kind to plan with, because KubeRay's own default is 2**31 - 1."""


def may_be_added() -> list[dict[str, float]]:
    """Resources of each worker node that the autoscaler of this head node may keep.

    Returns: none if neither Ray's cluster launcher nor KubeRay started it.
    """
    return read_launched() or read_kuberay()


def read_launched(path: str = BOOTSTRAP) -> list[dict[str, float]]:
    """Resources of each worker node that the cluster launcher's configuration allows for.

    Args: path: the configuration; without such a file there are no such nodes.
    """
    try:
        with open(os.path.expanduser(path)) as file:
            config = yaml.safe_load(file)
    except OSError:
        return []
    return workers_of(config)


def read_kuberay() -> list[dict[str, float]]:
    """Resources of each worker node that the RayCluster of this head pod allows for.

    KubeRay lets a head pod with an autoscaler, and no other, read its RayCluster from Kubernetes.

    Returns: none outside such a pod, or if Kubernetes does not answer.
    """
    name, namespace = (os.environ.get(f"RAY_CLUSTER_{word}") for word in ("NAME", "NAMESPACE"))
    if not name or not namespace:
        return []
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    try:
        client = node_provider.KubernetesHttpApiClient(namespace, "v1")
        cluster = client.get(f"rayclusters/{name}")
        if not cluster["spec"].get("enableInTreeAutoscaling"):
            return []
        # What Ray's own autoscaler plans with, so both know the same.
        return workers_of(autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster))
    except (OSError, ValueError, LookupError):
        # The job then plans with the nodes that are there, or with what its user says.
        return []


def workers_of(config: Mapping[str, Any]) -> list[dict[str, float]]:
    """Resources of each worker node that an autoscaler's configuration allows for.

    Args: config: in the form of Ray's cluster launcher.
    """
    workers = [
        node_type.get("resources", {})
        for name, node_type in config["available_node_types"].items()
        if name != config["head_node_type"]
        for _ in range(min(node_type.get("max_workers", 0), MOST_OF_A_KIND))
    ]
    # The cluster has an overall limit. Nodes that are useful for training count first.
    workers.sort(key=lambda resources: size_of([resources]), reverse=True)
    return workers[: config.get("max_workers", len(workers))]


def size_of(nodes: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """GPUs and CPUs of some nodes; the larger of two clusters has the larger pair."""
    gpus, cpus = (sum(node.get(name, 0) for node in nodes) for name in ("GPU", "CPU"))
    return gpus, cpus
