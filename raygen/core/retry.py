"""Retrying while an object store does not answer, and telling the user about it."""

import errno
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from raygen.core.errors import StorageError, one_line
from raygen.core.progress import duration

Result = TypeVar("Result")

FIRST_DELAY, LONGEST_DELAY = 0.25, 15.0
"""Shortest and longest delay between two attempts, in seconds; it doubles after each."""
GARBLED_ATTEMPTS = 5
"""Attempts, whatever the time, when answers arrive but not as a whole."""
QUIET_SECONDS = 2.0
"""Length of an outage, in seconds, from which on the user is told about it."""
REFUSED = re.compile(
    r"ACCESS[_ ]?DENIED|INVALID_ACCESS_KEY|SIGNATURE|NO_SUCH_BUCKET|TOKEN|CREDENTIALS|"
    r"MISSING_|PermissionDenied|Unauthenticated|"
    r"HTTP (?:status|response code) 4(?!08|29)\d\d",
    re.IGNORECASE,
)
"""Matches errors by which a store refuses a request; a retry would get the same answer."""
OUTAGE = re.compile(
    r"AWS Error|curl|google::cloud|HTTP|connect|time[d-]?\s?out|unavailable|network|broken pipe|"
    r"errors when deleting objects",
    re.IGNORECASE,
)
"""Matches errors of a store that is unreachable or overloaded. Only these are retried, because a
damaged file stays damaged."""
LASTING = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ENODEV)
)
"""Disk errors that are not retried, because they would recur."""


GARBLED = re.compile("XML_ERROR|Failed to flush response stream")
"""Matches errors of answers that end too early, as when a file is replaced while it is read."""


class CutShort(OSError):
    """An object store sent fewer bytes than a file has."""


@dataclass(frozen=True)
class Retries:
    """Requests that were repeated.

    Attributes: requests: how many; seconds: time waited before them, of all threads together.
    """

    requests: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Retries") -> "Retries":
        return Retries(self.requests + other.requests, self.seconds + other.seconds)

    def since(self, before: "Retries") -> "Retries":
        return Retries(self.requests - before.requests, self.seconds - before.seconds)

    def __str__(self) -> str:
        were = "request was" if self.requests == 1 else "requests were"
        return f"{self.requests:,} {were} repeated, {duration(self.seconds)} waited"


class Outages:
    """Reports to listeners that this process is waiting for a storage.

    Several threads may wait at once; the outage is over when none of them waits any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Callable[[str], None]] = []
        self._waiting = 0
        self._retries = Retries()

    @property
    def retries(self) -> Retries:
        """What this process has repeated, and what it was told that others have."""
        return self._retries

    def count(self, retries: Retries) -> None:
        """Count requests that were repeated, here or in a process that works for this one."""
        with self._lock:
            self._retries += retries

    @contextmanager
    def told_to(self, listener: Callable[[str], None]) -> Iterator[None]:
        """Call the listener with a line about each outage, and with "" when it is over.

        It is called from the waiting thread, and must not raise.
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
    """Whether a local disk's error would recur on every retry, as when the disk is full."""
    return error.errno in LASTING


def not_written(error: OSError, place: str) -> StorageError:
    """The error to raise for a lasting disk error. Args: place: file or folder to name."""
    return StorageError(f"{place}: cannot be written ({error.strerror})")


def is_refusal(error: OSError) -> bool:
    """Whether an object store has answered with a refusal."""
    known = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
    return isinstance(error, known) or bool(REFUSED.search(_unquoted(error)))


def is_outage(error: OSError) -> bool:
    """Whether an object store is unreachable or overloaded."""
    return isinstance(error, CutShort) or bool(OUTAGE.search(_unquoted(error)))


def is_garbled(error: OSError) -> bool:
    """Whether an object store has answered, but not with all of its answer."""
    return isinstance(error, CutShort) or bool(GARBLED.search(str(error)))


def _unquoted(error: OSError) -> str:
    """An error's message without the names of buckets and keys, which may hold any word."""
    return re.sub(r"'[^']*'", "", str(error))


def patiently(operation: Callable[[], Result], seconds: float, uri: str) -> Result:
    """Run an idempotent operation, retrying while an object store does not answer.

    Args:
        seconds: how long to keep retrying; 0: a single attempt, unless an answer is cut short.
        uri: the place to name in messages.
    Raises: with `seconds`, StorageError if the store refuses, or has not answered for so long;
        whatever else `operation` raises.
    """
    began, delay, waits, attempts = time.monotonic(), FIRST_DELAY, False, 0
    try:
        while True:
            try:
                return operation()
            except FileNotFoundError:
                raise
            except OSError as error:
                attempts += 1
                # A store that sends half an answer is there, whatever else it is.
                garbled = is_garbled(error) and attempts < GARBLED_ATTEMPTS
                reason = one_line(error)
                if not (seconds or garbled) or not (is_outage(error) or is_refusal(error)):
                    raise
                if is_refusal(error):
                    raise StorageError(
                        f"{uri}: refused ({reason}); check the credentials"
                    ) from error
                spent = time.monotonic() - began
                if spent + delay > seconds and not garbled:
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
            # Jitter keeps threads and workers from retrying at the same moment.
            wait = delay * random.uniform(0.5, 1.0)
            time.sleep(wait)
            OUTAGES.count(Retries(1, wait))
            delay = min(2 * delay, LONGEST_DELAY)
    finally:
        if waits:
            OUTAGES.ended()
