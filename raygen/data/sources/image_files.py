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
from raygen.data.shares import (
    CELEBA_TEST_SHARE,
    CELEBA_TRAIN_SHARE,
    TEST_SHARE,
    VALIDATION_SHARE,
)
from raygen.data.sources.files import Files, common_folder, hidden_part
from raygen.data.sources.layout import find_labels, find_splits
from raygen.data.sources.tables import Table, read_attributes, read_partition
from raygen.data.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    by_split,
    first_part_trains,
    last_part_tests,
    last_parts_held_out,
    note_on_test,
    require_splits,
    share_of_validation,
    shuffled,
)


@dataclass(frozen=True)
class ImageFiles:
    """Image files with or without attributes.

    Attributes:
        kind: celeba, anime or folder, as in the name of the source.
        order: (images,) int64: the number in `files` of each of `ids`.
        values: (images, attributes) int8: 1 true, -1 false, 0 unknown.
        ranges: positions in `ids` of each split.
        notes: sentences for users about how the images were understood.
        untested: positions of the splits in versions that made no test split; empty if they are
            those of `ranges`.
    """

    kind: str
    files: Files
    ids: list[str]
    order: np.ndarray
    attributes: tuple[str, ...]
    values: np.ndarray
    ranges: dict[str, range]
    notes: list[str] = field(default_factory=list)
    untested: dict[str, range] = field(default_factory=dict)

    @property
    def ignored(self) -> list[str]:
        read = set(self.order.tolist())
        beside = [path for number, path in enumerate(self.files.paths) if number not in read]
        return [printable(path) for path in sorted([*self.files.ignored, *beside])]

    def splits(self) -> dict[str, range]:
        return self.ranges

    def without_test(self) -> "ImageFiles | None":
        return replace(self, ranges=self.untested, untested={}) if self.untested else None

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


def celeba(
    images: str, attributes: str, partition: str = "", test_share: float | None = None
) -> ImageFiles:
    """Open CelebA's aligned images with its table of attributes, and optionally its partition.

    Args:
        images: path or URI of a zip, tar or folder.
        attributes, partition: paths or URIs of .csv or .txt files.
        test_share: share of the images to test on, taken from those that do not train; None: half
            of them, unless there is a partition.
    Raises: UserError if something is missing or unreadable, or tables and images disagree.
    """
    files = Files.open(images, "--images")
    names = _unique(files, [path.rsplit("/", 1)[-1] for path in files.names], images)
    table = read_attributes(attributes)
    rows, notes = _match(table, names, images)
    # Other pictures, such as drawings, may lie beside the photographs; they have no rows.
    order = np.array([k for k, name in enumerate(names) if name in rows], np.int64)
    order = order[np.argsort(np.array(names, dtype=object)[order], kind="stable")]
    tests = CELEBA_TEST_SHARE if test_share is None else test_share
    ranges = first_part_trains(len(order), CELEBA_TRAIN_SHARE, tests)
    untested = {}
    if test_share is None and TEST in ranges:
        untested = first_part_trains(len(order), CELEBA_TRAIN_SHARE, 0)
    notes = [*files.notes, *table.notes, *notes]
    if partition:
        parts = read_partition(partition)
        part_rows, more = _match(parts, [names[k] for k in order], images)
        notes += more
        numbers = np.array([parts.values[part_rows[names[k]]][0] for k in order])
        splits = np.array([TRAIN, VALIDATION, TEST])[numbers]
        order, ranges = by_split(order, splits)
        require_splits(ranges, f"--partition {partition}")
        notes += note_on_test(ranges, test_share)
        ranges = _with_test(ranges, test_share, f"--partition {partition}")
        untested = {}
    ids = [names[k] for k in order]
    values = np.array([table.values[rows[name]] for name in ids], dtype=np.int8)
    return ImageFiles("celeba", files, ids, order, table.columns, values, ranges, notes, untested)


