"""The options of the jobs, apart from those that decide what a run is (config.py)."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import tyro

from raygen.config import MOST_WORKERS, ImageFormat, require_drawn_count
from raygen.evaluation.metrics import metric_help
from raygen.evaluation.objective import MAX_KL
from raygen.options import require, require_at_least, require_choice, require_seed, seconds_of


@dataclass(frozen=True)
class JobOptions:
    """Where a job writes and how it goes about it; the same for every job."""

    storage: str = "runs"
    """Folder or URI that holds all runs, each in a folder of its name."""
    run_name: str = ""
    """Name of the run. The same name again resumes it. Default: the preset's name."""
    restart: bool = False
    """Delete the run of this name and start over."""
    storage_timeout: str = "10m"
    """How long to try again while an object store does not answer, as 90s, 10m or 2h."""
    config: str = ""
    """JSON file of options (such as a run's config.json) that replace the preset's defaults."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        seconds_of(self.storage_timeout, "--storage-timeout")

    @property
    def patience(self) -> float:
        """The storage's timeout in seconds."""
        return seconds_of(self.storage_timeout, "--storage-timeout")


Sizes = tyro.conf.UseAppendAction[tuple[str, ...]]
Names = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class PrepareOptions:
    """What a job that prepares a dataset needs to know, wherever the images come from."""

    out: str = ""
    """Folder or URI to write the dataset to. Required."""
    size: Annotated[Sizes, tyro.conf.arg(help_behavior_hint="(default: 32)")] = ("32",)
    """Size of the images in pixels: 32 for square ones, else height x width, as 218x178. Repeat
    it for several datasets, each in a folder of its size in --out; images are decoded once."""
    crop: int = -1
    """Side in pixels of the centred square that is cut out first; 0: none; -1: 150 where --size
    is square, as the presets do with CelebA's aligned photographs, else none."""
    max_rejected: str = "1%"
    """How many images may be left out because they cannot be read, as a number or a share of all;
    more fail the job. All are listed in the manifest."""
    num_workers: int = 4
    """Training workers to prepare for: there are at least four files for each."""
    restart: bool = False
    """Replace the dataset that the folder holds."""
    storage_timeout: str = "10m"
    """How long to try again while an object store does not answer, as 90s, 10m or 2h."""
    config: str = ""
    """JSON file of options that replace the defaults."""
    verbose: bool = False
    """Show Ray's own messages."""

    @property
    def patience(self) -> float:
        """The storage's timeout in seconds."""
        return seconds_of(self.storage_timeout, "--storage-timeout")

    def __post_init__(self) -> None:
        seconds_of(self.storage_timeout, "--storage-timeout")
        require_at_least(self, 1, "num_workers", most=MOST_WORKERS)
        self.allowed(100)

    def allowed(self, total: int) -> int:
        """How many of `total` images may be left out. Raises: UserError."""
        share = re.fullmatch(r"(\d{1,3}(?:\.\d{1,15})?)%", self.max_rejected, re.ASCII)
        number = re.fullmatch(r"\d{1,15}", self.max_rejected, re.ASCII) or (
            share and float(share[1]) <= 100
        )
        require(bool(number), "--max-rejected", self.max_rejected, "be a number or 0% to 100%")
        return int(Fraction(share[1]) * total / 100) if share else int(self.max_rejected)

    @property
    def images_wanted(self) -> list[ImageFormat]:
        """One for each size. Raises: UserError."""
        wanted = [ImageFormat.parse(size, self.crop) for size in self.size]
        require(len(set(wanted)) == len(wanted) > 0, "--size", " ".join(self.size), "differ")
        return wanted


@dataclass(frozen=True)
class CelebAOptions(PrepareOptions):
    """CelebA as it is distributed."""

    images: str = ""
    """img_align_celeba.zip, or the folder unpacked from it, or their URI. Required."""
    attributes: str = ""
    """list_attr_celeba.csv or .txt. Required."""
    partition: str = ""
    """list_eval_partition.csv or .txt: which images train, validate and test. Default: the first
    80 % in the order of their names train, the others validate."""
    download: str = ""
    """Folder to download CelebA to, with torchvision, in place of all three: 1.4 GB."""


