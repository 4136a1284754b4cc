"""Recognises files that raygen does not read, by their first bytes and by their names.

Sources: the formats' own specifications; the `file` program's list of first bytes.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from raygen.core.printable import printable

Group = Literal["picture", "archive", "video", "table", "document"]

HEAD_BYTES = 512
"""How many of a file's first bytes are needed to recognise it."""
REMEDIES: dict[Group, str] = {
    "picture": "convert it to JPEG or PNG",
    "archive": "unpack it, or name it alone",
    "video": "save its frames as PNG or JPEG",
    "table": "write its images as files, or save it with save_to_disk and prepare huggingface",
    "document": "download it again",
}
"""Advice on files that are not read, by group."""


class FileType(NamedTuple):
    """A type of file that is not read. Attributes: name: with its article."""

    name: str
    group: Group

    @property
    def refusal(self) -> str:
        """Message for a file of this type, with advice."""
        return f"{self.name}, which raygen does not read: {REMEDIES[self.group]}"


RAW = FileType("a camera's raw picture", "picture")
_BEGINNINGS: tuple[tuple[bytes, FileType], ...] = (
    (b"\x00\x00\x00\x0cjP  ", FileType("a JPEG 2000 picture", "picture")),
    (b"\xff\x4f\xff\x51", FileType("a JPEG 2000 picture", "picture")),
    (b"\x00\x00\x00\x0cJXL ", FileType("a JPEG XL picture", "picture")),
    (b"\xff\x0a", FileType("a JPEG XL picture", "picture")),
    (b"8BPS", FileType("a Photoshop picture (PSD)", "picture")),
    (b"gimp xcf", FileType("a GIMP picture (XCF)", "picture")),
    (b"II\xbc\x01", FileType("a JPEG XR picture", "picture")),
    (b"v/1\x01", FileType("an OpenEXR picture", "picture")),
    (b"#?RADIANCE", FileType("a Radiance picture (HDR)", "picture")),
    (b"DDS ", FileType("a DDS texture", "picture")),
    (b"qoif", FileType("a QOI picture", "picture")),
    (b"BPG\xfb", FileType("a BPG picture", "picture")),
    (b"FLIF", FileType("a FLIF picture", "picture")),
    (b"\x00\x00\x01\x00", FileType("a Windows icon", "picture")),
    (b"\xd7\xcd\xc6\x9a", FileType("a Windows metafile", "picture")),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"IIU\x00", RAW),
    (b"FOVb", RAW),
    (b"\x00MRM", RAW),
    (b"%!PS", FileType("a PostScript file", "picture")),
    (b"\xc5\xd0\xd3\xc6", FileType("a PostScript file", "picture")),
    (b"%PDF", FileType("a PDF document", "picture")),
    (b"PK\x03\x04", FileType("a zip archive", "archive")),
    (b"Rar!\x1a\x07", FileType("a rar archive", "archive")),
    (b"7z\xbc\xaf\x27\x1c", FileType("a 7z archive", "archive")),
    (b"\x1f\x8b", FileType("a gzip archive", "archive")),
    (b"BZh", FileType("a bzip2 archive", "archive")),
    (b"\xfd7zXZ", FileType("an xz archive", "archive")),
    (b"\x28\xb5\x2f\xfd", FileType("a zstd archive", "archive")),
    (b"\x04\x22\x4d\x18", FileType("a lz4 archive", "archive")),
    (b"\x1a\x45\xdf\xa3", FileType("a video (Matroska or WebM)", "video")),
    (b"\x00\x00\x01\xba", FileType("a video (MPEG)", "video")),
    (b"\x00\x00\x01\xb3", FileType("a video (MPEG)", "video")),
    (b"FLV\x01", FileType("a video (FLV)", "video")),
    (b"\x30\x26\xb2\x75", FileType("a video (WMV)", "video")),
    (b"PAR1", FileType("a Parquet table", "table")),
    (b"ARROW1", FileType("an Arrow table", "table")),
    (b"\x89HDF\r\n", FileType("an HDF5 file", "table")),
    (b"\x93NUMPY", FileType("a NumPy array", "table")),
    (b"SQLite format 3", FileType("a SQLite database", "table")),
    (
        b"version https://git-lfs",
        FileType("a Git LFS pointer (`git lfs pull` fetches it)", "document"),
    ),
)
_BRANDS = {
    b"heic": FileType("a HEIC picture", "picture"),
    b"heix": FileType("a HEIC picture", "picture"),
    b"heim": FileType("a HEIC picture", "picture"),
    b"heis": FileType("a HEIC picture", "picture"),
    b"hevc": FileType("a HEIC picture", "picture"),
    b"hevx": FileType("a HEIC picture", "picture"),
    b"avif": FileType("an AVIF picture", "picture"),
    b"avis": FileType("an AVIF picture", "picture"),
    b"crx ": RAW,
    b"mif1": FileType("a HEIF picture", "picture"),
    b"msf1": FileType("a HEIF picture", "picture"),
}
"""Brands of ISO base media files, the container of most videos and a few pictures."""

