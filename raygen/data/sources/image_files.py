"""Image files as datasets: CelebA as it is distributed, anime faces, any folder or archive."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from raygen.core.errors import UserError
from raygen.core.printable import printable
from raygen.data.file_types import is_unread_picture, remedies
from raygen.data.images import SUFFIXES, open_image
from raygen.data.sources.files import Files, common_folder, hidden_part
from raygen.data.sources.layout import find_labels, find_splits
from raygen.data.sources.tables import Table, read_attributes, read_partition
from raygen.data.splits import (
    CELEBA_TRAIN_SHARE,
    TEST,
    TRAIN,
    TRAIN_SHARE,
    VALIDATION,
    by_split,
    first_part_trains,
    require_splits,
    shuffled,
)


@dataclass(frozen=True)
class ImageFiles:
    """Image files with or without attributes.

    Attributes:
        kind: what the user called them.
        order: (images,) int64: the number in `files` of each of `ids`.
        values: (images, attributes) int8: 1, -1, or 0.
        ranges: of each split.
        notes: what users should know of how the images were understood, a sentence each.
    """

    kind: str
    files: Files
    ids: list[str]
    order: np.ndarray
    attributes: tuple[str, ...]
    values: np.ndarray
    ranges: dict[str, range]
    notes: list[str] = field(default_factory=list)

    @property
    def ignored(self) -> list[str]:
        read = set(self.order.tolist())
        beside = [path for number, path in enumerate(self.files.paths) if number not in read]
        return [printable(path) for path in sorted([*self.files.ignored, *beside])]

    def splits(self) -> dict[str, range]:
        return self.ranges

    @property
    def is_remote(self) -> bool:
        return not self.files.place.is_local

    def patient(self, seconds: float) -> "ImageFiles":
        return replace(self, files=self.files.patient(seconds))

    def size(self, position: int) -> int:
        return int(self.files.numbers["size"][self.order[position]])

    def read(self, position: int) -> bytes:
        return self.files.read(int(self.order[position]))

    def open(self, position: int, data: bytes) -> tuple[Image.Image, list[int]]:
        return open_image(data), self.values[position].tolist()

    def description(self) -> dict[str, Any]:
        table = hashlib.sha256(repr((self.attributes, self.ids)).encode() + self.values.tobytes())
        return {
            "kind": self.kind,
            "images": self.files.place.name,
            "count": len(self.ids),
            "files_sha256": self.files.digest(),
            "table_sha256": table.hexdigest(),
            "splits": {split: len(positions) for split, positions in self.ranges.items()},
        }


def celeba(images: str, attributes: str, partition: str = "") -> ImageFiles:
    """CelebA's aligned images with its table of attributes, and perhaps its partition.

    Args: images: a zip, tar or folder, local or not; attributes, partition: .csv or .txt.
    Raises: UserError if something is missing or unreadable, or tables and images disagree.
    """
    files = Files.open(images, "--images")
    names = _unique(files, [path.rsplit("/", 1)[-1] for path in files.names], images)
    table = read_attributes(attributes)
    rows, notes = _match(table, names, images)
    # Drawings and the like beside the photographs have no rows.
    order = np.array([k for k, name in enumerate(names) if name in rows], np.int64)
    order = order[np.argsort(np.array(names, dtype=object)[order], kind="stable")]
    ranges = first_part_trains(len(order), CELEBA_TRAIN_SHARE)
    notes = [*files.notes, *table.notes, *notes]
    if partition:
        parts = read_partition(partition)
        part_rows, more = _match(parts, [names[k] for k in order], images)
        notes += more
        numbers = np.array([parts.values[part_rows[names[k]]][0] for k in order])
        splits = np.array([TRAIN, VALIDATION, TEST])[numbers]
        order, ranges = by_split(order, splits)
        require_splits(ranges, f"--partition {partition}")
    ids = [names[k] for k in order]
    values = np.array([table.values[rows[name]] for name in ids], dtype=np.int8)
    return ImageFiles("celeba", files, ids, order, table.columns, values, ranges, notes)


def _match(table: Table, names: list[str], images: str) -> tuple[dict[str, str], list[str]]:
    """The row of each image, and notes. Raises: UserError if images have none."""
    rows, notes = table.match(sorted(names))
    missing = [n for n in sorted(names) if n not in rows and not is_unread_picture(n)]
    table.require_rows(missing, f"--images {images}")
    return rows, notes


def folder(
    images: str,
    train_share: float = TRAIN_SHARE,
    labels: bool = False,
    kind: str = "folder",
    keep_splits: bool = True,
    chosen: Sequence[str] = (),
) -> ImageFiles:
    """Any image files, below a folder or in a zip or tar, local or not.

    Args:
        train_share: of the images are for training, the others for validation, where their
            folders do not say it.
        labels: make an attribute of each subfolder, true for the images in it.
        keep_splits: take folders such as train and val for the splits.
        chosen: the labels that become attributes; empty for all.
    Raises: UserError if they are missing or unreadable.
    """
    files = Files.open(images, "--images")
    prefix = common_folder(files.names)
    names = _unique(files, [path.removeprefix(prefix) for path in files.names], images)
    splits = find_splits(names, images) if keep_splits else None
    attributes: tuple[str, ...] = ()
    values = np.empty((len(names), 0), np.int8)
    notes = [*files.notes, *([splits.note] if splits else [])]
    if labels:
        found = find_labels(names, images, splits, chosen, printable(prefix))
        attributes, values = found.names, found.values
        notes += found.notes
    order = shuffled(names)
    ranges = first_part_trains(len(names), train_share)
    if splits:
        order, ranges = by_split(order, np.array([splits.splits[k] for k in order]))
    ids = [names[k] for k in order]
    return ImageFiles(kind, files, ids, order, attributes, values[order], ranges, notes)


def _unique(files: Files, ids: list[str], images: str) -> list[str]:
    """Ids as they can be stored. Raises: UserError if two are the same, or too few."""
    if len(ids) < 2:
        beside = [printable(path) for path in files.ignored]
        also = f"; beside it: {', '.join(beside[:3])}" if beside else ""
        also += "".join(f"; {sentence}" for sentence in remedies(beside))
        if any(map(hidden_part, beside)):
            also += "; hidden files and folders are left out unless they are named themselves"
        raise UserError(
            f"--images {images}: holds {'one image' if ids else 'no images'} "
            f"({', '.join(SUFFIXES)}){also}; training and validation need one each at least: name "
            "the zip of all images or the folder unpacked from it"
        )
    ids = [printable(name) for name in ids]
    [(name, times)] = Counter(ids).most_common(1)
    if times > 1:
        twice = [printable(p) for p, n in zip(files.paths, ids, strict=True) if n == name][:2]
        raise UserError(
            f"--images {images}: two files are named {name} ({' and '.join(twice)}); names must "
            "be unique"
        )
    return ids
