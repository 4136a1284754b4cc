"""Distances between sets of features, against closed forms and an independent implementation."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from raygen.evaluation.distances import (
    Moments,
    bootstrap,
    frechet,
    frechet_distance,
    frechet_infinity,
    kernel_distance,
    mean_of,
)

pytestmark = pytest.mark.numeric


def normal(seed: int, count: int = 1_000, dimensions: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def test_between_normal_distributions_the_distance_has_its_closed_form() -> None:
    # Covariances that commute: the distance is that of the means and of the standard deviations.
    first = Moments(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    second = Moments(np.array([1.0, -2.0, 0.0]), np.diag([4.0, 4.0, 1.0]))
    assert frechet_distance(first, second) == pytest.approx(1 + 4 + (1 - 2) ** 2 + (3 - 1) ** 2)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    # And ones that do not, by the definition.
    a, b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0, 0.0], [0.0, 1.0]])
    from scipy.linalg import sqrtm

    expected = np.trace(a + b - 2 * sqrtm(a @ b).real)
    found = frechet_distance(Moments(np.zeros(2), a), Moments(np.zeros(2), b))
    assert found == pytest.approx(expected)


def test_singular_covariances_have_a_distance() -> None:
    flat = np.zeros((50, 5), np.float32)
    flat[:, 0] = np.arange(50)
    assert frechet(flat, flat).value == pytest.approx(0, abs=1e-6)
    assert frechet(flat, flat + 2).value == pytest.approx(5 * 4)


def test_the_distance_of_features_is_an_independent_implementation_s() -> None:
    real, fake = normal(1), normal(2) * 1.5 + 0.3
    statistics = [fid_features_to_statistics(torch.from_numpy(f).double()) for f in (real, fake)]
    expected = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet(real, fake).value == pytest.approx(expected, rel=1e-6)


def test_moments_of_repeated_features_are_those_of_weighted_ones() -> None:
    features = normal(3, 20)
    weights = np.arange(20) % 3
    repeated, weighted = Moments.of(features.repeat(weights, axis=0)), Moments.of(features, weights)
    np.testing.assert_allclose(weighted.mean, repeated.mean, atol=1e-12)
    np.testing.assert_allclose(weighted.covariance, repeated.covariance, atol=1e-12)


def test_extrapolation_removes_the_bias_of_few_images() -> None:
    plain = [frechet(normal(seed, 400), normal(seed + 100, 400)).value for seed in range(8)]
    extrapolated = [
        frechet_infinity(normal(seed, 400), normal(seed + 100, 400)).value for seed in range(8)
    ]
    # The truth is 0; finite sets are 0.1 apart.
    assert np.mean(plain) > 0.05
    assert abs(np.mean(extrapolated)) < np.mean(plain) / 3
    shifted = frechet_infinity(normal(1, 4_000), normal(2, 4_000) + 0.5)
    assert shifted.low < shifted.value < shifted.high
    assert shifted.value == pytest.approx(8 * 0.25, abs=0.2)


def test_the_interval_of_a_distance_holds_what_other_images_give() -> None:
    found = frechet(normal(1), normal(2) + 0.3)
    assert found.low < found.value < found.high
    others = [frechet(normal(s), normal(s + 50) + 0.3).value for s in range(10, 30)]
    half = (found.high - found.low) / 2
    assert 0.5 < 1.96 * np.std(others) / half < 2


def test_the_kernel_distance_of_equal_distributions_is_about_zero() -> None:
    # Written out for all pairs at once: the unbiased estimate that subsets estimate as well.
    real, fake = normal(1), normal(2) + 0.5

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        products: np.ndarray = a.astype(float) @ b.T.astype(float)
        return np.asarray(np.power(products / a.shape[1] + 1, 3))

    n = len(real)
    within = [(kernel(f, f).sum() - kernel(f, f).trace()) / (n * (n - 1)) for f in (real, fake)]
    expected = sum(within) - 2 * kernel(real, fake).mean()
    found = kernel_distance(real, fake)
    assert found.value == pytest.approx(expected, rel=0.05)
    assert found.low < expected < found.high
    same = kernel_distance(real, normal(3))
    assert same.low < 0 < same.high
    assert abs(same.value) < expected / 20


def test_the_same_seed_gives_the_same_figures() -> None:
    real, fake = normal(1, 200), normal(2, 200)
    for measure in (frechet, frechet_infinity, kernel_distance):
        assert measure(real, fake, 3) == measure(real, fake, 3)


def test_too_few_features_are_refused() -> None:
    for measure, least in ((frechet, 2), (frechet_infinity, 8), (kernel_distance, 4)):
        measure(normal(1, least), normal(2, least))
        with pytest.raises(ValueError, match="features"):
            measure(normal(1, least - 1), normal(2, least))


def test_intervals_of_means_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    parts = random.exponential(size=(200, 150))
    for interval in (mean_of, lambda p: bootstrap(lambda q: float(q.mean()), p)):
        found = [interval(p) for p in parts]
        covered = np.mean([i.low <= 1 <= i.high for i in found])
        assert 0.88 < covered < 0.99
    assert mean_of(np.array([3.0])).low == 3
