"""Measures of two sets of features that rest on nearest neighbours.

Fidelity is the share of generated images among the real ones, diversity the share of real images
among the generated ones; memorisation is how much nearer generated images are to the training
images than held-out ones are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5
ROWS_AT_ONCE = 2**20
"""Upper limit of the distances in memory at once: 8 MB, which caches hold; more takes longer."""
CELLS = 5
"""Regions of the training images in each of which copying is tested for."""
LEAST_IN_CELL = 20


@dataclass(frozen=True)
class Manifold:
    """Per-image results of comparing generated features with real ones.

    Their means are the measures.

    Attributes:
        precision: (M,) whether a generated image lies among the real ones.
        recall: (N,) whether a real image lies among the generated ones.
        density: (M,) in how many real images' neighbourhoods a generated one lies, of 5; may
            exceed 1.
        coverage: (N,) whether a real image's neighbourhood holds a generated one.
        clipped_density: (M,) the same as density, with neighbourhoods of at most the median size
            and each image counted as 1 at most, over what the real images themselves reach.
        filled: (N,) share in [0, 1] of 5 generated images that a real image's neighbourhood holds
            at most; `clipped_coverage` makes a measure of its mean.
    """

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray
    clipped_density: np.ndarray
    filled: np.ndarray


def compare_manifolds(
    real: np.ndarray, fake: np.ndarray, device: torch.device | str = "cpu"
) -> Manifold:
    """Compare generated features with real ones by their neighbourhoods.

    A neighbourhood is the ball around an image that reaches to the k-th nearest image of its own
    set: k = 3 for precision and recall, 5 for the others.

    Args: real: (N, D); fake: (M, D).
    Raises: ValueError for fewer than 7 of either.
    Sources: Kynkäänniemi et al. 2019, arXiv 1904.06991 (precision, recall); Naeem et al. 2020,
        arXiv 2002.09797 (density, coverage); Salvy et al. 2025, arXiv 2507.01761 (clipped).
    """
    if min(len(real), len(fake)) < DENSITY_NEIGHBOURS + 2:
        raise ValueError(f"neighbours need {DENSITY_NEIGHBOURS + 2} features of each set at least")
    reals, fakes = _centred(real, fake, device)
    own = torch.cat([_smallest(d, 1 + DENSITY_NEIGHBOURS) for d in distances(reals, reals)])
    fake_radius = torch.cat(
        [_smallest(d, 1 + PRECISION_NEIGHBOURS)[:, -1] for d in distances(fakes, fakes)]
    )
    small, large = own[:, PRECISION_NEIGHBOURS], own[:, DENSITY_NEIGHBOURS]
    clipped = large.clamp(max=_median(large))
    inside = torch.cat([(found <= clipped).sum(dim=1) for found in distances(reals, reals)])
    # An image lies in its own neighbourhood, which does not count.
    reached = ((inside - 1) / DENSITY_NEIGHBOURS).clamp(max=1).mean()

    recall = torch.zeros(len(reals), dtype=torch.bool, device=reals.device)
    holds = torch.zeros(len(reals), dtype=torch.long, device=reals.device)
    per_fake: dict[str, list[Tensor]] = {"precision": [], "density": [], "clipped_density": []}
    first = 0
    for found in distances(fakes, reals):
        per_fake["precision"].append((found <= small).any(dim=1))
        within = found < large
        per_fake["density"].append(within.sum(dim=1) / DENSITY_NEIGHBOURS)
        counted = (found <= clipped).sum(dim=1) / DENSITY_NEIGHBOURS
        per_fake["clipped_density"].append(counted.clamp(max=1) / reached)
        recall |= (found <= fake_radius[first : first + len(found), None]).any(dim=0)
        holds += within.sum(dim=0)
        first += len(found)
    joined = {name: torch.cat(parts).double().cpu().numpy() for name, parts in per_fake.items()}
    return Manifold(
        **joined,
        recall=recall.double().cpu().numpy(),
        coverage=(holds > 0).double().cpu().numpy(),
        filled=(holds.clamp(max=DENSITY_NEIGHBOURS) / DENSITY_NEIGHBOURS).double().cpu().numpy(),
    )


def clipped_coverage(filled: float, real_count: int, fake_count: int) -> float:
    """Turn the mean of `Manifold.filled` into the share of good images that would explain it.

    If m of M generated images come from the real distribution and the others from nowhere near,
    the number of them in a neighbourhood of k of N real images follows a beta-binomial
    distribution; `filled` is then E[min(number, k)] / k, which grows with m. The smallest m that
    reaches it, over M, is the measure.

    Source: Salvy et al. 2025, arXiv 2507.01761.
    """
    from scipy import stats

    k = DENSITY_NEIGHBOURS
    good = np.arange(fake_count + 1)
    # k - E[min(J, k)] is the sum over j < k of (k - j) P(J = j).
    missing = sum((k - j) * stats.betabinom.pmf(j, good, k, real_count - k) for j in range(k))
    return float(np.searchsorted(1 - missing / k, filled) / (fake_count + 1))


def variety(real: np.ndarray, fake: np.ndarray, most: int = 2_000) -> float:
    """Median distance of images to the nearest other of their set: generated ones over real ones.

    About 1 for images of the same distribution, 0 if generated images repeat, and less than 1 if
    they resemble one another more than real ones do. It says nothing of whether they are good.

    Args: real, fake: features, (N, D) each, N >= 2; most: only so many of each are compared.
    """
    count = min(len(real), len(fake), most)
    sets = _centred(real[:count], fake[:count], "cpu")
    reals, fakes = (
        # An image's smallest distance is the one to itself.
        math.sqrt(_median(torch.cat([_smallest(d, 2)[:, 1] for d in distances(s, s)])))
        for s in sets
    )
    return fakes / max(reals, 1e-12)


@dataclass(frozen=True)
class Memorisation:
    """How near generated images are to training images.

    Attributes:
        nearest: (M,) number of each generated image's nearest training image.
        distance: (M,) its distance; held_out: (N,) those of the held-out images.
        authentic: (M,) whether a generated image is farther from its nearest training image than
            that one is from its own nearest other.
        copying: z-score of generated images being farther from training images than held-out ones
            are; far below 0 (say -3), they are copies; NaN where there are too few images.
    """

    nearest: np.ndarray
    distance: np.ndarray
    held_out: np.ndarray
    authentic: np.ndarray
    copying: float


def memorisation(
    train: np.ndarray,
    held_out: np.ndarray,
    fake: np.ndarray,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Memorisation:
    """Compare the distances of generated and of held-out images to the training images.

    Args: train: (T, D); held_out: (N, D), from the same distribution; fake: (M, D).
    Raises: ValueError for fewer than two training images.
    Sources: Alaa et al. 2022, arXiv 2102.08921 (authenticity); Meehan et al. 2020, arXiv
        2004.05675 (the copying test C_T, here in 5 k-means cells of the training images).
    """
    if len(train) < 2:
        raise ValueError("memorisation needs two training images at least")
    trains, _ = _centred(train, fake, device)
    apart = torch.cat([_smallest(d, 2)[:, 1] for d in distances(trains, trains)]).sqrt()
    nearest, distance = nearest_images(train, np.concatenate([held_out, fake]), device)
    count = len(held_out)
    return Memorisation(
        nearest=nearest[count:],
        distance=distance[count:],
        held_out=distance[:count],
        authentic=(distance[count:] > apart.cpu().numpy()[nearest[count:]]).astype(np.float64),
        copying=_copying(train, held_out, fake, distance, seed),
    )


def nearest_images(
    train: np.ndarray, others: np.ndarray, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Number and distance of the training image that is nearest to each other image.

    Args: train: (T, D); others: (M, D), features.   Returns: (M,) and (M,).
    """
    trains, points = _centred(train, others, device)
    pairs = [found.min(dim=1) for found in distances(points, trains)]
    nearest = torch.cat([pair.indices for pair in pairs]).cpu().numpy()
    return nearest, torch.cat([pair.values for pair in pairs]).sqrt().cpu().numpy()


