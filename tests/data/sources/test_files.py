"""Folders, zips and tars: what is listed, what is read, and which archives are not touched."""

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from raygen.core.errors import UserError
from raygen.core.printable import printable
from raygen.data.images import BadImage
from raygen.data.sources import files
from raygen.data.sources.files import Files, common_folder

CONTENTS = {
    "faces/1.jpg": b"one",
    "faces/a name with spaces.PNG": b"two" * 1000,
    "faces/Gesicht é 顔.webp": b"",
    "faces/deep/er/1.jpg": b"four",
}
OTHERS = {"faces/readme.txt": b"text", "faces/._1.jpg": b"mac", "__MACOSX/faces/1.jpg": b"mac"}


def write_folder(path: Path) -> Path:
    for name, data in (CONTENTS | OTHERS).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, contents: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("faces")
        for name, data in (contents or CONTENTS | OTHERS).items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, contents: dict[str, bytes] | None = None, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in (contents or CONTENTS | OTHERS).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


PLACES: dict[str, Callable[[Path], Path]] = {
    "folder": lambda path: write_folder(path / "folder"),
    "zip": lambda path: write_zip(path / "some.zip"),
    "tar": lambda path: write_tar(path / "some.tar"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_images_are_listed_in_order_and_read(tmp_path: Path, kind: str) -> None:
    found = Files.open(str(PLACES[kind](tmp_path)), "--images")
    assert found.container == kind
    assert found.paths == sorted(CONTENTS)
    assert found.ignored == ["__MACOSX/", "faces/._1.jpg", "faces/readme.txt"]
    assert found.sizes.tolist() == [len(CONTENTS[path]) for path in found.paths]
    # In any order, again and again, several at once.
    numbers = [2, 0, 3, 1, 0] * 50
    with ThreadPoolExecutor(8) as pool:
        for number, data in zip(numbers, pool.map(found.read, numbers), strict=True):
            assert data == CONTENTS[found.paths[number]]


def test_a_zip_s_headers_may_be_long_or_wrong(tmp_path: Path) -> None:
    place = tmp_path / "some.zip"
    info = zipfile.ZipInfo("1.jpg")
    info.extra = struct.pack("<HH", 0xCAFE, 2000) + bytes(2000)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr(info, b"one")
        archive.writestr("2.jpg", b"two")
    found = Files.open(str(place), "--images")
    assert [found.read(number) for number in (0, 1)] == [b"one", b"two"]
    data = bytearray(place.read_bytes())
    data[data.index(b"PK\x03\x04", 4)] = 0
    place.write_bytes(data)
    found = Files.open(str(place), "--images")
    assert found.read(0) == b"one"
    with pytest.raises(BadImage, match="it does not begin where the zip's list says"):
        found.read(1)


def test_a_listing_is_the_same_until_something_changes(tmp_path: Path) -> None:
    for kind, write in PLACES.items():
        place = str(write(tmp_path))
        first = Files.open(place, "--images").digest()
        assert Files.open(place, "--images").digest() == first
        if kind == "folder":
            (tmp_path / "folder/faces/1.jpg").write_bytes(b"longer")
        elif kind == "zip":
            write_zip(tmp_path / "some.zip", CONTENTS | {"faces/1.jpg": b"uno"})
        else:
            write_tar(tmp_path / "some.tar", CONTENTS | {"faces/1.jpg": b"longer"})
        assert Files.open(place, "--images").digest() != first
        # The new archive is read, not the one that was open before.
        changed = Files.open(place, "--images")
        assert changed.read(changed.paths.index("faces/1.jpg")) in (b"longer", b"uno")


def test_a_damaged_tar_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "some.tar", {f"{k}.jpg": b"x" * 700 for k in range(10)})
    whole = place.read_bytes()
    assert len(Files.open(str(place), "--images").paths) == 10
    header = 5 * 3 * 512
    flipped = bytearray(whole)
    flipped[header + 3] ^= 1
    for damaged in (bytes(flipped), whole[:header], whole[: header + 200], whole[: header + 600]):
        place.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged"):
            Files.open(str(place), "--images")


def test_an_old_tar_is_known_by_its_checksum(tmp_path: Path) -> None:
    place = tmp_path / "old.tar"
    member = tarfile.TarInfo("1.jpg")
    member.size = 3
    header = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    place.write_bytes(bytes(header) + b"one" + bytes(509 + 1024))
    assert Files.open(str(place), "--images").read(0) == b"one"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_file_that_does_not_unpack_is_a_bad_image(tmp_path: Path, method: int) -> None:
    place = tmp_path / "some.zip"
    with zipfile.ZipFile(place, "w", method) as archive:
        archive.writestr("1.jpg", np.random.default_rng(0).bytes(5000))
    data = bytearray(place.read_bytes())
    data[60:900] = bytes(840)
    place.write_bytes(data)
    with pytest.raises(BadImage, match="cannot be unpacked"):
        Files.open(str(place), "--images").read(0)


def test_a_link_to_itself_is_a_bad_image(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").symlink_to(tmp_path / "1.jpg")
    with pytest.raises(BadImage, match="cannot be read"):
        Files.open(str(tmp_path), "--images").read(0)


def test_the_same_folder_can_be_linked_twice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"one")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert Files.open(str(tmp_path), "--images").paths == ["a/1.jpg", "b/1.jpg"]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "folder")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "2.jpg").write_bytes(b"far")
    (place / "linked").symlink_to(elsewhere)
    (place / "faces/deep/back").symlink_to(place)
    (place / "dead.jpg").symlink_to(tmp_path / "nothing")
    found = Files.open(str(place), "--images")
    assert found.paths == ["dead.jpg", *sorted(CONTENTS), "linked/2.jpg"]
    assert found.read(5) == b"far"
    with pytest.raises(BadImage, match="cannot be read"):
        found.read(0)


