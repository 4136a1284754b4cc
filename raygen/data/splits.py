"""The splits of a dataset: the names that users have for them, and how images are divided."""

import hashlib
import re
from collections.abc import Collection

import numpy as np

from raygen.core.errors import UserError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
CELEBA_TRAIN_SHARE = 0.8
"""CelebA's customary split: the first 80 % of the files in name order train."""
TRAIN_SHARE = 0.95
"""Other images have no customary split; the original work on anime faces trained on all of them."""


def split_folders(names: Collection[str]) -> dict[str, str]:
    """The folders among some that name splits, and the split that each names.

    Words that all of them share do not matter, as in train2017 and val2017, or training_set and
    test_set. Where none trains, or all do, they are folders like others.
    """
    by_rest: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
        found = [word for word in words if word in SPLITS]
        if len(found) == 1:
            rest = *(word for word in words if word not in SPLITS), *re.findall(r"\d+", name)
            by_rest.setdefault(rest, {})[name] = SPLITS[found[0]]
    for folders in by_rest.values():
        if TRAIN in folders.values() and len(set(folders.values())) > 1:
            return folders
    return {}


def first_part_trains(count: int, share: float) -> dict[str, range]:
    # Of two images or more, each split gets one: an empty split cannot be cut into files.
    boundary = max(1, min(round(count * share), count - 1))
    return {TRAIN: range(boundary), VALIDATION: range(boundary, count)}


def by_split(order: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, dict[str, range]]:
    """An order with all of one split after another, and the positions of each.

    Args: order: (images,) int64; splits: (images,) the name of the split of each, in that order.
    """
    ranges, first = {}, 0
    for split in (TRAIN, VALIDATION, TEST):
        count = int((splits == split).sum())
        if count or split != TEST:
            ranges[split] = range(first, first + count)
        first += count
    parts = [order[splits == split] for split in ranges]
    return np.concatenate(parts), ranges


def shuffled(ids: list[str]) -> np.ndarray:
    """(ids,) int64: numbers of the ids in an order that depends on nothing but the ids.

    Sets are often numbered theme by theme: in that order the last images would be of themes that
    training never sees, and every twentieth could always be the same pose. The ids' hashes mix
    them, the same way on every machine and version of Python.
    """
    hashes = [hashlib.sha256(name.encode()).digest() for name in ids]
    return np.array(sorted(range(len(ids)), key=hashes.__getitem__), np.int64)


def require_splits(ranges: dict[str, range], where: str) -> None:
    for split in (TRAIN, VALIDATION):
        if not ranges.get(split):
            raise UserError(f"{where}: has no image for {split}; training needs both")
