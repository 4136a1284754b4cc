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
from raygen.models.base import Metrics, Model, Step
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
        images_per_second: of all workers, from then on.
        data_wait_fraction: of the time from then on, spent waiting for data, in [0, 1].
        metrics: the last logged value of each.
    """

    finished: bool
    position: Position
    first_step_at: float
    images_per_second: float
    data_wait_fraction: float
    metrics: dict[str, float]


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
    means = _Means()
    logged: dict[str, float] = {}
    session, since_log, since_control = Stopwatch(), Stopwatch(), Stopwatch()
    first_step_at = 0.0
    next_control = step + 1
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
        place = Step(step, config.batch_size, images_seen, workers.rank, workers.world_size)
        means.add(model.update(real, place))
        step += 1
        before, images_seen = images_seen, images_seen + config.batch_size
        last = step == total_steps
        if first_step_at:
            for watch in (session, since_log, since_control):
                watch.add(config.batch_size, waited)
        else:
            # The first step holds start-up costs; rates are counted from its end.
            _finish(workers.device)
            first_step_at = time.time()
            session, since_log, since_control = Stopwatch(), Stopwatch(), Stopwatch()

        if last or _passed(config.log_images, before, images_seen):
            logged = means.take(workers)
            if since_log.images:
                logged["throughput/images_per_second"] = since_log.images_per_second
                logged["throughput/data_wait_fraction"] = since_log.wait_fraction
            since_log = Stopwatch()
            if log:
                log.scalars(logged, images_seen)
        if step >= next_control:
            wishes = False
            if control:
                rate = session.images_per_second
                wishes = control.exchange(Progress(images_seen, total_images, rate, logged))
            steps_per_second = since_control.images_per_second / config.batch_size
            ahead = max(1, int(CONTROL_SECONDS * steps_per_second))
            # The workers must stop at the same step, so the first one decides, and says when the
            # next decision is due: its clock is not the others'.
            stop, next_control = workers.agree([int(wishes), step + ahead])
            stopping = bool(stop)
            since_control = Stopwatch()
        if last or _passed(config.sample_images, before, images_seen):
            draw()
        if last or stopping or _passed(config.checkpoint_images, before, images_seen):
            save()
    _finish(workers.device)
    return Outcome(
        finished=step >= total_steps,
        position=position(),
        first_step_at=first_step_at,
        images_per_second=session.images_per_second,
        data_wait_fraction=session.wait_fraction,
        metrics=logged,
    )


class Stopwatch:
    """Images, and seconds spent waiting for them, since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waited = 0.0
        self.images = 0

    def add(self, images: int, waited: float) -> None:
        self.images += images
        self._waited += waited

    @property
    def images_per_second(self) -> float:
        return self.images / max(time.monotonic() - self._began, 1e-9)

    @property
    def wait_fraction(self) -> float:
        """Of the time since it was made, in [0, 1]."""
        return self._waited / max(time.monotonic() - self._began, 1e-9)


class _Means:
    """Means of metrics over steps. They stay on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if self._count else value
        self._count += 1

    def take(self, workers: Workers) -> dict[str, float]:
        """The means over all steps since the last call and over all workers."""
        means = workers.average([value / self._count for value in self._sums.values()])
        names, self._sums, self._count = list(self._sums), {}, 0
        return dict(zip(names, means, strict=True))


def _passed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every


def _finish(device: torch.device) -> None:
    """Wait for the device, so that what is timed has happened."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
