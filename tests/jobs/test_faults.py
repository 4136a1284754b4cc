"""Harm done to jobs for real: two at once, killed ones, a store that goes away, a full disk."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import JOB_SECONDS, ROOT, damage, fails, job, run_script, tiny_config

from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.training.run import RunFolder

pytestmark = pytest.mark.faults

SMALL = ("--width", "0.125", "--batch-size", "16", "--drawn-count", "60", "--num-workers", "1")


def newest(checkpoints: Path) -> int:
    states = checkpoints.glob("step-*/state.json")
    return max((int(state.parent.name[5:]) for state in states), default=-1)


@pytest.mark.parametrize("name", ["train", "tune"])
def test_a_second_job_with_a_ray_of_its_own_does_not_touch_the_first_one_s_folder(
    ray_session: str, tmp_path: Path, name: str
) -> None:
    options = ("--storage", tmp_path, "--run-name", "mine", *SMALL)
    endless: tuple[str, ...]
    if name == "train":
        endless = ("--steps", "1000000", "--checkpoint-images", "160")
    else:
        # A trial saves whenever it reports, nine times.
        endless = ("--steps", "900", "--trials", "3", "--max-concurrent", "1")
    place = tmp_path / ("mine" if name == "train" else "mine/trials/000")
    with job(ray_session, tmp_path / "log", name, *options, *endless) as first:
        first.wait_for(lambda: newest(place / "checkpoints") > 0)
        before = newest(place / "checkpoints")
        with job("local", tmp_path / "log2", name, *options, "--restart") as second:
            assert second.end() == 2
        [line] = [text for text in second.output.splitlines() if text.startswith("error: ")]
        assert f"--run-name: another job works in {tmp_path}/mine" in line
        assert f"process {first.process.pid} on" in line
        first.wait_for(lambda: newest(place / "checkpoints") > before)
        # Of a job that is killed, the folder is free at once.
        os.killpg(first.process.pid, signal.SIGKILL)
        first.process.wait()
    again = ("--steps", "2", *(("--trials", "1") if name == "tune" else ()))
    assert run_script(name, *options, "--restart", *again) == 0
    assert newest(place / "checkpoints") == 2


def test_of_two_preparations_into_one_folder_one_is_refused(
    ray_session: str, tmp_path: Path
) -> None:
    def options(seed: int, place: str) -> tuple[str, ...]:
        common = ("drawn", "--size", "16", "--count", "400", "--num-workers", "1")
        return (*common, "--seed", str(seed), "--out", str(tmp_path / place))

    for seed in (0, 1):
        assert run_script("prepare", *options(seed, f"alone-{seed}")) == 0
    alone = [Manifest.load(Folder.at(tmp_path / f"alone-{k}")).fingerprint for k in (0, 1)]
    assert alone[0] != alone[1]
    with (
        job(ray_session, tmp_path / "log0", "prepare", *options(0, "both")) as first,
        job(ray_session, tmp_path / "log1", "prepare", *options(1, "both")) as second,
    ):
        codes = [first.end(), second.end()]
    assert sorted(codes) == [0, 2], first.output + second.output
    refused = (first, second)[codes.index(2)].output
    assert re.search("--out: another job works in|already holds another dataset", refused)
    made = Manifest.load(Folder.at(tmp_path / "both"))
    assert made.fingerprint == alone[codes.index(0)]


OPEN = """
import sys
sys.path[:0] = sys.argv[2:]
from helpers import tiny_config
from raygen.training.run import RunFolder
print("ready", flush=True)
sys.stdin.readline()
RunFolder.at(sys.argv[1], "run").open(tiny_config(seed=1), restart=True)
"""


@pytest.mark.parametrize("restart", [True, False])
def test_a_restart_that_is_killed_while_it_deletes_can_be_repeated(
    tmp_path: Path, restart: bool
) -> None:
    folder = tmp_path / "run"
    cut_off = 0
    for attempt in range(8):
        run = RunFolder.at(str(tmp_path), "run")
        run.open(tiny_config(), restart=True)
        for number in range(2_000):
            run.samples.filesystem.create_dir(run.samples.path)
            (folder / f"samples/{number}.png").touch()
        (folder / "checkpoints/step-00000002").mkdir(parents=True)
        (folder / "checkpoints/step-00000002/state.json").write_text("{}")
        python = [sys.executable, "-c", OPEN, str(tmp_path), str(ROOT), str(ROOT / "tests")]
        with subprocess.Popen(
            python, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
            # At another place each time.
            stop_at = 1_900 - 230 * attempt
            while process.poll() is None and _count(folder / "samples") > stop_at:
                pass
            process.kill()
        cut_off += bool(_count(folder / "samples") or (folder / "checkpoints").exists())
        run.open(tiny_config(seed=2), restart)
        assert sorted(entry.name for entry in folder.iterdir()) == ["config.json", "raygen.json"]
        assert json.loads((folder / "config.json").read_text())["seed"] == 2
    assert cut_off


def _count(folder: Path) -> int:
    with suppress(FileNotFoundError):
        return len(os.listdir(folder))
    return 0


def test_damaged_drawn_faces_are_drawn_again_and_nothing_is_deleted_for_them(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--storage", tmp_path, "--steps", "2", "--run-name", "run", *SMALL)
    assert run_script("train", *options) == 0
    [drawn] = (tmp_path / "datasets").iterdir()
    before = _digests(drawn)
    damage(drawn / "train-00001.parquet")
    (drawn / "train-00002.parquet").unlink()
    capsys.readouterr()
    assert run_script("train", *options, "--restart") == 0
    assert "drawing the faces again: " in capsys.readouterr().out
    assert _digests(drawn) == before


def test_a_damaged_dataset_is_found_before_the_run_is_deleted(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    faces = ("drawn", "--size", "32", "--count", "60", "--num-workers", "1", "--out", data)
    assert run_script("prepare", *faces) == 0
    options = ("--storage", tmp_path, "--run-name", "run", "--data", data, *SMALL[:4], *SMALL[6:])
    assert run_script("train", *options, "--steps", "2") == 0
    damage(data / "train-00001.parquet")
    before = _digests(tmp_path / "run")
    line = fails(capsys, "train", *options, "--steps", "2", "--restart")
    assert "train-00001.parquet: its content is not what was prepared" in line
    assert "jobs/prepare.py with its options and --restart" in line
    assert _digests(tmp_path / "run") == before
    assert run_script("prepare", *faces, "--restart") == 0
    assert run_script("train", *options, "--steps", "2", "--restart") == 0


def _digests(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


class Line:
    """The network between jobs and an S3 server, which can be cut."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def mend(self) -> None:
        with self._lock:
            self._is_cut = False

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            with self._lock:
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._server))
                self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(s3_server: str) -> Line:
    return Line(int(re.findall(r"endpoint_override=127.0.0.1:(\d+)", s3_server)[0]))


