"""What all workers of a run have to know to train it, from one start of the job to its end."""

from dataclasses import dataclass
from typing import Any

from raygen.config.run import RAY_DATA, RunConfig
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import Stored
from raygen.data.splits import TRAIN
from raygen.data.stream.stream import ImageStream
from raygen.training.run import RunFolder


@dataclass(frozen=True)
class Session:
    """Everything that a worker needs to know about a run.

    Attributes: stored: copy of the images in the object store, if there is one.
    """

    config: RunConfig
    run: RunFolder
    data: Folder
    manifest: Manifest
    num_workers: int
    use_gpu: bool
    verbose: bool = False
    stored: Stored | None = None

    @property
    def stream(self) -> ImageStream:
        """The training images in the run's order."""
        config = self.config
        return ImageStream(
            self.data, self.manifest, TRAIN, config.step_images, config.seed, self.stored
        )

    @property
    def uses_ray_data(self) -> bool:
        """Whether Ray Data reads the images; what is in memory already needs no reading."""
        return self.config.reader == RAY_DATA and self.stored is None

    @property
    def total_steps(self) -> int:
        """The run's length in training steps."""
        return self.config.total_steps(self.manifest.rows(TRAIN))

    def total_images(self, start: Position) -> int:
        """Images that the run will have seen at its end if it goes on from a position."""
        steps = self.total_steps - start.global_step
        return start.images_seen + steps * self.config.step_images

    @property
    def about(self) -> dict[str, Any]:
        """The run's options and dataset, to record in its checkpoints."""
        return {
            "config": self.config.to_json(),
            "dataset": self.manifest.fingerprint,
            "run": self.run.folder.name,
        }
