"""Conversion from an image's colour profile to sRGB, which all other code assumes."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

SAME = 3
"""Profiles count as equal if no colour differs by more than this, of 255."""
SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "LAB"}
"""Colour space that a profile must have to describe an image's pixels, by the image's mode."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image to RGB in sRGB. A grey one (L) without a profile is returned as it is.

    Args:
        image: L, RGB, CMYK or LAB.
        profile: the file's ICC profile. It is ignored, as in browsers, if it is damaged or made
            for another colour space than that of the pixels.
    """
    transform = _transform(profile, image.mode)
    if transform:
        return ImageCms.applyTransform(image, transform) or image
    return image if image.mode == "L" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform from a profile to sRGB; None if it is not needed or not possible."""
    if not profile and mode != "LAB":
        return None
    try:
        if profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space.strip() != SPACES[mode]:
                return None
        else:
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.buildTransform(source, target, mode, "RGB")
        # Converting an image that is in sRGB already would only add rounding errors.
        return None if mode in ("L", "RGB") and _changes_nothing(transform, mode) else transform
    # The library raises many kinds of exceptions for damaged profiles.
    except Exception:
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
    before = Image.fromarray(grid) if mode == "RGB" else Image.fromarray(grid[..., 0])
    after = ImageCms.applyTransform(before, transform)
    difference = np.asarray(before.convert("RGB"), int) - np.asarray(after, int)
    return bool(np.abs(difference).max() <= SAME)
