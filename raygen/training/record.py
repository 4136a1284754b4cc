"""Records that a run keeps of its beginning, progress and end.

These are `summary.json` and, for a training, its record on TensorBoard's HParams page. A trial's
record there is written by its sweep, which knows the search space.
"""

import contextlib
import time
from dataclasses import replace

import torch

from raygen.config.domains import Value
from raygen.core.errors import RunError, UserError
from raygen.core.history import last_values, read_history
from raygen.core.retry import OUTAGES, Retries
from raygen.core.status import Outcome, Position, Progress
from raygen.core.storage import Folder
from raygen.core.version import VERSION
from raygen.tensorboard import hparams
from raygen.training import checkpoint_index
from raygen.training.run import SUMMARY, RunFolder
from raygen.training.session import Session
from raygen.training.summary import Best, RunKind, RunStatus, Summary, read_summary
from raygen.training.usage import Meter, Usage

RATE, WAIT = "throughput/images_per_second", "throughput/data_wait_fraction"
"""Tags of throughput, which is known even for a run that did not finish."""


class RunRecord:
    """Keeps a run's records up to date. Only the run's owner may use it."""

    def __init__(
        self,
        session: Session,
        kind: RunKind,
        began_at: float,
        repeated: Retries | None = None,
    ) -> None:
        """
        Args:
            began_at: Unix time of the job's, or the trial's, start in seconds.
            repeated: the requests that this process had repeated by then; None: all until now.
        """
        self._session = session
        self._kind = kind
        self._began_at = began_at
        # Only a training is told of its groups of workers.
        before = self._usage() if kind == "training" else Usage()
        self.meter = Meter(before, session.config.step_images)
        self._before = OUTAGES.retries if repeated is None else repeated
        self.retries = Retries()
        """The storage's requests that this session had repeated when it was last recorded."""

    def begin(self) -> None:
        """Record that a session begins at the latest checkpoint. Raises: UserError; RunError."""
        run, options = self._session.run, self._session.config.explicit.to_json()
        self._write(run, "running", *self._saved())
        if self._kind == "training":
            values = {name: value for name, value in options.items() if isinstance(value, Value)}
            hparams.write_start(run.folder, run.folder.name, {}, values, self._began_at)

    def measured(self, progress: Progress) -> None:
        """Record that the networks were measured and saved. Raises: UserError; RunError."""
        seen, config = progress.images_seen, self._session.config
        position = Position(seen // config.step_images, seen)
        self._write(self._session.run, "running", position, progress.metrics)

    def end(self, outcome: Outcome) -> None:
        """Record that the session ended normally. Raises: UserError; RunError."""
        status: RunStatus = "finished" if outcome.finished else "interrupted"
        # Workers that were lost leave an outcome without metrics.
        metrics = outcome.metrics or self._saved()[1]
        self._write(self._session.run, status, outcome.position, metrics, outcome)
        if self._kind == "training" and outcome.finished:
            hparams.write_end(self._session.run.folder, succeeded=True)

    def fail(self) -> None:
        """Record that the session failed. Raises nothing, so as not to hide the cause."""
        run = self._session.run
        # The cause may be a storage that was waited for already, or another job that owns the run.
        fence = run.fence.at_once() if run.fence else None
        run = replace(run, folder=run.folder.patient(0), fence=fence)
        with contextlib.suppress(RunError, UserError, OSError):
            self._write(run, "failed", *self._saved(run))
            if self._kind == "training":
                hparams.write_end(run.folder, succeeded=False)

    def keep_usage(self) -> None:
        """Record what the run has taken up to now. Raises nothing: it is recorded later, too."""
        folder = self._session.run.folder.patient(0)
        with contextlib.suppress(RunError, UserError, OSError):
            summary = replace(read_summary(folder), usage=self.meter.usage)
            folder.write_json(SUMMARY, summary.to_json())

    def _usage(self) -> Usage:
        """What the run's earlier sessions have taken."""
        try:
            return read_summary(self._session.run.folder).usage
        except (FileNotFoundError, NotADirectoryError, UserError):
            return Usage()

    def _saved(self, run: RunFolder | None = None) -> tuple[Position, dict[str, float]]:
        """The position of the latest checkpoint, and the last value of each metric there."""
        run = run or self._session.run
        latest = run.latest_checkpoint()
        if latest is None:
            return Position(), {}
        state = checkpoint_index.read_checked_state(latest)
        position = checkpoint_index.position_of(state)
        history = [m for m in read_history(run.folder) if m.images_seen <= position.images_seen]
        # Runs of earlier versions have no history.
        return position, last_values(history) or state.value.get("metrics") or {}

    def _write(
        self,
        run: RunFolder,
        status: RunStatus,
        position: Position,
        metrics: dict[str, float],
        outcome: Outcome | None = None,
    ) -> None:
        session, now = self._session, time.time()
        rate = outcome.images_per_second if outcome else metrics.get(RATE, 0.0)
        wait = outcome.data_wait_fraction if outcome else metrics.get(WAIT, 0.0)
        first = outcome.first_step_at if outcome else 0.0
        best = checkpoint_index.best(run.checkpoints)
        self.retries = OUTAGES.retries.since(self._before)
        summary = Summary(
            preset=session.config.preset,
            images_seen=position.images_seen,
            global_step=position.global_step,
            seconds=round(now - self._began_at, 2),
            images_per_second=round(rate, 1),
            seconds_to_first_step=round(first - self._began_at, 2) if first else None,
            data_wait_fraction=round(wait, 5),
            num_workers=self.meter.workers or session.num_workers,
            device="cuda" if session.use_gpu else "cpu",
            metrics=metrics,
            data=session.data.uri,
            kind=self._kind,
            run_name=run.folder.name,
            status=status,
            best=Best(best[1].value, best[1].metric, best[0]) if best else None,
            dataset=session.manifest.fingerprint,
            began_at=round(self._began_at, 2),
            ended_at=None if status == "running" else round(now, 2),
            raygen_version=VERSION,
            torch_version=str(torch.__version__),
            total_steps=session.total_steps,
            updates=session.config.updates(position.global_step, session.total_steps),
            usage=self.meter.usage,
            retries=self.retries,
        )
        run.check_owner()
        run.folder.write_json(SUMMARY, summary.to_json())


def note_end(folder: Folder, status: RunStatus) -> None:
    """Record the end of a run that could not do so itself, if it has begun.

    Args: folder: the run's folder.
    Raises: RunError if the storage does not answer any more.
    """
    try:
        summary = read_summary(folder)
    except (FileNotFoundError, NotADirectoryError, UserError):
        return
    if summary.status != status:
        folder.write_json(SUMMARY, replace(summary, status=status, ended_at=time.time()).to_json())
