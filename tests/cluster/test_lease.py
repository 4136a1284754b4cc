"""One job at a time in a folder."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raygen.cluster import lease
from raygen.cluster.lease import Process, claims, only_owner
from raygen.core.errors import RunError, UserError
from raygen.core.storage import Folder

TIMEOUT = 120
"""Seconds; only for the case that something hangs."""
HOLD = """
import sys, time
from raygen.cluster.lease import only_owner
from raygen.core.storage import Folder
with only_owner(Folder.at(sys.argv[1]), "--run-name"):
    print("held", flush=True)
    time.sleep(1000)
"""
INCREMENT = """
import sys
from raygen.cluster.lease import only_owner
from raygen.core.storage import Folder
folder = Folder.at(sys.argv[1])
for _ in range(5):
    with only_owner(folder, "--out", queue=True):
        number = int(folder.read_bytes("number"))
        assert not folder.exists("inside")
        folder.write_bytes("inside", b"")
        folder.write_bytes("number", str(number + 1).encode())
        folder.delete_file("inside")
"""


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder.at(tmp_path / "run")
    s3: Folder = request.getfixturevalue("s3")
    return s3


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_a_folder_has_one_owner_at_a_time(folder: Folder) -> None:
    with only_owner(folder, "--run-name") as owner:
        owner.check()
        owner.fence.check()
        with (
            pytest.raises(UserError, match=rf"--run-name: another job works in .* {os.getpid()} "),
            only_owner(folder, "--run-name"),
        ):
            pass
        owner.fence.check()
    assert claims(folder) == []
    with only_owner(folder, "--run-name"):
        pass


def test_a_folder_that_was_not_there_is_not_left_behind(tmp_path: Path) -> None:
    with only_owner(Folder.at(tmp_path / "run"), "--run-name"):
        assert (tmp_path / "run").exists()
    assert not (tmp_path / "run").exists()
    with only_owner(Folder.at(tmp_path / "run"), "--run-name"):
        (tmp_path / "run/config.json").touch()
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_killed_job_s_claim_is_taken_over_at_once(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    with python(HOLD, str(tmp_path)) as job:
        assert job.stdout
        assert job.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {job.pid}"), only_owner(folder, "--run-name"):
            pass
        job.send_signal(signal.SIGKILL)
        # Not waited for: a process that has ended but not been asked about is dead, too.
        while Process(lease._machine(), "", job.pid, lease._started(job.pid)).started != "ended":
            time.sleep(0.01)
        with only_owner(folder, "--run-name"):
            assert len(claims(folder)) == 1


def test_a_later_process_of_the_same_number_is_another_one() -> None:
    assert Process.this().is_running
    assert not replace(Process.this(), started="12").is_running


def of_another_machine(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Take all claims for those of another machine, and watch them for so long."""
    monkeypatch.setattr(Process, "is_here", False)
    monkeypatch.setattr(lease, "LEASE_SECONDS", seconds)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)


def test_a_claim_of_another_machine_that_is_renewed_is_respected(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_another_machine(monkeypatch, TIMEOUT)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    told: list[str] = []
    with (
        only_owner(folder, "--run-name") as owner,
        pytest.raises(UserError, match="another job works in"),
        only_owner(folder, "--run-name", told.append),
    ):
        pass
    owner.check()
    assert "looking whether its last job" in told[0]


def test_who_queues_for_a_living_job_of_another_machine_is_told_so(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_another_machine(monkeypatch, TIMEOUT)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        if len([text for text in told if "waiting for another job" in text]) > 5:
            raise KeyboardInterrupt

    with (
        only_owner(folder, "--run-name"),
        pytest.raises(KeyboardInterrupt),
        only_owner(folder, "--run-name", tell, queue=True),
    ):
        pass
    first = next(k for k, text in enumerate(told) if "waiting for another job" in text)
    assert all("waiting for another job" in text for text in told[first:])


def test_a_claim_of_another_machine_that_is_not_renewed_is_taken_over(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_another_machine(monkeypatch, 0.5)
    monkeypatch.setattr(lease, "RENEW_SECONDS", TIMEOUT)
    with only_owner(folder, "--run-name") as away, only_owner(folder, "--run-name") as owner:
        owner.fence.check()
        with pytest.raises(RunError, match="another job has taken this folder over"):
            away.fence.check()


def test_an_owner_that_was_away_finds_out(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    with only_owner(folder, "--run-name") as owner:
        [claim] = claims(folder)
        # As a job does that takes over; between the look and the renewal it may come back once.
        while not owner._lost.is_set():
            if folder.exists(claim.name):
                folder.delete_file(claim.name)
        with pytest.raises(RunError, match="another job has taken this folder over"):
            owner.check()


def test_a_long_forgotten_claim_is_not_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_another_machine(monkeypatch, TIMEOUT)
    folder = Folder.at(tmp_path)
    old = tmp_path / f".lease-{'a' * 32}.json"
    old.write_text(json.dumps(Process.this().__dict__ | {"held": True}))
    os.utime(old, (time.time() - 2 * lease.FORGOTTEN_SECONDS,) * 2)
    with only_owner(folder, "--run-name"):
        assert not old.exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": "x"}', "[" * 100_000, '{"pid": 1e999}'])
def test_a_claim_that_says_nothing_is_watched_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    claim = tmp_path / f".lease-{'a' * 32}.json"
    claim.write_text(text)
    with only_owner(Folder.at(tmp_path), "--run-name"):
        assert not claim.exists()


def test_jobs_in_a_queue_work_one_after_the_other(folder: Folder) -> None:
    folder.write_bytes("number", b"0")
    jobs = [python(INCREMENT, folder.uri) for _ in range(3)]
    assert [job.wait(TIMEOUT) for job in jobs] == [0, 0, 0]
    assert folder.read_bytes("number") == b"15"
    assert folder.names() == ["number"]


def test_of_many_that_start_at_once_at_most_one_is_alone(tmp_path: Path) -> None:
    folder, barrier = Folder.at(tmp_path), threading.Barrier(8)
    most, inside, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal most, inside
        barrier.wait()
        with only_owner(folder, "--out", queue=True):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0)
    assert claims(folder) == []


def test_what_only_looks_like_a_claim_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".lease-notes.txt").write_text("the user's own")
    (tmp_path / ".lease-folder").mkdir()
    with only_owner(Folder.at(tmp_path), "--run-name"):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        ".lease-folder",
        ".lease-notes.txt",
    ]


def test_a_process_that_hides_when_it_started_is_judged_by_its_renewals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    with only_owner(Folder.at(tmp_path), "--run-name") as owner:
        # As where /proc shows a user nothing of others.
        monkeypatch.setattr(lease, "_started", lambda pid: "")
        assert Process.this().is_running is None
        with (
            pytest.raises(UserError, match="another job works in"),
            only_owner(Folder.at(tmp_path), "--run-name"),
        ):
            pass
        owner.fence.check()
