"""Derives splits and labels of images from the folders that contain them.

The layouts are those of torchvision's ImageFolder and of Keras: CLASS/1.png, or train/CLASS/1.png
and val/CLASS/1.png, below any folders that all images share.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raygen.core.errors import UserError
from raygen.data.sources.files import common_folder
from raygen.data.splits import TEST, TRAIN, VALIDATION, split_folders

MAX_LABELS = 256
"""Upper limit of the number of labels, because each takes a byte per image."""
SHOWN = 5
"""How many names a message lists at most."""


@dataclass(frozen=True)
class Splits:
    """Splits of images that are named by their folders.

    Attributes:
        splits: (images,) the split of each image.
        names: (images,) paths of the images without the folders that name splits.
        folders: the split for which each of those folders stands.
    """

    splits: list[str]
    names: list[str]
    folders: dict[str, str]

    @property
    def note(self) -> str:
        """Tell users how the folders were understood."""
        parts = []
        for split in (TRAIN, VALIDATION, TEST):
            names = sorted(f"{name}/" for name, meant in self.folders.items() if meant == split)
            if names:
                count = self.splits.count(split)
                images = "image" if count == 1 else "images"
                parts.append(f"{' and '.join(names)} for {split} ({count:,} {images})")
        return (
            f"folders taken as the split: {', '.join(parts)}; with --ignore-split-folders they are "
            "folders like others"
        )


def find_splits(names: Sequence[str], said: str) -> Splits | None:
    """The splits of images, if their folders name them.

    Args:
        names: paths relative to the common folder.
        said: the option that names the images, and its value, for messages.
    Returns: None if the folders do not name splits.
    Raises: UserError if some images lie in folders for splits, and others elsewhere.
    """
    parts = [name.split("/") for name in names]
    tops = {part[0] for part in parts if len(part) > 1}
    top_splits = split_folders(tops)
    outside = next((n for n, p in zip(names, parts, strict=True) if p[0] not in top_splits), None)
    if top_splits and outside:
        both = " and ".join(sorted(f"{name}/" for name in top_splits))
        raise UserError(
            f"{said}: {both} look like a split, but {outside} lies in neither; move it, or have a "
            "share of all images held out: jobs/prepare.py with --ignore-split-folders"
        )
    for depth in range(min(map(len, parts), default=1) - 1):
        folders = _only_splits(parts, depth)
        if folders:
            break
    else:
        return None
    splits = [folders[part[depth]] for part in parts]
    # Some archives nest the folder in one of the same name, as in seg_train/seg_train/CLASS.
    while min(map(len, parts)) > depth + 1 and _only_splits(parts, depth):
        parts = [part[:depth] + part[depth + 1 :] for part in parts]
    if VALIDATION not in splits:
        # Training needs a validation split; use the test split in its place.
        splits = [VALIDATION if split == TEST else split for split in splits]
        folders = {name: VALIDATION if s == TEST else s for name, s in folders.items()}
    return Splits(splits, ["/".join(part) for part in parts], folders)


def _only_splits(parts: list[list[str]], depth: int) -> dict[str, str]:
    """The split of each folder at a depth; empty unless all of the folders name splits."""
    names = {part[depth] for part in parts}
    found = split_folders(names)
    return found if found.keys() == names else {}


@dataclass(frozen=True)
class Labels:
    """Attributes that say which subfolder each image lies in.

    Attributes:
        values: (images, labels) int8: 1 for the image's own label, -1 for others; all 0 for an
            image that has no label.
        notes: sentences for users about the labels.
    """

    names: tuple[str, ...]
    values: np.ndarray
    notes: list[str]


def find_labels(
    names: Sequence[str],
    images: str,
    splits: Splits | None = None,
    chosen: Sequence[str] = (),
    shared: str = "",
) -> Labels:
    """Label each image with the subfolder that it lies in.

    Names that differ only in their Unicode normalisation, which some systems change, are one label.

    Args:
        names: paths relative to the common folder.
        images: where the images are, for messages.
        splits: the splits of the images, if their folders name them.
        chosen: the labels that become attributes; empty for all.
        shared: the common folder, with a final /; it becomes the label of all images if there is
            no folder below it.
    Raises: UserError if there are too few or too many labels, or images lie in no subfolder.
    """
    inside = list(splits.names if splits else names)
    if shared and not splits and not any("/" in name for name in inside):
        inside = [f"{shared.split('/')[-2]}/{name}" for name in inside]
    above = common_folder(inside)
    if all("/" in name.removeprefix(above) for name in inside):
        inside = [name.removeprefix(above) for name in inside]
    labels = [_same_form(name.split("/")[0]) if "/" in name else "" for name in inside]
    found = sorted(set(labels) - {""})
    loose = labels.index("") if "" in labels else None
    notes = []
    if splits and loose is not None:
        # Test images are often published without their classes.
        without = {s for s, label in zip(splits.splits, labels, strict=True) if not label}
        within = {s for s, label in zip(splits.splits, labels, strict=True) if label}
        if TRAIN in within and without.isdisjoint(within):
            loose = None
            notes.append(
                f"images for {' and '.join(sorted(without))} lie in no subfolder: their "
                "labels are unknown"
            )
    if loose is not None:
        raise UserError(
            f"--labels: takes up to {MAX_LABELS} subfolders of --images {images} as labels, but "
            f"{names[loose]} lies in none; sort the images into subfolders, or leave --labels out"
        )
    if len(found) == 1:
        notes.append(f"all images have one label, {found[0]}")
    found = choose_attributes(found, [_same_form(name) for name in chosen], f"--images {images}")
    if len(found) > MAX_LABELS:
        raise UserError(
            f"--labels: there are {len(found):,} subfolders, but at most {MAX_LABELS} become "
            "attributes; choose some with --keep-attributes, or leave --labels out"
        )
    notes += _alike(found)
    column = {label: number for number, label in enumerate(found)}
    values = np.full((len(labels), len(found)), -1, np.int8)
    for row, label in enumerate(labels):
        if not label:
            values[row] = 0
        elif label in column:
            values[row, column[label]] = 1
    return Labels(tuple(found), values, notes)


def choose_attributes(names: Sequence[str], chosen: Sequence[str], where: str) -> list[str]:
    """The chosen names, in the order of `names`; all names if none were chosen.

    Raises: UserError if a chosen name does not exist.
    """
    missing = next((name for name in chosen if name not in names), None)
    if missing is not None:
        more = ", ..." if len(names) > SHOWN else ""
        raise UserError(
            f"--keep-attributes {missing}: {where} has no attribute of that name; it has "
            f"{', '.join(names[:SHOWN]) or 'none'}{more}"
        )
    return [name for name in names if name in chosen] if chosen else list(names)


def _same_form(label: str) -> str:
    return unicodedata.normalize("NFC", label)


def _alike(labels: Sequence[str]) -> list[str]:
    """Notes for users about labels that are easily taken for one another."""
    groups = defaultdict(list)
    for label in labels:
        groups[unicodedata.normalize("NFKC", label).casefold().strip()].append(label)
    pairs = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not pairs:
        return []
    more = f", and {len(pairs) - SHOWN:,} more" if len(pairs) > SHOWN else ""
    return [f"labels that look alike are kept apart: {', '.join(pairs[:SHOWN])}{more}"]
