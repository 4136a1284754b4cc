"""A run that is killed and started again sees the images that an uninterrupted one would."""

import os
import random
import re
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_processes, tiny_config, write_dataset
from safetensors.torch import load_file
from torch.multiprocessing.spawn import ProcessExitedException

from raygen.core.history import read_history
from raygen.core.status import Callbacks
from raygen.core.storage import Folder
from raygen.data.batch import Batch
from raygen.data.shards.manifest import Manifest
from raygen.data.splits import TRAIN
from raygen.data.stream import order as plan
from raygen.models.base import Metrics, Step
from raygen.models.dcgan import DCGAN
from raygen.training.run import RunFolder
from raygen.training.run_session import run_session
from raygen.training.session import Session
from raygen.training.workers import Workers

pytestmark = pytest.mark.usefixtures("wait_for_checkpoints")

IMAGES = (13, 7, 11, 6)
BATCH = 8
STEPS = 18
"""Nearly four epochs of 37 images."""
CHECKPOINT_STEPS = 4


def learn(rank: int, place: str, attempt: int, kill_at: int) -> None:
    """A run's session on this worker of two.

    It writes down, step by step, which images the networks were given; the second worker is
    killed in a step.
    """
    plan.CHUNK_BYTES = 3 * BATCH * 32 * 32 * 3
    folder = Folder.at(place).join("data")
    pixels = np.load(Path(place, "pixels.npy")).reshape(sum(IMAGES), -1)
    row_of = {image.tobytes(): row for row, image in enumerate(pixels)}
    update = DCGAN.update

    def watched(self: DCGAN, batch: Batch, step: Step) -> Metrics:
        given = ((batch.images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        rows = [row_of[image.tobytes()] for image in given.contiguous().numpy()]
        with Path(place, f"seen-{attempt}-{rank}").open("a") as file:
            file.write(f"{step.number} {rows}\n")
        if (rank, step.number) == (1, kill_at):
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, batch, step)

    DCGAN.update = watched  # type: ignore[method-assign]
    config = tiny_config(
        steps=STEPS, batch_size=BATCH, checkpoint_images=CHECKPOINT_STEPS * BATCH, log_images=BATCH
    )
    run = RunFolder.at(place, "run")
    session = Session(config, run, folder, Manifest.load(folder), 2, False)
    try:
        assert run_session(session, Workers(rank, 2), Callbacks()).finished
    except RuntimeError:
        if kill_at < 0:
            raise
        # The kill is to be found, not this worker's loss of the other; the finder ends this one.
        signal.pause()


def learn_exactly(rank: int, place: str, workers: int, kill_at: int) -> None:
    """A session of a run that computes exactly; its last worker is killed in a step."""
    update = DCGAN.update

    def watched(self: DCGAN, batch: Batch, step: Step) -> Metrics:
        if (rank, step.number) == (workers - 1, kill_at):
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, batch, step)

    DCGAN.update = watched  # type: ignore[method-assign]
    config = tiny_config(steps=200, batch_size=BATCH, checkpoint_images=30 * BATCH, width=0.05)
    config = replace(config, deterministic=True, sample_images=10**6, quality_samples=16)
    folder, run = Folder.at(place).join("data"), RunFolder.at(place, "run")
    session = Session(config, run, folder, Manifest.load(folder), workers, False)
    try:
        assert run_session(session, Workers(rank, workers), Callbacks()).finished
    except RuntimeError:
        if kill_at < 0:
            raise
        # As in `learn`.
        signal.pause()


def learnt_exactly(place: Path, workers: int, kills: Sequence[int]) -> Path:
    """Train with kills in these steps. Returns: the last checkpoint."""
    write_dataset(place / "data", IMAGES, (4,), size=32)
    for kill_at in kills:
        with pytest.raises(ProcessExitedException, match="SIGKILL"):
            run_processes(workers, learn_exactly, str(place), workers, kill_at)
    run_processes(workers, learn_exactly, str(place), workers, -1)
    return place / "run/checkpoints/step-00000200"


@pytest.mark.slow
def test_weights_are_to_the_bit_those_of_a_run_that_was_never_killed(tmp_path: Path) -> None:
    final: list[dict[str, bytes]] = []
    for name, kills in (("whole", []), ("again", []), ("killed", [47, 95, 163])):
        files = learnt_exactly(tmp_path / name, 1, kills).glob("*.safetensors")
        final.append({file.name: file.read_bytes() for file in files})
    assert len(final[0]) > 2
    assert final[0] == final[1] == final[2]


@pytest.mark.slow
def test_the_weights_of_two_workers_are_those_of_a_run_that_was_never_killed(
    tmp_path: Path,
) -> None:
    whole = learnt_exactly(tmp_path / "whole", 2, [])
    killed = learnt_exactly(tmp_path / "killed", 2, [95])
    names = [file.name for file in whole.glob("*.safetensors")]
    assert len(names) > 2
    for name in names:
        expected, found = load_file(whole / name), load_file(killed / name)
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def seen(place: Path, attempt: int) -> dict[int, list[int]]:
    """The rows that both workers together were given: step -> rows."""
    steps: dict[int, list[int]] = {}
    for rank in range(2):
        for line in (place / f"seen-{attempt}-{rank}").read_text().splitlines():
            step, *rows = map(int, re.findall(r"\d+", line))
            steps.setdefault(step, []).extend(rows)
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("chance", [1, 2])
def test_each_image_is_seen_as_often_as_without_a_kill(tmp_path: Path, chance: int) -> None:
    places = [tmp_path / "whole", tmp_path / "killed"]
    for place in places:
        _, pixels = write_dataset(place / "data", IMAGES, (4,), size=32)
        np.save(place / "pixels.npy", pixels[TRAIN])
    run_processes(2, learn, str(places[0]), 0, -1)
    whole = seen(places[0], 0)
    assert sorted(whole) == list(range(STEPS))

    kill_at = random.Random(chance).randrange(CHECKPOINT_STEPS + 1, STEPS)
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        run_processes(2, learn, str(places[1]), 0, kill_at)
    run_processes(2, learn, str(places[1]), 1, -1)
    before, after = seen(places[1], 0), seen(places[1], 1)
    resumed = min(after)
    # What was learnt after the last checkpoint is gone, and so are the images of those steps.
    assert kill_at - CHECKPOINT_STEPS <= resumed <= kill_at
    history = {step: rows for step, rows in before.items() if step < resumed} | after
    assert history == whole
    counts = Counter(row for rows in history.values() for row in rows)
    epochs, more = divmod(STEPS * BATCH, sum(IMAGES))
    assert sum(counts.values()) == STEPS * BATCH
    assert set(counts) == set(range(sum(IMAGES)))
    assert set(counts.values()) <= {epochs, epochs + 1}
    assert sum(count == epochs + 1 for count in counts.values()) == more
    # It is logged after each step: once, whether it was done once or twice.
    told = [read_history(Folder.at(place / "run")) for place in places]
    assert [m.images_seen for m in told[1]] == [m.images_seen for m in told[0]]
    assert {m.images_seen for m in told[1]} == {BATCH * step for step in range(1, STEPS + 1)}
    assert all(m.step * BATCH == m.images_seen for m in told[1])
