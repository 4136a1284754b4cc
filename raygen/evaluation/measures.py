"""What an evaluation computes: functions from images and features to figures, by tag.

Each function computes metrics that share most of their work, and needs what its parameter's type
says; the metrics' names and meanings are in metrics.py.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raygen.data.pixels import as_images
from raygen.evaluation import swd
from raygen.evaluation.distances import (
    Interval,
    bootstrap,
    frechet,
    frechet_infinity,
    kernel_distance,
    mean_of,
)
from raygen.evaluation.latent_statistics import (
    LatentStatistics,
    bits_per_dimension,
    latent_statistics,
)
from raygen.evaluation.neighbours import clipped_coverage, compare_manifolds, memorisation
from raygen.evaluation.similarity import LEAST_SIDE, ms_ssim, psnr, ssim
from raygen.evaluation.two_sample import two_sample_test
from raygen.models.layers import kl_divergence

Device = torch.device | str
AT_ONCE = 64
GROUPS = 8
"""Groups of images from which the spread of a published distance is estimated."""
SWD_IMAGES = 512
"""Images of the distance that training measures."""


@dataclass(frozen=True)
class Figure:
    """A metric's value, its 95 % interval over the images, and how many images it rests on."""

    value: float
    low: float
    high: float
    n: int

    @staticmethod
    def of(interval: Interval, n: int) -> "Figure":
        return Figure(interval.value, interval.low, interval.high, n)


Figures = dict[str, Figure]


@dataclass(frozen=True)
class FeatureSets:
    """Features of one extractor, (images, D) float32 each.

    Attributes:
        real: of real images that nothing was chosen on.
        fake: of the images that are measured.
        train: of training images; empty where they are not known.
    """

    real: np.ndarray
    fake: np.ndarray
    train: np.ndarray


@dataclass(frozen=True)
class ImageSets:
    """Images, (N, H, W, 3) uint8, real ones and those that are measured."""

    real: np.ndarray
    fake: np.ndarray


@dataclass(frozen=True)
class Autoencoded:
    """Real images through an encoder and its decoder.

    Attributes:
        psnr, ssim, ms_ssim: (N,), of reconstructions from the latents' means; `ms_ssim` is empty
            for images that are too small.
        mean, log_var: (N, latent), of the latents.
        error: (N,), mean squared error in [-1, 1] of reconstructions from drawn latents.
        dimensions: values per image.
    """

    psnr: np.ndarray
    ssim: np.ndarray
    ms_ssim: np.ndarray
    mean: np.ndarray
    log_var: np.ndarray
    error: np.ndarray
    dimensions: int


def frechet_figures(sets: FeatureSets, seed: int = 0, device: Device = "cpu") -> Figures:
    """Fréchet distance, its extrapolation, and the kernel distance."""
    count = min(len(sets.real), len(sets.fake))
    return {
        "fd": Figure.of(frechet(sets.real, sets.fake, seed), count),
        "fd_infinity": Figure.of(frechet_infinity(sets.real, sets.fake, seed), count),
        "kid": Figure.of(kernel_distance(sets.real, sets.fake, seed), count),
    }


def neighbour_figures(sets: FeatureSets, seed: int = 0, device: Device = "cpu") -> Figures:
    """Precision, recall, density, coverage, and the clipped forms of the last two."""
    found = compare_manifolds(sets.real, sets.fake, device)
    reals, fakes = len(sets.real), len(sets.fake)
    clipped = mean_of(found.clipped_density)
    # Calibrating is monotonic, so an interval's ends are calibrated like its middle.
    filled = mean_of(found.filled)
    low, high = (
        clipped_coverage(min(1.0, max(0.0, end)), reals, fakes) for end in (filled.low, filled.high)
    )
    return {
        "precision": Figure.of(_share(found.precision), fakes),
        "recall": Figure.of(_share(found.recall), reals),
        "density": Figure.of(mean_of(found.density), fakes),
        "coverage": Figure.of(_share(found.coverage), reals),
        # Beyond 1, samples lie nearer to the centre than real images do, which is no better.
        "clipped_density": Figure(
            min(clipped.value, 1.0), min(clipped.low, 1.0), min(clipped.high, 1.0), fakes
        ),
        "clipped_coverage": Figure(clipped_coverage(filled.value, reals, fakes), low, high, reals),
    }


def _share(flags: np.ndarray) -> Interval:
    """Share of flags (N,) that are 1, with Wilson's interval."""
    from scipy.stats import binomtest

    found = binomtest(int(flags.sum()), len(flags)).proportion_ci(method="wilson")
    return Interval(float(flags.mean()), float(found.low), float(found.high))


def two_sample_figures(sets: FeatureSets, seed: int = 0, device: Device = "cpu") -> Figures:
    """Accuracy of a classifier of real and generated images."""
    found = two_sample_test(sets.real, sets.fake, seed)
    return {"two_sample": Figure.of(found.accuracy, min(len(sets.real), len(sets.fake)))}


def memorisation_figures(sets: FeatureSets, seed: int = 0, device: Device = "cpu") -> Figures:
    """How near generated images are to training images, against held-out real ones."""
    if len(sets.train) < 2:
        return {}
    found = memorisation(sets.train, sets.real, sets.fake, seed, device)
    made, held_out = found.distance, found.held_out
    middle = float(np.median(held_out))
    figures = {
        "authentic": Figure.of(_share(found.authentic), len(made)),
        "distance_ratio": Figure.of(
            bootstrap(lambda parts: float(np.median(parts)) / max(middle, 1e-12), made, seed),
            len(made),
        ),
    }
    if math.isfinite(found.copying):
        # A z-score's own spread is 1.
        score = Interval(found.copying, found.copying - 1.96, found.copying + 1.96)
        figures["copying"] = Figure.of(score, len(made))
    return figures


