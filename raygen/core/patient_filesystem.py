"""A filesystem that retries by itself, for libraries that are given one and do not retry."""

import io
import shutil
import tempfile
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyarrow import fs

from raygen.core.storage import Folder


def patient_filesystem(folder: Folder) -> fs.FileSystem:
    """A folder's filesystem, which retries for as long as `folder.patience`; a disk's as it is.

    Every file is read and written as a whole: an upload begins when its file is closed.
    """
    if folder.is_local:
        return folder.filesystem
    filesystem = folder.filesystem
    if isinstance(filesystem, fs.S3FileSystem):
        # pyarrow calls the handler in the threads in which it would write in the background, and
        # could wait there for itself.
        _, (options,) = filesystem.__reduce__()
        filesystem = fs.S3FileSystem(**options | {"background_writes": False})
    return fs.PyFileSystem(PatientHandler(replace(folder, filesystem=filesystem)))


class PatientHandler(fs.FileSystemHandler):  # type: ignore[misc]
    """What a `pyarrow.fs.PyFileSystem` calls. Each method raises as `retry.patiently`."""

    def __init__(self, folder: Folder) -> None:
        """Args: folder: any folder of the filesystem; its URI is named in messages."""
        self.folder = folder
        self.filesystem = folder.filesystem

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PatientHandler) and other.filesystem == self.filesystem

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        return str(self.filesystem.type_name)

    def normalize_path(self, path: str) -> str:
        return str(self.filesystem.normalize_path(path))

    def _do(self, name: str, *arguments: Any, **options: Any) -> Any:
        method = getattr(self.filesystem, name)
        return self.folder.patiently(lambda: method(*arguments, **options))

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return list(self._do("get_file_info", paths))

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return list(self._do("get_file_info", selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        self._do("create_dir", path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._do("delete_dir", path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._do("delete_dir_contents", path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise PermissionError("the root of a storage is never emptied")

    def delete_file(self, path: str) -> None:
        self._do("delete_file", path)

    def move(self, src: str, dest: str) -> None:
        self._do("move", src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._do("copy_file", src, dest)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        file = Folder(path, self.filesystem, path, self.folder.patience)
        return pa.BufferReader(file.parent.read_bytes(file.name))

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Upload(self, path, metadata), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError("object stores do not append")


class _Upload(io.RawIOBase):
    """A file that is kept on this machine until it is closed, and then uploaded."""

    def __init__(self, handler: PatientHandler, path: str, metadata: Any) -> None:
        self._handler, self._path, self._metadata = handler, path, metadata
        self._content = tempfile.TemporaryFile()  # noqa: SIM115

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._content.write(data)

    def close(self) -> None:
        if not self.closed:
            try:
                self._handler.folder.patiently(self._upload)
            finally:
                self._content.close()
                super().close()

    def _upload(self) -> None:
        self._content.seek(0)
        opened = self._handler.filesystem.open_output_stream(self._path, metadata=self._metadata)
        with opened as stream:
            shutil.copyfileobj(self._content, stream)
