"""What a sweep minimises or maximises: any metric that training logs, KL bounded where that is due.

Not a GAN's loss, which says how well one network plays against the other and nothing of the images:
by default the sliced Wasserstein distance between samples and validation images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from raygen.config import PRESETS, RunConfig
from raygen.errors import RunError, UserError
from raygen.job_options import Direction
from raygen.model_options import AdversarialConfig
from raygen.models import build_model
from raygen.models.base import Step

KL = "validation/kl"
MSE = "validation/mse"
QUALITY = "quality/swd"
_NAMES = {QUALITY: "SWD", MSE: "validation MSE"}
_PROBE_IMAGES = 8


@dataclass(frozen=True)
class Objective:
    """What makes one trial better than another.

    Attributes:
        metric: its name, as it is logged.
        mode: whether a low or a high value is good.
        max_kl: nats per image; a reconstruction error counts more the farther the KL divergence of
            the codes is above it, because without a bound a smaller weight of the KL always
            reconstructs better, until the codes are no longer those that images are sampled from.
            0: no bound.
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
        return _NAMES.get(self.metric, self.metric)

    @property
    def sign(self) -> int:
        """What to multiply values with, so that lower is better."""
        return 1 if self.mode == "min" else -1

    def is_better(self, value: float, other: float) -> bool:
        return self.sign * value < self.sign * other or (
            math.isfinite(value) and not math.isfinite(other)
        )


def logged_metrics(config: RunConfig) -> set[str]:
    """The names of what a run of these options logs, found by a step of a tiny model."""
    model = config.model
    if isinstance(model, AdversarialConfig):
        # Every network steps at once.
        model = replace(model, schedule="1:1")
    tiny = replace(config, width=0.01, batch_size=_PROBE_IMAGES, model=model)
    with torch.random.fork_rng(devices=[]):
        networks = build_model(tiny)
        image = PRESETS[config.preset].image
        real = torch.zeros(tiny.step_images, 3, image.height, image.width)
        names = set(networks.update(real, Step(0, 1, tiny.step_images, 0)))
        names |= set(networks.validate(real, 0))
    return names | {QUALITY, "throughput/images_per_second", "throughput/data_wait_fraction"}


def choose_objective(config: RunConfig, metric: str, mode: Direction, max_kl: float) -> Objective:
    """The objective that a user named, or the model family's own.

    Raises: UserError if runs never log the metric.
    """
    metric = metric or config.model.tuned_metric
    known = logged_metrics(config)
    if metric not in known:
        raise UserError(
            f"--metric {metric}: {config.preset} never logs it; choose one of "
            f"{', '.join(sorted(known))}"
        )
    return Objective(metric, mode, max_kl)
