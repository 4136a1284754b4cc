"""Measure trained models, or any images, on images that nothing was chosen on."""

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayTaskError

from raygen.cli import command_line
from raygen.cluster import connection as cluster
from raygen.config.run import RunConfig
from raygen.core.destination import file_to_write
from raygen.core.errors import RunError, UserError, one_line
from raygen.core.progress import ProgressLine, describe
from raygen.core.storage import Folder
from raygen.core.version import VERSION
from raygen.data.images import BadImage
from raygen.data.pixels import as_images
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.sources.image_files import folder as folder_of_images
from raygen.data.splits import TEST, TRAIN, VALIDATION
from raygen.evaluation import domain, measures
from raygen.evaluation.features import RANDOM_VGG, Extractor, random_vgg
from raygen.evaluation.grids import encode_png, grid, to_uint8
from raygen.evaluation.measures import Autoencoded, FeatureSets, Figure, Figures, ImageSets
from raygen.evaluation.metrics import metric_of
from raygen.evaluation.neighbours import nearest_images
from raygen.evaluation.pretrained import PUBLISHED, load_weights
from raygen.evaluation.record import FILE, Evaluation, Measured
from raygen.inference.dataset import dataset_of
from raygen.inference.model import TrainedModel, find_checkpoint, load, open_run
from raygen.inference.options import LEAST_SAMPLES, EvaluateOptions
from raygen.models import build_model
from raygen.tensorboard.run_log import write_events

PART = 250
"""Images of one task."""
RECONSTRUCTED = 2_000
"""Upper limit of the images that are reconstructed."""
NEAREST_SHOWN, PAIRS_PER_ROW = 16, 4
FOLDER = "evaluation"
"""Folder in a run's for pictures and TensorBoard's events."""
MODEL, FLOOR, UNTRAINED = "model", "floor", "untrained"

Extractors = Mapping[str, Extractor]
Part = tuple[np.ndarray, dict[str, np.ndarray]]
"""Images, (N, H, W, 3) uint8, and their features by extractor."""


@dataclass(frozen=True)
class RealImages:
    """The dataset that images are compared with.

    Attributes: split: where the real images come from that nothing was chosen on.
    """

    folder: Folder
    manifest: Manifest

    @property
    def split(self) -> str:
        return TEST if self.manifest.rows(TEST) else VALIDATION

    def rows(self, split: str, most: int, seed: int) -> np.ndarray:
        """At most so many rows of a split, drawn without replacement, in order."""
        order = np.random.default_rng((seed, len(split))).permutation(self.manifest.rows(split))
        return np.sort(order[:most])


@dataclass(frozen=True)
class Subject:
    """What is measured: a run's model or images.

    Attributes:
        name: for messages; run: the run's folder, or None; step: the checkpoint's.
        real: what it is compared with.
        trained_on: fingerprint of the dataset that the run was trained on; empty: not known.
    """

    name: str
    real: RealImages
    run: Folder | None = None
    config: RunConfig | None = None
    step: int = 0
    images: str = ""
    trained_on: str = ""

    @cached_property
    def can_encode(self) -> bool:
        if not self.config:
            return False
        with torch.device("meta"):
            return build_model(self.config).can_encode


def evaluate(options: EvaluateOptions, line: ProgressLine | None = None) -> list[Evaluation]:
    """Measure runs, or a folder of images, and write what was found.

    Returns: an evaluation for each run.
    Raises: UserError, RunError.
    """
    if bool(options.runs) == bool(options.images):
        raise UserError("RUN: name one run or more, or a folder of images with --images")
    if options.out and len(options.runs) > 1:
        raise UserError("--out: is one file, but there are several runs; leave it out")
    line = line or ProgressLine()
    # Everything that could refuse is asked before anything takes time.
    extractors = {e.name: e for e in (load_weights(path) for path in options.weights)}
    subjects = [_open_run(run, options) for run in options.runs]
    if options.images:
        subjects.append(_open_images(options))
    targets = [_target(subject, options) for subject in subjects]
    found = []
    try:
        line.show("starting Ray")
        with cluster.connected(options.verbose):
            for subject in subjects:
                cluster.check_shared({"--data": subject.real.folder}, {})
            for subject, target in zip(subjects, targets, strict=True):
                evaluation = _Job(subject, options, extractors, line).run()
                found.append(evaluation)
                target.parent.write_json(target.name, evaluation.to_json())
                line.close()
                _report(subject, evaluation, target)
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, UserError) else RunError(one_line(error)) from error
    finally:
        line.close()
    return found