def _copying(
    train: np.ndarray, held_out: np.ndarray, fake: np.ndarray, distance: np.ndarray, seed: int
) -> float:
    """The copying score C_T. Args: distance: (N + M,) to the nearest training image."""
    from scipy.cluster.vq import kmeans2, vq
    from scipy.stats import mannwhitneyu

    cells = max(1, min(CELLS, len(train) // LEAST_IN_CELL))
    centres, _ = kmeans2(train.astype(np.float64), cells, minit="++", rng=seed)
    of_held_out, of_fake = (vq(f.astype(np.float64), centres)[0] for f in (held_out, fake))
    total = weights = 0.0
    for cell in range(len(centres)):
        real = distance[: len(held_out)][of_held_out == cell]
        made = distance[len(held_out) :][of_fake == cell]
        n, m = len(real), len(made)
        if min(n, m) < LEAST_IN_CELL:
            continue
        rank = mannwhitneyu(made, real).statistic
        total += n * (rank - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
        weights += n
    return total / weights if weights else math.nan


def distances(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Yield the squared Euclidean distances of a few rows of `first` at a time to all of `second`.

    What is yielded is overwritten by the next: memory that is asked for anew each time takes longer
    to get than to fill, and what lies between is lost.

    Args: (N, D) and (M, D), float64, about 0, so that the differences of squares are exact enough.
    """
    norms = second.square().sum(dim=1)
    parts = first.split(max(1, ROWS_AT_ONCE // max(1, len(second))))
    room = second.new_empty((2, max(map(len, parts)), len(second)))
    for rows in parts:
        found, products = room[:, : len(rows)]
        torch.mm(rows, second.T, out=products)
        torch.add(rows.square().sum(dim=1, keepdim=True), norms, out=found)
        yield found.sub_(products, alpha=2).clamp_(min=0)


def _centred(
    first: np.ndarray, second: np.ndarray, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Both sets as float64, moved so that the first one's mean is 0."""
    mean = first.mean(axis=0, dtype=np.float64)
    moved = [torch.from_numpy(f.astype(np.float64) - mean).to(device) for f in (first, second)]
    return moved[0], moved[1]


def _smallest(found: Tensor, count: int) -> Tensor:
    """The smallest distances of each row, in order."""
    return found.topk(count, dim=1, largest=False).values


def _median(values: Tensor) -> float:
    return float(np.median(values.cpu().numpy()))
