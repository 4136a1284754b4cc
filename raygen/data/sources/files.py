"""Files of a folder, zip or tar, on a disk or in an object store, read one by one, not unpacked."""

import contextlib
import errno
import functools
import hashlib
import io
import os
import posixpath
import re
import stat
import struct
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import fs

from raygen.core.errors import StorageError, UserError, one_line, reason_of
from raygen.core.printable import printable
from raygen.core.regular_file import open_regular
from raygen.core.storage import Folder
from raygen.data.file_types import HEAD_BYTES, is_unread_picture, unread_type
from raygen.data.images import MAX_FILE_BYTES, SUFFIXES, BadImage

Container = Literal["folder", "zip", "tar"]
COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
"""First bytes of what may be a compressed tar, and the program that undoes it."""
ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04", b"PK00PK\x03\x04")
"""First bytes of zips: with files, empty, and once meant to be split over several disks."""
SINGLE_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
BOMB_RATIO, BOMB_BYTES = 100, 10 * 2**20
"""A zip bomb's least ratio of unpacked to packed size, and its least size in bytes."""
UNREADABLE_ERRORS = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    # Pipes, sockets and devices raise these.
    errno.EINVAL,
    errno.ENXIO,
    errno.ENODEV,
)
"""Errors that concern one file while the rest of the folder is readable."""
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
"""Bytes read for extra fields, which rarely have more, so that one request reads the file too."""
UTF8_NAME, UNICODE_PATH = 0x800, 0x7075
"""A zip's flag of names in UTF-8, and the extra field that holds such a name beside an older one.
Source: APPNOTE.TXT, 4.4.4 and 4.6.9."""
SERVICE_FOLDERS = frozenset(
    (
        # macOS's archives; Windows; Linux's file systems.
        "__macosx",
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        "found.000",
        "lost+found",
        # NAS systems: Synology, QNAP, NetApp.
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        "@tmp",
        "~snapshot",
    )
)
"""Folders, in lower case, of systems that keep copies, previews and deleted files in them. Others
begin with a dot, as .git, .ipynb_checkpoints, .thumbnails and .Trash-1000 do."""
LINKS_FOLLOWED = 8
"""Links in a tar are followed this many times, so that a loop of them ends."""


