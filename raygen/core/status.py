"""How far a job is, and how its watcher learns that: one actor, one record, one set of hooks.

A job has parts, by number, that work in other processes: the workers of a run are one part, the
trials of a sweep and the tasks of a preparation are one each. They tell the actor `Status` how far
they are and what has happened; the job asks it for the `State` a few times a second.

Without torch, which takes seconds to load: the processes in between need none.
"""

from dataclasses import dataclass
from typing import Any

from raygen.core.errors import RunError, UserError


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


class Callbacks:
    """What a training session calls on its first worker as it goes; here, nothing happens.

    Attributes: needs_checkpoints: `measured` must not be called before what is known is saved.
    """

    needs_checkpoints = False

    def started(self, step: int) -> None:
        """The workers go on from this step."""

    def progress(self, progress: Progress) -> bool:
        """Take note of the progress; say whether the run is to stop. Must not block."""
        return False

    def measured(self, progress: Progress) -> None:
        """The networks have been measured on validation images, and what is known is being saved.

        Told once more where a run is resumed at such a point.
        """

    def notice(self, text: str) -> None:
        """Something happened that a user will want to know."""


@dataclass(frozen=True)
class Started:
    """A run's workers go on from a step. Attributes: group: of workers, from 1, which they are."""

    step: int
    group: int


@dataclass(frozen=True)
class Notice:
    """Something that a user will want to know."""

    text: str


@dataclass(frozen=True)
class Measured:
    """The networks of a run have been measured."""

    progress: Progress


@dataclass(frozen=True)
class Ended:
    """A run has ended."""

    outcome: Outcome


Event = Started | Notice | Measured | Ended


@dataclass(frozen=True)
class State:
    """What is known of a job.

    Attributes:
        progress: how far each part is, by number; each kind of job has its own record of that.
        events: what has happened, in order, from event number `since` on.
        outage: the storage that a part waits for; or nothing.
        error: why the job has to end, which no retry can mend.
    """

    progress: dict[int, Any]
    events: tuple[Event, ...] = ()
    outage: str = ""
    error: UserError | RunError | None = None
    since: int = 0

    def after(self, known: int) -> tuple[Event, ...]:
        """The events but for the first `known` of the whole job."""
        return self.events[max(0, known - self.since) :]


class Status:
    """An actor between the parts of a job, wherever they are, and whoever watches them."""

    def __init__(self) -> None:
        self._progress: dict[int, Any] = {}
        self._events: list[Event] = []
        self._outages: dict[int, str] = {}
        self._error: UserError | RunError | None = None
        self._groups = 0
        self._stopping = False

    def state(self, since: int = 0) -> State:
        """Args: since: how many events are known already."""
        outage = max(self._outages.values(), default="")
        events = tuple(self._events[since:])
        return State(dict(self._progress), events, outage, self._error, since)

    def progress(self, part: int, progress: Any) -> bool:
        """Take note of a part's progress. Returns: whether it is to stop."""
        self._progress[part] = progress
        return self._stopping

    def started(self, part: int, step: int, is_new_group: bool) -> None:
        """Workers of a run have begun, the first time or after a failure."""
        self._groups += int(is_new_group)
        self._progress.pop(part, None)
        self._outages.pop(part, None)
        self._events.append(Started(step, self._groups))

    def tell(self, event: Event) -> None:
        self._events.append(event)

    def outage(self, part: int, text: str) -> None:
        """A part waits for a storage, or not any more."""
        self._outages[part] = text

    def fail(self, error: UserError | RunError) -> None:
        """What happened to a part will happen to all: no other need begin, nor this one again."""
        self._error = self._error or error
        self._stopping = True

    def error(self) -> UserError | RunError | None:
        return self._error

    def stop(self) -> None:
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping
