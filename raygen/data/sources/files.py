"""Reads single files of a folder, zip or tar, local or in an object store, without unpacking it."""

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
from raygen.core.remote_file import RemoteFile
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
"""First bytes of files that may be compressed tars, and the programs that decompress them."""
ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04", b"PK00PK\x03\x04")
"""First bytes of zips: with files, empty, or in the format for zips split over several disks."""
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
"""Errors that concern a single file; the rest of the folder may still be readable."""
UNREADABLE = "cannot be read"
"""The reason given for a file that exists but cannot be opened."""
SMALLEST_ZIP = 98
"""Size of a zip that holds one empty file, in bytes."""
READ_AHEAD = 64 * 2**10
"""How much of an archive is read at once while its files are listed, in bytes."""
ZIP_HEADER = struct.Struct("<4s22xHH")
"""The header before each file in a zip: a signature, fields that are not needed, and the lengths
of the name and of the extra field that follow. Source: APPNOTE.TXT, 4.3.7."""
EXTRA_BYTES = 256
"""Room for extra fields, in bytes. They are rarely longer, so one request reads the file too."""
UTF8_NAME, UNICODE_PATH = 0x800, 0x7075
"""The flag that marks names in UTF-8, and the id of the extra field that holds the UTF-8 form of a
name in an older encoding. Source: APPNOTE.TXT, 4.4.4 and 4.6.9."""
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
"""Names, in lower case, of folders in which systems keep copies, previews and deleted files. Other
such folders begin with a dot, such as .git, .ipynb_checkpoints, .thumbnails and .Trash-1000."""
LINKS_FOLLOWED = 8
"""Limit on the links in a tar that are followed one after the other, so that loops end."""


class Entry(NamedTuple):
    """A file in the listing of a folder or archive.

    Attributes:
        size: uncompressed size in bytes.
        start: offset in the archive; in a zip, that of the file's header. -1 if the entry is not
            a file, such as a pipe or a link that leads nowhere.
        packed: compressed size in a zip, in bytes.
        method: compression method in a zip.
        crc: CRC-32 in a zip.
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

    Pictures of types that raygen does not read are included, so that they are counted.

    Attributes:
        place: the folder, or the archive.
        paths: paths inside it, with / between folders.
        numbers: (files,) of `NUMBERS`: the other fields of each `Entry`.
        ignored: paths of other files; a hidden folder is listed only as itself, with a final /.
        opened: unique id of this listing; distinguishes archives that replace one another at the
            same place.
        notes: sentences for users about the listing.
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

        Args: uri: a local path or a URI; option: the option that names it, for messages.
        Raises: UserError if it does not exist, or is unreadable, encrypted, or a zip bomb.
        """
        place = Folder.at(uri)
        said = f"{option} {uri}"
        try:
            container = _container(place, said)
            listed = list(_LISTS[container](place, said))
        except UserError:
            raise
        except (OSError, UnicodeEncodeError) as error:
            # An object store's own message is more informative than the system's.
            reason = reason_of(error) if place.is_local else one_line(error)
            raise UserError(
                f"{said}: cannot be read ({reason}); check path and permissions"
            ) from error
        # The libraries that read archives report damage with many exceptions.
        except Exception as error:
            raise UserError(f"{said}: is damaged ({error}); download it again") from error
        # If an archive has a name twice, the last file counts, as it would after unpacking.
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
        """The paths as most systems write them; see `plain_path`."""
        return [plain_path(path) for path in self.paths]

    def patient(self, seconds: float) -> "Files":
        """The same files, for a job that outlasts its object store's outages."""
        return replace(self, place=self.place.patient(seconds))

    @property
    def sizes(self) -> np.ndarray:
        """Sizes of the files, (files,) int64, in bytes."""
        sizes: np.ndarray = self.numbers["size"]
        return sizes

    def read(self, number: int) -> bytes:
        """The content of a file. Several threads may read at once.

        Raises: BadImage if it cannot be read; OSError if a disk fails; StorageError if an object
            store stops answering.
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
            # The file may have grown since it was listed.
            return self.place.read_bytes(entry.path, MAX_FILE_BYTES)
        except OSError as error:
            # The error that bzip2 raises for damaged data has no errno.
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
        """A hash of the listing: of all paths and sizes, and of a zip's checksums."""
        checksums = self.numbers["crc"].tobytes() if self.container == "zip" else b""
        text = "\0".join(self.paths).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text + self.sizes.tobytes() + checksums).hexdigest()


