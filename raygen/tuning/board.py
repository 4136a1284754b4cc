"""The actor between a sweep's trials, wherever they are, and the job that watches them."""

from dataclasses import dataclass

from raygen.training.control import Progress


@dataclass(frozen=True)
class State:
    """What the board knows.

    Attributes:
        progress: each trial's last one.
        notices: all of them.
        outage: the storage that a trial waits for; or nothing.
        error: why the sweep has to end; or nothing.
    """

    progress: dict[int, Progress]
    notices: list[str]
    outage: str
    error: str


class Board:
    """An actor that all trials tell how far they are, and ask whether to stop."""

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}
        self._notices: list[str] = []
        self._stop = False
        self._error = ""
        self._outages: dict[int, str] = {}

    def exchange(self, number: int, progress: Progress) -> bool:
        self._progress[number] = progress
        return self._stop

    def notice(self, text: str) -> None:
        self._notices.append(text)

    def stop(self) -> None:
        self._stop = True

    def stopping(self) -> bool:
        return self._stop

    def outage(self, number: int, text: str) -> None:
        """A trial waits for a storage, or not any more."""
        self._outages[number] = text

    def fail(self, error: str) -> None:
        """What happened to a trial will happen to all: no other need begin."""
        self._error = self._error or error
        self._stop = True

    def state(self) -> State:
        return State(
            self._progress, self._notices, max(self._outages.values(), default=""), self._error
        )
