"""Measuring a model's losses on held-out images, and the quality of its samples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raygen.data.batch import Batch
from raygen.data.pixels import CPU
from raygen.data.shards.reader import HeldOut
from raygen.evaluation.features import Extractor, random_vgg
from raygen.evaluation.grids import to_uint8
from raygen.evaluation.metrics import COMPARED, COMPUTED, in_features
from raygen.models.base import Model
from raygen.models.layers import QUALITY_NOISE
from raygen.training.workers import Workers

QUALITY_COUNT = 512
"""Upper limit of the samples that are compared with as many validation images pixel by pixel."""
SAMPLED_AT_ONCE = 64
Progress = Callable[[int], None]


class Quality:
    """Compares samples with validation images."""

    def __init__(
        self, images: HeldOut, extractor: Extractor | None = None, pixels_at_end: bool = False
    ) -> None:
        """Args:
        images: the validation images, as many as samples are drawn.
        extractor: whose features of both are compared; None: `random-vgg`.
        pixels_at_end: whether metrics of the images themselves, which take longer, are computed
            only at the end of the run.
        """
        self.images = images
        self.extractor = extractor or random_vgg()
        self._pixels_at_end = pixels_at_end
        self._real_features: np.ndarray | None = None

    def measure(
        self, model: Model, workers: Workers, progress: Progress, is_last: bool = True
    ) -> dict[str, float]:
        """Compute all metrics of the registry that are computed from samples, on all workers.

        Args: progress: called with the number of samples that are done.
        """
        count = self.images.count
        noise = model.fixed_noise(count, QUALITY_NOISE)
        drawn = torch.zeros(min(count, QUALITY_COUNT), *model.image_shape)
        needs_pixels = is_last or not self._pixels_at_end

        def samples() -> Iterator[tuple[slice, np.ndarray]]:
            for some in self._shares(workers):
                images = model.sample(noise[some]).float().cpu()
                if some.start < len(drawn) and needs_pixels:
                    drawn[some] = images[: len(drawn) - some.start]
                yield some, to_uint8(images)
                progress(min(some.stop, count))

        fake = self._features(samples(), workers)
        found: dict[str, float] = {}
        if count > 1:
            found = {
                in_features(tag, self.extractor.name): compare(self._real(workers), fake)
                for tag, compare in COMPARED.items()
            }
        return found | self._of_pixels(drawn, workers) if needs_pixels else found

    def _of_pixels(self, drawn: Tensor, workers: Workers) -> dict[str, float]:
        """Metrics of samples, of which each worker has drawn a share, and its share of the work."""
        fake, real = workers.all_reduce_sum(drawn), Batch.of(self.images.read(0, len(drawn)), CPU)
        own = [c(real.images, fake, workers.rank, workers.world_size) for c in COMPUTED.values()]
        values = workers.all_reduce_sum(torch.tensor(own, dtype=torch.float64)).tolist()
        return dict(zip(COMPUTED, values, strict=True))

    def _shares(self, workers: Workers) -> Iterator[slice]:
        """The worker's share of the numbers of all samples and images, a few at a time."""
        for first in range(0, self.images.count, SAMPLED_AT_ONCE):
            if first // SAMPLED_AT_ONCE % workers.world_size == workers.rank:
                yield slice(first, first + SAMPLED_AT_ONCE)

    def _real(self, workers: Workers) -> np.ndarray:
        """Features of the validation images, (N, D), which are computed once."""
        if self._real_features is None:
            images = (
                (some, self.images.read(some.start, some.stop).images)
                for some in self._shares(workers)
            )
            self._real_features = self._features(images, workers)
        return self._real_features

    def _features(self, images: Iterator[tuple[slice, np.ndarray]], workers: Workers) -> np.ndarray:
        """Features of all workers' images, (N, D). Args: images: the worker's share of them."""
        extractor = self.extractor.to(workers.device)
        found = torch.zeros(self.images.count, extractor.dimensions)
        for some, pixels in images:
            found[some] = torch.from_numpy(extractor.features([pixels], workers.device))
        return workers.all_reduce_sum(found).numpy()


@dataclass(frozen=True)
class Validation:
    """The validation images of a run.

    Attributes:
        images: those that losses are measured on.
        every: number of training images between two measurements.
        quality: how samples are compared with validation images.
    """

    images: HeldOut
    every: int
    quality: Quality

    def first(self, count: int, device: torch.device) -> Tensor:
        """The first images, (N, 3, H, W) in [-1, 1] on the device."""
        return Batch.of(self.images.read(0, count), device).images

    def count_of(self, metric: str) -> int:
        """How many validation images a metric is measured on. Args: metric: its tag."""
        return (self.quality.images if metric.startswith("quality/") else self.images).count

    def measure(
        self,
        model: Model,
        workers: Workers,
        progress: Callable[[int, int], None] | None = None,
        is_last: bool = True,
    ) -> dict[str, float]:
        """Means over all validation images of the model's losses, and the quality of its samples.

        All workers must call this, and share the work; only the first one gets the whole result.
        Quality consists of the metrics in the registry that are computed from samples.

        Args:
            progress: called with the numbers of images and samples done and in total.
            is_last: whether the run ends here.
        """
        if not self.images.count:
            return {}
        count = self.images.count
        total = count + self.quality.images.count

        def tell(done: int) -> None:
            if progress:
                progress(done, total)

        losses = self._losses(model, workers, tell)
        return losses | self.quality.measure(
            model, workers, lambda done: tell(count + done), is_last
        )

    def _losses(self, model: Model, workers: Workers, progress: Progress) -> dict[str, float]:
        total = self.images.count
        sums: dict[str, Tensor] = {}
        done = 0
        for number, rows in self.images.batches(workers.rank, workers.world_size):
            batch = Batch.of(rows, model.device)
            for name, value in model.validate(batch, number).items():
                sums[name] = sums.get(name, torch.zeros(())) + value.float().cpu() * len(batch)
            # Report the first worker's progress; the others advance at about the same speed.
            done = min(done + len(batch) * workers.world_size, total)
            progress(done)
        # Only the first worker always has a batch, and so knows the metrics' names.
        [count] = workers.broadcast([len(sums)])
        values = list(sums.values()) or [torch.zeros(())] * count
        means = [mean * workers.world_size / total for mean in workers.all_reduce_mean(values)]
        return dict(zip(sums, means, strict=False))
