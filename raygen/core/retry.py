"""Trying again while an object store does not answer, and saying so."""

import errno
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from raygen.core.errors import StorageError, one_line
from raygen.core.progress import duration

Result = TypeVar("Result")

FIRST_DELAY, LONGEST_DELAY = 0.25, 15.0
"""Seconds between two attempts; the delay doubles from one to the next."""
QUIET_SECONDS = 2.0
"""Outages shorter than this are not worth a message."""
REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|NO_SUCH_BUCKET|TOKEN|CREDENTIALS|"
    r"MISSING_|PermissionDenied|Unauthenticated|"
    r"HTTP (?:status|response code) 4(?!08|29)\d\d",
    re.IGNORECASE,
)
"""Matches the errors of a store that refuses: a retry gets the same answer."""
OUTAGE = re.compile(
    r"AWS Error|curl|google::cloud|HTTP|connect|time[d-]?\s?out|unavailable|network|broken pipe",
    re.IGNORECASE,
)
"""Matches the errors of a store that is away or overloaded. Only these are retried: a damaged file
stays damaged."""
LASTING = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ENODEV)
)
"""Disk errors that a retry would meet again."""


class Outages:
    """What this process waits for, told to whoever listens.

    Several threads may wait at once; the outage is over when none of them waits any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Callable[[str], None]] = []
        self._waiting = 0

    @contextmanager
    def told_to(self, listener: Callable[[str], None]) -> Iterator[None]:
        """Call a function with a line about each outage, and with nothing when it is over.

        It is called from whichever thread waits, and must not raise.
        """
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def tell(self, text: str) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(text)

    def began(self) -> None:
        with self._lock:
            self._waiting += 1

    def ended(self) -> None:
        with self._lock:
            self._waiting -= 1
            over = not self._waiting
        if over:
            self.tell("")


OUTAGES = Outages()


def is_lasting(error: OSError) -> bool:
    """Whether an error of a local disk will happen again on each retry, as when it is full."""
    return error.errno in LASTING


def not_written(error: OSError, place: str) -> StorageError:
    """What to tell of a lasting error. Args: place: the file or folder, for the message."""
    return StorageError(f"{place}: cannot be written ({error.strerror})")


def is_refusal(error: OSError) -> bool:
    """Whether an object store has answered, and said no."""
    known = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
    return isinstance(error, known) or bool(REFUSED.search(_unquoted(error)))


def is_outage(error: OSError) -> bool:
    """Whether an object store does not answer, or is overloaded."""
    return bool(OUTAGE.search(_unquoted(error)))


def _unquoted(error: OSError) -> str:
    """An error's message without the names of buckets and keys, which may hold any word."""
    return re.sub(r"'[^']*'", "", str(error))


def patiently(operation: Callable[[], Result], seconds: float, uri: str) -> Result:
    """Do something that may be done twice, again and again while an object store does not answer.

    Args:
        seconds: how long to go on; 0: a single attempt.
        uri: of the place, for messages.
    Raises: with `seconds`, StorageError if the store refuses, or has not answered for so long;
        whatever else `operation` raises.
    """
    began, delay, waits = time.monotonic(), FIRST_DELAY, False
    try:
        while True:
            try:
                return operation()
            except FileNotFoundError:
                raise
            except OSError as error:
                reason = one_line(error)
                if not seconds or not (is_outage(error) or is_refusal(error)):
                    raise
                if is_refusal(error):
                    raise StorageError(
                        f"{uri}: refused ({reason}); check the credentials"
                    ) from error
                spent = time.monotonic() - began
                if spent + delay > seconds:
                    raise StorageError(
                        f"{uri}: has not answered for {duration(spent)} ({reason}); check the "
                        "network, or wait longer with --storage-timeout"
                    ) from error
            if not waits:
                OUTAGES.began()
                waits = True
            if spent > QUIET_SECONDS:
                OUTAGES.tell(
                    f"{uri} has not answered for {duration(spent)}, trying until "
                    f"{duration(seconds)}"
                )
            # Not all threads and workers at the same moment.
            time.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, LONGEST_DELAY)
    finally:
        if waits:
            OUTAGES.ended()
