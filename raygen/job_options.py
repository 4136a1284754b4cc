"""The options of the jobs, apart from those that decide what a run is (config.py)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from raygen.config import ImageFormat, require_drawn_count
from raygen.options import require, require_at_least, require_choice


@dataclass(frozen=True)
class JobOptions:
    """Where a job writes and how it goes about it; the same for every job."""

    storage: str = "runs"
    """Folder or URI that holds all runs, each in a folder of its name."""
    run_name: str = ""
    """Name of the run. The same name again resumes it. Default: the preset's name."""
    restart: bool = False
    """Delete the run of this name and start over."""
    config: str = ""
    """JSON file of options (such as a run's config.json) that replace the preset's defaults."""
    verbose: bool = False
    """Show Ray's own messages."""


@dataclass(frozen=True)
class PrepareOptions:
    """What a job that prepares a dataset needs to know, wherever the images come from."""

    out: str = ""
    """Folder or URI to write the dataset to. Required."""
    size: str = "32"
    """Size of the images in pixels: 32 for square ones, else height x width, as 218x178."""
    crop: int = -1
    """Side in pixels of the centred square that is cut out first; 0: none; -1: 150 where --size
    is square, as the presets do with CelebA's aligned photographs, else none."""
    num_workers: int = 4
    """Training workers to prepare for: there are at least four files for each."""
    restart: bool = False
    """Replace the dataset that the folder holds."""
    config: str = ""
    """JSON file of options that replace the defaults."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        require(self.num_workers >= 1, "--num-workers", self.num_workers, "be at least 1")

    @property
    def image(self) -> ImageFormat:
        """Raises: UserError."""
        return ImageFormat.parse(self.size, self.crop)


@dataclass(frozen=True)
class CelebAOptions(PrepareOptions):
    """CelebA as it is distributed."""

    images: str = ""
    """img_align_celeba.zip, or the folder unpacked from it. Required."""
    attributes: str = ""
    """list_attr_celeba.csv. Required."""


@dataclass(frozen=True)
class AnimeOptions(PrepareOptions):
    """Anime faces, or any other pictures without attributes."""

    size: str = "64"
    crop: int = 0
    """Side in pixels of the centred square that is cut out first; 0: none, because these images
    are faces already; -1: 150 where --size is square, as for CelebA, else none."""
    images: str = ""
    """A zip or a folder of PNG, JPEG or WebP files. Required."""


@dataclass(frozen=True)
class DrawnOptions(PrepareOptions):
    """Faces that raygen draws itself."""

    drawn_count: int = 20_000
    """How many faces to draw, training and validation images together."""
    seed: int = 0
    """Decides the faces."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_drawn_count(self.drawn_count)
        require(self.seed >= 0, "--seed", self.seed, "be 0 or more")


@dataclass(frozen=True)
class TrainedOptions:
    """Which trained model a job is about."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder or URI of a run, such as runs/dcgan-celeba. Required."""
    checkpoint: str = "last"
    """last, best (by the validation images), or the number of a step."""
    config: str = ""
    """JSON file of options that replace the defaults."""


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
    """With --attribute: the dataset, if it is not any more where the run found it."""

    def __post_init__(self) -> None:
        require_at_least(self, 0, "count", "seed")
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
