"""Writes files in a thread of its own, so that no training step waits for a disk or a network."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

WAITING = 8
"""Length of the task queue; when it is full, training waits, so that memory is bounded."""


class Writer:
    """Runs tasks one after the other, in the order of their submission.

    Use as a context manager: all tasks are done when it exits. After a task has failed, the others
    are skipped, because most often the storage that all of them write to has failed.
    """

    def __init__(self, name: str = "write") -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._tasks: deque[Future[None]] = deque()
        self._failure: BaseException | None = None

    def submit(self, task: Callable[[], object]) -> Future[None]:
        """Queue a task. Returns: its end. Raises: the error of an earlier task."""
        while self._tasks and (self._tasks[0].done() or len(self._tasks) >= WAITING):
            self._tasks.popleft().result()
        self._tasks.append(self._thread.submit(self._do, task))
        return self._tasks[-1]

    def wait(self) -> None:
        """Wait until all tasks are done. Raises: the error of a task."""
        while self._tasks:
            self._tasks.popleft().result()

    def _do(self, task: Callable[[], object]) -> None:
        if self._failure:
            raise self._failure
        try:
            task()
        except BaseException as error:
            self._failure = error
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
