"""Finding a cluster, and what it has and may come to have."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from conftest import Head
from helpers import fails, free_port

from raygen import cluster
from raygen.cluster import check_address, read_launched
from raygen.errors import UserError
from raygen.storage import Folder
from raygen.training.monitor import Monitor

ROOT = Path(__file__).parents[1]
LAUNCHED = """
max_workers: 5
head_node_type: head
available_node_types:
  head: {resources: {CPU: 8}, max_workers: 0}
  readers: {resources: {CPU: 16}, min_workers: 0, max_workers: 4}
  trainers: {resources: {CPU: 8, GPU: 2}, min_workers: 0, max_workers: 3}
"""


def test_what_the_launcher_may_add(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(LAUNCHED)
    trainers, readers = {"CPU": 8, "GPU": 2}, {"CPU": 16}
    assert read_launched(str(file)) == [trainers] * 3 + [readers] * 2
    assert read_launched(str(tmp_path / "none.yaml")) == []


def test_an_address_where_nothing_answers_is_told_at_once() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        check_address(f"127.0.0.1:{listening.getsockname()[1]}")
    for address in ("", "auto", "local"):
        check_address(address)
    for address, message in (
        (f"127.0.0.1:{free_port()}", "no Ray cluster answers there"),
        ("127.0.0.1", "no Ray cluster answers there"),
        ("ray://127.0.0.1:10001", "is an address of Ray's client"),
        ("http://127.0.0.1:8265", "is an address of the Jobs API"),
    ):
        with pytest.raises(UserError, match=message):
            check_address(address)


@pytest.mark.slow
def test_two_jobs_do_not_work_in_one_folder(
    ray_session: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "RELEASE_SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    for name in ("config.json", "sweep.json"):
        (tmp_path / "runs/mine" / name).write_text("{}")
    with cluster.own_actor(Monitor, alone_in=Folder.at("runs/mine")):
        for job in ("train", "tune"):
            line = fails(capsys, job, "--run-name", "mine", "--restart")
            assert "runs/mine: another job of this cluster works there" in line
        with cluster.own_actor(Monitor, alone_in=Folder.at("runs/other")):
            pass
    assert (tmp_path / "runs/mine/config.json").read_text() == "{}"
    assert (tmp_path / "runs/mine/sweep.json").exists()
    monkeypatch.undo()
    # However it is written, and again once the first one has ended.
    for place in (tmp_path / "runs/mine", tmp_path / "runs/../runs/mine"):
        with cluster.own_actor(Monitor, alone_in=Folder.at(place)) as actor:
            assert ray.get(actor.report.remote()).groups == 0


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["address", "token"])
def test_a_job_without_a_cluster_ends_in_one_line_and_leaves_nothing(
    ray_head: Head, tmp_path: Path, wrong: str
) -> None:
    address = f"127.0.0.1:{free_port()}" if wrong == "address" else ray_head.address
    token = "0" * 32 if wrong == "token" else os.environ["RAY_AUTH_TOKEN"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs/train.py"), "--storage", str(tmp_path / "runs")],
        env=os.environ | {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": token, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: RAY_ADDRESS {address}: ")
    assert ("RAY_AUTH_TOKEN" in line) == (wrong == "token")
    assert not (tmp_path / "runs").exists()
