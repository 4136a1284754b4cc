"""From files of all kinds to pixels, and the reasons for which a file is turned away."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from raygen.config.run import ImageFormat
from raygen.data.images import BadImage, fit_image, fit_images, open_image, upright_size
from raygen.data.sources.drawn_faces import draw_face

pytestmark = pytest.mark.numeric


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
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file, which"),
        (encoded(picture((8, 8)), "AVIF"), "an AVIF picture, which raygen does not read: convert"),
        (encoded(picture((8, 8)), "JPEG2000"), "a JPEG 2000 picture"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC picture, which raygen does not read"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "an AVIF picture"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0", "a camera's raw picture"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp42", "a video .*: save its frames"),
        (b"\xff\x0a" + bytes(30), "a JPEG XL picture"),
        (b"8BPS" + bytes(30), "a Photoshop picture"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "an SVG drawing"),
        (b"<!DOCTYPE html><html>not found", "a web page, .* download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\3\4" + bytes(30), "a zip archive, .* unpack it"),
        (encoded(picture((8, 8)), "PPM"), "a Netpbm picture"),
        (encoded(picture((8, 8)), "TIFF", tiffinfo={254: 1}), "a camera's raw picture"),
        (encoded(picture((8, 8)), "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "a camera's raw picture"),
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


def png(
    width: int, height: int, depth: int, kind: int, rows: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG, made by hand. Args: kind: of its colours; rows: each with a 0 before it."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in every
    )


@pytest.mark.parametrize(
    ("depth", "kind", "row", "mark", "shown"),
    [
        # Grey of each depth: two pixels, of which the first is marked as transparent.
        (1, 0, b"\x40", (0,), 255),
        (1, 0, b"\x80", (1,), 0),
        (2, 0, b"\x60", (1,), 170),
        (4, 0, b"\x3c", (3,), 204),
        (8, 0, b"\x80\x81", (0x80,), 0x81),
        (16, 0, b"\x80\x00\x80\x01", (0x8000,), 0x80),
        # Colours, of 8 and 16 bits.
        (8, 2, b"\x10\x20\x30\x11\x11\x11", (0x10, 0x20, 0x30), 0x11),
        (16, 2, b"\x10\0\x20\0\x30\0\x11\0\x11\0\x11\0", (0x1000, 0x2000, 0x3000), 0x11),
    ],
)
def test_the_colour_that_a_png_marks_as_transparent_is_white(
    depth: int, kind: int, row: bytes, mark: tuple[int, ...], shown: int
) -> None:
    transparent = (b"tRNS", struct.pack(f">{len(mark)}H", *mark))
    pixels = fitted(png(2, 1, depth, kind, b"\0" + row, transparent), ImageFormat(1, 2))
    assert pixels.tolist() == [[[255] * 3, [shown] * 3]]
    # Without the mark, it is a colour like others.
    plain = fitted(png(2, 1, depth, kind, b"\0" + row), ImageFormat(1, 2))
    assert plain[0, 1].tolist() == [shown] * 3
    assert (plain[0, 0] != 255).any() or (depth, mark) == (1, (1,))


def test_every_orientation_is_undone() -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # How the rows and columns of an upright picture are stored. Source: Exif 2.3, 4.6.4 A.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, 3),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(np.ascontiguousarray(pixels)), "PNG", exif=exif)
        image = open_image(data)
        assert upright_size(image) == (3, 2)
        assert np.array_equal(fit_image(image, ImageFormat(2, 3))[..., 0], upright), orientation


def test_damaged_metadata_is_no_reason_to_turn_a_picture_away() -> None:
    image = picture((16, 8))
    for exif in (
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0junk",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    ):
        for format in ("JPEG", "PNG", "WEBP"):
            data = encoded(image, format, exif=exif)
            assert fitted(data, ImageFormat(8, 16)).shape == (8, 16, 3)
    for orientation in (0, 9, 77):
        odd = Image.Exif()
        odd[0x0112] = orientation
        assert upright_size(open_image(encoded(image, "JPEG", exif=odd))) == (16, 8)
    profiles = (
        b"",
        b"junk",
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:200],
    )
    for profile in profiles:
        data = encoded(image, "PNG", icc_profile=profile)
        assert np.array_equal(fitted(data, ImageFormat(8, 16)), np.asarray(image))


def test_large_metadata_is_no_reason_to_turn_a_picture_away() -> None:
    image = picture((16, 8))
    text = PngImagePlugin.PngInfo()
    for number in range(70):
        text.add_text(f"settings {number}", "x" * 1_100_000, zip=True)
    text.add_itxt("workflow", "y" * 3_000_000, zip=True)
    data = encoded(image, "PNG", pnginfo=text, icc_profile=bytes(3 * 2**20))
    assert np.array_equal(fitted(data, ImageFormat(8, 16)), np.asarray(image))
    # Texts may also stand behind the pixels.
    behind = struct.pack(">I", 5) + b"zTXtjunk!" + struct.pack(">I", zlib.crc32(b"zTXtjunk!"))
    end = PNG.rindex(b"IEND") - 4
    assert fitted(PNG[:end] + behind + PNG[end:], ImageFormat(60, 60)).shape == (60, 60, 3)
    segment = b"\xff\xe1" + struct.pack(">H", 65_000) + bytes(64_998)
    data = JPEG[:2] + segment * 40 + JPEG[2:]
    assert np.array_equal(fitted(data, ImageFormat(60, 60)), fitted(JPEG, ImageFormat(60, 60)))


def swapped_profile() -> bytes:
    """An ICC profile of a space like sRGB, but with green for red and red for green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


