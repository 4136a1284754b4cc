"""Rates and means of a training, between one report and the next."""

import time
from collections import Counter

import torch

from raygen.models.base import Metrics
from raygen.training.workers import Workers


class Stopwatch:
    """Counts images, and the time spent waiting for them, since its creation."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waited = 0.0
        self.images = 0

    def add(self, images: int, waited: float) -> None:
        self.images += images
        self._waited += waited

    @property
    def images_per_second(self) -> float:
        return self.images / max(time.monotonic() - self._began, 1e-9)

    @property
    def wait_fraction(self) -> float:
        """Share of the time since its creation that was spent waiting, in [0, 1]."""
        return self._waited / max(time.monotonic() - self._began, 1e-9)


class Means:
    """Means of metrics over steps, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: Counter[str] = Counter()

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1

    def take(self, workers: Workers) -> dict[str, float]:
        """Means over all workers and over the steps since the last call that had the metric."""
        means = workers.all_reduce_mean(
            [value / self._counts[n] for n, value in self._sums.items()]
        )
        names, self._sums, self._counts = list(self._sums), {}, Counter()
        return dict(zip(names, means, strict=True))
