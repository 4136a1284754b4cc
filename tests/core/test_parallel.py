"""Calls for many items at once: in order, bounded, and not serial where a storage is slow."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from failing_store import FailingStore
from helpers import write_checkpoint

from raygen.comparison.index import read_index
from raygen.comparison.runs import list_runs
from raygen.core import marker
from raygen.core.parallel import AT_ONCE, for_each, parallel
from raygen.core.storage import Folder
from raygen.evaluation.written import write_files
from raygen.training import checkpoint_index
from raygen.training.run import OWN
from raygen.tuning.records import SweepFolder, Trial

COUNT = 6


def test_results_come_in_order_and_a_bounded_number_of_them_ahead() -> None:
    begun, taken, most = 0, 0, 0

    def call(number: int) -> int:
        nonlocal begun, most
        begun += 1
        most = max(most, begun - taken)
        time.sleep(0.001 * (number % 3))
        return number * number

    for number, result in enumerate(parallel(call, range(100))):
        assert result == number * number
        taken += 1
    assert (begun, taken) == (100, 100)
    assert 1 < most <= AT_ONCE + 1
    assert list(parallel(call, [])) == []


def test_the_first_error_in_order_is_raised_and_nothing_more_begins() -> None:
    begun: list[int] = []
    late = threading.Event()

    def call(number: int) -> None:
        begun.append(number)
        if number == 3:
            late.wait(10)
            raise ValueError("third")
        if number == 5:
            late.set()
            raise KeyError("fifth")

    with pytest.raises(ValueError, match="third"):
        for_each(call, range(1_000))
    assert len(begun) <= 3 + AT_ONCE + 1


@pytest.fixture
def slow(store: FailingStore, s3: Folder) -> Folder:
    """A folder in a store that answers every request only after a while."""
    return Folder.at(store.uri(s3.uri))


def in_flight(store: FailingStore, job: Callable[[], object]) -> int:
    """How many requests a job has in flight at most. Each takes long enough to meet others."""
    store.delay = 0.2
    store.forget()
    job()
    store.delay = 0.0
    return store.most_in_flight


def test_checkpoints_are_listed_at_once(store: FailingStore, slow: Folder, s3: Folder) -> None:
    for step in range(1, COUNT + 1):
        write_checkpoint(s3, step, score=float(step))
    checkpoints = slow.join("checkpoints")
    assert in_flight(store, lambda: checkpoint_index.complete(checkpoints)) >= COUNT / 2
    assert in_flight(store, lambda: checkpoint_index.best(checkpoints)) >= COUNT / 2
    assert checkpoint_index.best_step(checkpoints) == 1


def test_what_a_run_left_is_deleted_at_once(store: FailingStore, slow: Folder, s3: Folder) -> None:
    names = [f"events.out.tfevents.{number}" for number in range(COUNT)]
    for name in names:
        s3.write_bytes(name, b"")
    assert in_flight(store, lambda: marker.delete_contents(slow, "run", OWN)) >= COUNT / 2
    assert marker.contents(s3) == []


def test_pictures_are_written_at_once(store: FailingStore, slow: Folder, s3: Folder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
    batches = [(pixels[:4], np.arange(4)), (pixels[4:], np.arange(2))]
    assert in_flight(store, lambda: write_files(slow, "sample", batches, 2)) >= COUNT / 2
    assert s3.names() == [f"sample-{number:02d}.png" for number in range(COUNT)]


def test_runs_and_trials_are_read_at_once(
    store: FailingStore, slow: Folder, s3: Folder, tmp_path: Path
) -> None:
    sweep = SweepFolder(s3.join("sweep"))
    for number in range(COUNT):
        marker.write(s3.join(f"run-{number}"), "run")
        sweep.write_trial(Trial(number, {"lr": 0.1}))
    marker.write(sweep.folder, "sweep")
    slow_sweep = SweepFolder(slow.join("sweep"))
    assert in_flight(store, slow_sweep.read_trials) >= COUNT / 2
    assert [t.number for t in slow_sweep.read_trials()] == list(range(COUNT))
    for job in (list_runs, read_index):
        assert in_flight(store, lambda job=job: job(slow.uri)) >= COUNT / 2  # type: ignore[misc]
