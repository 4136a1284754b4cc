"""cluster.yaml, as Ray's cluster launcher takes it; AWS is played by a local library."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from autoscaler import Autoscaler
from packaging.requirements import Requirement
from packaging.version import Version

from raygen.cluster.growth import read_launched

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
CONFIG = yaml.safe_load(TEXT)
ANYWHERE = "0.0.0.0/0"


LAUNCH = """
import json, sys, boto3, yaml
from moto import mock_aws
from ray.autoscaler._private.commands import _bootstrap_config

given = yaml.safe_load(open("cluster.yaml"))
with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
    config = _bootstrap_config(given, no_config_cache=True)
    groups = boto3.client("ec2", given["provider"]["region"]).describe_security_groups()
    client, iam = boto3.client("iam"), boto3.resource("iam")
    for service, action, *options in json.loads(sys.argv[2]):
        assert service == "iam"
        names = [option.title().replace("-", "") for option in options[::2]]
        getattr(client, action.replace("-", "_"))(**dict(zip(names, options[1::2], strict=True)))
    policies = {}
    for profile in iam.instance_profiles.all():
        [role] = profile.roles
        attached = [policy.default_version.document for policy in role.attached_policies.all()]
        own = [policy.policy_document for policy in role.policies.all()]
        policies[profile.name] = attached + own
