"""Outputs that users ask for: checked before the work starts, complete or absent after it."""

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from raygen.core.errors import UserError
from raygen.core.retry import is_lasting, not_written
from raygen.core.storage import Folder

COPY_BYTES = 8 * 2**20


def file_to_write(option: str, uri: str, default: str) -> Folder:
    """The file that an option names, or the default name inside a folder that it names.

    Args: uri: what the user wrote; empty: the default name in the current folder.
    Raises: UserError if no file can be written there.
    """
    place = Folder.at(uri or default)
    if uri.endswith(("/", os.sep)) or (uri and place.is_folder()):
        place = place.join(default)
    if place.is_folder():
        raise UserError(f"{option} {place.uri}: is a folder; name a file")
    place.parent.check_writable()
    return place


def folder_to_write(option: str, uri: str) -> Folder:
    """The folder that an option names, which need not exist yet.

    Raises: UserError if there is a file, or something on the way to it is one.
    """
    place = above = Folder.at(uri)
    while above.is_local and not above.exists() and above.parent.path != above.path:
        above = above.parent
    if above.exists() and not above.is_folder():
        raise UserError(f"{option} {uri}: {above.uri} is a file; name a folder")
    return place


@contextlib.contextmanager
def writing(file: Folder) -> Iterator[BinaryIO]:
    """Open a file to write piece by piece; it appears only when it is complete.

    For an object store it is kept on this machine's disk until then.

    Raises: StorageError if the disk is full.
    """
    place = file.parent
    near = place.path if place.is_local else tempfile.gettempdir()
    temporary = os.path.join(near, f".{uuid.uuid4().hex}.tmp")
    try:
        os.makedirs(near, exist_ok=True)
        with open(temporary, "w+b") as opened:
            yield opened
            opened.flush()
            if place.is_local:
                os.fsync(opened.fileno())
        if place.is_local:
            os.replace(temporary, file.path)
        else:
            file.patiently(lambda: _upload(temporary, file))
    except OSError as error:
        if not is_lasting(error) and error.errno != errno.EISDIR:
            raise
        raise not_written(error, file.uri) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _upload(path: str, file: Folder) -> None:
    with open(path, "rb") as source, file.filesystem.open_output_stream(file.path) as stream:
        shutil.copyfileobj(source, stream, COPY_BYTES)


def free_bytes(place: Folder) -> float:
    """Free bytes on the disk of a folder, which need not exist; infinite for object stores."""
    if not place.is_local:
        return float("inf")
    path = place.path
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return float(shutil.disk_usage(path).free)
