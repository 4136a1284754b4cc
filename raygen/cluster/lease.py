"""One job at a time in a folder, kept through the folder itself.

Two jobs that share a folder need not share anything else: each may have started a Ray of its own,
on one machine or on two. So a job leaves a claim in the folder, a small file that it renews as long
as it lives, and respects the claims of others. This needs no more of a storage than that a file
which was written is listed, so that it works on a disk and in an object store alike:

- a job that finds no living claim writes its own and looks again. Of two that do this at once at
  least one sees both claims; a job that sees another's withdraws its own and tries again later;
- a claim of this machine is dead once its process is. One of another machine is dead if it was not
  renewed while it was watched for `LEASE_SECONDS`, or for `FORGOTTEN_SECONDS` before;
- whoever takes a folder over deletes the dead claim, so that an owner that was only away, such as
  a laptop that slept, finds out and stops.
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
"""Name of a claim."""
LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
FORGOTTEN_SECONDS = 3600.0
POLL_SECONDS = 0.5
MOST_BYTES = 2**16
"""Bytes of a claim that are read; a real one is far smaller."""
MOST_ROUNDS = 20
"""Attempts to be alone; each waits for a random time, so that few are needed."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Process:
    """Which process, of which machine.

    Attributes:
        machine: equal for processes that can look each other up by number.
        started: when, in the machine's own clock ticks; tells it from a later one of this number.
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
        """Whether this process still runs, if it is one of this machine; None if it hides that."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # Somebody else's, but there.
            pass
        started = _started(self.pid)
        if not started:
            # Of another user, or no Linux: its number may be that of a later process.
            return None
        return started == self.started


def _machine() -> str:
    # Containers may share a name, but then not their process numbers.
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        parts.append(file.read().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before it may hold spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        # Not Linux: the number alone has to do.
        return ""
    # A process that has ended, but that nobody has asked about, does nothing any more.
    return "ended" if fields[0] == b"Z" else fields[19].decode()


@dataclass(frozen=True)
class Claim:
    """What is known of a job's claim to a folder.

    Attributes:
        state: the file's content and time, one of which changes whenever it is renewed.
        owner: None if the content does not say.
        is_held: whether its owner works in the folder; if not, it is only about to.
    """

    name: str
    state: tuple[bytes, float | None]
    owner: Process | None
    is_held: bool

    def __str__(self) -> str:
        return f"process {self.owner.pid} on {self.owner.host}" if self.owner else "unknown"


@dataclass(frozen=True)
class Fence:
    """What a worker asks before it writes for good: whether the job it works for is still in."""

    folder: Folder
    name: str

    def at_once(self) -> "Fence":
        """The same fence, which does not wait for a storage that does not answer."""
        return replace(self, folder=self.folder.patient(0))

    def check(self) -> None:
        """Raises: RunError if another job has taken the folder over."""
        if not self.folder.exists(self.name):
            raise RunError(
                f"{self.folder.uri}: another job has taken this folder over while this one was "
                "away; it goes on alone, and this one ends"
            )


class Lease:
    """A folder of which this job is the only owner, as long as it renews its claim."""

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
        """Whether another job has taken the folder over, as far as this one has noticed."""
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
        """The same lease, which does not wait for a storage that does not answer."""
        same = copy.copy(self)
        same._folder = self._folder.patient(0)
        return same

    def keep(self) -> None:
        """Renew the claim from now on, in a thread."""
        self.claim(held=True)
        self._thread.start()

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        # It may be the storage that ended the job.
        with contextlib.suppress(OSError, RunError, UserError):
            if not self._lost.is_set():
                self.at_once().withdraw()

    def _keep(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            # While the storage is away, nobody else can take over either.
            with contextlib.suppress(OSError, RunError, UserError):
                # Not waiting behind an attempt that is not answered.
                if not self.at_once()._renew():
                    self._lost.set()
                    return

    def _renew(self) -> bool:
        """Show that the owner lives. Returns: whether the claim still stands."""
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
    """Work in a folder alone.

    Args:
        option: that named the folder, for messages.
        tell: called with a line about what is waited for.
        queue: wait for another job that works there to end, in place of being refused.
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
    for _ in range(MOST_ROUNDS):
        _await_others(lease, folder, option, tell, queue)
        lease.claim(held=False)
        if not lease.others():
            return
        lease.withdraw()
        time.sleep(random.uniform(0, 2 * POLL_SECONDS))
    raise UserError(
        f"{option}: several jobs start in {folder.uri} at the same time; run the command again"
    )


def _await_others(lease: Lease, folder: Folder, option: str, tell: Tell, queue: bool) -> None:
    """Wait until no living claim is left, and delete the dead ones.

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
    """A claim as it was when it was last seen to be new.

    Attributes:
        at: when that was, by this process's clock.
        age: seconds for which it had not been renewed by then.
        was_alive: whether its owner is known to have lived then.
    """

    state: tuple[bytes, float | None]
    at: float
    age: float
    was_alive: bool = False

    def is_alive(self, claim: Claim) -> bool | None:
        """Whether the claim's owner lives; None as long as that is not clear."""
        if claim.state != self.state:
            return True
        unchanged = time.monotonic() - self.at
        return False if unchanged > LEASE_SECONDS or self.age > FORGOTTEN_SECONDS else None


def claims(folder: Folder) -> list[Claim]:
    """The claims to a folder, living and dead."""
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
        # Not raygen's, or another version's: whether it is renewed can still be seen.
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
