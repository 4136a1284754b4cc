"""From files of all kinds to pixels, and the reasons for which a file is turned away."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygen.config import ImageFormat
from raygen.data.drawn_faces import draw_face
from raygen.data.images import BadImage, fit_image, fit_images, open_image


def picture(size: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def fitted(data: bytes, target: ImageFormat) -> np.ndarray:
    return fit_image(open_image(data), target)


def test_the_crop_is_the_centre_and_a_fitting_image_is_left_as_it_is() -> None:
    image = picture((178, 218))
    pixels = np.asarray(image)
    assert np.array_equal(fit_image(image, ImageFormat(218, 178)), pixels)
    assert np.array_equal(fit_image(image, ImageFormat(150, 150, 150)), pixels[34:184, 14:164])
    assert np.array_equal(fit_image(image, ImageFormat(178, 178)), pixels[20:198])
    # Smaller than the crop: as much of the centre as there is.
    small = picture((100, 120))
    assert np.array_equal(fit_image(small, ImageFormat(100, 100, 150)), np.asarray(small)[10:110])


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (500, 20), (31, 33), (64, 64), (641, 480)])
def test_images_of_any_size_and_shape_fit(size: tuple[int, int]) -> None:
    flat = Image.new("RGB", size, (10, 200, 90))
    for target in (ImageFormat(32, 32, 150), ImageFormat(218, 178), ImageFormat(64, 64)):
        pixels = fit_image(flat, target)
        assert pixels.shape == (target.height, target.width, 3)
        assert (pixels == (10, 200, 90)).all()


def test_resizing_averages_instead_of_skipping_pixels() -> None:
    checks = np.indices((128, 128)).sum(axis=0) % 2 * 255
    image = Image.fromarray(np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8))
    assert np.abs(fit_image(image, ImageFormat(32, 32)).astype(int) - 127).max() <= 8


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("RGB", "WEBP"),
        ("RGBA", "WEBP"),
        ("P", "GIF"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
    ],
)
def test_any_kind_of_image_becomes_rgb_that_looks_the_same(mode: str, format: str) -> None:
    face = draw_face(0, 0)[0]
    expected = face.convert("L") if mode in ("L", "LA", "1") else face
    data = encoded(face.convert(mode), format)
    pixels = fitted(data, ImageFormat(64, 64, 150))
    difference = np.abs(pixels - fit_image(expected, ImageFormat(64, 64, 150)).astype(float))
    # Dithering (1), palettes and JPEG change a picture, but not into another.
    assert difference.mean() < (20 if mode == "1" else 6)


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    pixels = fitted(encoded(Image.fromarray(values), "PNG"), ImageFormat(16, 16))
    assert np.array_equal(pixels[..., 1].reshape(-1), np.arange(256))


def test_transparency_is_laid_on_white_and_rotation_is_undone() -> None:
    clear = encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG")
    assert (fitted(clear, ImageFormat(8, 8)) == 255).all()
    palette = Image.new("P", (8, 8), 0)
    assert (fitted(encoded(palette, "PNG", transparency=0), ImageFormat(8, 8)) == 255).all()
    upright = np.zeros((16, 8, 3), np.uint8)
    upright[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned a quarter clockwise.
    turned = Image.fromarray(np.rot90(upright).copy())
    assert turned.size == (16, 8)
    for format, options in (("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 100})):
        data = encoded(turned, format, exif=exif, **options)
        assert np.abs(fitted(data, ImageFormat(16, 8)).astype(int) - upright).max() <= 4
        # The part in the middle is taken from the upright picture, too.
        assert np.abs(fitted(data, ImageFormat(8, 8)).astype(int) - upright[4:12]).max() <= 4


def test_large_jpegs_are_decoded_smaller_and_look_the_same() -> None:
    face = draw_face(0, 1)[0]
    large = open_image(encoded(face.resize((1424, 1744)), "JPEG", quality=95))
    pixels = fit_image(large, ImageFormat(32, 32, 1200))
    assert large.size == (178, 218)
    whole = face.resize((1424, 1744)).resize(
        (32, 32), Image.Resampling.LANCZOS, (112, 272, 1312, 1472)
    )
    assert np.abs(pixels - np.asarray(whole, float)).mean() < 3


def test_several_sizes_are_made_of_one_decoding() -> None:
    data = encoded(draw_face(0, 2)[0], "JPEG", quality=95)
    targets = [ImageFormat(218, 178), ImageFormat(32, 32, 150), ImageFormat(64, 64, 150)]
    image = open_image(data)
    for pixels, target in zip(fit_images(image, targets), targets, strict=True):
        assert pixels.shape == (target.height, target.width, 3)
        difference = np.abs(pixels - fitted(data, target).astype(float))
        assert difference.mean() < 2
    # The largest of them needed all of it.
    assert image.size == (178, 218)


def animated(format: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:])


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


JPEG = encoded(picture((60, 60)), "JPEG")
PNG = encoded(picture((60, 60)), "PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"this is no picture", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (JPEG[:-200], "damaged .*truncated"),
        (JPEG[:30], "damaged|not an image"),
        (PNG[:-300], "damaged .*truncated"),
        (PNG[:60] + b"\0\0\0\0" + PNG[64:], "damaged"),
        (animated("GIF"), "several pictures"),
        (animated("WEBP"), "several pictures"),
        (animated("PNG"), "several pictures"),
        (animated("TIFF"), "several pictures"),
        (bomb(20_000, 20_000), "too large: more than 89,478,485 pixels"),
        (bomb(9_500, 9_500), "too large: more than 89,478,485 pixels"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "32-bit pixels"),
    ],
)
def test_what_is_no_single_whole_image_is_turned_away(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        fitted(data, ImageFormat(8, 8))


def test_the_content_decides_and_not_the_name() -> None:
    for format in ("JPEG", "PNG", "WEBP", "BMP"):
        assert open_image(encoded(picture((8, 8)), format)).format == format
    # A camera's file with a preview behind the picture, which is the first of them.
    views = [picture((60, 60)), picture((30, 30))]
    data = encoded(views[0], "MPO", save_all=True, append_images=views[1:])
    assert open_image(data).format == "MPO"
    assert fitted(data, ImageFormat(60, 60)).shape == (60, 60, 3)
