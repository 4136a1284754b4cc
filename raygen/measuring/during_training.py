"""Evaluations of checkpoints while their run goes on training."""

import contextlib
import threading
from collections import deque
from types import TracebackType
from typing import Self

from ray.exceptions import RayTaskError

from raygen.core.errors import UserError, one_line
from raygen.core.progress import Silence
from raygen.data.splits import VALIDATION
from raygen.evaluation.metrics import metric_of
from raygen.evaluation.record import (
    EvaluatedCheckpoint,
    Evaluation,
    add_evaluation,
    read_evaluations,
)
from raygen.inference.options import LEAST_SAMPLES, EvaluateOptions
from raygen.measuring.dispatch import Aside
from raygen.measuring.measurement import Kept, Measurement
from raygen.measuring.subjects import RealImages, Subject
from raygen.training import checkpoint_index
from raygen.training.session import Session

END_SECONDS = 10
"""Time to wait for an evaluation that was called off, in seconds."""


class Evaluations:
    """Evaluates a run's checkpoints, one at a time, in a thread and a process beside the training.

    While one is evaluated, the newest of those that are saved meanwhile waits, and the others are
    left out. An evaluation that fails is told in one line, and does not matter to the training.
    """

    def __init__(self, session: Session) -> None:
        """Raises: UserError if there are too few validation images."""
        self._session = session
        self._changed = threading.Condition()
        self._waiting = self._running = 0
        self._ended = False
        self._news: deque[str] = deque()
        self._known: set[int] = set()
        self._kept = Kept()
        self._aside: Aside | None = None
        self._thread: threading.Thread | None = None
        count = session.manifest.rows(VALIDATION)
        if session.config.evaluate_images and count < LEAST_SAMPLES:
            raise UserError(
                f"--evaluate-images: {session.data.uri} has {count} validation images, but "
                f"{LEAST_SAMPLES} at least are needed; prepare more"
            )

    def begin(self) -> None:
        """Have the newest checkpoint evaluated that is due but was not, as after a job was killed.

        Raises: UserError if earlier evaluations cannot be read.
        """
        config, run = self._session.config, self._session.run
        if not config.evaluate_images:
            return
        self._known = {evaluated.step for evaluated in read_evaluations(run.folder)}
        steps = [checkpoint_index.step_of(n) for n in checkpoint_index.complete(run.checkpoints)]
        due = [step for step in steps if config.evaluates(step, self._session.total_steps)]
        # If a newer one was evaluated, this one was left out on purpose.
        if due and due[-1] > max(self._known, default=0):
            self.saved(due[-1])

    def saved(self, step: int) -> None:
        """Have a complete checkpoint evaluated, once nothing else is."""
        with self._changed:
            # Workers that start again after a failure may save a checkpoint once more.
            if step in self._known:
                return
            self._known.add(step)
            self._waiting = step
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def unfinished(self) -> int:
        """The newest step that is still to be evaluated; 0 if there is none."""
        with self._changed:
            return self._waiting or self._running

    def news(self) -> list[str]:
        """Lines for the user about what has ended since the last call."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Call off what is unfinished."""
        with self._changed:
            self._ended, self._waiting = True, 0
            self._changed.notify_all()
        self._stop_process()
        if self._thread:
            self._thread.join(END_SECONDS)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = 0
                self._changed.wait_for(lambda: self._ended or self._waiting)
                if self._ended:
                    return
                step = self._running = self._waiting
                self._waiting = 0
            try:
                self._tell(step, self._evaluate(step))
            except Exception as error:
                if not self._ended:
                    self._news.append(self._failure(step, error))
                self._stop_process()
                # What it left may be lost with it.
                self._kept = Kept()

    def _evaluate(self, step: int) -> Evaluation:
        session = self._session
        with self._changed:
            if self._aside is None:
                self._aside = Aside()
            aside = self._aside
        run = session.run.folder
        real = RealImages(session.data, session.manifest, VALIDATION)
        subject = Subject(run.uri, real, run, session.config, step)
        options = EvaluateOptions()
        found = Measurement(subject, options, {}, Silence(), aside, self._kept).run()
        session.run.check_owner()
        images_seen = step * session.config.step_images
        add_evaluation(run, EvaluatedCheckpoint(images_seen, step, found))
        return found

    def _tell(self, step: int, found: Evaluation) -> None:
        measured = found.metrics[found.objective]
        self._news.append(
            f"evaluated step {step:,}: {metric_of(found.objective).name} {measured.value:.4g} "
            f"({measured.low:.4g} to {measured.high:.4g})"
        )

    def _failure(self, step: int, error: Exception) -> str:
        with contextlib.suppress(Exception):
            saved = checkpoint_index.at_step(self._session.run.checkpoints, step)
            if not saved.exists(checkpoint_index.STATE):
                return (
                    f"step {step:,} is not evaluated: its checkpoint was deleted meanwhile; keep "
                    "more of them (--keep), or evaluate less often (--evaluate-images)"
                )
        cause = error.cause if isinstance(error, RayTaskError) else error
        return f"step {step:,} is not evaluated: {one_line(cause)}"

    def _stop_process(self) -> None:
        with self._changed:
            aside, self._aside = self._aside, None
        if aside:
            aside.close()
