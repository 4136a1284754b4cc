"""The loop: what happens when, stopping, and going on."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import random_images, run_processes, tiny_config, write_dataset
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from raygen.config.run import RunConfig
from raygen.core.errors import UserError
from raygen.core.status import Callbacks, Outcome, Position, Progress
from raygen.core.storage import Folder
from raygen.data.batch import RawBatch
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import HeldOut
from raygen.data.splits import VALIDATION
from raygen.models import build_model
from raygen.models.base import Model
from raygen.tensorboard.run_log import RunLog
from raygen.training import checkpoint, checkpoint_index, ending, saves, trainer
from raygen.training.finite import NotFinite
from raygen.training.meters import Stopwatch
from raygen.training.run import RunFolder
from raygen.training.session import Session
from raygen.training.trainer import Trainer
from raygen.training.validation import Quality, Validation
from raygen.training.workers import Workers

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("wait_for_checkpoints")]

CPU = torch.device("cpu")

FD_HERE = "quality/fd_random-vgg"


def feed(first: int, stop: int = 1_000, rank: int = 0, world_size: int = 1) -> Iterator[RawBatch]:
    share = 8 // world_size
    for k in range(first, stop):
        images = random_images(8, seed=k)[rank * share : (rank + 1) * share]
        yield RawBatch(images, torch.zeros(share, 0, dtype=torch.int8), torch.arange(share))


def validation(path: Path, every: int = 10**9, count: int = 4) -> Validation:
    """A few validation images, to be measured every so many training images."""
    manifest, _ = write_dataset(path / "data", (8,), (count,), size=32)
    images = HeldOut.of(Folder.at(path / "data"), manifest, VALIDATION, count)
    return Validation(images, every, Quality(images))


def session_of(storage: Path, data: Path, config: RunConfig, steps: int) -> Session:
    run, folder = RunFolder.at(str(storage), "run"), Folder.at(data)
    return Session(replace(config, steps=steps), run, folder, Manifest.load(folder), 1, False)


class StopAfter(Callbacks):
    """Asks to stop once so many images were seen."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.seen: list[Progress] = []

    def progress(self, progress: Progress) -> bool:
        self.seen.append(progress)
        return progress.images_seen >= self.images


def go(
    path: Path,
    config: RunConfig,
    steps: int,
    control: Callbacks | None = None,
    every: int = 10**9,
    break_at: int = -1,
    count: int = 4,
    ends_at: Callable[[], float] = ending.never,
) -> tuple[Model, Outcome]:
    """One session of a run on one worker, from its newest checkpoint.

    Args:
        every: how many images lie between measurements.
        break_at: the step before which a weight becomes NaN.
        count: of validation images.
    """
    run = RunFolder.at(str(path), "run")
    model = build_model(config)
    model.to(CPU)

    def batches(first: int) -> Iterator[RawBatch]:
        for step, batch in enumerate(feed(first), first):
            if step == break_at:
                weight = next(model.networks["generator"].parameters())
                weight.data[0] = float("nan")
            yield batch

    latest = run.latest_checkpoint()
    start = checkpoint.load(latest, model) if latest else Position()
    with RunLog(run.folder, start.images_seen) as log:
        held_out = validation(path, every, count)
        session = session_of(path, path / "data", config, steps)
        told = control or Callbacks()
        loop = Trainer(session, model, held_out, Workers(), start, log, told, ends_at)
        outcome = loop.train(batches(start.global_step))
    return model, outcome


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_everything_happens_when_its_images_have_been_seen(tmp_path: Path) -> None:
    config = tiny_config(log_images=16, sample_images=24, checkpoint_images=32, keep=9)
    _, outcome = go(tmp_path, config, 9)
    assert outcome.finished
    assert (outcome.position.global_step, outcome.position.images_seen) == (9, 72)
    assert names(tmp_path / "run/samples") == [
        f"{name}-{images:09d}.png"
        for name in ("interpolation", "samples")
        for images in (0, 24, 48, 72)
    ]
    # Every 32 images, and at the end.
    assert names(tmp_path / "run/checkpoints") == [f"step-{step:08d}" for step in (4, 8, 9)]
    assert {"loss/generator", "throughput/images_per_second"} <= set(outcome.metrics)
    assert outcome.images_per_second > 0
    assert 0 <= outcome.data_wait_fraction < 1


