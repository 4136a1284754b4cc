"""What is measured, and the real images that it is compared with."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from raygen.config.run import ImageFormat, RunConfig
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

    def patient(self, seconds: float) -> "RealImages":
        """The same images, retrying for so many seconds during outages of their storage."""
        return replace(
            self, folder=self.folder.patient(seconds), manifest=self.manifest.patient(seconds)
        )

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
        becomes: how the model's samples are brought to the size of the real images; None: they
            have it.
    """

    name: str
    real: RealImages
    run: Folder | None = None
    config: RunConfig | None = None
    step: int = 0
    images: str = ""
    trained_on: str = ""
    becomes: ImageFormat | None = None

    def patient(self, seconds: float) -> "Subject":
        """The same subject, retrying for so many seconds during outages of its storage."""
        run = self.run and self.run.patient(seconds)
        return replace(self, run=run, real=self.real.patient(seconds))

    @cached_property
    def can_encode(self) -> bool:
        if not self.config or self.becomes:
            # What it encodes are images of its own size.
            return False
        with torch.device("meta"):
            return build_model(self.config).can_encode

    @property
    def pictures(self) -> Folder:
        """Folder in the run's for pictures and TensorBoard's events."""
        assert self.run
        return self.run.join(self.evaluation_name)

    @property
    def evaluation_name(self) -> str:
        """Name of the run's files for this measurement, without a suffix."""
        return f"evaluation-{self.becomes.size}" if self.becomes else "evaluation"
