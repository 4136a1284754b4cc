"""The options of a run: small frozen dataclasses, the presets, and their JSON form.

`RunConfig` and the options of a model family together decide every number of a run. They are
also the command line of `jobs/train.py` and, flattened, a run's `config.json`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import tyro

from raygen.config.families import (
    AdversarialConfig,
    DCGANConfig,
    ModelConfig,
    VAEConfig,
    VAEGANConfig,
)
from raygen.config.fields import (
    MOST,
    NotSearched,
    Policy,
    Resumable,
    having,
    option,
    require,
    require_at_least,
    require_choice,
    require_seed,
    seconds_or_never,
    updated,
)
from raygen.config.schedule import TWO_PHASE
from raygen.core.checked import shown
from raygen.core.errors import UserError
from raygen.core.uris import without_keys

DRAWN = "drawn"
"""The value of `--data` that stands for the built-in dataset of drawn faces."""
SQUARE_CROP = 150
"""Pixels of an aligned CelebA image (178 x 218) that hold the face and little else."""
DRAWN_EPOCHS = 4.0
"""Default epochs on drawn faces: few, because people use them to try things out."""

MOST_STEPS, MOST_BATCH, MOST_WORKERS = 10**9, 2**20, 10**5
"""Upper limits of a run; larger values would fail later, for lack of memory or time."""
MOST_SAMPLES = 4096
"""Upper limit for the images of a grid, which is held in memory as a whole."""
MOST_DRAWN, MOST_SIDE, LONGEST_SIZE = 10**7, 2**14, 20
"""Upper limits: drawn faces; an image's side in pixels; the text of an image size in characters."""

QUALITY_SAMPLES = 512
"""Default number of samples whose quality is measured in training."""

OnNan = Literal["stop", "restore"]
Precision = Literal["auto", "fp32", "bf16"]
Reader = Literal["direct", "ray-data"]
RAY_DATA: Reader = "ray-data"


def size_name(height: int, width: int) -> str:
    """Format an image size as users write it: 32x32, 218x178 (height x width)."""
    return f"{height}x{width}"


def require_drawn_count(count: int, name: str = "--drawn-count") -> None:
    """Raises: UserError."""
    # Each split needs images, and all names have to fit into memory.
    require(20 <= count <= MOST_DRAWN, name, count, f"be from 20 to {MOST_DRAWN:,}")


@dataclass(frozen=True)
class ImageFormat:
    """The images a preset is made for: a centred square crop (0: none), then a resize.

    Attributes: height, width, crop: in pixels.
    """

    height: int
    width: int
    crop: Resumable[int] = 0

    @staticmethod
    def parse(size: str, crop: int = -1) -> "ImageFormat":
        """Parse a size that a user wrote: 32 or 218x178 (height x width).

        Args: crop: in pixels; -1: like CelebA's presets, 150 for square images, else none.
        Raises: UserError.
        """
        found = re.fullmatch(r"(\d+)(?:x(\d+))?", size, re.ASCII)
        if not found or not 0 < len(size) <= LONGEST_SIZE:
            raise UserError(f"--size {size}: must be pixels as in 32, or height x width as 218x178")
        height, width = int(found[1]), int(found[2] or found[1])
        sides = 0 < min(height, width) <= max(height, width) <= MOST_SIDE
        require(sides, "--size", size, f"be pixels from 1 to {MOST_SIDE:,}")
        require(-1 <= crop <= MOST, "--crop", crop, f"be from 0 to {MOST:,}")
        if crop == -1:
            crop = SQUARE_CROP if height == width else 0
        return ImageFormat(height, width, crop)

    @property
    def size(self) -> str:
        return size_name(self.height, self.width)

    @property
    def of_faces(self) -> "ImageFormat":
        """Images of this size cut from faces that are aligned like CelebA's."""
        return ImageFormat.parse(self.size)