def test_checkpoints_that_are_to_be_evaluated_are_saved_and_told_of(tmp_path: Path) -> None:
    class Told(Callbacks):
        def __init__(self) -> None:
            self.saved_at: list[tuple[int, bool]] = []

        def saved(self, step: int) -> None:
            folder = RunFolder.at(str(tmp_path), "run").checkpoints
            complete = checkpoint_index.complete(folder)
            self.saved_at.append((step, f"step-{step:08d}" in complete))

    told = Told()
    go(tmp_path, tiny_config(checkpoint_images=32, evaluate_images=28, keep=9), 9, told)
    # After 32, 56 and 72 images, not after 64.
    assert told.saved_at == [(4, True), (7, True), (9, True)]
    assert names(tmp_path / "run/checkpoints") == [f"step-{step:08d}" for step in (4, 7, 8, 9)]


def test_averages_are_saved_with_statistics_of_their_own_weights(tmp_path: Path) -> None:
    config = tiny_config(checkpoint_images=16)
    go(tmp_path, config, 5)
    model = build_model(config)
    for step in (2, 4, 5):
        saved = tmp_path / f"run/checkpoints/step-{step:08d}"
        networks = {n: load_file(saved / f"{n}.safetensors") for n in model.networks}
        for name, network in model.networks.items():
            network.load_state_dict(networks[name])
        model.refresh_averages()
        for key, value in model.networks["generator_ema"].state_dict().items():
            assert torch.equal(value, networks["generator_ema"][key]), key
            raw = networks["generator"][key]
            assert torch.equal(value, raw) == key.endswith("num_batches_tracked"), key


def test_logged_values_are_means_over_the_steps_since_the_last(tmp_path: Path) -> None:
    every = [go(tmp_path / str(k), tiny_config(log_images=8), k)[1] for k in (1, 2, 3)]
    together = go(tmp_path / "all", tiny_config(log_images=24), 3)[1]
    mean = sum(outcome.metrics["loss/generator"] for outcome in every) / 3
    assert together.metrics["loss/generator"] == pytest.approx(mean, rel=1e-5)


def test_the_losses_of_a_network_that_rests_are_not_logged_again(tmp_path: Path) -> None:
    _, outcome = go(tmp_path, tiny_config(log_images=8, schedule="1:2"), 5)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss/generator")] == [8, 16, 24, 32, 40]
    assert [e.step for e in events.Scalars("loss/discriminator")] == [16, 32]
    # Whoever watches still sees the last one.
    assert "loss/discriminator" in outcome.metrics


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ask at every step, however fast they are.
    monkeypatch.setattr(trainer, "CONTROL_SECONDS", 0)
    config = tiny_config(log_images=16)
    whole, _ = go(tmp_path / "whole", config, 8)
    control = StopAfter(24)
    _, first = go(tmp_path / "parts", config, 8, control)
    assert not first.finished
    assert first.position.global_step == 3
    assert control.seen[-1].total_images == 64
    parts, second = go(tmp_path / "parts", config, 8)
    assert second.finished
    assert second.position.seconds > first.position.seconds
    for name, network in whole.networks.items():
        resumed = parts.networks[name].state_dict()
        for key, value in network.state_dict().items():
            assert torch.equal(value, resumed[key]), f"{name}.{key}"


class Restarting(Callbacks):
    """Says from some step on, for some time, that the workers are about to be restarted."""

    def __init__(self, images: int = 10**9, times: int = 3) -> None:
        self.images, self.times = images, times
        self.seen: list[int] = []
        self.waits: list[tuple[int, list[str]]] = []
        self.folder = Path()

    def progress(self, progress: Progress) -> bool:
        self.seen.append(progress.images_seen)
        return False

    def restarting(self) -> bool:
        self.times -= self.seen[-1] >= self.images
        return self.seen[-1] >= self.images and self.times >= 0

    def waiting(self) -> None:
        self.waits.append((self.seen[-1], names(self.folder / "run/checkpoints")))