def _open_run(path: str, options: EvaluateOptions) -> Subject:
    """Raises: UserError if there is no such run, or neither a checkpoint nor its dataset."""
    run, config = open_run(path)
    which = options.checkpoint
    try:
        step = find_checkpoint(run, which)
    except UserError:
        if which != "best":
            raise
        step = find_checkpoint(run, "last")
    again = command_line("jobs/evaluate.py", path, "--data", config.data)
    data = dataset_of(run.folder, config, options.data, path, again)
    real = _open_data(data)
    config.check_images(real.manifest.height, real.manifest.width)
    return Subject(path, real, run.folder, config, step, trained_on=run.dataset())


def _open_images(options: EvaluateOptions) -> Subject:
    if not options.data:
        raise UserError("--images: needs --data, the dataset of real images to compare them with")
    return Subject(options.images, _open_data(Folder.at(options.data)), images=options.images)


def _open_data(data: Folder) -> RealImages:
    manifest = Manifest.load(data)
    real = RealImages(data, manifest)
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
    return subject.run.join(FILE) if subject.run else file_to_write("--out", "", FILE)


@dataclass(frozen=True)
class _Gathered:
    """What figures are computed from.

    Attributes:
        count: number of images of each set.
        sets: references to the parts of each set of images; real: those of the real ones.
        features: features of each set, by extractor; of_real, train, others: those of the real
            images, of training images and of validation images, empty where there are none.
        train_rows: rows of the training images.
        encoded: references to what `_encode` returns.
    """

    count: int
    sets: Mapping[str, Sequence[Any]]
    real: Sequence[Any]
    features: Mapping[str, Mapping[str, np.ndarray]]
    of_real: Mapping[str, np.ndarray]
    train: Mapping[str, np.ndarray]
    others: Mapping[str, np.ndarray]
    train_rows: np.ndarray
    encoded: Sequence[Any]

    def feature_sets(self, which: str, kind: str, extractor: str) -> FeatureSets | None:
        """What a kind of figures of a set needs; None if there is nothing to compute."""
        nothing = np.empty((0, 0), np.float32)
        fake, train = self.features[which][extractor], nothing
        if kind == "memorisation":
            train = self.train.get(extractor, nothing)
            if which == FLOOR:
                # Training images are no nearer to training images than themselves.
                fake = self.others.get(extractor, nothing)
        return FeatureSets(self.of_real[extractor], fake, train) if len(fake) else None


