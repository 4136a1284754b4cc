"""What a run is: small frozen dataclasses, the presets, and their JSON form.

`RunConfig` and the options of a model family together decide every number of a run. They are
also the command line of `jobs/train.py` and, flattened, a run's `config.json`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import tyro

from raygen.errors import UserError

DRAWN = "drawn"
"""The value of `--data` that stands for the built-in dataset of drawn faces."""
SQUARE_CROP = 150
"""Pixels of an aligned CelebA image (178 x 218) that hold the face and little else."""
DRAWN_EPOCHS = 4.0
"""A first run, on a laptop's processor, is to show something and to end within three minutes."""

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")
Precision = Literal["auto", "fp32", "bf16"]


def option(name: str) -> str:
    """The command-line spelling of an option: batch_size -> --batch-size."""
    return "--" + name.replace("_", "-")


def size_name(height: int, width: int) -> str:
    """How users write an image size: 32x32, 218x178 (height x width)."""
    return f"{height}x{width}"


def _require(holds: bool, name: str, value: object, requirement: str) -> None:
    if not holds:
        raise UserError(f"{name} {value}: must {requirement}")


def _require_drawn_count(count: int) -> None:
    # So few that each split still has images.
    _require(count >= 20, "--drawn-count", count, "be at least 20")


@dataclass(frozen=True)
class ModelConfig:
    """Options of a model family; each family has its own subclass."""


@dataclass(frozen=True)
class DCGANConfig(ModelConfig):
    """Options of the DCGAN family (Radford et al. 2015, arXiv 1511.06434)."""

    latent_size: int = 100
    """Length of a latent code, drawn from N(0, I)."""
    lr_g: float = 1e-4
    """Learning rate of the generator's Adam."""
    lr_d: float = 1e-3
    """Learning rate of the discriminator's Adam."""
    beta1: float = 0.5
    """Adam's first-moment decay, for both networks, in [0, 1)."""
    label_smoothing: float = 0.1
    """One-sided: the discriminator's target for real images is 1 minus this, in [0, 1)."""
    ema_images: int = 10_000
    """Half-life, in images, of the moving average of the generator's weights that draws the
    pictures; 0 draws with the weights as they are."""

    def __post_init__(self) -> None:
        _require(self.latent_size > 0, "--latent-size", self.latent_size, "be at least 1")
        _require(self.lr_g > 0, "--lr-g", self.lr_g, "be greater than 0")
        _require(self.lr_d > 0, "--lr-d", self.lr_d, "be greater than 0")
        _require(0 <= self.beta1 < 1, "--beta1", self.beta1, "be in [0, 1)")
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "--label-smoothing", smoothing, "be in [0, 1)")
        _require(self.ema_images >= 0, "--ema-images", self.ema_images, "be 0 or more")


@dataclass(frozen=True)
class ImageFormat:
    """The images a preset is made for: a centred square crop (0: none), then a resize.

    Attributes: height, width, crop: in pixels.
    """

    height: int
    width: int
    crop: int = 0

    @staticmethod
    def parse(size: str, crop: int = -1) -> "ImageFormat":
        """From what a user wrote: 32 or 218x178 (height x width).

        Args: crop: in pixels; -1: as the presets do: 150 for square images, else none.
        Raises: UserError.
        """
        height, _, width = size.partition("x")
        width = width or height
        if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
            raise UserError(f"--size {size}: must be pixels as in 32, or height x width as 218x178")
        _require(crop >= -1, "--crop", crop, "be 0 or more")
        if crop == -1:
            crop = SQUARE_CROP if height == width else 0
        return ImageFormat(int(height), int(width), crop)

    @property
    def size(self) -> str:
        return size_name(self.height, self.width)


