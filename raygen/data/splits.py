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
"""The usual share of training images of CelebA: the first 80 % of the files in name order."""
TRAIN_SHARE = 0.95
"""Share of training images of datasets without a usual split."""


def split_folders(names: Collection[str]) -> dict[str, str]:
    """The split that each folder names; folders that name none are left out.

    Words that the folders share are ignored, as in train2017 and val2017, or training_set and
    test_set. Folders count as splits only if one is for training and another is not.
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
    """Positions of the splits if the first part of `count` images, a share in (0, 1), trains."""
    # Each split gets at least one image, because an empty split cannot be cut into files.
    boundary = max(1, min(round(count * share), count - 1))
    return {TRAIN: range(boundary), VALIDATION: range(boundary, count)}


def by_split(order: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, dict[str, range]]:
    """Reorder images such that each split is a range; within a split the order is kept.

    Args: order: (images,) int64: numbers of images; splits: (images,) the split of each of these.
    Returns: the new order, (images,) int64, and the positions in it of each split.
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
    """Shuffle ids in a way that depends on nothing but the ids.

    Datasets are often sorted by theme. If the last images were held out, training would never see
    their themes, and every twentieth image might always show the same pose. Sorting by hashes
    mixes the images, in the same way on every machine and version of Python.

    Returns: (ids,) int64: numbers of the ids in the new order.
    """
    hashes = [hashlib.sha256(name.encode()).digest() for name in ids]
    return np.array(sorted(range(len(ids)), key=hashes.__getitem__), np.int64)


def require_splits(ranges: dict[str, range], where: str) -> None:
    """Raises: UserError if there are no images for training or none for validation."""
    for split in (TRAIN, VALIDATION):
        if not ranges.get(split):
            raise UserError(f"{where}: has no image for {split}; training needs both")
