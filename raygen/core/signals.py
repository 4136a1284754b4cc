"""Ctrl-C and other signals that end jobs, so that a job can save its work first."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

ENDING = (
    signal.SIGINT,  # Ctrl-C
    signal.SIGTERM,  # `ray job stop`, containers, kill(1)
    signal.SIGHUP,  # the terminal or the connection to it was closed
    signal.SIGUSR1,  # schedulers, ahead of a job's time limit
    signal.SIGUSR2,
    signal.SIGXCPU,  # a limit of processor time
)
"""Signals that ask a job to save and end. SIGQUIT (Ctrl-\\) ends it at once."""
SAME_SIGNAL_SECONDS = 0.3
"""Time within which repeated signals count as one, in seconds."""


class Signals:
    """Ctrl-C quits at once, or asks to save first.

    Attributes: stop: set when the work is to be saved and ended.
    """

    def __init__(self, leave_line: Callable[[], None], saving: str) -> None:
        """Args: leave_line: called before something is printed; saving: what is being saved."""
        self.stop = threading.Event()
        self._leave_line = leave_line
        self._saving = saving
        self._saves = self._ignores = False
        self._heard_at = float("-inf")
        self._before: dict[int, Any] = {}

    def save(self) -> None:
        """Save before ending from now on, because there is something to save."""
        self._saves = True

    def ignore(self) -> None:
        """Ignore signals from now on: everything is saved, and the job is about to end."""
        self._ignores = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        # timeout(1) signals its child and then the child's whole group.
        repeated = now - self._heard_at < SAME_SIGNAL_SECONDS
        self._heard_at = now
        if self._ignores or repeated:
            return
        if not self._saves or self.stop.is_set():
            raise KeyboardInterrupt
        self.stop.set()
        self._leave_line()
        print(f"stopping: {self._saving} (Ctrl-C once more quits at once)")

    def __enter__(self) -> "Signals":
        if threading.current_thread() is not threading.main_thread():
            # Python runs signal handlers in the main thread only.
            return self
        for number in ENDING:
            # Under nohup the job is meant to outlive the terminal. SIGINT is handled even if
            # ignored: shells ignore it for background jobs without the user asking for it.
            chosen = number not in (signal.SIGINT, signal.SIGTERM)
            if not (chosen and signal.getsignal(number) is signal.SIG_IGN):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave_line()
        for number, handler in self._before.items():
            signal.signal(number, handler)