def test_workers_that_are_to_be_restarted_save_and_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CONTROL_SECONDS", 0)
    control = Restarting(24)
    control.folder = tmp_path
    _, outcome = go(tmp_path, tiny_config(), 6, control)
    # They take no step while they wait, and go on when nobody restarts them after all.
    assert control.waits == [(24, ["step-00000003"])]
    assert control.seen.count(24) == 4
    assert outcome.finished
    assert names(tmp_path / "run/checkpoints") == ["step-00000003", "step-00000006"]


def test_a_run_is_saved_when_its_end_is_announced_and_again_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CONTROL_SECONDS", 0)
    control = Restarting()
    control.folder = tmp_path
    # The end is announced at step 2, and near at step 5; the second wait is in vain.
    left = {2: 1000.0, 3: 900.0, 4: 800.0, 5: 1.0}
    waits = [1.0, 1.0, -ending.LATE_SECONDS - 1]

    def ends_at() -> float:
        step = len(set(control.seen))
        if step + 1 in left:
            return time.time() + left[step + 1]
        return time.time() + (waits.pop(0) if waits else -1000.0) if step >= 5 else math.inf

    _, outcome = go(tmp_path, tiny_config(keep=9), 7, control, ends_at=ends_at)
    assert control.waits == [(40, ["step-00000002", "step-00000005"])]
    assert control.seen[:10] == [8, 16, 24, 32, 40, 40, 40, 40, 48, 56]
    assert outcome.finished


def test_a_limit_shorter_than_a_checkpoint_takes_is_refused() -> None:
    config = tiny_config(stall_timeout="5s")
    ending.check_stall(config, 4.9)
    ending.check_stall(replace(config, stall_timeout="0"), 1e6)
    with pytest.raises(UserError, match="--stall-timeout 5s: .* takes here, 0:12; use 36s or more"):
        ending.check_stall(config, 12.0)


def test_a_failing_stream_ends_the_run_with_its_error(tmp_path: Path) -> None:
    def broken() -> Iterator[Any]:
        yield from feed(0, 2)
        raise OSError("the disk is gone")

    config = tiny_config()
    model, held_out = build_model(config), validation(tmp_path)
    session = session_of(tmp_path, tmp_path / "data", config, 5)
    loop = Trainer(session, model, held_out, Workers(), Position(), None, Callbacks())
    with pytest.raises(OSError, match="the disk is gone"):
        loop.train(broken())


def test_validation_losses_are_logged_when_their_images_have_been_seen(tmp_path: Path) -> None:
    control = StopAfter(10**9)
    # Losses are logged then, too, so that what is known of a measurement is all of it.
    config = tiny_config(log_images=10**6)
    _, outcome = go(tmp_path, config, 5, control, every=16)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    names = ("validation/discriminator", "validation/generator", "quality/swd", "loss/generator")
    for name in names:
        values = events.Scalars(name)
        assert [event.step for event in values] == [16, 32, 40]
        assert outcome.metrics[name] == pytest.approx(values[-1].value)
    assert "validating: 8/8 images" in [progress.doing for progress in control.seen]


def test_the_best_checkpoint_is_kept_beside_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([3.0, 1.0, 2.0, 5.0, 4.0])

    def measure(*arguments: Any) -> dict[str, float]:
        return {FD_HERE: next(scores)}

    monkeypatch.setattr(Validation, "measure", measure)
    config = tiny_config(checkpoint_images=8 * 10**6, keep=1)
    go(tmp_path, config, 4, every=8)
    saved = RunFolder.at(str(tmp_path), "run").checkpoints
    # Saved at each improvement and at the end.
    assert checkpoint_index.complete(saved) == ["step-00000002", "step-00000004"]
    assert checkpoint_index.best_step(saved) == 2
    assert checkpoint_index.best_value(saved, FD_HERE, 4) == 1.0
    # A resumed run knows the best so far.
    go(tmp_path, config, 5, every=8)
    assert checkpoint_index.complete(saved) == ["step-00000002", "step-00000005"]


