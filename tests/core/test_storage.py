"""Folders at local paths and URIs."""

import os
import socket
import time
import tracemalloc
from pathlib import Path
from unittest import mock

import pytest
from pyarrow import fs

from raygen.core.errors import UserError
from raygen.core.remote_file import PIECE_BYTES
from raygen.core.storage import Folder


@pytest.fixture(params=["local", "uri", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder.at(tmp_path / "folder")
    if request.param == "uri":
        return Folder.at(f"file://{tmp_path}/folder")
    # Not taken for the local disk, like an object store.
    elsewhere = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    return Folder("s3://bucket/folder", elsewhere, "folder")


def test_files_and_folders_come_and_go(folder: Folder) -> None:
    assert not folder.exists()
    assert folder.names() == []
    folder.delete()
    folder.check_writable()
    assert folder.names() == []
    folder.write_bytes("b", b"12345")
    folder.write_json("a.json", {"x": [1, 2.5, "three"]})
    folder.join("sub", "deep").write_bytes("c", b"")
    assert folder.names() == ["a.json", "b", "sub"]
    assert folder.folders() == ["sub"]
    assert folder.sizes()["b"] == 5
    assert "sub" not in folder.sizes()
    assert folder.read_bytes("b") == b"12345"
    assert folder.read_json("a.json") == {"x": [1, 2.5, "three"]}
    assert folder.join("sub").exists("deep")
    folder.delete_file("b")
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("b")
    folder.delete()
    assert not folder.exists()


def test_the_end_of_a_file_and_the_times_of_all_are_read(folder: Folder) -> None:
    begun = time.time()
    folder.write_bytes("digits", b"0123456789")
    folder.join("sub").write_bytes("c", b"")
    assert [folder.read_end("digits", most) for most in (0, 3, 10, 2**30)] == [
        b"",
        b"789",
        b"0123456789",
        b"0123456789",
    ]
    with pytest.raises(FileNotFoundError):
        folder.read_end("other", 1)
    assert list(folder.times()) == ["digits"]
    # Storages keep times in whole seconds at worst.
    assert folder.times()["digits"] == pytest.approx(begun, abs=60)


def test_a_limit_on_what_is_read_costs_no_memory(folder: Folder) -> None:
    folder.write_bytes("small", b"abcd")
    tracemalloc.start()
    try:
        assert folder.read_bytes("small", 2**31) == b"abcd"
        assert folder.read_bytes("small", 3) == b"abc"
        assert folder.read_bytes("small", 0) == b""
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    long = bytes(range(251)) * 2 * (PIECE_BYTES // 251)
    folder.write_bytes("long", long)
    for length in (PIECE_BYTES, PIECE_BYTES + 1, len(long) - 1, len(long), len(long) + 1):
        assert folder.read_bytes("long", length) == long[:length]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    folder.write_bytes("file", b"before")
    full = mock.patch.object(os, "fsync", side_effect=OSError("disk full"))
    with full, pytest.raises(OSError, match="disk full"):
        folder.write_bytes("file", b"after")
    assert folder.read_bytes("file") == b"before"
    assert folder.names() == ["file"]


def test_places_show_as_they_were_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Folder.at("data/x").join("y").uri == "data/x/y"
    assert Folder.at("data/x").path == str(tmp_path / "data/x")
    assert Folder.at("~/x").path == os.path.expanduser("~/x")
    bucket = Folder.at("s3://bucket/x?region=us-east-1")
    assert not bucket.is_local
    assert bucket.join("y").path == "bucket/x/y"
    assert bucket.join("y").uri == "s3://bucket/x/y?region=us-east-1"
    assert Folder.at("what?").join("y").uri == "what?/y"


def test_a_files_folder_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri, parent in (("data/x", "data"), ("x", "."), ("/a/b/", "/a")):
        assert Folder.at(uri).parent.uri == parent
        assert Folder.at(uri).parent.path == os.path.abspath(parent)
    assert [Folder.at(uri).name for uri in ("data/x.png", "x", "/a/b/")] == ["x.png", "x", "b"]
    file = Folder.at("s3://bucket/runs/x.png?region=us-east-1")
    assert (file.name, file.parent.path) == ("x.png", "bucket/runs")
    assert file.parent.uri == "s3://bucket/runs?region=us-east-1"


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ftp://host/x: no filesystem"):
        Folder.at("ftp://host/x")
    lost = mock.Mock(from_uri=mock.Mock(side_effect=OSError("no such host")))
    with (
        mock.patch("raygen.core.storage.fs.FileSystem", lost),
        pytest.raises(UserError, match="s3://bucket/x: cannot be reached"),
    ):
        Folder.at("s3://bucket/x")
    closed = mock.Mock(get_file_info=mock.Mock(side_effect=OSError("ACCESS_DENIED")))
    refused = Folder("s3://bucket/x", closed, "bucket/x")
    for look in (refused.exists, refused.names):
        with pytest.raises(UserError, match=r"s3://bucket/x: cannot be reached \(ACCESS_DENIED\)"):
            look()
    (tmp_path / "file").write_text("{")
    with pytest.raises(UserError, match="file: not valid JSON"):
        Folder.at(tmp_path).read_json("file")
    with pytest.raises(UserError, match="file: cannot write there"):
        Folder.at(tmp_path / "file").check_writable()


def test_local_paths_that_cannot_be_looked_up_are_a_user_s_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    for uri, reason in (
        (tmp_path / ("n" * 300), "cannot be looked up .File name too long"),
        (tmp_path / os.fsdecode(b"caf\xe9"), "cannot be looked up .*surrogates not allowed"),
    ):
        folder = Folder.at(uri)
        for look in (folder.exists, folder.names, folder.sizes, folder.is_file):
            with pytest.raises(UserError, match=reason):
                look()
    file = Folder.at(tmp_path / "file")
    assert file.is_file()
    assert not Folder.at(tmp_path).is_file()
    for look in (file.names, file.sizes):
        with pytest.raises(UserError, match="file: is a file; name a folder"):
            look()
    assert not file.exists("inside")
    with pytest.raises(UserError, match="NUL"):
        Folder.at("a\0b")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(tmp_path / "socket"))
    listener.close()
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "endless", "socket", "folder"):
        with pytest.raises(OSError):  # noqa: PT011
            folder.read_bytes(name)
    (tmp_path / "real").write_bytes(b"content")
    (tmp_path / "link").symlink_to("real")
    assert folder.read_bytes("link") == b"content"
