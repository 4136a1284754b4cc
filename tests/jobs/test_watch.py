"""jobs/watch.py, and what a browser shows of the runs and sweeps of an object store."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import boto3
import numpy as np
import pytest
from helpers import descendants, fails, free_port, is_loopback, listeners

from raygen.config.domains import Choice, Range, Space, Values
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.jobs import watch as watch_module
from raygen.jobs.watch import first_look, keep_current
from raygen.tensorboard import hparams
from raygen.tensorboard import mirror as mirror_module
from raygen.tensorboard.mirror import Mirror
from raygen.tensorboard.projector import TENSOR_NAME, Codes, write_projector
from raygen.tensorboard.run_log import RunLog
from raygen.tensorboard.server import written
from raygen.training.run import RunFolder

ROOT = Path(__file__).parents[2]
TIMEOUT = 120
"""Seconds; only for the case that something hangs."""
SPACE: Space = {"lr_g": Range(1e-5, 1e-3, log=True), "schedule": Choice(("1:1", "5:1"))}


def write_run(run: RunFolder) -> None:
    random = np.random.default_rng(0)
    with RunLog(run.folder, 0) as log:
        log.text("config", "| option | value |\n|---|---|\n| batch_size | 4711 |")
        for k in (1, 2, 3):
            values = {"loss/total": 1 / k, "quality/swd": 50.0, "throughput/images_per_second": 9.0}
            log.scalars(values, Position(images_seen=100 * k))
            log.picture("samples", random.integers(0, 256, (24, 40, 3), np.uint8), 100 * k)
    images = random.integers(0, 256, (20, 16, 16, 3), np.uint8)
    ids, truths = [f"face{k}" for k in range(20)], random.choice([-1, 1], (20, 2))
    codes = random.normal(size=(20, 8))
    write_projector(run.folder, Codes(codes, images, ids, ("Bald", "Young"), truths))


def write_sweep(sweep: Folder) -> None:
    """Three trials: two have ended, the third is running."""
    hparams.write_experiment(sweep, SPACE, {"quality/swd": "SWD"})
    for number in range(3):
        name = f"{number:03d}"
        trial = sweep.join("trials", name)
        values: Values = {"lr_g": 1e-4 * (number + 1), "schedule": "5:1"}
        hparams.write_start(trial, name, SPACE, values, time.time())
        with RunLog(trial, 0) as log:
            log.scalars({"quality/swd": 30.5 + number}, Position(images_seen=100))
        if number < 2:
            hparams.write_end(trial, number == 0)


@contextmanager
def watching(storage: str) -> Iterator[str]:
    """jobs/watch.py in a process of its own. Yields: TensorBoard's address."""
    options = ("--storage", storage, "--port", "0", "--reload-seconds", "1")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs/watch.py"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"TensorBoard: (http://127.0.0.1:\d+/) shows (.*); Ctrl-C", line):
                assert found[2] == storage
                yield found[1]
                break
        else:
            raise AssertionError("".join(lines))
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(TIMEOUT) == 0
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def ask(address: str, path: str, **parameters: str) -> Any:
    """TensorBoard's answer, from JSON."""
    with urlopen(f"{address}data/{path}?{urlencode(parameters)}") as answer:
        return json.load(answer)


def losses(address: str, run: str) -> list[float]:
    """What is shown of a run; empty if it is not there."""
    try:
        points = ask(address, "plugin/scalars/scalars", run=run, tag="loss/total")
    except HTTPError:
        return []
    return [value for _, _, value in points]


def codes(address: str) -> list[list[float]]:
    """The codes of each run that the projector knows."""
    found = []
    for run in ask(address, "plugin/projector/runs"):
        asked = urlencode({"run": run, "name": TENSOR_NAME})
        # What a run's configuration names may still be on its way.
        with (
            suppress(HTTPError),
            urlopen(f"{address}data/plugin/projector/tensor?{asked}") as answer,
        ):
            found.append(np.frombuffer(answer.read(), np.float32).tolist())
    return found


def write_codes(run: RunFolder, value: float) -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    shown = np.full((2, 3), value)
    write_projector(run.folder, Codes(shown, images, ["a", "b"], (), np.zeros((2, 0))))


def write_loss(run: RunFolder, value: float, images_seen: int) -> None:
    """What a session logs that goes on after so many images."""
    with RunLog(run.folder, images_seen) as log:
        log.scalars({"loss/total": value}, Position(images_seen=images_seen + 10))


@pytest.fixture(params=["local", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """One that is read where it is, and one that is fetched."""
    if request.param == "local":
        return Folder.at(tmp_path / "runs")
    s3: Folder = request.getfixturevalue("s3")
    return s3


@pytest.mark.slow
def test_codes_appear_and_change_while_a_run_is_watched(storage: Folder) -> None:
    run = RunFolder(storage.join("vae"))
    write_loss(run, 1.0, 0)
    with watching(storage.uri) as address:
        wait_for(lambda: ask(address, "runs") == ["vae"])
        assert codes(address) == []

        def show(value: float) -> bool:
            return codes(address) == [[value] * 6]

        for value in (1.0, 2.0):
            write_codes(run, value)
            # What is not fetched first is there at once.
            assert show(value) or not storage.is_local
            wait_for(partial(show, value))


def test_codes_that_look_as_old_as_others_are_taken_for_new_ones(
    s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the store's clock is ahead of this machine's.
    monkeypatch.setattr(mirror_module, "SETTLED_SECONDS", 1e9)
    mirror = Mirror(s3, str(tmp_path))
    run, copy = RunFolder(s3.join("vae")), tmp_path / "vae"
    write_codes(run, 1.0)
    mirror.update()
    before, age = written(str(copy)), (copy / "projector/codes.tsv").stat().st_mtime_ns
    write_codes(run, 2.0)
    mirror.update()
    assert (copy / "projector/codes.tsv").stat().st_mtime_ns == age
    assert written(str(copy)) != before


@pytest.mark.slow
def test_the_projector_appears_even_if_codes_come_after_what_names_them(tmp_path: Path) -> None:
    run = RunFolder(Folder.at(tmp_path / "vae"))
    write_loss(run, 1.0, 0)
    write_codes(run, 1.0)
    os.remove(tmp_path / "vae/projector/codes.tsv")
    with watching(str(tmp_path)) as address:

        def is_offered() -> bool:
            return bool(ask(address, "plugins_listing")["projector"]["enabled"])

        wait_for(lambda: ask(address, "runs") == ["vae"])
        # The first to ask makes the projector look.
        is_offered()
        assert codes(address) == []
        write_codes(run, 1.0)
        wait_for(is_offered)
        assert codes(address) == [[1.0] * 6]


@pytest.mark.slow
def test_a_run_that_is_started_over_is_shown_anew(storage: Folder) -> None:
    run = RunFolder(storage.join("vae"))
    write_loss(run, 1.0, 0)
    with watching(storage.uri) as address:
        wait_for(lambda: losses(address, "vae") == [1.0])
        # At once, so that TensorBoard hardly ever sees the folder gone.
        run.folder.delete()
        write_loss(run, 2.0, 0)
        wait_for(lambda: losses(address, "vae") == [2.0])


@pytest.mark.slow
def test_a_trial_that_goes_on_after_its_end_is_followed(storage: Folder) -> None:
    trial = RunFolder(storage.join("sweep", "trials", "000"))
    write_loss(trial, 1.0, 0)
    hparams.write_end(trial.folder, False)
    with watching(storage.uri) as address:
        wait_for(lambda: losses(address, "sweep/trials/000") == [1.0])
        hparams.forget_end(trial.folder)
        write_loss(trial, 2.0, 10)
        wait_for(lambda: losses(address, "sweep/trials/000") == [1.0, 2.0])


@pytest.mark.slow
def test_a_browser_shows_runs_and_sweeps_of_an_object_store(s3: Folder, page: Any) -> None:
    run = RunFolder(s3.join("vae"))
    write_run(run)
    write_sweep(s3.join("sweep"))
    with watching(s3.uri) as url:

        def open_tab(name: str) -> None:
            # Another fragment alone is no other page.
            page.goto("about:blank")
            page.goto(f"{url}#{name}")

        open_tab("timeseries")
        for group in ("loss", "quality", "throughput"):
            page.get_by_text(group, exact=True).first.wait_for()
        page.get_by_text("loss/total").first.wait_for()
        page.locator("line-chart svg path, line-chart canvas").first.wait_for()
        for name in ("vae", "sweep/trials/000", "sweep/trials/002"):
            page.get_by_text(name, exact=True).first.wait_for()
        tags = page.request.get(f"{url}data/plugin/scalars/tags").json()
        assert "Sliced Wasserstein distance" in tags["vae"]["quality/swd"]["description"]

        open_tab("images")
        picture = page.locator("tf-image-loader img").first
        picture.wait_for()
        assert (
            picture.evaluate("async image => { await image.decode(); return image.naturalWidth }")
            == 40
        )

        open_tab("text")
        page.get_by_text("4711").first.wait_for()

        open_tab("hparams")
        for text in ("lr_g", "schedule", "SWD", "000", "001", "002", "0.00030000", "32.500"):
            page.get_by_text(text, exact=True).first.wait_for()

        page.get_by_text("Projector").first.wait_for()
        # What its tab shows in a frame.
        page.goto(f"{url}data/plugin/projector/projector_binary.html")
        page.get_by_text("Points: 20").first.wait_for()
        page.get_by_text("codes of validation images").first.wait_for(state="attached")
        for attribute in ("Bald", "Young"):
            page.get_by_text(attribute, exact=True).first.wait_for(state="attached")

        # What is logged from now on appears by itself.
        with RunLog(run.folder, 300) as log:
            log.scalars({"loss/kl": 0.5}, Position(images_seen=400))
        open_tab("timeseries")
        wait_for(lambda: "loss/kl" in ask(url, "plugin/scalars/tags")["vae"])


@pytest.mark.slow
def test_a_local_storage_is_read_where_it_is(tmp_path: Path) -> None:
    write_sweep(Folder.at(tmp_path / "sweep"))
    with watching(str(tmp_path)) as url:
        wait_for(lambda: "sweep/trials/002" in ask(url, "runs"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nobody_else_on_the_network_is_served(tmp_path: Path) -> None:
    write_loss(RunFolder(Folder.at(tmp_path / "run")), 1.0, 0)
    with watching(str(tmp_path)) as address:
        places = listeners(descendants(os.getpid()))
        port = int(address.rstrip("/").rpartition(":")[2])
        assert [ip for ip, of in places if of == port] == ["127.0.0.1"]
        others = [name for (ip, _), name in places.items() if not is_loopback(ip)]
        assert not [name for name in others if "jobs/watch.py" in name]


def test_the_page_does_not_wait_for_all_runs(
    s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_loss(RunFolder(s3.join(str(number))), 1.0, 0)
    mirror = Mirror(s3, str(tmp_path))
    monkeypatch.setattr(watch_module, "FIRST_SECONDS", 0.0)
    first_look(s3, mirror)
    assert len(mirror.missing) == 2
    stop = threading.Event()
    following = threading.Thread(target=keep_current, args=(mirror, TIMEOUT, stop))
    following.start()
    # Long before the next look.
    wait_for(lambda: not mirror.missing)
    stop.set()
    following.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_files_whose_names_lead_elsewhere_are_told_once(
    s3: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket, _, prefix = s3.path.partition("/")
    store = boto3.client("s3")
    write_loss(RunFolder(s3.join("run")), 1.0, 0)
    mirror = Mirror(s3, str(tmp_path / "copy"))
    first_look(s3, mirror)
    assert "not fetched" not in capsys.readouterr().out
    for name in ("run/../../../x/tfevents.pth", "../tfevents"):
        store.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"stranger")
    stop = threading.Event()
    update = mirror.update

    def updated() -> int:
        rounds.append(update())
        if len(rounds) == 3:
            stop.set()
        return rounds[-1]

    rounds: list[int] = []
    with mock.patch.object(Mirror, "update", side_effect=updated):
        keep_current(mirror, 0, stop)
    told = "not fetched: '../tfevents' and 1 more, as a file of such a name would lie outside"
    assert capsys.readouterr().out.count(told) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["run"]


def test_mistakes_are_told_in_one_line(
    tmp_path: Path, s3: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "does not exist" in fails(capsys, "watch", "--storage", tmp_path / "nowhere")
    assert "does not exist" in fails(capsys, "watch", "--storage", s3.join("nowhere").uri)
    assert "ftp://x/y: no filesystem" in fails(capsys, "watch", "--storage", "ftp://x/y")
    assert "--port 70000: must be" in fails(capsys, "watch", "--port", "70000")
    import socket

    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        line = fails(capsys, "watch", "--storage", tmp_path, "--port", str(port))
    assert f"--port {port}: TensorBoard cannot listen there" in line