class Entry(NamedTuple):
    """A file as it is listed.

    Attributes:
        size: in bytes.
        start: where it begins in the archive, in a zip with its header; -1 for what is no file,
            such as a link that leads nowhere, or a pipe.
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

    Pictures of kinds that are not read are among them, so that they are counted.

    Attributes:
        place: the folder, or the archive.
        paths: of the files in it, with / between folders.
        numbers: (files,) of `NUMBERS`: the other fields of each `Entry`.
        ignored: paths of other files; of hidden folders, their own path, with a / at the end.
        opened: tells this archive from another one at the same place, read earlier or later.
        notes: what users should know of the listing, a sentence each.
    """

    place: Folder
    container: Container
    paths: list[str]
    numbers: np.ndarray
    ignored: list[str]
    opened: str
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def open(uri: str, option: str) -> "Files":
        """List the files of a folder, zip or tar.

        Args: uri: local or not; option: that it was given by, for messages.
        Raises: UserError if there is nothing, or if it is unreadable, encrypted, or a zip bomb.
        """
        place = Folder.at(uri)
        said = f"{option} {uri}"
        try:
            container = _container(place, said)
            listed = list(_LISTS[container](place, said))
        except UserError:
            raise
        except (OSError, UnicodeEncodeError) as error:
            # An object store's own words say more than the system's.
            reason = reason_of(error) if place.is_local else one_line(error)
            raise UserError(
                f"{said}: cannot be read ({reason}); check path and permissions"
            ) from error
        # The libraries that read archives report damage with many exceptions.
        except Exception as error:
            raise UserError(f"{said}: is damaged ({error}); download it again") from error
        # A name that an archive has twice means its last file, as after unpacking it.
        found = {entry.path: entry for entry in listed}
        hidden = {path: hidden_part(path) for path in found}
        images = [found[path] for path in sorted(found) if not hidden[path] and _is_image(path)]
        kept = {entry.path for entry in images}
        notes = []
        if len(found) < len(listed):
            again = next(e.path for e in listed if found[e.path] is not e)
            notes.append(
                f"names that {uri} holds more than once: {len(listed) - len(found):,}, as "
                f"{printable(again)}; the last file of each counts"
            )
        return Files(
            place,
            container,
            [entry.path for entry in images],
            np.array([entry[1:] for entry in images], NUMBERS),
            sorted({hidden[path] or path for path in found if path not in kept}),
            uuid.uuid4().hex,
            notes,
        )

    @property
    def names(self) -> list[str]:
        """The paths as most systems write them; archives' paths are that already."""
        return [plain_path(path) for path in self.paths]

    def patient(self, seconds: float) -> "Files":
        """The same files, for a job that outlasts its object store's outages."""
        return replace(self, place=self.place.patient(seconds))

    @property
    def sizes(self) -> np.ndarray:
        """(files,) int64, in bytes."""
        sizes: np.ndarray = self.numbers["size"]
        return sizes

    def read(self, number: int) -> bytes:
        """The content of a file. Several threads may read at once.

        Raises: BadImage if it cannot be read; OSError if a disk fails; StorageError if an object
            store does not answer any more.
        """
        entry = Entry(self.paths[number], *self.numbers[number].tolist())
        if max(entry.size, entry.packed) > MAX_FILE_BYTES:
            raise BadImage(f"too large: a file of {max(entry.size, entry.packed):,} bytes")
        if entry.start < 0:
            raise BadImage("a link that leads nowhere, a pipe, or a device, not a file")
        try:
            if self.container == "zip":
                return self.place.patiently(
                    lambda: _unpacked(_open_archive(self.place, self.opened), entry)
                )
            if self.container == "tar":
                return self.place.patiently(
                    lambda: bytes(
                        _open_archive(self.place, self.opened).read_at(entry.size, entry.start)
                    )
                )
            if self.place.is_local:
                with open_regular(self.place.path_of(entry.path)) as file:
                    # It may have grown.
                    return file.read(MAX_FILE_BYTES)
            return self.place.read_bytes(entry.path)
        except OSError as error:
            # What bzip2 raises for damaged data has no number.
            if self.container == "zip" and str(error) == "Invalid data stream":
                raise BadImage(f"cannot be unpacked: {error}") from error
            if error.errno in UNREADABLE_ERRORS:
                raise BadImage(f"{UNREADABLE} ({error.strerror})") from error
            raise
        except StorageError:
            raise
        except Exception as error:
            # zipfile, zlib, lzma and struct report damage with many exceptions.
            reason = one_line(error)
            raise BadImage(f"cannot be unpacked: {reason}") from error

    def digest(self) -> str:
        """Equal for the same listing: paths and sizes, and a zip's checksums of the contents."""
        checksums = self.numbers["crc"].tobytes() if self.container == "zip" else b""
        text = "\0".join(self.paths).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text + self.sizes.tobytes() + checksums).hexdigest()


def common_folder(paths: list[str]) -> str:
    """The folders that all paths begin with, with a / at the end, or nothing."""
    # All others lie between these two, and begin with what they share.
    ends = [posixpath.dirname(path) for path in (min(paths), max(paths))] if paths else [""]
    shared = posixpath.commonpath(ends)
    return f"{shared}/" if shared else ""


def plain_path(path: str) -> str:
    """A path as most systems write it: with / between folders, and below the place it is in.

    Archives from Windows have backslashes and drives; others have absolute paths, or go up. As
    nothing is unpacked, such a path is only a name.
    """
    if not _ODD_PATH.search(path):
        return path
    parts: list[str] = []
    for part in re.sub(r"^[A-Za-z]:(?=/)", "", path.replace("\\", "/")).split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


_ODD_PATH = re.compile(r"\\|^/|//|(^|/)\.\.?(/|$)|^[A-Za-z]:/")


def hidden_part(path: str) -> str:
    """The hidden file, or with a / the hidden folder, that a path leads to or through; or nothing.

    What systems put beside users' files has names that begin with a dot, such as macOS's ._1.jpg
    beside 1.jpg, or lies in folders of their own.
    """
    if not _HIDDEN.search(path):
        return ""
    parts = path.split("/")
    for number, part in enumerate(parts, start=1):
        if _is_hidden(part, number < len(parts)):
            return "/".join(parts[:number]) + ("/" if number < len(parts) else "")
    return ""


_HIDDEN = re.compile(
    r"(^|/)\.|(^|/)(" + "|".join(map(re.escape, sorted(SERVICE_FOLDERS))) + ")/", re.IGNORECASE
)


def _is_hidden(name: str, is_folder: bool) -> bool:
    return name.startswith(".") or (is_folder and name.lower() in SERVICE_FOLDERS)


def _is_image(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) or is_unread_picture(path)


