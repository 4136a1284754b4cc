"""The measurement of a model, or of images, as Ray tasks."""

import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from raygen.cluster import connection as cluster
from raygen.core.errors import UserError
from raygen.core.progress import ProgressLine, describe
from raygen.core.version import VERSION
from raygen.data.pixels import as_images
from raygen.data.shards.reader import ShardReader
from raygen.data.sources.image_files import folder as folder_of_images
from raygen.data.splits import TEST, TRAIN, VALIDATION
from raygen.evaluation import measures
from raygen.evaluation.features import Extractor, random_vgg
from raygen.evaluation.grids import encode_png, grid
from raygen.evaluation.measures import FeatureSets, Figures
from raygen.evaluation.metrics import DOMAIN, RANDOM_VGG
from raygen.evaluation.neighbours import nearest_images
from raygen.evaluation.pretrained import PUBLISHED
from raygen.evaluation.record import Evaluation, Measured
from raygen.inference.options import LEAST_SAMPLES, EvaluateOptions
from raygen.measuring import tasks
from raygen.measuring.dispatch import Pool, Tasks, finished
from raygen.measuring.own_extractor import domain_extractor
from raygen.measuring.subjects import Subject
from raygen.measuring.tasks import Extractors
from raygen.tensorboard.run_log import write_events

PART = 250
"""Images of one task."""
RECONSTRUCTED = 2_000
"""Upper limit of the images that are reconstructed."""
NEAREST_SHOWN, PAIRS_PER_ROW = 16, 4
MODEL, FLOOR, UNTRAINED = "model", "floor", "untrained"


