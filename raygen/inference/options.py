"""The options of jobs that use trained models."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from raygen.config.fields import (
    ConfigFile,
    Patience,
    RequiredText,
    require_at_least,
    require_choice,
    require_seed,
)


@dataclass(frozen=True)
class TrainedOptions:
    """Which trained model a job is about."""

    run: Annotated[tyro.conf.Positional[RequiredText], tyro.conf.arg(metavar="RUN")] = ""
    """Folder or URI of a run, such as runs/dcgan-celeba. Required."""
    checkpoint: str = "last"
    """last, best (by the validation images), or the number of a step."""
    config: ConfigFile = ""


SampleFormat = Literal["grid", "png", "npz"]


@dataclass(frozen=True)
class SampleOptions(TrainedOptions, Patience):
    """What to draw with a trained model."""

    count: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 0
    """How many images; 0: 64 samples, or all of --reconstruct's, or 8 rows for --attribute."""
    seed: int = 0
    """Decides the codes that samples are drawn from."""
    out: str = ""
    """File (or folder, for --format png) or URI to write. Default: a name that says what it is, in
    the current folder."""
    format: SampleFormat = "grid"
    """grid: one PNG; png: a PNG for each image; npz: arrays of pixels and codes for NumPy."""
    reconstruct: tuple[str, ...] = ()
    """Image files to encode and decode again, shown beside their reconstructions."""
    fit: bool = False
    """Crop and resize --reconstruct's images to the model's size in place of refusing others."""
    attribute: str = ""
    """Name of an attribute of the dataset, such as Smiling, to be turned down and up."""
    strength: str = "-2:2:5"
    """With --attribute: first : last : how many, in multiples of the attribute's vector."""
    attribute_images: int = 2_000
    """With --attribute: at most so many training images decide its vector."""
    data: str = ""
    """With --attribute: the dataset, if it is not any more where the run found it, or if that is a
    URI, which a run alone does not have your credentials sent to."""
    storage_timeout: str = "10m"
    """How long to try again while an object store does not answer, as 90s, 10m or 2h."""

    def __post_init__(self) -> None:
        require_seed(self)
        require_at_least(self, 0, "count")
        require_at_least(self, 2, "attribute_images")
        require_choice(self, "format", SampleFormat)
        _ = self.patience


LEAST_SAMPLES = 50
"""With fewer images, no metric means anything."""


@dataclass(frozen=True)
class EvaluateOptions(Patience):
    """Which models, or images, to measure, and on what."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Folders or URIs of runs, such as runs/dcgan-celeba."""
    images: str = ""
    """In place of runs: a folder, zip or tar of images, made by any model, to be measured against
    --data's."""
    data: str = ""
    """The dataset of the real images, where it is not the one that the run was trained on."""
    samples: int = 10_000
    """How many images to generate, and how many real ones to compare them with; fewer where there
    are fewer."""
    checkpoint: str = "best"
    """best (by the validation images; the last one where nothing was measured), last, or the number
    of a step."""
    weights: tuple[str, ...] = ()
    """Files of weights of pretrained extractors (Inception, CLIP, DINOv2), recognised by their
    content; raygen downloads none."""
    train_images: int = 20_000
    """At most so many training images are searched for copies."""
    seed: int = 0
    """Decides the codes of the samples, and which real images are taken."""
    out: str = ""
    """File or URI to write. Default: evaluation.json in the run's folder, or in the current one."""
    storage_timeout: str = "10m"
    """How long to try again while an object store does not answer, as 90s, 10m or 2h."""
    verbose: bool = False
    """Show Ray's own messages too."""
    config: ConfigFile = ""

    def __post_init__(self) -> None:
        require_seed(self)
        require_at_least(self, LEAST_SAMPLES, "samples")
        require_at_least(self, 0, "train_images")
        _ = self.patience


ExportFormat = Literal["safetensors", "onnx", "torch-export"]


@dataclass(frozen=True)
class ExportOptions(TrainedOptions):
    """What to make of a trained model for other software."""

    format: ExportFormat = "safetensors"
    """safetensors: weights; onnx, or torch-export (.pt2): networks that run without raygen."""
    out: str = ""
    """Folder or URI to write to. Default: export/ in the run's folder."""

    def __post_init__(self) -> None:
        require_choice(self, "format", ExportFormat)