@dataclass(frozen=True)
class FilesOptions(PrepareOptions):
    """Images that are not CelebA's."""

    size: Annotated[Sizes, tyro.conf.arg(help_behavior_hint="(default: 64)")] = ("64",)
    crop: int = 0
    """Side in pixels of the centred square that is cut out first; 0: none; -1: 150 where --size
    is square, as for CelebA, else none."""
    images: str = ""
    """A folder, zip or tar of JPEG, PNG, WebP, BMP, GIF or TIFF files, or its URI. Required."""
    validation_share: float = 0.05
    """Share of the images that is held out to validate on, chosen by their names' hashes, where
    nothing else names a split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.validation_share
        require(0 < share < 1, "--validation-share", share, "be between 0 and 1")


@dataclass(frozen=True)
class ImageFilesOptions(FilesOptions):
    """Files of images, whose folders may say something of them."""

    ignore_split_folders: bool = False
    """Take folders such as train and val, which otherwise say which split their images are of,
    for folders like others."""


@dataclass(frozen=True)
class AnimeOptions(ImageFilesOptions):
    """Anime faces."""


@dataclass(frozen=True)
class FolderOptions(ImageFilesOptions):
    """Any other images."""

    labels: bool = False
    """Make an attribute of each subfolder, true for the images in it."""
    keep_attributes: Names = ()
    """With --labels: the subfolder to make an attribute of; repeat it for several. Default: all."""


@dataclass(frozen=True)
class HuggingFaceOptions(FilesOptions):
    """A dataset of Hugging Face's that is on a disk already."""

    images: str = ""
    """The folder that save_to_disk wrote, or its URI. Required. Where it has splits, they are
    kept, and --validation-share is not used."""
    keep_attributes: Names = ()
    """Column of truth values, or class, to keep as an attribute; repeat it for several. Default:
    all, except for columns of classes with which there would be more than 256."""


@dataclass(frozen=True)
class DrawnOptions(PrepareOptions):
    """Faces that raygen draws itself."""

    count: Annotated[int, tyro.conf.arg(aliases=["-n", "--drawn-count"])] = 20_000
    """How many faces to draw, training and validation images together."""
    seed: int = 0
    """Decides the faces."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_drawn_count(self.count, "--count")
        require_seed(self)


@dataclass(frozen=True)
class ShowOptions:
    """A prepared dataset: its manifest as a table, and a picture of some of its images."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")] = ""
    """Folder or URI of the dataset. Required."""
    verify: bool = False
    """Read every file and compare its checksum with the manifest's."""
    count: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 24
    """Random images in the picture; 0: no picture."""
    seed: int = 0
    """Decides which."""
    out: str = ""
    """File or URI of the picture. Default: the dataset's name with -images.png, in the current
    folder."""
    config: str = ""
    """JSON file of options that replace the defaults."""

    def __post_init__(self) -> None:
        require_seed(self)
        require_at_least(self, 0, "count")


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


@dataclass(frozen=True)
class WatchOptions:
    """What TensorBoard shows, and where it listens."""

    storage: str = "runs"
    """Folder or URI that holds runs and sweeps. May also be a single one of them."""
    host: str = "127.0.0.1"
    """Address to listen on. Everyone who reaches it sees everything: leave it at this machine's
    own, and reach it through a tunnel (ssh -L)."""
    port: int = 6006
    """Port to listen on; 0: any that is free."""
    reload_seconds: int = 10
    """How often to look for what is new."""
    config: str = ""
    """JSON file of options that replace the defaults."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "reload_seconds", most=24 * 60 * 60)
        require(0 <= self.port < 2**16, "--port", self.port, "be from 0 to 65535")


@dataclass(frozen=True)
class BenchOptions:
    """Where a measurement has what it needs and leaves its figures."""

    storage: str = "runs/bench"
    """Local folder for what the measurements need."""
    out: str = ""
    """JSON file for the figures. Default: named like the first word, in --storage."""
    config: str = ""
    """JSON file of options that replace the defaults."""


@dataclass(frozen=True)
class IngestBenchOptions(BenchOptions):
    """Preparing and streaming images, 3 GB of them."""

    images: int = 20_000
    """Images of each kind to draw, a few hundred different ones under many names."""
    jpeg_images: str = ""
    """A folder of JPEG files, 178 wide and 218 high, in place of drawn ones."""
    png_images: str = ""
    """A folder of PNG files, 64 by 64, in place of drawn ones."""
    repeats: int = 3
    """How often to measure each ratio; the median counts, and of pauses the longest."""
    steps: int = 60
    """Training steps to measure."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "repeats", "steps")
        require_at_least(self, 40, "images")


