"""One worker's part of a run: from the newest checkpoint, and back to it when a loss is NaN."""

import platform
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_images, tiny_config, write_dataset

from raygen.config.run import RunConfig
from raygen.core.errors import RunError, UserError
from raygen.core.status import Callbacks, Progress
from raygen.core.storage import Folder
from raygen.data.batch import Batch
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.rows import Rows
from raygen.data.stream.stream import ImageStream, ReadAhead
from raygen.models.base import Metrics, Step
from raygen.models.dcgan import DCGAN
from raygen.training import checkpoint_index
from raygen.training.hardware import check_compiler, use_bf16, use_fast_paths
from raygen.training.run import RunFolder
from raygen.training.run_session import run_session
from raygen.training.session import Session
from raygen.training.workers import Workers

pytestmark = pytest.mark.usefixtures("wait_for_checkpoints")


class Recording(Callbacks):
    def __init__(self) -> None:
        self.starts: list[int] = []
        self.measurements: list[tuple[int, float]] = []
        self.notices: list[str] = []

    def started(self, step: int) -> None:
        self.starts.append(step)

    def measured(self, progress: Progress) -> None:
        self.measurements.append((progress.images_seen, progress.metrics["quality/swd"]))

    def notice(self, text: str) -> None:
        self.notices.append(text)


def without_ray(
    self: ImageStream, first: int, stop: int, rank: int, world_size: int, read: ReadAhead
) -> Iterator[Rows]:
    for step in range(first, stop):
        count = self.batch_size
        images = random_images(count, seed=step).numpy()
        yield Rows(images, np.empty((count, 0), np.int8), np.arange(count))


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(ImageStream, "batches", without_ray)
    write_dataset(tmp_path / "data", (16,), (4,), size=32)
    return session_of(tmp_path, tiny_config(steps=6, checkpoint_images=16, log_images=8))


def session_of(path: Path, config: RunConfig) -> Session:
    folder = Folder.at(path / "data")
    run = RunFolder.at(str(path), "run")
    return Session(config, run, folder, Manifest.load(folder), 1, False)


def break_updates(monkeypatch: pytest.MonkeyPatch, steps: list[int]) -> list[float]:
    """Make the generator's loss NaN at these steps, each time one is taken off the list.

    Returns: a list to which each step's learning rate of the generator is added.
    """
    update, rates = DCGAN.update, []

    def broken(self: DCGAN, batch: Batch, step: Step) -> Metrics:
        metrics = update(self, batch, step)
        rates.append(self.optimizers["generator"].param_groups[0]["lr"])
        if steps and step.number == steps[0]:
            del steps[0]
            metrics["loss/generator"] = torch.tensor(float("nan"))
        return metrics

    monkeypatch.setattr(DCGAN, "update", broken)
    return rates


def with_options(session: Session, **options: Any) -> Session:
    return replace(session, config=replace(session.config, **options))


def test_a_session_trains_to_the_end_and_the_next_finds_it_there(session: Session) -> None:
    control = Recording()
    outcome = run_session(session, Workers(), control)
    assert (outcome.finished, outcome.position.global_step, control.starts) == (True, 6, [0])
    assert outcome.position.restores == 0
    longer = with_options(session, steps=8)
    assert run_session(longer, Workers(), control).position.global_step == 8
    assert control.starts == [0, 6]
    state = checkpoint_index.read_state(checkpoint_index.at_step(session.run.checkpoints, 8))
    assert state["about"]["config"] == longer.config.to_json()


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where_it_can_go_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_updates(monkeypatch, [4])
    with pytest.raises(RunError) as caught:
        run_session(session, Workers(), Recording())
    text = str(caught.value)
    assert "loss/generator of the generator was not finite at step 5" in text
    assert "the last good checkpoint is" in text
    assert "step-00000004" in text
    assert "--on-nan restore" in text


