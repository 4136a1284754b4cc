"""What is measured, and the real images that it is compared with."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from raygen.config.run import RunConfig
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.models import build_model


@dataclass(frozen=True)
class RealImages:
    """The dataset that images are compared with.

    Attributes: split: the part of it that they are compared with.
    """

    folder: Folder
    manifest: Manifest
    split: str

    def rows(self, split: str, most: int, seed: int) -> np.ndarray:
        """At most so many rows of a split, drawn without replacement, in order."""
        order = np.random.default_rng((seed, len(split))).permutation(self.manifest.rows(split))
        return np.sort(order[:most])


@dataclass(frozen=True)
class Subject:
    """What is measured: a run's model or images.

    Attributes:
        name: for messages; run: the run's folder, or None; step: the checkpoint's.
        real: what it is compared with.
        trained_on: fingerprint of the dataset that the run was trained on; empty: not known.
    """

    name: str
    real: RealImages
    run: Folder | None = None
    config: RunConfig | None = None
    step: int = 0
    images: str = ""
    trained_on: str = ""

    @cached_property
    def can_encode(self) -> bool:
        if not self.config:
            return False
        with torch.device("meta"):
            return build_model(self.config).can_encode
