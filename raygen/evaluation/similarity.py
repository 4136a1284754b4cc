"""Similarity of pairs of images: peak signal-to-noise ratio and structural similarity."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation of the Gaussian window, in pixels."""
K1, K2 = 0.01, 0.03
RANGE = 2.0
"""Difference of the largest and smallest pixel, of images in [-1, 1]."""
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, finest first."""
LEAST_SIDE = 16
"""Images need this many pixels a side for as many halvings as there are scales."""


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair, in dB; infinite for equal images.

    Args: both (N, 3, H, W) in [-1, 1].   Returns: (N,).
    """
    error = (first - second).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(RANGE**2 / error)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of each pair, at most 1, which equal images have.

    Args: both (N, 3, H, W) in [-1, 1].   Returns: (N,).
    Source: Wang et al. 2004, with the 11 x 11 Gaussian window where it lies inside the image.
    """
    return _compare(first, second)[0]


def ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Multi-scale structural similarity of each pair, in [0, 1].

    In images smaller than the window, on the coarse scales, the window shrinks with them. The mean
    over pairs of samples is a measure of diversity: the lower, the more samples differ.

    Args: both (N, 3, H, W) in [-1, 1], of 16 pixels a side at least.   Returns: (N,).
    Raises: ValueError for smaller images.
    Sources: Wang et al. 2003; with the shrinking window: Karras et al. 2018 (arXiv 1710.10196),
        whose published figures it stands beside.
    """
    if min(first.shape[2:]) < LEAST_SIDE:
        raise ValueError(f"multi-scale similarity needs images of {LEAST_SIDE} pixels a side")
    total = torch.ones(len(first), dtype=first.dtype, device=first.device)
    for number, weight in enumerate(WEIGHTS):
        whole, contrast = _compare(first, second)
        is_last = number == len(WEIGHTS) - 1
        # A negative correlation has no real power.
        total = total * (whole if is_last else contrast).clamp(min=0) ** weight
        if not is_last:
            first, second = _halved(first), _halved(second)
    return total


def _compare(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Structural similarity, and its part without luminance, of each pair: (N,) and (N,)."""
    size = min(WINDOW, *first.shape[2:])
    places = torch.arange(size, dtype=first.dtype, device=first.device) - (size - 1) / 2
    line = torch.exp(-places.square() / (2 * (SIGMA * size / WINDOW) ** 2))
    line = line / line.sum()

    def blurred(images: Tensor) -> Tensor:
        kernel = line.expand(images.shape[1], 1, 1, size)
        images = F.conv2d(images, kernel, groups=images.shape[1])
        return F.conv2d(images, kernel.transpose(2, 3), groups=images.shape[1])

    # Luminance is compared by ratios, so black has to be 0.
    first, second = first + 1, second + 1
    products = [first, second, first * first, second * second, first * second]
    mean1, mean2, square1, square2, product = (blurred(images) for images in products)
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    covariance = product - mean1 * mean2
    variances = square1 - mean1.square() + square2 - mean2.square()
    contrast = (2 * covariance + c2) / (variances + c2)
    luminance = (2 * mean1 * mean2 + c1) / (mean1.square() + mean2.square() + c1)
    return (luminance * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


def _halved(images: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; where a side is odd, its last pixels are repeated."""
    height, width = images.shape[2:]
    if height % 2 or width % 2:
        images = F.pad(images, (0, width % 2, 0, height % 2), "replicate")
    return F.avg_pool2d(images, 2)
