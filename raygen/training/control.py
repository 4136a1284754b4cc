"""What a training session and whoever watches it tell each other.

Without torch, which takes seconds to load: the processes in between need none.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """How far a run is.

    Attributes:
        global_step: training steps taken.
        images_seen: by all workers.
        seconds: spent training, over all sessions of the run.
        restores: how often it went back to a checkpoint because a loss was not finite; each time
            halved the learning rates.
    """

    global_step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    restores: int = 0


@dataclass(frozen=True)
class Progress:
    """What the first worker tells whoever watches.

    Attributes:
        seconds: spent training, over all sessions of the run.
        doing: what it does between training steps, with how far that is; or nothing.
    """

    images_seen: int
    total_images: int
    images_per_second: float
    metrics: dict[str, float]
    seconds: float = 0.0
    doing: str = ""


class Control:
    """Whoever watches the run. This one does not care.

    Attributes: needs_checkpoints: `measured` must not be called before what is known is saved.
    """

    needs_checkpoints = False

    def started(self, step: int) -> None:
        """The workers go on from this step."""

    def exchange(self, progress: Progress) -> bool:
        """Take note of the progress; say whether the run is to stop. Must not block."""
        return False

    def measured(self, progress: Progress) -> None:
        """The networks have been measured on validation images, and what is known is being saved.

        Told once more where a run is resumed at such a point.
        """

    def notice(self, text: str) -> None:
        """Something happened that a user will want to know."""


@dataclass(frozen=True)
class Outcome:
    """How a training session ended.

    Attributes:
        finished: False if it was asked to stop before its last step.
        first_step_at: Unix time when this session's first step was done, in seconds.
        images_per_second: of all workers, from then on.
        data_wait_fraction: of the time from then on, spent waiting for data, in [0, 1].
        metrics: the last logged value of each.
    """

    finished: bool
    position: Position
    first_step_at: float
    images_per_second: float
    data_wait_fraction: float
    metrics: dict[str, float]
