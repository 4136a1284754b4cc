"""Which images show what an attribute does to codes, and not what goes along with it.

In photographs attributes go together: of CelebA's faces, more women than men smile. A mean of those
that smile minus a mean of those that do not would thus also turn a face into a woman's. So images
are compared within strata, in which the attributes that go along are the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

NOTABLE = 0.1
"""Absolute correlation from which on an attribute counts as going along with another."""
MOST_BALANCED = 4
"""Upper limit of attributes that are balanced, which make 16 strata."""
LEAST_IN_STRATUM = 5
"""Least number of images of each kind in a stratum; smaller ones are left out."""
LEAST_IN_ALL = 32
"""Least number of images of the rarer kind, over all strata; with fewer, less is balanced."""


@dataclass(frozen=True)
class Stratum:
    """Images that differ in one attribute and agree in those that go along with it.

    Attributes:
        present, absent: row numbers of the images with and without it.
        weight: share of the stratum in the comparison; those of all strata add up to 1.
    """

    present: np.ndarray
    absent: np.ndarray
    weight: float


@dataclass(frozen=True)
class Comparison:
    """How images with an attribute are compared with images without it.

    Attributes: balanced: names of the attributes that are the same within each stratum.
    """

    strata: tuple[Stratum, ...]
    balanced: tuple[str, ...]


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation (phi) of two attributes over the images of which both are known, in [-1, 1].

    Args: both (N,), of 1, -1 and, for unknown, 0.
    Returns: 0 where either is the same for all images.
    """
    known = (first != 0) & (second != 0)
    if not known.any():
        return 0.0
    one, other = (values[known].astype(np.float64) for values in (first, second))
    spread = one.std() * other.std()
    return float(((one * other).mean() - one.mean() * other.mean()) / spread) if spread else 0.0


def compare(values: Mapping[str, np.ndarray], attribute: str, most: int) -> Comparison:
    """Choose images with and without an attribute to compare, in strata.

    The attributes that correlate with it are balanced, those that do so most first, as far as
    strata with images of both kinds hold enough of them; otherwise the only stratum is the whole.
    Attributes that exclude it, such as the other classes of a dataset, are not balanced.

    Args:
        values: each attribute of all images by name, (N,): 1 true, -1 false, 0 unknown.
        attribute: must be true of an image, and false of another.
        most: upper limit of images to choose, the first ones of each stratum.
    """
    wanted = values[attribute]
    strength = {
        name: abs(correlation(wanted, other))
        for name, other in values.items()
        if name != attribute and np.sum((wanted == 1) & (other == 1)) >= LEAST_IN_STRATUM
    }
    going_along = sorted((n for n in strength if strength[n] > NOTABLE), key=lambda n: -strength[n])
    balanced: list[str] = []
    cells = [tuple(np.flatnonzero(wanted == value) for value in (1, -1))]
    for name in going_along:
        if len(balanced) == MOST_BALANCED:
            break
        finer = list(_cells(wanted, [values[n] for n in (*balanced, name)]))
        if sum(min(map(len, cell)) for cell in finer) >= LEAST_IN_ALL:
            balanced.append(name)
            cells = finer
    return Comparison(_weighted(cells, max(1, most // 2)), tuple(balanced))


def _cells(wanted: np.ndarray, others: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the rows with and without an attribute of each stratum that has enough of both."""
    for signs in product((1, -1), repeat=len(others)):
        # An image of which one of the others is unknown is in no stratum.
        inside = np.all([values == sign for values, sign in zip(others, signs, strict=True)], 0)
        cell = tuple(np.flatnonzero(inside & (wanted == value)) for value in (1, -1))
        if min(map(len, cell)) >= LEAST_IN_STRATUM:
            yield cell


def _weighted(cells: Sequence[tuple[np.ndarray, ...]], most: int) -> tuple[Stratum, ...]:
    """Strata of at most so many images of each kind, weighted by how sure their differences are."""
    caps = [_cap([len(cell[kind]) for cell in cells], most) for kind in (0, 1)]
    chosen = [[rows[:cap] for rows, cap in zip(cell, caps, strict=True)] for cell in cells]
    # The inverse variance of a difference of two means.
    sizes = [
        len(present) * len(absent) / (len(present) + len(absent)) for present, absent in chosen
    ]
    return tuple(
        Stratum(present, absent, size / sum(sizes))
        for (present, absent), size in zip(chosen, sizes, strict=True)
    )


def _cap(counts: Sequence[int], most: int) -> int:
    """The largest limit, at least 1, under which counts add up to at most so many."""
    left, cap = most, 0
    for place, count in enumerate(sorted(counts)):
        cap = left // (len(counts) - place)
        if count > cap:
            return max(1, cap)
        left -= count
    return max(1, *counts)