_SUFFIXES: dict[Group, str] = {
    "picture": (
        "heic heif hif avif avifs jxl jp2 j2k j2c jpf jpx jpm jxr wdp hdp psd psb xcf svg svgz ai "
        "eps ps ico cur tga dds exr hdr ppm pgm pbm pnm pcx qoi bpg flif kra ora webp2 wmf emf "
        "dng cr2 cr3 crw nef nrw arw sr2 srf orf rw2 raf pef srw x3f rwl 3fr iiq erf kdc dcr mrw "
        "dcm dicom"
    ),
    "archive": "zip tar gz tgz bz2 tbz2 xz txz zst rar 7z lz4 lzma zipx cab iso",
    "video": "mp4 m4v mov avi mkv webm mpg mpeg wmv flv 3gp mts m2ts ogv",
    "table": "parquet arrow feather h5 hdf5 npy npz mat pkl pickle tfrecord tfrecords lmdb mdb db",
}
_GROUPS: dict[str, Group] = {
    f".{suffix}": group for group, suffixes in _SUFFIXES.items() for suffix in suffixes.split()
}


def group_of(path: str) -> Group | None:
    """Guess a file's group from its name, if users may have expected it to be read."""
    name = path.rsplit("/", 1)[-1].lower()
    return _GROUPS.get(name[name.rfind(".") :]) if "." in name else None


def is_unread_picture(path: str) -> bool:
    """Whether a name promises a picture of a type that is not read."""
    return group_of(path) == "picture"


def remedies(paths: Iterable[str]) -> list[str]:
    """Advice on files that are not images, for those that a user may have meant to be read.

    Returns: a sentence for each group of files.
    """
    groups: dict[Group, list[str]] = {}
    for path in paths:
        group = group_of(path)
        if group:
            groups.setdefault(group, []).append(path)
    return [
        f"{len(paths):,} {group}{'' if len(paths) == 1 else 's'}, as {printable(paths[0])}: "
        f"{REMEDIES[group]}"
        for group, paths in groups.items()
    ]


def unread_type(head: bytes) -> FileType | None:
    """Recognise a type that raygen does not read; None if it is unknown.

    Args: head: the file's first `HEAD_BYTES` bytes, or fewer if it has fewer.
    """
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, 48, 4))]
        # Files of several types may list the general brand of pictures, so prefer special ones.
        special = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        named = [one for one in special if one.name != "a HEIF picture"]
        return next(iter(named or special), FileType("a video (MP4 or QuickTime)", "video"))
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return FileType("a video (AVI)", "video")
    if head[:2] in (b"II", b"MM") and head[8:10] == b"CR":
        return RAW
    if head[128:132] == b"DICM":
        return FileType("a DICOM picture", "picture")
    if head[257:262] == b"ustar":
        return FileType("a tar archive", "archive")
    if re.match(rb"P[1-7]\s", head):
        return FileType("a Netpbm picture", "picture")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<") and b"<svg" in text:
        return FileType("an SVG drawing", "picture")
    if text.startswith((b"<!doctype html", b"<html")):
        return FileType("a web page", "document")
    return next((found for mark, found in _BEGINNINGS if head.startswith(mark)), None)
