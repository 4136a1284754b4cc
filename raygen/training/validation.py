"""Measuring a model on images that it is not trained on: its losses, and the samples' quality."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from raygen.data.prefetch import CPU, as_images
from raygen.data.reader import HeldOut
from raygen.evaluation.metrics import sliced_wasserstein
from raygen.models.base import Model
from raygen.models.layers import QUALITY
from raygen.training.workers import Workers

QUALITY_COUNT = 512
"""At most so many samples are compared with as many validation images."""
DECODED_AT_ONCE = 64

Progress = Callable[[int, int], None]
"""Called with images done and images in total."""


@dataclass(frozen=True)
class Validation:
    """The validation images of a run.

    Attributes: every: how many training images lie between two measurements.
    """

    images: HeldOut
    every: int

    def first(self, count: int, device: torch.device) -> torch.Tensor:
        """The first images, (N, C, H, W) in [-1, 1] on the device."""
        return as_images(self.images.images(0, count), device)

    def measure(
        self, model: Model, workers: Workers, progress: Progress | None = None
    ) -> dict[str, float]:
        """Means over all validation images of the model's losses, and the quality of its samples.

        Called by all workers alike; each takes some of the batches. Quality is `quality/swd`, the
        sliced Wasserstein distance between samples and validation images; lower is better.
        """
        total = self.images.count
        if not total:
            return {}
        sums: dict[str, torch.Tensor] = {}
        done = 0
        for number, pixels in self.images.batches(workers.rank, workers.world_size):
            real = as_images(pixels, model.device)
            for name, value in model.validate(real, number).items():
                sums[name] = sums.get(name, torch.zeros(())) + value.float().cpu() * len(real)
            # The others are about as far.
            done = min(done + len(real) * workers.world_size, total)
            if progress:
                progress(done, total)
        # The first worker always has a batch; others may have none, and then know no names.
        [count] = workers.agree([len(sums)])
        values = list(sums.values()) or [torch.zeros(())] * count
        means = [mean * workers.world_size / total for mean in workers.average(values)]
        metrics = dict(zip(sums, means, strict=False))
        if workers.is_first:
            metrics["quality/swd"] = self._sample_quality(model)
        return metrics

    def _sample_quality(self, model: Model) -> float:
        count = min(self.images.count, QUALITY_COUNT)
        codes = model.fixed_noise(count, QUALITY)
        fake = torch.cat([model.decode(part).cpu() for part in codes.split(DECODED_AT_ONCE)])
        return sliced_wasserstein(self.first(count, CPU), fake)
