"""The training loop: next batch -> update -> whatever is due: log, draw, measure, save.

It knows neither Ray nor any model. Everything that happens every so often is counted in images, so
that batch size and number of workers do not change what an option means.
"""

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from raygen.core.status import Callbacks, Outcome, Position, Progress
from raygen.data.batch import RawBatch
from raygen.evaluation.grids import grid
from raygen.models.base import Model, Step
from raygen.models.layers import DROPOUT_NOISE
from raygen.models.pictures import RECONSTRUCTIONS, Picture
from raygen.tensorboard.projector import codes_of, write_projector
from raygen.tensorboard.run_log import RunLog
from raygen.training import activity, checkpoint, checkpoint_index
from raygen.training.checkpoint import Snapshot
from raygen.training.checkpoint_index import Score
from raygen.training.ending import CONTROL_SECONDS, Ending, check_stall, never
from raygen.training.finite import LossWatch, check_weights
from raygen.training.meters import Means, Stopwatch
from raygen.training.saves import Saves
from raygen.training.session import Session
from raygen.training.validation import Validation
from raygen.training.workers import Workers
from raygen.training.writer import Writer

WAIT_SECONDS = 0.25
"""Interval at which saved workers ask whether they still have to wait for their end, in seconds."""


@dataclass(frozen=True)
class Due:
    """The actions that are due after a step."""

    report: bool
    log: bool
    draw: bool
    measure: bool
    save: bool
    save_soon: bool

    @property
    def anything(self) -> bool:
        return any((self.report, self.log, self.draw, self.measure, self.save, self.save_soon))


