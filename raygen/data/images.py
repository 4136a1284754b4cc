"""From the bytes of an image file to the pixels of a dataset: open, decode, crop, resize."""

import io
import warnings
from collections.abc import Sequence

import numpy as np

# The plugins are imported for what they register; Pillow loads them all only when it must guess.
from PIL import (
    ExifTags,
    Image,
    ImageOps,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from raygen.config import ImageFormat

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Of files that are taken for images; their content decides what they are."""
FORMATS = (
    "JPEG",
    "PNG",
    WebPImagePlugin.WebPImageFile.format,
    "BMP",
    "GIF",
    TiffImagePlugin.TiffImageFile.format,
)
"""What Pillow may decode; others of its formats start programs or read other files."""
MAX_FILE_BYTES = 256 * 2**20
GAP = 2.0
"""A JPEG is decoded at a half, quarter or eighth of its size where that is still so many times
larger than what is needed; the rest is resized with a filter. The same for other large images."""


class BadImage(Exception):
    """An image that cannot become part of a dataset. The text is the reason."""


def open_image(data: bytes) -> Image.Image:
    """An image of a file's bytes, its header read, its pixels not decoded yet.

    Raises: BadImage.
    """
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = Image.MAX_IMAGE_PIXELS or 0
        raise BadImage(f"too large: more than {limit:,} pixels") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"not an image ({', '.join(FORMATS)})") from error
    # Pillow reports broken files with many exceptions; struct.error and zlib.error among them.
    except Exception as error:
        raise BadImage(_damaged(error)) from error
    # Cameras put previews of the same picture behind it in the file (MPO).
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise BadImage("several pictures in one file (animated, or pages)")
    return image


def _damaged(error: Exception) -> str:
    return f"damaged ({type(error).__name__}: {' '.join(str(error).split())})"


def fit_image(image: Image.Image, target: ImageFormat) -> np.ndarray:
    """An image as a model sees it. Returns: (height, width, 3) uint8. Raises: BadImage."""
    [pixels] = fit_images(image, [target])
    return pixels


def fit_images(image: Image.Image, targets: Sequence[ImageFormat]) -> list[np.ndarray]:
    """An image in several sizes, decoded once: upright, RGB on white, cropped, antialiased.

    Args: image: as `open_image` returned it, or decoded already.
    Returns: (height, width, 3) uint8 for each target.
    Raises: BadImage.
    """
    try:
        size = _upright_size(image)
        boxes = [_box(size, target) for target in targets]
        _decode_smaller(image, boxes, targets)
        image = _plain(image)
        scale = image.width / size[0], image.height / size[1]
        return [
            _resized(
                image,
                (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1]),
                target,
            )
            for box, target in zip(boxes, targets, strict=True)
        ]
    except BadImage:
        raise
    # As above.
    except Exception as error:
        raise BadImage(_damaged(error)) from error


Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    # Pillow turns these itself, and says so in their size.
    turned = turned and image.format != "TIFF"
    return (image.height, image.width) if turned else image.size


def _box(size: tuple[int, int], target: ImageFormat) -> Box:
    """The part of an image that a target shows: in its crop, what has the target's shape."""
    width, height = size
    left = top = 0.0
    if target.crop:
        side = min(target.crop, width, height)
        left, top = (width - side) // 2, (height - side) // 2
        width = height = side
    shown = min(width, height * target.width / target.height)
    if shown < width:
        left, width_shown, height_shown = left + (width - shown) / 2, shown, float(height)
    else:
        height_shown = width * target.height / target.width
        top, width_shown = top + (height - height_shown) / 2, float(width)
    return left, top, left + width_shown, top + height_shown


def _decode_smaller(
    image: Image.Image, boxes: Sequence[Box], targets: Sequence[ImageFormat]
) -> None:
    """Have a JPEG decoded no larger than it needs to be."""
    shrink = min(
        min((box[2] - box[0]) / target.width, (box[3] - box[1]) / target.height)
        for box, target in zip(boxes, targets, strict=True)
    )
    for factor in (8, 4, 2):
        if shrink >= factor * GAP:
            image.draft(None, (image.width // factor, image.height // factor))
            return


def _plain(image: Image.Image) -> Image.Image:
    """Upright, grey (L) or RGB, on white where it is transparent."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        # Pillow would cut off what is brighter than 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage("32-bit pixels, whose range is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def _resized(image: Image.Image, box: Box, target: ImageFormat) -> np.ndarray:
    size = target.width, target.height
    left, top = round(box[0]), round(box[1])
    if box == (left, top, left + size[0], top + size[1]):
        image = image.crop(box)
    else:
        image = image.resize(size, Image.Resampling.LANCZOS, box, GAP)
    return np.asarray(image.convert("RGB"))
