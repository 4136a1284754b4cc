"""One worker's part of a run, from the latest checkpoint on. Does not start Ray."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.distributed as dist

from raygen.core.errors import RunError
from raygen.core.status import Callbacks, Outcome, Position, Progress
from raygen.core.storage import Folder
from raygen.data.shards.reader import HeldOut
from raygen.data.splits import TRAIN, VALIDATION
from raygen.data.stream.prefetch import Prefetcher
from raygen.data.stream.stream import ReadAhead, own_threads
from raygen.evaluation.metrics import COMPUTED
from raygen.models import build_model
from raygen.models.base import Model
from raygen.tensorboard.run_log import RunLog
from raygen.training import checkpoint, checkpoint_index
from raygen.training.ending import never
from raygen.training.finite import NotFinite
from raygen.training.hardware import check_compiler, use_bf16, use_fast_paths
from raygen.training.session import Session
from raygen.training.trainer import Trainer
from raygen.training.validation import Quality, Validation
from raygen.training.workers import Workers

MOST_RESTORES = 3


def run_session(
    session: Session,
    workers: Workers,
    callbacks: Callbacks,
    read: ReadAhead = own_threads,
    ends_at: Callable[[], float] = never,
) -> Outcome:
    """Train one run on this worker, together with the others, until its end or until it stops.

    Args:
        callbacks: called on the first worker alone.
        read: what reads the images ahead.
        ends_at: when these workers will be ended; see `Ending`.
    Raises: RunError if a loss is not finite and recovery is off or was tried too often; UserError
        for mistakes that only show now.
    """
    restores = 0
    saved = _latest_checkpoint(session, workers)
    while True:
        start = checkpoint_index.read_position(saved) if saved else Position()
        restores = max(restores, start.restores)
        try:
            return _train_from(session, workers, callbacks, read, ends_at, saved, start, restores)
        except NotFinite as problem:
            saved = _latest_checkpoint(session, workers)
            said = f"{problem}; the last good checkpoint is {saved.uri if saved else 'none'}"
            if session.config.on_nan == "stop":
                raise RunError(
                    f"{said}. Go on from it with halved learning rates (--on-nan restore), or "
                    "start another run with lower ones"
                ) from problem
            if restores == MOST_RESTORES:
                raise RunError(
                    f"{said}. The learning rates have been halved {restores} times already; start "
                    "another run with other options"
                ) from problem
            restores += 1
            if workers.is_first:
                step = checkpoint_index.step_of(saved.name) if saved else 0
                callbacks.notice(
                    f"{problem}; going on from step {step:,} with learning rates halved "
                    f"({restores} of at most {MOST_RESTORES} times)"
                )


def _latest_checkpoint(session: Session, workers: Workers) -> Folder | None:
    """The checkpoint to go on from, if there is one.

    The first worker decides, so that all agree even while files appear and disappear.
    """
    folder = session.run.checkpoints
    latest = 0
    if workers.is_first:
        session.run.check_owner()
        # Workers that were killed while saving leave incomplete checkpoints.
        checkpoint_index.clean(folder)
        found = checkpoint_index.latest(folder)
        latest = checkpoint_index.step_of(found.name) if found else 0
    [step] = workers.broadcast([latest])
    return checkpoint_index.at_step(folder, step) if step else None


def _train_from(
    session: Session,
    workers: Workers,
    callbacks: Callbacks,
    read: ReadAhead,
    ends_at: Callable[[], float],
    saved: Folder | None,
    start: Position,
    restores: int,
) -> Outcome:
    """Train from a checkpoint, or from the beginning.

    Args: start: the checkpoint, or None; restores: how often to halve the learning rates.
    """
    config, run, manifest = session.config, session.run, session.manifest
    use_fast_paths(workers.device, config.deterministic)
    batches = session.stream.batches(
        start.global_step, session.total_steps, workers.rank, workers.world_size, read
    )
    # Start reading now, so that it overlaps with building the networks.
    with contextlib.ExitStack() as stack:
        feed = stack.enter_context(Prefetcher(batches, pin_memory=workers.device.type == "cuda"))
        model = build_model(config)
        model.to(workers.device)
        if saved:
            checkpoint.load(saved, model)
        _halve_learning_rates(model, restores - start.restores)
        start = replace(start, restores=restores)
        model.bf16 = use_bf16(config.precision, workers.device)
        if config.compile:
            check_compiler(workers.device)
            model.compile()
        if dist.is_initialized():
            model.distribute(config.sync_bn)
        held_out = HeldOut.of(
            session.data, manifest, VALIDATION, config.validation_count, session.stored
        )
        compared = HeldOut.of(
            session.data, manifest, VALIDATION, session.quality_samples, session.stored
        )
        # In a sweep, what its trials are not compared by is measured at their end alone.
        is_trial = session.chosen is not None and session.chosen.metric not in COMPUTED
        quality = Quality(compared, session.extractor, pixels_at_end=is_trial)
        every = config.validate_images or manifest.rows(TRAIN)
        validation = Validation(held_out, every, quality)
        log = None
        if workers.is_first:
            callbacks.started(start.global_step)
            state = checkpoint_index.read_state(saved) if saved else {}
            known = state.get("metrics")
            # A checkpoint cloned from another trial carries that trial's metrics; skip them.
            if known and state["about"].get("run") == run.folder.name:
                total = session.total_images(start)
                callbacks.measured(Progress(start.images_seen, total, 0.0, known, start.seconds))
            log = stack.enter_context(RunLog(run.folder, start.images_seen))
            log.text("config", _as_table(config.explicit.to_json()))
        trainer = Trainer(session, model, validation, workers, start, log, callbacks, ends_at)
        return trainer.train(feed)


def _halve_learning_rates(model: Model, times: int) -> None:
    for optimizer in model.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] *= 0.5**times


def _as_table(values: dict[str, Any]) -> str:
    """Format options as a Markdown table, which TensorBoard renders."""
    rows = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join(["| option | value |", "|---|---|", *rows])
