"""The classifier two-sample test: chance where sets are alike, and a power that is known."""

import numpy as np
import pytest
from scipy.stats import norm

from raygen.evaluation.two_sample import two_sample_test

pytestmark = pytest.mark.numeric


def normal(seed: int, count: int = 2_000) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def test_sets_of_one_distribution_cannot_be_told_apart() -> None:
    found = [two_sample_test(normal(s), normal(s + 50)) for s in range(6)]
    assert sum(f.accuracy.low < 0.5 < f.accuracy.high for f in found) >= 4
    assert sum(f.p_value < 0.01 for f in found) <= 1


def test_a_shift_is_found_as_often_as_the_best_classifier_finds_it() -> None:
    shift = np.array([1.0, 0, 0, 0, 0, 0], np.float32)
    found = two_sample_test(normal(1), normal(2) + shift)
    assert found.accuracy.value == pytest.approx(norm.cdf(0.5), abs=0.03)
    assert found.accuracy.low < found.accuracy.value < found.accuracy.high
    assert found.p_value < 1e-6


def test_another_spread_is_found_too() -> None:
    assert two_sample_test(normal(1), normal(2) * 0.6).accuracy.value > 0.7
    collapsed = np.repeat(normal(3, 4), 500, axis=0)
    assert two_sample_test(normal(1), collapsed).accuracy.value > 0.9


def test_constant_features_and_unequal_sets_are_measured_and_few_are_refused() -> None:
    real, fake = normal(1, 300), normal(2, 100)
    real[:, 0] = fake[:, 0] = 1
    assert 0.3 < two_sample_test(real, fake).accuracy.value < 0.7
    assert two_sample_test(real, fake, 5) == two_sample_test(real, fake, 5)
    with pytest.raises(ValueError, match="four"):
        two_sample_test(real[:3], fake)
