"""A Ray that a job starts on this machine for itself alone: its folder, its priority, its patience.

Ray's defaults suit machines of its own. A job's may be a laptop that does other work besides, or a
container with odd folders; there Ray is slow to start, or needs to be told where to write.
"""

import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from ray._common.utils import get_default_system_temp_dir
from ray._private import node, services
from ray._private.ray_constants import PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET

from raygen.core.errors import UserError, one_line
from raygen.core.signals import ENDING

START_SECONDS = 300
"""Time that a Ray process which is alive gets to start, in seconds."""
RAY_PATH = "/ray-65534/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/dash_TaskEventsHead"
"""The longest path of a socket of Ray's, in the folder for temporary files."""
PATH_BYTES = (103 if sys.platform == "darwin" else 107) - len(RAY_PATH)
"""Most bytes in the path of that folder: the system has a limit for paths of sockets."""
LEAST_FREE = 64 * 2**20
"""Bytes that must be free for Ray's own files. A session without spilled objects needs less."""
PATIENCE = {
    # Ray would run its workers at a niceness of 15 above its own: anything else on the machine,
    # such as an installation, would then all but stop a training.
    "RAY_worker_niceness": "0",
    # A process that is only slow is not dead. Those that are dead are seen at once, by their ids.
    "RAY_gcs_server_port_wait_time_s": str(START_SECONDS),
    "RAY_gcs_server_request_timeout_seconds": str(START_SECONDS),
    "RAY_agent_register_timeout_ms": str(START_SECONDS * 1000),
    # Ray does not see that a worker has died before this time is over, and tries six of them.
    "RAY_worker_register_timeout_seconds": "120",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "20",
}
"""Settings that Ray's processes read from their environment when they start."""


@contextmanager
def prepared() -> Iterator[None]:
    """What a new Ray needs on this machine, from its start until its end.

    Raises: UserError if there is no folder that Ray could work in.
    """
    given = {name: os.environ.get(name, value) for name, value in PATIENCE.items()}
    with _temporary_folder() as elsewhere, _environment(given | elsewhere):
        yield


@contextmanager
def patient_start() -> Iterator[None]:
    """Have `ray.init` wait for processes that are slow, and end them all if it fails.

    Signals that end the job, from a terminal or a scheduler, do not reach Ray's processes, which
    have to save its work: they are in groups of their own, and inherit what is blocked here.
    """
    in_groups = functools.partial(services.ConsolePopen, process_group=0)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(ENDING) - {signal.SIGTERM})
    try:
        with (
            mock.patch.object(node, "Node", PatientNode),
            mock.patch.object(services, "ConsolePopen", in_groups),
        ):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class PatientNode(node.Node):
    """Ray's processes on this machine."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
        except BaseException:
            self.kill_all_processes(check_alive=False)
            raise

    def start_ray_processes(self) -> None:
        # Ray waits for half a minute from here on, whether its processes live or not.
        super().start_ray_processes()  # type: ignore[no-untyped-call]
        deadline = time.monotonic() + START_SECONDS
        while not self._is_lost() and time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):
                services.get_node(self.gcs_address, self._node_id)
                return
            time.sleep(0.1)

    def _is_lost(self) -> bool:
        """Whether a process has ended that Ray cannot do without."""
        ended = self.dead_processes()  # type: ignore[no-untyped-call]
        return any(kind in (PROCESS_TYPE_RAYLET, PROCESS_TYPE_GCS_SERVER) for kind, _ in ended)


def cannot_start(error: Exception) -> UserError:
    """What to tell of a Ray that has failed to start."""
    reason = one_line(error)
    return UserError(
        f"Ray cannot start on this machine ({reason}): it needs free ports on this machine, and a "
        "folder for its files with free space (RAY_TMPDIR names another); --verbose shows more of "
        "what it says"
    )


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables, until the end of the context."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _temporary_folder() -> Iterator[dict[str, str]]:
    """Another folder for temporary files, as environment variables, where Ray cannot use its own.

    It is gone at the end. Raises: UserError if there is no such folder.
    """
    default = get_default_system_temp_dir()
    problem = _problem_of(default)
    if not problem:
        yield {}
        return
    for place in ("/tmp", "/var/tmp", os.path.expanduser("~")):
        # As long as what is made there.
        if not _problem_of(os.path.join(place, "ray-12345678")):
            with tempfile.TemporaryDirectory("", "ray-", place, ignore_cleanup_errors=True) as made:
                # Other programs' sockets are in the second, as those that Ray starts.
                yield {"RAY_TMPDIR": made, "TMPDIR": made}
            return
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    raise UserError(
        f"Ray needs a folder for its files, and {default} {problem}; set {variable} to one that "
        f"can be written, has {LEAST_FREE >> 20} MB free, and whose path has at most {PATH_BYTES} "
        "letters"
    )


def _problem_of(folder: str) -> str:
    """Why a folder for temporary files cannot be used, or nothing. Leaves no trace."""
    if len(os.fsencode(folder)) > PATH_BYTES:
        return "has too long a path"
    existing = Path(folder)
    while not os.path.exists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.NamedTemporaryFile(dir=existing) as file:
            file.write(bytes(2**16))
            file.flush()
        if shutil.disk_usage(existing).free < LEAST_FREE:
            return f"has less than {LEAST_FREE >> 20} MB free"
    except OSError as error:
        return f"cannot be written ({error.strerror or error})"
    return ""
