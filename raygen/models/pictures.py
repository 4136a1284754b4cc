"""Pictures that show what a model has learnt, as rows of images of one size."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from raygen.models.layers import INTERPOLATION_NOISE, SAMPLE_NOISE

if TYPE_CHECKING:
    from raygen.models.base import Model

INTERPOLATIONS = 5
INTERPOLATION_STEPS = 8
RECONSTRUCTIONS = 16
PAIRS_PER_ROW = 4
CODES_SHOWN = 4


@dataclass(frozen=True)
class Picture:
    """Images to lay out in a grid.

    Attributes:
        images: (N, C, H, W) in [-1, 1].
        columns: number of columns; 0: as square as N allows.
    """

    images: Tensor
    columns: int = 0


def slerp(first: Tensor, last: Tensor, shares: Tensor) -> Tensor:
    """Spherical interpolation between two latents, which preserves their typical length.

    Args: first, last: (*shape); shares: (N,) in [0, 1], fractions of the way to the last.
    Returns: (N, *shape).
    Source: White 2016, arXiv 1609.04468.
    """
    cosine = F.cosine_similarity(first.flatten(), last.flatten(), dim=0).clamp(-1, 1)
    angle = torch.acos(cosine)
    shares = shares.view(-1, *[1] * first.ndim)
    if math.sin(angle) < 1e-3:
        # Collinear latents have no arc between them; float32 resolves no smaller angles.
        return (1 - shares) * first + shares * last
    return (torch.sin((1 - shares) * angle) * first + torch.sin(shares * angle) * last) / torch.sin(
        angle
    )


def samples(model: "Model", count: int) -> Picture:
    """Images generated from noise."""
    return Picture(model.sample(model.fixed_noise(count, SAMPLE_NOISE)))


def interpolations(model: "Model") -> Picture:
    """Rows of images, each along the arc between two latents of the prior."""
    ends = model.fixed_noise(2 * INTERPOLATIONS, INTERPOLATION_NOISE)
    shares = torch.linspace(0, 1, INTERPOLATION_STEPS, device=ends.device)
    rows = [slerp(first, last, shares) for first, last in ends.unflatten(0, (-1, 2))]
    return Picture(model.sample(torch.cat(rows)), INTERPOLATION_STEPS)


def reconstructions(model: "Model", images: Tensor) -> dict[str, Picture]:
    """Images beside their reconstructions from the mean latents, and maps of the latents."""
    images = images[:RECONSTRUCTIONS].to(model.device)
    mean, log_var = model.encode(images)
    decoded = model.decode(mean)
    pairs = torch.stack([images, decoded], dim=1)
    shown = {"reconstructions": Picture(pairs.flatten(0, 1), 2 * PAIRS_PER_ROW)}
    few = slice(CODES_SHOWN)
    return shown | {"codes": code_maps(images[few], mean[few], log_var[few], decoded[few])}


def code_maps(images: Tensor, mean: Tensor, log_var: Tensor, decoded: Tensor) -> Picture:
    """Images beside the mean and log_var of their latents, as maps, and their reconstructions.

    A map shows one latent's numbers row by row: 512 as 32 x 16, 256 as 16 x 16. Grey is 0, white
    the largest absolute value among the shown latents, and black its negative; for log_var, white
    is the largest value and black the smallest.
    """
    bound = mean.abs().max().clamp(min=1e-6)
    low, high = log_var.min(), log_var.max()
    spread = (high - low).clamp(min=1e-6)
    height, width = images.shape[-2:]
    cells = [
        images,
        _as_map(mean / bound, height, width),
        _as_map((log_var - low) / spread * 2 - 1, height, width),
        decoded,
    ]
    return Picture(torch.stack(cells, dim=1).flatten(0, 1), len(cells))


def usual(model: "Model", count: int, real: Tensor) -> dict[str, Picture]:
    """The default pictures: samples, interpolations and, with an encoder, reconstructions.

    Args: as `Model.pictures`.
    """
    shown = {"samples": samples(model, count), "interpolation": interpolations(model)}
    if model.can_encode and len(real):
        shown |= reconstructions(model, real)
    return shown


def map_shape(size: int) -> tuple[int, int]:
    """Height and width of a latent's map: as square as possible, and not wider than high."""
    width = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0)
    return size // width, width


def _as_map(latents: Tensor, height: int, width: int) -> Tensor:
    """Latents (N, ...) in [-1, 1] -> (N, 3, height, width), enlarged on white."""
    latents = latents.flatten(1)
    rows, columns = map_shape(latents.shape[1])
    scale = min(height / rows, width / columns)
    # Enlarge by whole multiples, so that all squares have one size; reduce if there is no room.
    scale = math.floor(scale) if scale >= 1 else scale
    size = max(1, int(rows * scale)), max(1, int(columns * scale))
    maps = F.interpolate(latents.view(-1, 1, rows, columns).float(), size, mode="nearest-exact")
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    margins = (left, width - size[1] - left, top, height - size[0] - top)
    return F.pad(maps, margins, value=1.0).expand(-1, 3, -1, -1)
