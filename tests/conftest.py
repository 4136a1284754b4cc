"""One Ray and one object store for the whole session: to start Ray takes longer than most tests.

Ray is started as the head of a cluster would be, with a token and the Jobs API on loopback, so that
tests can submit jobs to it and add nodes.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from failing_store import FailingStore, failing_store

from raygen.core.storage import Folder

# Ray reads these when it is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
START_SECONDS = 120
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
# Drawing in software, without a window, a graphics card or a sandbox (which root has none of).
SWITCHES = [
    *("--no-sandbox", "--disable-background-networking", "--ignore-gpu-blocklist"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
PAGE_SECONDS = 120
"""Time for a page to load; only for the case that something hangs."""
CPUS = 2


@dataclass(frozen=True)
class Head:
    """Attributes: address: of Ray; jobs: URL of the Jobs API; home: of the head node's user."""

    address: str
    jobs: str
    home: Path


def search_path() -> str:
    """PATH with this environment's programs first, `python` and `ray` among them."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@contextmanager
def ray_process(*arguments: str, home: str = "") -> Iterator[None]:
    """`ray start`, until the end of the context."""
    changes = {"HOME": home} if home else {}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            ["ray", "start", "--block", f"--num-cpus={CPUS}", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            # Until a job that is stopped is killed; as in cluster.yaml.
            env=os.environ | {"PATH": search_path(), "RAY_JOB_STOP_WAIT_TIME_S": "120"} | changes,
            start_new_session=True,
        )

        def text() -> str:
            log.seek(0)
            return log.read()

        try:
            deadline = time.monotonic() + START_SECONDS
            while "Ray runtime started" not in text():
                assert process.poll() is None, text()
                assert time.monotonic() < deadline, text()
                time.sleep(0.2)
            yield
        finally:
            # Ends Ray's other processes, too; for actors that are left it would wait half a minute.
            process.terminate()
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def ray_head(s3_server: str) -> Iterator[Head]:
    """A Ray cluster of one node with two CPUs, whose jobs know the S3 server."""
    from helpers import free_port

    port, jobs = free_port(), free_port()
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as place,
        ray_process(
            *("--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={place}"),
            *(f"--dashboard-port={jobs}", f"--dashboard-agent-listen-port={free_port()}"),
            f"--ray-client-server-port={free_port()}",
            home=place,
        ),
    ):
        yield Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{jobs}", Path(place))


@contextmanager
def add_node(head: Head) -> Iterator[None]:
    """Another node of the cluster, with two CPUs, on this machine."""
    from helpers import free_port

    with ray_process(f"--address={head.address}", f"--dashboard-agent-listen-port={free_port()}"):
        yield
    deadline = time.monotonic() + START_SECONDS
    # Until Ray knows, it may place something there.
    while nodes_alive(head) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def nodes_alive(head: Head) -> int:
    from ray.util.state import list_nodes

    return sum(node.state == "ALIVE" for node in list_nodes(head.address))


@pytest.fixture(scope="session")
def ray_session(ray_head: Head) -> Iterator[str]:
    """This process on the cluster.

    Yields: its address, for jobs that are started as processes of their own.
    """
    import ray

    from raygen.cluster import connection as cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_head.address)
        with cluster.connected():
            connection = ray.get_runtime_context().get_job_id()
            yield ray_head.address
            # A test that disconnects would leave later tests to a connection that Ray makes by
            # itself, with the workers' logs on the terminal.
            assert ray.get_runtime_context().get_job_id() == connection


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server on this machine, which URIs without options lead to as well.

    Yields: the options that lead a URI to it.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield f"scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    server.stop()


@pytest.fixture
def s3(s3_server: str) -> Folder:
    """An empty folder on the S3 server, of the test's own."""
    return Folder.at(f"s3://bucket/größe {uuid.uuid4().hex}?{s3_server}")


@pytest.fixture
def store(s3_server: str) -> Iterator[FailingStore]:
    """A proxy before the S3 server that fails as it is told to."""
    with failing_store(s3_server) as opened:
        yield opened


@pytest.fixture
def wait_for_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint is put off because this machine is busy, so that tests know which there are."""
    monkeypatch.setattr("raygen.training.saves.SOON_SECONDS", 600.0)


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a browser; skips the test where none is installed."""
    if BROWSER is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        opened.set_default_timeout(1000 * PAGE_SECONDS)
        yield opened
        browser.close()
