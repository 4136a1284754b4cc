"""The options of jobs that use trained models."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from raygen.config.fields import (
    ConfigFile,
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
class SampleOptions(TrainedOptions):
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

    def __post_init__(self) -> None:
        require_seed(self)
        require_at_least(self, 0, "count")
        require_at_least(self, 2, "attribute_images")
        require_choice(self, "format", SampleFormat)


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
