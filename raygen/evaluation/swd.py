"""The sliced Wasserstein distance: how far the patches of generated images are from real ones."""

import math

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

PATCH = 7  # pixels a side
COARSEST = 16  # pixels on the smaller side of the last level of a pyramid
PATCHES_PER_IMAGE = 128
MOST_PATCHES = 2**16  # per level and set: 2**16 of 7 x 7 x 3 float32 are 38 MB
DIRECTIONS = 4 * 128
PROJECTIONS_AT_ONCE = 2**22  # 17 MB
SORTED_AT_MOST = 2**12
BINS = 2**16
PIXELS_AT_ONCE = 2**20
PUBLISHED_IMAGES = 16_384
"""Number of images of each set that published values are computed from."""
PUBLISHED_AT_ONCE = 2**26  # 268 MB
GROUP_PATCHES = 32
"""Patches of each image of a group, by whose distances a published distance's spread is known."""
NORMALISED_AT_ONCE = 2**12  # 2.4 MB
LEAST_SPREAD = 1e-3  # an eighth of a grey level; dividing by less would only blow up rounding


def sliced_wasserstein(
    real: Tensor, fake: Tensor, seed: int = 0, part: int = 0, parts: int = 1
) -> float:
    """Multi-scale sliced Wasserstein distance between two sets of images, x 1e3; 0 is best.

    The distance between the sets' 7 x 7 patches, at each level of a Laplacian pyramid, averaged
    over the levels. Patches are drawn for each set by itself, so the value does not depend on
    which fake stands opposite which real; for the same reason identical sets score slightly above
    0. That floor shrinks with N: compare values of one N only, best beside that of two real sets.

    Differs from the authors' code, which normalises each set by its own mean and spread and so
    cannot see a global change of brightness or contrast: here both are normalised by the real
    set's. The values are therefore not those of the paper's tables.

    Args:
        real, fake: (N, 3, H, W) in [-1, 1], any float dtype and device; computed in float32 on
            the CPU. H and W may differ and be odd; with H or W below 32 there is one level.
        seed: of the patches and directions. The same images and seed give the same value; no
            global random state is read or changed.
        part, parts: which share of the work to do, of how many. The results of all parts add up
            to the distance; each needs all images.

    Returns: >= 0, or NaN for images of NaN.
    Raises: ValueError for shapes that differ, N = 0, or H or W below 7.
    Source: Karras et al. 2018 (arXiv 1710.10196), section 5, and the authors' code.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"real and fake images must have one shape, not {tuple(real.shape)} and "
            f"{tuple(fake.shape)}: give as many fakes as reals, of the same size"
        )
    if real.ndim != 4 or real.shape[1] != 3 or len(real) == 0 or min(real.shape[2:]) < PATCH:
        raise ValueError(
            f"images must be (N, 3, H, W) with N >= 1 and H, W >= {PATCH}, not {tuple(real.shape)}"
        )
    random = np.random.default_rng(seed)
    levels = zip(_patches(real, random), _patches(fake, random), strict=True)
    distances = []
    for real_patches, fake_patches in levels:
        spread = real_patches.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
        scale = np.maximum(spread, LEAST_SPREAD).astype(np.float32)
        # Dividing suffices: a mean subtracted from both would cancel in their difference.
        real_patches /= scale
        fake_patches /= scale
        count = len(real_patches)
        distances.append(
            projected_distance(
                real_patches.reshape(count, -1),
                fake_patches.reshape(count, -1),
                random,
                part,
                parts,
            )
        )
    return float(np.mean(distances)) * 1e3


def published_levels(height: int, width: int) -> list[int]:
    """Smaller side in pixels of each level of the published distance, finest first."""
    sides = [min(height, width)]
    while sides[-1] >= 2 * COARSEST:
        sides.append(-(-sides[-1] // 2))
    return sides


def published_distance(
    real: np.ndarray,
    fake: np.ndarray,
    level: int,
    seed: int = 0,
    groups: int = 0,
) -> tuple[float, list[float]]:
    """Sliced Wasserstein distance at one level as published figures have it, x 1e3; 0 is best.

    In contrast to `sliced_wasserstein`, each set's patches are normalised by their own mean and
    spread, so that a global change of colour or contrast is not seen, and 128 patches of every
    image count. Published are the levels and their mean, of 16,384 images of each set; fewer
    images give larger values.

    Args:
        real, fake: (N, H, W, 3) uint8, perhaps memory-mapped; read a few at a time.
        level: number of the level, 0 for the finest.
        groups: into how many groups to divide the images, to measure each by itself, too.
    Returns: the distance, >= 0, and those of the groups, of 32 patches of each image. All of a
        level's patches are in memory, 75 kB for each image of each set.
    Raises: ValueError for shapes that differ, or N = 0.
    Source: Karras et al. 2018 (arXiv 1710.10196), section 5, and the authors' code.
    """
    if real.shape != fake.shape or not len(real):
        raise ValueError(f"sets must have one shape, not {real.shape} and {fake.shape}")
    random = np.random.default_rng((seed, level))
    sets = []
    for images in (real, fake):
        patches = np.empty((len(images), PATCHES_PER_IMAGE, 3, PATCH, PATCH), np.float32)
        at_once = max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
        for start in range(0, len(images), at_once):
            some = images[start : start + at_once].transpose(0, 3, 1, 2).astype(np.float32)
            drawn = _draw(_laplacian_level(some, level), PATCHES_PER_IMAGE, random)
            patches[start : start + len(some)] = drawn.reshape(len(some), *patches.shape[1:])
        sets.append(patches)
    first, second = sets
    distance = _normalised_distance(first, second, random)
    # The patches are normalised now, and those of a group once more, by their own mean and spread.
    parts = np.array_split(np.arange(len(real)), groups) if groups else []
    return distance, [
        _normalised_distance(first[part, :GROUP_PATCHES], second[part, :GROUP_PATCHES], random)
        for part in parts
    ]


def _normalised_distance(real: np.ndarray, fake: np.ndarray, random: np.random.Generator) -> float:
    """Normalise each set's patches, (N, K, 3, 7, 7) float32, in place; return their distance."""
    flat = [patches.reshape(-1, 3, PATCH, PATCH) for patches in (real, fake)]
    for patches in flat:
        _normalise(patches)
    first, second = (patches.reshape(len(patches), -1) for patches in flat)
    return projected_distance(first, second, random, at_once=PUBLISHED_AT_ONCE) * 1e3


