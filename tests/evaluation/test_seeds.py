"""Intervals over training seeds."""

import math

import numpy as np
import pytest
from scipy import stats

from raygen.evaluation.seeds import (
    differences_from_control,
    differences_of_pairs,
    means_over_seeds,
)

A, B, C = [3.0, 4.0, 5.5], [7.0, 6.5], [5.0, 5.2, 4.1]


def test_means_share_the_spread_of_all_settings() -> None:
    found = means_over_seeds([A, B, C])
    squares = sum(np.var(values, ddof=1) * (len(values) - 1) for values in (A, B, C))
    spread = math.sqrt(squares / 5)
    for interval, values in zip(found, (A, B, C), strict=True):
        half = 2.5706 * spread / math.sqrt(len(values))
        assert interval.value == pytest.approx(np.mean(values))
        assert (interval.low, interval.high) == pytest.approx(
            (interval.value - half, interval.value + half), rel=1e-4
        )


def test_one_setting_against_another_is_student_s_t_test() -> None:
    [found] = differences_from_control([A], B)
    low, high = stats.ttest_ind(A, B).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(A) - np.mean(B))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)


def test_intervals_of_several_differences_are_wider_than_of_one() -> None:
    found = differences_from_control([A, B], C)
    spread = math.sqrt(sum(np.var(v, ddof=1) * (len(v) - 1) for v in (A, B, C)) / 5)
    for interval, values in zip(found, (A, B), strict=True):
        alone = 2.5706 * spread * math.sqrt(1 / len(values) + 1 / len(C))
        half = (interval.high - interval.low) / 2
        # Bonferroni's intervals hold at once, too, but are wider than need be.
        assert alone < half < 3.1634 / 2.5706 * alone
        assert interval.value == pytest.approx(np.mean(values) - np.mean(C))
    assert differences_from_control([A, B], C) == differences_from_control([A, B], C)


def test_settings_that_do_not_differ_are_seldom_said_to() -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(60):
        *settings, control = random.normal(size=(4, 3)).tolist()
        found = differences_from_control(settings, control)
        wrong += any(interval.low > 0 or interval.high < 0 for interval in found)
    # 3 of 60 are expected.
    assert wrong <= 8


def test_too_little_is_known_of_single_values_and_of_equal_ones() -> None:
    [found] = differences_from_control([[1.0]], [3.0])
    assert (found.value, found.low, found.high) == (-2.0, -math.inf, math.inf)
    [equal] = differences_from_control([[1.0, 1.0]], [3.0, 3.0])
    assert (equal.low, equal.high) == (-math.inf, math.inf)
    assert differences_from_control([], [1.0, 2.0]) == []
    alone, nothing = means_over_seeds([[2.0], []])
    assert (alone.value, alone.low, alone.high) == (2.0, -math.inf, math.inf)
    assert math.isnan(nothing.value)


def test_all_pairs_are_compared_as_by_tukey() -> None:
    found = differences_of_pairs([A, [], B, C])
    expected = stats.tukey_hsd(A, B, C).confidence_interval(0.95)
    numbers = {0: 0, 2: 1, 3: 2}
    assert len(found) == 6
    for (first, second), interval in found.items():
        place = numbers[first], numbers[second]
        assert interval.low == pytest.approx(expected.low[place], rel=1e-4)
        assert interval.high == pytest.approx(expected.high[place], rel=1e-4)
        other = found[second, first]
        assert (interval.value, interval.low) == pytest.approx((-other.value, -other.high))
    single = differences_of_pairs([[1.0], [2.0]])
    assert single[0, 1].value == -1
    assert single[0, 1].high == math.inf
    assert differences_of_pairs([A]) == {}
