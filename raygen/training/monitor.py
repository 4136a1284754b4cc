"""The actor between a run's workers, wherever they are, and the job that watches them."""

from dataclasses import dataclass, field

from raygen.errors import RunError, UserError
from raygen.training.control import Outcome, Progress


@dataclass
class Known:
    """What the monitor knows.

    Attributes:
        groups: worker groups that have started so far; more than one after a failure.
        error: what no retry can mend.
        notices: what a user will want to know, in the order it happened.
        measured: what was known each time that the networks were measured and saved.
        outage: what a worker waits for, where that is a storage that does not answer; or nothing.
    """

    groups: int = 0
    resumed_at: int = 0
    progress: Progress | None = None
    outcome: Outcome | None = None
    error: UserError | RunError | None = None
    notices: list[str] = field(default_factory=list)
    measured: list[Progress] = field(default_factory=list)
    outage: str = ""


class Monitor:
    """An actor between the workers, wherever they run, and the job that watches them."""

    def __init__(self) -> None:
        self._report = Known()
        self._stop = False

    def report(self) -> Known:
        return self._report

    def stop(self) -> None:
        self._stop = True

    def started(self, step: int, new_group: bool) -> None:
        self._report.groups += int(new_group)
        self._report.outage = ""
        self._report.resumed_at = step
        self._report.progress = None

    def notice(self, text: str) -> None:
        self._report.notices.append(text)

    def outage(self, text: str) -> None:
        self._report.outage = text

    def exchange(self, progress: Progress) -> bool:
        self._report.progress = progress
        return self._stop

    def measured(self, progress: Progress) -> None:
        self._report.measured.append(progress)

    def ended(self, outcome: Outcome) -> None:
        self._report.outcome = outcome

    def failed(self, error: UserError | RunError) -> None:
        self._report.error = error