@dataclass(frozen=True)
class SweepBenchOptions(BenchOptions):
    """Searching hyperparameters, of dcgan-celeba on drawn faces."""

    trials: int = 16
    """Trials of the sweeps that are compared."""
    steps: int = 270
    """Training steps of a trial."""
    batch_size: int = 64
    """Images of each."""
    width: float = 0.25
    """Multiplies the number of channels."""
    drawn_count: int = 3_200
    """Faces to draw."""
    startups: int = 4
    """Trials whose start is measured, of each kind."""

    def __post_init__(self) -> None:
        require_at_least(self, 2, "trials")
        require_at_least(self, 1, "steps", "batch_size", "startups")
        require_drawn_count(self.drawn_count)


TRIAL_DEFAULTS = {"keep": 1, "validation_count": 1_000, "projector_images": 0}
"""Options of which trials have defaults of their own: a trial keeps its newest checkpoint and the
best one, and is measured nine times in what may be a short life."""

Search = Literal["random", "optuna", "grid"]
Scheduler = Literal["asha", "pbt", "none"]
Mode = Literal["auto", "min", "max"]


@dataclass(frozen=True)
class SweepOptions:
    """How to search for better values of a run's options."""

    trials: str = "auto"
    """How many runs to try, the first with the preset's defaults; auto: 16, or with --search grid
    all combinations."""
    search: Search = "random"
    """How values are chosen: at random, by Optuna from what was good so far, or all combinations
    (of ranges, the ends and the middle)."""
    scheduler: Scheduler = "asha"
    """asha: stop trials early that are worse than most at the same point (successive halving); pbt:
    let bad ones go on from good ones' networks with changed values (population-based training);
    none: all run to their end."""
    workers_per_trial: int = 1
    """Training processes for each trial."""
    max_concurrent: str = "auto"
    """How many trials run at once; auto: as many as there are GPUs, or CPUs, for their workers."""
    time_budget: str = ""
    """End the sweep after so long, as 90s, 30m or 2h; --resume goes on with it. Default: never."""
    metric: Annotated[str, tyro.conf.arg(help=metric_help())] = ""
    mode: Mode = "auto"
    """Whether a low or a high value of the metric is good; auto: as it is usual for it."""
    max_kl: float = MAX_KL
    """With --metric validation/mse: nats per image; a higher KL divergence counts as an error. 0:
    no bound."""
    space: str = ""
    """JSON file of the options to search, in place of the preset's; none: only those of --set."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Search an option, as lr_g=loguniform(1e-5,1e-3), uniform(0,0.3), randint(16,64),
    schedule=choice(1:1,two-phase); or keep it out of the search, as beta1=fixed. May be
    repeated."""
    resume: bool = False
    """Go on with the sweep of this name, with the options that it has."""

    def __post_init__(self) -> None:
        require_at_least(self, 0, "max_kl")
        require_at_least(self, 1, "workers_per_trial")
        require_choice(self, "search", Search)
        require_choice(self, "scheduler", Scheduler)
        require_choice(self, "mode", Mode)
        number = re.fullmatch(r"[1-9]\d{0,3}", self.trials, re.ASCII)
        wish = "be auto or from 1 to 9,999"
        require(self.trials == "auto" or bool(number), "--trials", self.trials, wish)
        self.budget_seconds()

    @property
    def count(self) -> int | None:
        """How many trials, if the user said so."""
        return None if self.trials == "auto" else int(self.trials)

    def budget_seconds(self) -> float | None:
        """The time budget in seconds, if there is one. Raises: UserError."""
        if not self.time_budget:
            return None
        return seconds_of(self.time_budget, "--time-budget")
