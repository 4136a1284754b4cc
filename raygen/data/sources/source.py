"""Sources of images: CelebA as it is distributed, anime faces, any folder, drawn faces.

A source lists images by id (their file names), says which split each belongs to, and reads one
image at a time. It is sent to Ray tasks, so it holds paths and lists but no open files.
Adding a dataset is adding one function, or one class with the members of `Source`.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from PIL import Image

from raygen.config.run import ImageFormat
from raygen.core.errors import UserError
from raygen.core.printable import printable
from raygen.core.storage import Folder
from raygen.data.file_types import is_unread_picture, remedies
from raygen.data.images import SUFFIXES, open_image
from raygen.data.shards.manifest import FORMAT_VERSION
from raygen.data.sources import drawn_faces
from raygen.data.sources.files import Files, common_folder, hidden_part
from raygen.data.sources.layout import find_labels, find_splits
from raygen.data.sources.tables import Table, read_attributes, read_partition
from raygen.data.splits import TEST as TEST
from raygen.data.splits import TRAIN as TRAIN
from raygen.data.splits import VALIDATION as VALIDATION

CELEBA_TRAIN_SHARE = 0.8
"""CelebA's customary split: the first 80 % of the files in name order train."""
TRAIN_SHARE = 0.95
"""Other images have no customary split; the original work on anime faces trained on all of them."""


class Source(Protocol):
    """A list of images with attributes, in an order that is always the same."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the binary attributes that each image carries; may be empty."""

    @property
    def ids(self) -> list[str]:
        """Each image's name, unique."""

    @property
    def ignored(self) -> list[str]:
        """Other files that were found beside the images."""

    @property
    def notes(self) -> list[str]:
        """What users should know of how the images were understood, a sentence each."""

    def splits(self) -> dict[str, range]:
        """Positions in `ids` of each split; together they cover all of `ids`."""

    @property
    def is_remote(self) -> bool:
        """Whether each `read` waits for a network, so that several at once pay."""

    def patient(self, seconds: float) -> "Source":
        """The same source, for a job that outlasts its object store's outages."""

    def size(self, position: int) -> int:
        """Bytes that `read` will return, or fewer; 0 where that is not known."""

    def read(self, position: int) -> bytes:
        """What is stored of the image at a position in `ids`. Several threads may read at once.

        Raises: BadImage if there is no such image; OSError if the place of all images fails.
        """

    def open(self, position: int, data: bytes) -> tuple[Image.Image, list[int]]:
        """An image of what `read` returned, perhaps not decoded yet, and its attributes.

        An attribute is 1 (true), -1 (false) or 0 (unknown).
        Raises: BadImage.
        """

    def description(self) -> dict[str, Any]:
        """Where the images came from, for the manifest. Equal for equal images."""


def first_part_trains(count: int, share: float) -> dict[str, range]:
    # Of two images or more, each split gets one: an empty split cannot be cut into files.
    boundary = max(1, min(round(count * share), count - 1))
    return {TRAIN: range(boundary), VALIDATION: range(boundary, count)}


@dataclass(frozen=True)
class DrawnFaces:
    """Faces that raygen draws itself: 178 wide, 218 high, each a function of (seed, position)."""

    count: int
    seed: int = 0

    @property
    def attributes(self) -> tuple[str, ...]:
        return drawn_faces.ATTRIBUTES

    @property
    def ids(self) -> list[str]:
        return [f"{position + 1:06d}.jpg" for position in range(self.count)]

    @property
    def ignored(self) -> list[str]:
        return []

    @property
    def notes(self) -> list[str]:
        return []

    def splits(self) -> dict[str, range]:
        return first_part_trains(self.count, CELEBA_TRAIN_SHARE)

    @property
    def is_remote(self) -> bool:
        return False

    def patient(self, seconds: float) -> "DrawnFaces":
        return self

    def size(self, position: int) -> int:
        return 0

    def read(self, position: int) -> bytes:
        return b""

    def open(self, position: int, data: bytes) -> tuple[Image.Image, list[int]]:
        image, attributes = drawn_faces.draw_face(self.seed, position)
        return image, [1 if attributes[name] else -1 for name in self.attributes]

    def description(self) -> dict[str, Any]:
        # The drawing's version: images drawn by another one must not be taken for the same.
        return {
            "kind": "drawn",
            "count": self.count,
            "seed": self.seed,
            "version": drawn_faces.VERSION,
        }


def drawn_folder(storage: Folder, image: ImageFormat, count: int) -> Folder:
    """Where a storage keeps drawn faces: beside the runs, where all of a cluster can read them."""
    name = f"drawn-v{drawn_faces.VERSION}.{FORMAT_VERSION}-{image.size}-{count}"
    return storage.join("datasets", name)


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


def require_splits(ranges: dict[str, range], where: str) -> None:
    for split in (TRAIN, VALIDATION):
        if not ranges.get(split):
            raise UserError(f"{where}: has no image for {split}; training needs both")