def _match(table: Table, names: list[str], images: str) -> tuple[dict[str, str], list[str]]:
    """Find each image's row; see `Table.match`. Raises: UserError if an image has none."""
    rows, notes = table.match(sorted(names))
    missing = [n for n in sorted(names) if n not in rows and not is_unread_picture(n)]
    table.require_rows(missing, f"--images {images}")
    return rows, notes


def folder(
    images: str,
    validation_share: float = VALIDATION_SHARE,
    labels: bool = False,
    kind: str = "folder",
    keep_splits: bool = True,
    chosen: Sequence[str] = (),
    option: str = "--images",
    test_share: float | None = None,
) -> ImageFiles:
    """Open any image files in a folder, zip or tar.

    Args:
        images: path or URI of the folder or archive.
        validation_share: share of the images to validate on if folders do not name splits.
        labels: whether to make an attribute of each subfolder, true for the images in it.
        kind: name of the source, for the manifest.
        keep_splits: whether folders such as train and val name splits.
        chosen: names of the labels that become attributes; empty for all.
        option: the option that names the images, for messages.
        test_share: share of the images to test on; None: 5 % if folders do not name splits.
    Raises: UserError if the images are missing or unreadable.
    """
    files = Files.open(images, option)
    prefix = common_folder(files.names)
    names = _unique(files, [path.removeprefix(prefix) for path in files.names], images, option)
    splits = find_splits(names, f"{option} {images}") if keep_splits else None
    attributes: tuple[str, ...] = ()
    values = np.empty((len(names), 0), np.int8)
    notes = [*files.notes, *([splits.note] if splits else [])]
    if labels:
        found = find_labels(names, images, splits, chosen, printable(prefix))
        attributes, values = found.names, found.values
        notes += found.notes
    order = shuffled(names)
    tests = TEST_SHARE if test_share is None else test_share
    ranges = last_parts_held_out(len(names), validation_share, tests)
    untested = {}
    if splits:
        order, ranges = by_split(order, np.array([splits.splits[k] for k in order]))
        # Originals have no such option.
        notes += note_on_test(ranges, test_share) if option == "--images" else []
        ranges = _with_test(ranges, test_share, f"{option} {images}")
    elif test_share is None and TEST in ranges:
        untested = last_parts_held_out(len(names), validation_share, 0)
    ids = [names[k] for k in order]
    return ImageFiles(kind, files, ids, order, attributes, values[order], ranges, notes, untested)


def _with_test(ranges: dict[str, range], share: float | None, said: str) -> dict[str, range]:
    """The splits that images came with, and a test split if one was asked for that they lack.

    Args:
        ranges: positions of the splits.
        share: the share of all images to take from those for validation; None: none.
        said: where the images are, for messages.
    Raises: UserError if there are not enough validation images.
    """
    if share and TEST not in ranges:
        return last_part_tests(ranges, share_of_validation(ranges, share, said))
    return ranges


def _unique(files: Files, ids: list[str], images: str, option: str = "--images") -> list[str]:
    """Make ids printable. Raises: UserError if two are the same, or there are too few."""
    if len(ids) < 2:
        beside = [printable(path) for path in files.ignored]
        also = f"; beside it: {', '.join(beside[:3])}" if beside else ""
        also += "".join(f"; {sentence}" for sentence in remedies(beside))
        if any(map(hidden_part, beside)):
            also += "; hidden files and folders are left out unless they are named themselves"
        raise UserError(
            f"{option} {images}: holds {'one image' if ids else 'no images'} "
            f"({', '.join(SUFFIXES)}){also}; training and validation need one each at least: name "
            "the zip of all images or the folder unpacked from it"
        )
    ids = [printable(name) for name in ids]
    [(name, times)] = Counter(ids).most_common(1)
    if times > 1:
        twice = [printable(p) for p, n in zip(files.paths, ids, strict=True) if n == name][:2]
        raise UserError(
            f"{option} {images}: two files are named {name} ({' and '.join(twice)}); names must "
            "be unique"
        )
    return ids
