"""Progress of a job and how its watcher learns of it: one actor, one record, one set of hooks.

A job has numbered parts that work in other processes: the workers of a run together are one part,
each trial of a sweep and each task of a preparation is one. They report progress and events to the
actor `Status`; the job polls it for the `State` a few times a second.

This module does not import torch, which takes seconds, so that the actor starts quickly.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

from raygen.core.errors import RunError, UserError
from raygen.core.retry import Retries

SHOWN_REJECTED = 3
"""How many images that cannot be read are told of one by one."""
RUN = 0
"""Number of the only part of a job that trains one run."""


@dataclass(frozen=True)
class Position:
    """The point that a run has reached.

    Attributes:
        global_step: training steps taken.
        images_seen: images that all workers have trained on.
        seconds: time spent training, over all sessions of the run.
        restores: how often it went back to a checkpoint because a loss was not finite; each time
            halved the learning rates.
    """

    global_step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    restores: int = 0


@dataclass(frozen=True)
class Progress:
    """Progress that the first worker reports.

    Attributes:
        seconds: time spent training, over all sessions of the run.
        doing: what it is doing between training steps, with its progress; or "".
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
        images_per_second: throughput of all workers together, from then on.
        data_wait_fraction: share of the time from then on that was spent waiting for data, in
            [0, 1].
        metrics: the last logged value of each metric.
        retries: the storage's requests that the first worker's process repeated.
    """

    finished: bool
    position: Position
    first_step_at: float
    images_per_second: float
    data_wait_fraction: float
    metrics: dict[str, float]
    retries: Retries = field(default_factory=Retries)


class Callbacks:
    """Hooks that a training session calls on its first worker; these do nothing.

    Attributes: needs_checkpoints: whether `measured` may only be called after the checkpoint.
    """

    needs_checkpoints = False

    def started(self, step: int) -> None:
        """The workers have started, and go on from this step."""

    def progress(self, progress: Progress) -> bool:
        """Record progress. Must not block. Returns: whether the run is to stop."""
        return False

    def restarting(self) -> bool:
        """Whether the workers are about to be restarted, and are to save the run and then wait.

        Must not block.
        """
        return False

    def waiting(self) -> None:
        """The run is saved, and the workers wait to be restarted."""

    def measured(self, progress: Progress) -> None:
        """The networks were measured on validation images, and a checkpoint is being saved.

        Called once more if a run is resumed at such a point.
        """

    def saved(self, step: int) -> None:
        """A checkpoint that is to be evaluated is complete. Called by the thread that writes."""

    def notice(self, text: str) -> None:
        """Report an event that the user should see."""


@dataclass(frozen=True)
class Started:
    """A run's workers started from a step.

    Attributes:
        group: counts worker groups, from 1.
        workers: how many there are.
        reason: why the group before this one ended, where that was intended; or "".
    """

    step: int
    group: int
    workers: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Notice:
    """An event that the user should see."""

    text: str


@dataclass(frozen=True)
class Measured:
    """The networks of a run have been measured."""

    progress: Progress


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is to be evaluated is complete."""

    step: int


@dataclass(frozen=True)
class Ended:
    """A run has ended."""

    outcome: Outcome


@dataclass(frozen=True)
class Group:
    """A group of workers has started, or ended.

    Attributes:
        workers: how many there are; 0 if it has ended.
        nodes: the number of nodes that they are on, by kind, as `4 x A10G` or `8 CPUs`.
        at: Unix time in seconds.
    """

    workers: int
    nodes: dict[str, int]
    at: float = 0.0


Event = Started | Notice | Measured | Saved | Ended | Group


@dataclass(frozen=True)
class State:
    """Everything known about a job at one moment.

    Attributes:
        progress: progress of each part by number, in a record specific to the kind of job.
        events: events in order, from event number `since` on.
        outage: the storage that a part waits for; or "".
        error: why the job has to end, if no retry can help.
    """

    progress: dict[int, Any]
    events: tuple[Event, ...] = ()
    outage: str = ""
    error: UserError | RunError | None = None
    since: int = 0

    def after(self, known: int) -> tuple[Event, ...]:
        """The events after the first `known` ones of the whole job."""
        return self.events[max(0, known - self.since) :]


