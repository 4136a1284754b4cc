"""Train a model, on a Ray cluster or on this machine: the work of `jobs/train.py`."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from raygen.cli import TrainCommand, command_line, watch_command
from raygen.cluster import connection as cluster
from raygen.cluster.lease import Lease
from raygen.core.errors import Interrupted, RunError, UserError
from raygen.core.printable import printable
from raygen.core.progress import ProgressLine, describe, duration
from raygen.core.retry import OUTAGES
from raygen.core.signals import Signals
from raygen.core.status import (
    RUN,
    Callbacks,
    Event,
    Group,
    Measured,
    Notice,
    Progress,
    Saved,
    Started,
    State,
    tell_rejected,
)
from raygen.data.dataset import check_files, draw_as_begun, open_dataset, place_of
from raygen.data.splits import TRAIN
from raygen.evaluation.metrics import progress_text
from raygen.launch import launched, list_rejected
from raygen.training import first_run
from raygen.training.placement import Placement, plan_workers
from raygen.training.run import RunFolder
from raygen.training.session import Session
from raygen.training.summary import Summary, read_summary

if TYPE_CHECKING:
    from raygen.measuring.during_training import Evaluations
    from raygen.training.record import RunRecord

SAVING = "a checkpoint is being saved"
POLL_SECONDS = 0.25
LONG_WAIT = 0.05
"""Share of a run's time spent waiting for images from which on the user is told so."""


def train(
    command: TrainCommand,
    named: frozenset[str],
    argv: Sequence[str] = (),
    line: ProgressLine | None = None,
    callbacks: Callbacks | None = None,
) -> Summary:
    """Start a run, or resume it.

    Args:
        named: names of the options that the user gave; a first run chooses some of the others.
        argv: the command line, if there is one, for a message that repeats it.
        line: shows the progress; None: on the terminal.
        callbacks: called in this process with the run's progress and events.
    Returns: how the run ended.
    Raises: UserError, RunError, Interrupted.
    """
    began_at, repeated = time.time(), OUTAGES.retries
    line = line or ProgressLine()
    config, job = command.run, command.job
    run = RunFolder.at(job.storage, job.run_name)
    chooses = first_run.may_be_first(config, named)
    if chooses and not job.restart and (begun := first_run.as_begun(config, named, run)):
        config, chooses = begun, False
    chooses = chooses and not named & first_run.LENGTH
    config = run.resumed(config, job.restart)
    trained_on = "" if run.begins_anew(job.restart) else run.dataset()
    data, manifest = open_dataset(config, job.storage, trained_on)
    run.check(config, job.restart)
    # Both storages have answered once. From now on, outages are waited for.
    run, data = run.patient(job.patience), data.patient(job.patience)
    manifest = manifest and manifest.patient(job.patience)

    with launched(line, SAVING, job.verbose, prepare=_import_modules) as launch:
        # Only now, because `launched` has imported torch while Ray started.
        import torch

        from raygen.measuring.during_training import Evaluations
        from raygen.training.hardware import check_compiler
        from raygen.training.ray_driver import fit
        from raygen.training.record import RunRecord

        placement = plan_workers(config, cluster.nodes(), cluster.possible_nodes(job.machines))
        if chooses:
            line.show("measuring how fast this machine is")
            config = first_run.fitting(config, named, placement.use_gpu)
            data = open_dataset(config, job.storage)[0].patient(job.patience)
        lease = launch.own(run.folder, place_of(data, manifest) if manifest else None)
        run = replace(run, fence=lease.fence)
        # Check again, because another job may have changed the folder before this one owned it.
        run.check(config, job.restart)
        status = launch.status()
        if manifest is None:
            data, manifest = draw_as_begun(config, data, line, trained_on)
        elif job.restart:
            check_files(data, manifest, line)
        manifest = manifest.telling(partial(tell_rejected, status))
        workers, use_gpu = placement.workers, placement.use_gpu
        session = Session(config, run, data, manifest, workers, use_gpu, job.verbose)
        if not run.begins_anew(job.restart):
            run.check_dataset(config.data, manifest.fingerprint)
        if config.compile and not use_gpu:
            check_compiler(torch.device("cpu"))
        total_steps = session.total_steps
        evaluations = launch.keep(Evaluations(session))
        # Everything that could refuse has been asked; this may delete a run.
        run.open(config, job.restart)
        line.close()
        done = run.position().global_step
        evaluations.begin()
        if done >= total_steps:
            _await(evaluations, line, launch.signals, lease)
            line.tell(
                f"this run is complete at step {done:,}; go on with a larger --steps or --epochs, "
                "or start over with --restart"
            )
        else:
            _announce(session, placement, done, line, chooses)
            record = RunRecord(session, "training", began_at, repeated)
            record.begin()
            watcher = Watcher(line, launch.signals, placement, lease, callbacks or Callbacks())
            watcher.evaluations, watcher.record = evaluations, record
            try:
                outcome = fit(session, watcher, launch.signals.stop, placement, status)
            except (UserError, RunError):
                record.fail()
                raise
            finally:
                list_rejected(run.folder, manifest, status)
            line.close()
            if outcome.finished and not config.evaluate_images:
                launch.signals.ignore()
            record.end(outcome)
            if outcome.finished:
                _await(evaluations, line, launch.signals, lease)
                launch.signals.ignore()
            if not outcome.finished:
                raise Interrupted(
                    f"interrupted: saved at step {outcome.position.global_step:,} of "
                    f"{total_steps:,}; the same command goes on from there"
                )
            line.tell(
                f"done: {outcome.position.images_seen:,} images seen, "
                f"{outcome.images_per_second:,.0f} images/s, "
                f"{duration(time.time() - began_at)} in all{progress_text(outcome.metrics)}"
            )
            line.tell(f"updates:     {_updates(session, outcome.position.global_step)}")
            line.tell(f"used:        {record.meter.usage.describe(job.price)}")
            if record.retries.requests:
                line.tell(f"storage:     {record.retries}")
            if outcome.data_wait_fraction > LONG_WAIT:
                line.tell(_slow_stream(session, outcome.data_wait_fraction))
        line.tell(f"pictures:    {run.samples.uri}")
        if chooses and argv:
            again = [*argv, "--steps", str(5 * total_steps)]
            line.tell(f"go on:       {command_line('jobs/train.py', *again)}")
        line.tell(f"TensorBoard: {watch_command(run.folder.parent)}")
        return read_summary(run.folder)


