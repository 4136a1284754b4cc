"""cluster.yaml, as Ray's cluster launcher takes it; AWS is played by a local library."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from raygen.cluster import read_launched

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text())
ANYWHERE = "0.0.0.0/0"


LAUNCH = """
import json, sys, boto3, yaml
from moto import mock_aws
from ray.autoscaler._private.commands import _bootstrap_config

given = yaml.safe_load(open("cluster.yaml"))
with mock_aws():
    config = _bootstrap_config(given, no_config_cache=True)
    groups = boto3.client("ec2", given["provider"]["region"]).describe_security_groups()
used = config["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
found = [group for group in groups["SecurityGroups"] if group["GroupId"] in used]
rules = [rule for group in found for rule in group["IpPermissions"]]
json.dump({"config": config, "rules": rules}, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    """What the launcher makes of the file, and the rules of the security groups that it made."""
    # It leaves an SSH key at home, and looks for the token. In a process of its own, because the
    # local AWS forgets what the session's S3 server holds.
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("token")
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | keys
    # Ray checks the file against its schema on the way.
    subprocess.run(
        [sys.executable, "-c", LAUNCH, str(home / "found.json")],
        cwd=ROOT,
        env=environment | {"HOME": str(home)},
        check=True,
    )
    found = json.loads((home / "found.json").read_text())
    return found["config"], found["rules"]


def test_the_launcher_takes_it_and_opens_no_port_but_ssh(
    launched: tuple[dict[str, Any], list[Any]],
) -> None:
    config, rules = launched
    kinds = config["available_node_types"]
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
        for rule in rules
        if any(ranges["CidrIp"] == ANYWHERE for ranges in rule["IpRanges"])
        or rule.get("Ipv6Ranges")
    ]
    assert from_outside == [(22, 22)]


def test_machines_have_an_image_that_can_run_this(
    launched: tuple[dict[str, Any], list[Any]],
) -> None:
    from ray.autoscaler._private.aws.config import DEFAULT_AMI

    config, _ = launched
    images = {kind["node_config"]["ImageId"] for kind in config["available_node_types"].values()}
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


def test_all_machines_get_this_project_at_versions_that_it_takes() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    ranges = {need.name: need for need in map(Requirement, project["dependencies"])}
    # Small: Ray looks through all of what it copies, without leaving anything out.
    mounts = {there: here for there, here in CONFIG["file_mounts"].items() if "token" not in there}
    assert mounts == {"~/raygen/pyproject.toml": "pyproject.toml"}
    [install] = [command for command in CONFIG["setup_commands"] if "pip install" in command]
    assert " -r ~/raygen/pyproject.toml" in install
    extras = re.findall(r"--extra (\w+)", install)
    assert set(extras) == {"aws", "optuna"}
    # Without it, Ray starts no machines on AWS; it is here only because a tool for tests needs it.
    assert [Requirement(need).name for need in project["optional-dependencies"]["aws"]] == ["boto3"]
    assert set(extras) <= set(project["optional-dependencies"])
    pinned = re.findall(r"'(\w+)(\[[^]]*\])?==([\d.]+)'", install)
    assert {name for name, _, _ in pinned} == {"ray", "torch"}
    for name, extras, version in pinned:
        assert Version(version) in ranges[name].specifier
        assert set(re.findall(r"\w+", extras)) == ranges[name].extras
    assert "worker_setup_commands" not in CONFIG


def test_jobs_plan_with_the_machines_that_may_come(
    launched: tuple[dict[str, Any], list[Any]], tmp_path: Path
) -> None:
    config, _ = launched
    # As the launcher leaves it on the head.
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump(config))
    workers = read_launched(str(file))
    assert [(worker["CPU"], worker.get("GPU", 0)) for worker in workers] == [(8, 1)] * 8 + [
        (8, 0)
    ] * 4
