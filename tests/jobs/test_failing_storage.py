"""Jobs whose object store fails in three of ten requests end as they would without failures."""

import pytest
from failing_store import FAILURES, SHORT, failing_store
from helpers import run_script

from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.training import checkpoint_index
from raygen.training.run import RunFolder
from raygen.training.summary import read_summary

pytestmark = pytest.mark.slow

TRAINING = (
    *("--width", "0.125", "--batch-size", "16", "--num-workers", "1", "--steps", "6"),
    *("--checkpoint-images", "32", "--sample-images", "64", "--log-images", "16"),
)


def run_jobs(storage: Folder) -> None:
    """Prepare a dataset, and train on it."""
    data = storage.join("data").uri
    faces = ("drawn", "--size", "32", "--count", "120", "--num-workers", "1", "--out", data)
    assert run_script("prepare", *faces) == 0
    options = ("--storage", storage.uri, "--run-name", "run", "--data", data)
    assert run_script("train", *options, *TRAINING) == 0


def results(storage: Folder) -> tuple[str, dict[str, str], list[str]]:
    """What the jobs leave: the dataset, the networks, and the names of all else."""
    latest = RunFolder(storage.join("run")).latest_checkpoint()
    assert latest
    files = checkpoint_index.read_state(latest)["files"]
    networks = {name: files[name]["sha256"] for name in files}
    samples = storage.join("run", "samples").names()
    return Manifest.load(storage.join("data")).fingerprint, networks, samples


def test_jobs_end_the_same_whether_or_not_the_store_fails(
    ray_session: str, s3: Folder, s3_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_jobs(s3.join("whole"))
    with failing_store(s3_server) as store:
        store.share, store.failures, store.delay = 0.3, (*FAILURES, SHORT), 0.01
        run_jobs(Folder.at(store.uri(s3.join("failing").uri)))
        assert set(store.failed) == {*FAILURES, SHORT}
        assert sum(store.failed.values()) > 100
    retries = read_summary(s3.join("failing", "run")).retries
    assert retries.requests
    assert f"storage:     {retries}" in capsys.readouterr().out
    assert results(s3.join("failing")) == results(s3.join("whole"))