def _container(place: Folder, said: str) -> Container:
    info = place.filesystem.get_file_info(place.path)
    if info.type == fs.FileType.NotFound:
        raise UserError(f"{said}: no such file or folder; name a folder, zip or tar of images")
    if info.type == fs.FileType.Directory:
        return "folder"
    if info.type != fs.FileType.File:
        raise UserError(f"{said}: is a pipe, socket or device; name a folder, zip or tar of images")
    with _raw(place) as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(ZIP_BEGINNINGS):
        return "zip"
    if _is_tar(head):
        return "tar"
    for mark, program in COMPRESSED.items():
        if head.startswith(mark):
            raise UserError(
                f"{said}: is compressed as a whole, so its images cannot be read one by one; "
                f"decompress it first ({program}) and name the tar"
            )
    found = unread_type(head)
    if found and found.group == "archive":
        raise UserError(f"{said}: is {found.name}; unpack it and name the folder")
    if found:
        raise UserError(f"{said}: is {found.refusal}")
    if head.startswith(SINGLE_IMAGES):
        raise UserError(f"{said}: is a single image; name the folder that holds all of them")
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
        if _leads_back(folder, place.path):
            folders.clear()
            continue
        below = os.path.relpath(folder, place.path)
        prefix = "" if below == "." else f"{below}/"
        # Those of systems may be closed to users.
        yield from (Entry(f"{prefix}{name}/", 0) for name in folders if _is_hidden(name, True))
        folders[:] = sorted(name for name in folders if not _is_hidden(name, True))
        for name in names:
            try:
                about = os.stat(os.path.join(folder, name))
            except OSError:
                # Why it cannot be read is found again, and told, when it is.
                yield Entry(prefix + name, 0)
                continue
            is_file = stat.S_ISREG(about.st_mode)
            yield Entry(prefix + name, about.st_size if is_file else 0, 0 if is_file else -1)


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
        infos = [
            (_zip_name(info), info)
            for info in archive.infolist()
            if not info.filename.endswith(("/", "\\"))
        ]
    # Other files are never read, whatever they unpack to.
    images = [info for name, info in infos if _is_image(name) and not hidden_part(name)]
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
    encrypted = next((info for info in images if info.flag_bits & 1), None)
    if encrypted:
        raise UserError(f"{said}: {encrypted.filename} is encrypted; unpack it with its password")
    for name, info in infos:
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        yield Entry(
            name,
            info.file_size,
            -1 if is_link else info.header_offset,
            info.compress_size,
            info.compress_type,
            info.CRC,
        )


def _zip_name(info: zipfile.ZipInfo) -> str:
    """A file's path. Names that are marked as of an old code page are often UTF-8 all the same."""
    name = info.filename
    if not info.flag_bits & UTF8_NAME and not name.isascii():
        extra = info.extra
        while len(extra) >= 4:
            kind, size = struct.unpack_from("<HH", extra)
            if kind == UNICODE_PATH and size > 5:
                return plain_path(extra[9 : 4 + size].decode("utf-8", "backslashreplace"))
            extra = extra[4 + size :]
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return plain_path(name)


def _list_tar(place: Folder, said: str) -> Iterator[Entry]:
    files: dict[str, Entry] = {}
    links: dict[str, str] = {}
    with (
        _buffered(place) as file,
        tarfile.open(fileobj=file, mode="r:") as archive,
    ):
        for member in archive:
            path = plain_path(member.name)
            if member.isreg() and not member.issparse():
                entry = Entry(path, member.size, member.offset_data)
                yield entry
                files[path] = entry
                links.pop(path, None)
            elif not member.isdir():
                links[path] = ""
                if member.islnk():
                    links[path] = plain_path(member.linkname)
                elif member.issym() and not member.linkname.startswith("/"):
                    links[path] = plain_path(f"{posixpath.dirname(path)}/{member.linkname}")
            # tarfile would keep them all.
            archive.members = []  # type: ignore[attr-defined]
        # It takes a damaged header for the end of the archive, which is a block of zeros.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends before its end, or a part of it is not readable")
    # A second name of a file in the archive is read as that file.
    for path in links:
        target = path
        for _ in range(LINKS_FOLLOWED):
            target = links.get(target, target)
        known = files.get(target)
        yield known._replace(path=path) if known else Entry(path, 0, -1)


_LISTS = {"folder": _list_folder, "zip": _list_zip, "tar": _list_tar}


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

    Raises: whatever zipfile raises for damaged data; OSError.
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