def through(line: Line, s3: Folder, server: str) -> str:
    """The URI of a test's folder on the S3 server, by a line that can be cut."""
    options = re.sub(r"(endpoint_override=127.0.0.1):\d+", rf"\1:{line.port}", server)
    return f"s3://{s3.path}?{options}"


def _inside(uri: str, *names: str) -> str:
    return Folder.at(uri).join(*names).uri


def test_a_run_outlasts_its_object_store(
    ray_session: str, tmp_path: Path, line: Line, s3: Folder, s3_server: str
) -> None:
    storage = through(line, s3, s3_server)
    assert (
        run_script(
            "prepare", "drawn", "--size", "32", "--count", "60", "--out", s3.join("data").uri
        )
        == 0
    )
    run = RunFolder(s3.join("run"))
    options = (
        *("--storage", storage, "--run-name", "run", "--data", _inside(storage, "data")),
        *(*SMALL[:4], *SMALL[6:], "--checkpoint-images", "320", "--sample-images", "1000000"),
    )

    def saved() -> int:
        return run.position().global_step

    with job(ray_session, tmp_path / "log", "train", *options, "--steps", "1000000") as training:
        training.wait_for(lambda: saved() >= 40)
        line.cut()
        training.wait_for(lambda: "has not answered for" in training.output)
        before = saved()
        line.mend()
        training.wait_for(lambda: saved() > before)
        os.killpg(training.process.pid, signal.SIGTERM)
        assert training.end() == 130
    assert "a worker failed" not in training.output
    assert f"interrupted: saved at step {saved():,}" in training.output


