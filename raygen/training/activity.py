"""What a worker is doing, for a watcher of its process: that one hangs shows in what it leaves out.

A worker marks each of its activities as it begins. A thread of its process sends the latest one as
a `Beat` every few seconds; `stalled` finds the workers that hold up the others.
"""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STARTING, READING, TRAINING = "starting", "waiting for images", "training"
VALIDATING, SAVING, WAITING = "validating", "saving", "waiting for machines"
START_SECONDS = 300.0
"""Time that a start may take in any case, in seconds: it imports, compiles and reads."""
SHOWN_FRAMES = 4
"""Number of a stack's frames that are shown, from the innermost."""


@dataclass(frozen=True)
class Beat:
    """A sign of life of a worker.

    Attributes:
        place: the node's address and the process.
        doing: one of this module's activities.
        step: training steps taken.
        seconds: how long it has been doing that.
        stack: the innermost functions that it is in, as `prefetch.py:88 get`.
    """

    place: str
    doing: str
    step: int
    seconds: float
    stack: tuple[str, ...]

    def describe(self) -> str:
        """Format as `waiting for images of step 12 (prefetch.py:88 get < ...)`."""
        where = f" ({' < '.join(self.stack)})" if self.stack else ""
        return f"{self.doing}, step {self.step:,}{where}"


class _Activity:
    def __init__(self) -> None:
        self.doing, self.step, self.began, self.thread = STARTING, 0, time.monotonic(), 0


_LATEST = _Activity()


def begin(doing: str, step: int) -> None:
    """Record that this process's training thread begins something, or goes on with it."""
    _LATEST.doing, _LATEST.step = doing, step
    _LATEST.began, _LATEST.thread = time.monotonic(), threading.get_ident()


def beat(place: str) -> Beat:
    """This process's latest activity."""
    frame = sys._current_frames().get(_LATEST.thread)
    stack: list[str] = []
    while frame and len(stack) < SHOWN_FRAMES:
        code = frame.f_code
        stack.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    seconds = time.monotonic() - _LATEST.began
    return Beat(place, _LATEST.doing, _LATEST.step, seconds, tuple(stack))


@contextmanager
def beating(place: str, send: Callable[[Beat | None], None], interval: float) -> Iterator[None]:
    """Send a `Beat` every `interval` seconds from a thread of this process; never if infinite.

    At the end None is sent, because others may still be at work.
    """
    over = threading.Event()

    def run() -> None:
        while not over.wait(interval):
            send(beat(place))

    begin(STARTING, 0)
    if math.isinf(interval):
        yield
        return
    send(beat(place))
    thread = threading.Thread(target=run, name="beats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        send(None)


def stalled(beats: Mapping[int, tuple[Beat, float]], limit: float) -> list[int]:
    """The workers that hold up a run on which nothing has happened for `limit` seconds.

    Workers that start may take `START_SECONDS` even if that is longer.

    Args: beats: each worker's latest sign of life by rank, and its age in seconds.
    Returns: their ranks: those that give no sign of life; else those that do not just wait for
        others in a training step; else all. Empty if something has happened.
    """
    silent = [rank for rank, (_, age) in beats.items() if age > limit]
    if silent:
        return silent
    for beat, age in beats.values():
        patience = max(limit, START_SECONDS) if beat.doing == STARTING else limit
        if beat.seconds + age <= patience:
            return []
    elsewhere = [rank for rank, (beat, _) in beats.items() if beat.doing != TRAINING]
    return elsewhere or list(beats)