@dataclass(frozen=True)
class RunConfig:
    """What a training run is."""

    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET")] = "dcgan-celeba"
    """The model and its defaults: dcgan-celeba."""
    data: str = DRAWN
    """Dataset: a folder or URI that jobs/prepare.py wrote, or `drawn` for the built-in faces."""
    drawn_count: int = 3_200
    """How many faces `--data drawn` draws, training and validation images together."""
    steps: int = 0
    """Length of the run in training steps (batches); 0: as long as --epochs says."""
    epochs: float = 0.0
    """Length of the run in passes over the training images, where --steps is 0; 0: the preset's
    own (dcgan-celeba: 3), or 4 over the built-in faces, which are fewer."""
    batch_size: int = 128
    """Images per training step, over all workers together."""
    num_workers: int = 0
    """Training processes; 0: one per GPU of the cluster, or two where there is no GPU."""
    seed: int = 0
    """Decides the initial weights, the order of the images and all noise."""
    width: float = 1.0
    """Multiplies the number of channels of every layer, for smaller or larger models."""
    precision: Precision = "auto"
    """fp32, bf16 (autocast), or auto: bf16 where the hardware computes in it."""
    sync_bn: bool = False
    """Batch statistics over all workers' images (SyncBatchNorm); GPUs only."""
    log_images: int = 1_000
    """Log scalars every so many images."""
    sample_images: int = 4_000
    """Draw sample pictures every so many images (and at the start and the end)."""
    checkpoint_images: int = 20_000
    """Save a checkpoint every so many images (and at the end)."""
    keep: int = 3
    """How many checkpoints to keep, the newest ones."""
    max_failures: int = 3
    """How often to go on from the last checkpoint after a worker died."""
    model: ModelConfig = field(default_factory=DCGANConfig)
    """Options of this preset's model family."""

    def __post_init__(self) -> None:
        for name in ("steps", "num_workers", "seed", "max_failures"):
            _require(getattr(self, name) >= 0, option(name), getattr(self, name), "be 0 or more")
        for name in ("batch_size", "log_images", "sample_images", "checkpoint_images", "keep"):
            _require(getattr(self, name) >= 1, option(name), getattr(self, name), "be at least 1")
        known = get_args(Precision)
        _require(
            self.precision in known, "--precision", self.precision, f"be one of {', '.join(known)}"
        )
        _require_drawn_count(self.drawn_count)
        epochs = self.epochs
        _require(epochs >= 0 and math.isfinite(epochs), "--epochs", epochs, "be 0 or more")
        _require(0 < self.width <= 16, "--width", self.width, "be in (0, 16]")

    def total_steps(self, train_images: int) -> int:
        """The run's length in steps for a training split of `train_images` images.

        Raises: UserError if that is no step at all.
        """
        own = DRAWN_EPOCHS if self.data == DRAWN else PRESETS[self.preset].epochs
        epochs = self.epochs or own
        steps = self.steps or int(epochs * train_images / self.batch_size)
        if steps < 1:
            raise UserError(
                f"--epochs {epochs:g}: {train_images} training images make no full batch of "
                f"{self.batch_size}; lower --batch-size or raise --epochs"
            )
        return steps

    def check_images(self, height: int, width: int) -> None:
        """Raises: UserError if the preset's networks are not made for images of this size."""
        needed = PRESETS[self.preset].image.size
        if size_name(height, width) != needed:
            raise UserError(
                f"--data {self.data}: holds {size_name(height, width)} images, but {self.preset} "
                f"is made for {needed}; prepare them with --size {needed}"
            )

    def to_json(self) -> dict[str, Any]:
        """All options by name, those of the model among them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        return values | {f.name: getattr(self.model, f.name) for f in fields(self.model)}

    def updated(self, values: Mapping[str, Any], where: str) -> "RunConfig":
        """This config with options replaced by name, as `to_json` names them.

        Args: where: what to name in errors, e.g. the file the values came from.
        Raises: UserError for an unknown option or a value of the wrong type.
        """
        own = {f.name for f in fields(self)} - {"model"}
        models = {f.name for f in fields(self.model)}
        for name in values:
            if name not in own | models:
                raise UserError(
                    f"{where}: unknown option {name!r} for preset {self.preset}; "
                    f"known are {', '.join(sorted(own | models))}"
                )
        model = updated(self.model, {k: v for k, v in values.items() if k in models}, where)
        run = updated(self, {k: v for k, v in values.items() if k in own}, where)
        return replace(run, model=model)


def updated(options: Options, values: Mapping[str, Any], where: str) -> Options:
    """A dataclass of options with some replaced by name.

    Args: where: what to name in errors, e.g. the file the values came from.
    Raises: UserError for an unknown option or a value of the wrong type.
    """
    known = {f.name: getattr(options, f.name) for f in fields(options)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: unknown option {name!r}; known are {', '.join(known)}")
        kind = type(known[name])
        # JSON writes 3.0 as 3; True is an int to Python but no number to a user.
        accepted = (int, float) if kind is float else (kind,)
        if type(value) not in accepted:
            raise UserError(f"{where}: {name} is {value!r}, but must be of type {kind.__name__}")
    return replace(options, **values)


RESUMABLE_CHANGES = frozenset(
    (
        "data",
        "steps",
        "epochs",
        "num_workers",
        "log_images",
        "sample_images",
        "checkpoint_images",
        "keep",
        "max_failures",
    )
)
"""Options that may differ when a run is resumed, because they do not change what was learnt so
far. (That `data` is the same dataset, wherever it lies now, is checked by its fingerprint.)"""


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
    is square, as the presets do with aligned faces, else none."""
    num_workers: int = 4
    """Training workers to prepare for: there are at least four files for each."""
    restart: bool = False
    """Replace the dataset that the folder holds."""
    config: str = ""
    """JSON file of options that replace the defaults."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        _require(self.num_workers >= 1, "--num-workers", self.num_workers, "be at least 1")

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
class DrawnOptions(PrepareOptions):
    """Faces that raygen draws itself."""

    drawn_count: int = 20_000
    """How many faces to draw, training and validation images together."""
    seed: int = 0
    """Decides the faces."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_drawn_count(self.drawn_count)
        _require(self.seed >= 0, "--seed", self.seed, "be 0 or more")


@dataclass(frozen=True)
class Preset:
    """A named system: the images it is made for, its length in epochs, and its options."""

    image: ImageFormat
    epochs: float
    run: RunConfig


PRESETS: dict[str, Preset] = {
    "dcgan-celeba": Preset(
        ImageFormat(height=32, width=32, crop=SQUARE_CROP),
        epochs=3,
        run=RunConfig("dcgan-celeba", batch_size=128, model=DCGANConfig()),
    ),
}
