"""Steps of a training on random images, to measure what they take."""

from collections.abc import Callable

import torch

from raygen.config.run import RunConfig
from raygen.data.batch import Batch
from raygen.models import build_model
from raygen.models.base import Step

ALL_STEPS = 1_000
"""Length of the training whose steps are taken, in both of its halves."""


def random_steps(run: RunConfig, where: torch.device) -> Callable[[int], None]:
    """Build a run's networks, and a function that updates them.

    Returns: it takes the number of a step from 0 on, and returns once the device is done with it.
    """
    model = build_model(run)
    model.to(where)
    shape = (run.step_images, *model.image_shape)
    images = torch.rand(shape, device=where).mul_(2).sub_(1)
    nothing = torch.empty((run.step_images, 0), dtype=torch.int8, device=where)
    rows = torch.arange(run.step_images, device=where)
    batch = Batch(images.to(memory_format=torch.channels_last), nothing, rows)

    def take(number: int) -> None:
        # Schedules of two phases have other steps in each half.
        number = (number // 2 + number % 2 * ALL_STEPS // 2) % ALL_STEPS
        step = Step(number, ALL_STEPS, run.step_images, number * run.step_images)
        model.update(batch, step)
        if where.type == "cuda":
            torch.cuda.synchronize()

    return take
