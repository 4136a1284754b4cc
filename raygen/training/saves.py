"""Decides when the first worker saves, so that training does not wait for a checkpoint's upload."""

import threading
import time
from collections.abc import Callable

from raygen.training.writer import Writer

SOON_SECONDS = 1.0
"""Age in seconds up to which a checkpoint that is being written is waited for: most take less."""


class Saves:
    """A run's checkpoints, of which one at most is being written: each holds a copy of all weights.

    Use as a context manager, as a `Writer`.
    """

    def __init__(self, every: float) -> None:
        """Args: every: most time between two checkpoints, in seconds; 0.0: any."""
        self._every = every
        self._thread = Writer("save")
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._began = time.monotonic()
        self._is_owed = False
        self.seconds = 0.0
        """How long the last checkpoint took to be written."""

    def is_due(self) -> bool:
        """Whether to save now, because of the time or because a checkpoint was put off."""
        is_late = 0 < self._every <= time.monotonic() - self._began
        return self._is_idle.is_set() and (self._is_owed or is_late)

    def put_off(self) -> bool:
        """Whether a checkpoint that need not be saved now has to wait for the one before it."""
        age = time.monotonic() - self._began
        self._is_owed = not self._is_idle.wait(max(0.0, SOON_SECONDS - age))
        return self._is_owed

    def begin(self, save: Callable[[], object]) -> None:
        """Write a checkpoint in a thread, after the one before. Raises: the error of that one."""
        self._is_idle.clear()
        self._is_owed, self._began = False, time.monotonic()
        self._thread.submit(lambda: self._do(save))

    def wait(self) -> None:
        """Wait until the checkpoint is written. Raises: its error."""
        self._thread.wait()

    def _do(self, save: Callable[[], object]) -> None:
        try:
            save()
            self.seconds = time.monotonic() - self._began
        finally:
            self._is_idle.set()

    def __enter__(self) -> "Saves":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._thread.__exit__(kind, error, None)
