"""Similarity of images, against independent implementations."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from scipy.signal import fftconvolve
from torch import Tensor

from raygen.evaluation.similarity import ms_ssim, psnr, ssim

pytestmark = pytest.mark.numeric


def pair(height: int, width: int, strength: float = 0.2) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    first = torch.rand(4, 3, height // 4, width // 4, generator=random) * 2 - 1
    first = torch.nn.functional.interpolate(first, (height, width), mode="bilinear")
    other = first + strength * torch.randn(first.shape, generator=random)
    return first, other.clamp(-1, 1)


def published_ms_ssim(first: Tensor, second: Tensor) -> np.ndarray:
    """Multi-scale similarity as published beside the sliced Wasserstein distance, in NumPy."""
    images = [(x.permute(0, 2, 3, 1).double().numpy() + 1) * 127.5 for x in (first, second)]
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    result = np.ones(len(first))
    for number, weight in enumerate(weights):
        size = min(11, *images[0].shape[1:3])
        sigma = size * 1.5 / 11
        places = np.arange(size) - (size - 1) / 2
        window = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * sigma**2))
        window = (window / window.sum())[None, :, :, None]

        def mean(x: np.ndarray, window: np.ndarray = window) -> np.ndarray:
            return np.asarray(fftconvolve(x, window, mode="valid", axes=(1, 2)))

        a, b = images
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        mean_a, mean_b = mean(a), mean(b)
        contrast = (2 * (mean(a * b) - mean_a * mean_b) + c2) / (
            mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2 + c2
        )
        whole = contrast * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        last = number == len(weights) - 1
        result *= np.clip((whole if last else contrast).mean(axis=(1, 2, 3)), 0, None) ** weight
        box = np.full((1, 2, 2, 1), 0.25)
        images = [convolve(x, box, mode="reflect")[:, ::2, ::2] for x in images]
    return result


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (45, 38), (218, 178)])
@pytest.mark.parametrize("strength", [0.05, 0.5])
def test_multi_scale_similarity_is_the_published_one_at_any_size(
    size: tuple[int, int], strength: float
) -> None:
    first, second = pair(*size, strength)
    found = ms_ssim(first, second)
    np.testing.assert_allclose(found, published_ms_ssim(first, second), atol=2e-4)


def test_similarity_of_large_images_is_another_library_s() -> None:
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure,
        structural_similarity_index_measure,
    )

    first, second = pair(192, 208)
    options: Any = {"data_range": 2.0, "reduction": "none"}
    expected: Any
    expected = multiscale_structural_similarity_index_measure(second + 1, first + 1, **options)
    np.testing.assert_allclose(ms_ssim(first, second), expected, atol=2e-2)
    # The library also counts windows that reach over the border, a few of a hundred here.
    expected = structural_similarity_index_measure(second + 1, first + 1, **options)
    np.testing.assert_allclose(ssim(first, second), expected, atol=1e-2)


def test_noise_of_known_strength_has_the_ratio_of_its_definition() -> None:
    first = torch.zeros(2, 3, 16, 16)
    second = first.clone()
    second[1] += 0.2
    found = psnr(first, second)
    assert found[0] == torch.inf
    assert float(found[1]) == pytest.approx(20.0, abs=1e-4)


def test_equal_images_are_alike_and_opposite_ones_are_not() -> None:
    first, _ = pair(64, 64)
    np.testing.assert_allclose(ssim(first, first), np.ones(4), atol=1e-5)
    np.testing.assert_allclose(ms_ssim(first, first), np.ones(4), atol=1e-5)
    assert ms_ssim(first, -first).max() < 0.05
    weaker = [float(ms_ssim(first, pair(64, 64, s)[1]).mean()) for s in (0.05, 0.2, 0.5)]
    assert weaker == sorted(weaker, reverse=True)


def test_images_too_small_for_the_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="16 pixels"):
        ms_ssim(torch.zeros(1, 3, 15, 32), torch.zeros(1, 3, 15, 32))
