"""Exclusive ownership of a folder: only one job may work in it at a time.

Two jobs that share a folder may share nothing else: each may have started its own Ray, on one
machine or on two. So a job leaves a claim in the folder, a small file that it renews as long as it
lives, and respects the claims of others. All that this needs of a storage is that files are listed
once they are written, so it works on disks and in object stores alike:

- a job that finds no living claim writes its own and looks again. Of two that do this at once at
  least one sees both claims; a job that sees another's withdraws its own and tries again later;
- a claim of this machine is dead once its process is. One of another machine is dead if it was not
  renewed while it was watched for `LEASE_SECONDS`, or for `FORGOTTEN_SECONDS` before;
- whoever takes a folder over deletes the dead claim, so that an owner that was only suspended, such
  as a sleeping laptop, notices and stops.
"""

import contextlib
import copy
import os
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from raygen.core.checked import parse
from raygen.core.errors import RunError, UserError
from raygen.core.progress import duration
from raygen.core.storage import Folder

CLAIM = re.compile(r"\.lease-[0-9a-f]{32}\.json")
"""Matches the names of claims."""
LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
FORGOTTEN_SECONDS = 3600.0
POLL_SECONDS = 0.5
MOST_BYTES = 2**16
"""Largest part of a claim that is read, in bytes; a real one is far smaller."""
LONGEST_PAUSE = 15.0
MOST_ROUNDS = 20
"""Attempts to become the only claimant; random waits between them make a few sufficient."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Process:
    """Identity of a process across machines.

    Attributes:
        machine: equal for processes that can look each other up by process id.
        started: start time in the machine's clock ticks; distinguishes reused process ids.
    """

    machine: str
    host: str
    pid: int
    started: str

    @staticmethod
    def this() -> "Process":
        return Process(_machine(), socket.gethostname(), os.getpid(), _started(os.getpid()))

    @property
    def is_here(self) -> bool:
        return self.machine == _machine()

    @property
    def is_running(self) -> bool | None:
        """Whether this process still runs; None if that cannot be told from this machine."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # The process exists but belongs to another user.
            pass
        started = _started(self.pid)
        if not started:
            # Unknown for other users' processes or off Linux: the id may have been reused.
            return None
        return started == self.started