def test_names_that_are_no_unicode_can_be_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"latin")
    found = Files.open(str(tmp_path), "--images")
    assert found.read(0) == b"latin"
    assert printable(found.paths[0]) == "caf\\udce9.jpg"
    assert len(found.digest()) == 64


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("set\\cat\\1.jpg", "set/cat/1.jpg"),
        ("\\1.jpg", "1.jpg"),
        ("\\\\server\\share\\1.jpg", "server/share/1.jpg"),
        ("C:\\photos\\1.jpg", "photos/1.jpg"),
        ("d:/photos/1.jpg", "photos/1.jpg"),
        ("/etc/1.jpg", "etc/1.jpg"),
        ("//1.jpg", "1.jpg"),
        ("./a/./1.jpg", "a/1.jpg"),
        ("../1.jpg", "1.jpg"),
        ("..\\..\\1.jpg", "1.jpg"),
        ("faces/../../other/1.jpg", "other/1.jpg"),
        ("a:b.jpg", "a:b.jpg"),
        ("a..b/1...jpg", "a..b/1...jpg"),
    ],
)
def test_paths_of_any_system_are_read(tmp_path: Path, written: str, path: str) -> None:
    # Nothing is unpacked, so no path does harm.
    for place in (
        write_zip(tmp_path / "some.zip", {"good.jpg": b"", written: b"one"}),
        write_tar(tmp_path / "some.tar", {"good.jpg": b"", written: b"one"}),
    ):
        found = Files.open(str(place), "--images")
        assert found.paths == sorted(["good.jpg", path])
        assert found.read(found.paths.index(path)) == b"one"


def test_folders_in_a_zip_of_windows_are_no_files(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "some.zip", {"set\\cat.jpg\\": b"", "set\\1.jpg": b"one"})
    found = Files.open(str(place), "--images")
    assert (found.paths, found.ignored) == (["set/1.jpg"], [])


def test_backslashes_in_a_folder_s_names_are_separators_too(tmp_path: Path) -> None:
    # So a program leaves them that unpacks a zip of Windows without minding its backslashes.
    (tmp_path / "set\\cat\\1.jpg").write_bytes(b"one")
    found = Files.open(str(tmp_path), "--images")
    assert found.names == ["set/cat/1.jpg"]
    assert found.read(0) == b"one"


