"""The built-in dataset: faces that raygen draws itself."""

from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from raygen.config.run import ImageFormat
from raygen.core import marker
from raygen.core.errors import ShardError
from raygen.core.storage import Folder
from raygen.data.shards.manifest import FORMAT_VERSION, Manifest
from raygen.data.shares import CELEBA_TEST_SHARE, CELEBA_TRAIN_SHARE
from raygen.data.sources import drawn_faces
from raygen.data.splits import TEST, first_part_trains

TESTED = "-with-test"
"""Ends the names of the folders of drawn faces that have a test split."""


@dataclass(frozen=True)
class DrawnFaces:
    """Faces that raygen draws itself: 178 wide, 218 high, each a function of (seed, position).

    Attributes: test_share: share of the faces that test; None: as of CelebA; 0: no test split, as
        in versions that had none.
    """

    count: int
    seed: int = 0
    test_share: float | None = None

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
        share = CELEBA_TEST_SHARE if self.test_share is None else self.test_share
        return first_part_trains(self.count, CELEBA_TRAIN_SHARE, share)

    def without_test(self) -> "DrawnFaces | None":
        return replace(self, test_share=0.0) if self.test_share is None else None

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
        # The version is included because other versions of the code draw other faces.
        about: dict[str, Any] = {
            "kind": "drawn",
            "count": self.count,
            "seed": self.seed,
            "version": drawn_faces.VERSION,
        }
        splits = {split: len(positions) for split, positions in self.splits().items()}
        # Versions that made no test split did not describe the others.
        return about | ({"splits": splits} if TEST in splits else {})


def drawn_folder(storage: Folder, image: ImageFormat, count: int, tested: bool = True) -> Folder:
    """The folder of drawn faces: beside the runs, where all nodes of a cluster can read them.

    Args: tested: whether the faces have a test split; versions that made none left it out.
    """
    name = f"drawn-v{drawn_faces.VERSION}.{FORMAT_VERSION}-{image.size}-{count}"
    return storage.join("datasets", name + TESTED if tested else name)


def has_test(folder: Folder) -> bool:
    """Whether a folder of `drawn_folder` is one of faces with a test split."""
    return folder.name.endswith(TESTED)


def other_folder(folder: Folder) -> Folder:
    """The folder of the same drawn faces without a test split, or with one if these have none."""
    name = folder.name.removesuffix(TESTED) if has_test(folder) else folder.name + TESTED
    return folder.parent.join(name)


def find_drawn(storage: Folder, image: ImageFormat, count: int, begun: str = "") -> Folder:
    """The folder of a run's drawn faces, whether they are drawn already or not.

    Args: begun: fingerprint of the faces that the run was begun with, or "". They have no test
        split if the run was begun by a version that made none.
    """
    folder = drawn_folder(storage, image, count)
    if begun and _fingerprint(folder) != begun:
        older = other_folder(folder)
        if _fingerprint(older) == begun or _fingerprint(folder):
            return older
    return folder


def _fingerprint(data: Folder) -> str:
    """The fingerprint of a dataset, or "" if there is none, or an incomplete one."""
    known = marker.read(data)
    if not known or known.deleting:
        return ""
    try:
        return Manifest.load(data).fingerprint
    except ShardError:
        return ""