class _Job:
    """The measurement of one subject, as tasks of Ray."""

    def __init__(
        self,
        subject: Subject,
        options: EvaluateOptions,
        pretrained: Extractors,
        line: ProgressLine,
    ) -> None:
        self._subject, self._options, self._line = subject, options, line
        self._real = subject.real
        self._pretrained = pretrained
        self._notes: list[str] = []
        self._gpus = 1 if cluster.total(cluster.nodes(), "GPU") >= 1 else 0

    def run(self) -> Evaluation:
        """Measure everything, draw the nearest pairs, and log the values to TensorBoard."""
        began = time.monotonic()
        extractors = self._extractors()
        self._best = domain.DOMAIN if domain.DOMAIN in extractors else RANDOM_VGG
        gathered = self._gather(self._count(), ray.put(extractors))
        metrics = self._measure(gathered, list(extractors))
        about = self._about(extractors, gathered.count, time.monotonic() - began)
        if self._subject.run and self._subject.config:
            self._draw_nearest(gathered)
            values = {tag: measured.value for tag, measured in metrics.items()}
            images_seen = self._subject.step * self._subject.config.step_images
            write_events(self._subject.run.join(FOLDER), values, images_seen)
        return Evaluation(f"{self._best}/fd", metrics, about)

    def _gather(self, count: int, extractors: Any) -> "_Gathered":
        """Generate, read and encode images, and extract their features.

        Args: count: images of each set; extractors: a reference to all of them.
        """
        self._shared = extractors
        subject, real = self._subject, self._real
        sets = {MODEL: self._fakes(count)}
        # Training images are as real as test images: what they score is the floor.
        sets[FLOOR] = self._read(TRAIN, count, keep=True)
        if subject.run:
            sets[UNTRAINED] = self._generated(count, untrained=True)
        reals = self._read(real.split, count, keep=True)
        train_rows = real.rows(TRAIN, self._options.train_images, self._options.seed + 1)
        train = self._read_rows(TRAIN, train_rows)
        others = self._read(VALIDATION, count) if real.split == TEST else []
        encoded = self._encoded(count) if subject.can_encode else []
        made = [part for parts in sets.values() for part in parts]
        self._wait([*made, *reals, *train, *others, *encoded])
        return _Gathered(
            count,
            {which: [part[0] for part in parts] for which, parts in sets.items()},
            [part[0] for part in reals],
            {which: _features(parts) for which, parts in sets.items()},
            _features(reals),
            _features(train),
            _features(others),
            train_rows,
            encoded,
        )

    def _measure(self, gathered: "_Gathered", extractors: Sequence[str]) -> dict[str, Measured]:
        """Compute all figures of all sets, each in a task of its own."""
        seed = self._options.seed
        tasks: list[tuple[str, Any]] = []
        of_features = _task(_feature_figures, self._gpus)
        for extractor in extractors:
            for kind in measures.OF_FEATURES:
                for which in gathered.sets:
                    if sets := gathered.feature_sets(which, kind, extractor):
                        tasks.append((which, of_features.remote(kind, extractor, sets, seed)))
        self._same_size = self._has_one_size(gathered.sets[MODEL])
        for kind in measures.OF_IMAGES if self._same_size else ():
            for which, parts in gathered.sets.items():
                both = (len(gathered.real), *gathered.real, *parts)
                tasks.append((which, _task(_image_figures, 0).remote(kind, seed, *both)))
        if gathered.encoded:
            dimensions = math.prod(self._real.manifest.shape(1))
            reconstruct = _task(_reconstruction_figures, 0)
            tasks.append((MODEL, reconstruct.remote(dimensions, seed, *gathered.encoded)))
        for done in _finished([task for _, task in tasks]):
            self._line.show(f"comparing: {done} of {len(tasks)} computations")
        by_set: dict[str, Figures] = {MODEL: {}, FLOOR: {}, UNTRAINED: {}}
        for which, task in tasks:
            by_set[which] |= ray.get(task)
        return _joined(by_set, extractors)

    def _extractors(self) -> dict[str, Extractor]:
        found = {RANDOM_VGG: random_vgg()}
        if trained := self._domain():
            found[domain.DOMAIN] = trained.extractor
            self._note(
                f"the extractor {domain.DOMAIN} knows {len(trained.attributes)} attributes, "
                f"{trained.accuracy:.1%} of the time (by chance: {trained.chance:.1%})"
            )
        missing = [name for name in PUBLISHED if name not in self._pretrained]
        if missing:
            addresses = "; ".join(f"{name} from {PUBLISHED[name].url}" for name in missing)
            self._note(
                f"for features of pretrained networks, fetch and name with --weights: {addresses}"
            )
        return found | dict(self._pretrained)

    def _domain(self) -> domain.Domain | None:
        """The dataset's own extractor, which is trained if it is not there yet."""
        manifest, place = self._real.manifest, self._real.folder
        if not manifest.attributes or manifest.originals:
            return None
        name = domain.file_name(manifest.fingerprint, manifest.height, manifest.width)
        if found := domain.load(place, name):
            return found
        self._line.show("training the extractor of the dataset's attributes")
        task = _task(_train_domain, self._gpus, cores=max(1, int(cluster.free("CPU"))))
        trained: domain.Domain | None = ray.get(task.remote(place, manifest))
        if trained:
            try:
                domain.save(trained, place, name)
            except (OSError, RunError) as error:
                self._note(f"the extractor is not kept in {place.uri}: {one_line(error)}")
        return trained

    def _count(self) -> int:
        """How many images of each kind are compared."""
        wanted = self._options.samples
        count = min(wanted, self._real.manifest.rows(self._real.split))
        if self._real.split != TEST:
            self._note(
                "the dataset has no test split, so the validation images are measured on, which "
                "checkpoints and settings may have been chosen on; prepare it again for one"
            )
        if self._subject.trained_on not in ("", self._real.manifest.fingerprint):
            self._note(
                f"the run was trained on another dataset than {self._real.folder.uri}, which may "
                "have had these images among its training images"
            )
        if self._subject.images:
            count = min(count, len(folder_of_images(self._subject.images).ids))
            if count < LEAST_SAMPLES:
                raise UserError(
                    f"--images {self._subject.images}: holds {count} images, but {LEAST_SAMPLES} "
                    "at least are needed"
                )
        if count < wanted:
            self._note(f"{count:,} images are compared, not {wanted:,}, because there are no more")
        return count

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._line.tell(text)

    def _fakes(self, count: int) -> list[Any]:
        if not self._subject.images:
            return self._generated(count)
        read = _task(_read_files, self._gpus)
        return [
            read.options(num_returns=2).remote(self._subject.images, first, stop, self._shared)
            for first, stop in _parts(count)
        ]

    def _generated(self, count: int, untrained: bool = False) -> list[Any]:
        subject = self._subject
        assert subject.run
        sample = _task(_sample, self._gpus)
        return [
            sample.options(num_returns=2).remote(
                subject.run.uri,
                subject.step,
                untrained,
                (first, stop, count),
                self._options.seed,
                self._shared,
            )
            for first, stop in _parts(count)
        ]

    def _read(self, split: str, count: int, keep: bool = False) -> list[Any]:
        """Read at most so many images. Args: keep: keep them beside their features."""
        return self._read_rows(split, self._real.rows(split, count, self._options.seed), keep)

    def _read_rows(self, split: str, rows: np.ndarray, keep: bool = False) -> list[Any]:
        read = _task(_read, self._gpus)
        return [
            read.options(num_returns=2).remote(
                self._real.folder,
                self._real.manifest,
                split,
                rows[first:stop],
                self._shared,
                keep,
            )
            for first, stop in _parts(len(rows))
        ]

    def _encoded(self, count: int) -> list[Any]:
        rows = self._real.rows(self._real.split, min(count, RECONSTRUCTED), self._options.seed)
        assert self._subject.run
        encode = _task(_encode, self._gpus)
        return [
            encode.remote(
                self._subject.run.uri,
                self._subject.step,
                self._real.folder,
                self._real.manifest,
                self._real.split,
                rows[first:stop],
            )
            for first, stop in _parts(len(rows))
        ]

    def _wait(self, parts: Sequence[Any]) -> None:
        """Wait for tasks, each of which handles `PART` images, and show the progress."""
        small = [part[1] if isinstance(part, list) else part for part in parts]
        began, total = time.monotonic(), len(small)
        for done in _finished(small):
            images = done * PART
            rate = images / max(time.monotonic() - began, 1e-6)
            self._line.show(f"sampling and reading: {describe(images, total * PART, rate)}")

    def _has_one_size(self, fakes: Sequence[Any]) -> bool:
        """Whether generated and real images have one size, so that they can be compared as such."""
        shape = ray.get(fakes[0]).shape[1:3]
        manifest = self._real.manifest
        if shape == (manifest.height, manifest.width):
            return True
        self._note(
            f"{self._subject.name}: images of {shape[0]}x{shape[1]} against {manifest.size} are "
            "compared by their features alone"
        )
        return False

    def _draw_nearest(self, gathered: "_Gathered") -> None:
        """Draw the samples that are nearest to training images, each beside its nearest one."""
        if not len(gathered.train_rows) or not self._same_size:
            return
        fake = gathered.features[MODEL][self._best]
        nearest, distance = nearest_images(gathered.train[self._best], fake)
        closest = np.argsort(distance, kind="stable")[:NEAREST_SHOWN]
        images = np.concatenate(ray.get(gathered.sets[MODEL]))[closest]
        reader = ShardReader(self._real.folder, self._real.manifest, TRAIN)
        beside = reader.images(gathered.train_rows[nearest[closest]])
        pairs = np.stack([images, beside], axis=1).reshape(-1, *images.shape[1:])
        sheet = encode_png(grid(as_images(pairs), 2 * PAIRS_PER_ROW))
        assert self._subject.run
        self._subject.run.join(FOLDER).write_bytes("nearest.png", sheet)

    def _about(self, extractors: Extractors, count: int, seconds: float) -> dict[str, Any]:
        manifest, config = self._real.manifest, self._subject.config
        return {
            "model": self._subject.name,
            "preset": config.preset if config else None,
            "step": self._subject.step if config else None,
            "seed": self._options.seed,
            "samples": count,
            "data": self._real.folder.uri,
            "dataset": manifest.fingerprint,
            "split": self._real.split,
            "quantised": "8 bits",
            "extractors": {
                name: {"sha256": e.sha256, "dimensions": e.dimensions, "resizer": e.resizer}
                for name, e in extractors.items()
            },
            "notes": self._notes,
            "raygen": VERSION,
            "torch": torch.__version__,
            "machine": machine(),
            "seconds": round(seconds, 1),
        }


