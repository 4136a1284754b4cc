"""The default run of a user who names no size or length, scaled to what the machine can do.

It trains `dcgan-celeba` on drawn faces. Without a GPU, the full model would still show little but
noise by the time that a newcomer wants to see something.
"""

import time
from dataclasses import replace
from typing import Any

from raygen.config.run import DRAWN, RunConfig
from raygen.training.run import CONFIG, RunFolder

PRESET = "dcgan-celeba"
SIZE, LENGTH = frozenset(("width", "drawn_count", "size")), frozenset(("steps", "epochs"))
"""Options that a first run chooses unless the user gives them: of its size, and of its length."""
TRAINING_SECONDS = 85
"""Target duration of training on CPUs, in seconds. The start takes about a minute more."""
TIMING_SECONDS = 1.0
LEAST_STEPS, MOST_STEPS = 600, 2_000
"""Limits of the chosen length: fewer steps show no faces, more hardly improve them."""
GPU_STEPS = 2_500


SMALL: dict[str, Any] = {"width": 0.25, "drawn_count": 2_000, "batch_size": 64, "lr_g": 2e-4}
"""Options that suit CPUs. Smaller batches allow twice as many steps in the same time; with them and
a doubled generator learning rate, 51,200 images gave an SWD of 50 instead of 101."""


def may_be_first(config: RunConfig, named: frozenset[str]) -> bool:
    """Whether raygen may choose the size, and perhaps the length. Args: named: given options."""
    return config.preset == PRESET and config.data == DRAWN and not named & SIZE


def as_begun(config: RunConfig, named: frozenset[str], run: RunFolder) -> RunConfig | None:
    """The config of the run to resume, replaced by the given options; None if there is no run."""
    if not run.latest_checkpoint() or not run.folder.exists(CONFIG):
        return None
    saved = run.saved_config()
    kept = SIZE | (frozenset() if named & LENGTH else LENGTH)
    kept |= {*SMALL, "validate_images"} - named
    if saved.get("preset") != PRESET or saved.get("data") != DRAWN or not kept <= saved.keys():
        return None
    return config.updated({name: saved[name] for name in kept}, run.folder.join(CONFIG).uri)


def fitting(config: RunConfig, named: frozenset[str], use_gpu: bool) -> RunConfig:
    """The config with a size and length that suit this machine."""
    if use_gpu:
        return replace(config, drawn_count=6_400, steps=GPU_STEPS)
    small = config.updated({k: v for k, v in SMALL.items() if k not in named}, "first run")
    steps = int(TRAINING_SECONDS / seconds_per_step(small))
    steps = min(max(steps, LEAST_STEPS), MOST_STEPS)
    if "validate_images" not in named:
        # Measuring image quality takes as long as a dozen steps.
        small = replace(small, validate_images=steps * small.step_images // 4)
    return replace(small, steps=steps)


def seconds_per_step(config: RunConfig) -> float:
    """Estimate the duration of a training step on this machine's CPUs."""
    # Imported here so that Ray starts before torch is imported.
    import torch

    from raygen.data.batch import Batch
    from raygen.models import build_model
    from raygen.models.base import Step
    from raygen.training.hardware import use_bf16

    model = build_model(config)
    model.to(torch.device("cpu"))
    model.bf16 = use_bf16(config.precision, torch.device("cpu"))
    images = torch.zeros(config.step_images, *model.image_shape)
    rows = torch.arange(config.step_images)
    batch = Batch(
        images.to(memory_format=torch.channels_last), torch.zeros(len(rows), 0).char(), rows
    )
    count = 0
    began_at = time.monotonic()
    while time.monotonic() - began_at < TIMING_SECONDS or count < 2:
        model.update(batch, Step(count, 1_000, config.step_images, count * config.step_images))
        count += 1
        if count == 1:
            # The first step includes start-up costs.
            began_at = time.monotonic()
    return (time.monotonic() - began_at) / (count - 1)


def describe(config: RunConfig) -> str:
    """Describe the chosen run in one line."""
    width = "the full model" if config.width == 1 else "a quarter of the model's width"
    return (
        f"first run: {width}, {config.drawn_count:,} faces, {config.steps:,} steps, to fit this "
        "machine; on your own data, the full model"
    )
