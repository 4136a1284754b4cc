"""Keeps others out of the Ray that a job starts for itself, on the network and on the machine.

By itself, Ray listens on all interfaces, and every user of the machine may write its folder.
Whoever gets in runs what they like, with the rights and the keys of the job.
"""

import functools
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray._common import utils
from ray._private import ray_constants


@contextmanager
def closed() -> Iterator[dict[str, Any]]:
    """Settings that hold from before a Ray of the job's own starts until it has ended.

    Yields: options of `ray.init`.
    """
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "")
    settings = {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback} if loopback else {}
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        # Passed in the environment only: Ray would write a token file that everybody can read.
        settings["RAY_AUTH_TOKEN"] = _token()
    before = ray_constants.ENABLE_RAY_CLUSTER
    # Where it is off, as on macOS, this machine's address is 127.0.0.1 to Ray, and all of Ray's
    # processes listen there alone. Ray replaces a 127.0.0.1 that it is told.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _environment(settings):
            yield {"_temp_dir": os.path.join(own_folder(), "ray")}
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@functools.cache
def _token() -> str:
    """One for each process: Ray's library keeps the first that it sees, for later Rays as well."""
    return secrets.token_hex(32)


def own_folder() -> str:
    """A folder beside Ray's own that no other user can enter. What Ray makes, all may write."""
    default = utils.get_default_ray_temp_dir()
    folder = f"{default}-{os.getuid()}"
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            # Somebody else was first.
            return tempfile.mkdtemp(prefix="ray-", dir=os.path.dirname(folder))
        os.chmod(folder, 0o700)
    return folder


def is_trusted(record: str) -> bool:
    """Whether a file is this user's or the administrator's: what anybody could have written."""
    try:
        return os.stat(record).st_uid in (0, os.getuid())
    except FileNotFoundError:
        return True


def readable_token() -> str:
    """The file of a cluster's token, if users of this machine besides its owner can read it."""
    if "RAY_AUTH_TOKEN" in os.environ:
        # Then Ray reads no file.
        return ""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    return path if mode & (stat.S_IRGRP | stat.S_IROTH) else ""


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set what is not set already."""
    new = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ |= new
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