class Status:
    """Actor that passes messages between the parts of a job, on any node, and their watcher."""

    def __init__(self) -> None:
        self._progress: dict[int, Any] = {}
        self._events: list[Event] = []
        self._outages: dict[int, str] = {}
        self._error: UserError | RunError | None = None
        self._claimed: set[str] = set()
        self._rejected: dict[tuple[str, str], dict[str, str]] = {}
        self._groups = 0
        self._stopping = False
        self._reason = ""
        self._restarting = self._saved = False
        self._beats: dict[int, tuple[Any, float]] = {}

    def state(self, since: int = 0) -> State:
        """The current state. Args: since: how many events the caller has already."""
        outage = max(self._outages.values(), default="")
        events = tuple(self._events[since:])
        return State(dict(self._progress), events, outage, self._error, since)

    def progress(self, part: int, progress: Any) -> bool:
        """Record a part's progress. Returns: whether it is to stop."""
        self._progress[part] = progress
        return self._stopping

    def started(self, part: int, step: int, is_new_group: bool, workers: int = 0) -> None:
        """Record that workers have started, for the first time or after a failure."""
        self._groups += int(is_new_group)
        self._progress.pop(part, None)
        self._outages.pop(part, None)
        self._events.append(Started(step, self._groups, workers, self._reason))
        self._reason, self._restarting, self._saved = "", False, False

    def begin_group(self, group: Group) -> None:
        """Record that a group of workers has started, or ended."""
        self._beats = {}
        self._events.append(replace(group, at=time.time()))

    def beat(self, rank: int, beat: Any) -> None:
        """Record a worker's sign of life; None: it has ended, and gives no more."""
        if beat is None:
            self._beats.pop(rank, None)
        else:
            self._beats[rank] = beat, time.monotonic()

    def beats(self) -> dict[int, tuple[Any, float]]:
        """The latest sign of life of each worker, and its age in seconds.

        None at all while a part waits for a storage, because then the others wait for that one.
        """
        if any(self._outages.values()):
            return {}
        now = time.monotonic()
        return {rank: (beat, now - at) for rank, (beat, at) in self._beats.items()}

    def expect(self, reason: str) -> None:
        """Record why the workers will have to start again soon, as `a machine was taken away`."""
        self._reason = reason

    def restart(self, reason: str) -> None:
        """Ask the workers to save the run and wait, because they are about to be restarted."""
        self._reason, self._restarting, self._saved = reason, True, False

    def is_restarting(self) -> bool:
        """Whether the workers are to save the run and wait."""
        return self._restarting

    def waiting(self) -> None:
        """Record that the run is saved, and its workers wait to be restarted."""
        self._saved = True

    def is_saved(self) -> bool:
        """Whether the workers that are to be restarted have saved the run."""
        return self._saved

    def tell(self, event: Event) -> None:
        self._events.append(event)

    def outage(self, part: int, text: str) -> None:
        """Record that a part waits for a storage; "" when it no longer does."""
        self._outages[part] = text

    def fail(self, error: UserError | RunError) -> None:
        """Record an error that every part would meet, so that none is started again."""
        self._error = self._error or error
        self._stopping = True

    def claim(self, name: str) -> bool:
        """Whether this is the first call with this name: one of several callers gets something."""
        is_first = name not in self._claimed
        self._claimed.add(name)
        return is_first

    def reject(self, entry: dict[str, str], most: int) -> None:
        """Record an image that cannot be read, and end the job if there are too many.

        Args: entry: its id, split and reason; most: how many there may be.
        """
        key = entry["split"], entry["id"]
        if key in self._rejected:
            return
        self._rejected[key] = entry
        count = len(self._rejected)
        if count > most:
            self.fail(
                UserError(
                    f"--data: {count:,} images cannot be read, at most 1 % may be left out "
                    f"({most:,}); the last, {entry['id']}: {entry['reason']}; mend or remove them, "
                    "or prepare the images with jobs/prepare.py and its --max-rejected"
                )
            )
        elif count <= SHOWN_REJECTED:
            text = f"left out {entry['id']}: {entry['reason']}; another image takes its place"
            self.tell(Notice(text))

    def rejected(self) -> list[dict[str, str]]:
        """The images that cannot be read, each once."""
        return list(self._rejected.values())

    def error(self) -> UserError | RunError | None:
        return self._error

    def stop(self) -> None:
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping


def tell_outage(status: Any, part: int, text: str) -> None:
    """Tell a job's `Status`, an actor, of an outage: a line, or "" when it is over."""
    status.outage.remote(part, text)


def tell_rejected(status: Any, entry: dict[str, str], most: int) -> None:
    """Tell a job's `Status`, an actor, of an image that cannot be read."""
    status.reject.remote(entry, most)
