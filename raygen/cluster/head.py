"""Tells when the head of a cluster is gone, before Ray ends the jobs that are connected to it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_SECONDS = 5.0
SILENT_LOOKS = 3
"""Looks in a row without an answer after which the user is told. Ray ends a job after a minute."""


@contextmanager
def watched(is_there: Callable[[], bool], name: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Look in a thread whether the head still answers, and tell when it does not, or does again.

    Args: is_there: whether it does; name: what to call it.
    """
    over = threading.Event()

    def look() -> None:
        silent = 0
        while not over.wait(LOOK_SECONDS):
            was, silent = silent, 0 if is_there() else silent + 1
            if silent == SILENT_LOOKS:
                tell(
                    f"warning: {name} does not answer; unless it comes back, this job ends within "
                    "a minute. What is saved is kept: to go on, run the same command again, a "
                    "sweep's with --resume"
                )
            if was >= SILENT_LOOKS and not silent:
                tell(f"{name} answers again")

    thread = threading.Thread(target=look, name="head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LOOK_SECONDS)