@dataclass(frozen=True)
class Gathered:
    """What figures are computed from.

    Attributes:
        count: number of images of each set.
        sets: references to the parts of each set of images; real: those of the real ones.
        features: features of each set, by extractor; of_real, train, others: those of the real
            images, of training images and of validation images, empty where there are none.
        train_rows: rows of the training images.
        encoded: references to what `encode` returns.
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


@dataclass
class Kept:
    """What is the same for all checkpoints of a run, or all runs, so that it is computed once.

    Attributes:
        extractors: those of the dataset; notes: what the user should know of them.
        images: tasks' results, by what they are of: their images and features, in parts.
        figures: those of real images and of the untrained network.
    """

    extractors: dict[str, Extractor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    images: dict[str, list[Any]] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)

    def for_another_run(self) -> "Kept":
        """What is the same for another run that is measured on the same images."""
        return Kept(
            self.extractors,
            self.notes,
            {which: parts for which, parts in self.images.items() if which != UNTRAINED},
            {which: found for which, found in self.figures.items() if which != UNTRAINED},
        )


class Measurement:
    """The measurement of one subject, as tasks of Ray."""

    def __init__(
        self,
        subject: Subject,
        options: EvaluateOptions,
        pretrained: Extractors,
        line: ProgressLine,
        pool: Pool | None = None,
        kept: Kept | None = None,
    ) -> None:
        """
        Args:
            pretrained: extractors besides raygen's own.
            line: shows the progress, and is told what the user should know.
            pool: where the work is done; None: in Ray tasks.
            kept: results of earlier measurements by the same options on the same images.
        """
        self._subject, self._options, self._line = subject, options, line
        self._real = subject.real
        self._pretrained = pretrained
        self._notes: list[str] = []
        self._gpus = 1 if cluster.total(cluster.nodes(), "GPU") >= 1 else 0
        self._pool, self._tasks = pool, pool or Tasks(self._gpus)
        self._kept = kept or Kept()

    def run(self) -> Evaluation:
        """Measure everything, draw the nearest pairs, and log the values to TensorBoard."""
        began = time.monotonic()
        extractors = self._extractors()
        self._best = DOMAIN if DOMAIN in extractors else RANDOM_VGG
        gathered = self._gather(self._count(), ray.put(extractors))
        metrics = self._measure(gathered, list(extractors))
        about = self._about(extractors, gathered.count, time.monotonic() - began)
        if self._subject.run and self._subject.config:
            self._draw_nearest(gathered)
            values = {tag: measured.value for tag, measured in metrics.items()}
            images_seen = self._subject.step * self._subject.config.step_images
            write_events(self._subject.pictures, values, images_seen)
        return Evaluation(f"{self._best}/fd", metrics, about)

    def _gather(self, count: int, extractors: Any) -> Gathered:
        """Generate, read and encode images, and extract their features.

        Args: count: images of each set; extractors: a reference to all of them.
        """
        self._shared = extractors
        subject, real = self._subject, self._real
        sets = {MODEL: self._fakes(count)}
        train_rows = real.rows(TRAIN, self._options.train_images, self._options.seed + 1)
        kept = self._kept.images
        if UNTRAINED not in kept:
            kept[UNTRAINED] = self._generated(count, untrained=True) if subject.run else []
        if FLOOR not in kept:
            # Training images are as real as test images: what they score is the floor.
            kept[FLOOR] = self._read(TRAIN, count, keep=True)
            kept["real"] = self._read(real.split, count, keep=True)
            kept["train"] = self._read_rows(TRAIN, train_rows)
            kept["others"] = self._read(VALIDATION, count) if real.split == TEST else []
        for which in (FLOOR, UNTRAINED):
            if kept[which] and which not in self._kept.figures:
                sets[which] = kept[which]
        encoded = self._encoded(count) if subject.can_encode else []
        made = [part for parts in (sets[MODEL], *kept.values()) for part in parts]
        self._wait([*made, *encoded])
        return Gathered(
            count,
            {which: [part[0] for part in parts] for which, parts in sets.items()},
            [part[0] for part in kept["real"]],
            {which: _features(parts) for which, parts in sets.items()},
            _features(kept["real"]),
            _features(kept["train"]),
            _features(kept["others"]),
            train_rows,
            encoded,
        )

    def _measure(self, gathered: Gathered, extractors: Sequence[str]) -> dict[str, Measured]:
        """Compute all figures of all sets, each in a task of its own."""
        seed = self._options.seed
        computing: list[tuple[str, Any]] = []
        for extractor in extractors:
            for kind in measures.OF_FEATURES:
                for which in gathered.sets:
                    if sets := gathered.feature_sets(which, kind, extractor):
                        given = (kind, extractor, sets, seed)
                        found = self._tasks.submit(tasks.feature_figures, *given)
                        computing.append((which, found))
        self._same_size = self._has_one_size(gathered.sets[MODEL])
        for kind in measures.OF_IMAGES if self._same_size else ():
            for which, parts in gathered.sets.items():
                both = (kind, seed, len(gathered.real), *gathered.real, *parts)
                found = self._tasks.submit(tasks.image_figures, *both, on_gpu=False)
                computing.append((which, found))
        if gathered.encoded:
            dimensions = math.prod(self._real.manifest.shape(1))
            given = (dimensions, seed, *gathered.encoded)
            found = self._tasks.submit(tasks.reconstruction_figures, *given, on_gpu=False)
            computing.append((MODEL, found))
        for done in finished([figures for _, figures in computing]):
            self._line.show(f"comparing: {done} of {len(computing)} computations")
        by_set: dict[str, Figures] = {MODEL: {}, FLOOR: {}, UNTRAINED: {}} | self._kept.figures
        for which, figures in computing:
            by_set[which] |= ray.get(figures)
        self._kept.figures = {which: by_set[which] for which in (FLOOR, UNTRAINED)}
        return _joined(by_set, extractors)

    def _extractors(self) -> dict[str, Extractor]:
        if not self._kept.extractors:
            self._kept.extractors = self._find_extractors()
            self._kept.notes = list(self._notes)
        self._notes = list(self._kept.notes)
        return self._kept.extractors

    def _find_extractors(self) -> dict[str, Extractor]:
        found = {RANDOM_VGG: random_vgg()}
        trained = domain_extractor(
            self._real.folder, self._real.manifest, self._line, self._gpus, self._note, self._pool
        )
        if trained:
            found[DOMAIN] = trained.extractor
            self._note(
                f"the extractor {DOMAIN} knows {len(trained.attributes)} attributes, "
                f"{trained.accuracy:.1%} of the time (by chance: {trained.chance:.1%})"
            )
        missing = [name for name in PUBLISHED if name not in self._pretrained]
        if missing:
            addresses = "; ".join(f"{name} from {PUBLISHED[name].url}" for name in missing)
            self._note(
                f"for features of pretrained networks, fetch and name with --weights: {addresses}"
            )
        return found | dict(self._pretrained)

    def _count(self) -> int:
        """How many images of each kind are compared."""
        wanted = self._options.samples
        count = min(wanted, self._real.manifest.rows(self._real.split))
        if not self._real.manifest.rows(TEST):
            self._note(
                "the dataset has no test split, so the validation images are measured on, which "
                "checkpoints and settings may have been chosen on; prepare it again for one"
            )
        elsewhere = self._subject.trained_on not in ("", self._real.manifest.fingerprint)
        if elsewhere and not self._subject.becomes:
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
        return [
            self._tasks.submit(
                tasks.read_files, self._subject.images, first, stop, self._shared, returns=2
            )
            for first, stop in _parts(count)
        ]

    def _generated(self, count: int, untrained: bool = False) -> list[Any]:
        subject = self._subject
        assert subject.run
        return [
            self._tasks.submit(
                tasks.sample,
                subject.run,
                subject.step,
                untrained,
                (first, stop, count),
                self._options.seed,
                self._shared,
                subject.becomes,
                returns=2,
            )
            for first, stop in _parts(count)
        ]

    def _read(self, split: str, count: int, keep: bool = False) -> list[Any]:
        """Read at most so many images. Args: keep: keep them beside their features."""
        return self._read_rows(split, self._real.rows(split, count, self._options.seed), keep)

    def _read_rows(self, split: str, rows: np.ndarray, keep: bool = False) -> list[Any]:
        return [
            self._tasks.submit(
                tasks.read,
                self._real.folder,
                self._real.manifest,
                split,
                rows[first:stop],
                self._shared,
                keep,
                returns=2,
            )
            for first, stop in _parts(len(rows))
        ]

    def _encoded(self, count: int) -> list[Any]:
        rows = self._real.rows(self._real.split, min(count, RECONSTRUCTED), self._options.seed)
        assert self._subject.run
        return [
            self._tasks.submit(
                tasks.encode,
                self._subject.run,
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
        for done in finished(small):
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

    def _draw_nearest(self, gathered: Gathered) -> None:
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
        self._subject.pictures.write_bytes("nearest.png", sheet)

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
            "reduced_to": self._subject.becomes and self._subject.becomes.size,
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
