"""When a run is saved because its workers are about to be ended, and when they then wait for it."""

import math
import time
from collections.abc import Callable

from raygen.config.run import RunConfig
from raygen.core.errors import UserError
from raygen.core.progress import duration

CONTROL_SECONDS = 1.0
"""Approximate interval of progress reports and of stop decisions, in seconds."""
MARGIN_SECONDS = 5.0
"""Least time before their end at which workers save the run and wait, in seconds."""
LATE_SECONDS = 60.0
"""Time after the announced end, in seconds, from which on workers no longer believe in it."""


def never() -> float:
    """The time at which workers end of whose end nothing is known."""
    return math.inf


def check_stall(config: RunConfig, save_seconds: float) -> None:
    """Check that saving does not look like hanging. Args: how long the last checkpoint took.

    Raises: UserError.
    """
    if 0 < config.stall_seconds < save_seconds:
        raise UserError(
            f"--stall-timeout {config.stall_timeout}: shorter than a checkpoint takes here, "
            f"{duration(save_seconds)}; use {math.ceil(3 * save_seconds)}s or more"
        )


class Ending:
    """Follows what is announced of the end of a group of workers."""

    def __init__(self, ends_at: Callable[[], float]) -> None:
        """Args: ends_at: the Unix time at which these workers will be ended, in seconds, as when a
        machine is to be taken away; infinite if nothing is known of that. All workers of a run call
        it together.
        """
        self._ends_at = ends_at
        self._is_known = False
        self._ends_in = math.inf

    def ask(self) -> None:
        """Ask for the time of the end. Every worker asks, because all are answered together."""
        self._ends_in = self._ends_at() - time.time()

    def is_new(self) -> bool:
        """Whether the end is announced for the first time, so that the run is to be saved now."""
        is_new = not self._is_known and self._ends_in < math.inf
        self._is_known |= is_new
        return is_new

    def is_near(self, step_seconds: float, save_seconds: float) -> bool:
        """Whether the run is to be saved now for the last time.

        Args: how long a training step and a checkpoint take.
        """
        margin = 2 * (CONTROL_SECONDS + step_seconds) + 3 * save_seconds
        return -LATE_SECONDS < self._ends_in < max(MARGIN_SECONDS, margin)
