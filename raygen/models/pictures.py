"""Pictures that show what a model has learnt, as rows of images of one size."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from raygen.models.layers import INTERPOLATION, SAMPLES

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

    Attributes: images: (N, C, H, W) in [-1, 1]; columns: of the grid, 0: as square as N allows.
    """

    images: Tensor
    columns: int = 0


def slerp(first: Tensor, last: Tensor, shares: Tensor) -> Tensor:
    """Codes on the arc from one to another, which keeps their typical length.

    Args: first, last: (latent,); shares: (N,) in [0, 1] of the way from the first to the last.
    Returns: (N, latent).
    Source: White 2016, arXiv 1609.04468.
    """
    cosine = F.cosine_similarity(first, last, dim=0).clamp(-1, 1)
    angle = torch.acos(cosine)
    shares = shares.unsqueeze(1)
    if math.sin(angle) < 1e-3:
        # On one line with 0 there is no arc to follow; in float32 the angle is no more exact.
        return (1 - shares) * first + shares * last
    return (torch.sin((1 - shares) * angle) * first + torch.sin(shares * angle) * last) / torch.sin(
        angle
    )


def samples(model: "Model", count: int) -> Picture:
    """Images decoded from codes of the prior."""
    return Picture(model.decode(model.fixed_noise(count, SAMPLES)))


def interpolations(model: "Model") -> Picture:
    """Rows of images, each along the arc between two codes of the prior."""
    ends = model.fixed_noise(2 * INTERPOLATIONS, INTERPOLATION)
    shares = torch.linspace(0, 1, INTERPOLATION_STEPS, device=ends.device)
    rows = [slerp(first, last, shares) for first, last in ends.view(INTERPOLATIONS, 2, -1)]
    return Picture(model.decode(torch.cat(rows)), INTERPOLATION_STEPS)


def reconstructions(model: "Model", images: Tensor) -> Picture:
    """Each image beside its reconstruction from the mean of its code."""
    images = images[:RECONSTRUCTIONS].to(model.device)
    mean, _ = model.encode(images)
    pairs = torch.stack([images, model.decode(mean)], dim=1)
    return Picture(pairs.flatten(0, 1), 2 * PAIRS_PER_ROW)


def code_maps(model: "Model", images: Tensor) -> Picture:
    """Images beside the mean and log_var of their codes, as maps, and their reconstructions.

    A map shows a code's numbers row by row: 512 as 32 x 16, 256 as 16 x 16. Grey is 0, white the
    largest absolute value among the shown codes, and black its negative; for log_var, white is the
    largest value and black the smallest.
    """
    images = images[:CODES_SHOWN].to(model.device)
    mean, log_var = model.encode(images)
    bound = mean.abs().max().clamp(min=1e-6)
    low, high = log_var.min(), log_var.max()
    spread = (high - low).clamp(min=1e-6)
    height, width = images.shape[-2:]
    cells = [
        images,
        _as_map(mean / bound, height, width),
        _as_map((log_var - low) / spread * 2 - 1, height, width),
        model.decode(mean),
    ]
    return Picture(torch.stack(cells, dim=1).flatten(0, 1), len(cells))


def usual(model: "Model", count: int, real: Tensor) -> dict[str, Picture]:
    """What most families show: samples and interpolations, and what an encoder makes of images.

    Args: as `Model.pictures`.
    """
    shown = {"samples": samples(model, count), "interpolation": interpolations(model)}
    if model.has_encoder and len(real):
        shown["reconstructions"] = reconstructions(model, real)
        shown["codes"] = code_maps(model, real)
    return shown


def map_shape(size: int) -> tuple[int, int]:
    """Height and width of a code's map: the most square one, higher than wide."""
    width = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0)
    return size // width, width


def _as_map(codes: Tensor, height: int, width: int) -> Tensor:
    """Codes (N, latent) in [-1, 1] -> (N, 3, height, width), enlarged on white."""
    rows, columns = map_shape(codes.shape[1])
    scale = min(height / rows, width / columns)
    # Whole multiples, so that each number is a square of one size; or reduced, if they must be.
    scale = math.floor(scale) if scale >= 1 else scale
    size = max(1, int(rows * scale)), max(1, int(columns * scale))
    maps = F.interpolate(codes.view(-1, 1, rows, columns).float(), size, mode="nearest-exact")
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    margins = (left, width - size[1] - left, top, height - size[0] - top)
    return F.pad(maps, margins, value=1.0).expand(-1, 3, -1, -1)