def test_a_score_that_is_not_finite_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([math.nan, 3.0, math.nan, 2.0])
    monkeypatch.setattr(Validation, "measure", lambda *_: {FD_HERE: next(scores)})
    go(tmp_path, tiny_config(checkpoint_images=8 * 10**6, keep=9), 4, every=8)
    saved = RunFolder.at(str(tmp_path), "run").checkpoints
    # The first and the third measurement were no reason to save anything.
    assert checkpoint_index.complete(saved) == ["step-00000002", "step-00000004"]
    assert checkpoint_index.best_step(saved) == 4


def test_scores_of_other_numbers_of_validation_images_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([1.0, 5.0, 6.0])
    monkeypatch.setattr(Validation, "measure", lambda *_: {FD_HERE: next(scores)})
    config = tiny_config(checkpoint_images=8 * 10**6, keep=1)
    go(tmp_path, config, 1, every=8)
    saved = RunFolder.at(str(tmp_path), "run").checkpoints
    assert checkpoint_index.best_step(saved) == 1
    go(tmp_path, config, 3, every=8, count=3)
    assert checkpoint_index.best_step(saved) == 2
    assert checkpoint_index.complete(saved) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("log_images", [8, 10**6])
def test_a_loss_that_is_not_finite_stops_the_run_and_spoils_no_checkpoint(
    tmp_path: Path, log_images: int
) -> None:
    config = tiny_config(checkpoint_images=16, log_images=log_images, keep=9)
    with pytest.raises(NotFinite) as caught:
        go(tmp_path, config, 9, break_at=4)
    # Found at once where it is logged, at the latest before the next checkpoint.
    assert (caught.value.step, caught.value.network) == (5, "discriminator")
    saved = checkpoint_index.complete(RunFolder.at(str(tmp_path), "run").checkpoints)
    assert saved == ["step-00000002", "step-00000004"]


def test_a_stopwatch_tells_rates() -> None:
    watch = Stopwatch()
    watch.add(100, 0.0)
    watch.add(100, 1e9)
    assert watch.images == 200
    assert watch.images_per_second > 0
    assert watch.wait_fraction > 1


def on_worker(rank: int, folder: str) -> None:
    config = tiny_config(log_images=16, checkpoint_images=16, keep=9)
    run = RunFolder.at(folder, "run")
    model = build_model(config)
    model.to(CPU)
    model.distribute(sync_bn=False)
    workers = Workers(rank, 2)
    log = RunLog(run.folder, 0) if rank == 0 else None
    own = Path(folder) / str(rank)
    held_out = validation(own)
    session = session_of(Path(folder), own / "data", config, 5)
    loop = Trainer(session, model, held_out, workers, Position(), log, Callbacks())
    loop.train(feed(0, 5, rank, 2))
    buffers = {
        f"{name}/{key}": value.clone()
        for name, network in model.networks.items()
        for key, value in network.state_dict().items()
    }
    save_file({k: v.contiguous() for k, v in buffers.items()}, f"{folder}/rank{rank}")


@pytest.mark.slow
def test_checkpoints_hold_running_statistics_that_all_workers_share(tmp_path: Path) -> None:
    run_processes(2, on_worker, str(tmp_path))
    first, second = load_file(tmp_path / "rank0"), load_file(tmp_path / "rank1")
    assert sum("running_mean" in name for name in first) == 8
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    saved = checkpoint_index.complete(RunFolder.at(str(tmp_path), "run").checkpoints)
    assert saved == ["step-00000002", "step-00000004", "step-00000005"]
    last = tmp_path / "run/checkpoints" / saved[-1]
    for network in ("generator", "discriminator", "generator_ema"):
        for key, value in load_file(last / f"{network}.safetensors").items():
            assert torch.equal(value, second[f"{network}/{key}"]), f"{network}/{key}"


