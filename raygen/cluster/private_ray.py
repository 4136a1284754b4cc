"""Access protection for a job's private Ray, on the network and on the machine.

By default Ray listens on all interfaces, and every user of the machine may write to its folder.
Whoever gets in can run any code with the permissions and credentials of the job.
"""

import functools
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._common import utils
from ray._private import ray_constants

from raygen.cluster.local_ray import environment


@contextmanager
def closed() -> Iterator[dict[str, Any]]:
    """Apply the protective settings while a private Ray starts, runs and ends.

    Yields: options of `ray.init`.
    """
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "")
    settings = {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback} if loopback else {}
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        # The token is passed in the environment only, because Ray's token file is world-readable.
        settings["RAY_AUTH_TOKEN"] = _token()
    before = ray_constants.ENABLE_RAY_CLUSTER
    # With clusters disabled, as on macOS, Ray takes this machine's address to be 127.0.0.1 and all
    # its processes listen there alone. An explicit 127.0.0.1 would be replaced by Ray.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        # What the user has set counts.
        with environment({n: v for n, v in settings.items() if n not in os.environ}):
            yield {"_temp_dir": os.path.join(own_folder(), "ray")}
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@functools.cache
def _token() -> str:
    """One for each process: Ray's library keeps the first that it sees, for later Rays as well."""
    return secrets.token_hex(32)


def own_folder() -> str:
    """A folder that no other user can enter; Ray makes its own folders world-writable."""
    default = utils.get_default_ray_temp_dir()
    folder = f"{default}-{os.getuid()}"
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            # Another user may have created the folder first.
            return tempfile.mkdtemp(prefix="ray-", dir=os.path.dirname(folder))
        os.chmod(folder, 0o700)
    return folder


def is_trusted(record: str) -> bool:
    """Whether a file belongs to this user or root, so that nobody else can have written it."""
    try:
        return os.stat(record).st_uid in (0, os.getuid())
    except FileNotFoundError:
        return True


def readable_token() -> str:
    """Path of the cluster's token file if other users of this machine can read it, else ""."""
    if "RAY_AUTH_TOKEN" in os.environ:
        # Then Ray reads no file.
        return ""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    return path if mode & (stat.S_IRGRP | stat.S_IROTH) else ""
