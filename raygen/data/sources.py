"""Where pictures come from: CelebA as it is distributed, anime faces, the built-in drawn faces.

A source lists images by id (their file names), says which split each belongs to, and loads one
image at a time. It is sent to Ray tasks, so it holds paths and lists but no open files.
Adding a dataset is adding one class with the members of `Source`.
"""

import csv
import functools
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from raygen.config import ImageFormat
from raygen.data import drawn_faces
from raygen.errors import UserError
from raygen.storage import Folder

TRAIN, VALIDATION = "train", "validation"
CELEBA_TRAIN_SHARE = 0.8
"""CelebA's customary split: the first 80 % of the files in name order train."""
ANIME_TRAIN_SHARE = 0.95
"""The anime faces have no customary split; the original work trained on all of them."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Source(Protocol):
    """A list of images with attributes, in an order that is always the same."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the binary attributes that each image carries; may be empty."""

    @property
    def ids(self) -> list[str]:
        """Each image's name, unique."""

    def splits(self) -> dict[str, range]:
        """Positions in `ids` of each split; together they cover all of `ids`."""

    def load(self, position: int) -> tuple[Image.Image, list[int]]:
        """The image at a position in `ids` and its attributes: 1 true, -1 false, 0 unknown.

        Raises: OSError, ValueError, SyntaxError, zipfile.BadZipFile if it cannot be decoded.
        """

    def description(self) -> dict[str, Any]:
        """Where the images came from, for the manifest. Equal for equal images."""


def _first_part_trains(count: int, share: float) -> dict[str, range]:
    # Of two images or more, each split gets one: an empty split cannot be cut into files.
    boundary = min(round(count * share), count - 1)
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

    def splits(self) -> dict[str, range]:
        return _first_part_trains(self.count, CELEBA_TRAIN_SHARE)

    def load(self, position: int) -> tuple[Image.Image, list[int]]:
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
    name = f"drawn-v{drawn_faces.VERSION}-{image.size}-{count}"
    return storage.join("datasets", name)


@dataclass(frozen=True)
class CelebA:
    """CelebA's aligned images: a zip or a folder of files, and `list_attr_celeba.csv`."""

    images: Path
    attributes: tuple[str, ...]
    ids: list[str]
    members: list[str]
    values: np.ndarray
    """(images, attributes) int8: 1, -1, or 0 where the table says so."""

    @staticmethod
    def open(images: str | Path, attributes: str | Path) -> "CelebA":
        """List the images and match the attribute table to them.

        Raises: UserError if a file is missing or unreadable, or table and images disagree.
        """
        # Absolute, because the tasks that load the images may run in another folder.
        path = Path(images).expanduser().absolute()
        members = _list_members(path, images)
        names, table = _read_attributes(Path(attributes).expanduser())
        ids = sorted(members)
        without_row = [name for name in ids if name not in table]
        without_image = [name for name in table if name not in members]
        for problem, names_missing in (
            ("no row for images", without_row),
            ("no image for rows", without_image),
        ):
            if names_missing:
                raise UserError(
                    f"--attributes {attributes} and --images {images}: {problem} of "
                    f"{len(names_missing)} names, the first is {names_missing[0]}; use the table "
                    "that belongs to these images"
                )
        values = np.array([table[name] for name in ids], dtype=np.int8)
        return CelebA(path, names, ids, [members[name] for name in ids], values)

    def splits(self) -> dict[str, range]:
        return _first_part_trains(len(self.ids), CELEBA_TRAIN_SHARE)

    def load(self, position: int) -> tuple[Image.Image, list[int]]:
        image = _load_member(self.images, self.members[position])
        return image, self.values[position].tolist()

    def description(self) -> dict[str, Any]:
        table = hashlib.sha256(repr((self.attributes, self.ids)).encode() + self.values.tobytes())
        return {
            "kind": "celeba",
            "images": self.images.name,
            "count": len(self.ids),
            "table_sha256": table.hexdigest(),
        }


