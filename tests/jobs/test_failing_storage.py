"""Jobs whose object store fails in three of ten requests end as they would without failures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from failing_store import FAILURES, SHORT, failing_store
from helpers import run_script
from PIL import Image

from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.evaluation.record import Evaluation
from raygen.training import checkpoint_index
from raygen.training.run import RunFolder
from raygen.training.summary import read_summary
from raygen.tuning.records import SweepFolder

pytestmark = pytest.mark.slow

TRAINING = (
    *("--width", "0.125", "--batch-size", "16", "--num-workers", "1", "--steps", "6"),
    *("--checkpoint-images", "32", "--sample-images", "64", "--log-images", "16"),
)


SEARCH = (
    *("--width", "0.06", "--batch-size", "8", "--steps", "2", "--sample-count", "2"),
    *("--trials", "2", "--scheduler", "none", "--confirm", "0"),
    *("--set", "lr_g=choice(1e-4,1e-3)", "--space", "none", "--metric", "quality/swd"),
)


IMAGES = 1_000


def run_jobs(storage: Folder, images: Path) -> None:
    """Prepare a dataset, train on it, evaluate that, search, and compare."""
    data = storage.join("data").uri
    source = ("anime", "--images", images, "--size", "32")
    assert run_script("prepare", *source, "--num-workers", "1", "--out", data) == 0
    options = ("--storage", storage.uri, "--run-name", "run", "--data", data)
    assert run_script("train", *options, *TRAINING) == 0
    run = storage.join("run").uri
    assert run_script("evaluate", run, "--data", data, "--samples", "50") == 0
    place = ("--storage", storage.uri, "--run-name", "sweep", "--data", data)
    assert run_script("tune", "dcgan-celeba", *place, *SEARCH) == 0
    contenders = (run, storage.join("sweep", "trials", "000").uri)
    page = ("--data", data, "--samples", "50", "--out", storage.join("page").uri)
    assert run_script("compare", *contenders, *page) == 0


def results(storage: Folder) -> dict[str, Any]:
    """What the jobs leave: the dataset, the networks, figures, and the names of all else."""
    latest = RunFolder(storage.join("run")).latest_checkpoint()
    assert latest
    files = checkpoint_index.read_state(latest)["files"]
    networks = {name: files[name]["sha256"] for name in files}
    samples = storage.join("run", "samples").names()
    trials = SweepFolder(storage.join("sweep")).read_trials()
    return {
        "dataset": Manifest.load(storage.join("data")).fingerprint,
        "networks": networks,
        "samples": samples,
        "figures": Evaluation.read(storage.join("run")).metrics,
        "trials": [(t.number, t.status, [r.objective for r in t.reports]) for t in trials],
        "best": storage.join("sweep").read_json("best.json")["lr_g"],
        "compared": storage.join("page").read_json("comparison.json")["metrics"],
        # What cannot be drawn is told there instead.
        "drawn": storage.join("page").read_bytes("index.html").count(b"<img"),
    }


def test_jobs_end_the_same_whether_or_not_the_store_fails(
    ray_session: str,
    s3: Folder,
    s3_server: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        # Without attributes, which an extractor would be trained on for long.
        pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    run_jobs(s3.join("whole"), tmp_path)
    with failing_store(s3_server) as store:
        store.share, store.failures, store.delay = 0.3, (*FAILURES, SHORT), 0.01
        run_jobs(Folder.at(store.uri(s3.join("failing").uri)), tmp_path)
        assert set(store.failed) == {*FAILURES, SHORT}
        assert sum(store.failed.values()) > 100
    retries = read_summary(s3.join("failing", "run")).retries
    assert retries.requests
    assert f"storage:     {retries}" in capsys.readouterr().out
    found = results(s3.join("failing"))
    assert found == results(s3.join("whole"))
    assert [status for _, status, _ in found["trials"]] == ["finished"] * 2
    assert found["drawn"] > 4
