"""What tuning is worth: the best result to expect of so many trials.

A sweep's best value alone says as much of how many trials there were as of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raygen.evaluation.objective import Objective
from raygen.tuning.records import Trial

SHARES = (0.1, 0.9)
"""Quantiles of the best result that are shown beside its mean."""
MOST_SHOWN = 200
"""Upper limit of the numbers of trials for which it is computed."""


@dataclass(frozen=True)
class ExpectedBest:
    """The best of so many trials, drawn at random from those of a sweep.

    Attributes: trials: (K,) numbers of trials; mean, low, high: (K,) of the best value.
    """

    trials: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def searched_values(trials: Sequence[Trial], objective: Objective) -> list[float]:
    """The objective of each trial that has one but the defaults; a failed one has the worst's."""
    values = [
        trial.objective
        for trial in trials
        if trial.number and trial.objective is not None and trial.is_measured
    ]
    failed = sum(trial.status == "failed" and trial.number > 0 for trial in trials)
    return values and values + [max(values, key=lambda v: objective.sign * v)] * failed


def expected_best(values: Sequence[float], sign: int = 1) -> ExpectedBest:
    """The best value of n trials, for n from 1 to all, as the mean over all choices of n of them.

    Drawn without replacement, which makes it unbiased; Dodge et al. draw with replacement.

    Args: values: of trials with random settings, (N,), finite; sign: 1 if low is good, else -1.
    Raises: ValueError if there is none.
    Sources: Dodge et al. 2019, arXiv 1909.03004; Tang et al. 2020, arXiv 2004.13705.
    """
    if not len(values):
        raise ValueError("there are no values to choose from")
    from scipy.special import gammaln

    ordered = np.sort(sign * np.asarray(values, np.float64))
    total = len(ordered)
    counts = np.unique(np.linspace(1, total, min(total, MOST_SHOWN)).astype(int))

    def log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
        # Of fewer than k, k cannot be chosen.
        with np.errstate(invalid="ignore"):
            found = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(np.maximum(n - k, 0) + 1.0)
        return np.where(n >= k, found, -np.inf)

    # The best of n is the i-th if it is chosen with n - 1 of those that are worse.
    worse = total - 1 - np.arange(total)
    chosen = log_choose(worse[None], counts[:, None] - 1)
    weights = np.exp(chosen - log_choose(np.array([[total]]), counts[:, None]))
    reached = np.cumsum(weights, axis=1)
    places = [np.minimum((reached < share - 1e-9).sum(axis=1), total - 1) for share in SHARES]
    ends = [sign * ordered[place] for place in places]
    return ExpectedBest(counts, sign * (weights @ ordered), np.minimum(*ends), np.maximum(*ends))
