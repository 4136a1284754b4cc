"""The model families, each in one file: networks, losses, update step and pictures."""

from raygen.config import DCGANConfig, ModelConfig, RunConfig
from raygen.models.base import Model
from raygen.models.dcgan import DCGAN

FAMILIES: dict[type[ModelConfig], type[Model]] = {DCGANConfig: DCGAN}
"""Which family a class of options belongs to."""


def build_model(config: RunConfig) -> Model:
    """The model of a run, with freshly initialised weights that depend on the seed alone."""
    return FAMILIES[type(config.model)](config)
