"""Grids of images, as pixels and as PNG files."""

import io
import math
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    # Code that only looks at grids need not wait for torch.
    from torch import Tensor


def to_uint8(images: "Tensor") -> np.ndarray:
    """(N, 3, H, W) in [-1, 1] -> (N, H, W, 3) uint8; values outside are clipped."""
    pixels = images.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255)
    return pixels.byte().permute(0, 2, 3, 1).numpy()


def grid(images: "Tensor", columns: int = 0) -> np.ndarray:
    """Lay out (N, 3, H, W) images in [-1, 1] in a grid, as (height, width, 3) uint8.

    Args: columns: 0: as square as N allows without gaps, and wider than high.
    """
    # torchvision's make_grid does the same, but importing torchvision takes each process seconds.
    pixels = to_uint8(images)
    count, height, width, _ = pixels.shape
    if count == 1:
        only: np.ndarray = pixels[0]
        return only
    columns = min(columns or _columns(count), count)
    _, grid_width = grid_size(count, columns, height, width)
    rows = [_row(pixels[first : first + columns], grid_width) for first in range(0, count, columns)]
    return np.concatenate([_white(PADDING, grid_width), *rows])


def _columns(count: int) -> int:
    root = math.isqrt(max(count - 1, 0)) + 1
    return next((n for n in range(root, 2 * root) if count % n == 0), root)


def encode_png(pixels: np.ndarray) -> bytes:
    """(height, width, 3) uint8 -> the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def upper_part(png: bytes, rows: int) -> bytes:
    """The upper rows of a grid as a PNG file, without decoding the others.

    Args:
        png: the bytes of the grid's file, as `encode_png` or `GridFile` wrote it; as many of them
            as hold these rows.
        rows: height of the part in pixels; all if the grid is not higher.
    Raises: ValueError, or zlib.error, if it is no such file.
    """
    if png[:16] != SIGNATURE + b"\0\0\0\rIHDR" or len(png) < 29:
        raise ValueError("not a PNG file")
    width, height, *kind = struct.unpack(">IIBBBBB", png[16:29])
    if kind != RGB:
        raise ValueError("not a PNG of 8 bits for each of red, green and blue")
    rows = min(rows, height)
    wanted = rows * (1 + 3 * width)
    if not 0 < wanted <= MOST_PART:
        raise ValueError(f"{width:,} pixels wide")
    unpacker, pixels, place = zlib.decompressobj(), bytearray(), len(SIGNATURE)
    while len(pixels) < wanted and place + 8 <= len(png):
        size = int.from_bytes(png[place : place + 4], "big")
        place += 8
        if png[place - 4 : place] == b"IDAT":
            pixels += unpacker.decompress(png[place : place + size], wanted - len(pixels))
        place += size + 4
    if len(pixels) < wanted:
        raise ValueError("ends early")
    file = io.BytesIO()
    file.write(SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, rows, *RGB))
    # Whoever asks for the part decodes it at once, so it is not worth compressing.
    _write_chunk(file, b"IDAT", zlib.compress(pixels, 0))
    _write_chunk(file, b"IEND", b"")
    return file.getvalue()


SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB = [8, 2, 0, 0, 0]
"""The end of a PNG's header: 8 bits per channel, RGB, not interlaced."""
MOST_PART = 2**25
"""Largest part of a grid that `upper_part` makes, in bytes."""
PADDING = 2
"""White border around the images of a grid, in pixels."""
MAX_PNG_SIDE = 1_000_000
"""Largest side of a PNG that libpng accepts, in pixels; most programs read PNGs with it."""


def grid_size(count: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels of the grids that `grid` and `GridFile` produce."""
    if count == 1:
        return height, width
    columns = min(columns or _columns(count), count)
    rows = -(-count // columns)
    return rows * (height + PADDING) + PADDING, columns * (width + PADDING) + PADDING


def _row(images: Sequence[np.ndarray] | np.ndarray, grid_width: int) -> np.ndarray:
    """A row of a grid with the border below it: (height + PADDING, grid_width, 3) uint8."""
    height, width, _ = images[0].shape
    pixels = _white(height + PADDING, grid_width)
    for number, image in enumerate(images):
        left = PADDING + number * (width + PADDING)
        pixels[:height, left : left + width] = image
    return pixels


def _white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


class GridFile:
    """Writes a grid as PNG, one row of images at a time, so that it never has to fit in memory.

    Source: PNG specification, 3rd edition, sections 5, 9 and 10.
    """

    def __init__(self, file: BinaryIO, count: int, columns: int, height: int, width: int) -> None:
        """Args: count: number of images; columns: see `grid`; height, width: size of one image."""
        self._file = file
        self._left = count
        self._bare = count == 1
        self._columns = min(columns or _columns(count), count)
        self._row: list[np.ndarray] = []
        self._compressor = zlib.compressobj()
        size = grid_size(count, columns, height, width)
        file.write(SIGNATURE)
        _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], *RGB))
        self._width = size[1]
        if not self._bare:
            self._pixels(_white(PADDING, self._width))

    def add(self, images: np.ndarray) -> None:
        """Append images, (N, height, width, 3) uint8; the last one completes the file."""
        for image in images:
            self._row.append(image)
            self._left -= 1
            if len(self._row) == self._columns or not self._left:
                self._write_row()
        if not self._left:
            _write_chunk(self._file, b"IDAT", self._compressor.flush())
            _write_chunk(self._file, b"IEND", b"")

    def _write_row(self) -> None:
        if self._bare:
            self._pixels(self._row[0])
            return
        self._pixels(_row(self._row, self._width))
        self._row = []

    def _pixels(self, pixels: np.ndarray) -> None:
        """Write rows of pixels with PNG's filter type 1: differences from left to right."""
        rows = np.empty((len(pixels), 1 + pixels.shape[1] * 3), np.uint8)
        rows[:, 0] = 1
        rows[:, 1:4] = pixels[:, 0]
        rows[:, 4:] = (pixels[:, 1:] - pixels[:, :-1]).reshape(len(pixels), -1)
        _write_chunk(self._file, b"IDAT", self._compressor.compress(rows.tobytes()))


def _write_chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    """Write a part of a PNG file, unless it is empty."""
    if data or name == b"IEND":
        checksum = zlib.crc32(data, zlib.crc32(name))
        file.write(struct.pack(">I", len(data)) + name + data)
        file.write(struct.pack(">I", checksum))