def _await(evaluations: "Evaluations", line: ProgressLine, signals: Signals, lease: Lease) -> None:
    """Wait for the evaluation of the last checkpoint, or until the user ends the job."""
    began = time.monotonic()
    while step := evaluations.unfinished:
        if signals.stop.wait(POLL_SECONDS):
            line.tell(f"the evaluation of step {step:,} is left out; the same command makes it")
            break
        lease.check()
        line.show(f"evaluating step {step:,}, {duration(time.monotonic() - began)} so far")
    line.close()
    for text in evaluations.news():
        line.tell(text)


def _updates(session: Session, steps: int) -> str:
    """Format how often each network has been updated, as `generator 3,120, discriminator 3,120`."""
    updates = session.config.updates(steps, session.total_steps)
    return ", ".join(f"{name} {count:,}" for name, count in updates.items())


def _slow_stream(session: Session, waited: float) -> str:
    """Describe how long a run has waited for its images, and what helps."""
    if session.manifest.originals:
        again = ["folder", "--images", session.data.uri, "--size", session.manifest.size]
        prepare = command_line("jobs/prepare.py", *again, "--out", "DIR")
        advice = f"decoding them takes long; prepare them once: {prepare}"
    else:
        advice = "reading them takes long; more processors or a nearer storage help"
    return f"{waited:.0%} of the time went into waiting for images: {advice}"


def _import_modules() -> None:
    """Import what the job needs besides what `launched` imports."""
    import raygen.measuring.during_training  # noqa: F401


