"""The splits of a dataset: the names that users have for them, and how images are divided."""

import hashlib
import math
import re
from collections.abc import Collection

import numpy as np

from raygen.core.errors import UserError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
READ_IN_TRAINING = (TRAIN, VALIDATION)
"""The splits that training, sweeps and pictures read. The test split is for evaluation alone, so
that nothing is chosen by what is measured on it."""
NO_TEST = "none; measurements will use validation images"
"""What a dataset without a test split means for its users."""
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


def first_part_trains(count: int, share: float, test: float) -> dict[str, range]:
    """Positions of the splits if the first part of `count` images trains, and the last part tests.

    The test images are taken from those that do not train. Three images or more are enough for one
    in each split; with fewer there is no test split.

    Args:
        share: of all images, in (0, 1), that train.
        test: share of all images that test; 0 for no test split.
    """
    tests = int(test > 0 and count > 2)
    # Each split gets at least one image, because an empty split cannot be cut into files.
    boundary = max(1, min(round(count * share), count - 1 - tests))
    ranges = {TRAIN: range(boundary), VALIDATION: range(boundary, count)}
    return last_part_tests(ranges, test / (1 - share)) if tests else ranges


def last_part_tests(ranges: dict[str, range], share: float) -> dict[str, range]:
    """Make the last validation images, a share in (0, 1), the test split.

    Each of both gets at least one image; a single one stays for validation.
    """
    held_out = ranges[VALIDATION]
    if len(held_out) < 2:
        return ranges
    # Half of an odd number is rounded down, in favour of the validation images.
    tests = max(1, min(math.floor(len(held_out) * share + 1e-6), len(held_out) - 1))
    return ranges | {VALIDATION: held_out[:-tests], TEST: held_out[-tests:]}


def last_parts_held_out(count: int, validation: float, test: float) -> dict[str, range]:
    """Positions of the splits if the last of `count` images validate, and those before them test.

    The validation images are the same for each `test`. Three images or more are enough for one in
    each split; with fewer there is no test split.

    Args: validation, test: shares of all images, in (0, 1); test: 0 for no test split.
    """
    tests = int(test > 0 and count > 2)
    boundary = max(1 + tests, min(round(count * (1 - validation)), count - 1))
    if not tests:
        return {TRAIN: range(boundary), VALIDATION: range(boundary, count)}
    tests = max(1, min(count - round(count * (1 - test)), boundary - 1))
    return {
        TRAIN: range(boundary - tests),
        VALIDATION: range(boundary, count),
        TEST: range(boundary - tests, boundary),
    }


def share_of_validation(ranges: dict[str, range], test: float, said: str) -> float:
    """What share of the validation images makes up a share `test`, in (0, 1), of all images.

    Args: said: where the images are, for the message.
    Raises: UserError if no validation image would be left.
    """
    held_out, count = len(ranges[VALIDATION]), sum(map(len, ranges.values()))
    if test * count >= held_out:
        raise UserError(
            f"--test-share {test:g}: must be less than {held_out / count:.3g}, because test images "
            f"are taken from those for validation, {held_out:,} of {count:,} images of {said}"
        )
    return test * count / held_out


def note_on_test(ranges: dict[str, range], share: float | None) -> list[str]:
    """Sentences for users about the test split of images that came divided.

    Args:
        ranges: positions of the splits that they came with.
        share: the share of test images that was asked for; None if none was.
    """
    if TEST in ranges:
        unused = "--test-share is not used: the images come with a test split of their own"
        return [] if share is None else [unused]
    if share is None:
        return [
            "the images come in two splits: one trains, the other validates; --test-share takes a "
            "test split out of the latter"
        ]
    return []


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
