"""A sweep on a cluster that loses a node, and then its head."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import search_path
from helpers import free_port, write_dataset
from test_tune import BATCH, TIMEOUT, Job, progress, records

from raygen.tuning.sweep import DIED

STEPS = 400


class Node:
    """`ray start`, in a session of its own."""

    def __init__(self, *arguments: str) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            ["ray", "start", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", *arguments],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": search_path()},
            start_new_session=True,
        )
        deadline = time.monotonic() + TIMEOUT
        while "Ray runtime started" not in self._text():
            assert self._process.poll() is None, self._text()
            assert time.monotonic() < deadline, self._text()
            time.sleep(0.2)

    def _text(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def kill(self) -> None:
        """Kill all of its processes at once, as when its machine is taken away."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def cluster_of_two() -> Iterator[tuple[str, Node, Node]]:
    """A head and a node, of one CPU each. Yields: their address, and they."""
    port = free_port()
    # Its path must be short, because sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ray-") as place:
        agents = [f"--dashboard-agent-listen-port={free_port()}" for _ in range(2)]
        head = Node(
            "--head",
            f"--port={port}",
            f"--temp-dir={place}",
            agents[0],
            f"--dashboard-port={free_port()}",
            f"--ray-client-server-port={free_port()}",
        )
        try:
            node = Node(f"--address=127.0.0.1:{port}", agents[1])
            try:
                yield f"127.0.0.1:{port}", head, node
            finally:
                node.kill()
        finally:
            head.kill()


def statuses(place: Path) -> list[str]:
    return [status for _, (status, _) in sorted(progress(place).items())]


def contents(place: Path, numbers: list[int]) -> dict[Path, int]:
    """When each file of these trials was changed."""
    folders = [place / f"sweep/trials/{number:03d}" for number in numbers]
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_sweep_outlasts_a_node_and_goes_on_after_the_loss_of_its_head(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", (64, 64), (40,), size=32)
    options = ("--trials", "5", "--scheduler", "none", "--keep", "99", "--steps", STEPS)
    with cluster_of_two() as (address, head, node), Job(address, tmp_path, *options) as job:
        job.wait_for(lambda: sum(r >= 2 for _, r in progress(tmp_path).values()) == 2)
        node.kill()
        # One of the two trials has lost its machine, the other one goes on.
        job.wait_for(lambda: statuses(tmp_path).count("finished") == 2)
        job.wait_for(lambda: ("running", 2) in progress(tmp_path).values())
        head.kill()
        assert job.process.wait(TIMEOUT)
        assert DIED in job.log.read_text()
        told = f"the cluster's head, {address}, does not answer; unless it comes back"
        assert job.log.read_text().count(told) == 1
    killed = records(tmp_path)
    ended = [trial["number"] for trial in killed if trial["status"] == "finished"]
    assert len(ended) == 2
    assert [failure for trial in killed for failure in trial["failures"]] == [DIED]
    before, again = contents(tmp_path, ended), ("--resume", "--steps", STEPS)

    with cluster_of_two() as (address, *_), Job(address, tmp_path, *again) as job:
        assert job.process.wait(TIMEOUT) == 0, job.log.read_text()
        assert re.search("2 trials have ended, [12] go on", job.log.read_text())
    assert statuses(tmp_path) == ["finished"] * 5
    # Nothing that had ended was touched, and nothing that was reported was lost or done again.
    assert contents(tmp_path, ended) == before
    trials = records(tmp_path)
    for was, trial in zip(killed, trials, strict=False):
        assert trial["reports"][: len(was["reports"])] == was["reports"]
    for trial in trials:
        seen = [report["images_seen"] for report in trial["reports"]]
        assert seen == sorted(set(seen))
        assert seen[-1] == BATCH * STEPS
