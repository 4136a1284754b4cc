"""Drawn faces, and sets of them that are damaged in known ways, for tests of metrics."""

import functools
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raygen.config.run import ImageFormat
from raygen.data.images import fit_image
from raygen.data.sources import drawn_faces
from raygen.evaluation.distances import Moments, frechet_distance
from raygen.evaluation.features import Extractor
from raygen.evaluation.grids import to_uint8


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
    return {name: to_uint8(changed) for name, changed in sets.items()}


def _blurred(images: Tensor, sigma: float) -> Tensor:
    reach = round(3 * sigma)
    places = torch.arange(-reach, reach + 1)
    line = torch.exp(-places.square() / (2 * sigma**2))
    kernel = (line / line.sum()).expand(3, 1, 1, -1)
    padded = F.pad(images, (reach,) * 4, "reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


LADDERS = (
    ("blur 1", "blur 2", "blur 3"),
    ("noise 0.1", "noise 0.2", "noise 0.4"),
    ("brightness 0.1", "brightness 0.2", "brightness 0.4"),
    ("contrast 0.85", "contrast 0.7", "contrast 0.5"),
    ("colour 0.1", "colour 0.2", "colour 0.4"),
    ("faces 64", "faces 16", "faces 4"),
)


def check_ladder(extractor: Extractor, count: int) -> None:
    """Check that every kind of damage counts in an extractor's features, and more of it more.

    Args: count: number of images of each set.
    """
    real, other = faces(0, count)[0], faces(count, count)[0]
    moments = Moments.of(extractor.features([real], "cpu"))
    found = {
        name: frechet_distance(moments, Moments.of(extractor.features([images], "cpu")))
        for name, images in (damaged(other) | {"other": other}).items()
    }
    for ladder in LADDERS:
        for weaker, stronger in pairwise(("other", *ladder)):
            assert found[weaker] < found[stronger], (weaker, stronger, found)
    assert found["faces 16"] > found["box blur 3x3"]