def machine() -> str:
    """The processor of this machine, and the number of its cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            entry.split(":")[1].strip() for entry in lines if entry.startswith("model name")
        )
    except (OSError, StopIteration, IndexError):
        pass
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return ", ".join([f"{name}, {os.cpu_count()} cores", *gpus])


def _parts(count: int) -> list[tuple[int, int]]:
    return [(first, min(first + PART, count)) for first in range(0, count, PART)]


def _task(function: Callable[..., Any], gpus: float, cores: int = 1) -> Any:
    return ray.remote(num_cpus=cores, num_gpus=gpus)(function)


def _finished(tasks: Sequence[Any]) -> Iterator[int]:
    """Wait for tasks; yield how many have finished so far, each time one has.

    Raises: RayTaskError if one of them fails.
    """
    waiting = list(tasks)
    while waiting:
        done, waiting = ray.wait(waiting, timeout=cluster.ANSWER_SECONDS)
        # Their results are small; what matters is the error that a task may have raised.
        ray.get(done)
        if done:
            yield len(tasks) - len(waiting)
        elif not cluster.is_alive():
            raise RunError("the connection to Ray is lost; run the same command again")


def _features(parts: Sequence[Any]) -> dict[str, np.ndarray]:
    """Join the features of parts, by extractor."""
    found = ray.get([part[1] for part in parts])
    names = found[0] if found else {}
    return {name: np.concatenate([part[name] for part in found]) for name in names}


def _joined(by_set: Mapping[str, Figures], extractors: Sequence[str]) -> dict[str, Measured]:
    def value(which: str, tag: str) -> float:
        figure = by_set[which].get(tag)
        return figure.value if figure else math.nan

    return {
        tag: Measured(
            figure.value,
            figure.low,
            figure.high,
            value(FLOOR, tag),
            value(UNTRAINED, tag),
            figure.n,
            next((name for name in extractors if tag.startswith(f"{name}/")), ""),
        )
        for tag, figure in by_set[MODEL].items()
    }


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _extracted(images: np.ndarray, extractors: Extractors) -> dict[str, np.ndarray]:
    device = _device()
    return {name: e.to(device).features([images], device) for name, e in extractors.items()}


def _sample(
    run: str,
    step: int,
    untrained: bool,
    part: tuple[int, int, int],
    seed: int,
    extractors: Extractors,
) -> Part:
    """Generate a part of a run's samples. Args: part: first, stop, and number of all samples."""
    if untrained:
        model = build_model(open_run(run)[1])
        model.to(torch.device(_device()))
        trained = TrainedModel(model, 0)
    else:
        trained = load(run, step, _device())
    first, stop, count = part
    images = to_uint8(trained.from_noise(trained.codes(count, seed)[first:stop]))
    return images, _extracted(images, extractors)


