"""Turns the bytes of an image file into the pixels of a dataset: opens, decodes, crops, resizes."""

import io
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

# Importing plugins registers their formats; Pillow would import all of them only when it guesses.
from PIL import (
    ExifTags,
    Image,
    ImageChops,
    ImageFile,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from raygen.config.run import ImageFormat
from raygen.data.colour import to_srgb
from raygen.data.file_types import HEAD_BYTES, RAW, unread_type

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".bmp",
    ".dib",
    ".gif",
    ".tif",
    ".tiff",
)
"""Suffixes of files that count as images. Their format is recognised by their content."""
FORMATS = (
    "JPEG",
    "PNG",
    WebPImagePlugin.WebPImageFile.format,
    "BMP",
    "GIF",
    TiffImagePlugin.TiffImageFile.format,
)
"""The formats that Pillow may decode; some others would start programs or read other files."""
MAX_FILE_BYTES = 256 * 2**20
GAP = 2.0
"""A JPEG is decoded at a half, quarter or eighth of its size if that is still at least so many
times larger than the target; a filter does the rest. Other large images are reduced likewise."""


class BadImage(Exception):
    """An image that cannot become part of a dataset. The text is the reason."""


def open_image(data: bytes) -> Image.Image:
    """Open an image from a file's bytes and read its header, without decoding the pixels.

    Damaged or large metadata never causes an image to be rejected.

    Raises: BadImage.
    """
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            # Damaged metadata only causes warnings.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if data.startswith(PNG):
                data, profile = _without_texts(data)
            else:
                profile = b""
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            # MPO files of cameras hold a picture and previews of it, not several pictures.
            several = image.format != "MPO" and getattr(image, "is_animated", False)
            raw = _is_raw(image)
            _scale_transparency(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = Image.MAX_IMAGE_PIXELS or 0
        raise BadImage(f"too large: more than {limit:,} pixels") from error
    # Pillow raises many kinds of exceptions for broken files, struct.error and zlib.error included.
    except Exception as error:
        found = unread_type(data[:HEAD_BYTES])
        if found:
            raise BadImage(found.refusal) from error
        if isinstance(error, UnidentifiedImageError):
            raise BadImage(f"not an image ({', '.join(FORMATS)})") from error
        raise BadImage(_damaged(error)) from error
    if raw:
        raise BadImage(RAW.refusal)
    if several:
        raise BadImage("several pictures in one file (animated, or pages)")
    if profile:
        image.info["icc_profile"] = profile
    return image


PNG = b"\x89PNG\r\n\x1a\n"
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PNG_PROFILE = b"iCCP"
PNG_XMP, MAX_XMP_BYTES = b"XML:com.adobe.xmp\0\0", 2**19
"""Start of an uncompressed XMP text in a PNG, and the largest that Pillow accepts, in bytes."""
MAX_PROFILE_BYTES = 16 * 2**20
"""Largest colour profile that is used, in bytes; those of printers have 2 MB."""


def _without_texts(data: bytes) -> tuple[bytes, bytes]:
    """Remove the chunks of a PNG for which Pillow might reject it.

    Some programs write all their settings into compressed texts. Pillow takes texts and profiles
    of more than a megabyte for an attack.

    Returns: the PNG without them, and its colour profile, or b"".
    """
    kept, start, profile = [], 0, b""
    at = len(PNG)
    while at + 12 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + size
        if name == PNG_PROFILE or (name in PNG_TEXTS and not _is_xmp(data[at + 8 : end - 4])):
            kept.append(data[start:at])
            start = end
        if name == PNG_PROFILE:
            profile = _unpacked_profile(data[at + 8 : end - 4])
        at = end
    return (b"".join([*kept, data[start:]]) if kept else data), profile


def _is_xmp(chunk: bytes) -> bool:
    """Whether a text is XMP metadata of ordinary size, which may contain the orientation."""
    return chunk.startswith(PNG_XMP) and len(chunk) <= MAX_XMP_BYTES


def _unpacked_profile(chunk: bytes) -> bytes:
    """Decompress a PNG's profile chunk: a name, a zero byte, the method, and zlib's data."""
    _, _, packed = chunk.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return b"" if unpacker.unconsumed_tail else profile


DNG_VERSION, SUBFILE_TYPE = 50706, 254
"""TIFF tags of cameras' raw files. The lowest bit of the second marks a preview."""


def _is_raw(image: Image.Image) -> bool:
    """Whether an image is a camera's raw file, of which Pillow would decode only the preview."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    tags = image.tag_v2
    kind = tags.get(SUBFILE_TYPE, 0)
    return DNG_VERSION in tags or (isinstance(kind, int) and bool(kind & 1))


def _scale_transparency(image: ImageFile.ImageFile) -> None:
    """Convert the colour that a PNG marks as transparent to 8 bits, as its pixels will be.

    PNGs give it in their own bit depth, of 1 to 16. For 16 bits of grey it is left as it is.
    """
    mark, raw = image.info.get("transparency"), str(image.tile[0].args) if image.tile else ""
    if image.format != "PNG" or mark is None:
        return
    if isinstance(mark, tuple) and raw.startswith("RGB;16"):
        image.info["transparency"] = tuple(value >> 8 for value in mark)
    elif isinstance(mark, int) and image.mode in ("1", "L"):
        largest = 1 if image.mode == "1" else 2 ** int(raw[2:] or 8) - 1
        image.info["transparency"] = mark * 255 // largest


def _damaged(error: Exception) -> str:
    return f"damaged ({type(error).__name__}: {' '.join(str(error).split())})"


def fit_image(image: Image.Image, target: ImageFormat) -> np.ndarray:
    """Fit an image to a model's input. Returns: (height, width, 3) uint8. Raises: BadImage."""
    [pixels] = fit_images(image, [target])
    return pixels


def fit_images(image: Image.Image, targets: Sequence[ImageFormat]) -> list[np.ndarray]:
    """Fit an image to several sizes, decoding once: upright, RGB on white, cropped, antialiased.

    Args: image: as `open_image` returned it, or decoded already.
    Returns: (height, width, 3) uint8 for each target.
    Raises: BadImage.
    """
    try:
        with warnings.catch_warnings():
            # Damaged metadata only causes warnings.
            warnings.simplefilter("ignore")
            return _fitted(image, targets)
    except BadImage:
        raise
    # Pillow raises many kinds of exceptions for broken files.
    except Exception as error:
        raise BadImage(_damaged(error)) from error


def _fitted(image: Image.Image, targets: Sequence[ImageFormat]) -> list[np.ndarray]:
    size = upright_size(image)
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


Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image once `fit_images` has undone its camera's rotation."""
    return (image.height, image.width) if _orientation(image) >= 5 else image.size


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpositions that make an image upright, by orientation. Source: Exif 2.3, 4.6.4 A."""


def _orientation(image: Image.Image) -> int:
    """Exif orientation, 1 to 8; 1 if it is missing or damaged."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow rotates TIFFs itself, and reports their size after that.
        return 1
    if image.format == "PNG":
        # Metadata after the pixels is read only once these are decoded; they may be damaged.
        image.load()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _box(size: tuple[int, int], target: ImageFormat) -> Box:
    """The part of an image that a target shows: the largest box of its shape within its crop."""
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
    """Make Pillow decode a JPEG at the smallest sufficient size."""
    shrink = min(
        min((box[2] - box[0]) / target.width, (box[3] - box[1]) / target.height)
        for box, target in zip(boxes, targets, strict=True)
    )
    for factor in (8, 4, 2):
        if shrink >= factor * GAP:
            image.draft(None, (image.width // factor, image.height // factor))
            return


def _plain(image: Image.Image) -> Image.Image:
    """Convert to upright grey (L) or RGB in sRGB, on white where it is transparent."""
    orientation, profile = _orientation(image), image.info.get("icc_profile", b"")
    png = image.format == "PNG"
    image.load()
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Pillow treats all CMYK JPEGs like Adobe's, which are stored inverted.
        image = ImageChops.invert(image)
    if orientation in UPRIGHT:
        turned = image.transpose(UPRIGHT[orientation])
        turned.info = image.info
        image = turned
    if image.mode in ("I", "F"):
        raise BadImage("32-bit pixels, whose range is not known")
    opaque = _opacity(image)
    info = image.info
    if image.mode.startswith("I;16"):
        # Pillow would clip values above 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = to_srgb(_colours(image), profile)
    if png and not profile:
        image = _with_gamma(image, info)
    if opaque is not None:
        white = Image.new(image.mode, image.size, "white")
        white.paste(image, mask=opaque)
        image = white
    return image


def _opacity(image: Image.Image) -> Image.Image | None:
    """Opacity of each pixel, from 0 to 255, as an image (L); None if all are opaque."""
    if not image.has_transparency_data:
        return None
    mark = image.info.get("transparency")
    if image.mode in ("1", "L", "RGB") or image.mode.startswith("I;16"):
        plain = image.convert("L") if image.mode == "1" else image
        same = np.asarray(plain) == np.asarray(mark)
        clear = same.all(axis=2) if same.ndim == 3 else same
        return Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    return image.convert("RGBA").getchannel("A")


def _colours(image: Image.Image) -> Image.Image:
    """An image without transparency, in a mode that colour profiles are made for."""
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    if image.mode in ("1", "LA"):
        return image.convert("L")
    # The colours of La and RGBa are premultiplied by their opacity; converting undoes that.
    return (image.convert("RGBA") if image.mode in ("La", "RGBa") else image).convert("RGB")


def _with_gamma(image: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """Convert an image (L or RGB) from the gamma that its PNG states to that of sRGB.

    Source: PNG specification, 3rd edition, 13.13.
    """
    gamma = info.get("gamma")
    if "srgb" in info or not isinstance(gamma, float) or not 0.1 < gamma < 2:
        return image
    exponent = SRGB_GAMMA / gamma
    if abs(exponent - 1) < SAME_GAMMA:
        return image
    table = [round(255 * (value / 255) ** exponent) for value in range(256)]
    return image.point(table * len(image.getbands()))


SRGB_GAMMA, SAME_GAMMA = 1 / 2.2, 0.05
"""Gamma of sRGB, and the largest relative deviation from it that is not visible."""


def _resized(image: Image.Image, box: Box, target: ImageFormat) -> np.ndarray:
    size = target.width, target.height
    left, top = round(box[0]), round(box[1])
    if box == (left, top, left + size[0], top + size[1]):
        image = image.crop(box)
    else:
        image = image.resize(size, Image.Resampling.LANCZOS, box, GAP)
    return np.asarray(image.convert("RGB"))