def test_names_of_zips_are_read_as_utf_8_where_they_are(tmp_path: Path) -> None:
    place = tmp_path / "some.zip"
    old = zipfile.ZipInfo("XXXXXX/1.jpg")
    named = zipfile.ZipInfo("grosse/1.jpg")
    unicode = "größe/1.jpg".encode()
    named.extra = struct.pack("<HHBI", 0x7075, 5 + len(unicode), 1, 0) + unicode
    named.filename = "gr\xf6sse/1.jpg"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr(old, b"one")
        archive.writestr(named, b"two")
    data = place.read_bytes().replace(b"XXXXXX", "größ".encode()[:6])
    # Without the flag that says that the names are in UTF-8.
    data = data.replace(struct.pack("<HH", 20, 0x800), struct.pack("<HH", 20, 0))
    place.write_bytes(data)
    found = Files.open(str(place), "--images")
    assert found.paths == ["größ/1.jpg", "größe/1.jpg"]
    assert [found.read(k) for k in (0, 1)] == [b"one", b"two"]


def test_the_last_of_equal_names_in_an_archive_counts(tmp_path: Path) -> None:
    for place, append in ((tmp_path / "some.tar", write_tar), (tmp_path / "some.zip", write_zip)):
        append(place, {"a/1.jpg": b"old", "2.jpg": b"two"})
        if place.suffix == ".tar":
            write_tar(place, {"./a/1.jpg": b"new"}, "a")
        else:
            with zipfile.ZipFile(place, "a") as archive:
                archive.writestr("a\\1.jpg", b"new")
        found = Files.open(str(place), "--images")
        assert [found.read(k) for k in range(len(found.paths))] == [b"two", b"new"]
        [note] = found.notes
        assert f"that {place} holds more than once: 1, as a/1.jpg; the last" in note


LEFT_BEHIND = [
    ".ipynb_checkpoints/1-checkpoint.jpg",
    "set/.ipynb_checkpoints/1-checkpoint.jpg",
    "set/cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/1.jpg",
    "#snapshot/day/1.jpg",
    "set/.Trash-1000/files/1.jpg",
    "$RECYCLE.BIN/S-1-5/1.jpg",
    "System Volume Information/1.jpg",
    "set/deep/__MACOSX/1.jpg",
    "set/cat/._1.jpg",
    "set/.git/1.jpg",
    "set/.hg/1.jpg",
    "lost+found/1.jpg",
    "set/.thumbnails/normal/1.jpg",
    ".hidden.jpg",
    "set/.@__thumb/1.jpg",
    "set/@__thumb/1.jpg",
    "set/LOST+FOUND/1.jpg",
]
NOT_LEFT_BEHIND = ["set/cat/1.jpg", "set/cat/@home/1.jpg", "set/thumbs/lost+found.jpg"]


@pytest.mark.parametrize("kind", PLACES)
def test_what_systems_leave_among_images_is_no_image(tmp_path: Path, kind: str) -> None:
    contents = dict.fromkeys([*LEFT_BEHIND, *NOT_LEFT_BEHIND, "set/Thumbs.db"], b"x")
    if kind == "folder":
        place = tmp_path / "folder"
        for name, data in contents.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
    else:
        place = {"zip": write_zip, "tar": write_tar}[kind](tmp_path / f"some.{kind}", contents)
    found = Files.open(str(place), "--images")
    assert found.paths == sorted(NOT_LEFT_BEHIND)
    # A folder is named once, however much is in it.
    assert "set/.Trash-1000/" in found.ignored
    assert "set/cat/@eaDir/" in found.ignored
    assert "set/cat/._1.jpg" in found.ignored
    assert "set/Thumbs.db" in found.ignored
    assert len(found.ignored) == len(LEFT_BEHIND) + 1
    assert not any("@eaDir/1" in path or "files" in path for path in found.ignored)


