"""The options of measurements."""

from dataclasses import dataclass

from raygen.config.fields import ConfigFile, require_at_least
from raygen.config.run import require_drawn_count


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
