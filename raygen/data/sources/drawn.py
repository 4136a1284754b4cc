"""The built-in dataset: faces that raygen draws itself."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from raygen.config.run import ImageFormat
from raygen.core.storage import Folder
from raygen.data.shards.manifest import FORMAT_VERSION
from raygen.data.sources import drawn_faces
from raygen.data.splits import CELEBA_TRAIN_SHARE, first_part_trains


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
        # The version is included because other versions of the code draw other faces.
        return {
            "kind": "drawn",
            "count": self.count,
            "seed": self.seed,
            "version": drawn_faces.VERSION,
        }


def drawn_folder(storage: Folder, image: ImageFormat, count: int) -> Folder:
    """The folder of drawn faces: beside the runs, where all nodes of a cluster can read them."""
    name = f"drawn-v{drawn_faces.VERSION}.{FORMAT_VERSION}-{image.size}-{count}"
    return storage.join("datasets", name)
