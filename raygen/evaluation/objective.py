"""What makes one model better than another: any metric that is logged, KL bounded where due.

The best checkpoint of a run and the best trial of a sweep are told by the same objective. It is not
a GAN's loss, which says how well one network plays against the other and nothing of the images: by
default the sliced Wasserstein distance between samples and validation images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from raygen.config.run import RunConfig
from raygen.core.errors import RunError, UserError
from raygen.evaluation.metrics import Direction, logged, metric_of

KL = "validation/kl"
MSE = "validation/mse"
MAX_KL = 500.0
"""Nats per image that the latents may lie away from the prior, where nobody says otherwise."""


@dataclass(frozen=True)
class Objective:
    """What makes one model better than another.

    Attributes:
        metric: its tag, as it is logged.
        mode: whether a low or a high value is good.
        max_kl: nats per image; a reconstruction error counts more the farther the KL divergence of
            the latents is above it, because without a bound a smaller weight of the KL always
            reconstructs better, until the latents are no longer those that images are sampled
            from. 0: no bound.
    """

    metric: str
    mode: Direction = "min"
    max_kl: float = 0.0

    def value(self, metrics: Mapping[str, float]) -> float:
        """Raises: RunError if the metric was not logged."""
        if self.metric not in metrics:
            raise RunError(
                f"--metric {self.metric}: was not logged; there are {', '.join(sorted(metrics))}"
            )
        value = metrics[self.metric]
        if self.bounds_kl and KL in metrics:
            # Not max(0, ...), which would take NaN for 0.
            excess = metrics[KL] / self.max_kl - 1
            excess = 0.0 if excess < 0 else excess
            value += excess if self.mode == "min" else -excess
        return value

    @property
    def bounds_kl(self) -> bool:
        return self.metric == MSE and self.max_kl > 0

    @property
    def name(self) -> str:
        """As a sentence calls it."""
        return metric_of(self.metric).name

    @property
    def sign(self) -> int:
        """What to multiply values with, so that lower is better."""
        return 1 if self.mode == "min" else -1

    def is_better(self, value: float, other: float) -> bool:
        return self.sign * value < self.sign * other or (
            math.isfinite(value) and not math.isfinite(other)
        )


def own_objective(config: RunConfig) -> Objective:
    """What tells a run's best checkpoint, and a sweep's best trial if nobody says otherwise."""
    metric = config.model.best_by
    return Objective(metric, metric_of(metric).direction, MAX_KL)


def choose_objective(config: RunConfig, metric: str, mode: str, max_kl: float) -> Objective:
    """The objective that a user named, or the model family's own.

    Args: metric: its tag; empty: the family's own. mode: min or max; auto: the metric's own.
    Raises: UserError if runs never log the metric.
    """
    metric = metric or config.model.best_by
    known = logged(config.model)
    if metric not in known:
        raise UserError(
            f"--metric {metric}: {config.preset} never logs it; choose one of {', '.join(known)}"
        )
    direction: Direction = metric_of(metric).direction
    if mode != "auto":
        direction = "min" if mode == "min" else "max"
    return Objective(metric, direction, max_kl)