class Trainer:
    """One worker's loop over the steps of a run.

    All workers call it alike; the first one alone has a `log`, and its callbacks alone are called.
    """

    def __init__(
        self,
        session: Session,
        model: Model,
        validation: Validation,
        workers: Workers,
        start: Position,
        log: RunLog | None,
        callbacks: Callbacks,
        ends_at: Callable[[], float] = never,
    ) -> None:
        """Args: start: the run's position, which the model has reached; ends_at: see `Ending`."""
        self._began_at = time.monotonic()
        self._model = model
        self._validation = validation
        self._config = session.config
        self._run = session.run
        self._workers = workers
        self._start = start
        self._total_steps = session.total_steps
        self._total_images = session.total_images(start)
        self._about = session.about
        self._log = log
        self._callbacks = callbacks
        self._objective = session.objective

        self._step, self._images_seen = start.global_step, start.images_seen
        self._means, self._watch = Means(), LossWatch(model.losses, workers.device)
        self._training_metrics: dict[str, float] = {}
        self._validation_metrics: dict[str, float] = {}
        self._start_stopwatches()
        self._first_step_at = 0.0
        self._next_report = self._step + 1
        self._stopping = self._is_waiting = self._saves_now = False
        self._ending = Ending(ends_at)
        self._saves = Saves(session.config.checkpoint_seconds)
        self._flushed: Future[None] | None = None
        self._best: float | None = None
        if workers.is_first:
            metric = self._objective.metric
            self._best = checkpoint_index.best_value(
                self._run.checkpoints, metric, validation.count_of(metric)
            )

    def train(self, batches: Iterable[RawBatch]) -> Outcome:
        """Train to the last step, or until the callbacks say to stop.

        Args: batches: this worker's batches, beginning at the run's position.
        Raises: NotFinite if a loss or a weight becomes infinite or NaN; checkpoints stay finite.
            Whatever writing to the run's folder raises.
        """
        with Writer() as self._writer, self._saves:
            if self._step == 0:
                self._settle()
                self._draw()
                self._flush()
            feed = iter(batches)
            while self._step < self._total_steps and not self._stopping:
                if self._is_waiting:
                    activity.begin(activity.WAITING, self._step)
                    time.sleep(WAIT_SECONDS)
                    self._report()
                    continue
                self._take_step(feed)
                due = self._due()
                if due.anything:
                    self._do(due)
            activity.begin(activity.SAVING, self._step)
        _finish(self._workers.device)
        return Outcome(
            finished=self._step >= self._total_steps,
            position=self._position,
            first_step_at=self._first_step_at,
            images_per_second=self._since_first_step.images_per_second,
            data_wait_fraction=self._since_first_step.wait_fraction,
            metrics=self._metrics,
        )

    def _take_step(self, feed: Any) -> None:
        asked = time.monotonic()
        # The first step belongs to the start, because it imports and compiles.
        has_begun = bool(self._first_step_at)
        activity.begin(activity.READING if has_begun else activity.STARTING, self._step)
        raw = next(feed)
        activity.begin(activity.TRAINING if has_begun else activity.STARTING, self._step)
        waited = time.monotonic() - asked
        batch = raw.on(self._workers.device)
        step = Step(
            self._step,
            self._total_steps,
            self._config.step_images,
            self._images_seen,
            self._workers.rank,
            self._workers.world_size,
        )
        if self._model.uses_dropout:
            _seed_dropout(self._config.seed, step, self._workers.device)
        metrics = self._model.update(batch, step)
        self._step += 1
        self._images_seen += self._config.step_images
        self._watch.add(metrics, self._step)
        self._means.add(metrics)
        if self._first_step_at:
            stopwatches = self._since_first_step, self._since_log, self._since_report
            for stopwatch in stopwatches:
                stopwatch.add(self._config.step_images, waited)
        else:
            # The first step includes start-up costs, so rates are measured from its end.
            _finish(self._workers.device)
            self._first_step_at = time.time()
            self._start_stopwatches()

    def _start_stopwatches(self) -> None:
        self._since_first_step = Stopwatch()
        self._since_log = Stopwatch()
        self._since_report = Stopwatch()

    def _due(self) -> Due:
        config, last = self._config, self._step == self._total_steps
        measure = last or self._has_passed(self._validation.every)
        return Due(
            report=self._step >= self._next_report,
            # Report validation metrics together with the training losses up to this step.
            log=measure or self._has_passed(config.log_images),
            draw=last or self._has_passed(config.sample_images),
            measure=measure,
            save=last or config.evaluates(self._step, self._total_steps),
            save_soon=self._has_passed(config.checkpoint_images),
        )

    def _has_passed(self, every: int) -> bool:
        """Whether the last step reached or passed a multiple of so many images."""
        return self._images_seen // every > (self._images_seen - self._config.step_images) // every

    def _do(self, due: Due) -> None:
        self._watch.check(self._workers)
        if due.log:
            self._log_losses()
        if due.report:
            self._report()
        must_save = due.save or self._stopping or self._is_waiting or self._saves_now
        if due.draw or due.measure or due.save_soon or must_save:
            self._settle()
        if due.draw:
            self._draw()
        score, is_better = self._measure() if due.measure else (None, False)
        # What was measured is known to the checkpoint of this step alone.
        must_save = must_save or is_better or (due.save_soon and due.measure)
        if due.draw or due.measure or due.save_soon or must_save:
            self._flush()
        if due.save_soon or must_save:
            self._save(score, due.measure, must_save)
            self._saves_now = False

    def _log_losses(self) -> None:
        # Losses of networks that have not stepped since the last log are missing.
        fresh = self._means.take(self._workers)
        if self._since_log.images:
            fresh["throughput/images_per_second"] = self._since_log.images_per_second
            fresh["throughput/data_wait_fraction"] = self._since_log.wait_fraction
        self._since_log = Stopwatch()
        self._training_metrics |= fresh
        self._write_scalars(fresh)

    def _report(self) -> None:
        self._ending.ask()
        steps_per_second = self._since_report.images_per_second / self._config.step_images
        stop = wait = save = False
        if self._workers.is_first:
            stop = self._callbacks.progress(self._progress())
            save = self._ending.is_new() or self._saves.is_due()
            step_seconds = 1 / steps_per_second if steps_per_second else 0.0
            wait = self._ending.is_near(step_seconds, self._saves.seconds)
            wait |= self._callbacks.restarting()
        ahead = max(1, int(CONTROL_SECONDS * steps_per_second))
        # All workers must do this at the same step, so the first one decides, and also announces
        # when the next decision is due, because clocks differ.
        decisions = int(stop), int(wait), int(save), self._step + ahead
        stopping, waiting, saving, self._next_report = self._workers.broadcast([*decisions])
        self._stopping, self._is_waiting = bool(stopping), bool(waiting)
        self._saves_now = bool(saving)
        self._since_report = Stopwatch()

    def _settle(self) -> None:
        """Make the networks those that are drawn, measured and saved, the same on all workers."""
        self._model.refresh_averages(self._workers.rank, self._workers.world_size)
        self._workers.average_buffers(self._model.networks.values())

    def _draw(self) -> None:
        log, images_seen = self._log, self._images_seen
        if not log:
            return
        real = self._validation.first(RECONSTRUCTIONS, self._workers.device)
        for name, picture in self._model.pictures(self._config.sample_count, real).items():
            shown = replace(picture, images=picture.images.cpu())
            self._writer.submit(partial(_write_picture, log, name, shown, images_seen))

    def _measure(self) -> tuple[Score | None, bool]:
        """Measure the model. Returns: its score, if any, and whether it is the best so far."""

        def tell(done: int, total: int) -> None:
            activity.begin(activity.VALIDATING, self._step)
            if self._workers.is_first:
                doing = f"validating: {done:,}/{total:,} images"
                self._callbacks.progress(self._progress(doing))

        is_last = self._step == self._total_steps
        self._validation_metrics = self._validation.measure(
            self._model, self._workers, tell, is_last
        )
        self._write_scalars(self._validation_metrics)
        self._show_codes()
        score: Score | None = None
        is_better = False
        if self._objective.metric in self._validation_metrics:
            value = self._objective.sign * self._objective.value(self._validation_metrics)
            if math.isfinite(value):
                metric = self._objective.metric
                score = Score(value, metric, self._validation.count_of(metric))
                is_better = self._best is None or value < self._best
                self._best = value if is_better else self._best
        # Only the first worker knows the quality of samples.
        [better] = self._workers.broadcast([int(is_better)])
        return score, bool(better)

    def _show_codes(self) -> None:
        count, folder = self._config.projector_images, self._run.folder
        if self._log and self._model.can_encode and count:
            shown = codes_of(self._model, self._validation.images, count)
            if shown:
                self._writer.submit(lambda: write_projector(folder, shown))

    def _write_scalars(self, values: dict[str, float]) -> None:
        log, position = self._log, self._position
        if log:
            self._writer.submit(lambda: log.scalars(values, position))

    def _flush(self) -> None:
        if self._log:
            self._flushed = self._writer.submit(self._log.flush)

    def _save(self, score: Score | None, has_measured: bool, must: bool) -> None:
        """Save a checkpoint. Args: must: whether to wait for the one before, if need be."""
        check_weights(self._model.networks, self._step)
        if not self._workers.is_first or (not must and self._saves.put_off()):
            return
        activity.begin(activity.SAVING, self._step)
        check_stall(self._config, self._saves.seconds)
        self._saves.wait()
        snapshot, position = Snapshot.of(self._model), self._position
        metrics, flushed = self._metrics if has_measured else {}, self._flushed

        def save() -> None:
            # A run that goes on from this checkpoint does not log again what came before it.
            if flushed:
                flushed.result()
            self._run.check_owner()
            checkpoint.write(
                self._run.checkpoints,
                snapshot,
                position,
                self._about,
                self._config.keep,
                score,
                metrics,
            )
            if self._config.evaluates(position.global_step, self._total_steps):
                self._callbacks.saved(position.global_step)

        self._saves.begin(save)
        if self._is_waiting:
            self._saves.wait()
            self._callbacks.waiting()
        if metrics:
            if self._callbacks.needs_checkpoints:
                self._saves.wait()
            self._callbacks.measured(self._progress())

    def _progress(self, doing: str = "") -> Progress:
        return Progress(
            self._images_seen,
            self._total_images,
            self._since_first_step.images_per_second,
            self._metrics,
            self._seconds,
            doing,
        )

    @property
    def _metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return self._training_metrics | self._validation_metrics

    @property
    def _seconds(self) -> float:
        """Time spent training, over all sessions of the run."""
        return self._start.seconds + time.monotonic() - self._began_at

    @property
    def _position(self) -> Position:
        return replace(
            self._start,
            global_step=self._step,
            images_seen=self._images_seen,
            seconds=self._seconds,
        )


def _write_picture(log: RunLog, name: str, picture: Picture, images_seen: int) -> None:
    log.picture(name, grid(picture.images, picture.columns), images_seen)


def _seed_dropout(seed: int, step: Step, device: torch.device) -> None:
    """Make what dropout draws in this step a function of the run, step and worker alone.

    A resumed run thus draws what an uninterrupted one would have drawn. Only the device's generator
    is seeded, because seeding all of them takes as long as some of a step's kernels.
    """
    state = np.random.SeedSequence((DROPOUT_NOISE, seed, step.number, step.rank)).generate_state(1)
    generator = torch.default_generator
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generator = torch.cuda.default_generators[index]
    generator.manual_seed(int(state[0]))


def _finish(device: torch.device) -> None:
    """Wait for the device, so that timings include its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
