"""Measure trained models, or any images, on images that nothing was chosen on."""

import math
from collections.abc import Sequence

from ray.exceptions import RayTaskError

from raygen.cli import command_line
from raygen.cluster import connection as cluster
from raygen.core.destination import file_to_write
from raygen.core.errors import UserError, one_line
from raygen.core.progress import ProgressLine
from raygen.core.retry import OUTAGES
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.splits import TEST, VALIDATION
from raygen.evaluation.metrics import metric_of
from raygen.evaluation.pretrained import load_weights
from raygen.evaluation.record import FILE, Evaluation
from raygen.inference.dataset import dataset_of
from raygen.inference.model import best_or_last, find_checkpoint, open_run
from raygen.inference.options import LEAST_SAMPLES, EvaluateOptions
from raygen.measuring.dispatch import cause_of
from raygen.measuring.measurement import Kept, Measurement
from raygen.measuring.subjects import RealImages, Subject
from raygen.measuring.tasks import Extractors


def evaluate(options: EvaluateOptions, line: ProgressLine | None = None) -> list[Evaluation]:
    """Measure runs, or a folder of images, and write what was found.

    Args: line: shows the progress and what is found; None: on the terminal.
    Returns: an evaluation for each run.
    Raises: UserError, RunError.
    """
    if bool(options.runs) == bool(options.images):
        raise UserError("RUN: name one run or more, or a folder of images with --images")
    if options.out and len(options.runs) > 1:
        raise UserError("--out: is one file, but there are several runs; leave it out")
    # Everything that could refuse is asked before anything takes time.
    extractors = {e.name: e for e in (load_weights(path) for path in options.weights)}
    subjects = [_open_run(run, options) for run in options.runs]
    if options.images:
        subjects.append(_open_images(options))
    line = line or ProgressLine()
    with OUTAGES.told_to(line.warn):
        return measure(subjects, options, extractors, line)


def measure(
    subjects: Sequence[Subject],
    options: EvaluateOptions,
    extractors: Extractors,
    line: ProgressLine,
    problems: dict[str, str] | None = None,
) -> list[Evaluation]:
    """Measure what is described, write what was found, and tell it.

    Args:
        extractors: besides raygen's own.
        problems: where to note why a subject cannot be measured, by its name, and go on with the
            others; None: that ends the work.
    Raises: UserError, RunError.
    """
    patience = options.patience
    # All storages have answered once. From now on, outages are waited for.
    subjects = [subject.patient(patience) for subject in subjects]
    targets = [_target(subject, options).patient(patience) for subject in subjects]
    found = []
    try:
        line.show("starting Ray")
        with cluster.connected(options.verbose):
            for subject in subjects:
                cluster.check_shared({"--data": subject.real.folder}, {})
            kept, measured_on = Kept(), ""
            for subject, target in zip(subjects, targets, strict=True):
                dataset = subject.real.manifest.fingerprint
                kept = kept.for_another_run() if dataset == measured_on else Kept()
                measured_on = dataset
                try:
                    evaluation = Measurement(subject, options, extractors, line, kept=kept).run()
                except (RayTaskError, UserError) as error:
                    if problems is None:
                        raise
                    known = cause_of(error) if isinstance(error, RayTaskError) else error
                    problems[subject.name] = one_line(known)
                    continue
                found.append(evaluation)
                target.parent.write_json(target.name, evaluation.to_json())
                line.close()
                _report(subject, evaluation, target, line)
    except RayTaskError as error:
        raise cause_of(error) from error
    finally:
        line.close()
    return found


def _open_run(path: str, options: EvaluateOptions) -> Subject:
    """Raises: UserError if there is no such run, or neither a checkpoint nor its dataset."""
    run, config = open_run(path)
    which = options.checkpoint
    step = best_or_last(run) if which == "best" else find_checkpoint(run, which)
    again = command_line("jobs/evaluate.py", path, "--data", config.data)
    data = dataset_of(run.folder, config, options.data, path, again)
    real = open_data(data)
    config.check_images(real.manifest.height, real.manifest.width)
    return Subject(path, real, run.folder, config, step, trained_on=run.dataset())


def _open_images(options: EvaluateOptions) -> Subject:
    if not options.data:
        raise UserError("--images: needs --data, the dataset of real images to compare them with")
    return Subject(options.images, open_data(Folder.at(options.data)), images=options.images)


def open_data(data: Folder) -> RealImages:
    """A dataset to measure on: its test split, or the validation split if it has none.

    Raises: UserError if it is no dataset, or has too few images.
    """
    manifest = Manifest.load(data)
    real = RealImages(data, manifest, TEST if manifest.rows(TEST) else VALIDATION)
    count = manifest.rows(real.split)
    if count < LEAST_SAMPLES:
        raise UserError(
            f"--data {data.uri}: has {count} {real.split} images, but {LEAST_SAMPLES} at least are "
            "needed; prepare more"
        )
    return real


def _target(subject: Subject, options: EvaluateOptions) -> Folder:
    if options.out:
        return file_to_write("--out", options.out, FILE)
    if subject.run:
        return subject.run.join(f"{subject.evaluation_name}.json")
    return file_to_write("--out", "", FILE)


def _report(subject: Subject, evaluation: Evaluation, target: Folder, line: ProgressLine) -> None:
    """Tell an evaluation as a table."""
    about = evaluation.about
    step = f", step {subject.step:,}" if subject.run else ""
    line.tell(
        f"{subject.name}{step}: {about['samples']:,} images against as many of the "
        f"{about['split']} split"
    )
    shown = [(metric_of(tag).name, m) for tag, m in evaluation.metrics.items()]
    width = max(len(name) for name, _ in shown)
    line.tell(
        f"{'':{width}} {'value':>10} {'95 % interval':>23} {'real images':>12} {'untrained':>10}"
    )
    for name, m in shown:
        interval = f"{_number(m.low)} to {_number(m.high)}"
        line.tell(
            f"{name:{width}} {_number(m.value):>10} {interval:>23} {_number(m.floor):>12} "
            f"{_number(m.untrained):>10}"
        )
    line.tell(f"written to {target.uri}")


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"
