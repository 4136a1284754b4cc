"""The classifier two-sample test: how well a classifier tells generated from real features."""

from dataclasses import dataclass

import numpy as np

from raygen.evaluation.distances import LEVEL, Interval

PENALTY = 1e-2
"""Weight of the squared coefficients, per feature of unit variance."""
MOST_STEPS = 200


@dataclass(frozen=True)
class TwoSample:
    """Result of the test.

    Attributes:
        accuracy: share of held-out features that the classifier tells apart; 0.5 is chance.
        p_value: probability of such an accuracy, or a better one, by chance.
    """

    accuracy: Interval
    p_value: float


def two_sample_test(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> TwoSample:
    """Train a classifier on half of two sets of features, and test it on the other half.

    Logistic regression on the features and their squares, so that it sees a different mean and a
    different spread.

    Args: real, fake: (N, D) and (M, D); the larger set is cut to the smaller's size.
    Raises: ValueError for fewer than 4 of either.
    Source: Lopez-Paz & Oquab 2017, arXiv 1610.06545.
    """
    from scipy import stats

    count = min(len(real), len(fake))
    if count < 4:
        raise ValueError("a two-sample test needs four features of each set at least")
    random = np.random.default_rng(seed)
    features = np.concatenate([f[random.permutation(len(f))[:count]] for f in (real, fake)])
    features = features.astype(np.float64)
    labels = np.repeat([1.0, -1.0], count)
    trains = np.tile(np.arange(count) < count // 2, 2)
    mean, spread = features[trains].mean(axis=0), features[trains].std(axis=0)
    features = (features - mean) / np.where(spread > 0, spread, 1)
    features = np.concatenate([features, np.square(features) - 1], axis=1)
    weights, bias = _fit(features[trains], labels[trains])
    right = (features[~trains] @ weights + bias) * labels[~trains] > 0
    found = stats.binomtest(int(right.sum()), len(right), 0.5, alternative="greater")
    interval = stats.binomtest(int(right.sum()), len(right)).proportion_ci(LEVEL, "wilson")
    accuracy = Interval(float(right.mean()), float(interval.low), float(interval.high))
    return TwoSample(accuracy, float(found.pvalue))


def _fit(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Logistic regression. Args: features: (N, F); labels: (N,), 1 or -1."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = values[:-1], values[-1]
        margins = labels * (features @ weights + bias)
        slopes = -labels * expit(-margins) / len(labels)
        total = np.logaddexp(0, -margins).mean() + PENALTY / 2 * weights @ weights
        return total, np.append(features.T @ slopes + PENALTY * weights, slopes.sum())

    start = np.zeros(features.shape[1] + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS})
    return found.x[:-1], float(found.x[-1])