def test_a_run_can_go_back_with_halved_learning_rates(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = break_updates(monkeypatch, [4, 4, 5])
    control = Recording()
    outcome = run_session(with_options(session, on_nan="restore"), Workers(), control)
    assert outcome.finished
    assert outcome.position.restores == 3
    # Steps 0 to 4; 4 again, at half the rate; 4 and 5 at a quarter; 4 and 5 at an eighth.
    relative = [1] * 5 + [1 / 2] + [1 / 4] * 2 + [1 / 8] * 2
    assert rates == pytest.approx([1e-4 * value for value in relative])
    assert control.starts == [0, 4, 4, 4]
    assert "going on from step 4 with learning rates halved (1 of at most 3" in control.notices[0]
    # A resumed run keeps the lower rates, which the optimizers' states hold.
    run_session(with_options(session, steps=7, on_nan="restore"), Workers(), control)
    assert rates[-1] == pytest.approx(1e-4 / 8)


def test_it_goes_back_three_times_at_most(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before the first checkpoint, it begins anew.
    rates = break_updates(monkeypatch, [0, 0, 3, 3])
    restoring = with_options(session, on_nan="restore")
    with pytest.raises(RunError, match="halved 3 times already"):
        run_session(restoring, Workers(), Recording())
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(1e-4 / 8)
    # The checkpoint of step 2 knows of two times; starting the job again adds one, not three.
    break_updates(monkeypatch, [2, 2])
    with pytest.raises(RunError, match="halved 3 times already"):
        run_session(restoring, Workers(), Recording())


def test_a_learning_rate_that_is_far_too_high_is_found_out(session: Session) -> None:
    options = session.config.to_json() | {"lr_g": 1e30, "steps": 30}
    config = RunConfig.from_json(options, "test")
    with pytest.raises(RunError, match="not finite at step"):
        run_session(replace(session, config=config), Workers(), Callbacks())


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="--compile: needs a C"):
        check_compiler(torch.device("cpu"))
    check_compiler(torch.device("cuda"))


def test_precision_can_be_chosen() -> None:
    cpu = torch.device("cpu")
    assert use_bf16("bf16", cpu)
    assert not use_bf16("fp32", cpu)
    assert use_bf16("auto", cpu) in (True, False)


@pytest.mark.parametrize(
    ("capabilities", "faster"),
    [
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, True),
        # A virtual machine that hides AMX.
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, False),
        ({"avx512_bf16": True}, False),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC 9654"}, True),
        ({"bf16": True, "cpu_name": "Neoverse-V1"}, True),
        ({"avx2": True, "cpu_name": "AMD EPYC 7763"}, False),
        ({}, False),
    ],
)
def test_a_processor_computes_in_bf16_where_that_is_faster(
    capabilities: dict[str, object], faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert use_bf16("auto", torch.device("cpu")) == faster


def test_freed_memory_is_kept_for_the_next_step() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("a setting of glibc's")
    use_fast_paths(torch.device("cpu"))

    def pages() -> int:
        """Pages that the system had to find for one large tensor."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    counts = [pages() for _ in range(20)]
    # 64 MiB are 16,384 of them. The first blocks are not quite large enough to be used again,
    # because of their alignment.
    assert min(counts[10:]) < 1_000


def test_a_measurement_is_told_again_where_a_run_goes_on_from_it(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", (16,), (8,), size=32)
    options = {"checkpoint_images": 16, "validate_images": 16, "log_images": 8}
    first, second, third = Recording(), Recording(), Recording()
    run_session(session_of(tmp_path, tiny_config(steps=4, **options)), Workers(), first)
    assert [images for images, _ in first.measurements] == [16, 32]
    # Whoever was told may be gone; the run knows what it had said.
    run_session(session_of(tmp_path, tiny_config(steps=6, **options)), Workers(), second)
    assert second.measurements[0] == first.measurements[1]
    assert [images for images, _ in second.measurements] == [32, 48]
    outcome = run_session(session_of(tmp_path, tiny_config(steps=6, **options)), Workers(), third)
    assert outcome.finished
    assert third.measurements == second.measurements[1:]
