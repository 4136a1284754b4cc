"""Grids of images, as pixels and as PNG files."""

import io
import math

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid


def to_uint8(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [-1, 1] -> (N, H, W, 3) uint8; values outside are clipped."""
    pixels = images.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255)
    return pixels.byte().permute(0, 2, 3, 1).numpy()


def grid(images: Tensor, columns: int = 0) -> np.ndarray:
    """Lay out (N, 3, H, W) images in [-1, 1] in a grid, as (height, width, 3) uint8.

    Args: columns: 0: as square as N allows without gaps, and wider than high.
    """
    columns = columns or _columns(len(images))
    laid_out = make_grid(images.detach().float().cpu(), nrow=columns, padding=2, pad_value=1.0)
    pixels: np.ndarray = to_uint8(laid_out[None])[0]
    return pixels


def _columns(count: int) -> int:
    root = math.isqrt(max(count - 1, 0)) + 1
    return next((n for n in range(root, 2 * root) if count % n == 0), root)


def encode_png(pixels: np.ndarray) -> bytes:
    """(height, width, 3) uint8 -> the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