def swd_by_real(sets: ImageSets, seed: int = 0) -> Figures:
    """The sliced Wasserstein distance that training measures.

    The interval is over 4 draws of patches and directions, each from other images where there are
    enough.
    """
    count = min(SWD_IMAGES, len(sets.real), len(sets.fake))
    values = []
    for draw in range(4):
        at = [draw * count % (len(images) - count + 1) for images in (sets.real, sets.fake)]
        real, fake = (
            as_images(images[start : start + count])
            for images, start in zip((sets.real, sets.fake), at, strict=True)
        )
        values.append(swd.sliced_wasserstein(real, fake, seed + draw))
    # The first value is the one that training would have logged.
    half = 3.18 * float(np.std(values, ddof=1))
    return {"swd/by_real": Figure(values[0], values[0] - half, values[0] + half, count)}


def swd_published(sets: ImageSets, seed: int = 0) -> Figures:
    """The sliced Wasserstein distance as publications have it, at each level and on average.

    The interval is estimated from groups of the images, each measured by itself.
    """
    count = min(swd.PUBLISHED_IMAGES, len(sets.real), len(sets.fake))
    real, fake = sets.real[:count], sets.fake[:count]
    levels = swd.published_levels(*real.shape[1:3])
    values, spreads = [], []
    for level in range(len(levels)):
        value, groups = swd.published_distance(real, fake, level, seed, min(GROUPS, count))
        values.append(value)
        spreads.append(1.96 * np.array(groups) / math.sqrt(len(groups)))
    halves = [float(s.std(ddof=1)) if len(s) > 1 else math.nan for s in spreads]
    all_levels = np.mean(spreads, axis=0)
    values.append(float(np.mean(values)))
    halves.append(float(all_levels.std(ddof=1)) if len(all_levels) > 1 else math.nan)
    tags = [*(f"swd/published_{side}" for side in levels), "swd/published"]
    return {
        tag: Figure(value, value - half, value + half, count)
        for tag, value, half in zip(tags, values, halves, strict=True)
    }


def pair_similarity(sets: ImageSets, seed: int = 0) -> Figures:
    """Multi-scale structural similarity between pairs of the images that are measured."""
    pairs = len(sets.fake) // 2
    if not pairs or min(sets.fake.shape[1:3]) < LEAST_SIDE:
        return {}
    order = np.random.default_rng(seed).permutation(len(sets.fake))[: 2 * pairs]
    values = []
    for first in range(0, pairs, AT_ONCE):
        rows = order[2 * first : 2 * (first + AT_ONCE)]
        images = as_images(sets.fake[rows])
        values.append(ms_ssim(images[::2], images[1::2]))
    return {"diversity/ms_ssim": Figure.of(mean_of(torch.cat(values).numpy()), pairs)}


def reconstruction_figures(found: Autoencoded, seed: int = 0) -> Figures:
    """Similarity of reconstructions, statistics of the latents, and bits per dimension."""
    count = len(found.psnr)
    shown = {"psnr": found.psnr, "ssim": found.ssim, "ms_ssim": found.ms_ssim}
    figures = {
        f"reconstruction/{name}": Figure.of(mean_of(values), count)
        for name, values in shown.items()
        if len(values)
    }
    rows = np.arange(count)

    def statistics(rows: np.ndarray) -> LatentStatistics:
        return latent_statistics(found.mean[rows], found.log_var[rows])

    kl = kl_divergence(torch.from_numpy(found.mean), torch.from_numpy(found.log_var)).numpy()

    def bits(parts: np.ndarray) -> float:
        error, divergence = parts.mean(axis=0).tolist()
        return bits_per_dimension(error, divergence, found.dimensions)

    rest = {
        "latents/active_units": bootstrap(lambda rows: statistics(rows).active_units, rows, seed),
        "latents/kl": mean_of(kl),
        "latents/prior_distance": bootstrap(
            lambda rows: statistics(rows).prior_distance, rows, seed
        ),
        "likelihood/bits_per_dimension": bootstrap(bits, np.stack([found.error, kl], 1), seed),
    }
    return figures | {tag: Figure.of(interval, count) for tag, interval in rest.items()}


def compare_reconstructions(images: Tensor, decoded: Tensor) -> dict[str, np.ndarray]:
    """Similarity of each image and its reconstruction, (N, 3, H, W) in [-1, 1]: (N,) by name."""
    found = {"psnr": psnr(images, decoded), "ssim": ssim(images, decoded)}
    small = min(images.shape[2:]) < LEAST_SIDE
    found["ms_ssim"] = torch.empty(0) if small else ms_ssim(images, decoded)
    return {name: values.cpu().numpy() for name, values in found.items()}


OF_FEATURES: Mapping[str, Callable[[FeatureSets, int, Device], Figures]] = {
    "frechet": frechet_figures,
    "neighbours": neighbour_figures,
    "two_sample": two_sample_figures,
    "memorisation": memorisation_figures,
}
"""Functions of an extractor's features; their tags get its name in front."""
OF_IMAGES: Mapping[str, Callable[[ImageSets, int], Figures]] = {
    "swd": swd_by_real,
    "swd_published": swd_published,
    "pairs": pair_similarity,
}
"""Functions of the images themselves."""