def test_a_hidden_folder_can_be_named_itself(tmp_path: Path) -> None:
    place = write_folder(tmp_path / ".cache/faces")
    assert Files.open(str(place), "--images").paths == sorted(CONTENTS)


def test_hidden_folders_are_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "1.jpg").write_bytes(b"one")
    scan = os.scandir

    def guarded(path: str) -> object:
        if "lost+found" in path:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert Files.open(str(tmp_path), "--images").ignored == ["lost+found/"]


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "bomb.zip", {"1.jpg": bytes(20 * 2**20), "2.jpg": b"x"})
    with pytest.raises(UserError, match=r"unpacks to 20,971,521 bytes.*1\.jpg.*zip bomb"):
        Files.open(str(place), "--images")
    many = write_zip(tmp_path / "many.zip", {f"{k}.jpg": bytes(2**20) for k in range(12)})
    with pytest.raises(UserError, match="zip bomb"):
        Files.open(str(many), "--images")
    # What is never read may be as it likes.
    log = write_zip(tmp_path / "log.zip", {"train.log": bytes(20 * 2**20), "1.jpg": b"x"})
    assert Files.open(str(log), "--images").paths == ["1.jpg"]
    fair = {f"{k}.jpg": np.random.default_rng(k).bytes(2**20) for k in range(12)}
    assert len(Files.open(str(write_zip(tmp_path / "fair.zip", fair)), "--images").paths) == 12


def test_a_zip_that_lies_about_a_size_is_not_unpacked_further(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "lie.zip", {"1.jpg": bytes(2**20)})
    data = place.read_bytes()
    # The size of the only file, where the listing has it.
    at = data.rindex((2**20).to_bytes(4, "little"))
    place.write_bytes(data[:at] + (10).to_bytes(4, "little") + data[at + 4 :])
    found = Files.open(str(place), "--images")
    assert found.sizes.tolist() == [10]
    with pytest.raises(BadImage, match="cannot be unpacked"):
        found.read(0)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "some.zip", {"1.jpg": b"secret"})
    data = bytearray(place.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(mark) + offset] |= 1
    place.write_bytes(data)
    with pytest.raises(UserError, match=r"1\.jpg is encrypted"):
        Files.open(str(place), "--images")


def test_a_damaged_file_in_a_zip_is_a_bad_image_and_a_damaged_zip_an_error(tmp_path: Path) -> None:
    place = tmp_path / "some.zip"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("1.jpg", b"content of one")
        archive.writestr("2.jpg", b"content of two")
    data = place.read_bytes()
    place.write_bytes(data.replace(b"content of one", b"content of 0ne"))
    found = Files.open(str(place), "--images")
    with pytest.raises(BadImage, match="cannot be unpacked: Bad CRC-32"):
        found.read(0)
    assert found.read(1) == b"content of two"
    place.write_bytes(data[:-30])
    with pytest.raises(UserError, match="is damaged"):
        Files.open(str(place), "--images")


