"""Writing many pictures as they arrive: as one grid, single files, or arrays for NumPy."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from typing import IO

import numpy as np
from numpy.lib import format as npy

from raygen.core.destination import writing
from raygen.core.parallel import for_each
from raygen.core.storage import Folder
from raygen.evaluation.grids import GridFile, encode_png

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""Batches of images (N, H, W, 3) uint8, with the float32 codes that they were generated from."""


def write_grid(
    file: Folder, batches: Batches, count: int, columns: int, size: tuple[int, int]
) -> None:
    """Write one PNG. Args: count: number of images; columns: see `grid`; size: height and width."""
    with writing(file) as opened:
        grid = GridFile(opened, count, columns, *size)
        for images, _ in batches:
            grid.add(images)


def write_files(folder: Folder, name: str, batches: Batches, digits: int) -> None:
    """Write a PNG for each image, `<name>-<number>.png`, the number zero-padded to `digits`."""

    def write(numbered: tuple[int, np.ndarray]) -> None:
        number, pixels = numbered
        folder.write_bytes(f"{name}-{number:0{digits}d}.png", encode_png(pixels))

    for_each(write, enumerate(pixels for images, _ in batches for pixels in images))


def write_arrays(
    file: Folder, batches: Batches, images_shape: tuple[int, ...], codes_shape: tuple[int, ...]
) -> None:
    """Write a .npz like `numpy.savez_compressed`, with the arrays `images` and `codes`."""
    with (
        writing(file) as opened,
        zipfile.ZipFile(opened, "w", zipfile.ZIP_DEFLATED) as archive,
        tempfile.TemporaryFile() as kept,
    ):
        with archive.open("images.npy", "w", force_zip64=True) as stream:
            _write_header(stream, images_shape, np.dtype(np.uint8))
            for images, codes in batches:
                stream.write(images.tobytes())
                kept.write(np.asarray(codes, np.float32).tobytes())
        kept.seek(0)
        with archive.open("codes.npy", "w", force_zip64=True) as stream:
            _write_header(stream, codes_shape, np.dtype(np.float32))
            shutil.copyfileobj(kept, stream)


def _write_header(stream: IO[bytes], shape: tuple[int, ...], kind: np.dtype) -> None:
    header = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    npy.write_array_header_2_0(stream, header)