def test_colours_of_a_profile_become_srgb() -> None:
    image = Image.new("RGB", (8, 8), (200, 30, 90))
    target = ImageFormat(8, 8)
    for format, options in (("PNG", {}), ("JPEG", {"quality": 100}), ("WEBP", {"lossless": True})):
        same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        plain = fitted(encoded(image, format, **options), target)
        assert np.array_equal(
            fitted(encoded(image, format, icc_profile=same, **options), target), plain
        )
        other = encoded(image, format, icc_profile=swapped_profile(), **options)
        difference = fitted(other, target)[4, 4].astype(int) - (30, 200, 90)
        assert np.abs(difference).max() <= 3, format
    # Under transparency and for palettes too; but a profile for colours says nothing of grey.
    clear = Image.new("RGBA", (8, 8), (200, 30, 90, 0))
    assert (fitted(encoded(clear, "PNG", icc_profile=swapped_profile()), target) == 255).all()
    palette = encoded(image.convert("P"), "PNG", icc_profile=swapped_profile())
    assert fitted(palette, target)[4, 4, 1] > 150
    grey = encoded(Image.new("L", (8, 8), 77), "PNG", icc_profile=swapped_profile())
    assert (fitted(grey, target) == 77).all()


def test_cmyk_is_inverted_where_adobe_says_so_alone() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    adobe = encoded(image, "JPEG", quality=100)
    assert np.abs(fitted(adobe, ImageFormat(16, 16))[4, 4].astype(int) - (255, 0, 0)).max() <= 3
    at = adobe.index(b"\xff\xee")
    length = int.from_bytes(adobe[at + 2 : at + 4], "big")
    plain = adobe[:at] + adobe[at + 2 + length :]
    # The same numbers mean the opposite amounts of ink.
    assert np.abs(fitted(plain, ImageFormat(16, 16))[4, 4].astype(int) - (0, 0, 0)).max() <= 3


def test_the_gamma_of_a_png_counts_unless_it_says_srgb() -> None:
    row = b"\0" + bytes([0, 64, 255])
    linear, srgb = (b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")
    usual = (b"gAMA", struct.pack(">I", 45_455))
    for chunks, expected in (
        ((), 64),
        ((usual,), 64),
        ((linear, srgb), 64),
        ((linear,), round(255 * (64 / 255) ** (1 / 2.2))),
    ):
        pixels = fitted(png(3, 1, 8, 0, row, *chunks), ImageFormat(1, 3))
        assert pixels[0, :, 0].tolist() == [0, expected, 255]


def test_lab_is_shown_in_colour() -> None:
    data = encoded(Image.new("LAB", (8, 8), (136, 208, 195)), "TIFF")
    pixels = fitted(data, ImageFormat(8, 8))[4, 4].astype(int)
    assert np.abs(pixels - (255, 0, 0)).max() <= 12


@pytest.mark.parametrize("broken", [MemoryError, RecursionError, struct.error, OverflowError])
def test_whatever_a_decoder_raises_is_a_bad_image(
    monkeypatch: pytest.MonkeyPatch, broken: type[Exception]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise broken("broken")

    image = open_image(PNG)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", fail)
        with pytest.raises(BadImage, match="damaged"):
            open_image(PNG)
    monkeypatch.setattr(type(image), "load", fail)
    with pytest.raises(BadImage, match="damaged"):
        fit_image(image, ImageFormat(8, 8))
