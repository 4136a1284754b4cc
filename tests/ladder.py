"""Drawn faces, and sets of them that are damaged in known ways, for tests of metrics."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raygen.config.run import ImageFormat
from raygen.data.images import fit_image
from raygen.data.sources import drawn_faces


@functools.cache
def faces(first: int, count: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Drawn faces, (count, side, side, 3) uint8, and their attributes, (count, A) int8."""
    image = ImageFormat(side, side, 150)
    drawn = [drawn_faces.draw_face(0, first + number) for number in range(count)]
    pixels = np.stack([fit_image(face, image) for face, _ in drawn])
    values = [[1 if known[name] else -1 for name in drawn_faces.ATTRIBUTES] for _, known in drawn]
    return pixels, np.array(values, np.int8)


def damaged(images: np.ndarray) -> dict[str, np.ndarray]:
    """Sets of the same size, (N, H, W, 3) uint8, by kind and strength of the damage."""
    real = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    random = torch.Generator().manual_seed(1)
    grain = torch.randn(real.shape, generator=random)
    sets = {f"blur {sigma}": _blurred(real, sigma) for sigma in (1, 2, 3)}
    sets |= {f"noise {strength}": real + strength * grain for strength in (0.1, 0.2, 0.4)}
    sets |= {f"brightness {shift}": real + shift for shift in (0.1, 0.2, 0.4)}
    sets |= {f"contrast {factor}": real * factor for factor in (0.85, 0.7, 0.5)}
    tints = {amount: torch.tensor([1.0, 1 - amount, 1 - 2 * amount]) for amount in (0.1, 0.2, 0.4)}
    sets |= {f"colour {a}": real * tint.view(1, 3, 1, 1) for a, tint in tints.items()}
    sets |= {
        f"faces {count}": real[:count].repeat(-(-len(real) // count), 1, 1, 1)[: len(real)]
        for count in (64, 16, 4)
    }
    sets["box blur 3x3"] = F.avg_pool2d(F.pad(real, (1, 1, 1, 1), "reflect"), 3, 1)
    return {name: _pixels(changed) for name, changed in sets.items()}


def _pixels(images: Tensor) -> np.ndarray:
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def _blurred(images: Tensor, sigma: float) -> Tensor:
    reach = round(3 * sigma)
    places = torch.arange(-reach, reach + 1)
    line = torch.exp(-places.square() / (2 * sigma**2))
    kernel = (line / line.sum()).expand(3, 1, 1, -1)
    padded = F.pad(images, (reach,) * 4, "reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)
