"""The built-in dataset: portrait faces with attributes, so that nothing is downloaded.

A face is made in two steps: `parameters.sample_face` draws the parameters of one face from a
random stream of its own, and `features.draw_features` paints them on a `sketch.Sketch`. Both
depend on (seed, index) alone, so that any process can make any face in any order.
"""

import csv
import io
import zipfile
from pathlib import Path

from PIL import Image

from raygen.data.sources.drawn_faces.features import draw_features
from raygen.data.sources.drawn_faces.parameters import ATTRIBUTES, Face, attributes_of, sample_face
from raygen.data.sources.drawn_faces.sketch import ENLARGEMENT, Sketch

__all__ = [
    "ATTRIBUTES",
    "VERSION",
    "Face",
    "attributes_of",
    "draw_face",
    "face_attributes",
    "paint",
    "sample_face",
    "write_celeba_layout",
]

VERSION = 1
"""Raised whenever the same (seed, index) gives other pixels or attributes than before."""


def draw_face(seed: int, index: int) -> tuple[Image.Image, dict[str, bool]]:
    """One face and its attributes, a pure function of both arguments.

    Args: seed, index: 0 or more.
    Returns: an RGB image 178 wide and 218 high, aligned like CelebA's, and a value for each of
        `ATTRIBUTES`.
    Raises: ValueError if either argument is negative.
    """
    face = sample_face(seed, index)
    return paint(face), attributes_of(face)


def paint(face: Face) -> Image.Image:
    """The picture of a face with these parameters: RGB, 178 wide and 218 high."""
    sketch = Sketch(face)
    draw_features(sketch)
    return sketch.image.reduce(ENLARGEMENT)


def face_attributes(seed: int, index: int) -> dict[str, bool]:
    """The attributes that `draw_face` returns, without drawing.

    Args: seed, index: 0 or more.
    Raises: ValueError if either is negative.
    """
    return attributes_of(sample_face(seed, index))


def write_celeba_layout(
    folder: str | Path, count: int, seed: int = 0, quality: int = 92
) -> tuple[Path, Path]:
    """Write faces as CelebA is distributed: image number k is `draw_face(seed, k - 1)`.

    Args:
        folder: made if missing; its files of these names are replaced.
        count: of images, 0 to 999,999.
        seed: 0 or more.
        quality: of the JPEGs, 1 to 95.
    Returns: the paths of `img_align_celeba.zip` and `list_attr_celeba.csv`. Equal arguments
        write equal bytes.
    Raises: ValueError if count or seed is out of range; OSError if a file cannot be written.
    """
    if not 0 <= count <= 999_999:
        raise ValueError(f"count must be from 0 to 999999, not {count}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, table = folder / "img_align_celeba.zip", folder / "list_attr_celeba.csv"
    with (
        zipfile.ZipFile(images, "w", zipfile.ZIP_STORED) as archive,
        open(table, "w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image_id", *ATTRIBUTES))
        for index in range(count):
            name = f"{index + 1:06d}.jpg"
            image, attributes = draw_face(seed, index)
            encoded = io.BytesIO()
            image.save(encoded, "JPEG", quality=quality)
            # ZipInfo's default time is fixed; `writestr` with a plain name takes the clock's.
            archive.writestr(zipfile.ZipInfo(f"img_align_celeba/{name}"), encoded.getvalue())
            rows.writerow((name, *(1 if attributes[key] else -1 for key in ATTRIBUTES)))
    return images, table