def common_folder(paths: list[str]) -> str:
    """The longest folder that contains all paths, with a final /; empty if there is none."""
    # In sorted order all others lie between these two, so they share the same beginning.
    ends = [posixpath.dirname(path) for path in (min(paths), max(paths))] if paths else [""]
    shared = posixpath.commonpath(ends)
    return f"{shared}/" if shared else ""


def plain_path(path: str) -> str:
    """Normalise a path: with / between folders, relative, and without `..`.

    Archives made on Windows have backslashes and drives; others have absolute paths, or `..`.
    Nothing is unpacked, so such paths are only names and cannot do harm.
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
    """The first hidden part of a path, a folder's with a final /; empty if nothing is hidden.

    Systems give the files that they add names with a leading dot, such as macOS's ._1.jpg beside
    1.jpg, or put them into folders of their own (`SERVICE_FOLDERS`).
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
    with place.open_file() as file:
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
    """Whether a file begins with a tar header that has a correct checksum."""
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
        # Users may lack the permission to read systems' folders.
        yield from (Entry(f"{prefix}{name}/", 0) for name in folders if _is_hidden(name, True))
        folders[:] = sorted(name for name in folders if not _is_hidden(name, True))
        for name in names:
            try:
                about = os.stat(os.path.join(folder, name))
            except OSError:
                # Reading it will fail in the same way, and then the reason is reported.
                yield Entry(prefix + name, 0)
                continue
            is_file = stat.S_ISREG(about.st_mode)
            yield Entry(prefix + name, about.st_size if is_file else 0, 0 if is_file else -1)


def _leads_back(folder: str, top: str) -> bool:
    """Whether a folder is a link to one of its own parents."""
    real, above = os.path.realpath(folder), folder
    while above != top:
        above = os.path.dirname(above)
        if os.path.realpath(above) == real:
            return True
    return False


def _list_zip(place: Folder, said: str) -> Iterator[Entry]:
    packed = place.filesystem.get_file_info(place.path).size
    if packed < SMALLEST_ZIP:
        # zipfile would seek to before the file's beginning, which pyarrow does not allow.
        return
    with zipfile.ZipFile(_buffered(place)) as archive:
        infos = [
            (_zip_name(info), info)
            for info in archive.infolist()
            if not info.filename.endswith(("/", "\\"))
        ]
    # Other files are never read, so their sizes do not matter.
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
    """A file's path. Names are often in UTF-8 even if they are marked as in an old code page."""
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
            # Otherwise tarfile would keep all members in memory.
            archive.members = []  # type: ignore[attr-defined]
        # tarfile mistakes a damaged header for the end of the archive, which is a block of zeros.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends before its end, or a part of it is not readable")
    # Links to files in the archive are read as those files.
    for path in links:
        target = path
        for _ in range(LINKS_FOLLOWED):
            target = links.get(target, target)
        known = files.get(target)
        yield known._replace(path=path) if known else Entry(path, 0, -1)


_LISTS = {"folder": _list_folder, "zip": _list_zip, "tar": _list_tar}


def _buffered(place: Folder) -> io.BufferedReader:
    return io.BufferedReader(place.open_file(), READ_AHEAD)


@functools.lru_cache(maxsize=4)
def _open_archive(place: Folder, opened: str) -> pa.NativeFile | RemoteFile:
    """Open an archive once for all threads, each of which reads at its own offsets."""
    return place.open_file()


def _unpacked(archive: pa.NativeFile | RemoteFile, entry: Entry) -> bytes:
    """Read one file of a zip. ZipFile would list all files first, and read only one at a time.

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
        # Limit the size to the listed one, which may be false in order to exhaust memory.
        return file.read(entry.size + 1)
