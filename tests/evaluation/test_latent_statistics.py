"""Statistics of latents, where the truth is known."""

import math

import numpy as np
import pytest
import torch

from raygen.evaluation.latent_statistics import bits_per_dimension, latent_statistics
from raygen.models.layers import kl_divergence

pytestmark = pytest.mark.numeric


def test_what_carries_nothing_is_not_active_and_costs_nothing() -> None:
    mean = np.random.default_rng(0).normal(size=(4_000, 4)) * [1, 0.5, 0.05, 0]
    log_var = np.log(np.broadcast_to([0.01, 0.75, 1, 1], mean.shape))
    found = latent_statistics(mean, log_var)
    # Variances 1, 0.25, 0.0025 and 0: the first two are above 0.01.
    assert found.active_units == 2
    assert found.kl_by_latent[3] == pytest.approx(0)
    exact = kl_divergence(torch.from_numpy(mean), torch.from_numpy(log_var.copy())).mean()
    assert found.kl == pytest.approx(float(exact))
    assert found.kl == pytest.approx(found.kl_by_latent.sum())


def test_the_aggregated_posterior_of_a_good_fit_is_the_prior() -> None:
    random = np.random.default_rng(1)
    # Means of variance 0.6 and posteriors of variance 0.4 make N(0, 1) together.
    mean = random.normal(size=(20_000, 6)) * math.sqrt(0.6)
    found = latent_statistics(mean, np.full(mean.shape, math.log(0.4)))
    assert found.prior_distance == pytest.approx(0, abs=0.01)
    moved = latent_statistics(mean + 0.5, np.full(mean.shape, math.log(0.4)))
    assert moved.prior_distance == pytest.approx(6 * 0.25, rel=0.05)


def test_bits_are_those_of_a_normal_distribution_over_grey_levels() -> None:
    # Grey levels with a standard deviation of 20: entropy log2(20 * sqrt(2 pi e)).
    expected = math.log2(20 * math.sqrt(2 * math.pi * math.e))
    assert bits_per_dimension((20 / 127.5) ** 2, 0, 100) == pytest.approx(expected)
    with_kl = bits_per_dimension((20 / 127.5) ** 2, 100 * math.log(2), 100)
    assert with_kl == pytest.approx(expected + 1)
    assert 0 < bits_per_dimension(0.0, 0, 100) < 1
