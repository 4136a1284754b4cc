"""A Ray of a job's own: on a machine with odd folders, at the job's own priority."""

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import free_port
from ray._private import services
from ray._private.node import Node
from ray.train.v2._internal import constants

from raygen.cluster import connection as cluster
from raygen.cluster import local_ray
from raygen.core.errors import UserError

ROOT = Path(__file__).parents[2]
NICENESS = "RAY_worker_niceness"
LOOK = """
import json, os, ray
from raygen.cluster import connection as cluster

with cluster.connected(num_cpus=1):
    look = ray.remote(lambda: (os.nice(0), os.environ.get("TMPDIR")))
    niceness, folder = ray.get(look.remote())
    print(json.dumps([niceness, folder, os.nice(0), len(ray.nodes())]))
"""


def run(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A process that finds no Ray that is running."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        ["nice", "-n", "2", sys.executable, "-c", code],
        env=known | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_ray_starts_beside_folders_that_it_cannot_use_and_keeps_the_jobs_priority(
    tmp_path: Path,
) -> None:
    # A socket's path has 107 bytes at most, and the second folder can nowhere be made.
    long = tmp_path / ("long" * 30)
    long.mkdir()
    done = run(LOOK, TMPDIR=str(long), HOME="/proc/none")
    assert done.returncode == 0, done.stderr
    niceness, folder, own, nodes = json.loads(done.stdout)
    assert niceness == own >= 2
    assert nodes == 1
    assert folder.startswith("/tmp/ray-")
    assert not Path(folder).exists()
    assert list(long.iterdir()) == []
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_process_starts_one_ray_after_another() -> None:
    # As a notebook does, call by call.
    done = run(LOOK + LOOK[LOOK.index("with ") :])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.slow
def test_where_ray_cannot_start_one_line_says_so_and_no_process_is_left() -> None:
    # Ray's server is there by the time that the next process is to be started.
    code = (
        "import os\n"
        "from raygen.cluster import connection as cluster\n"
        "from raygen.cli import run_job\n"
        "from ray._private.node import Node\n"
        "left = []\n"
        "def broken(self, *arguments, **options):\n"
        "    left.extend(info.process.pid for infos in self.all_processes.values() "
        "for info in infos)\n"
        "    raise OSError(28, 'No space left on device')\n"
        "Node.start_raylet = broken\n"
        "def main(argv):\n"
        "    with cluster.connected(num_cpus=1): pass\n"
        "code = run_job(main)\n"
        "alive = [pid for pid in left if os.path.exists(f'/proc/{pid}')]\n"
        "print(code, len(left), alive)\n"
    )
    done = run(code)
    code_seen, started, alive = done.stdout.split(maxsplit=2)
    assert (code_seen, alive.strip()) == ("2", "[]"), done.stdout + done.stderr
    assert int(started) >= 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: Ray cannot start on this machine ([Errno 28] No space left")
    assert "RAY_TMPDIR" in line


def test_without_any_folder_for_ray_the_variable_to_set_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(**options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with (
        pytest.raises(UserError, match=r"/tmp cannot be written \(No space .*; set TMPDIR to"),
        local_ray.prepared(),
    ):
        pass


def test_a_folder_with_little_room_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(local_ray, "PATH_BYTES", 1_000)
    before = dict(os.environ)
    with local_ray.prepared():
        assert os.environ["RAY_TMPDIR"] == str(tmp_path)
        assert os.environ[NICENESS] == "0"
    monkeypatch.setattr(local_ray, "PATH_BYTES", 20)
    with local_ray.prepared():
        assert os.environ["RAY_TMPDIR"] == os.environ["TMPDIR"] != str(tmp_path)
    assert dict(os.environ) == before
    monkeypatch.setattr(local_ray, "PATH_BYTES", 1_000)
    monkeypatch.setattr(local_ray, "LEAST_FREE", 2**62)
    with (
        pytest.raises(UserError, match=f"{tmp_path} has less than .* set RAY_TMPDIR"),
        local_ray.prepared(),
    ):
        pass
    assert dict(os.environ) == before


def test_what_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NICENESS, "7")
    with local_ray.prepared():
        assert os.environ[NICENESS] == "7"
    assert os.environ[NICENESS] == "7"


def test_ray_train_knows_its_settings() -> None:
    names = {
        constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR,
        constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    }
    assert names <= local_ray.PATIENCE.keys()


def slow_node(monkeypatch: pytest.MonkeyPatch, answers: list[bool], alive: bool) -> Any:
    """A node whose processes are not started; `answers`: whether it is found, time after time."""
    ended = [("dashboard", None), *([] if alive else [("raylet", None)])]
    monkeypatch.setattr(Node, "__init__", lambda self: None)
    monkeypatch.setattr(Node, "start_ray_processes", lambda self: None)
    monkeypatch.setattr(Node, "dead_processes", lambda self: ended)
    monkeypatch.setattr(Node, "gcs_address", "127.0.0.1:1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def get_node(address: str, node: str) -> dict[str, Any]:
        if not answers.pop(0):
            raise RuntimeError("not there")
        return {}

    monkeypatch.setattr(services, "get_node", get_node)
    slow: Any = local_ray.PatientNode()
    slow._node_id = "id"
    return slow


def test_a_slow_start_is_waited_for_as_long_as_the_processes_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [False] * 500 + [True]
    slow_node(monkeypatch, answers, alive=True).start_ray_processes()
    assert answers == []
    answers = [False] * 500
    slow_node(monkeypatch, answers, alive=False).start_ray_processes()
    assert len(answers) == 500


def test_a_record_of_a_ray_that_is_gone_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert cluster.running_address("") == ""
    (tmp_path / "ray").mkdir()
    record = tmp_path / "ray/ray_current_cluster"
    record.write_text(f"127.0.0.1:{free_port()}")
    assert cluster.running_address("") == ""
