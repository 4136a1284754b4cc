"""Latents of images for TensorBoard's projector: a cloud of thumbnails, coloured by attribute.

The projector reads a few files in a run's folder. torch can write them too, but only to a local
disk and only with square thumbnails.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from raygen.core.storage import Folder
from raygen.data.pixels import as_images
from raygen.data.shards.reader import HeldOut
from raygen.evaluation.grids import encode_png
from raygen.models.base import Model

PROJECTOR_CONFIG = "projector_config.pbtxt"
FILES = "projector"
TENSOR_NAME = "codes of validation images"
THUMBNAIL = 64
"""Upper limit of a thumbnail's longer side, in pixels."""
LARGEST_SHEET = 8192
"""Upper limit of a side of the thumbnail sheet, in pixels: it has to fit a GPU texture."""
ENCODED_AT_ONCE = 64
MOST_IMAGES = (LARGEST_SHEET // THUMBNAIL) ** 2
_WORDS = {1: "yes", -1: "no", 0: "unknown"}


@dataclass(frozen=True)
class Codes:
    """Latents of images, with the images' ids and attributes.

    Attributes:
        codes: (N, latent_size) float32; N up to `MOST_IMAGES`.
        images: (N, H, W, 3) uint8.
        ids: ids of the images.
        attributes: names of the attributes.
        values: (N, attributes) of 1 true, -1 false, 0 unknown.
    """

    codes: np.ndarray
    images: np.ndarray
    ids: Sequence[str]
    attributes: Sequence[str]
    values: np.ndarray


def codes_of(model: Model, held_out: HeldOut, count: int) -> Codes | None:
    """Encode the first images to their mean latents; None if there are no images.

    Args: count: number of images, limited to `MOST_IMAGES`.
    """
    rows = held_out.read(0, min(count, MOST_IMAGES))
    if not len(rows.images):
        return None
    parts = [
        model.encode(as_images(part, model.device))[0].flatten(1).float().cpu().numpy()
        for part in np.split(rows.images, range(ENCODED_AT_ONCE, len(rows.images), ENCODED_AT_ONCE))
    ]
    ids, _ = held_out.reader.labels(rows.rows)
    attributes = held_out.reader.manifest.attributes
    return Codes(np.concatenate(parts), rows.images, ids, attributes, rows.attributes)


def write_projector(run: Folder, shown: Codes) -> None:
    """Replace the latents that the projector shows for a run. Args: run: its folder."""
    files = run.join(FILES)
    table = io.StringIO()
    np.savetxt(table, shown.codes, fmt="%.5g", delimiter="\t")
    files.write_bytes("codes.tsv", table.getvalue().encode())
    rows = [
        [_field(name), *(_WORDS[int(v)] for v in row)]
        for name, row in zip(shown.ids, shown.values, strict=True)
    ]
    # With a single column, the projector would take the header row for an image.
    heading = [["image", *map(_field, shown.attributes)]] if shown.attributes else []
    lines = ["\t".join(row) for row in [*heading, *rows]]
    files.write_bytes("images.tsv", ("\n".join(lines) + "\n").encode())
    sheet, (height, width) = thumbnails(shown.images)
    files.write_bytes("thumbnails.png", encode_png(sheet))

    config = ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = TENSOR_NAME
    embedding.tensor_path = f"{FILES}/codes.tsv"
    embedding.metadata_path = f"{FILES}/images.tsv"
    embedding.sprite.image_path = f"{FILES}/thumbnails.png"
    embedding.sprite.single_image_dim.extend([width, height])
    # Written last, so that the files that it names exist.
    run.write_bytes(PROJECTOR_CONFIG, str(config).encode())


def thumbnails(images: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Lay out all images on one sheet, with as many columns as rows.

    Args: images: (N, H, W, 3) uint8.
    Returns: (height, width, 3) uint8, and the height and width of each image on it.
    """
    count, height, width = images.shape[:3]
    scale = min(1.0, THUMBNAIL / max(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    columns = math.isqrt(max(count - 1, 0)) + 1
    sheet = np.full((columns * height, columns * width, 3), 255, np.uint8)
    for number, pixels in enumerate(images):
        top, left = number // columns * height, number % columns * width
        small = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        sheet[top : top + height, left : left + width] = np.asarray(small)
    return sheet, (height, width)


def _field(text: str) -> str:
    """Remove field and row separators from a text."""
    return " ".join(text.split())
