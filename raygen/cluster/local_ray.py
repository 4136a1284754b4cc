"""A private Ray that a job starts on this machine: its folder, its priority, its timeouts.

Ray's defaults suit dedicated machines. A job may run on a laptop that does other work too, or in a
container with unusual folders, where Ray starts slowly or needs to be told where to write.
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
"""Longest path of a Ray socket below the folder for temporary files."""
PATH_BYTES = (103 if sys.platform == "darwin" else 107) - len(RAY_PATH)
"""Longest path of that folder, in bytes: the system limits the paths of sockets."""
LEAST_FREE = 64 * 2**20
"""Free space required for Ray's files, in bytes. A session that spills nothing needs less."""
PATIENCE = {
    # Ray would run its workers at a niceness of 15 above its own: anything else on the machine,
    # such as an installation, would then all but stop a training.
    "RAY_worker_niceness": "0",
    # Slow processes are not dead; dead ones are noticed at once, by their ids.
    "RAY_gcs_server_port_wait_time_s": str(START_SECONDS),
    "RAY_gcs_server_request_timeout_seconds": str(START_SECONDS),
    "RAY_agent_register_timeout_ms": str(START_SECONDS * 1000),
    # Ray notices a worker that died at start only after this time, and tries six of them.
    "RAY_worker_register_timeout_seconds": "120",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "20",
    # Nobody takes this machine away, so there is no need for a process that looks out for that.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray Train asks its workers only so often, in seconds, and so notices their end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
"""Settings that Ray's processes read from their environment when they start."""


@contextmanager
def prepared() -> Iterator[None]:
    """Prepare this machine for a private Ray, until the context ends.

    Raises: UserError if there is no folder that Ray could work in.
    """
    given = {name: os.environ.get(name, value) for name, value in PATIENCE.items()}
    with _temporary_folder() as elsewhere, environment(given | elsewhere):
        yield


@contextmanager
def patient_start() -> Iterator[None]:
    """Make `ray.init` wait for slow processes, and end them all if it fails.

    Signals that end the job, from a terminal or a scheduler, must not reach Ray's processes, which
    still have to save the job's work: they get their own process groups and inherit the signal mask
    that is set here.
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
    """Ray's node on this machine, with more patience while its processes start."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
        except BaseException:
            self.kill_all_processes(check_alive=False)
            raise

    def start_ray_processes(self) -> None:
        # From here on Ray waits for only half a minute, whether its processes live or not.
        super().start_ray_processes()  # type: ignore[no-untyped-call]
        deadline = time.monotonic() + START_SECONDS
        while not self._is_lost() and time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):
                services.get_node(self.gcs_address, self._node_id)
                return
            time.sleep(0.1)

    def _is_lost(self) -> bool:
        """Whether an essential process of Ray has ended."""
        ended = self.dead_processes()  # type: ignore[no-untyped-call]
        return any(kind in (PROCESS_TYPE_RAYLET, PROCESS_TYPE_GCS_SERVER) for kind, _ in ended)


def cannot_start(error: Exception) -> UserError:
    """The error to raise if Ray has failed to start."""
    reason = one_line(error)
    return UserError(
        f"Ray cannot start on this machine ({reason}): it needs free ports on this machine, and a "
        "folder for its files with free space (RAY_TMPDIR names another); --verbose shows more of "
        "what it says"
    )


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables until the context ends."""
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
    """Yield environment variables that give Ray another temporary folder if it needs one.

    The folder is deleted at the end. Raises: UserError if no folder is usable.
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
    """Why a folder for temporary files cannot be used; "" if it can. Leaves no trace."""
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
