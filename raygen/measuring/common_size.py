"""Images of models of different sizes, brought to a common one so that they can be compared."""

import numpy as np
from PIL import Image

from raygen.config.run import ImageFormat
from raygen.data.images import fit_image
from raygen.data.shards.manifest import Manifest

ALIGNED = (218, 178)
"""Height and width of CelebA's aligned photographs, and of drawn faces."""


def reduction(own: Manifest, common: Manifest) -> ImageFormat:
    """How images of one dataset become those of another, smaller one of the same originals.

    Args: own: of the model's own images; common: of those that all are compared with.
    Raises: ValueError, with the reason, if they cannot, or their originals are others.
    """
    splits = [{name: m.rows(name) for name in m.splits} for m in (own, common)]
    if own.source != common.source or own.rejected != common.rejected or splits[0] != splits[1]:
        raise ValueError("they were not prepared from the same files")
    if own.height < common.height or own.width < common.width:
        raise ValueError(f"{own.size} is not larger than {common.size} in both directions")
    if own.crop == common.crop:
        return ImageFormat(common.height, common.width)
    if own.crop == 0 and (own.height, own.width) == ALIGNED:
        return common.image
    raise ValueError(
        f"the smaller ones show a square of {common.crop} pixels of the originals, which "
        f"{own.size} images are not"
    )


def reduced(images: np.ndarray, target: ImageFormat) -> np.ndarray:
    """Crop and resize images as preparing a dataset does. Args: (N, H, W, 3) uint8."""
    return np.stack([fit_image(Image.fromarray(image), target) for image in images])