def _normalise(patches: np.ndarray) -> None:
    """Give each channel of patches, (M, 3, 7, 7) float32, a mean of 0 and a spread of 1, in place.

    A few patches at a time, so that they are in the processor's cache and need no copy of all.
    """
    starts = range(0, len(patches), NORMALISED_AT_ONCE)
    parts = [patches[start : start + NORMALISED_AT_ONCE] for start in starts]
    # Squares of differences from about the mean lose no digits.
    about = parts[0].mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    sums, squares = np.zeros(3), np.zeros(3)
    for part in parts:
        apart = part - about
        sums += apart.sum(axis=(0, 2, 3))
        squares += np.einsum("nchw,nchw->c", apart, apart)
    count = patches[:, 0].size
    spread = np.sqrt(np.maximum(squares / count - np.square(sums / count), 0))
    mean, scale = (
        values.reshape(1, 3, 1, 1).astype(np.float32)
        for values in (about.ravel() + sums / count, np.maximum(spread, LEAST_SPREAD))
    )
    for part in parts:
        part -= mean
        part /= scale


def projected_distance(
    real: np.ndarray,
    fake: np.ndarray,
    random: np.random.Generator,
    part: int = 0,
    parts: int = 1,
    at_once: int = PROJECTIONS_AT_ONCE,
) -> float:
    """Mean 1-D Wasserstein-1 distance between the projections on 512 random unit directions.

    Args:
        real, fake: (M, D) float32.
        part, parts: as for `sliced_wasserstein`.
        at_once: numbers of one set's projections in memory at once.
    Returns: >= 0, in the inputs' unit.
    """
    directions = random.standard_normal((DIRECTIONS, real.shape[1]), np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    at_once = max(1, at_once // len(real))
    total = 0.0
    directions = directions[part::parts]
    # Used again for each batch, as to get new memory of that size takes as long as to fill it.
    room = [
        np.empty((min(at_once, len(directions)), len(each)), np.float32) for each in (real, fake)
    ]
    for start in range(0, len(directions), at_once):
        some = directions[start : start + at_once]
        # NumPy, because a caller's autocast could make torch multiply in bfloat16.
        projected = [
            np.matmul(some, each.T, out=lines[: len(some)])
            for each, lines in zip((real, fake), room, strict=True)
        ]
        total += sum(line_distance(*pair) for pair in zip(*projected, strict=True))
    return total / DIRECTIONS


def line_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Wasserstein-1 distance between two sets of numbers: (M,) float32 each.

    For few numbers it is exact: the mean distance of the sorted numbers. For many it is the area
    between their cumulative histograms of 2**16 bins, which takes a tenth of the time of sorting;
    averaged over many projections the difference is less than a millionth.
    """
    if len(first) <= SORTED_AT_MOST:
        return float(np.abs(np.sort(first) - np.sort(second)).mean(dtype=np.float64))
    # NumPy's minimum propagates NaN, Python's does not.
    low = np.minimum(first.min(), second.min())
    width = (float(np.maximum(first.max(), second.max())) - float(low)) / (BINS - 1)
    if width == 0 or not math.isfinite(width):
        # Either all numbers are equal, or some are not finite and there is no distance.
        return width
    counts = [
        np.bincount(((line - low) / width).astype(np.int64), minlength=BINS)
        for line in (first, second)
    ]
    area = np.abs(np.cumsum(counts[0] - counts[1])).sum() * width
    return float(area / len(first))


def laplacian_pyramid(images: np.ndarray) -> list[np.ndarray]:
    """Details lost by each halving of the size, finest first, then the remaining small images.

    Args: images: (N, C, H, W) float32.
    Returns: (N, C, ceil(H / 2**k), ceil(W / 2**k)) float32 for k = 0, 1, ... as long as the
        smaller side stays at 16 pixels or more. Adding each to the enlarged next one gives the
        images back.
    Source: Burt & Adelson 1983, with the 5 x 5 binomial kernel and mirrored borders.
    """
    levels = []
    while min(images.shape[2:]) >= 2 * COARSEST:
        smaller = _halved(images)
        levels.append(images - _doubled(smaller, *images.shape[2:]))
        images = smaller
    return [*levels, images]


def _laplacian_level(images: np.ndarray, level: int) -> np.ndarray:
    """One level of `laplacian_pyramid`, without what only the others need."""
    for _ in range(level):
        images = _halved(images)
    if min(images.shape[2:]) < 2 * COARSEST:
        return images
    detail: np.ndarray = images - _doubled(_halved(images), *images.shape[2:])
    return detail


def _halved(images: np.ndarray) -> np.ndarray:
    """Every other pixel of the images blurred by [1, 4, 6, 4, 1] / 16 along both axes.

    Slicing takes a tenth of conv2d's time.
    """
    for axis in (2, 3):
        padded = np.pad(images, _margins(axis, 2, 2), "reflect")
        stop = images.shape[axis]
        taps = [_along(axis, slice(first, first + stop, 2)) for first in range(5)]
        images = padded[taps[2]] * 0.375
        images += (padded[taps[1]] + padded[taps[3]]) * 0.25
        images += (padded[taps[0]] + padded[taps[4]]) * 0.0625
    return images


def _doubled(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images with their pixels spread into a larger size, and blurred as in `_halved`.

    Three of four pixels are then zeros, which are left out of the sums, and hence a factor of 4.
    """
    images = images * 4
    for axis, size in ((2, height), (3, width)):
        count = images.shape[axis]
        # The larger images' mirrored borders, seen from the smaller ones.
        before = np.pad(images, _margins(axis, 1, 0), "reflect")
        padded = np.pad(before, _margins(axis, 0, 1), "reflect" if size % 2 else "edge")
        left, middle, right = (
            padded[_along(axis, slice(first, first + count))] for first in range(3)
        )
        larger = np.empty((*images.shape[:axis], size, *images.shape[axis + 1 :]), images.dtype)
        even, odd = (larger[_along(axis, slice(first, None, 2))] for first in (0, 1))
        np.multiply(middle, 0.375, out=even)
        even += (left + right) * 0.0625
        between = _along(axis, slice(size // 2))
        np.multiply(middle[between] + right[between], 0.25, out=odd)
        images = larger
    return images


def _margins(axis: int, before: int, after: int) -> list[tuple[int, int]]:
    return [(before, after) if other == axis else (0, 0) for other in range(4)]


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, part)


def _patches(images: Tensor, random: np.random.Generator) -> list[np.ndarray]:
    """Draw equally many random patches from each image: (M, 3, 7, 7) for each level."""
    count, _, height, width = images.shape
    per_image = min(PATCHES_PER_IMAGE, max(1, MOST_PATCHES // count))
    at_once = max(1, PIXELS_AT_ONCE // (height * width))
    patches: list[np.ndarray] = []
    for start in range(0, count, at_once):
        part = images[start : start + at_once].detach().to("cpu", torch.float32).numpy()
        rows = slice(start * per_image, (start + len(part)) * per_image)
        for index, level in enumerate(laplacian_pyramid(part)):
            if start == 0:
                patches.append(np.empty((count * per_image, 3, PATCH, PATCH), np.float32))
            patches[index][rows] = _draw(level, per_image, random)
    return patches


def _draw(images: np.ndarray, per_image: int, random: np.random.Generator) -> np.ndarray:
    """Draw patches at random places, (N, C, H, W) -> (N * per_image, C, 7, 7)."""
    windows = sliding_window_view(images, (PATCH, PATCH), (2, 3))
    number = np.arange(len(images)).repeat(per_image)
    top = random.integers(windows.shape[2], size=len(number))
    left = random.integers(windows.shape[3], size=len(number))
    drawn: np.ndarray = windows[number, :, top, left]
    return drawn
