"""Measures how long evaluating takes, and how much memory, beyond sampling.

Every metric that needs no weights from elsewhere is computed as `jobs/evaluate.py` does it, in Ray
tasks of one core each, of made-up images: what is computed does not depend on what they show.
"""

import os
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray

from raygen.benchmarks.figures import Figure, local_ray, say, seconds_for
from raygen.benchmarks.options import EvaluateBenchOptions
from raygen.config.run import PRESETS
from raygen.evaluation import domain, measures
from raygen.evaluation.features import RESIZER, Extractor, random_vgg, weights_hash
from raygen.evaluation.measures import FeatureSets
from raygen.evaluation.metrics import DOMAIN
from raygen.inference.model import TrainedModel
from raygen.measuring import tasks
from raygen.measuring.dispatch import finished, task
from raygen.measuring.measurement import PART
from raygen.models import build_model

CORES = 2
SIZE = 64
ATTRIBUTES = 20
"""Outputs of the `domain` extractor, which has the size that it has for drawn faces."""
PRESET = "dcgan-celeba"
SAMPLED = 1_000
"""Samples whose generation is timed."""
FULL = 10_000
"""Number of images that the target is for."""
MOST_SECONDS = 120.0
Timed = tuple[Any, float, float]
"""A task's result, the seconds that it took, and the most memory that its process had, in GiB."""


def evaluate(options: EvaluateBenchOptions) -> list[Figure]:
    """Measure all figures."""
    count = options.images
    with local_ray(CORES):
        _warm_up()
        sampling = _sampling_seconds() / SAMPLED
        say(f"drawing {2 * count + options.train_images:,} images")
        numbers = (count, count, options.train_images)
        made = ray.get([task(_images, 0).remote(seed, n) for seed, n in enumerate(numbers)])
        real, fake, train = (ray.put(images) for images in made)
        del made
        began = time.monotonic()
        extracted, seconds = _extract([real, fake, train], numbers)
        peaks = [peak for _, _, peak in extracted]
        sets = _by_set([found for found, _, _ in extracted], numbers)
        named = _compute(sets, real, fake)
        wall = time.monotonic() - began
    for name, (_, took, peak) in named.items():
        seconds[name] = seconds.get(name, 0.0) + took
        peaks.append(peak)
    return [
        *(
            Figure(
                f"{name}: time for an image : sampling one",
                took / count / sampling,
                None,
                False,
                f"{took:.1f} s of one core",
            )
            for name, took in seconds.items()
        ),
        Figure(
            f"all on {CORES} cores: time for an image : sampling one",
            wall / count / sampling,
            None,
            False,
            f"{1e3 * wall / count:.2f} s : {1e3 * sampling:.2f} s for 1,000",
        ),
        Figure(
            f"all on {CORES} cores: seconds",
            wall,
            MOST_SECONDS if count == FULL else None,
            False,
            f"{sum(seconds.values()):.0f} s of a core, {count:,} images of {SIZE}x{SIZE}; load of "
            f"the machine {os.getloadavg()[0]:.1f}",
        ),
        Figure(
            "most memory of a process : of all images",
            max(peaks) / (count * SIZE * SIZE * 3 * 2 / 2**30),
            None,
            False,
            f"{max(peaks):.2f} GiB",
        ),
    ]


def _sampling_seconds() -> float:
    """Time in which `PRESET` makes `SAMPLED` samples, in seconds, with all of its cores."""
    say(f"sampling from {PRESET}")
    model = TrainedModel(build_model(PRESETS[PRESET]), 0)
    model.sample(PART)
    return seconds_for(lambda: model.sample(SAMPLED))


def _images(seed: int, count: int) -> np.ndarray:
    """Coloured squares with some grain, (N, 64, 64, 3) uint8."""
    random = np.random.default_rng(seed)
    colours = random.integers(0, 240, (count, 8, 8, 3), np.uint8)
    images = colours.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)
    images += random.integers(0, 16, images.shape, np.uint8)
    return images


