"""The best to expect of so many trials, against all choices of so many."""

import itertools

import numpy as np
import pytest

from raygen.tuning.expected_best import expected_best


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_it_is_the_mean_over_all_choices(sign: int, count: int) -> None:
    values = np.random.default_rng(count).normal(size=count).round(1).tolist()
    found = expected_best(values, sign)
    assert found.trials.tolist() == list(range(1, count + 1))
    for k, number in enumerate(found.trials):
        choices = itertools.combinations(values, number)
        best = [(min if sign == 1 else max)(choice) for choice in choices]
        assert found.mean[k] == pytest.approx(np.mean(best))
        signed = np.quantile(sign * np.array(best), [0.1, 0.9], method="inverted_cdf") * sign
        assert (found.low[k], found.high[k]) == pytest.approx((signed.min(), signed.max()))


def test_many_trials_are_few_points_and_finite() -> None:
    found = expected_best(np.random.default_rng(0).normal(size=5_000).tolist())
    assert len(found.trials) == 200
    assert (found.trials[0], found.trials[-1]) == (1, 5_000)
    assert np.isfinite(found.mean).all()
    assert (np.diff(found.mean) <= 1e-9).all()
    with pytest.raises(ValueError, match="no values"):
        expected_best([])
