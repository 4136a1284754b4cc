"""The objective by which models are compared: any logged metric, with a bound on the KL if needed.

It selects both the best checkpoint of a run and the best trial of a sweep. By default it is the
Fréchet distance between samples and validation images in an extractor's features, which sees blur
as well as samples that repeat; not a GAN's loss, which says how well one network does against the
other and nothing about the images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from raygen.config.run import RunConfig
from raygen.core.errors import RunError, UserError
from raygen.evaluation.metrics import COMPARED, Direction, in_features, logged_tags, metric_of

KL = "validation/kl"
MSE = "validation/mse"
MAX_KL = 500.0
"""Default bound on the KL divergence between latents and prior, in nats per image."""


@dataclass(frozen=True)
class Objective:
    """The criterion by which one model is better than another.

    Attributes:
        metric: tag of the metric, as logged; `quality/fd` until it is known in which features.
        mode: whether a low or a high value is good.
        max_kl: nats per image; a reconstruction error counts more the farther the KL divergence of
            the latents exceeds it. Without a bound a smaller KL weight always reconstructs better,
            until the latents no longer match the prior that samples are drawn from. 0: no bound.
    """

    metric: str
    mode: Direction = "min"
    max_kl: float = 0.0

    def value(self, metrics: Mapping[str, float]) -> float:
        """The objective's value for a model. Raises: RunError if the metric was not logged."""
        if self.metric not in metrics:
            raise RunError(
                f"--metric {self.metric}: was not logged; there are {', '.join(sorted(metrics))}"
            )
        value = metrics[self.metric]
        if self.bounds_kl and KL in metrics:
            # max(0, ...) would turn NaN into 0.
            excess = metrics[KL] / self.max_kl - 1
            excess = 0.0 if excess < 0 else excess
            value += excess if self.mode == "min" else -excess
        return value

    def using(self, extractor: str) -> "Objective":
        """The same objective in a run that compares images in an extractor's features."""
        return replace(self, metric=in_features(self.metric, extractor))

    @property
    def bounds_kl(self) -> bool:
        return self.metric == MSE and self.max_kl > 0

    @property
    def name(self) -> str:
        """The objective's name in a sentence."""
        return metric_of(self.metric).name

    @property
    def sign(self) -> int:
        """Factor that turns values into ones of which lower is better."""
        return 1 if self.mode == "min" else -1

    def is_better(self, value: float, other: float) -> bool:
        return self.sign * value < self.sign * other or (
            math.isfinite(value) and not math.isfinite(other)
        )


def own_objective(config: RunConfig) -> Objective:
    """The default objective of a run's checkpoints and of a sweep's trials."""
    metric = config.model.best_by
    return Objective(metric, metric_of(metric).direction, MAX_KL)


def choose_objective(config: RunConfig, metric: str, mode: str, max_kl: float) -> Objective:
    """The objective that a user named, or the model family's own.

    Args: metric: its tag; empty: the family's own. mode: min or max; auto: the metric's own.
    Raises: UserError if runs never log the metric.
    """
    metric = metric or config.model.best_by
    known = [*COMPARED, *logged_tags(config.model)]
    if metric not in known:
        raise UserError(
            f"--metric {metric}: {config.preset} never logs it; choose one of {', '.join(known)}"
        )
    direction: Direction = metric_of(metric).direction
    if mode != "auto":
        direction = "min" if mode == "min" else "max"
    return Objective(metric, direction, max_kl)
