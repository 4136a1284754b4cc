"""Writes files in a thread of its own, so that no training step waits for a disk or a network."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

WAITING = 8
"""Tasks that may wait; more hold up the training, so that memory is bounded."""


class Writer:
    """Does one task after the other, in the order in which they are given.

    Use as a context manager: everything is done when it is left. After a task that has failed the
    others are not tried: most often the place fails that all of them write to.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "write")
        self._tasks: deque[Future[None]] = deque()
        self._failed = False

    def submit(self, task: Callable[[], object]) -> None:
        """Have a task done soon. Raises: what an earlier one raised."""
        while self._tasks and (self._tasks[0].done() or len(self._tasks) >= WAITING):
            self._tasks.popleft().result()
        self._tasks.append(self._thread.submit(self._do, task))

    def wait(self) -> None:
        """Wait until everything is done. Raises: what a task raised."""
        while self._tasks:
            self._tasks.popleft().result()

    def _do(self, task: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            task()
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._thread.shutdown()