def _announce(
    session: Session, placement: Placement, done: int, line: ProgressLine, chosen: bool
) -> None:
    """Announce the training. Args: chosen: whether raygen chose size and length."""
    config, originals = session.config, session.manifest.originals
    for note in originals.notes if originals else ():
        line.tell(printable(note))
    if chosen:
        line.tell(first_run.describe(config))
    line.tell(
        f"{config.preset}: {session.total_steps:,} steps of {config.batch_size} images on "
        f"{placement.describe()}; "
        f"{session.manifest.rows(TRAIN):,} training images in {session.data.uri}"
    )
    if done:
        line.tell(f"resuming {session.run.folder.uri} at step {done:,}")


SILENT_SECONDS = 30
"""Time without progress after which workers count as absent, in seconds. Steps take less time, and
a restart after a failure takes half a minute or more."""
BUSY_SECONDS = 10
"""Time within which workers begin to start if the cluster has room for them, in seconds."""


USAGE_SECONDS = 300
"""Interval at which a run's usage is recorded, in seconds, in case that the job is killed."""


class Watcher:
    """Shows a run's state as one line, and forwards it to the callbacks."""

    def __init__(
        self,
        line: ProgressLine,
        signals: Signals,
        placement: Placement,
        lease: Lease,
        callbacks: Callbacks,
    ) -> None:
        self._line = line
        self._callbacks = callbacks
        self._lease = lease
        self._signals = signals
        self._placement = placement
        self._last: tuple[int, str] | None = None
        self._images_seen = 0
        self._last_at = time.monotonic()
        self._groups = self._workers = 0
        self._outage = ""
        self.evaluations: Evaluations | None = None
        self.record: RunRecord | None = None
        self._recorded_at = time.monotonic()

    def __call__(self, state: State) -> None:
        """Show a new state. Raises: RunError if another job has taken the run over."""
        self._lease.check()
        for event in state.events:
            self._tell(event)
        for text in self.evaluations.news() if self.evaluations else ():
            self._line.tell(text)
        if state.outage != self._outage:
            self._line.warn(state.outage)
            self._outage = state.outage
        progress: Progress | None = state.progress.get(RUN)
        now, last = time.monotonic(), (progress.images_seen, progress.doing) if progress else None
        if self.record and now > self._recorded_at + USAGE_SECONDS:
            self.record.keep_usage()
            self._recorded_at = now
        if last != self._last:
            self._last, self._last_at = last, now
        silent = now - self._last_at
        if progress is None:
            self._line.show(f"starting workers, {duration(silent)} so far{self._awaited(silent)}")
            return
        self._images_seen = progress.images_seen
        self._signals.save()
        if self._callbacks.progress(progress):
            self._signals.stop.set()
        text = describe(progress.images_seen, progress.total_images, progress.images_per_second)
        stopping = "stopping: " if self._signals.stop.is_set() else ""
        if silent > SILENT_SECONDS and not state.outage:
            doing = f"no word from the workers for {duration(silent)}{self._awaited(silent)} - "
        else:
            doing = f"{progress.doing} - " if progress.doing else ""
        self._line.show(stopping + doing + text + progress_text(progress.metrics))

    def _tell(self, event: Event) -> None:
        match event:
            case Notice(text):
                self._line.tell(text)
                self._callbacks.notice(text)
            case Group() if self.record:
                self.record.meter.group(event)
            case Started(step, group, workers, reason):
                if self.record:
                    self.record.meter.started(event, self._images_seen)
                self._images_seen = 0
                if 1 < group > self._groups:
                    reason = reason or "a worker failed"
                    count = f" with {workers} worker{'s'[workers == 1 :]}"
                    changed = count if workers != self._workers else ""
                    self._line.tell(f"{reason}; going on from step {step:,}{changed}")
                self._groups, self._workers = group, workers
                self._callbacks.started(step)
            case Measured(progress):
                self._callbacks.measured(progress)
            case Saved(step) if self.evaluations:
                self.evaluations.saved(step)

    def _awaited(self, silent: float) -> str:
        """Describe the resources that the run waits for: not started yet, lost, or in use."""
        missing = self._placement.missing(cluster.nodes())
        if missing:
            return f"; {missing}"
        if silent > BUSY_SECONDS and cluster.waits_for_others():
            name = self._placement.resource
            free, wanted = cluster.free(name), self._placement.wanted
            if free < wanted:
                return f"; {free:g} of {wanted:g} {name}s are free, other jobs have the rest"
        return ""
