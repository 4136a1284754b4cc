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

from raygen.data import files
from raygen.data.files import Files, common_folder, display
from raygen.data.images import BadImage
from raygen.errors import UserError

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
    assert found.kind == kind
    assert found.paths == sorted(CONTENTS)
    assert found.ignored == sorted(OTHERS)
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
    assert display(found.paths[0]) == "caf\\udce9.jpg"
    assert len(found.digest()) == 64


@pytest.mark.parametrize(
    "name", ["/etc/1.jpg", "../1.jpg", "faces/../../1.jpg", "C:\\1.jpg", "..\\1.jpg"]
)
def test_archives_that_name_files_outside_themselves_are_refused(tmp_path: Path, name: str) -> None:
    for place in (
        write_zip(tmp_path / "some.zip", {"good.jpg": b"", name: b""}),
        write_tar(tmp_path / "some.tar", {"good.jpg": b"", name: b""}),
    ):
        with pytest.raises(UserError, match=f"--images {place}: names a file outside itself"):
            Files.open(str(place), "--images")


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


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "some.tar", {"./2.jpg": b"two"})
    with tarfile.open(place, "a") as archive:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found = Files.open(str(place), "--images")
    assert found.paths == ["1.jpg", "2.jpg"]
    with pytest.raises(BadImage, match="a link or device"):
        found.read(0)
    assert found.read(1) == b"two"


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
