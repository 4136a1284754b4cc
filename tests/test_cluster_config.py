"""cluster.yaml, as Ray's cluster launcher takes it; AWS is played by a local library."""

import os
import re
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


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[Any]]:
    """What the launcher makes of the file, and the rules of the security groups that it made."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.commands import _bootstrap_config

    # The launcher leaves an SSH key there, and looks for the token.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.chdir(ROOT)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("token")
    with mock_aws():
        # Ray checks the file against its schema on the way.
        config = _bootstrap_config(CONFIG, no_config_cache=True)
        groups = boto3.client("ec2", CONFIG["provider"]["region"]).describe_security_groups()
    used = config["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    rules = [
        rule
        for group in groups["SecurityGroups"]
        if group["GroupId"] in used
        for rule in group["IpPermissions"]
    ]
    return config, rules


def test_the_launcher_takes_it_and_opens_no_port_but_ssh(
    launched: tuple[dict[str, Any], list[Any]],
) -> None:
    config, rules = launched
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, CONFIG["max_workers"])
    assert head["node_config"]["SecurityGroupIds"] == gpu["node_config"]["SecurityGroupIds"]
    # What AWS says of the machines' types agrees with the file.
    assert "accelerator_type:A10G" in gpu["resources"]
    from_outside = [
        (rule.get("FromPort"), rule.get("ToPort"))
        for rule in rules
        if any(ranges["CidrIp"] == ANYWHERE for ranges in rule["IpRanges"])
        or rule.get("Ipv6Ranges")
    ]
    assert from_outside == [(22, 22)]


def test_nothing_listens_to_the_world_and_everything_asks_for_the_token() -> None:
    for commands in (CONFIG["head_start_ray_commands"], CONFIG["worker_start_ray_commands"]):
        [start] = [command for command in commands if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
    [head] = [c for c in CONFIG["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in head
    assert "~/.ray/auth_token" in CONFIG["file_mounts"]


def test_all_machines_get_this_project_at_versions_that_it_takes() -> None:
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    ranges = {need.name: need for need in map(Requirement, project["dependencies"])}
    assert CONFIG["file_mounts"]["~/raygen"] == "."
    [install] = [command for command in CONFIG["setup_commands"] if "pip install" in command]
    assert re.search(r" ~/raygen(\[|$| )", install)
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
    assert len(workers) == CONFIG["max_workers"]
    assert all((worker["CPU"], worker["GPU"]) == (8, 1) for worker in workers)
    assert os.path.exists(tmp_path / ".ssh")
