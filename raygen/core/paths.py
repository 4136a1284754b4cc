"""Safe local paths from untrusted names: in object store listings, manifests and runs."""

import os
from pathlib import PureWindowsPath

from raygen.core.errors import UserError

LONGEST = 255
"""Longest name of a file or folder that common file systems allow, in bytes."""


class LeavesFolder(UserError):
    """A name, joined to its folder, would lead out of it."""


def leads_out(name: str) -> bool:
    """Whether a name with / between its parts leads out of the folder that it is joined to."""
    return name.startswith("/") or "\0" in name or ".." in name.split("/")


def inside(folder: str, name: str) -> str:
    """The local path of a file in a folder, by a name that came from outside.

    Refuses names that could not be a file's in any folder, names that another operating system
    would read as a path elsewhere, and names that lead through a symbolic link below the folder.

    Args: folder: may itself be a link; name: with / between folders.
    Raises: LeavesFolder.
    """
    parts = name.split("/")
    elsewhere = "\\" in name or PureWindowsPath(name).drive
    if leads_out(name) or elsewhere or not all(map(_is_file_name, parts)):
        raise LeavesFolder(f"{name!r}: is no name of a file in its folder; it is not read")
    path = os.path.join(os.path.realpath(folder), *parts)
    if os.path.realpath(path) != path:
        raise LeavesFolder(f"{name!r}: leads through a symbolic link; it is not read")
    return path


def _is_file_name(part: str) -> bool:
    try:
        length = len(part.encode())
    except UnicodeEncodeError:
        return False
    return part not in ("", ".", "..") and length <= LONGEST
