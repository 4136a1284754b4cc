"""The training loop: next batch -> update step -> log -> pictures -> checkpoint.

It knows neither Ray nor any model. Everything that happens every so often is counted in images,
so that batch size and number of workers do not change what an option means.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from raygen.config import RunConfig
from raygen.data.prefetch import scale_images
from raygen.evaluation.pictures import grid
from raygen.models.base import Model, Step
from raygen.training import checkpoint
from raygen.training.checkpoint import Position
from raygen.training.logging import RunLog
from raygen.training.run import RunFolder
from raygen.training.workers import Workers

SAMPLE_COUNT = 64
CONTROL_SECONDS = 1.0
"""How often, about, the first worker reports progress and the workers ask whether to stop."""


@dataclass(frozen=True)
class Progress:
    """What the first worker tells whoever watches."""

    images_seen: int
    total_images: int
    images_per_second: float
    metrics: dict[str, float]


class Control(Protocol):
    """Whoever watches the run."""

    def exchange(self, progress: Progress) -> bool:
        """Take note of the progress; say whether the run is to stop. Must not block."""


@dataclass(frozen=True)
class Outcome:
    """How a training session ended.

    Attributes:
        finished: False if it was asked to stop before its last step.
        first_step_at: Unix time when this session's first step was done, in seconds.
        loop_seconds: from then to the end.
        loop_images: seen in that time, by all workers.
        wait_seconds: of that time, spent waiting for data.
        metrics: the last logged value of each.
    """

    finished: bool
    position: Position
    first_step_at: float
    loop_seconds: float
    loop_images: int
    wait_seconds: float
    metrics: dict[str, float]

    @property
    def images_per_second(self) -> float:
        return self.loop_images / self.loop_seconds if self.loop_seconds else 0.0

    @property
    def data_wait_fraction(self) -> float:
        return self.wait_seconds / self.loop_seconds if self.loop_seconds else 0.0


def train(
    model: Model,
    batches: Iterable[torch.Tensor],
    config: RunConfig,
    run: RunFolder,
    workers: Workers,
    start: Position,
    total_steps: int,
    about: dict[str, Any],
    log: RunLog | None,
    control: Control | None = None,
) -> Outcome:
    """Train from `start` to `total_steps`, or until `control` says to stop.

    All workers call it alike; the first one alone has a `log` and a `control`.

    Args:
        batches: this worker's images from step `start.global_step` on, (N, H, W, C) uint8.
        about: what to note of the run in its checkpoints.
    """
    session_began = time.monotonic()
    step, images_seen = start.global_step, start.images_seen
    total_images = images_seen + (total_steps - step) * config.batch_size
    sums: dict[str, torch.Tensor] = {}
    summed = 0
    logged: dict[str, float] = {}
    first_step_at, loop_began = 0.0, session_began
    loop_images, wait_seconds = 0, 0.0
    last_log = (session_began, images_seen, 0.0)
    last_control = (session_began, images_seen)
    next_control = step + 1
    rate = 0.0
    stopping = False

    def position() -> Position:
        spent = start.seconds + time.monotonic() - session_began
        return Position(step, images_seen, spent)

    def save() -> None:
        workers.average_buffers(model.networks.values())
        if workers.is_first:
            checkpoint.save(run.checkpoints, model, position(), about, config.keep)

    def draw() -> None:
        workers.average_buffers(model.networks.values())
        if log:
            for name, images in model.pictures(SAMPLE_COUNT).items():
                log.picture(name, grid(images), images_seen)
            log.flush()

    if step == 0:
        draw()
    feed = iter(batches)
    while step < total_steps and not stopping:
        asked = time.monotonic()
        batch = next(feed)
        waited = time.monotonic() - asked
        real = scale_images(batch, workers.device)
        metrics = model.update(
            real, Step(step, config.batch_size, images_seen, workers.rank, workers.world_size)
        )
        for name, value in metrics.items():
            sums[name] = sums[name] + value if name in sums else value
        summed += 1
        step += 1
        before, images_seen = images_seen, images_seen + config.batch_size

        def due(every: int, before: int = before) -> bool:
            return images_seen // every > before // every

        if first_step_at:
            wait_seconds += waited
            loop_images += config.batch_size
        else:
            # The first step holds start-up costs; rates are counted from its end.
            _finish(workers.device)
            first_step_at, loop_began = time.time(), time.monotonic()
            last_log = (loop_began, images_seen, 0.0)
            last_control = (loop_began, images_seen)
        if due(config.log_images) or step == total_steps:
            means = workers.average([value / summed for value in sums.values()])
            logged = dict(zip(sums, means, strict=True))
            sums, summed = {}, 0
            now = time.monotonic()
            elapsed = now - last_log[0]
            if elapsed > 0 and images_seen > last_log[1]:
                logged["throughput/images_per_second"] = (images_seen - last_log[1]) / elapsed
                logged["throughput/data_wait_fraction"] = (wait_seconds - last_log[2]) / elapsed
            last_log = (now, images_seen, wait_seconds)
            if log:
                log.scalars(logged, images_seen)
        if step >= next_control:
            now = time.monotonic()
            elapsed, images = now - last_control[0], images_seen - last_control[1]
            rate = images / elapsed if images else rate
            wishes = False
            if control:
                wishes = control.exchange(Progress(images_seen, total_images, rate, logged))
            ahead = max(1, int(CONTROL_SECONDS * rate / config.batch_size))
            # The workers must stop at the same step, so the first one decides, and says when the
            # next decision is due: its clock is not the others'.
            stop, next_control = workers.agree([int(wishes), step + ahead])
            stopping = bool(stop)
            last_control = (now, images_seen)
        if due(config.sample_images) or step == total_steps:
            draw()
        if due(config.checkpoint_images) or step == total_steps or stopping:
            save()
    _finish(workers.device)
    return Outcome(
        finished=step >= total_steps,
        position=position(),
        first_step_at=first_step_at,
        loop_seconds=time.monotonic() - loop_began,
        loop_images=loop_images,
        wait_seconds=wait_seconds,
        metrics=logged,
    )


def _finish(device: torch.device) -> None:
    """Wait for the device, so that what is timed has happened."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