def _machine() -> str:
    # Containers may share a host name without sharing process ids.
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        parts.append(file.read().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The process name before this field may contain spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        # Off Linux the process id alone has to do.
        return ""
    # A zombie has ended, although its parent has not waited for it yet.
    return "ended" if fields[0] == b"Z" else fields[19].decode()


@dataclass(frozen=True)
class Claim:
    """A job's claim to a folder, as read from its file.

    Attributes:
        state: content and time of the file, one of which changes with each renewal.
        owner: the job's process; None if the content does not say.
        is_held: whether the owner works in the folder already, or is only about to.
    """

    name: str
    state: tuple[bytes, float | None]
    owner: Process | None
    is_held: bool

    def __str__(self) -> str:
        return f"process {self.owner.pid} on {self.owner.host}" if self.owner else "unknown"


@dataclass(frozen=True)
class Fence:
    """Lets a worker check, before it commits a write, that its job still owns the folder."""

    folder: Folder
    name: str

    def at_once(self) -> "Fence":
        """The same fence, without waiting for a storage that does not answer."""
        return replace(self, folder=self.folder.patient(0))

    def check(self) -> None:
        """Raises: RunError if another job has taken the folder over."""
        if not self.folder.exists(self.name):
            raise RunError(
                f"{self.folder.uri}: another job has taken this folder over while this one was "
                "away; it goes on alone, and this one ends"
            )


class Lease:
    """This job's exclusive ownership of a folder, which lasts while it renews its claim."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._name = f".lease-{uuid.uuid4().hex}.json"
        self._renewals = 0
        self._over = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    @property
    def fence(self) -> Fence:
        return Fence(self._folder, self._name)

    @property
    def is_lost(self) -> bool:
        """Whether this job has noticed that another one took the folder over."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raises: RunError if another job has taken the folder over."""
        if self._lost.is_set():
            self.fence.check()

    def claim(self, held: bool) -> None:
        owner = Process.this()
        self._renewals += 1
        about = owner.__dict__ | {"held": held, "renewals": self._renewals}
        self._folder.write_json(self._name, about)

    def withdraw(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._folder.delete_file(self._name)

    def others(self) -> list[Claim]:
        return [claim for claim in claims(self._folder) if claim.name != self._name]

    def at_once(self) -> "Lease":
        """The same lease, without waiting for a storage that does not answer."""
        same = copy.copy(self)
        same._folder = self._folder.patient(0)
        return same

    def keep(self) -> None:
        """Start a thread that renews the claim."""
        self.claim(held=True)
        self._thread.start()

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        # The storage's failure may be the reason that the job ends.
        with contextlib.suppress(OSError, RunError, UserError):
            if not self._lost.is_set():
                self.at_once().withdraw()

    def _keep(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            # During an outage nobody else can take over either.
            with contextlib.suppress(OSError, RunError, UserError):
                # Not waiting behind an attempt that is not answered.
                if not self.at_once()._renew():
                    self._lost.set()
                    return

    def _renew(self) -> bool:
        """Renew the claim. Returns: whether it still exists."""
        if self._folder.is_local:
            # Takes no room, which a full disk has not.
            try:
                os.utime(self._folder.path_of(self._name))
            except FileNotFoundError:
                return False
            return True
        if not self._folder.exists(self._name):
            return False
        self.claim(held=True)
        if any(claim.is_held for claim in self.others()):
            # Deleted by another job just before, and so written once too often.
            self.withdraw()
            return False
        return True


@contextmanager
def only_owner(
    folder: Folder, option: str, tell: Tell = lambda text: None, queue: bool = False
) -> Iterator[Lease]:
    """Own a folder exclusively for the duration of the context.

    Args:
        option: the option that named the folder, for messages.
        tell: called with a line that says what the job is waiting for.
        queue: wait for another job that works there to end, instead of failing.
    Raises: UserError if another job works there; RunError or OSError if the storage fails.
    """
    is_new = not folder.exists()
    lease = Lease(folder)
    try:
        try:
            _take(lease, folder, option, tell, queue)
            lease.keep()
        except BaseException:
            with contextlib.suppress(OSError, RunError, UserError):
                lease.at_once().withdraw()
            raise
        try:
            yield lease
        finally:
            lease.release()
    finally:
        if is_new and folder.is_local:
            # Only where nothing was made.
            with contextlib.suppress(OSError):
                os.rmdir(folder.path)


def _take(lease: Lease, folder: Folder, option: str, tell: Tell, queue: bool) -> None:
    longest = POLL_SECONDS
    for _ in range(MOST_ROUNDS):
        _await_others(lease, folder, option, tell, queue)
        lease.claim(held=False)
        if not lease.others():
            return
        lease.withdraw()
        # Longer from round to round, until it exceeds the time that a claim takes: an object store
        # may be slow to write and list.
        longest = min(2 * longest, LONGEST_PAUSE)
        time.sleep(random.uniform(0, longest))
    raise UserError(
        f"{option}: several jobs start in {folder.uri} at the same time; run the command again"
    )


def _await_others(lease: Lease, folder: Folder, option: str, tell: Tell, queue: bool) -> None:
    """Wait until no live claim is left, and delete the dead ones.

    Raises: UserError if another job works in the folder.
    """
    began = time.monotonic()
    seen: dict[str, Sighting] = {}
    while others := lease.others():
        for claim in others:
            if claim.name not in seen:
                seen[claim.name] = Sighting(claim.state, time.monotonic(), _age(folder, claim.name))
            before = seen[claim.name]
            is_alive = claim.owner.is_running if claim.owner and claim.owner.is_here else None
            if is_alive is None:
                is_alive = before.is_alive(claim)
            if is_alive is None:
                if before.was_alive:
                    tell(_waiting(folder, claim, began))
                    continue
                left = duration(LEASE_SECONDS - (time.monotonic() - before.at))
                tell(f"{folder.uri}: looking whether its last job ({claim}) is alive, {left} left")
            elif not is_alive:
                with contextlib.suppress(FileNotFoundError):
                    folder.delete_file(claim.name)
            elif claim.is_held and not queue:
                raise UserError(
                    f"{option}: another job works in {folder.uri} ({claim}); wait for it, stop "
                    "it, or name another folder"
                )
            else:
                seen[claim.name] = Sighting(claim.state, time.monotonic(), 0.0, was_alive=True)
                tell(_waiting(folder, claim, began))
        time.sleep(POLL_SECONDS)


def _waiting(folder: Folder, claim: Claim, began: float) -> str:
    waited = duration(time.monotonic() - began)
    return f"{folder.uri}: waiting for another job there ({claim}), {waited} so far"


@dataclass(frozen=True)
class Sighting:
    """A claim as it was when its last change was seen.

    Attributes:
        at: time of that, by this process's clock.
        age: time since its last renewal by then, in seconds.
        was_alive: whether its owner was known to be alive then.
    """

    state: tuple[bytes, float | None]
    at: float
    age: float
    was_alive: bool = False

    def is_alive(self, claim: Claim) -> bool | None:
        """Whether the claim's owner is alive; None while that is unclear."""
        if claim.state != self.state:
            return True
        unchanged = time.monotonic() - self.at
        return False if unchanged > LEASE_SECONDS or self.age > FORGOTTEN_SECONDS else None


def claims(folder: Folder) -> list[Claim]:
    """All claims to a folder, live and dead."""
    found = []
    for name in folder.names():
        if CLAIM.fullmatch(name):
            # One that is withdrawn meanwhile is none.
            with contextlib.suppress(FileNotFoundError):
                state = folder.read_bytes(name, MOST_BYTES), folder.modified_at(name)
                found.append(_claim_of(name, state))
    return found


def _claim_of(name: str, state: tuple[bytes, float | None]) -> Claim:
    try:
        values = parse(state[0], name)
        owner = Process(
            machine=values.entry("machine").text(),
            host=values.entry("host").text(),
            pid=values.entry("pid").integer(1, 2**31 - 1),
            started=values.entry("started").text(),
        )
        return Claim(name, state, owner, values.entry("held").flag())
    except UserError:
        # Another version may have written it; its renewals can still be observed.
        return Claim(name, state, None, True)


def _age(folder: Folder, name: str) -> float:
    """Seconds since a file was written, by the storage's own clock."""
    probe = f".probe-{uuid.uuid4().hex}"
    folder.write_bytes(probe, b"")
    try:
        written, now = folder.modified_at(name), folder.modified_at(probe)
    finally:
        folder.delete_file(probe)
    # One that is not there any more was withdrawn just now.
    return now - written if written and now else 0.0
