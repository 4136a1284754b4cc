"""The Ray that a job starts for itself: who can reach it, and what it leaves of the job's keys."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from helpers import descendants, is_loopback, listeners
from pyarrow import fs

from raygen.cluster import connection as cluster
from raygen.cluster import private_ray
from raygen.cluster.connection import connected, running_address
from raygen.core.storage import Folder

ROOT = Path(__file__).parents[2]
SECRET = "planted-Zk3vQ9xWm2Lr7TbYc5Hn8Jd4"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Where Ray's sockets' paths are not too long."""
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as place:
        yield Path(place)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nobody_gets_into_a_job_s_own_ray_and_its_keys_are_left_nowhere(
    s3: Folder, short_folder: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    own = {"HOME": str(home), "RAY_TMPDIR": str(short_folder), "AWS_SECRET_ACCESS_KEY": SECRET}
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    job = ("--width", "0.125", "--batch-size", "16", "--drawn-count", "60", "--num-workers", "2")
    process = subprocess.Popen(
        [sys.executable, "jobs/train.py", *job, "--steps", "60", "--storage", s3.uri, "--verbose"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=env | own | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout
    output: list[bytes] = []
    reader = threading.Thread(target=lambda: output.extend(process.stdout or ()))
    reader.start()
    seen: dict[tuple[str, int], str] = {}
    names: set[str] = set()
    answers: set[int] = set()
    modes: set[int] = set()
    try:
        while process.poll() is None:
            now = listeners(descendants(process.pid))
            # A worker's name says what it does just then.
            names |= set(now.values())
            seen |= now
            modes |= {folder.stat().st_mode & 0o777 for folder in short_folder.iterdir()}
            for (ip, port), name in now.items():
                if "dashboard/dashboard.py" in name and 401 not in answers:
                    answers |= asked(f"http://{ip}:{port}/api/jobs/")
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
        reader.join()
    text = b"".join(output).decode()
    assert process.returncode == 0, text

    assert {place: name for place, name in seen.items() if not is_loopback(place[0])} == {}
    # So that nothing was missed: of each kind one was seen.
    for kind in ("gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent", "RayTrainWorker"):
        assert any(kind in name for name in names), kind
    # Other users of this machine do reach it, but without the token, and not its folder.
    assert answers == {401}
    assert modes == {0o700}
    assert not list(home.rglob("auth_token"))

    entries = s3.filesystem.get_file_info(fs.FileSelector(s3.path, recursive=True))
    stored = [entry.path for entry in entries if entry.type == fs.FileType.File]
    assert any("tfevents" in path for path in stored)
    assert any(path.endswith("summary.json") for path in stored)
    for path in stored:
        with s3.filesystem.open_input_stream(path) as stream:
            assert SECRET.encode() not in stream.read(), path
    logs = [file for place in (short_folder, home) for file in place.rglob("*") if file.is_file()]
    assert len(logs) > 10
    for file in logs:
        assert SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in text


def asked(url: str) -> set[int]:
    """What the Jobs API answers to one without a token, if it answers yet."""
    try:
        with urlopen(url) as answer:
            # Of its own load it tells, on another port, everybody on this machine.
            return set() if answer.read().startswith(b"# HELP ") else {int(answer.status)}
    except HTTPError as error:
        return {error.code}
    except OSError:
        return set()


def test_ray_s_folder_is_this_user_s_alone(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    folder = Path(private_ray.own_folder())
    assert folder.parent == short_folder
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert private_ray.own_folder() == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    # A link that somebody else has put in its place is not followed.
    folder.rmdir()
    (short_folder / "theirs").mkdir(mode=0o777)
    folder.symlink_to(short_folder / "theirs")
    other = Path(private_ray.own_folder())
    assert other.resolve() == other
    assert other != folder
    assert other.stat().st_mode & 0o777 == 0o700


def test_a_job_joins_no_ray_that_another_user_has_noted(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # As if something answered everywhere.
    monkeypatch.setattr(cluster, "check_address", lambda address: None)
    assert running_address("") == ""
    (short_folder / "ray").mkdir()
    record = short_folder / "ray/ray_current_cluster"
    record.write_text("192.0.2.1:6379")
    assert running_address("") == "192.0.2.1:6379"
    stat = os.stat
    stranger = os.stat_result([*stat(record)[:4], 4711, *stat(record)[5:]])
    monkeypatch.setattr(os, "stat", lambda path: stranger if path == str(record) else stat(path))
    assert running_address("") == ""
    assert running_address("192.0.2.1:6379") == "192.0.2.1:6379"


def test_jobs_say_when_others_can_read_the_cluster_s_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".ray").mkdir()
    kept, named = tmp_path / ".ray/auth_token", tmp_path / "a token"
    for file in (kept, named):
        file.write_text("4711")
        file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    # Where Ray would be started; and what is said comes before.
    monkeypatch.setattr("ray.init", lambda *_, **__: None)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", "local")

    def told() -> str:
        with connected():
            pass
        return capsys.readouterr().err

    assert told() == ""
    for mode in (0o640, 0o604, 0o644):
        kept.chmod(mode)
        line = told()
        assert line.count("\n") == 1
        assert line.endswith(f"chmod 600 {kept}\n")
        assert "4711" not in line
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    assert told() == ""
    named.chmod(0o644)
    assert told().endswith(f"chmod 600 '{named}'\n")
    # Then no file is read.
    monkeypatch.setenv("RAY_AUTH_TOKEN", "4711")
    assert told() == ""


def test_what_is_set_for_a_ray_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    before = dict(os.environ)
    tokens = set()
    for _ in range(2):
        with private_ray.closed():
            tokens.add(os.environ["RAY_AUTH_TOKEN"])
            # What the user has said counts.
            assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
        assert os.environ == before
    # The library in this process keeps the first one, for later Rays as well.
    [token] = tokens
    assert re.fullmatch("[0-9a-f]{64}", token)
