"""The options of measurements."""

from dataclasses import dataclass

from raygen.config.fields import (
    ConfigFile,
    require,
    require_at_least,
    require_choice,
    require_positive,
)
from raygen.config.run import PRESETS, Precision, require_drawn_count


@dataclass(frozen=True)
class BenchOptions:
    """Where a measurement has what it needs and leaves its figures."""

    storage: str = "runs/bench"
    """Local folder for what the measurements need."""
    out: str = ""
    """JSON file for the figures. Default: named like the first word, in --storage."""
    config: ConfigFile = ""


@dataclass(frozen=True)
class IngestBenchOptions(BenchOptions):
    """Preparing and streaming images, 3 GB of them."""

    images: int = 20_000
    """Images of each kind to draw, a few hundred different ones under many names."""
    jpeg_images: str = ""
    """A folder of JPEG files, 178 wide and 218 high, in place of drawn ones."""
    png_images: str = ""
    """A folder of PNG files, 64 by 64, in place of drawn ones."""
    repeats: int = 1
    """How often to measure each ratio, a minute and a half each time; the median counts, and of
    pauses the longest."""
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


@dataclass(frozen=True)
class StartBenchOptions(BenchOptions):
    """The time from the command to the first step, of dcgan-celeba on prepared faces."""

    repeats: int = 3
    """How often to start; the median counts."""
    drawn_count: int = 2_000
    """Faces to prepare."""
    batch_size: int = 128
    """Images of each step."""
    width: float = 1.0
    """Multiplies the number of channels."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "repeats", "batch_size")
        require_drawn_count(self.drawn_count)


@dataclass(frozen=True)
class ScalingOptions(BenchOptions):
    """Print the tables of docs/scaling.md: an estimate for many GPUs, not a measurement."""


@dataclass(frozen=True)
class StepBenchOptions(BenchOptions):
    """The training step, against a plain port of it and a large matrix product, on 2 threads."""

    preset: tuple[str, ...] = ()
    """Presets to measure. Default: vae-celeba, dcgan-celeba, dcgan-anime, vaegan-anime."""
    repeats: int = 2
    """How often to measure each ratio; more often where it takes less than ten seconds in all. The
    median counts."""
    steps: int = 1
    """Steps of each measurement; the median counts."""
    batch_size: int = 0
    """Images of each step; 0: the preset's own."""
    width: float = 1.0
    """Multiplies the number of channels."""
    precision: Precision = "auto"
    """raygen's precision: fp32, bf16, or auto, bf16 where the hardware computes in it. The port's
    is always fp32."""

    def __post_init__(self) -> None:
        for preset in self.preset:
            require(preset in PRESETS, "--preset", preset, f"be among {', '.join(PRESETS)}")
        require_at_least(self, 1, "repeats", "steps")
        require_at_least(self, 0, "batch_size")
        require(0 < self.width <= 16, "--width", self.width, "be in (0, 16]")
        require_choice(self, "precision", Precision)


@dataclass(frozen=True)
class EvaluateBenchOptions(BenchOptions):
    """Evaluating, beyond the sampling: all metrics that need no weights, on 2 cores."""

    images: int = 10_000
    """Images of each of the sets that are compared, 64 by 64."""
    train_images: int = 20_000
    """Training images that are searched for copies."""

    def __post_init__(self) -> None:
        require_at_least(self, 50, "images", "train_images")


@dataclass(frozen=True)
class SoakOptions(BenchOptions):
    """Training for a long time while workers, nodes and the storage fail every few minutes."""

    minutes: float = 120.0
    """How long to train."""
    every: float = 180.0
    """Mean time between two failures, in seconds."""
    run_storage: str = ""
    """Object store for the run, as s3://bucket/runs?scheme=http&endpoint_override=HOST:PORT, which
    fails too. Default: --storage, which does not."""
    batch_size: int = 32
    """Images of each training step."""
    width: float = 0.25
    """Multiplies the number of channels."""
    checkpoint_images: int = 3_200
    """Save a checkpoint every so many images."""
    seed: int = 0
    """Decides what fails when."""

    def __post_init__(self) -> None:
        require_positive(self, "minutes", "every")
        require_at_least(self, 1, "batch_size", "checkpoint_images")
