"""Numbers of workers that change: the run learns what it would have learnt without that."""

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    fixed_statistics,
    run_processes,
    tiny_config,
    write_dataset,
)

from raygen.cluster import connection as cluster
from raygen.config.run import RunConfig
from raygen.core.history import Measurement, read_history
from raygen.core.status import Callbacks, Status
from raygen.core.storage import Folder
from raygen.data.batch import Batch
from raygen.data.shards.manifest import Manifest
from raygen.data.splits import TRAIN
from raygen.models import build_model
from raygen.models.base import Metrics, Model, Step
from raygen.training import run_session
from raygen.training.elastic import SAVE_SECONDS, SizesPolicy
from raygen.training.placement import Placement
from raygen.training.run import RunFolder
from raygen.training.session import Session
from raygen.training.workers import Workers

IMAGES = (13, 7, 11, 6)
BATCH, STEPS = 8, 10
SIZES = ((1, 3), (2, 5), (4, 8), (1, STEPS))
"""Numbers of workers, and the step to which each trains."""


def learn(rank: int, place: str, workers: int, steps: int) -> None:
    """One worker's part of a run up to a step, with fixed statistics.

    Workers normalise by their own images' statistics, which are of fewer images where there are
    more workers; everything else is the same for any number of them.
    """
    pixels = np.load(Path(place, "pixels.npy")).reshape(sum(IMAGES), -1)
    row_of = {image.tobytes(): row for row, image in enumerate(pixels)}

    def build(config: RunConfig) -> Model:
        model = build_model(config)
        fixed_statistics(model, (0.01, 0.02))
        update: Callable[[Batch, Step], Metrics] = model.update

        def watched(batch: Batch, step: Step) -> Metrics:
            given = ((batch.images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
            rows = [row_of[image.tobytes()] for image in given.contiguous().numpy()]
            with Path(place, f"seen-{rank}").open("a") as file:
                file.write(f"{step.number} {' '.join(map(str, rows))}\n")
            # A measurement has switched the networks back to training.
            for network in model.networks.values():
                for module in network.modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.eval()
            return update(batch, step)

        setattr(model, "update", watched)  # noqa: B010
        return model

    run_session.build_model = build  # type: ignore[attr-defined]
    config = tiny_config(steps=steps, batch_size=BATCH, log_images=BATCH, sample_images=10**6)
    folder, run = Folder.at(place).join("data"), RunFolder.at(place, "run")
    session = Session(config, run, folder, Manifest.load(folder), workers, False)
    assert run_session.run_session(session, Workers(rank, workers), Callbacks()).finished


def learnt(
    place: Path, sizes: tuple[tuple[int, int], ...]
) -> tuple[list[Measurement], Counter[str]]:
    """Train with changing numbers of workers. Returns: the losses, and what each step has seen."""
    _, pixels = write_dataset(place / "data", IMAGES, (4,), size=32)
    np.save(place / "pixels.npy", pixels[TRAIN])
    for workers, steps in sizes:
        run_processes(workers, learn, str(place), workers, steps)
    seen: Counter[str] = Counter()
    for file in place.glob("seen-*"):
        for line in file.read_text().splitlines():
            step, *rows = line.split()
            seen.update(f"{step}: {row}" for row in rows)
    return read_history(Folder.at(place / "run")), seen


@pytest.mark.slow
@pytest.mark.numeric
def test_losses_are_those_of_a_run_whose_workers_never_changed(tmp_path: Path) -> None:
    whole, seen_whole = learnt(tmp_path / "whole", ((1, STEPS),))
    changed, seen = learnt(tmp_path / "changed", SIZES)
    assert seen == seen_whole
    assert sum(seen.values()) == BATCH * STEPS
    steps = {m.images_seen: m.values for m in changed if "loss/generator" in m.values}
    assert sorted(steps) == [BATCH * (k + 1) for k in range(STEPS)]
    for m in whole:
        for name, value in m.values.items():
            if name.startswith("loss/"):
                assert steps[m.images_seen][name] == pytest.approx(value, rel=1e-4), (name, m)


class Actor:
    """An actor's methods, called at once. Its answers are those of a `Status`."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._status, name))


class Answered:
    """A `Poll` whose answers are there at once."""

    def ask(self, method: Any, *arguments: Any) -> Any:
        return method.remote(*arguments)


def test_a_run_is_saved_before_its_workers_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"CPU": 4.0, "GPU": 2.0}]
    now = [0.0]
    monkeypatch.setattr(cluster, "lasting_nodes", lambda: nodes)
    monkeypatch.setattr(cluster, "Poll", Answered)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    scaling: Any = SimpleNamespace(
        _resources_per_worker_not_none={"CPU": 1.0, "GPU": 1.0},
        max_workers=8,
        min_workers=2,
        elastic_resize_monitor_interval_s=60.0,
        use_tpu=False,
    )
    status = Status()
    policy = SizesPolicy(scaling, Placement(8, True, 1.0, (2, 4, 8)), "ray-data", Actor(status))
    reserved = {"a": {"CPU": 100.0, "GPU": 100.0}}
    ray: Any = policy
    monkeypatch.setattr(ray, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(ray, "_get_reserved_resources", lambda: reserved)

    def running(count: int) -> Any:
        state = SimpleNamespace(start_time=-math.inf, num_workers=count)
        return policy.make_decision_for_running_worker_group(state, None)

    started: Any = policy.make_decision_for_non_running_worker_group()
    assert started.num_workers == 2
    nodes *= 3
    nodes[0] = {"CPU": 4.0, "GPU": 1.0}
    # Five GPUs: a batch can be split over four workers.
    for saved in (False, False, True):
        if saved:
            status.waiting()
        decision = running(2)
        assert status.is_restarting()
        assert (getattr(decision, "num_workers", None) == 4) == saved
    status.started(0, 7, True, 4)
    [event] = status.state().events
    assert (getattr(event, "workers", 0), getattr(event, "reason", "")) == (
        4,
        "more machines are there",
    )
    assert not status.is_restarting()
    # It does not look again at once, and nothing is done where nothing has changed.
    nodes *= 4
    assert not hasattr(running(4), "num_workers")
    assert not status.is_restarting()
    now[0] = 61.0
    running(4)
    assert status.is_restarting()
    # Workers that cannot save are not waited for.
    now[0] += SAVE_SECONDS + 1
    assert running(4).num_workers == 8
    # What was decided for workers that failed meanwhile is decided anew.
    now[0] += 61
    running(4)
    failed: Any = policy.make_decision_for_non_running_worker_group()
    assert failed.num_workers == 8
    now[0] += 61
    running(8)
    assert not hasattr(running(8), "num_workers")
