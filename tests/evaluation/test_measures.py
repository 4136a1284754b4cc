"""What an evaluation computes: every metric of the registry, and those that only it has."""

import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from raygen.evaluation import measures
from raygen.evaluation.measures import Autoencoded, FeatureSets, Figures, ImageSets
from raygen.evaluation.metrics import EVALUATED, FEATURES, metric_of
from raygen.evaluation.swd import laplacian_pyramid, published_distance, published_levels


def pictures(seed: int, count: int = 48, side: int = 32) -> np.ndarray:
    """Smooth colours with some grain, (count, side, side, 3) uint8."""
    random = np.random.default_rng(seed)
    smooth = random.normal(size=(count, 4, 4, 3)).repeat(side // 4, 1).repeat(side // 4, 2)
    values = 128 + 40 * smooth + 12 * random.normal(size=(count, side, side, 3))
    return values.clip(0, 255).astype(np.uint8)


def features(seed: int, count: int = 160) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def autoencoded(count: int = 40) -> Autoencoded:
    images = torch.from_numpy(pictures(5, count)).permute(0, 3, 1, 2) / 127.5 - 1
    values = measures.compare_reconstructions(images, images * 0.9)
    mean = np.random.default_rng(1).normal(size=(count, 3)).astype(np.float32)
    error = np.full(count, 0.01, np.float32)
    return Autoencoded(**values, mean=mean, log_var=0 * mean - 1, error=error, dimensions=3072)


def all_figures() -> Figures:
    sets = FeatureSets(features(1), features(2) + 0.2, features(3, 400))
    found = {
        f"{FEATURES}{name}": figure
        for compute in measures.OF_FEATURES.values()
        for name, figure in compute(sets, 0, "cpu").items()
    }
    for of_images in measures.OF_IMAGES.values():
        found |= of_images(ImageSets(pictures(1), pictures(2)), 0)
    return found | measures.reconstruction_figures(autoencoded())


def test_every_metric_of_the_registry_is_computed_and_nothing_else() -> None:
    found = all_figures()
    assert {f"swd/published_{side}" for side in (32, 16)} <= found.keys()
    levels = {tag for tag in found if tag.startswith("swd/published_")}
    assert found.keys() - levels == EVALUATED.keys() - {"swd/published_level"}
    for tag, figure in found.items():
        assert math.isfinite(figure.value), tag
        assert figure.low <= figure.value <= figure.high, tag
        assert figure.n > 0, tag
        assert metric_of(tag).description, tag
    # All of it again is the same, to the last digit.
    assert all_figures() == found


def test_names_say_whose_features_are_compared() -> None:
    assert metric_of("random-vgg/fd").name == "FD (random-vgg)"
    assert metric_of("inception/fd").name == "FID (inception)"
    assert metric_of("dinov2/recall").direction == "max"
    assert metric_of("swd/published_16").name == "SWD as published, 16 px"


def published(real: np.ndarray, fake: np.ndarray, level: int, per_image: int = 128) -> float:
    """The published distance, in the plainest way, from other patches and directions."""
    random = np.random.default_rng(99)
    normal = []
    for images in (real, fake):
        pyramid = laplacian_pyramid(images.transpose(0, 3, 1, 2).astype(np.float32))
        windows = sliding_window_view(pyramid[level], (7, 7), (2, 3))
        number = np.repeat(np.arange(len(images)), per_image)
        rows, columns = (random.integers(n, size=len(number)) for n in windows.shape[2:4])
        patches = windows[number, :, rows, columns]
        patches = patches - patches.mean(axis=(0, 2, 3), keepdims=True)
        patches = patches / patches.std(axis=(0, 2, 3), keepdims=True)
        normal.append(patches.reshape(len(patches), -1))
    directions = random.normal(size=(147, 512))
    directions /= np.linalg.norm(directions, axis=0)
    first, second = (np.sort(patches @ directions, axis=0) for patches in normal)
    return float(np.abs(first - second).mean()) * 1e3


@pytest.mark.numeric
def test_the_published_distance_is_that_of_its_definition() -> None:
    real, fake = pictures(1), pictures(2)
    # Blocks of 2 x 2 pixels.
    fake = fake[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)
    assert published_levels(32, 32) == [32, 16]
    assert published_levels(218, 178) == [178, 89, 45, 23]
    for level in (0, 1):
        expected = published(real, fake, level)
        assert published_distance(real, fake, level)[0] == pytest.approx(expected, rel=0.1)
        # Each set is normalised by itself, so that a global change of contrast is not seen.
        dim = (fake * 0.5).astype(np.uint8)
        assert published_distance(real, dim, level)[0] == pytest.approx(expected, rel=0.15)
    _, groups = published_distance(real, fake, 0, groups=2)
    halves = [published(real[half], fake[half], 0, 32) for half in (slice(24), slice(24, None))]
    assert groups == pytest.approx(halves, rel=0.15)
    # Patches are drawn for each set by itself, so the same images are a little apart too.
    same, other = (published_distance(real, s, 0)[0] for s in (real.copy(), fake))
    assert 0 < same < other


def test_sets_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        published_distance(pictures(1), pictures(2, 40), 0)
    with pytest.raises(ValueError, match="one shape"):
        published_distance(pictures(1)[:0], pictures(2)[:0], 0)


@pytest.mark.numeric
def test_the_distance_of_training_is_measured_alike() -> None:
    from raygen.evaluation.swd import sliced_wasserstein

    sets = ImageSets(pictures(1), pictures(2))
    real, fake = (
        torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        for images in (sets.real, sets.fake)
    )
    found = measures.swd_by_real(sets)["swd/by_real"]
    assert found.value == pytest.approx(sliced_wasserstein(real, fake), rel=1e-5)
    assert found.n == 48


@pytest.mark.numeric
def test_pairs_of_repeated_images_are_more_alike_than_pairs_of_different_ones() -> None:
    images = pictures(1)
    several = np.concatenate([images[:2]] * 24)
    found = [
        measures.pair_similarity(ImageSets(images, fake))["diversity/ms_ssim"].value
        for fake in (images, several, images[:1].repeat(48, axis=0))
    ]
    assert found == sorted(found)
    assert found[2] == pytest.approx(1, abs=1e-4)
    assert measures.pair_similarity(ImageSets(images, images[:, :8, :8])) == {}


def test_without_training_images_nothing_is_said_of_memorisation() -> None:
    sets = FeatureSets(features(1), features(2), np.empty((0, 6), np.float32))
    assert measures.memorisation_figures(sets) == {}
