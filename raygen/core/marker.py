"""How raygen knows a folder that it made, so that it never overwrites or deletes another's.

Runs, sweeps and datasets hold a small file `raygen.json` that says which of them they are: names
such as config.json are everybody's. It is written first and deleted last. To delete is not done in
one go; the file says so from the beginning to the end, so that whoever finds a folder of which a
part is gone can finish.
"""

import contextlib
import re
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from raygen.core.errors import UserError
from raygen.core.storage import Folder

MARKER = "raygen.json"
Kind = Literal["run", "sweep", "dataset"]
TRACES = re.compile(r"\.lease-[0-9a-f]{32}\.json|\.probe-[0-9a-f]{32}|\.[0-9a-f]{32}\.tmp")
"""What jobs that were killed leave in any folder, and what belongs to the job at work."""


@dataclass(frozen=True)
class Marker:
    """What `raygen.json` says.

    Attributes: deleting: the folder's content is being deleted, which may have been cut off.
    """

    raygen: Kind
    deleting: bool = False


def read(folder: Folder) -> Marker | None:
    """The marker of a folder; None if raygen did not make it, as far as this tells."""
    try:
        values = folder.read_json(MARKER)
    except (FileNotFoundError, NotADirectoryError, UserError):
        return None
    if not isinstance(values, dict) or values.get("raygen") not in get_args(Kind):
        return None
    return Marker(values["raygen"], values.get("deleting") is True)


def write(folder: Folder, kind: Kind, deleting: bool = False) -> None:
    """Mark a folder, which is made if it does not exist."""
    folder.write_json(MARKER, asdict(Marker(kind, deleting)))


def contents(folder: Folder) -> list[str]:
    """The names of what a folder holds besides the marker and the traces of jobs."""
    return [n for n in folder.names() if n != MARKER and not TRACES.fullmatch(n)]


def delete_contents(folder: Folder, kind: Kind, own: re.Pattern[str]) -> None:
    """Delete what raygen wrote into a folder, and leave all else there.

    Cut off, it can be repeated: the marker says that it has begun. It stays, and is to be written
    anew when the folder is used again.

    Args: own: names of what raygen writes.
    """
    write(folder, kind, deleting=True)
    for name in folder.names():
        if own.fullmatch(name):
            # An earlier job that was stopped may have done so.
            with contextlib.suppress(FileNotFoundError):
                folder.remove(name)