def test_links_in_a_tar_are_followed_inside_it_alone(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "some.tar", {"./all/2.jpg": b"two"})
    links = (
        ("1.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("cat/hard.jpg", tarfile.LNKTYPE, "./all/2.jpg"),
        ("cat/soft.jpg", tarfile.SYMTYPE, "../all/2.jpg"),
        ("cat/twice.jpg", tarfile.SYMTYPE, "soft.jpg"),
        ("dog/gone.jpg", tarfile.LNKTYPE, "all/3.jpg"),
        ("dog/round.jpg", tarfile.SYMTYPE, "round.jpg"),
        ("dog/up.jpg", tarfile.SYMTYPE, "../../../../etc/passwd"),
        ("pipe.jpg", tarfile.FIFOTYPE, ""),
    )
    with tarfile.open(place, "a") as archive:
        for name, kind, target in links:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    found = Files.open(str(place), "--images")
    assert found.paths == sorted(["all/2.jpg", *(name for name, _, _ in links)])
    for number, path in enumerate(found.paths):
        if path.startswith(("all", "cat")):
            assert found.read(number) == b"two"
        else:
            with pytest.raises(BadImage, match="a link that leads nowhere, a pipe"):
                found.read(number)


def test_a_link_in_a_zip_is_no_image(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("1.jpg")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadImage, match="a link"):
        Files.open(str(tmp_path / "some.zip"), "--images").read(0)


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").symlink_to("/dev/zero")
    (tmp_path / "3.jpg").write_bytes(b"three")
    found = Files.open(str(tmp_path), "--images")
    for number in (0, 1):
        with pytest.raises(BadImage, match="a pipe, or a device"):
            found.read(number)
    # What was a file when it was listed may be none any more.
    (tmp_path / "3.jpg").unlink()
    os.mkfifo(tmp_path / "3.jpg")
    with pytest.raises(BadImage, match="cannot be read .a pipe, socket or device"):
        found.read(2)
    for place in (tmp_path / "1.jpg", tmp_path / "2.jpg"):
        with pytest.raises(UserError, match="is a pipe, socket or device"):
            Files.open(str(place), "--images")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Rar!\x1a\x07\x01\x00", "is a rar archive; unpack it and name the folder"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it"),
        (b"PAR1", "is a Parquet table, which raygen does not read: .*prepare huggingface"),
        (b"\xff\xd8\xff\xe0", "is a single image; name the folder"),
        (b"\0\0\0\x18ftypheic", "is a HEIC picture"),
        (b"<!DOCTYPE html><title>Quota exceeded", "is a web page, which .* download it again"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
    ],
)
def test_files_that_are_no_archive_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "some.zip").write_bytes(data)
    with pytest.raises(UserError, match=f"--images .*some.zip: {message}"):
        Files.open(str(tmp_path / "some.zip"), "--images")


def test_pictures_of_other_kinds_are_listed_and_counted(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.HEIC", "3.avif", "4.nef", "5.mov", "6.zip", "7.parquet", "8.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = Files.open(str(tmp_path), "--images")
    assert found.paths == ["1.jpg", "2.HEIC", "3.avif", "4.nef"]
    assert found.ignored == ["5.mov", "6.zip", "7.parquet", "8.txt"]


@pytest.mark.parametrize(
    ("mode", "program"), [("w:gz", "gunzip"), ("w:bz2", "bunzip2"), ("w:xz", "unxz")]
)
def test_a_compressed_tar_is_to_be_decompressed_first(
    tmp_path: Path, mode: str, program: str
) -> None:
    place = write_tar(tmp_path / "some.tar", mode=mode)
    with pytest.raises(UserError, match=f"decompress it first \\({program}\\)"):
        Files.open(str(place), "--images")


def test_what_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--images .*nowhere: no such file or folder"):
        Files.open(str(tmp_path / "nowhere"), "--images")
    (tmp_path / "text").write_text("neither")
    with pytest.raises(UserError, match="--images .*text: cannot be read as a folder, zip or tar"):
        Files.open(str(tmp_path / "text"), "--images")
    place = write_folder(tmp_path / "folder")

    def forbidden(path: object, *arguments: object, **options: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UserError, match="cannot be read .*Permission denied"):
        Files.open(str(place), "--images")


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2000)
    found = Files.open(str(write_folder(tmp_path)), "--images")
    with pytest.raises(BadImage, match="too large: a file of 3,000 bytes"):
        found.read(found.paths.index("faces/a name with spaces.PNG"))


def test_the_folders_that_paths_share() -> None:
    assert common_folder([]) == ""
    assert common_folder(["a/b/1.jpg"]) == "a/b/"
    assert common_folder(["a/b/1.jpg", "a/b/2.jpg"]) == "a/b/"
    assert common_folder(["a/b/1.jpg", "a/c/2.jpg", "a/b/3.jpg"]) == "a/"
    assert common_folder(["a/b/1.jpg", "a/1.jpg"]) == "a/"
    assert common_folder(["ab/1.jpg", "a/1.jpg"]) == ""
