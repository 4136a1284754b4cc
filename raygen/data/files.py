"""Files of a folder, zip or tar, on a disk or in an object store, read one by one, not unpacked."""

import errno
import functools
import hashlib
import io
import lzma
import os
import posixpath
import struct
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import fs

from raygen.data.images import MAX_FILE_BYTES, SUFFIXES, BadImage
from raygen.errors import UserError
from raygen.storage import Folder

Kind = Literal["folder", "zip", "tar"]
COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
"""First bytes of what may be a compressed tar, and the program that undoes it."""
BOMB_RATIO, BOMB_BYTES = 100, 10 * 2**20
"""A file in a zip that is larger, and unpacks to more times its size, is made to fill memory."""
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, EOFError)
UNREADABLE_ERRORS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR)
"""That a single file has, while others are well."""
UNREADABLE = "cannot be read"
"""The reason given for a file that is there but does not open."""
SMALLEST_ZIP = 98
"""Bytes of a zip with one empty file."""
READ_AHEAD = 64 * 2**10
"""Bytes of an archive that are read at once while its files are listed."""
ZIP_HEADER = struct.Struct("<4s22xHH")
"""What is before each file in a zip: a signature, ..., the lengths of the name and of the extra
field that follow. Source: APPNOTE.TXT, 4.3.7."""
EXTRA_BYTES = 256
"""More than most extra fields have: they are read with the file, in one request."""


class Entry(NamedTuple):
    """A file as it is listed.

    Attributes:
        size: in bytes.
        start: where it begins in the archive, in a zip with its header; -1 for what has no bytes
            of its own, such as a link.
        packed: bytes that it takes in a zip; method, crc: how it is compressed there, and its
            CRC-32.
    """

    path: str
    size: int
    start: int = 0
    packed: int = 0
    method: int = 0
    crc: int = 0


NUMBERS = np.dtype([(name, np.int64) for name in Entry._fields[1:]])


@dataclass(frozen=True)
class Files:
    """The image files of a folder or archive, in the order of their paths.

    Attributes:
        place: the folder, or the archive.
        paths: of the files in it, with / between folders.
        numbers: (files,) of `NUMBERS`: the other fields of each `Entry`.
        ignored: paths of other files.
        opened: tells this archive from another one at the same place, read earlier or later.
    """

    place: Folder
    kind: Kind
    paths: list[str]
    numbers: np.ndarray
    ignored: list[str]
    opened: str

    @staticmethod
    def open(uri: str, option: str) -> "Files":
        """List the files of a folder, zip or tar.

        Args: uri: local or not; option: that it was given by, for messages.
        Raises: UserError if there is nothing, or if it is unreadable or not to be trusted.
        """
        place = Folder.at(uri)
        said = f"{option} {uri}"
        try:
            kind = _kind(place, said)
            found = sorted(_LISTS[kind](place, said))
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{said}: is damaged ({error}); download it again") from error
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{said}: cannot be read ({reason}); check path and permissions"
            ) from error
        images = [entry for entry in found if _is_image(entry.path)]
        kept = {entry.path for entry in images}
        return Files(
            place,
            kind,
            [entry.path for entry in images],
            np.array([entry[1:] for entry in images], NUMBERS),
            [entry.path for entry in found if entry.path not in kept],
            uuid.uuid4().hex,
        )

    @property
    def sizes(self) -> np.ndarray:
        """(files,) int64, in bytes."""
        sizes: np.ndarray = self.numbers["size"]
        return sizes

    def read(self, number: int) -> bytes:
        """The content of a file. Several threads may read at once.

        Raises: BadImage if it cannot be read; OSError if a disk fails.
        """
        entry = Entry(self.paths[number], *self.numbers[number].tolist())
        if max(entry.size, entry.packed) > MAX_FILE_BYTES:
            raise BadImage(f"too large: a file of {max(entry.size, entry.packed):,} bytes")
        if entry.start < 0:
            raise BadImage("a link or device, not a file")
        try:
            if self.kind == "zip":
                return _unpacked(_open_archive(self.place, self.opened), entry)
            if self.kind == "tar":
                archive = _open_archive(self.place, self.opened)
                return bytes(archive.read_at(entry.size, entry.start))
            return self.place.read_bytes(entry.path)
        except DAMAGED as error:
            raise BadImage(f"cannot be unpacked: {error}") from error
        except OSError as error:
            # What bzip2 raises for damaged data has no number.
            if self.kind == "zip" and str(error) == "Invalid data stream":
                raise BadImage(f"cannot be unpacked: {error}") from error
            if error.errno in UNREADABLE_ERRORS:
                raise BadImage(f"{UNREADABLE} ({error.strerror})") from error
            raise

    def digest(self) -> str:
        """Equal for the same listing: paths and sizes, and a zip's checksums of the contents."""
        checksums = self.numbers["crc"].tobytes() if self.kind == "zip" else b""
        text = "\0".join(self.paths).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text + self.sizes.tobytes() + checksums).hexdigest()


def display(path: str) -> str:
    """A path as text that can be stored: bytes that are no UTF-8 are written as \\udc.."""
    return path.encode("utf-8", "backslashreplace").decode()


def common_folder(paths: list[str]) -> str:
    """The folders that all paths begin with, with a / at the end, or nothing."""
    # All others lie between these two, and begin with what they share.
    ends = [posixpath.dirname(path) for path in (min(paths), max(paths))] if paths else [""]
    shared = posixpath.commonpath(ends)
    return f"{shared}/" if shared else ""


