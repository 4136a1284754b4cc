"""The model families, each in one file: networks, losses, update step and pictures."""

import importlib
from collections.abc import Callable

from raygen.config import PRESETS, RunConfig
from raygen.models.base import Model


def build_model(config: RunConfig) -> Model:
    """The model of a run, with freshly initialised weights that depend on the seed alone."""
    module, _, name = PRESETS[config.preset].family.partition(":")
    family: Callable[[RunConfig], Model] = getattr(
        importlib.import_module(f"raygen.models.{module}"), name
    )
    return family(config)
