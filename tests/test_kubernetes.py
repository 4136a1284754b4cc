"""deploy/: manifests as KubeRay takes them, and the image that they start."""

import copy
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from autoscaler import Autoscaler
from containerfile import FILE, every, placed
from jsonschema import Draft202012Validator
from kuberay_schema import MANIFESTS
from packaging.requirements import Requirement
from packaging.version import Version
from ray._private import ray_constants
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
    _round_up_k8s_quantity,
)
from ray.scripts.scripts import start

from raygen.cli import TrainCommand, TuneCommand, parse_run
from raygen.cluster.growth import workers_of
from raygen.config.run import PRESETS
from raygen.training.placement import plan_workers
from raygen.tuning.capacity import plan_capacity

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
GUIDE = (ROOT / "docs/kubernetes.md").read_text()
CLUSTER = yaml.safe_load((DEPLOY / "raycluster.yaml").read_text())
JOB = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
SPECS = {"raycluster": CLUSTER["spec"], "rayjob": JOB["spec"]["rayClusterSpec"]}
with (ROOT / "pyproject.toml").open("rb") as file:
    PROJECT = tomllib.load(file)["project"]
CRDS = os.environ.get("RAYGEN_KUBERAY_CRDS", "")
"""Folder of KubeRay's own definitions, ray-operator/config/crd/bases of its repository."""

each_cluster = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
each_manifest = pytest.mark.parametrize("manifest", [CLUSTER, JOB], ids=SPECS)


def mistakes(manifest: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    found = Draft202012Validator(schema).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in found]


def groups(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The head's and the workers' groups of pods, the head's first."""
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def container(group: Mapping[str, Any]) -> Mapping[str, Any]:
    [found] = group["template"]["spec"]["containers"]
    return dict(found)


def variables(group: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(group).get("env", ())}


@dataclass(frozen=True)
class Nodes:
    """Resources of a cluster's nodes, as Ray's own autoscaler reads them from the manifest.

    Attributes: config: the autoscaler's configuration.
    """

    config: dict[str, Any]
    head: dict[str, float]
    workers: list[dict[str, float]]

    @property
    def possible(self) -> list[dict[str, float]]:
        return [self.head, *self.workers]


def nodes(spec: Mapping[str, Any]) -> Nodes:
    cluster = {"metadata": {"name": "raygen", "namespace": "default"}, "spec": spec}
    config = _derive_autoscaling_config_from_ray_cr(copy.deepcopy(cluster))
    head = config["available_node_types"][config["head_node_type"]]["resources"]
    return Nodes(config, head, workers_of(config))


# --- What KubeRay takes


@each_manifest
def test_kuberay_takes_the_manifests(manifest: dict[str, Any]) -> None:
    assert mistakes(manifest, MANIFESTS[manifest["kind"]]) == []


def opened(path: str) -> tuple[dict[str, Any], Any, str]:
    """The cluster's manifest, what holds a field in it, and the field's name."""
    *way, last = path.split(".")
    # Without the file's aliases, through which other places would change with it.
    manifest = json.loads(json.dumps(CLUSTER))
    place: Any = manifest
    for step in way:
        place = place[int(step) if step.isdecimal() else step]
    return manifest, place, last


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("spec.rayVersion", "rayversion"),
        ("spec.authOptions", "authOption"),
        ("spec.enableInTreeAutoscaling", "enableInTreeAutoScaling"),
        ("spec.autoscalerOptions.idleTimeoutSeconds", "idleTimeoutSecond"),
        ("spec.headGroupSpec.serviceType", "serviceKind"),
        ("spec.workerGroupSpecs.1.maxReplicas", "maxReplica"),
        ("spec.workerGroupSpecs.1.template.spec.tolerations", "toleration"),
        ("spec.workerGroupSpecs.1.template.spec.containers.0.resources.limits", "limit"),
        ("spec.workerGroupSpecs.1.template.spec.containers.0.envFrom", "envfrom"),
        ("spec.workerGroupSpecs.1.template.spec.volumes.0.emptyDir.medium", "media"),
    ],
)
def test_a_misspelt_field_is_found(path: str, name: str) -> None:
    manifest, place, last = opened(path)
    place[name] = place.pop(last)
    found = mistakes(manifest, MANIFESTS["RayCluster"])
    assert any(f"'{name}' was unexpected" in text for text in found)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.rayVersion", "2.60"),
        ("spec.authOptions.mode", "tokens"),
        ("spec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.workerGroupSpecs.1.maxReplicas", "8"),
        ("spec.workerGroupSpecs.1.template.spec.containers.0.resources.limits.memory", "24GB"),
        ("spec.workerGroupSpecs.1.template.spec.containers.0.env.0.value", 120),
    ],
)
def test_a_value_of_another_kind_is_found(path: str, value: object) -> None:
    manifest, place, last = opened(path)
    place[last] = value
    [found] = mistakes(manifest, MANIFESTS["RayCluster"])
    assert repr(value) in found