@dataclass(frozen=True)
class RunConfig:
    """What a training run is."""

    preset: NotSearched[Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET")]] = (
        "dcgan-celeba"
    )
    """The model and its defaults: vae-celeba, dcgan-celeba, dcgan-anime or vaegan-anime."""
    family: NotSearched[tyro.conf.Suppress[str]] = "dcgan:DCGAN"
    """The class of the model, as `<module in raygen.models>:<class>`."""
    size: NotSearched[str] = "32x32"
    """Size of the images in pixels: 32 for square ones, else height x width, as 218x178. DCGAN and
    VAE-GAN have networks for 32, 64 and 128; the VAE for any size."""
    crop: int = 0
    """Side in pixels of the centred square that is cut out of photographs first, which are to be
    reconstructed; 0: none."""
    data: Resumable[str] = DRAWN
    """Dataset: a folder or URI that jobs/prepare.py wrote, or `drawn` for the built-in faces."""
    drawn_count: NotSearched[int] = 3_200
    """How many faces `--data drawn` draws, for training, validation and test together."""
    steps: Resumable[int] = 0
    """Length of the run in training steps (batches); 0: as long as --epochs says."""
    epochs: Resumable[float] = 0.0
    """Length of the run in passes over the training images, where --steps is 0; 0: the preset's
    own length, or 4 over the built-in faces, which are fewer. The own length of dcgan-anime is the
    article's, which counts generated images too: 20 times as many steps as whole batches of
    --batch-size fit into the training images (3,120 for 20,000 images, 10 passes over them), or
    4,000 steps under two-phase."""
    batch_size: int = 128
    """Images per training step, over all workers together (with dcgan-anime's --half-batches,
    half of them from the dataset)."""
    num_workers: Resumable[str] = "0"
    """Training processes: a number, or bounds as 2:8, between which a run goes on with fewer when
    machines are lost, and with more when they come; 0: one per GPU of the cluster, or two where
    there is no GPU, and with an autoscaler as few as there are and as many as may come."""
    seed: int = 0
    """Decides the initial weights, the order of the images and all noise."""
    width: float = 1.0
    """Multiplies the number of channels of every layer, for smaller or larger models."""
    precision: Precision = "auto"
    """fp32, bf16 (autocast), or auto: bf16 where the hardware computes in it."""
    compile: Resumable[bool] = False
    """Compile the networks (torch.compile): slower to start, faster from then on."""
    deterministic: Resumable[bool] = False
    """Compute to the bit the same in every run of the same options on the same kind of machine,
    interrupted or not: on GPUs slower, on CPUs as fast."""
    on_nan: Resumable[OnNan] = "stop"
    """What to do when a loss is not finite: stop; or restore: go on from the last checkpoint with
    halved learning rates, at most 3 times."""
    sync_bn: bool = False
    """Batch statistics over all workers' images (SyncBatchNorm); GPUs only."""
    reader: Resumable[Reader] = "ray-data"
    """Who reads images ahead of the training, in the same order: Ray Data's tasks on any node of
    the cluster (ray-data), or each worker's own threads (direct), which need less of a CPU but take
    it from the training."""
    read_tasks: Resumable[int] = 0
    """How many of Ray Data's tasks read at once; 0: one for each worker, but at least two."""
    log_images: Resumable[int] = 1_000
    """Log scalars every so many images."""
    sample_images: Resumable[int] = 4_000
    """Draw sample pictures every so many images (and at the start and the end)."""
    sample_count: Resumable[int] = 15
    """Images in a grid of samples."""
    validate_images: Resumable[int] = 0
    """Measure losses and quality on the validation split every so many images (and at the end);
    0: once in each pass over the training images."""
    validation_count: Resumable[int] = 1_000
    """Validation images to measure them on, the first ones."""
    quality_samples: Resumable[int] = 0
    """Samples that are drawn and compared with as many validation images at the same time; 0: 512,
    or in a sweep as many as take about 5 % of a trial's time."""
    projector_images: Resumable[int] = 500
    """Validation images whose codes are shown in TensorBoard's projector whenever losses are
    measured on them, where the model has an encoder; 0: none."""
    checkpoint_images: Resumable[int] = 20_000
    """Save a checkpoint every so many images (and at the end), or as soon as the one before it is
    written."""
    checkpoint_every: Resumable[str] = "10m"
    """Save a checkpoint, too, when the last one is so old, as 90s, 10m or 2h; 0: never."""
    evaluate_images: Resumable[int] = 0
    """Save a checkpoint every so many images (and at the end), and evaluate it on the validation
    split as jobs/evaluate.py does on the test split, while the training goes on; 0: never. Sweeps
    do not."""
    keep: Resumable[int] = 3
    """How many checkpoints to keep: the newest ones; the best one besides."""
    max_failures: Resumable[int] = 3
    """How often in a row, without a newer checkpoint, to go on from the last one after a worker
    died."""
    stall_timeout: Resumable[str] = "10m"
    """Replace a worker that has done nothing for so long, as 90s, 10m or 2h; 0: never."""
    own_epochs: Resumable[tyro.conf.Suppress[float]] = 1.0
    """The length of a run for which neither steps nor epochs are chosen: so many times as many
    steps as whole batches of `batch_size` fit into the training images, generated ones included."""
    own_steps: Resumable[tyro.conf.Suppress[int]] = 0
    """The same in steps, where it is not 0."""
    own_two_phase_steps: Resumable[tyro.conf.Suppress[int]] = 0
    """The same under the two-phase schedule, where it is not 0."""
    model: ModelConfig = field(default_factory=DCGANConfig)
    """Options of this preset's model family."""

    def __post_init__(self) -> None:
        image = ImageFormat.parse(self.size, self.crop)
        # Normalise the size, which users may write in several ways.
        object.__setattr__(self, "size", image.size)
        object.__setattr__(self, "crop", image.crop)
        self.model.check_size(image.height, image.width, self.size)
        require_seed(self)
        require_at_least(self, 0, "validate_images", "projector_images", "quality_samples")
        require_at_least(self, 0, "evaluate_images")
        require_at_least(self, 0, "read_tasks", most=MOST_WORKERS)
        require_at_least(self, 0, "max_failures", most=MOST_WORKERS)
        require_at_least(self, 0, "steps", "own_steps", "own_two_phase_steps", most=MOST_STEPS)
        require_at_least(self, 1, "log_images", "sample_images", "validation_count")
        require_at_least(self, 1, "checkpoint_images", "keep")
        require_at_least(self, 1, "batch_size", most=MOST_BATCH)
        require_at_least(self, 1, "sample_count", most=MOST_SAMPLES)
        require_choice(self, "precision", Precision)
        require_choice(self, "on_nan", OnNan)
        require_choice(self, "reader", Reader)
        require_drawn_count(self.drawn_count)
        for name in ("epochs", "own_epochs"):
            epochs = getattr(self, name)
            require(epochs >= 0 and math.isfinite(epochs), option(name), epochs, "be 0 or more")
        require(0 < self.width <= 16, "--width", self.width, "be in (0, 16]")
        require(
            self.batch_size % self.model.images_divisor == 0,
            "--batch-size",
            self.batch_size,
            "be even, for --half-batches",
        )
        self.check_share(self.worker_bounds[0] or 1)
        # Both have to be times.
        _ = self.stall_seconds, self.checkpoint_seconds

    @property
    def worker_bounds(self) -> tuple[int, int]:
        """The fewest and the most workers; (0, 0) if the cluster decides. Raises: UserError."""
        found = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", self.num_workers, re.ASCII)
        name, text = "--num-workers", self.num_workers
        require(bool(found), name, text, "be a number of workers, or the fewest and most, as 2:8")
        assert found
        least, most = int(found[1]), int(found[2] or found[1])
        require(most <= MOST_WORKERS, name, text, f"be at most {MOST_WORKERS:,}")
        if found[2]:
            require(1 <= least <= most, name, text, "name the fewest first, at least 1, as 2:8")
        return least, most

    @property
    def stall_seconds(self) -> float:
        """Time without progress after which workers are replaced, in seconds; 0.0: never."""
        return seconds_or_never(self.stall_timeout, "--stall-timeout")

    @property
    def checkpoint_seconds(self) -> float:
        """Most time between two checkpoints, in seconds; 0.0: any."""
        return seconds_or_never(self.checkpoint_every, "--checkpoint-every")

    def check_share(self, workers: int) -> None:
        """Raises: UserError if so many workers would have too few images each for a step."""
        least = self.model.least_images
        # Synchronised batch statistics cover all workers' images.
        share = self.step_images // (1 if self.sync_bn else workers)
        if share < least and least > 1:
            raise UserError(
                f"--batch-size {self.batch_size}: leaves {share} image{'s'[share == 1 :]} for each "
                f"of {workers} worker{'s'[workers == 1 :]}, but the batch norm of {self.preset} "
                f"needs {least}; use a larger batch, or fewer workers with --num-workers"
            )

    @property
    def image(self) -> ImageFormat:
        """Format of the images that the networks are built for, and how to crop photographs."""
        return ImageFormat.parse(self.size, self.crop)

    @property
    def step_images(self) -> int:
        """Dataset images per training step, over all workers together."""
        return self.batch_size // self.model.images_divisor

    @property
    def explicit(self) -> "RunConfig":
        """The same options, with each that its model leaves to a default replaced by it."""
        return replace(self, model=self.model.explicit)

    @property
    def is_two_phase(self) -> bool:
        model = self.model.explicit
        return isinstance(model, AdversarialConfig) and model.schedule == TWO_PHASE

    def total_steps(self, train_images: int) -> int:
        """The run's length in steps for a training split of `train_images` images.

        Raises: UserError if the run would have no step at all.
        """
        if not train_images:
            raise UserError(f"--data {self.data}: holds no training images; name another dataset")
        if self.steps:
            return self.steps
        own_steps = (self.is_two_phase and self.own_two_phase_steps) or self.own_steps
        if own_steps and not self.epochs and self.data != DRAWN:
            return own_steps
        if self.epochs or self.data == DRAWN:
            epochs = self.epochs or DRAWN_EPOCHS
            steps = int(epochs * train_images / self.step_images)
        else:
            # An epoch of the reference systems is this many steps, also where a step takes fewer
            # images from the dataset. Fewer images than a batch make a part of a step.
            epochs = self.own_epochs
            steps = int(
                epochs * (train_images // self.batch_size or train_images / self.batch_size)
            )
        require(steps <= MOST_STEPS, "--epochs", f"{epochs:g}", f"be {MOST_STEPS:,} steps at most")
        if steps < 1:
            raise UserError(
                f"--epochs {epochs:g}: {train_images} training images make no full batch of "
                f"{self.step_images}; lower --batch-size or raise --epochs"
            )
        return steps

    def evaluates(self, step: int, total: int) -> bool:
        """Whether the checkpoint of a training step is to be saved and evaluated.

        Args: total: the run's length in steps.
        """
        every, images = self.evaluate_images, step * self.step_images
        passed = every and images // every > (images - self.step_images) // every
        return bool(passed or (every and step == total))

    def updates(self, steps: int, total: int) -> dict[str, int]:
        """Optimizer steps of each network, by name, in the first training steps of the run.

        Args: total: the run's length in steps, which two-phase schedules depend on.
        """
        return self.model.updates(steps, total)

    def fits(self, height: int, width: int) -> bool:
        """Whether the family can build networks for images of this size."""
        try:
            self.model.check_size(height, width, size_name(height, width))
        except UserError:
            return False
        return True

    def check_images(self, height: int, width: int) -> None:
        """Raises: UserError if the run's networks are not made for images of this size."""
        found = size_name(height, width)
        if found != self.size:
            raise UserError(
                f"--data {self.data}: holds {found} images, but {self.preset} trains on "
                f"{self.size}; prepare them with --size {self.size}, or train with --size {found}"
            )

    def to_json(self) -> dict[str, Any]:
        """All options by name, including the model's."""
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
                    f"{where}: unknown option {shown(name)} for preset {self.preset}; "
                    f"known are {', '.join(sorted(own | models))}"
                )
        if type(values.get("num_workers")) is int:
            # As versions wrote it that knew no bounds.
            values = {**values, "num_workers": str(values["num_workers"])}
        model = updated(self.model, {k: v for k, v in values.items() if k in models}, where)
        return updated(self, {k: v for k, v in values.items() if k in own}, where, model=model)

    @staticmethod
    def from_json(values: Mapping[str, Any], where: str) -> "RunConfig":
        """Read the config that `to_json` wrote; missing options take the preset's values.

        Credentials that an older version allowed in the dataset's URI are removed. Runs that had
        `beta1` and no `beta2` were trained with 0.999.

        Args: where: what to name in errors, e.g. the file the values came from.
        Raises: UserError.
        """
        preset = values.get("preset", RunConfig.preset)
        if isinstance(preset, str) and preset in PRESETS:
            default = PRESETS[preset]
            family = values.get("family", default.family)
            if family != default.family:
                default = _of_family(family, where)
        elif "family" in values:
            # The preset was renamed since, or belongs to somebody's own family.
            default = _of_family(values["family"], where)
        else:
            known = ", ".join(PRESETS)
            raise UserError(f"preset {shown(preset)}: unknown; choose one of {known}")
        if values.keys() >= OLD_OPTIONS | {"beta1"}:
            values = {"beta2": 0.999} | dict(values)
        config = default.updated(values, where)
        return replace(config, data=without_keys(config.data))


