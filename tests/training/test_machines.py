"""Machines that come and go under a run, and a worker that hangs, on a Ray of several nodes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Head, add_node, search_path
from helpers import tiny_config

from raygen.cli import TrainCommand
from raygen.cluster import connection as cluster
from raygen.config.job import JobOptions
from raygen.core.progress import Silence
from raygen.core.status import Callbacks, Progress
from raygen.core.storage import Folder
from raygen.jobs.train import train
from raygen.training import elastic, ray_driver
from raygen.training.overseer import end_process, kind_of
from raygen.training.summary import read_summary

SECONDS = 300
"""Time for each thing to happen; only for the case that something hangs."""


class Lines(Silence):
    """What a job tells."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def tell(self, text: str) -> None:
        self.told.append(text)


class Weather(Callbacks):
    """Does one thing after the other to a run, each when the one before has shown in its lines."""

    def __init__(self, lines: Lines, deeds: list[tuple[Callable[[], None], str]]) -> None:
        """Args: deeds: what to do, and what the run then tells: a pattern."""
        self.lines, self.deeds = lines, deeds
        self.awaited = ""
        self.known = 0
        self.failure = ""
        self.since = time.monotonic()

    def progress(self, progress: Progress) -> bool:
        text = "\n".join(self.lines.told[self.known :])
        if self.awaited and not re.search(self.awaited, text):
            if time.monotonic() > self.since + SECONDS:
                self.failure = f"{self.awaited} was not told: {self.lines.told}"
            return bool(self.failure)
        self.awaited = ""
        if not progress.images_per_second:
            # The workers have begun, but not to train.
            return False
        if not self.deeds:
            return True
        deed, self.awaited = self.deeds.pop(0)
        self.known = len(self.lines.told)
        deed()
        self.since = time.monotonic()
        return False


def drain(head: Head, seconds: int) -> None:
    """Announce, as a cloud does, that the node that is not the head will be taken away."""
    import ray

    [node] = [n for n in ray.nodes() if n["Alive"] and cluster.HEAD not in n["Resources"]]
    announce = ["ray", "drain-node", "--address", head.address, "--node-id", node["NodeID"]]
    announce += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    announce += ["--deadline-remaining-seconds", str(seconds)]
    subprocess.run(announce, check=True, env=os.environ | {"PATH": search_path()})


def stop_a_worker(head: Head) -> None:
    from ray.util.state import list_actors

    actors = list_actors(head.address, filters=[("state", "=", "ALIVE")])
    pids = [a.pid for a in actors if a.class_name == "RayTrainWorker" and a.pid]
    os.kill(pids[-1], signal.SIGSTOP)


@pytest.mark.slow
def test_a_run_goes_on_with_the_machines_that_there_are(
    ray_head: Head, ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (elastic, ray_driver):
        monkeypatch.setattr(module, "RESIZE_SECONDS", 5.0)
    # A checkpoint is only saved where one of these reasons asks for it.
    options = {"num_workers": "1:4", "steps": 10**6, "drawn_count": 60, "width": 0.03}
    never = {"checkpoint_images": 10**9, "validate_images": 10**9, "sample_images": 10**9}
    config = tiny_config(**options, **never, stall_timeout="20s", validation_count=8)
    command = TrainCommand(config, JobOptions(storage=str(tmp_path / "runs"), run_name="run"))
    lines = Lines()
    with contextlib.ExitStack() as stack:

        def another() -> None:
            stack.enter_context(add_node(ray_head))

        weather = Weather(
            lines,
            [
                (another, r"more machines are there; going on from step ([\d,]+) with 4 workers"),
                (
                    lambda: drain(ray_head, 30),
                    r"a machine was taken away; going on from step ([\d,]+) with 2 workers",
                ),
                (lambda: stop_a_worker(ray_head), r"hung; going on from step ([\d,]+)$"),
            ],
        )
        with pytest.raises(Exception, match="interrupted: saved at step"):
            train(command, frozenset(), line=lines, callbacks=weather)
    assert not weather.failure
    assert not weather.deeds
    told = "\n".join(lines.told)
    assert "1 to 4 CPU workers" in told
    assert re.search(r"a machine will be taken away in 0:[0-3]\d; the run is saved before", told)
    assert re.search(r"worker \d on \S+ \(process \d+\) has done nothing for 0:20, and is", told)
    steps = [int(n.replace(",", "")) for n in re.findall(r"going on from step ([\d,]+)", told)]
    # Saved when another machine came, and before one went; a worker that hangs saves nothing.
    assert 0 < steps[0] < steps[1] == steps[2]
    usage = read_summary(Folder.at(tmp_path / "runs/run")).usage
    assert usage.restarts == 3
    assert usage.worker_seconds > sum(usage.node_seconds.values()) > 0
    assert set(usage.node_seconds) == {"2 CPUs"}


def test_nodes_are_described_by_what_they_have() -> None:
    assert kind_of({"CPU": 8.0}) == "8 CPUs"
    assert kind_of({"CPU": 1.0}) == "1 CPU"
    assert kind_of({"CPU": 8.0, "GPU": 4.0, "accelerator_type:A10G": 1.0}) == "4 x A10G"
    assert kind_of({"CPU": 8.0, "GPU": 1.0}) == "1 x GPU"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems list no command lines")
def test_only_ray_s_own_processes_are_ended() -> None:
    sleep = ["-c", "import time; time.sleep(600)"]
    other = subprocess.Popen([sys.executable, *sleep])
    worker = subprocess.Popen(["ray::RayTrainWorker", *sleep], executable=sys.executable)
    try:
        # A new process has the command line of its parent at first.
        deadline = time.monotonic() + SECONDS
        while not Path(f"/proc/{worker.pid}/cmdline").read_bytes().startswith(b"ray::"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker.send_signal(signal.SIGSTOP)
        for process in (other, worker):
            end_process(process.pid)
        assert worker.wait(60) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        worker.kill()
        other.wait()
    end_process(worker.pid)
