"""Measures by nearest neighbours: against loops over all pairs, and where the answer is known."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import calculate_precision_recall_full

from raygen.evaluation import neighbours
from raygen.evaluation.neighbours import clipped_coverage, compare_manifolds, memorisation

pytestmark = pytest.mark.numeric


def normal(seed: int, count: int = 300, dimensions: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def test_the_measures_are_those_of_the_definitions() -> None:
    real, fake = normal(1, 60), normal(2, 50) * 1.3 + 0.4
    distance = np.linalg.norm(real[:, None].astype(float) - fake[None], axis=2)
    own = np.sort(np.linalg.norm(real[:, None].astype(float) - real[None], axis=2), axis=1)
    radius = own[:, 5]
    clipped = np.minimum(radius, np.median(radius))
    found = compare_manifolds(real, fake)
    density = [sum(distance[j, i] < radius[j] for j in range(60)) / 5 for i in range(50)]
    np.testing.assert_allclose(found.density, density)
    coverage = [any(distance[j, i] < radius[j] for i in range(50)) for j in range(60)]
    np.testing.assert_allclose(found.coverage, coverage)
    filled = [min(5, sum(distance[j, i] < radius[j] for i in range(50))) / 5 for j in range(60)]
    np.testing.assert_allclose(found.filled, filled)
    inside = np.linalg.norm(real[:, None].astype(float) - real[None], axis=2)
    reached = np.mean(
        [
            min(1, sum(inside[j, i] <= clipped[j] for j in range(60) if j != i) / 5)
            for i in range(60)
        ]
    )
    expected = [
        min(1, sum(distance[j, i] <= clipped[j] for j in range(60)) / 5) / reached
        for i in range(50)
    ]
    np.testing.assert_allclose(found.clipped_density, expected, rtol=1e-6)


def test_measures_are_the_same_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake, train = normal(17, 120), normal(18, 90) * 1.2, normal(19, 150)
    whole, copied = compare_manifolds(real, fake), memorisation(train, real, fake)
    # As with many images, whose distances are not in memory all at once.
    monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", 1_000)
    for expected, found in (
        (whole, compare_manifolds(real, fake)),
        (copied, memorisation(train, real, fake)),
    ):
        for name, values in vars(expected).items():
            np.testing.assert_allclose(getattr(found, name), values)


def test_precision_and_recall_are_an_independent_implementation_s() -> None:
    real, fake = normal(3), normal(4) * 0.7 + 0.3
    expected = calculate_precision_recall_full(
        torch.from_numpy(fake).double(), torch.from_numpy(real).double(), 3
    )
    found = compare_manifolds(real, fake)
    assert (found.precision.mean(), found.recall.mean()) == pytest.approx(expected)


def test_sets_of_one_distribution_are_good_and_far_ones_are_not() -> None:
    found = compare_manifolds(normal(5, 1_000), normal(6, 1_000))
    assert found.density.mean() == pytest.approx(1, abs=0.05)
    assert found.coverage.mean() == pytest.approx(1 - 2**-5, abs=0.02)
    assert found.clipped_density.mean() == pytest.approx(1, abs=0.08)
    assert clipped_coverage(found.filled.mean(), 1_000, 1_000) == pytest.approx(1, abs=0.06)
    far = compare_manifolds(normal(5), normal(6) + 100)
    for values in vars(far).values():
        assert values.mean() == 0
    assert clipped_coverage(0.0, 300, 300) == 0


@pytest.mark.parametrize("good", [0.25, 0.5, 0.75])
def test_the_clipped_measures_are_the_share_of_good_images(good: float) -> None:
    real, fake = normal(7, 1_000), normal(8, 1_000)
    fake[round(good * 1_000) :] += 50
    found = compare_manifolds(real, fake)
    assert found.clipped_density.mean() == pytest.approx(good, abs=0.06)
    covered = clipped_coverage(found.filled.mean(), 1_000, 1_000)
    assert covered == pytest.approx(good, abs=0.06)


def test_few_distinct_images_lower_diversity_alone() -> None:
    real, fake = normal(9, 600), normal(10, 600)
    few = fake[:16].repeat(38, axis=0)[:600]
    whole, found = compare_manifolds(real, fake), compare_manifolds(real, few)
    assert found.recall.mean() < whole.recall.mean() / 3
    assert found.coverage.mean() < whole.coverage.mean() / 3
    assert found.precision.mean() > 0.6


def test_far_from_the_origin_distances_are_as_exact() -> None:
    real, fake = normal(11, 100), normal(12, 100)
    near, far = (compare_manifolds(real + s, fake + s) for s in (0, 2_000))
    # float32 itself has lost digits there; a few pairs may change sides.
    for name, values in vars(near).items():
        assert np.mean(values) == pytest.approx(np.mean(getattr(far, name)), abs=0.05)


def test_copies_of_training_images_are_caught_and_new_images_are_not() -> None:
    train, held_out = normal(13, 1_000, 8), normal(14, 400, 8)
    copies = train[:400] + 0.01 * normal(15, 400, 8)
    caught = memorisation(train, held_out, copies)
    assert caught.authentic.mean() == 0
    assert caught.copying < -10
    assert caught.nearest.tolist() == list(range(400))
    assert np.median(caught.distance) < 0.1 * np.median(caught.held_out)
    fresh = memorisation(train, held_out, normal(16, 400, 8))
    assert fresh.authentic.mean() > 0.5
    assert abs(fresh.copying) < 3
    away = memorisation(train, held_out, normal(16, 400, 8) * 1.5)
    assert away.copying > 3


def test_too_few_features_are_refused_or_give_no_score() -> None:
    with pytest.raises(ValueError, match="7 features"):
        compare_manifolds(normal(1, 6), normal(2))
    with pytest.raises(ValueError, match="two training"):
        memorisation(normal(1, 1), normal(2), normal(3))
    assert np.isnan(memorisation(normal(1, 10), normal(2, 5), normal(3, 5)).copying)
