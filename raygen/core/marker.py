"""The marker file by which raygen recognises its own folders, so that it never deletes others'.

Runs, sweeps and datasets hold a small file `raygen.json` that names their kind, because many
programs write names such as config.json. It is written first and deleted last. Deleting a folder
may be interrupted; the marker says that it has begun, so that the next job can finish it.
"""

import contextlib
import re
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from raygen.core.errors import UserError
from raygen.core.parallel import for_each
from raygen.core.storage import TEMPORARY, Folder

MARKER = "raygen.json"
FolderKind = Literal["run", "sweep", "dataset"]
TRACES = re.compile(rf"\.lease-[0-9a-f]{{32}}\.json|\.probe-[0-9a-f]{{32}}|{TEMPORARY.pattern}")
"""Matches leftovers of killed jobs and the files of the job that is working in the folder."""


@dataclass(frozen=True)
class Marker:
    """The content of `raygen.json`.

    Attributes: deleting: deletion of the folder's content has begun, and may have been interrupted.
    """

    raygen: FolderKind
    deleting: bool = False


def read(folder: Folder) -> Marker | None:
    """The marker of a folder; None if the folder has none."""
    try:
        values = folder.read_json(MARKER)
    except (FileNotFoundError, NotADirectoryError, UserError):
        return None
    if not isinstance(values, dict) or values.get("raygen") not in get_args(FolderKind):
        return None
    return Marker(values["raygen"], values.get("deleting") is True)


def write(folder: Folder, kind: FolderKind, deleting: bool = False) -> None:
    """Mark a folder as raygen's, creating it if it does not exist."""
    folder.write_json(MARKER, asdict(Marker(kind, deleting)))


def contents(folder: Folder) -> list[str]:
    """Names of a folder's entries, without the marker and the leftovers of jobs."""
    return [n for n in folder.names() if n != MARKER and not TRACES.fullmatch(n)]


def delete_contents(folder: Folder, kind: FolderKind, own: re.Pattern[str]) -> None:
    """Delete what raygen wrote into a folder, and leave everything else.

    An interrupted deletion can be repeated, because the marker says that it has begun. The marker
    stays; the caller rewrites it when the folder is used again.

    Args: own: matches the names that raygen writes.
    """
    write(folder, kind, deleting=True)

    def remove(name: str) -> None:
        # An earlier job that was stopped may have done so.
        with contextlib.suppress(FileNotFoundError):
            folder.remove(name)

    for_each(remove, filter(own.fullmatch, folder.names()))
