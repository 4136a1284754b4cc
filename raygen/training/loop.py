"""The training loop: next batch -> update step -> log -> validate -> pictures -> checkpoint.

It knows neither Ray nor any model. Everything that happens every so often is counted in images,
so that batch size and number of workers do not change what an option means.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from raygen.config import RunConfig
from raygen.data.prefetch import scale_images
from raygen.evaluation.pictures import grid
from raygen.models.base import Metrics, Model, Step
from raygen.models.layers import DROPOUT
from raygen.models.pictures import RECONSTRUCTIONS
from raygen.training import checkpoint
from raygen.training.checkpoint import Score
from raygen.training.control import Control, Outcome, Position, Progress
from raygen.training.finite import LossWatch, check_weights
from raygen.training.logging import RunLog
from raygen.training.projector import show_codes
from raygen.training.run import RunFolder
from raygen.training.validation import Validation
from raygen.training.workers import Workers

CONTROL_SECONDS = 1.0
"""How often, about, the first worker reports progress and the workers ask whether to stop."""


def train(
    model: Model,
    batches: Iterable[torch.Tensor],
    validation: Validation,
    config: RunConfig,
    run: RunFolder,
    workers: Workers,
    start: Position,
    total_steps: int,
    about: dict[str, Any],
    log: RunLog | None,
    control: Control,
) -> Outcome:
    """Train from `start` to `total_steps`, or until `control` says to stop.

    All workers call it alike; the first one alone has a `log`, and its `control` alone is asked.

    Args:
        batches: this worker's images from step `start.global_step` on, (N, H, W, C) uint8.
        about: what to note of the run in its checkpoints.
    Raises: NotFinite if a loss or a weight becomes infinite or NaN. What is saved is finite.
    """
    session_began = time.monotonic()
    step, images_seen = start.global_step, start.images_seen
    total_images = images_seen + (total_steps - step) * config.step_images
    means, watch = _Means(), LossWatch(model.losses, workers.device)
    logged: dict[str, float] = {}
    measured: dict[str, float] = {}
    session, since_log, since_control = Stopwatch(), Stopwatch(), Stopwatch()
    first_step_at = 0.0
    next_control = step + 1
    stopping = False
    best = None
    if workers.is_first:
        best = checkpoint.best_value(run.checkpoints, model.best_by, validation.images.count)

    def progress(doing: str = "") -> Progress:
        rate = session.images_per_second
        return Progress(images_seen, total_images, rate, logged | measured, spent(), doing)

    def spent() -> float:
        return start.seconds + time.monotonic() - session_began

    def position() -> Position:
        return replace(start, global_step=step, images_seen=images_seen, seconds=spent())

    def save(score: Score | None, metrics: dict[str, float]) -> None:
        workers.average_buffers(model.networks.values())
        check_weights(model.networks, step)
        if workers.is_first:
            run.check_owner()
            checkpoint.save(run.checkpoints, model, position(), about, config.keep, score, metrics)
            if metrics:
                control.measured(progress())

    def draw() -> None:
        workers.average_buffers(model.networks.values())
        if log:
            real = validation.first(RECONSTRUCTIONS, workers.device)
            for name, picture in model.pictures(config.sample_count, real).items():
                log.picture(name, grid(picture.images, picture.columns), images_seen)

    def validate() -> dict[str, float]:
        workers.average_buffers(model.networks.values())

        def tell(done: int, total: int) -> None:
            if workers.is_first:
                control.exchange(progress(f"validating: {done:,}/{total:,} images"))

        values = validation.measure(model, workers, tell)
        if log:
            log.scalars(values, images_seen)
            if model.has_encoder and config.projector_images:
                show_codes(run.folder, model, validation.images, config.projector_images)
        return values

    if step == 0:
        draw()
        if log:
            log.flush()
    feed = iter(batches)
    while step < total_steps and not stopping:
        asked = time.monotonic()
        batch = next(feed)
        waited = time.monotonic() - asked
        real = scale_images(batch, workers.device)
        place = Step(
            step, total_steps, config.step_images, images_seen, workers.rank, workers.world_size
        )
        _seed_dropout(config.seed, place)
        metrics = model.update(real, place)
        step += 1
        watch.add(metrics, step)
        means.add(metrics)
        before, images_seen = images_seen, images_seen + config.step_images
        last = step == total_steps
        if first_step_at:
            for stopwatch in (session, since_log, since_control):
                stopwatch.add(config.step_images, waited)
        else:
            # The first step holds start-up costs; rates are counted from its end.
            _finish(workers.device)
            first_step_at = time.time()
            session, since_log, since_control = Stopwatch(), Stopwatch(), Stopwatch()

        measuring = last or _passed(validation.every, before, images_seen)
        # What is measured on validation images is told together with the losses up to there.
        if measuring or _passed(config.log_images, before, images_seen):
            watch.check(workers)
            # Without the losses of networks that have not stepped since the last time.
            fresh = means.take(workers)
            if since_log.images:
                fresh["throughput/images_per_second"] = since_log.images_per_second
                fresh["throughput/data_wait_fraction"] = since_log.wait_fraction
            since_log = Stopwatch()
            logged |= fresh
            if log:
                log.scalars(fresh, images_seen)
        if step >= next_control:
            watch.check(workers)
            wishes = workers.is_first and control.exchange(progress())
            steps_per_second = since_control.images_per_second / config.step_images
            ahead = max(1, int(CONTROL_SECONDS * steps_per_second))
            # The workers must stop at the same step, so the first one decides, and says when the
            # next decision is due: its clock is not the others'.
            stop, next_control = workers.agree([int(wishes), step + ahead])
            stopping = bool(stop)
            since_control = Stopwatch()
        drawing = last or _passed(config.sample_images, before, images_seen)
        if drawing:
            watch.check(workers)
            draw()
        score: Score | None = None
        better = 0
        known: dict[str, float] = {}
        if measuring:
            watch.check(workers)
            measured = validate()
            known = logged | measured
            value = measured.get(model.best_by, math.nan)
            if math.isfinite(value):
                score = Score(value, model.best_by, validation.images.count)
                better = int(best is None or value < best)
                best = value if better else best
            [better] = workers.agree([better])
        saving = (
            last or stopping or better or _passed(config.checkpoint_images, before, images_seen)
        )
        # Before the checkpoint: a run that goes on from it never repeats what was logged before.
        if log and (drawing or measuring or saving):
            log.flush()
        if saving:
            watch.check(workers)
            save(score, known)
    _finish(workers.device)
    return Outcome(
        finished=step >= total_steps,
        position=position(),
        first_step_at=first_step_at,
        images_per_second=session.images_per_second,
        data_wait_fraction=session.wait_fraction,
        metrics=logged | measured,
    )


def _seed_dropout(seed: int, step: Step) -> None:
    """Make what torch draws by itself in this step a function of the run, step and worker alone.

    So that a run that is resumed draws what an uninterrupted one would have drawn.
    """
    state = np.random.SeedSequence((DROPOUT, seed, step.number, step.rank)).generate_state(1)
    torch.manual_seed(int(state[0]))


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
        self._counts: Counter[str] = Counter()

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1

    def take(self, workers: Workers) -> dict[str, float]:
        """Means over the steps since the last call that had the metric, and over all workers."""
        means = workers.average([value / self._counts[n] for n, value in self._sums.items()])
        names, self._sums, self._counts = list(self._sums), {}, Counter()
        return dict(zip(names, means, strict=True))


def _passed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every


def _finish(device: torch.device) -> None:
    """Wait for the device, so that what is timed has happened."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
