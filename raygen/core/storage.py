"""Folders at a local path or a URI (s3://, gs://, ...), through pyarrow.fs.

Datasets and runs are read and written through `Folder` alone, so that both work unchanged on a
laptop's disk and on a cluster's object store.
"""

import contextlib
import json
import os
import posixpath
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from raygen.core.checked import DAMAGED, MOST_BYTES, Checked, parse
from raygen.core.errors import StorageError, UserError, reason_of
from raygen.core.paths import LeavesFolder, leads_out
from raygen.core.regular_file import open_regular
from raygen.core.remote_file import RemoteFile, read_up_to
from raygen.core.retry import is_lasting, not_written, patiently
from raygen.core.uris import check_uri

Result = TypeVar("Result")

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
"""Matches the names of files that are being written, or that a killed process left so."""
RESERVED = ":/?#@!$&'()*+,;=%~"
"""Characters with a meaning in a URI, which are not quoted."""

JOBS_COPIES = "/runtime_resources/working_dir_files/"
"""Part of the path of working directories that Ray unpacks for submitted jobs."""


_patience = 0.0


@contextlib.contextmanager
def opened_patiently(seconds: float) -> Iterator[None]:
    """Have all folders that are opened retry for so many seconds during outages.

    For jobs that read many places once they have seen that these are there. Not for two at once.
    """
    global _patience
    _patience = seconds
    try:
        yield
    finally:
        _patience = 0.0