def _read(
    folder: Folder,
    manifest: Manifest,
    split: str,
    rows: np.ndarray,
    extractors: Extractors,
    keep: bool,
) -> Part:
    """Read rows of a split. Args: keep: whether to return the images too."""
    images = ShardReader(folder, manifest, split).images(rows)
    return (images if keep else images[:0]), _extracted(images, extractors)


def _read_files(images: str, first: int, stop: int, extractors: Extractors) -> Part:
    """Read image files, which have to be of one size. Raises: UserError."""
    source = folder_of_images(images)
    found: list[np.ndarray] = []
    for position in range(first, stop):
        name = source.ids[position]
        try:
            image, _ = source.open(position, source.read(position))
            pixels = np.asarray(image.convert("RGB"))
        except (BadImage, OSError) as error:
            raise UserError(f"--images {name}: cannot be read ({one_line(error)})") from error
        if found and pixels.shape != found[0].shape:
            sizes = [f"{p.shape[0]}x{p.shape[1]}" for p in (found[0], pixels)]
            raise UserError(
                f"--images {images}: {name} is {sizes[1]}, but others are {sizes[0]}; images have "
                "to be of one size"
            )
        found.append(pixels)
    together = np.stack(found)
    return together, _extracted(together, extractors)


def _encode(
    run: str, step: int, folder: Folder, manifest: Manifest, split: str, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Reconstruct rows of a split: similarities, latents and errors, by name."""
    trained = load(run, step, _device())
    images = as_images(ShardReader(folder, manifest, split).images(rows))
    noise = trained.codes(manifest.rows(split), 1)[torch.from_numpy(rows)]
    found: dict[str, list[np.ndarray]] = {}
    for some, drawn in zip(
        images.split(trained.at_once), noise.split(trained.at_once), strict=True
    ):
        with torch.no_grad():
            mean, log_var = (v.float().cpu() for v in trained.model.encode(some))
        decoded = trained.decode(mean)
        error = (trained.decode(mean + (log_var / 2).exp() * drawn) - some).square()
        values = measures.compare_reconstructions(some, decoded) | {
            "mean": mean.numpy(),
            "log_var": log_var.numpy(),
            "error": error.mean(dim=(1, 2, 3)).numpy(),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _feature_figures(kind: str, extractor: str, sets: FeatureSets, seed: int) -> Figures:
    figures = measures.OF_FEATURES[kind](sets, seed, _device())
    return {f"{extractor}/{name}": figure for name, figure in figures.items()}


def _image_figures(kind: str, seed: int, reals: int, *parts: np.ndarray) -> Figures:
    """Args: parts: parts of the real images, then of the others."""
    real, fake = np.concatenate(parts[:reals]), np.concatenate(parts[reals:])
    count = min(len(real), len(fake))
    return measures.OF_IMAGES[kind](ImageSets(real[:count], fake[:count]), seed)


def _reconstruction_figures(
    dimensions: int, seed: int, *parts: Mapping[str, np.ndarray]
) -> dict[str, Figure]:
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return measures.reconstruction_figures(Autoencoded(dimensions=dimensions, **joined), seed)


def _train_domain(folder: Folder, manifest: Manifest) -> domain.Domain | None:
    def read(split: str, most: int) -> tuple[np.ndarray, np.ndarray]:
        reader = ShardReader(folder, manifest, split)
        total = manifest.rows(split)
        rows = np.sort(np.random.default_rng(0).permutation(total)[:most])
        found = [reader.read(part) for part in np.array_split(rows, -(-len(rows) // PART))]
        images = np.concatenate([domain.reduced(part.images) for part in found])
        return images, np.concatenate([part.attributes for part in found])

    images, values = read(TRAIN, domain.MOST_IMAGES)
    held_out = read(VALIDATION, domain.MOST_IMAGES)
    return domain.train(images, values, held_out, manifest.attributes, device=_device())


def _report(subject: Subject, evaluation: Evaluation, target: Folder) -> None:
    """Print an evaluation as a table."""
    about = evaluation.about
    step = f", step {subject.step:,}" if subject.run else ""
    print(
        f"{subject.name}{step}: {about['samples']:,} images against as many of the "
        f"{about['split']} split"
    )
    shown = [(metric_of(tag).name, m) for tag, m in evaluation.metrics.items()]
    width = max(len(name) for name, _ in shown)
    print(f"{'':{width}} {'value':>10} {'95 % interval':>23} {'real images':>12} {'untrained':>10}")
    for name, m in shown:
        interval = f"{_number(m.low)} to {_number(m.high)}"
        print(
            f"{name:{width}} {_number(m.value):>10} {interval:>23} {_number(m.floor):>12} "
            f"{_number(m.untrained):>10}"
        )
    print(f"written to {target.uri}")


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"