used = config["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
found = [group for group in groups["SecurityGroups"] if group["GroupId"] in used]
rules = [rule for group in found for rule in group["IpPermissions"]]
json.dump({"config": config, "rules": rules, "policies": policies}, open(sys.argv[1], "w"))
"""
SHOW_ARGUMENTS = "import json, sys; print(json.dumps(sys.argv[1:]))"


@dataclass(frozen=True)
class Launched:
    """What comes of the file.

    Attributes:
        config: what the launcher makes of it.
        rules: of the security groups that it makes.
        policies: of each instance profile that the commands at the end of the file make.
    """

    config: dict[str, Any]
    rules: list[Any]
    policies: dict[str, list[Any]]


def commands_for_an_account() -> list[list[str]]:
    """The arguments of each call of `aws` at the end of the file, as a shell passes them."""
    lines = TEXT.rpartition("Before the first `ray up`")[2].splitlines()
    script = "\n".join(line.removeprefix("#  ") for line in lines if line.startswith("#  "))
    stub = f"""aws() {{ "{sys.executable}" -c '{SHOW_ARGUMENTS}' "$@"; }}\n"""
    shell = subprocess.run(
        ["bash", "-euc", stub + script], check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in shell.stdout.splitlines()]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    # It leaves an SSH key at home, and looks for the token. In a process of its own, because the
    # local AWS forgets what the session's S3 server holds.
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("token")
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | keys
    found, commands = home / "found.json", json.dumps(commands_for_an_account())
    # Ray checks the file against its schema on the way.
    subprocess.run(
        [sys.executable, "-c", LAUNCH, str(found), commands],
        cwd=ROOT,
        env=environment | {"HOME": str(home)},
        check=True,
    )
    return Launched(**json.loads(found.read_text()))


def test_the_launcher_takes_it_and_opens_no_port_but_ssh(launched: Launched) -> None:
    kinds = launched.config["available_node_types"]
    head, gpu = kinds["head"], kinds["gpu"]
    groups = head["node_config"]["SecurityGroupIds"]
    for kind in (kinds["cpu"], gpu):
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert kind["node_config"]["SecurityGroupIds"] == groups
        assert kind["min_workers"] == 0
    # All of them may be there at once.
    assert kinds["cpu"]["max_workers"] + gpu["max_workers"] == CONFIG["max_workers"]
    # What AWS says of the machines' types agrees with the file.
    assert "accelerator_type:A10G" in gpu["resources"]
    from_outside = [
        (rule.get("FromPort"), rule.get("ToPort"))
        for rule in launched.rules
        if any(ranges["CidrIp"] == ANYWHERE for ranges in rule["IpRanges"])
        or rule.get("Ipv6Ranges")
    ]
    assert from_outside == [(22, 22)]


def test_machines_have_an_image_that_can_run_this(launched: Launched) -> None:
    from ray.autoscaler._private.aws.config import DEFAULT_AMI

    kinds = launched.config["available_node_types"].values()
    images = {kind["node_config"]["ImageId"] for kind in kinds}
    # Ray's own are of 2018's Ubuntu, which PyTorch's packages are not made for any more.
    assert images.isdisjoint(DEFAULT_AMI.values())
    [image] = images
    # EC2 looks the newest one up.
    assert re.fullmatch(
        r"resolve:ssm:/aws/service/deeplearning/ami/x86_64/[\w.-]+/latest/ami-id", image
    )


def test_nothing_listens_to_the_world_and_everything_asks_for_the_token() -> None:
    for commands in (CONFIG["head_start_ray_commands"], CONFIG["worker_start_ray_commands"]):
        [start] = [command for command in commands if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
    [head] = [c for c in CONFIG["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in head
    assert "~/.ray/auth_token" in CONFIG["file_mounts"]


def test_jobs_may_save_before_they_are_killed_on_any_machine(launched: Launched) -> None:
    for kind in ("head", "worker"):
        start = launched.config[f"{kind}_start_ray_commands"][-1]
        assert "RAY_JOB_STOP_WAIT_TIME_S=120" in start.partition(" ray start ")[0]


def test_only_small_files_are_copied() -> None:
    # Ray reads all of what it copies before it starts, without leaving anything out.
    copied = [ROOT / here for here in CONFIG["file_mounts"].values() if not here.startswith("~")]
    assert copied
    for path in copied:
        assert path.is_file()
        assert path.stat().st_size < 2**16


def test_all_machines_get_what_this_project_needs_at_versions_that_it_takes(
    launched: Launched,
) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    ranges = {need.name: need for need in map(Requirement, project["dependencies"])}
    # Ray adds commands of its own to those of machines that the file gives none.
    for kind in ("head", "worker"):
        assert launched.config[f"{kind}_setup_commands"] == CONFIG["setup_commands"]
    [install] = [command for command in CONFIG["setup_commands"] if "pip install" in command]
    [listed] = re.findall(r" -r (\S+)", install)
    assert CONFIG["file_mounts"][listed] == "pyproject.toml"
    # By this name it is read as what it is, not as a list of requirements.
    assert Path(listed).name == "pyproject.toml"
    optional = project["optional-dependencies"]
    installed = [
        need for extra in re.findall(r"--extra (\w+)", install) for need in optional[extra]
    ]
    names = {Requirement(need).name for need in installed}
    # Without boto3, Ray starts no machines; it is here only because a tool for tests needs it.
    assert names == {"boto3", "optuna"}
    pinned = re.findall(r"'(\w+)(\[[^]]*\])?==([\d.]+)'", install)
    assert {name for name, _, _ in pinned} == {"ray", "torch"}
    for name, extras, version in pinned:
        assert Version(version) in ranges[name].specifier
        assert set(re.findall(r"\w+", extras)) == ranges[name].extras


@pytest.mark.parametrize("file", ["README.md", "cluster.yaml"])
def test_commands_that_start_a_cluster_bring_boto3_along(file: str) -> None:
    text = (ROOT / file).read_text()
    commands = re.findall(r"uv run (.*)ray (?:up|dashboard|down) cluster\.yaml", text)
    assert len(commands) >= 2
    assert set(commands) == {"--extra aws "}


def allows(policies: Sequence[Any], action: str, resource: str) -> bool:
    for statement in (each for policy in policies for each in policy["Statement"]):
        actions = statement["Action"]
        actions = [actions] if isinstance(actions, str) else actions
        if (
            statement["Effect"] == "Allow"
            and any(fnmatchcase(action, pattern) for pattern in actions)
            and fnmatchcase(resource, statement["Resource"])
        ):
            return True
    return False


def test_instance_profiles_may_do_what_their_machines_do(launched: Launched) -> None:
    kinds = launched.config["available_node_types"]
    profiles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in kinds.items()
    }
    assert set(profiles.values()) == set(launched.policies)
    assert profiles["cpu"] == profiles["gpu"]
    head, worker = launched.policies[profiles["head"]], launched.policies[profiles["gpu"]]
    roles = "arn:aws:iam::123456789012:role/"
    for policies, is_head in ((head, True), (worker, False)):
        for action in ("RunInstances", "DescribeInstances", "CreateTags", "TerminateInstances"):
            assert allows(policies, f"ec2:{action}", "any") == is_head
        # For the image's name.
        assert allows(policies, "ssm:GetParameters", "any") == is_head
        assert allows(policies, "iam:PassRole", roles + profiles["gpu"]) == is_head
        # A job has its machine's rights: it must not come by others through a new machine.
        assert not allows(policies, "iam:PassRole", roles + "administrator")
        for action in ("GetObject", "PutObject", "DeleteObject", "ListBucket"):
            assert allows(policies, f"s3:{action}", "arn:aws:s3:::bucket/runs")


def test_what_needs_no_gpu_starts_machines_without_one_first(launched: Launched) -> None:
    autoscaler = Autoscaler(launched.config)
    assert autoscaler.kinds
    started = autoscaler.started
    assert started({"CPU": 1}, 1) == {"cpu": 1}
    assert started({"CPU": 1}, 32) == {"cpu": 4}
    # No more of these may be there.
    assert started({"CPU": 1}, 33) == {"cpu": 4, "gpu": 1}
    assert started({"CPU": 1, "GPU": 1}, 8) == {"gpu": 8}


def test_jobs_plan_with_the_machines_that_may_come(launched: Launched, tmp_path: Path) -> None:
    # As the launcher leaves it on the head.
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump(launched.config))
    workers = read_launched(str(file))
    assert [(worker["CPU"], worker.get("GPU", 0)) for worker in workers] == [(8, 1)] * 8 + [
        (8, 0)
    ] * 4
