"""Train a model, on a Ray cluster or on this machine: what `jobs/train.py` does."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from raygen.cli import (
    Interrupted,
    TrainCommand,
    command_line,
    named_options,
    watch_command,
)
from raygen.cluster import connection as cluster
from raygen.cluster.lease import Lease, only_owner
from raygen.core.errors import RunError, UserError
from raygen.core.progress import ProgressLine, describe, duration
from raygen.core.retry import OUTAGES
from raygen.core.signals import Signals
from raygen.core.status import Event, Notice, Progress, Started, State, Status
from raygen.data.dataset import check_files, draw_dataset, open_dataset
from raygen.data.shards.manifest import MANIFEST
from raygen.data.sources.source import TRAIN
from raygen.evaluation.metrics import progress_text
from raygen.training import first_run
from raygen.training.placement import Placement, plan_workers
from raygen.training.ray_worker import RUN, fit
from raygen.training.record import RunRecord
from raygen.training.run import RunFolder
from raygen.training.session import Session, check_compiler


def train(command: TrainCommand, argv: Sequence[str]) -> None:
    """Train, or go on with a run.

    Args: argv: the command line, which tells given options from defaults.
    Raises: UserError, RunError, Interrupted.
    """
    began_at = time.time()
    config, job = command.run, command.job
    run = RunFolder.at(job.storage, job.run_name)
    named = named_options(argv)
    chooses = first_run.may_be_first(config, named)
    if chooses and not job.restart and (begun := first_run.as_begun(config, named, run)):
        config, chooses = begun, False
    chooses = chooses and not named & first_run.LENGTH
    data, manifest = open_dataset(config, job.storage)
    run.check(config, job.restart)
    # Both have answered: from here on, they are waited for.
    run, data = run.patient(job.patience), data.patient(job.patience)

    line = ProgressLine()
    line.show("starting Ray")
    # The signals outermost, so that Ctrl-C just after the end does not spoil it.
    saving = "a checkpoint is being saved"
    with (
        Signals(line.close, saving) as signals,
        OUTAGES.told_to(line.warn),
        # Left after Ray, whose workers may write until it has ended.
        contextlib.ExitStack() as leases,
        cluster.connected(job.verbose),
        contextlib.ExitStack() as stack,
    ):
        placement = plan_workers(config, cluster.nodes(), cluster.possible_nodes())
        if chooses:
            line.show("measuring how fast this machine is")
            config = first_run.fitting(config, named, placement.use_gpu)
            data = open_dataset(config, job.storage)[0].patient(job.patience)
        read = {"--data": data.join(MANIFEST)} if manifest else {}
        cluster.check_shared(read, {"--storage": run.folder.parent})
        lease = leases.enter_context(only_owner(run.folder, "--run-name", line.show))
        run = replace(run, fence=lease.fence)
        # Another job may have been at work here until just now.
        run.check(config, job.restart)
        status = stack.enter_context(cluster.own_actor(Status))
        if manifest is None:
            manifest = draw_dataset(config, data, line)
        elif job.restart:
            check_files(data, manifest, line)
        workers, use_gpu = placement.workers, placement.use_gpu
        session = Session(config, run, data, manifest, workers, use_gpu, job.verbose)
        if not run.begins_anew(job.restart):
            run.check_dataset(config.data, manifest.fingerprint)
        if config.compile and not use_gpu:
            check_compiler(torch.device("cpu"))
        total_steps = session.total_steps
        # From here on, something that was there may be deleted.
        run.open(config, job.restart)
        line.close()
        done = run.position().global_step
        if done >= total_steps:
            print(
                f"this run is complete at step {done:,}; go on with a larger --steps or --epochs, "
                "or start over with --restart"
            )
        else:
            if chooses:
                print(first_run.describe(config))
            print(
                f"{config.preset}: {total_steps:,} steps of {config.batch_size} images on "
                f"{workers} {'GPU' if use_gpu else 'CPU'} workers; "
                f"{manifest.rows(TRAIN):,} training images in {data.uri}"
            )
            if done:
                print(f"resuming {run.folder.uri} at step {done:,}")
            watcher = Watcher(line, signals, placement, lease)
            record = RunRecord(session, "training", began_at)
            record.begin()
            try:
                outcome = fit(session, watcher, signals.stop, placement, status)
            except (UserError, RunError):
                record.fail()
                raise
            line.close()
            if outcome.finished:
                signals.ignore()
            record.end(outcome)
            if not outcome.finished:
                raise Interrupted(
                    f"interrupted: saved at step {outcome.position.global_step:,} of "
                    f"{total_steps:,}; the same command goes on from there"
                )
            print(
                f"done: {outcome.position.images_seen:,} images seen, "
                f"{outcome.images_per_second:,.0f} images/s, "
                f"{duration(time.time() - began_at)} in all{progress_text(outcome.metrics)}"
            )
        print(f"pictures:    {run.samples.uri}")
        if chooses:
            again = [*argv, "--steps", str(5 * total_steps)]
            print(f"go on:       {command_line('jobs/train.py', *again)}")
        print(f"TensorBoard: {watch_command(run.folder.parent)}")


SILENT_SECONDS = 30
"""Steps take less. After a failure it is half a minute or more until workers are there again."""
BUSY_SECONDS = 10
"""Workers that have room have begun to start by then."""


class Watcher:
    """Shows what is known of a run as one line."""

    def __init__(
        self, line: ProgressLine, signals: Signals, placement: Placement, lease: Lease
    ) -> None:
        self._line = line
        self._lease = lease
        self._signals = signals
        self._placement = placement
        self._last: tuple[int, str] | None = None
        self._last_at = time.monotonic()
        self._groups = 0
        self._outage = ""

    def __call__(self, state: State) -> None:
        """Raises: RunError if the run is another job's by now."""
        self._lease.check()
        for event in state.events:
            self._tell(event)
        if state.outage != self._outage:
            self._line.warn(state.outage)
            self._outage = state.outage
        progress: Progress | None = state.progress.get(RUN)
        now, last = time.monotonic(), (progress.images_seen, progress.doing) if progress else None
        if last != self._last:
            self._last, self._last_at = last, now
        silent = now - self._last_at
        if progress is None:
            self._line.show(f"starting workers, {duration(silent)} so far{self._awaited(silent)}")
            return
        self._signals.save()
        text = describe(progress.images_seen, progress.total_images, progress.images_per_second)
        stopping = "stopping: " if self._signals.stop.is_set() else ""
        if silent > SILENT_SECONDS and not state.outage:
            doing = f"no word from the workers for {duration(silent)}{self._awaited(silent)} - "
        else:
            doing = f"{progress.doing} - " if progress.doing else ""
        self._line.show(stopping + doing + text + progress_text(progress.metrics))

    def _tell(self, event: Event) -> None:
        text = event.text if isinstance(event, Notice) else ""
        if isinstance(event, Started):
            if 1 < event.group > self._groups:
                text = f"a worker failed; going on from step {event.step:,}"
            self._groups = event.group
        if text:
            self._line.close()
            print(text)

    def _awaited(self, silent: float) -> str:
        """What has yet to come, by an autoscaler or after a node was lost, or to become free."""
        missing = self._placement.missing(cluster.nodes())
        if missing:
            return f"; {missing}"
        if silent > BUSY_SECONDS and cluster.waits_for_others():
            name = self._placement.resource
            free, wanted = cluster.free(name), self._placement.wanted
            return f"; {free:g} of {wanted:g} {name}s are free, other jobs have the rest"
        return ""
