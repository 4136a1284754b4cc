"""Measuring a model's losses on held-out images, and the quality of its samples."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raygen.data.batch import Batch
from raygen.data.pixels import CPU
from raygen.data.shards.reader import HeldOut
from raygen.evaluation.metrics import COMPUTED
from raygen.models.base import Model
from raygen.models.layers import QUALITY_NOISE
from raygen.training.workers import Workers

QUALITY_COUNT = 512
"""Upper limit of the samples that are compared with as many validation images."""
SAMPLED_AT_ONCE = 64


@dataclass(frozen=True)
class Validation:
    """The validation images of a run.

    Attributes: every: number of training images between two measurements.
    """

    images: HeldOut
    every: int

    def first(self, count: int, device: torch.device) -> Tensor:
        """The first images, (N, 3, H, W) in [-1, 1] on the device."""
        return Batch.of(self.images.read(0, count), device).images

    def measure(
        self, model: Model, workers: Workers, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """Means over all validation images of the model's losses, and the quality of its samples.

        All workers must call this, and share the work; only the first one gets the whole result.
        Quality consists of the metrics in the registry that are computed from samples.

        Args: progress: called with the numbers of images done and in total.
        """
        if not self.images.count:
            return {}
        return self._losses(model, workers, progress) | self._quality(model, workers)

    def _losses(
        self, model: Model, workers: Workers, progress: Callable[[int, int], None] | None
    ) -> dict[str, float]:
        total = self.images.count
        sums: dict[str, Tensor] = {}
        done = 0
        for number, rows in self.images.batches(workers.rank, workers.world_size):
            batch = Batch.of(rows, model.device)
            for name, value in model.validate(batch, number).items():
                sums[name] = sums.get(name, torch.zeros(())) + value.float().cpu() * len(batch)
            # Report the first worker's progress; the others advance at about the same speed.
            done = min(done + len(batch) * workers.world_size, total)
            if progress:
                progress(done, total)
        # Only the first worker always has a batch, and so knows the metrics' names.
        [count] = workers.broadcast([len(sums)])
        values = list(sums.values()) or [torch.zeros(())] * count
        means = [mean * workers.world_size / total for mean in workers.all_reduce_mean(values)]
        return dict(zip(sums, means, strict=False))

    def _quality(self, model: Model, workers: Workers) -> dict[str, float]:
        count = min(self.images.count, QUALITY_COUNT)
        noise = model.fixed_noise(count, QUALITY_NOISE)
        share = torch.zeros(count, *model.image_shape)
        for number, first in enumerate(range(0, count, SAMPLED_AT_ONCE)):
            if number % workers.world_size == workers.rank:
                some = slice(first, first + SAMPLED_AT_ONCE)
                share[some] = model.sample(noise[some]).float().cpu()
        fake, real = workers.all_reduce_sum(share), self.first(count, CPU)
        own = [c(real, fake, workers.rank, workers.world_size) for c in COMPUTED.values()]
        values = workers.all_reduce_sum(torch.tensor(own, dtype=torch.float64)).tolist()
        return dict(zip(COMPUTED, values, strict=True))