def strict(schema: Any) -> Any:
    """A definition of KubeRay's that refuses what Kubernetes would drop."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if "properties" in found and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def unknown(mine: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> Iterator[str]:
    """Fields of our schema that KubeRay's definition does not have, or has as another type."""
    kinds = {theirs.get("type"), *(each.get("type") for each in theirs.get("anyOf", ()))}
    if mine["type"] not in kinds:
        yield f"{where}: {mine['type']}, not {theirs.get('type')}"
    for name, field in mine.get("properties", {}).items():
        if name not in theirs.get("properties", {}):
            yield f"{where}.{name}"
        else:
            yield from unknown(field, theirs["properties"][name], f"{where}.{name}")
    if "items" in mine:
        yield from unknown(mine["items"], theirs["items"], f"{where}[]")


@pytest.mark.skipif(not CRDS, reason="RAYGEN_KUBERAY_CRDS does not name KubeRay's definitions")
@each_manifest
def test_kuberay_s_own_definitions_agree(manifest: dict[str, Any]) -> None:
    kind = manifest["kind"]
    definition = yaml.safe_load((Path(CRDS) / f"ray.io_{kind.lower()}s.yaml").read_text())
    [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    theirs = strict(version["schema"]["openAPIV3Schema"])
    # Kubernetes' own, which definitions do not repeat.
    theirs["properties"]["metadata"] = MANIFESTS[kind]["properties"]["metadata"]
    assert mistakes(manifest, theirs) == []
    ours = MANIFESTS[kind]["properties"]["spec"]
    assert not [
        text
        for text in unknown(ours, theirs["properties"]["spec"], "spec")
        # Of a pod's own metadata, too.
        if not text.endswith(("template.metadata.labels", "template.metadata.annotations"))
    ]


@each_cluster
def test_ray_takes_what_its_nodes_are_started_with(spec: dict[str, Any]) -> None:
    options = {word.removeprefix("--") for each in start.params for word in each.opts}
    for group in groups(spec):
        assert set(group["rayStartParams"]) <= options


# --- Who may reach it, and as whom it runs


@each_cluster
def test_nothing_is_reached_from_outside_and_everything_asks_for_the_token(
    spec: dict[str, Any],
) -> None:
    head = spec["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert head["enableIngress"] is False
    assert spec["authOptions"] == {"mode": "token"}
    # KubeRay's token needs it.
    assert Version(spec["rayVersion"]) >= Version("2.52")
    for group in groups(spec):
        assert "RAY_AUTH_MODE" not in variables(group)
        assert "hostNetwork" not in group["template"]["spec"]


@each_cluster
def test_keys_come_from_a_secret(spec: dict[str, Any]) -> None:
    for group in groups(spec):
        assert container(group)["envFrom"] == [{"secretRef": {"name": "raygen-storage"}}]
        assert not any("KEY" in name or "TOKEN" in name for name in variables(group))
    assert "kubectl create secret generic raygen-storage" in GUIDE


@each_cluster
def test_pods_run_as_an_ordinary_user(spec: dict[str, Any]) -> None:
    for group in groups(spec):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert str(pod["securityContext"]["runAsUser"]) == every("USER")[-1]
        assert container(group)["securityContext"]["allowPrivilegeEscalation"] is False
    for group in spec["workerGroupSpecs"]:
        assert group["template"]["spec"]["automountServiceAccountToken"] is False


# --- What runs there


@each_cluster
def test_the_head_trains_nothing(spec: dict[str, Any]) -> None:
    assert nodes(spec).head["CPU"] == 0
    assert "nvidia.com/gpu" not in container(spec["headGroupSpec"])["resources"]["limits"]


@each_cluster
def test_the_object_store_fits_into_its_volume(spec: dict[str, Any]) -> None:
    for group in groups(spec):
        memory = _round_up_k8s_quantity(container(group)["resources"]["limits"]["memory"])
        [volume] = group["template"]["spec"]["volumes"]
        assert {"name": volume["name"], "mountPath": "/dev/shm"} in container(group)["volumeMounts"]
        assert volume["emptyDir"]["medium"] == "Memory"
        size = _round_up_k8s_quantity(volume["emptyDir"]["sizeLimit"])
        # If it did not, Ray would lay it on the disk.
        assert memory * ray_constants.DEFAULT_OBJECT_STORE_MEMORY_PROPORTION <= size
        assert size < memory / 2


@each_cluster
def test_workers_may_save_before_their_pod_ends(spec: dict[str, Any]) -> None:
    # Otherwise Ray has another name for it.
    assert ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S > 0
    for group in groups(spec):
        drain = float(variables(group)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert 60 <= drain < group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert variables(group)["RAY_JOB_STOP_WAIT_TIME_S"] == "120"


def test_what_needs_no_gpu_starts_pods_without_one_first() -> None:
    autoscaler = Autoscaler(nodes(CLUSTER["spec"]).config)
    assert all(kind.min_worker_nodes == 0 for kind in autoscaler.kinds.values())
    started = autoscaler.started
    assert started({"CPU": 1}, 1) == {"cpu": 1}
    assert started({"CPU": 1}, 28) == {"cpu": 4}
    assert started({"CPU": 1}, 29) == {"cpu": 4, "gpu": 1}
    assert started({"CPU": 1, "GPU": 1}, 8) == {"gpu": 8}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_on_the_gpus_that_may_come(preset: str) -> None:
    found = nodes(CLUSTER["spec"])
    gpus = sum(node.get("GPU", 0) for node in found.workers)
    assert gpus == 8
    command = parse_run(TrainCommand, [preset, "--batch-size", "256", "--num-workers", "8"], "")
    # None of them is there yet.
    placement = plan_workers(command.run, [found.head], found.possible)
    assert (placement.workers, placement.use_gpu) == (8, True)
    assert placement.cpus_per_worker == 1
    sweep = parse_run(TuneCommand, [preset], "")
    capacity = plan_capacity(found.possible, 1, "auto", 24, sweep.run.reader)
    assert (capacity.at_once, capacity.use_gpu) == (8, True)


def test_the_job_s_command_fits_its_cluster() -> None:
    python, script, *words = shlex.split(JOB["spec"]["entrypoint"])
    assert python == "python"
    assert script == f"{placed('jobs')}/train.py"
    assert (ROOT / "jobs/train.py").is_file()
    command = parse_run(TrainCommand, words, "")
    assert command.run.data.startswith("s3://BUCKET/")
    assert command.job.storage.startswith("s3://BUCKET/")
    [group] = JOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    found = nodes(JOB["spec"]["rayClusterSpec"])
    placement = plan_workers(command.run, found.possible, found.possible)
    assert (placement.workers, placement.use_gpu) == (group["replicas"], True)
    # KubeRay pastes it into a shell.
    assert shlex.join([python, script, *words]) == JOB["spec"]["entrypoint"]


def test_manifests_start_the_image_s_ray_which_the_project_takes() -> None:
    name, _, version = every("ARG")[0].partition("=")
    assert name == "RAY_VERSION"
    ranges = {need.name: need for need in map(Requirement, PROJECT["dependencies"])}
    assert Version(version) in ranges["ray"].specifier
    for spec in SPECS.values():
        assert spec["rayVersion"] == version
        images = {container(group)["image"] for group in groups(spec)}
        assert images == {f"REGISTRY/raygen:ray-{version}"}
    # As it is built, and as machines of `ray up` have it.
    assert f"REGISTRY/raygen:ray-{version}" in FILE.read_text()
    assert f"REGISTRY/raygen:ray-{version}" in GUIDE
    assert f"]=={version}'" in (ROOT / "cluster.yaml").read_text()


# --- The guide


def submitted() -> list[Sequence[str]]:
    """The jobs that the guide sends, each as the words of its command."""
    text = re.sub(r"\\\n\s*", "", GUIDE)
    commands = re.findall(r"^uv run ray job submit --working-dir \. -- (.*)$", text, re.MULTILINE)
    return [shlex.split(command) for command in commands]


def test_the_guide_s_jobs_parse() -> None:
    kinds = {"train": TrainCommand, "tune": TuneCommand}
    seen = set()
    for python, script, *words in submitted():
        assert python == "python"
        assert (ROOT / script).is_file()
        seen.add(Path(script).stem)
        if kind := kinds.get(Path(script).stem):
            command = parse_run(kind, words, "")
            assert command.job.storage.startswith("s3://BUCKET/")
            found = nodes(CLUSTER["spec"])
            plan_workers(command.run, [found.head], found.possible)
    assert seen >= {"prepare", "train", "tune"}


def test_the_guide_names_what_the_manifests_do() -> None:
    for path in re.findall(r"kubectl (?:apply|delete) -f ([\w./-]+)", GUIDE):
        assert (ROOT / path).is_file()
    assert f"service/{CLUSTER['metadata']['name']}-head-svc 8265" in GUIDE
    assert f"kubectl get secret {CLUSTER['metadata']['name']} " in GUIDE
    assert f"job/{JOB['metadata']['name']}" in GUIDE
    assert "docker build -f deploy/Containerfile " in GUIDE
    readme = (ROOT / "README.md").read_text().splitlines()
    short = [line for line in readme if line.startswith(("docker ", "kubectl "))]
    assert len(short) > 4
    assert set(short) <= set(GUIDE.splitlines())