def _extractors() -> list[Extractor]:
    network = domain.AttributeClassifier(ATTRIBUTES, SIZE).eval()
    own = Extractor(DOMAIN, network, domain.FEATURES, weights_hash(network), RESIZER)
    return [random_vgg(), own]


def _timed(work: Callable[..., Any], *arguments: Any) -> Timed:
    began = time.process_time()
    found = work(*arguments)
    # Of this process alone, whatever else the machine does. Images in Ray's object store count,
    # too, as far as the process has read them.
    seconds = time.process_time() - began
    return found, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _warm_up() -> None:
    """Have both workers import what they need, which a longer evaluation does once."""
    say("starting workers")
    ray.get([task(_timed, 0).remote(_imported) for _ in range(CORES)])


def _imported() -> None:
    _extractors()
    time.sleep(1)


def _features(images: np.ndarray, first: int, stop: int, extractor: Extractor) -> np.ndarray:
    return extractor.features([images[first:stop]], tasks.device())


def _extract(images: Sequence[Any], numbers: Sequence[int]) -> tuple[list[Timed], dict[str, float]]:
    """Features of all images in parts; and the seconds by extractor."""
    asked, names = [], []
    for extractor in _extractors():
        shared = ray.put(extractor)
        for reference, count in zip(images, numbers, strict=True):
            for first in range(0, count, PART):
                stop = min(first + PART, count)
                asked.append(task(_part, 0).remote(reference, first, stop, shared))
                names.append(f"features of {extractor.name}")
    found = _results(asked, "extracting features")
    seconds: dict[str, float] = {}
    for name, (_, took, _) in zip(names, found, strict=True):
        seconds[name] = seconds.get(name, 0.0) + took
    return found, seconds


def _part(images: np.ndarray, first: int, stop: int, extractor: Extractor) -> Timed:
    return _timed(_features, images, first, stop, extractor)


def _by_set(parts: Sequence[np.ndarray], numbers: Sequence[int]) -> dict[str, list[np.ndarray]]:
    """Features of real, generated and training images, by extractor."""
    left = list(parts)
    found: dict[str, list[np.ndarray]] = {}
    for extractor in _extractors():
        for count in numbers:
            take = -(-count // PART)
            found.setdefault(extractor.name, []).append(np.concatenate(left[:take]))
            del left[:take]
    return found


def _compute(sets: dict[str, list[np.ndarray]], real: Any, fake: Any) -> dict[str, Timed]:
    """All figures of features and of images, by kind."""
    asked: dict[str, Any] = {}
    # The longest ones first, as nothing may be left to do beside them.
    for kind in sorted(measures.OF_IMAGES, key=lambda kind: kind != "swd_published"):
        asked[kind] = task(_of_images, 0).remote(kind, real, fake)
    for extractor, (reals, fakes, train) in sets.items():
        for kind in measures.OF_FEATURES:
            given = FeatureSets(reals, fakes, train if kind == "memorisation" else train[:0])
            asked[f"{kind} of {extractor}"] = task(_of_features, 0).remote(kind, extractor, given)
    found = _results(list(asked.values()), "comparing")
    return dict(zip(asked, found, strict=True))


def _of_images(kind: str, real: np.ndarray, fake: np.ndarray) -> Timed:
    return _timed(tasks.image_figures, kind, 0, 1, real, fake)


def _of_features(kind: str, extractor: str, sets: FeatureSets) -> Timed:
    return _timed(tasks.feature_figures, kind, extractor, sets, 0)


def _results(asked: Sequence[Any], doing: str) -> list[Timed]:
    said = 0.0
    for done in finished(asked):
        if time.monotonic() > said + 10:
            say(f"{doing}: {done} of {len(asked)}")
            said = time.monotonic()
    found: list[Timed] = ray.get(list(asked))
    return found
