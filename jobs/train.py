"""Train a model on a Ray cluster, or on this machine if there is none.

python jobs/train.py dcgan-celeba --data data/celeba-32 --steps 1500
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from raygen import cluster
from raygen.cli import Interrupted, command_line, parse_train, run_job
from raygen.config import DRAWN, PRESETS
from raygen.data.drawn_faces import VERSION
from raygen.data.shards import Manifest, prepare
from raygen.data.sources import TRAIN, DrawnFaces
from raygen.progress import ProgressLine, describe, duration
from raygen.storage import Folder
from raygen.training.ray_worker import Report, Session, fit, plan_workers, summary
from raygen.training.run import SUMMARY, RunFolder


def main(argv: Sequence[str]) -> None:
    began_at = time.time()
    command = parse_train(argv, "Train a model. The same command again resumes the run.")
    config, job = command.run, command.job
    image = PRESETS[config.preset].image
    run = RunFolder.at(job.storage, job.run_name)
    manifest = None
    if config.data == DRAWN:
        # Beside the runs, where every worker of a cluster can read it.
        name = f"drawn-v{VERSION}-{image.size}-{config.drawn_count}"
        data = Folder.at(job.storage).join("datasets", name)
    else:
        data = Folder.at(config.data)
        manifest = Manifest.load(data)
        config.check_images(manifest.height, manifest.width)
    run.open(config, job.restart)

    line = ProgressLine()
    line.show("starting Ray")
    with cluster.connected(job.verbose):
        num_workers, use_gpu = plan_workers(config)
        if manifest is None:
            manifest = prepare(
                DrawnFaces(config.drawn_count),
                data,
                image,
                progress=lambda done, total, rate: line.show(
                    f"drawing faces: {describe(done, total, rate)}"
                ),
            )
        line.close()
        session = Session(config, run, data, manifest, num_workers, use_gpu, job.verbose)
        total_steps = session.total_steps
        print(
            f"{config.preset}: {total_steps:,} steps of {config.batch_size} images on "
            f"{num_workers} {'GPU' if use_gpu else 'CPU'} workers; "
            f"{manifest.rows(TRAIN):,} training images in {data.uri}"
        )
        run.check_dataset(config.data, manifest.fingerprint)
        done = run.position().global_step
        if done >= total_steps:
            print(
                f"this run is complete at step {done:,}; go on with a larger --steps or --epochs, "
                "or start over with --restart"
            )
        else:
            with _stop_on_signals(line) as stop:
                outcome = fit(session, Watcher(line, began_at), stop)
            if not outcome.finished:
                raise Interrupted(
                    f"interrupted: saved at step {outcome.position.global_step:,} of "
                    f"{total_steps:,}; the same command goes on from there"
                )
            run.folder.write_json(SUMMARY, summary(session, outcome, began_at))
            print(
                f"done: {outcome.position.images_seen:,} images seen, "
                f"{outcome.images_per_second:,.0f} images/s, "
                f"{duration(time.time() - began_at)} in all"
            )
    print(f"pictures:    {run.samples.uri}")
    print(f"TensorBoard: {command_line('tensorboard', '--logdir', job.storage)}")


class Watcher:
    """Shows what the monitor knows as one line."""

    def __init__(self, line: ProgressLine, began_at: float) -> None:
        self._line = line
        self._began_at = began_at
        self._groups = 0

    def __call__(self, report: Report) -> None:
        if report.groups > self._groups:
            if self._groups:
                self._print(f"a worker failed; going on from step {report.resumed_at:,}")
            elif report.resumed_at:
                self._print(f"resuming at step {report.resumed_at:,}")
            self._groups = report.groups
        progress = report.progress
        if progress is None:
            self._line.show(f"starting workers, {duration(time.time() - self._began_at)}")
            return
        text = describe(progress.images_seen, progress.total_images, progress.images_per_second)
        for name in ("loss/discriminator", "loss/generator", "accuracy/discriminator"):
            if name in progress.metrics:
                text += f" - {name} {progress.metrics[name]:.3f}"
        self._line.show(text)

    def _print(self, text: str) -> None:
        self._line.close()
        print(text)


@contextlib.contextmanager
def _stop_on_signals(line: ProgressLine) -> Iterator[threading.Event]:
    """An event that Ctrl-C, or SIGTERM as from `ray job stop`, sets; a second Ctrl-C quits."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        line.close()
        print("stopping: a checkpoint is being saved (Ctrl-C once more quits at once)")

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        line.close()
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(run_job(main))