@dataclass(frozen=True)
class AnimeFaces:
    """Anime faces, or any other pictures without attributes: a zip or a folder of files."""

    images: Path
    ids: list[str]
    members: list[str]

    @staticmethod
    def open(images: str | Path) -> "AnimeFaces":
        """List the images.

        Raises: UserError if they are missing or unreadable.
        """
        path = Path(images).expanduser().absolute()
        members = _list_members(path, images)
        # Such sets are often numbered theme by theme: in that order the last images would be of
        # themes that training never sees, and every twentieth could always be the same pose.
        # The names' hashes mix them, the same way on every machine and version of Python.
        ids = sorted(members, key=lambda name: hashlib.sha256(name.encode()).digest())
        return AnimeFaces(path, ids, [members[name] for name in ids])

    @property
    def attributes(self) -> tuple[str, ...]:
        return ()

    def splits(self) -> dict[str, range]:
        return _first_part_trains(len(self.ids), ANIME_TRAIN_SHARE)

    def load(self, position: int) -> tuple[Image.Image, list[int]]:
        return _load_member(self.images, self.members[position]), []

    def description(self) -> dict[str, Any]:
        return {
            "kind": "anime",
            "images": self.images.name,
            "count": len(self.ids),
            "ids_sha256": hashlib.sha256(repr(self.ids).encode()).hexdigest(),
        }


def _load_member(images: Path, member: str) -> Image.Image:
    """Decode one file of a folder or zip, named by its path inside it."""
    if images.is_dir():
        image = Image.open(images / member)
    else:
        image = Image.open(io.BytesIO(_zip_file(images).read(member)))
    image.load()
    return image


def _zip_file(path: Path) -> zipfile.ZipFile:
    """One open archive per process: reading its directory takes a second for 200,000 files."""
    return _open_zip(path, os.getpid())


@functools.lru_cache(maxsize=4)
def _open_zip(path: Path, process: int) -> zipfile.ZipFile:
    # A forked process would share the file's position with its parent, so it opens its own.
    return zipfile.ZipFile(path)


def _list_members(images: Path, written: str | Path) -> dict[str, str]:
    """Image files in a folder or zip: file name -> path inside it.

    Args: written: the path as the user wrote it, for messages.
    """
    try:
        if images.is_dir():
            paths = [str(path.relative_to(images)) for path in images.rglob("*") if path.is_file()]
        else:
            paths = [info.filename for info in _zip_file(images).infolist() if not info.is_dir()]
    except FileNotFoundError:
        raise UserError(
            f"--images {written}: no such file or folder; name a zip or a folder of images"
        ) from None
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--images {written}: cannot be read as a zip ({error}); download it again"
        ) from error
    members: dict[str, str] = {}
    for path in paths:
        if path.lower().endswith(IMAGE_SUFFIXES) and not path.startswith("__MACOSX/"):
            name = path.rsplit("/", 1)[-1]
            if name in members:
                raise UserError(
                    f"--images {written}: two files are named {name} ({members[name]} and {path}); "
                    "names must be unique"
                )
            members[name] = path
    if len(members) < 2:
        raise UserError(
            f"--images {written}: holds {'one image' if members else 'no images'} "
            f"({', '.join(IMAGE_SUFFIXES)}), but training and validation need one each at least; "
            "name the zip of all images or the folder unpacked from it"
        )
    return members


def _read_attributes(path: Path) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """CelebA's attribute table: the attributes' names, and image name -> values."""
    table: dict[str, list[int]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if len(header) < 2 or header[0] != "image_id":
                raise UserError(
                    f"--attributes {path}: line 1 must be `image_id,` and the attributes' names, "
                    f"as in list_attr_celeba.csv; found {','.join(header)[:60]!r}"
                )
            for row in rows:
                if not row:
                    continue
                where = f"--attributes {path}, line {rows.line_num}"
                if len(row) != len(header):
                    raise UserError(f"{where}: has {len(row)} fields, the header {len(header)}")
                if row[0] in table:
                    raise UserError(f"{where}: {row[0]} appears a second time")
                if not set(row[1:]) <= {"-1", "0", "1"}:
                    wrong = next(value for value in row[1:] if value not in ("-1", "0", "1"))
                    raise UserError(f"{where}: value {wrong!r}, but must be -1, 0 or 1")
                table[row[0]] = [int(value) for value in row[1:]]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--attributes {path}: cannot be read ({reason}); name CelebA's list_attr_celeba.csv"
        ) from error
    return tuple(header[1:]), table
