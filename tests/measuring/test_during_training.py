"""Evaluations beside a training: which checkpoints, once each, and what failures do."""

import time
from pathlib import Path

import pytest
import ray
from helpers import fails, run_script, save_run, write_dataset

from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.evaluation.record import read_evaluations
from raygen.inference.model import open_run
from raygen.measuring.during_training import Evaluations
from raygen.training.session import Session

PRESET = "dcgan-celeba"
SMALL = ("--width", "0.05", "--batch-size", "16", "--latent-size", "8", "--sample-count", "2")
PATIENCE = 120


def dataset(place: Path, validation: int = 60) -> Path:
    # Whatever reads the test split fails: its files are no shards.
    manifest, _ = write_dataset(place, [64], [validation], 32, attributes=2, test=[60])
    [test] = manifest.splits["test"]
    (place / test.name).write_bytes(b"x" * test.bytes)
    return place


def evaluated(run: Path) -> list[int]:
    return [found.step for found in read_evaluations(Folder.at(run))]


@pytest.mark.slow
def test_checkpoints_are_evaluated_while_a_run_trains_and_when_it_goes_on(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, storage = dataset(tmp_path / "data"), tmp_path / "runs"
    # With two workers, all of the CPUs are taken.
    there = ("--data", data, "--storage", storage, "--run-name", "run", "--num-workers", "2")
    options = (*there, *SMALL, "--reader", "direct", "--evaluate-images", "48")
    assert run_script("train", PRESET, *options, "--steps", "7") == 0
    output = capsys.readouterr().out
    assert "evaluated step 7: FD (domain)" in output
    run = storage / "run"
    [*earlier, last] = evaluated(run)
    # 48, 96 and 112 images; those that others overtook are left out.
    assert last == 7
    assert set(earlier) <= {3, 6}
    found = read_evaluations(Folder.at(run))[-1]
    assert (found.images_seen, found.evaluation.about["split"]) == (112, "validation")
    assert found.evaluation.about["samples"] == 60
    figures = found.evaluation.metrics["random-vgg/fd"]
    assert figures.floor < figures.untrained
    assert len(list((run / "evaluation").glob("events.out.tfevents.*"))) == len(earlier) + 1

    assert run_script("train", PRESET, *options, "--steps", "7") == 0
    assert evaluated(run) == [*earlier, last]
    assert run_script("train", PRESET, *options, "--steps", "8") == 0
    assert evaluated(run) == [*earlier, 7, 8]
    assert run_script("train", PRESET, *options, "--steps", "3", "--restart") == 0
    assert evaluated(run) == [3]


def session_of(run: Path, data: Path, steps: int) -> Session:
    opened, config = open_run(str(run))
    config = config.updated({"evaluate_images": 16, "steps": steps, "batch_size": 8}, "test")
    manifest = Manifest.load(Folder.at(data))
    return Session(config, opened, Folder.at(data), manifest, 1, False)


def wait(evaluations: Evaluations) -> list[str]:
    """Wait until nothing is left to evaluate. Returns: what was told."""
    deadline = time.monotonic() + PATIENCE
    while evaluations.unfinished:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return evaluations.news()


@pytest.mark.slow
def test_a_killed_evaluation_is_told_and_made_up_for_once(ray_session: str, tmp_path: Path) -> None:
    data, run = dataset(tmp_path / "data"), tmp_path / "run"
    save_run(run, PRESET, data=str(data))
    session = session_of(run, data, steps=2)
    with Evaluations(session) as evaluations:
        evaluations.begin()
        deadline = time.monotonic() + PATIENCE
        while evaluations._aside is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        ray.kill(evaluations._aside._actor)
        [told] = wait(evaluations)
        assert told.startswith("step 2 is not evaluated: ")
        assert "\n" not in told
        # Whatever was told of it, a checkpoint that is gone harms nobody.
        evaluations.saved(1)
        [told] = wait(evaluations)
        assert "step 1 is not evaluated: its checkpoint was deleted meanwhile" in told
    assert evaluated(run) == []
    with Evaluations(session) as evaluations:
        evaluations.begin()
        # A worker group that starts again may save it once more.
        evaluations.saved(2)
        [told] = wait(evaluations)
        assert told.startswith("evaluated step 2: ")
    assert evaluated(run) == [2]
    with Evaluations(session) as evaluations:
        evaluations.begin()
        assert evaluations.unfinished == 0
    assert evaluated(run) == [2]


@pytest.mark.slow
def test_what_is_unfinished_is_called_off_at_the_end(ray_session: str, tmp_path: Path) -> None:
    data, run = dataset(tmp_path / "data"), tmp_path / "run"
    save_run(run, PRESET, data=str(data))
    with Evaluations(session_of(run, data, steps=2)) as evaluations:
        evaluations.begin()
        thread = evaluations._thread
    assert thread
    assert not thread.is_alive()
    assert evaluations.news() == []
    assert evaluated(run) == []


def test_too_few_validation_images_are_refused(tmp_path: Path) -> None:
    data, run = dataset(tmp_path / "data", validation=20), tmp_path / "run"
    save_run(run, PRESET, data=str(data))
    with pytest.raises(UserError, match="has 20 validation images, but 50 at least"):
        Evaluations(session_of(run, data, steps=2))


def test_a_negative_interval_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "train", PRESET, "--evaluate-images", "-1")
    assert "--evaluate-images -1: must be 0 or more" in message