@dataclass(frozen=True)
class Folder:
    """A folder, which need not exist yet.

    Attributes:
        uri: the address as the user wrote it, for messages.
        filesystem: the file system that holds it.
        path: its path inside `filesystem`.
        patience: how long to retry while an object store does not answer, in seconds; 0: a single
            attempt, so that a wrong address is reported at once.
    """

    uri: str
    filesystem: fs.FileSystem = field(compare=False)
    path: str
    patience: float = field(default=0.0, compare=False)

    @staticmethod
    def at(uri: str | os.PathLike[str]) -> "Folder":
        """Open a local path or a URI. Nothing is created or looked up.

        It is not patient, but see `opened_patiently`.

        Raises: UserError if the URI's scheme has no filesystem here, or its host does not answer,
            or if credentials stand in it.
        """
        text = os.fspath(uri)
        check_uri(text)
        if "://" not in text:
            if "\0" in text:
                raise UserError(f"{text}: no path may contain a NUL character; name it again")
            local = os.path.abspath(os.path.expanduser(text))
            return Folder(text, fs.LocalFileSystem(), local)
        try:
            # URIs allow neither spaces nor non-ASCII letters, but users write them.
            filesystem, path = fs.FileSystem.from_uri(quote(text, safe=RESERVED))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ImportError) as error:
            raise UserError(
                f"{text}: no filesystem for this URI ({error}); use a local path, s3:// or gs://"
            ) from error
        except OSError as error:
            raise _unreachable(text, error) from error
        return Folder(text, filesystem, path, _patience)

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def join(self, *names: str) -> "Folder":
        """A folder or file in this one. Raises: LeavesFolder."""
        for name in names:
            self._check_inside(name)
        place, options = self._uri_parts()
        uri = posixpath.join(place, *names) + options
        path = posixpath.join(self.path, *names)
        return replace(self, uri=uri, path=path)

    @property
    def name(self) -> str:
        """The last component of the path."""
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def parent(self) -> "Folder":
        """The folder that contains this folder or file."""
        place, options = self._uri_parts()
        uri = posixpath.dirname(place.rstrip("/")) + options
        return replace(self, uri=uri or ".", path=posixpath.dirname(self.path.rstrip("/")))

    def _uri_parts(self) -> tuple[str, str]:
        """The URI's place, and its options, such as ?region=eu-central-1."""
        place, mark, options = self.uri.partition("?" if "://" in self.uri else "\0")
        return place, mark + options

    def patient(self, seconds: float) -> "Folder":
        """The same folder, retrying for so many seconds during an object store's outages."""
        return replace(self, patience=seconds)

    def patiently(self, operation: Callable[[], Result]) -> Result:
        """Run an operation on this folder's filesystem, retrying during outages.

        Raises: as `retry.patiently`.
        """
        return patiently(operation, 0.0 if self.is_local else self.patience, self.uri)

    def path_of(self, name: str) -> str:
        """The path of an entry inside `filesystem`. Raises: LeavesFolder."""
        self._check_inside(name)
        return posixpath.join(self.path, name)

    def _check_inside(self, name: str) -> None:
        """Raises: LeavesFolder. All names go through here, even from manifests and listings."""
        if leads_out(name):
            raise LeavesFolder(f"{self.uri}: {name!r} leads out of this folder; it is not used")

    def exists(self, name: str = "") -> bool:
        """Whether an entry exists.

        Raises: UserError if it cannot be looked up, or an object store does not answer.
        """
        return bool(self._type(name) != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Whether a file is at this path. Raises: as `exists`."""
        return bool(self._type() == fs.FileType.File)

    def is_folder(self) -> bool:
        """Whether a folder is at this path. Raises: as `exists`."""
        return bool(self._type() == fs.FileType.Directory)

    def _type(self, name: str = "") -> fs.FileType:
        return self._info(name).type

    def _info(self, name: str) -> fs.FileInfo:
        path = self.path_of(name) if name else self.path

        def look() -> fs.FileInfo:
            return self.filesystem.get_file_info(path)

        return self._look_up(look)

    def names(self) -> list[str]:
        """The names of the entries, sorted; empty if the folder does not exist.

        Raises: UserError if it is a file, it cannot be looked up, or an object store does not
            answer.
        """
        names = [info.base_name for info in self._entries()]
        # An object store may list names that no folder on a disk could hold.
        return sorted(name for name in names if not leads_out(name))

    def folders(self) -> list[str]:
        """The names of the folders directly in this one, sorted. Raises: as `names`."""
        folders = (i for i in self._entries() if i.type == fs.FileType.Directory)
        return sorted(info.base_name for info in folders if not leads_out(info.base_name))

    def _entries(self) -> list[fs.FileInfo]:
        def entries() -> list[fs.FileInfo]:
            selector = fs.FileSelector(self.path, allow_not_found=True)
            found: list[fs.FileInfo] = self.filesystem.get_file_info(selector)
            return found

        return self._look_up(entries)

    def _look_up(self, operation: Callable[[], Result]) -> Result:
        try:
            return self.patiently(operation)
        except NotADirectoryError as error:
            raise UserError(f"{self.uri}: is a file; name a folder") from error
        except (OSError, ValueError) as error:
            # A name may be too long for the disk, or hold bytes that pyarrow refuses.
            if self.is_local:
                raise _cannot_look_up(self.uri, error) from error
            # Jobs learn here that credentials are missing or wrong.
            raise _unreachable(self.uri, error) from error

    def sizes(self) -> dict[str, int]:
        """The size in bytes of each file directly in the folder. Raises: as `names`."""
        files = (info for info in self._entries() if info.type == fs.FileType.File)
        return {info.base_name: info.size for info in files}

    def times(self) -> dict[str, float]:
        """When each file directly in the folder was last modified, in Unix seconds.

        Raises: as `names`.
        """
        files = (info for info in self._entries() if info.type == fs.FileType.File)
        return {info.base_name: info.mtime_ns / 1e9 for info in files if info.mtime_ns}

    def modified_at(self, name: str) -> float | None:
        """A file's modification time, by the storage's clock, in Unix seconds; None if unknown."""
        info = self._info(name)
        return info.mtime_ns / 1e9 if info.mtime_ns else None

    def read_bytes(self, name: str, at_most: int | None = None) -> bytes:
        """The content of a file.

        Args: at_most: read only so many bytes from its beginning; None: all.
        Raises: FileNotFoundError.
        """
        if self.is_local:
            # Python opens local files, because pyarrow refuses names that are not UTF-8.
            with open_regular(self.path_of(name)) as file:
                return read_up_to(file, at_most)

        def read() -> bytes:
            with self.join(name).open_file() as file:
                return read_up_to(file, at_most)

        return self.patiently(read)

    def open_file(self) -> pa.NativeFile | RemoteFile:
        """Open the file at this path for reading. Raises: FileNotFoundError, OSError."""

        def opens() -> pa.NativeFile:
            return self.filesystem.open_input_file(self.path)

        return opens() if self.is_local else RemoteFile(opens)

    def read_end(self, name: str, at_most: int) -> bytes:
        """The last bytes of a file; all of them if there are no more than `at_most`.

        Raises: FileNotFoundError.
        """
        if self.is_local:
            with open_regular(self.path_of(name)) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - at_most))
                return read_up_to(file, at_most)

        def read() -> bytes:
            with self.join(name).open_file() as file:
                file.seek(max(0, file.size() - at_most))
                return read_up_to(file, at_most)

        return self.patiently(read)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file so that it is either absent (or as it was) or complete.

        Raises: StorageError if the disk is full, or an object store does not answer any more.
        """
        if self.is_local:
            try:
                self._write_local(name, data)
            except OSError as error:
                if not is_lasting(error):
                    raise
                raise not_written(error, self.join(name).uri) from error
            return

        def write() -> None:
            # These stores have no folders, and pyarrow would write a file for each level.
            if self.filesystem.type_name not in ("s3", "gcs"):
                self.filesystem.create_dir(self.path, recursive=True)
            with self.filesystem.open_output_stream(self.path_of(name)) as stream:
                stream.write(data)

        self.patiently(write)

    def _write_local(self, name: str, data: bytes) -> None:
        os.makedirs(self.path, exist_ok=True)
        # Object stores show a file only once it is closed; a disk needs a rename for that. The
        # temporary name must not look like such a file, or TensorBoard would read it.
        temporary = self.path_of(f".{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path_of(name))
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)

    def read_json(self, name: str) -> Any:
        """Read JSON that only raygen itself writes. Raises: as `read_checked`."""
        return self.read_checked(name).value

    def read_checked(
        self,
        name: str,
        error: type[UserError] = UserError,
        advice: str = DAMAGED,
        at_most: int = MOST_BYTES,
    ) -> Checked:
        """Read JSON as a `Checked` value, which validates each access.

        Args: error, advice: see `Checked`; at_most: largest size of the file, in bytes.
        Raises: FileNotFoundError; UserError, or `error`, if the file cannot be read or is not JSON.
        """
        where = self.join(name).uri
        try:
            data = self.read_bytes(name, at_most + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as problem:
            raise unreadable(where, problem, error) from problem
        if len(data) > at_most:
            raise error(f"{where}: has more than {at_most:,} bytes; {advice}")
        return parse(data, where, error, advice)

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=2) + "\n").encode())

    def delete(self) -> None:
        """Delete the folder and everything in it; does nothing if it does not exist."""

        def delete() -> None:
            if self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound:
                self.filesystem.delete_dir(self.path)

        self.patiently(delete)

    def delete_temporary(self) -> None:
        """Delete what processes that were killed while writing left. Only its owner may do so."""
        for name in self.names():
            if TEMPORARY.fullmatch(name):
                # Another process may have renamed or deleted it meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    self.delete_file(name)

    def delete_file(self, name: str) -> None:
        """Delete a file. Raises: FileNotFoundError."""
        path, begun = self.path_of(name), False

        def delete() -> None:
            nonlocal begun
            try:
                self.filesystem.delete_file(path)
            except FileNotFoundError:
                # An attempt whose answer was lost may have deleted it.
                if not begun:
                    raise
            finally:
                begun = True

        self.patiently(delete)

    def remove(self, name: str) -> None:
        """Delete a file, a folder with everything in it, or a link but not its target.

        Raises: FileNotFoundError.
        """
        kind = self._info(name).type
        if kind == fs.FileType.Directory and not (
            self.is_local and os.path.islink(self.path_of(name))
        ):
            self.join(name).delete()
        elif self.is_local:
            os.remove(self.path_of(name))
        else:
            self.delete_file(name)

    def check_writable(self) -> None:
        """Raises: UserError if files cannot be created here, or would not persist."""
        if self.is_local and JOBS_COPIES in self.path:
            raise UserError(
                f"{self.uri}: lies in this job's copy of the working directory, which Ray deletes; "
                "name a URI, as s3://bucket/folder, or the full path of a folder that all machines "
                "of the cluster share"
            )
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"")
            self.delete_file(probe)
        except (OSError, StorageError) as error:
            raise UserError(
                f"{self.uri}: cannot write there ({error}); choose another folder"
            ) from error


def _cannot_look_up(uri: str, error: OSError | ValueError) -> UserError:
    reason = reason_of(error)
    return UserError(
        f"{uri}: cannot be looked up ({reason}); check the name and the permissions of the folders "
        "above it"
    )


def unreadable(where: str, problem: OSError, error: type[UserError] = UserError) -> UserError:
    """The error for a file that cannot be read, which need not be damaged."""
    reason = reason_of(problem)
    return error(
        f"{where}: cannot be read ({reason}); check its permissions, the disk and the network"
    )


def _unreachable(uri: str, error: OSError | ValueError) -> UserError:
    return UserError(
        f"{uri}: cannot be reached ({error}); check the name, the network and the credentials"
    )