def test_a_run_whose_object_store_stays_away_ends_in_one_line_and_goes_on_later(
    ray_session: str,
    tmp_path: Path,
    line: Line,
    s3: Folder,
    s3_server: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage = through(line, s3, s3_server)
    options = (
        *("--storage", storage, "--run-name", "run", *SMALL),
        *("--checkpoint-images", "320", "--storage-timeout", "5s"),
    )
    run = RunFolder(s3.join("run"))
    with job(ray_session, tmp_path / "log", "train", *options, "--steps", "1000000") as training:
        training.wait_for(lambda: run.position().global_step >= 20)
        line.cut()
        assert training.end() == 1
    tail = training.output[training.output.index("error: ") :]
    assert "has not answered for" in tail
    assert "what the run has saved is kept" in tail
    line.mend()
    step = run.position().global_step
    assert step >= 20
    capsys.readouterr()
    assert run_script("train", *options, "--steps", str(step + 2)) == 0
    assert f"at step {step:,}" in capsys.readouterr().out
    assert run.folder.read_json("summary.json")["global_step"] == step + 2
    assert f"samples-{16 * (step + 2):09d}.png" in run.samples.names()


def test_a_preparation_outlasts_its_object_store(
    ray_session: str, tmp_path: Path, line: Line, s3: Folder, s3_server: str
) -> None:
    images = tmp_path / "images.zip"
    _write_images(images, 400)
    s3.write_bytes("images.zip", images.read_bytes())
    place = through(line, s3, s3_server)
    options = (
        *("folder", "--images", _inside(place, "images.zip"), "--size", "64"),
        *("--num-workers", "1", "--out", _inside(place, "data")),
    )
    with job(ray_session, tmp_path / "log", "prepare", *options) as preparing:
        records = s3.join("data", ".prepare")
        preparing.wait_for(lambda: any(".begun-" in name for name in records.names()))
        line.cut()
        preparing.wait_for(lambda: "has not answered for" in preparing.output)
        line.mend()
        assert preparing.end() == 0
    made = Manifest.load(s3.join("data"))
    assert sum(made.rows(split) for split in made.splits) == 400
    assert made.rejected == ()


def _write_images(path: Path, count: int) -> None:
    import io
    import zipfile

    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            file = io.BytesIO()
            pixels = random.integers(0, 256, (96, 96, 3), np.uint8)
            Image.fromarray(pixels).save(file, "PNG")
            archive.writestr(f"{number}.png", file.getvalue())


def may_mount() -> bool:
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
        ).returncode
    )


@pytest.mark.parametrize("size", ["3m", "200k"])
def test_a_full_disk_ends_a_run_in_one_line(ray_session: str, tmp_path: Path, size: str) -> None:
    """3 MB hold no checkpoint, 200 kB not even the pictures and curves."""
    if not may_mount():
        pytest.skip("this user may not mount a small disk")
    options = ("--steps", "5", *SMALL, "--width", "0.25", "--storage", "/mnt/runs")
    script = f"""
        mount -t tmpfs -o size={size} tmpfs /mnt && mkdir /mnt/runs && mkdir -p {tmp_path}/faces
        ln -s {tmp_path}/faces /mnt/runs/datasets
        {sys.executable} {ROOT}/jobs/train.py {" ".join(options)} 2>&1
        echo exit $?; ls /mnt/runs/dcgan-celeba/checkpoints
    """
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env=os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=JOB_SECONDS,
    )
    assert "Traceback" not in done.stdout
    assert "a worker failed" not in done.stdout
    error, kept, code, *left = done.stdout[done.stdout.index("error: ") :].splitlines()
    assert re.match(r"error: /mnt/runs/dcgan-celeba.* \(No space left on device\)", error)
    assert "what the run has saved is kept" in kept
    assert (code, left) == ("exit 1", [])
