"""jobs/watch.py, and what a browser shows of the runs and sweeps of an object store."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from helpers import fails, free_port

from raygen.search_space import Choice, Range, Space, Values
from raygen.storage import Folder
from raygen.training.logging import RunLog
from raygen.training.projector import NAME, write_projector
from raygen.training.run import RunFolder
from raygen.tuning import hparams

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
# Drawing in software, without a window, a graphics card or a sandbox (which root has none of).
SWITCHES = [
    *("--no-sandbox", "--disable-background-networking", "--ignore-gpu-blocklist"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
TIMEOUT = 120
"""Seconds; only for the case that something hangs."""
SPACE: Space = {"lr_g": Range(1e-5, 1e-3, log=True), "schedule": Choice(("1:1", "5:1"))}


def write_run(run: RunFolder) -> None:
    random = np.random.default_rng(0)
    with RunLog(run, 0) as log:
        log.text("config", "| option | value |\n|---|---|\n| batch_size | 4711 |")
        for k in (1, 2, 3):
            values = {"loss/total": 1 / k, "quality/swd": 50.0, "throughput/images_per_second": 9.0}
            log.scalars(values, 100 * k)
            log.picture("samples", random.integers(0, 256, (24, 40, 3), np.uint8), 100 * k)
    images = random.integers(0, 256, (20, 16, 16, 3), np.uint8)
    ids, truths = [f"face{k}" for k in range(20)], random.choice([-1, 1], (20, 2))
    write_projector(run.folder, random.normal(size=(20, 8)), images, ids, ("Bald", "Young"), truths)


def write_sweep(sweep: Folder) -> None:
    """Three trials: two have ended, the third is running."""
    hparams.write_experiment(sweep, SPACE, {"quality/swd": "SWD"})
    for number in range(3):
        name = f"{number:03d}"
        trial = sweep.join("trials", name)
        values: Values = {"lr_g": 1e-4 * (number + 1), "schedule": "5:1"}
        hparams.write_start(trial, name, SPACE, values, time.time())
        with RunLog(RunFolder(trial), 0) as log:
            log.scalars({"quality/swd": 30.5 + number}, 100)
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


def codes(address: str) -> list[list[float]]:
    """The codes of each run that the projector knows."""
    plugin = f"{address}data/plugin/projector"
    with urlopen(f"{plugin}/runs") as answer:
        runs = json.load(answer)
    found = []
    for run in runs:
        asked = urlencode({"run": run, "name": NAME})
        with urlopen(f"{plugin}/tensor?{asked}") as answer:
            found.append(np.frombuffer(answer.read(), np.float32).tolist())
    return found


@pytest.mark.slow
def test_codes_appear_and_change_while_a_run_is_watched(tmp_path: Path) -> None:
    run = RunFolder(Folder.at(tmp_path / "runs/vae"))
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with RunLog(run, 0) as log, watching(str(tmp_path / "runs")) as address:
        log.scalars({"loss/total": 1.0}, 10)
        log.flush()
        deadline = time.monotonic() + TIMEOUT
        while not json.load(urlopen(f"{address}data/runs")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert codes(address) == []
        for value in (1.0, 2.0):
            shown = np.full((2, 3), value)
            write_projector(run.folder, shown, images, ["a", "b"], (), np.zeros((2, 0)))
            assert codes(address) == [[value] * 6]


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        opened.set_default_timeout(1000 * TIMEOUT)
        yield opened
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")
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
        with RunLog(run, 300) as log:
            log.scalars({"loss/kl": 0.5}, 400)
        open_tab("timeseries")
        deadline = time.monotonic() + TIMEOUT
        while "loss/kl" not in page.request.get(f"{url}data/plugin/scalars/tags").json()["vae"]:
            assert time.monotonic() < deadline
            time.sleep(0.5)


@pytest.mark.slow
def test_a_local_storage_is_read_where_it_is(tmp_path: Path) -> None:
    from urllib.request import urlopen

    write_sweep(Folder.at(tmp_path / "sweep"))
    with watching(str(tmp_path)) as url:
        deadline = time.monotonic() + TIMEOUT
        while b"sweep/trials/002" not in urlopen(f"{url}data/runs").read():
            assert time.monotonic() < deadline
            time.sleep(0.2)


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
