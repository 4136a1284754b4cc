"""The splits of a dataset, by the names that users have for them."""

import re
from collections.abc import Collection

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
