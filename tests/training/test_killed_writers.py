"""Processes that are killed while they save: the last complete checkpoint is left, and is whole."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import ROOT, build_any, small_config

from raygen.core.storage import Folder
from raygen.models.base import Model
from raygen.training import checkpoint, checkpoint_index

pytestmark = pytest.mark.faults

KILLS = 25
"""For each kind of storage."""
LONGEST_SECONDS = 0.3
"""The longest time from a word of the process to its end; it saves several times meanwhile."""
NURSERY = """
import os, sys
sys.path[:0] = sys.argv[1:]
from helpers import build_any, save_checkpoint, small_config
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.training import checkpoint_index
from raygen.training.checkpoint_index import Score

def say(text):
    # One write, which no kill cuts in two; `print` makes several where nothing is buffered.
    os.write(1, f"{text}\\n".encode())

model = build_any(small_config("dcgan-celeba"))
for line in sys.stdin:
    child = os.fork()
    if child:
        say(f"child {child}")
        os.waitpid(child, 0)
        say("ended")
        continue
    folder = Folder.at(line.rstrip("\\n"))
    checkpoint_index.clean(folder)
    latest = checkpoint_index.latest(folder)
    step = checkpoint_index.step_of(latest.name) if latest else 0
    while True:
        step += 1
        for network in model.networks.values():
            for weights in network.parameters():
                weights.data.fill_(step)
        # Every third is the best so far, and so is kept longer.
        score = Score(-step if step % 3 == 0 else 0.0, "quality/swd", 16)
        save_checkpoint(folder, model, Position(step, 8 * step), {}, 2, score)
        say(f"saved {step}")
"""
Nursery = subprocess.Popen[str]


@pytest.fixture(scope="module")
def nursery(s3_server: str) -> Iterator[Nursery]:
    """A process that has imported everything, and forks a child for each folder that it is told."""
    command = [sys.executable, "-c", NURSERY, str(ROOT), str(ROOT / "tests")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def say(nursery: Nursery, text: str) -> None:
    assert nursery.stdin
    print(text, file=nursery.stdin, flush=True)


def words(nursery: Nursery) -> list[str]:
    assert nursery.stdout
    return nursery.stdout.readline().split()


def save_until_killed(nursery: Nursery, uri: str, chance: random.Random) -> int:
    """Returns: the last step that a child told to be saved; 0 if it told none."""
    say(nursery, uri)
    word, child = words(nursery)
    assert word == "child"
    saved = 0
    for _ in range(chance.randrange(3)):
        saved = int(words(nursery)[1])
    time.sleep(chance.uniform(0, LONGEST_SECONDS))
    os.kill(int(child), signal.SIGKILL)
    # What it said before it ended is still to be read.
    while (said := words(nursery))[0] == "saved":
        saved = int(said[1])
    assert said == ["ended"]
    return saved


def check_whole(saved: Folder, model: Model) -> None:
    """The checkpoint loads, and all of its weights are of its own step."""
    step = checkpoint_index.step_of(saved.name)
    assert checkpoint.load(saved, model).global_step == step
    for network in model.networks.values():
        assert all(torch.all(weights == step) for weights in network.parameters())


@pytest.mark.parametrize("storage", ["local", "object store"])
def test_a_kill_at_any_instant_leaves_the_last_complete_checkpoint(
    nursery: Nursery, tmp_path: Path, s3: Folder, storage: str
) -> None:
    folder = Folder.at(tmp_path / "checkpoints") if storage == "local" else s3.join("checkpoints")
    model, chance = build_any(small_config("dcgan-celeba")), random.Random(0)
    before, cut_off = 0, 0
    for _ in range(KILLS):
        saved = max(before, save_until_killed(nursery, folder.uri, chance))
        latest = checkpoint_index.latest(folder)
        step = checkpoint_index.step_of(latest.name) if latest else 0
        # Complete already, but not told yet.
        assert saved <= step <= saved + 1
        whole = checkpoint_index.complete(folder)
        for name in whole:
            check_whole(folder.join(name), model)
        # One more while old ones are deleted, and the best one besides.
        assert min(step, 2) <= len(whole) <= 4
        cut_off += len(checkpoint_index.clean(folder))
        assert folder.names() == whole
        before = step
    assert before > KILLS / 2
    assert cut_off > 3
