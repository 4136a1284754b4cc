"""Finding a cluster, and what it has and may come to have."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from conftest import Head
from helpers import free_port
from ray.exceptions import GetTimeoutError

from raygen.cluster import connection as cluster
from raygen.cluster.connection import check_address
from raygen.core.errors import UserError

ROOT = Path(__file__).parents[2]


def test_what_a_user_says_may_come_stands_beside_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    head = {"CPU": 4.0, cluster.HEAD: 1.0}
    alive = [{"Alive": True, "NodeID": "head", "Resources": head}]
    monkeypatch.setattr(ray, "nodes", lambda: alive)
    stated = [{"CPU": 8.0, "GPU": 1.0}] * 2
    assert cluster.possible_nodes(stated) == [head, *stated]
    # More than was said is there already.
    alive += [{"Alive": True, "NodeID": "other", "Resources": {"CPU": 8.0, "GPU": 4.0}}]
    assert cluster.possible_nodes(stated) == cluster.nodes()


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


def slow_actor() -> type:
    """Not of this file's, which Ray's processes cannot import."""

    class Slow:
        def speak(self, go: Path) -> str:
            while not go.exists():
                time.sleep(0.05)
            return "at last"

    return Slow


@pytest.mark.slow
def test_an_answer_is_waited_for_as_long_as_ray_is_there(
    ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.05)
    looked: list[bool] = []

    def is_alive() -> bool:
        # Only now, when it has been asked for in vain a few times.
        looked.append(cluster_is_alive())
        if len(looked) == 3:
            (tmp_path / "go").touch()
        return looked[-1]

    cluster_is_alive = cluster.is_alive
    monkeypatch.setattr(cluster, "is_alive", is_alive)
    with cluster.own_actor(slow_actor()) as actor:
        assert cluster.answer(actor.speak, tmp_path / "go") == "at last"
    assert len(looked) >= 3
    assert all(looked)
    monkeypatch.setattr(cluster, "is_alive", lambda: False)
    with (
        cluster.own_actor(slow_actor()) as actor,
        pytest.raises(GetTimeoutError),
    ):
        cluster.answer(actor.speak, tmp_path / "never")


@pytest.mark.slow
def test_a_cluster_that_does_not_listen_any_more_is_not_alive(
    ray_session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.is_alive()
    gone = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(cluster, "check_address", lambda address: check_address(gone))
    assert not cluster.is_alive()


@pytest.mark.slow
def test_nodes_are_waited_for_as_long_as_they_are_there(
    ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.05)
    [here] = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    asked = [ray.remote(num_cpus=0)(lambda: time.sleep(1)).remote()]
    assert cluster._answers(asked, {here}) == [None]
    with cluster.own_actor(slow_actor()) as actor, pytest.raises(GetTimeoutError):
        cluster._answers([actor.speak.remote(tmp_path / "never")], {here, "taken away"})
