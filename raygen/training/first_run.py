"""The run that is trained where nobody says what to train: as much as the machine does in a while.

`dcgan-celeba` on drawn faces, without an option of size or length. Where there is no GPU, the full
model would show little but noise by the time that a newcomer wants to see something.
"""

import time
from dataclasses import replace
from typing import Any

import torch

from raygen.config.run import DRAWN, RunConfig
from raygen.data.batch import Batch
from raygen.models import build_model
from raygen.models.base import Step
from raygen.training.run import CONFIG, RunFolder
from raygen.training.session import use_bf16

PRESET = "dcgan-celeba"
SIZE, LENGTH = frozenset(("width", "drawn_count", "size")), frozenset(("steps", "epochs"))
"""Options that a first run chooses by itself; one that is given means what it says."""
TRAINING_SECONDS = 85
"""Aim for so long a training on processors, in seconds. The start takes about a minute more."""
TIMING_SECONDS = 1.0
LEAST_STEPS, MOST_STEPS = 600, 2_000
"""Faces can be recognised from the first on; after the second there is little more to win."""
GPU_STEPS = 2_500


SMALL: dict[str, Any] = {"width": 0.25, "drawn_count": 2_000, "batch_size": 64, "lr_g": 2e-4}
"""What suits processors. Smaller batches make twice as many steps of the same time; with these,
and a generator that learns twice as fast, 51,200 images came to an SWD of 50 in place of 101."""


def may_be_first(config: RunConfig, named: frozenset[str]) -> bool:
    """Whether size, and perhaps length, are left to raygen. Args: named: options that are given."""
    return config.preset == PRESET and config.data == DRAWN and not named & SIZE


def as_begun(config: RunConfig, named: frozenset[str], run: RunFolder) -> RunConfig | None:
    """The config, with what is not given as the run has it that is to go on; None if none is."""
    if not run.latest_checkpoint() or not run.folder.exists(CONFIG):
        return None
    saved = run.saved_config()
    kept = SIZE | (frozenset() if named & LENGTH else LENGTH)
    kept |= {*SMALL, "validate_images"} - named
    if saved.get("preset") != PRESET or saved.get("data") != DRAWN or not kept <= saved.keys():
        return None
    return config.updated({name: saved[name] for name in kept}, run.folder.join(CONFIG).uri)


def fitting(config: RunConfig, named: frozenset[str], use_gpu: bool) -> RunConfig:
    """The config, in a size and length that suit this machine."""
    if use_gpu:
        return replace(config, drawn_count=6_400, steps=GPU_STEPS)
    small = config.updated({k: v for k, v in SMALL.items() if k not in named}, "first run")
    steps = int(TRAINING_SECONDS / seconds_per_step(small))
    steps = min(max(steps, LEAST_STEPS), MOST_STEPS)
    if "validate_images" not in named:
        # To measure the quality of images takes as long as a dozen steps.
        small = replace(small, validate_images=steps * small.step_images // 4)
    return replace(small, steps=steps)


def seconds_per_step(config: RunConfig) -> float:
    """How long a training step takes on this machine's processors, about."""
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
            # The first step holds costs of a start.
            began_at = time.monotonic()
    return (time.monotonic() - began_at) / (count - 1)


def describe(config: RunConfig) -> str:
    """What is trained, in a line."""
    width = "the full model" if config.width == 1 else "a quarter of the model's width"
    return (
        f"first run: {width}, {config.drawn_count:,} faces, {config.steps:,} steps, to fit this "
        "machine; on your own data, the full model"
    )
