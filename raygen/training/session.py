"""What all workers of a run have to know to train it, from one start of the job to its end."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raygen.config.run import QUALITY_SAMPLES, RAY_DATA, RunConfig
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import Stored
from raygen.data.splits import TRAIN
from raygen.data.stream.stream import ImageStream
from raygen.evaluation.metrics import RANDOM_VGG
from raygen.evaluation.objective import Objective, own_objective
from raygen.training.run import RunFolder

if TYPE_CHECKING:
    from raygen.evaluation.features import Extractor


@dataclass(frozen=True)
class Session:
    """Everything that a worker needs to know about a run.

    Attributes:
        stored: copy of the images in the object store, if there is one.
        extractor: whose features of samples and validation images are compared; None: random-vgg.
        chosen: what a sweep chooses its best trial by, of which this run is one; None: it is none.
    """

    config: RunConfig
    run: RunFolder
    data: Folder
    manifest: Manifest
    num_workers: int
    use_gpu: bool
    verbose: bool = False
    stored: Stored | None = None
    extractor: "Extractor | None" = None
    chosen: Objective | None = None

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
    def quality_samples(self) -> int:
        """Upper limit of the samples that are compared with as many validation images."""
        return self.config.quality_samples or QUALITY_SAMPLES

    @property
    def objective(self) -> Objective:
        """The criterion by which one of the run's checkpoints is better than another."""
        objective = self.chosen or own_objective(self.config)
        return objective.using(self.extractor.name if self.extractor else RANDOM_VGG)

    @property
    def about(self) -> dict[str, Any]:
        """The run's options and dataset, to record in its checkpoints."""
        return {
            "config": self.config.to_json(),
            "dataset": self.manifest.fingerprint,
            "run": self.run.folder.name,
        }
