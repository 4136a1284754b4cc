"""Figures of several trainings that differ by their seeds alone: how sure their means are.

The spread between seeds is estimated from all settings together, taken as equal for them, because
three seeds of one setting say little of their own spread.
"""

import functools
import itertools
import math
import warnings
from collections.abc import Sequence

import numpy as np

from raygen.evaluation.distances import LEVEL, Interval

Values = Sequence[float]
"""A figure of one setting, one value for each seed, all finite."""


def means_over_seeds(settings: Sequence[Values]) -> list[Interval]:
    """The mean of each setting, with its interval; infinite where nothing is known of the spread.

    Source: Student's t with the pooled standard deviation.
    """
    from scipy import stats

    spread, freedom = _pooled(settings)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * spread if freedom else math.inf
    found = []
    for values in settings:
        mean = float(np.mean(values)) if len(values) else math.nan
        half = reach / math.sqrt(len(values)) if len(values) else math.inf
        found.append(Interval(mean, mean - half, mean + half))
    return found


def differences_from_control(settings: Sequence[Values], control: Values) -> list[Interval]:
    """How far the mean of each setting is from the control's, with simultaneous intervals.

    With 95 % confidence all intervals hold at once, so that the best of several settings may be
    picked and its interval still be believed.

    Source: Dunnett 1955, A multiple comparison procedure for comparing several treatments with a
        control.
    """
    from scipy import stats

    differences = [float(np.mean(values) - np.mean(control)) for values in settings]
    if not settings or not _pooled([*settings, control])[0]:
        # One value each says nothing of the spread; equal ones would divide by zero.
        return [Interval(value, -math.inf, math.inf) for value in differences]
    samples = [np.asarray(values, np.float64) for values in settings]
    with warnings.catch_warnings():
        # The integration is not exact to the last digit, which does not matter here.
        warnings.simplefilter("ignore")
        found = stats.dunnett(*samples, control=np.asarray(control, np.float64), **_seeded())
        low, high = found.confidence_interval(LEVEL)
    return [
        Interval(*three) for three in zip(differences, low.tolist(), high.tolist(), strict=True)
    ]


def differences_of_pairs(settings: Sequence[Values]) -> dict[tuple[int, int], Interval]:
    """How far the mean of each setting is from each other's, with simultaneous intervals.

    Returns: the first one's mean minus the second one's, by the numbers of both, in both orders;
        without settings that have no value.
    Source: Tukey 1949, Comparing individual means in the analysis of variance; for unequal numbers
        of values Kramer 1956.
    """
    known = [number for number, values in enumerate(settings) if len(values)]
    spread, freedom = _pooled([settings[number] for number in known])
    reach = (
        _studentized_range(len(known), freedom) * spread / math.sqrt(2)
        if spread and len(known) > 1
        else math.inf
    )
    found = {}
    for first, second in itertools.permutations(known, 2):
        difference = float(np.mean(settings[first]) - np.mean(settings[second]))
        half = reach * math.sqrt(1 / len(settings[first]) + 1 / len(settings[second]))
        found[first, second] = Interval(difference, difference - half, difference + half)
    return found


def gain_of(difference: Interval, sign: int) -> Interval:
    """By how much the first of two settings is better, from its difference to the second.

    Args: sign: 1 if low values are good, else -1.
    """
    low, high = sorted((-sign * difference.low, -sign * difference.high))
    return Interval(-sign * difference.value, low, high)


@functools.cache
def _studentized_range(settings: int, freedom: int) -> float:
    """The quantile of the studentized range, which takes a while to compute."""
    from scipy import stats

    return float(stats.studentized_range.ppf(LEVEL, settings, freedom))


def _seeded() -> dict[str, np.random.Generator]:
    """The argument that makes scipy's integration repeatable, whose name depends on its version."""
    import scipy

    older = tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 15)
    return {"random_state" if older else "rng": np.random.default_rng(0)}


def _pooled(settings: Sequence[Values]) -> tuple[float, int]:
    """The pooled standard deviation of settings, and its degrees of freedom."""
    freedom = sum(max(0, len(values) - 1) for values in settings)
    squares = sum(float(np.var(v)) * len(v) for v in settings if len(v))
    return (math.sqrt(squares / freedom), freedom) if freedom else (0.0, 0)