def _is_image(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    # macOS puts files of metadata beside images, under their names with ._ before them.
    hidden = name.startswith("._") or path.startswith("__MACOSX/")
    return name.lower().endswith(SUFFIXES) and not hidden


def _kind(place: Folder, said: str) -> Kind:
    info = place.filesystem.get_file_info(place.path)
    if info.type == fs.FileType.NotFound:
        raise UserError(f"{said}: no such file or folder; name a folder, zip or tar of images")
    if info.type == fs.FileType.Directory:
        return "folder"
    with _raw(place) as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if _is_tar(head):
        return "tar"
    for mark, program in COMPRESSED.items():
        if head.startswith(mark):
            raise UserError(
                f"{said}: is compressed as a whole, so its images cannot be read one by one; "
                f"decompress it first ({program}) and name the tar"
            )
    raise UserError(f"{said}: cannot be read as a folder, zip or tar; download it again")


def _is_tar(head: bytes) -> bool:
    """Whether a file begins with a tar's header, whose checksum is right."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _list_folder(place: Folder, said: str) -> Iterator[Entry]:
    if not place.is_local:
        selector = fs.FileSelector(place.path, recursive=True)
        for info in place.filesystem.get_file_info(selector):
            if info.type == fs.FileType.File:
                yield Entry(info.path[len(place.path) :].lstrip("/"), info.size)
        return

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(place.path, onerror=fail, followlinks=True):
        folders.sort()
        if _leads_back(folder, place.path):
            folders.clear()
            continue
        for name in names:
            path = os.path.join(folder, name)
            size = os.path.getsize(path) if os.path.isfile(path) else 0
            yield Entry(os.path.relpath(path, place.path), size)


def _leads_back(folder: str, top: str) -> bool:
    """Whether a folder is, through a link, one of those above it."""
    real, above = os.path.realpath(folder), folder
    while above != top:
        above = os.path.dirname(above)
        if os.path.realpath(above) == real:
            return True
    return False


def _list_zip(place: Folder, said: str) -> Iterator[Entry]:
    packed = place.filesystem.get_file_info(place.path).size
    if packed < SMALLEST_ZIP:
        # zipfile would look for its directory before its beginning, which pyarrow does not allow.
        return
    with zipfile.ZipFile(_buffered(place)) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
    # Other files are never read, whatever they unpack to.
    images = [info for info in infos if _is_image(info.filename)]
    total = sum(info.file_size for info in images)
    bombs = [
        info.filename
        for info in images
        if info.file_size > max(BOMB_BYTES, BOMB_RATIO * info.compress_size)
    ]
    if bombs or total > max(BOMB_BYTES, BOMB_RATIO * packed):
        raise UserError(
            f"{said}: unpacks to {total:,} bytes from {packed:,} "
            f"({bombs[0] if bombs else 'its files share their bytes'}); it looks like a zip bomb "
            "and is not read: if it is none, unpack it and name the folder"
        )
    for info in infos:
        _check_inside(info.filename, said)
        if info.flag_bits & 1:
            raise UserError(f"{said}: {info.filename} is encrypted; unpack it with its password")
        yield Entry(
            info.filename,
            info.file_size,
            info.header_offset,
            info.compress_size,
            info.compress_type,
            info.CRC,
        )


def _list_tar(place: Folder, said: str) -> Iterator[Entry]:
    with (
        _buffered(place) as file,
        tarfile.open(fileobj=file, mode="r:") as archive,
    ):
        for member in archive:
            _check_inside(member.name, said)
            if not member.isdir():
                path = member.name.removeprefix("./")
                plain = member.isreg() and not member.issparse()
                yield Entry(path, member.size, member.offset_data) if plain else Entry(path, 0, -1)
            # tarfile would keep them all.
            archive.members = []  # type: ignore[attr-defined]
        # It takes a damaged header for the end of the archive, which is a block of zeros.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends before its end, or a part of it is not readable")


_LISTS = {"folder": _list_folder, "zip": _list_zip, "tar": _list_tar}


def _check_inside(path: str, said: str) -> None:
    """Raises: UserError if an archive's path leads out of it."""
    windows = PureWindowsPath(path)
    absolute = path.startswith("/") or windows.drive or windows.root
    if absolute or ".." in (*PurePosixPath(path).parts, *windows.parts):
        raise UserError(
            f"{said}: names a file outside itself ({path}); such archives are made to overwrite "
            "files, and it is not read"
        )


def _raw(place: Folder) -> pa.NativeFile:
    return place.filesystem.open_input_file(place.path)


def _buffered(place: Folder) -> io.BufferedReader:
    return io.BufferedReader(_raw(place), READ_AHEAD)


@functools.lru_cache(maxsize=4)
def _open_archive(place: Folder, opened: str) -> pa.NativeFile:
    """An archive that all threads read from, each at places of its own."""
    return _raw(place)


def _unpacked(archive: pa.NativeFile, entry: Entry) -> bytes:
    """A zip's file. ZipFile itself would read one at a time, after reading the list of them all.

    Raises: one of DAMAGED; OSError.
    """
    data = b""
    wanted = ZIP_HEADER.size + len(entry.path) + EXTRA_BYTES + entry.packed
    for _ in range(2):
        if entry.start < archive.size():
            data = archive.read_at(wanted, entry.start)
        if len(data) < ZIP_HEADER.size:
            raise EOFError("it ends before its end")
        signature, name, extra = ZIP_HEADER.unpack_from(data)
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile("it does not begin where the zip's list says")
        begin = ZIP_HEADER.size + name + extra
        if len(data) >= begin + entry.packed:
            break
        wanted = begin + entry.packed
    info = zipfile.ZipInfo(entry.path)
    info.file_size, info.compress_size = entry.size, entry.packed
    info.compress_type, info.CRC = entry.method, entry.crc
    with zipfile.ZipExtFile(io.BytesIO(data[begin : begin + entry.packed]), "r", info) as file:
        # Never more than the list says: it may lie to fill memory.
        return file.read(entry.size + 1)
