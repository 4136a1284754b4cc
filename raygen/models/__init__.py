"""The model families, each in one file: networks, losses and update step."""

import importlib
from typing import Any

from raygen.config.run import RunConfig
from raygen.models.base import Model


def build_model(config: RunConfig) -> Model:
    """The model of a run, with freshly initialised weights that depend on the seed alone."""
    family: Any = family_of(config.family)
    model: Model = family(config)
    return model


def family_of(name: str) -> type[Model]:
    """The class of a family. Args: name: `<module in raygen.models>:<class>`, as in presets."""
    module, _, kind = name.partition(":")
    family: type[Model] = getattr(importlib.import_module(f"raygen.models.{module}"), kind)
    return family