OLD_OPTIONS = frozenset(("preset", "data", "batch_size", "steps", "seed", "width", "keep"))
"""Options that identify a run's config.json, because other programs' hardly have them all."""
RESUMABLE_CHANGES = having(RunConfig, Policy.RESUMABLE)
"""Options that may differ when a run is resumed. (That `data` is the same dataset, wherever it lies
now, is checked by its fingerprint.)"""


PRESETS: dict[str, RunConfig] = {
    "vae-celeba": RunConfig(
        "vae-celeba",
        family="vae:VAE",
        size="218x178",
        batch_size=32,
        log_images=640,
        sample_images=16_000,
        checkpoint_images=32_000,
        validate_images=128_000,
        validation_count=16_000,
        own_steps=7 * 4_000,
        model=VAEConfig(),
    ),
    "dcgan-celeba": RunConfig(
        "dcgan-celeba",
        family="dcgan:DCGAN",
        size="32x32",
        crop=SQUARE_CROP,
        sample_count=64,
        own_epochs=3.0,
        model=DCGANConfig(latent_size=100, own_lr_d=1e-3, label_smoothing=0.1),
    ),
    "dcgan-anime": RunConfig(
        "dcgan-anime",
        family="dcgan:DCGAN",
        size="64x64",
        log_images=20 * 64,
        sample_images=200 * 64,
        checkpoint_images=51 * 64,
        own_epochs=20.0,
        own_two_phase_steps=4_000,
        model=DCGANConfig(half_batches=True),
    ),
    "vaegan-anime": RunConfig(
        "vaegan-anime",
        family="vaegan:VAEGAN",
        size="64x64",
        batch_size=256,
        log_images=20 * 256,
        sample_images=50 * 256,
        checkpoint_images=51 * 256,
        own_steps=4_000,
        model=VAEGANConfig(),
    ),
}
"""The four reference systems, by name: nothing but values of options. Adding one is described in
CONTRIBUTING.md."""


def _of_family(family: Any, where: str) -> RunConfig:
    """Default options of a model family. Raises: UserError if it is not installed."""
    for run in PRESETS.values():
        if run.family == family:
            return run
    known = sorted({run.family for run in PRESETS.values()})
    raise UserError(
        f"{where}: family {shown(family)} is not installed; known are {', '.join(known)}"
    )
