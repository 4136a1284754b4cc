"""How many operations a model's training and sampling take, counted without computing anything.

A multiplication and an addition are two floating-point operations (FLOPs); only convolutions and
matrix products are counted.
"""

import contextlib
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from raygen.config.run import RunConfig
from raygen.data.batch import Batch
from raygen.models import build_model
from raygen.models.base import Model, Step

SAMPLES = 8


def on_meta(config: RunConfig) -> Model:
    """A model whose tensors have shapes but no content."""
    with torch.device("meta"):
        return build_model(config)


def training_flops(config: RunConfig) -> float:
    """FLOPs of a training step for each image of the batch, of all networks, there and back."""
    model = on_meta(config)
    shape = (config.step_images, *model.image_shape)
    images = torch.empty(shape, device="meta").to(memory_format=torch.channels_last)
    nothing = torch.empty(0, device="meta")
    step = Step(number=0, total=2, images=config.step_images, images_seen=0)
    # The meta device has no autocast, which does not change the number of FLOPs.
    with (
        mock.patch.object(model, "autocast", contextlib.nullcontext),
        # Nor has it the optimizers' kernels, which are not counted either.
        mock.patch.object(model, "take_step"),
        FlopCounterMode(display=False) as counter,
    ):
        model.update(Batch(images, nothing, nothing), step)
    return float(counter.get_total_flops() / config.batch_size)


def sampling_flops(config: RunConfig) -> float:
    """FLOPs of drawing a sample."""
    model = on_meta(config)
    noise = model.fixed_noise(SAMPLES, 0).to("meta")
    with (
        mock.patch.object(model, "autocast", contextlib.nullcontext),
        FlopCounterMode(display=False) as counter,
    ):
        model.sample(noise)
    return float(counter.get_total_flops() / SAMPLES)
