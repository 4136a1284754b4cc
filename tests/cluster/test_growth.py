"""What an autoscaler may add, as its configuration says it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import requests
from ray.autoscaler._private.kuberay import node_provider

from raygen.cluster.growth import MOST_OF_A_KIND, may_be_added, read_kuberay, read_launched

LAUNCHED = """
max_workers: 5
head_node_type: head
available_node_types:
  head: {resources: {CPU: 8}, max_workers: 0}
  readers: {resources: {CPU: 16}, min_workers: 0, max_workers: 4}
  trainers: {resources: {CPU: 8, GPU: 2}, min_workers: 0, max_workers: 3}
"""


def pod(**limits: str) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "ray", "resources": {"limits": limits}}]}}


def workers(name: str, most: int, **limits: str) -> dict[str, Any]:
    return {"groupName": name, "minReplicas": 0, "maxReplicas": most, "template": pod(**limits)}


CLUSTER: dict[str, Any] = {
    "metadata": {"name": "faces", "namespace": "research"},
    "spec": {
        "enableInTreeAutoscaling": True,
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": pod(cpu="4")},
        "workerGroupSpecs": [
            workers("readers", 2, cpu="3500m"),
            workers("trainers", 3, cpu="8", **{"nvidia.com/gpu": "2"}),
        ],
    },
}
READERS, TRAINERS = {"CPU": 4}, {"CPU": 8, "GPU": 2}


class Kubernetes:
    """Answers `requests.get` as the API server does in a pod of the cluster above."""

    def __init__(self) -> None:
        self.cluster = copy.deepcopy(CLUSTER)
        self.status = 200
        self.asked: list[str] = []

    def get(self, url: str, headers: dict[str, str], **options: Any) -> requests.Response:
        self.asked.append(url)
        if self.status == 0:
            raise requests.ConnectionError("no route to host")
        allowed = headers["Authorization"] == "Bearer of the head"
        answer = requests.Response()
        answer.status_code = self.status if allowed else 401
        answer.json = lambda **_: self.cluster  # type: ignore[method-assign]
        return answer


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kubernetes:
    server, token = Kubernetes(), tmp_path / "token"
    token.write_text("of the head")
    monkeypatch.setattr(requests, "get", server.get)
    monkeypatch.setattr(node_provider, "IN_CLUSTER_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_CLUSTER_NAME", "faces")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "research")
    monkeypatch.setenv("HOME", str(tmp_path))
    return server


def test_what_the_launcher_may_add(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(LAUNCHED)
    trainers, readers = {"CPU": 8, "GPU": 2}, {"CPU": 16}
    assert read_launched(str(file)) == [trainers] * 3 + [readers] * 2
    assert read_launched(str(tmp_path / "none.yaml")) == []


def test_what_kuberay_may_add(kubernetes: Kubernetes) -> None:
    assert may_be_added() == [TRAINERS] * 3 + [READERS] * 2
    [url] = kubernetes.asked
    assert url.endswith("/apis/ray.io/v1/namespaces/research/rayclusters/faces")


def test_a_group_without_a_limit_is_planned_with_as_many_as_are_useful(
    kubernetes: Kubernetes,
) -> None:
    kubernetes.cluster["spec"]["workerGroupSpecs"][1]["maxReplicas"] = 2**31 - 1
    assert read_kuberay() == [TRAINERS] * MOST_OF_A_KIND + [READERS] * 2


def test_without_an_autoscaler_nothing_is_added(kubernetes: Kubernetes) -> None:
    kubernetes.cluster["spec"]["enableInTreeAutoscaling"] = False
    assert read_kuberay() == []


@pytest.mark.parametrize("status", [0, 403, 404, 500])
def test_a_kubernetes_that_does_not_tell_is_asked_once(kubernetes: Kubernetes, status: int) -> None:
    kubernetes.status = status
    assert may_be_added() == []
    assert len(kubernetes.asked) == 1


def test_a_cluster_that_ray_cannot_read_is_not_planned_with(kubernetes: Kubernetes) -> None:
    del kubernetes.cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert read_kuberay() == []


def test_a_pod_without_a_token_knows_nothing(
    kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_provider, "IN_CLUSTER_TOKEN_PATH", "/nowhere/token")
    assert read_kuberay() == []
    assert not kubernetes.asked


def test_outside_of_kubernetes_nothing_is_asked(
    kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAMESPACE")
    assert may_be_added() == []
    assert not kubernetes.asked