def each_checkpoint(rank: int, folder: str) -> None:
    """Compare the workers' statistics at each checkpoint, not only at the last."""
    seen: list[torch.Tensor] = []
    config = tiny_config(checkpoint_images=8, log_images=8)
    model = build_model(config)
    model.to(CPU)
    model.distribute(sync_bn=False)
    workers = Workers(rank, 2)

    class Recording(Workers):
        def average_buffers(self, networks: Any) -> None:
            networks = list(networks)
            before = _statistics(networks)
            workers.average_buffers(networks)
            seen.append(torch.stack([before, _statistics(networks)]))

    own = Path(folder) / str(rank)
    held_out, recording = validation(own), Recording(rank, 2)
    session = session_of(Path(folder), own / "data", config, 3)
    loop = Trainer(session, model, held_out, recording, Position(), None, Callbacks())
    loop.train(feed(0, 3, rank, 2))
    save_file({str(k): value for k, value in enumerate(seen)}, f"{folder}/rank{rank}")


def _statistics(networks: list[nn.Module]) -> torch.Tensor:
    return torch.cat([b.flatten() for n in networks for b in n.buffers() if b.is_floating_point()])


@pytest.mark.slow
def test_statistics_differ_between_checkpoints_and_are_averaged_in_each(tmp_path: Path) -> None:
    run_processes(2, each_checkpoint, str(tmp_path))
    first, second = load_file(tmp_path / "rank0"), load_file(tmp_path / "rank1")
    # Before the first step, and once for each with a checkpoint, whatever else was due then.
    assert len(first) == 4
    for name in first:
        (a_before, a_after), (b_before, b_after) = first[name], second[name]
        assert torch.equal(a_after, b_after)
        torch.testing.assert_close(a_after, (a_before + b_before) / 2)
    # The workers see different images, so there was something to average.
    assert not torch.equal(first["1"][0], second["1"][0])


class Listening(StopAfter):
    """Remembers what it was told of measurements, and what was saved by then."""

    needs_checkpoints = True

    def __init__(self, path: Path) -> None:
        super().__init__(10**9)
        self._checkpoints = path / "run/checkpoints"
        self.told: list[tuple[int, float, list[str]]] = []

    def measured(self, progress: Progress) -> None:
        saved = [name for name in names(self._checkpoints) if name.startswith("step")]
        self.told.append((progress.images_seen, progress.metrics["quality/swd"], saved))
        assert progress.seconds > 0


def test_a_measurement_is_told_once_the_networks_are_saved(tmp_path: Path) -> None:
    config = tiny_config(log_images=8, checkpoint_images=16, keep=1)
    control = Listening(tmp_path)
    go(tmp_path, config, 6, control, every=16)
    assert [images for images, _, _ in control.told] == [16, 32, 48]
    for images, swd, saved in control.told:
        assert f"step-{images // 8:08d}" in saved
        assert 0 < swd < 10_000


class ReleaseAt(Callbacks):
    """Lets a checkpoint be written once so many images were seen."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.release = threading.Event()

    def progress(self, progress: Progress) -> bool:
        if progress.images_seen >= self.images:
            self.release.set()
        return False


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, write = ReleaseAt(48), checkpoint.write

    def slow(*arguments: Any) -> Folder:
        # Training that waited for the checkpoint would never see so many images.
        assert control.release.wait(60)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write", slow)
    monkeypatch.setattr(saves, "SOON_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "CONTROL_SECONDS", 0.0)
    _, outcome = go(tmp_path, tiny_config(checkpoint_images=16, keep=9), 9, control)
    assert outcome.finished
    saved = names(tmp_path / "run/checkpoints")
    assert {"step-00000002", "step-00000009"} <= set(saved)
    assert "step-00000004" not in saved


def test_a_checkpoint_is_saved_after_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CONTROL_SECONDS", 0.0)
    config = tiny_config(checkpoint_images=8 * 10**6, checkpoint_every="0.001s", keep=9)
    go(tmp_path, config, 3)
    assert "step-00000001" in names(tmp_path / "run/checkpoints")
    go(tmp_path / "never", replace(config, checkpoint_every="0"), 3)
    assert names(tmp_path / "never/run/checkpoints") == ["step-00000003"]
