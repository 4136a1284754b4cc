"""Distances between two sets of features: Fréchet, its limit for infinitely many, and kernel."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SUBSETS = 15
"""Numbers of images at which the Fréchet distance is computed, to extrapolate it."""
SMALLEST_SHARE = 0.25
"""The smallest of them, as a share of all images."""
KERNEL_SUBSETS = 100
KERNEL_SUBSET = 1_000
RESAMPLES = 100
LARGE = 512
"""Features of more dimensions take seconds for one distance, and are resampled less often."""
FEWER_RESAMPLES = 10
LEVEL = 0.95
"""Confidence level of all intervals."""


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval over the images that it was measured on."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D) of features, both float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @staticmethod
    def of(features: np.ndarray, weights: np.ndarray | None = None) -> "Moments":
        """Estimate them. Args: features: (N, D); weights: (N,), whole numbers; None: all 1.

        Raises: ValueError for fewer than two features.
        """
        features = features.astype(np.float64, copy=False)
        weights = np.ones(len(features)) if weights is None else weights
        total = weights.sum()
        if total < 2:
            raise ValueError("a covariance needs two features at least")
        mean = weights @ features / total
        centred = (features - mean) * np.sqrt(weights)[:, None]
        return Moments(mean, centred.T @ centred / (total - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """Squared Fréchet (2-Wasserstein) distance between two normal distributions; >= 0.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the trace of the root taken from the eigenvalues
    of C1^(1/2) C2 C1^(1/2), which is symmetric, so that singular covariances do no harm.
    Source: Dowson & Landau 1982; of image features: Heusel et al. 2017, arXiv 1706.08500.
    """
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ second.covariance @ root)
    spread = np.trace(first.covariance) + np.trace(second.covariance)
    shift = np.square(first.mean - second.mean).sum()
    # Rounding may leave a little less than 0.
    return max(0.0, float(shift + spread - 2 * np.sqrt(inner.clip(0)).sum()))


def frechet(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> Interval:
    """Fréchet distance between two sets of features, with its bootstrap interval.

    Resampling adds a bias of its own, so the interval is the spread of the resampled distances
    around the distance itself.

    Args: real, fake: (N, D) and (M, D).
    Raises: ValueError for fewer than two of either.
    """
    value = frechet_distance(Moments.of(real), Moments.of(fake))
    random = np.random.default_rng(seed)

    def resampled(features: np.ndarray) -> Moments:
        count = len(features)
        return Moments.of(features, np.bincount(random.integers(count, size=count), None, count))

    times = RESAMPLES if real.shape[1] <= LARGE else FEWER_RESAMPLES
    found = [frechet_distance(resampled(real), resampled(fake)) for _ in range(times)]
    return around(value, np.array(found))


def around(value: float, resampled: np.ndarray) -> Interval:
    """The normal interval of the spread of resampled figures (R,), around a figure itself."""
    half = 1.96 * float(resampled.std(ddof=1))
    return Interval(value, value - half, value + half)


def frechet_infinity(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> Interval:
    """Fréchet distance for infinitely many images, extrapolated.

    The distance of finite sets is too large by about a constant / N, and the constant differs from
    model to model. A line in 1 / N is fitted to the distances of random subsets of 15 sizes, of
    both sets alike, and read off at 0; it may be slightly below 0. The interval is the line's own.

    Args: real, fake: (N, D) and (M, D); the larger set is cut to the smaller's size.
    Raises: ValueError for fewer than 8 of either.
    Source: Chong & Forsyth 2020, arXiv 1911.07023, which has the real images' moments fixed.
    """
    count = min(len(real), len(fake))
    if count < 8:
        raise ValueError("extrapolating needs 8 features of each set at least")
    from scipy import stats

    random = np.random.default_rng(seed)
    sizes = np.linspace(max(4, count * SMALLEST_SHARE), count, SUBSETS).astype(int)
    distances = [
        frechet_distance(
            *(Moments.of(f[random.choice(len(f), size, replace=False)]) for f in (real, fake))
        )
        for size in sizes
    ]
    line = stats.linregress(1 / sizes, distances)
    half = float(stats.t.ppf((1 + LEVEL) / 2, SUBSETS - 2) * line.intercept_stderr)
    value = float(line.intercept)
    return Interval(value, value - half, value + half)


def kernel_distance(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> Interval:
    """Squared maximum mean discrepancy with a cubic kernel; unbiased, so about 0 for equal sets.

    The mean over 100 random subsets of 1,000 (or fewer) of each set; the interval is for all
    images together, whose spread is smaller than a subset's.

    Args: real, fake: (N, D) and (M, D).
    Raises: ValueError for fewer than four of either.
    Source: Bińkowski et al. 2018, arXiv 1801.01401; computed by torch-fidelity.
    """
    import torch
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    count = min(len(real), len(fake))
    if count < 4:
        raise ValueError("a kernel distance needs four features of each set at least")
    subset = min(KERNEL_SUBSET, count // 2)
    found = kid_features_to_metric(
        torch.from_numpy(fake.astype(np.float32)),
        torch.from_numpy(real.astype(np.float32)),
        kid_subsets=KERNEL_SUBSETS,
        kid_subset_size=subset,
        rng_seed=seed,
        verbose=False,
    )
    value = float(found[KEY_METRIC_KID_MEAN])
    # Subsets of n of N images, drawn without replacement, vary by 1/n - 1/N, all images by 1/N.
    spread = float(found[KEY_METRIC_KID_STD]) * np.sqrt(subset / (count - subset))
    return Interval(value, value - 1.96 * spread, value + 1.96 * spread)


def bootstrap(
    statistic: Callable[[np.ndarray], float], parts: np.ndarray, seed: int = 0
) -> Interval:
    """A statistic of independent parts, with its bootstrap interval.

    Args: statistic: of parts drawn again, (N, ...); parts: (N, ...).
    """
    random = np.random.default_rng(seed)
    count = len(parts)
    found = [statistic(parts[random.integers(count, size=count)]) for _ in range(RESAMPLES)]
    return around(statistic(parts), np.array(found, np.float64))


def mean_of(parts: np.ndarray) -> Interval:
    """The mean of independent parts (N,), with its normal interval."""
    value = float(parts.mean())
    half = 1.96 * float(parts.std(ddof=1)) / np.sqrt(len(parts)) if len(parts) > 1 else 0.0
    return Interval(value, value - half, value + half)
