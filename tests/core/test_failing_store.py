"""Folders in an object store that fails: what is read and written is as without failures."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from failing_store import EMBEDDED, FAILURES, SHORT, FailingStore
from helpers import write_dataset
from pyarrow import fs

from raygen.core import retry
from raygen.core.errors import UserError
from raygen.core.remote_file import PIECE_BYTES
from raygen.core.retry import CutShort, is_outage, is_refusal
from raygen.core.storage import Folder
from raygen.data.inspect import verify
from raygen.data.shards.reader import ShardReader
from raygen.data.sources.files import Files
from raygen.data.splits import TRAIN

PART_BYTES = 10 * 2**20
"""What pyarrow uploads at once; longer files are uploaded in several requests."""


@pytest.fixture
def folder(store: FailingStore, s3: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder whose requests pass through the proxy once, as pyarrow would repeat them unseen."""
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(retry, "LONGEST_DELAY", 0.01)
    return at_once(store, s3).patient(60)


def at_once(store: FailingStore, s3: Folder) -> Folder:
    filesystem = fs.S3FileSystem(
        scheme="http",
        endpoint_override=f"127.0.0.1:{store.port}",
        region="us-east-1",
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )
    return replace(s3, filesystem=filesystem)


def content(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def test_requests_that_fail_are_repeated_until_all_is_done(
    store: FailingStore, folder: Folder, s3: Folder
) -> None:
    store.share = 0.3
    files = {f"file-{size}": content(size) for size in (0, 1, 5_000, PART_BYTES + 5_000)}
    for name, data in files.items():
        folder.write_bytes(name, data)
        assert s3.read_bytes(name) == data
    for _ in range(5):
        for name, data in files.items():
            assert folder.read_bytes(name) == data
            assert folder.read_bytes(name, 2_000) == data[:2_000]
            assert folder.read_end(name, 2_000) == data[-2_000:]
            assert folder.exists(name)
            assert not folder.exists(name + "s")
        assert folder.names() == sorted(files)
        assert folder.sizes() == {name: len(data) for name, data in files.items()}
        folder.check_writable()
        folder.join("sub", "deep").write_json("values.json", [1])
        folder.join("sub").delete()
        assert not s3.join("sub").exists()
    for name in files:
        folder.delete_file(name)
    assert s3.names() == []
    assert set(store.failed) == set(FAILURES)
    store.share = 0.0
    with pytest.raises(FileNotFoundError):
        folder.delete_file("file-1")


@pytest.mark.parametrize("failure", [*FAILURES, EMBEDDED])
def test_each_failure_is_an_outage_and_no_refusal(
    store: FailingStore, folder: Folder, failure: str
) -> None:
    folder, long = folder.patient(0), bytes(PART_BYTES + 1)
    operations: dict[str, Callable[[], object]] = {
        "^POST.*uploadId": lambda: folder.write_bytes("long", long),
        "^POST.*delete": folder.delete,
    }
    if failure != EMBEDDED:
        operations |= {
            "^HEAD": lambda: folder.exists("file"),
            "^GET.*/file": lambda: folder.read_bytes("file"),
            "^GET.*list-type": folder.names,
            "^PUT": lambda: folder.write_bytes("file", b"new"),
            "^POST.*uploads": lambda: folder.write_bytes("long", long),
            "^PUT.*partNumber=2": lambda: folder.write_bytes("long", long),
            "^DELETE": lambda: folder.delete_file("file"),
        }
    store.failures = (failure,)
    for request, operation in operations.items():
        store.share = 0.0
        folder.delete()
        folder.write_bytes("file", content(5_000))
        store.share, store.fails = 1.0, request
        with pytest.raises((OSError, UserError)) as caught:
            operation()
        # What is looked up is refused with the reason.
        problem = caught.value if isinstance(caught.value, OSError) else caught.value.__cause__
        assert isinstance(problem, OSError)
        assert is_outage(problem), (request, problem)
        assert not is_refusal(problem), (request, problem)
        store.share = 0.0
        # An upload that fails half way leaves nothing.
        answered = failure in ("cut after", "cut inside")
        assert folder.exists("long") == (answered and "uploadId" in request)


def test_a_deletion_whose_answer_was_lost_has_succeeded(
    store: FailingStore, folder: Folder
) -> None:
    folder.write_bytes("file", b"")
    store.share, store.failures, store.fails = 0.5, ("cut after",), "^(DELETE|POST|PUT)"
    for number in range(10):
        folder.write_bytes(f"file-{number}", b"")
        folder.delete_file(f"file-{number}")
        folder.join("sub").write_bytes("file", b"")
        folder.join("sub").delete()
    assert folder.names() == ["file"]
    assert store.failed["cut after"] > 10


def test_an_answer_that_is_too_short_is_not_taken_for_the_whole(
    store: FailingStore, folder: Folder, s3: Folder
) -> None:
    """Unlike one that is cut, it claims to be complete, and pyarrow believes it."""
    data = content(5_000)
    folder.write_bytes("file", data)
    # The last bytes that a buffer is marked by are no special bytes of a file.
    for end in (b"\0", b"\xff", b"\1"):
        folder.write_bytes("end", data + end)
        assert folder.read_bytes("end") == data + end
    store.share, store.failures, store.fails = 0.5, (SHORT,), "^GET.*/file"
    for _ in range(10):
        assert folder.read_bytes("file") == data
        assert folder.read_end("file", 700) == data[-700:]
    assert store.failed[SHORT] > 5
    store.share = 1.0
    for read in (folder.patient(0).read_bytes, lambda name: folder.patient(0).read_end(name, 1)):
        with pytest.raises(CutShort, match="ended before byte 5,000 of 5,000"):
            read("file")


def test_a_file_that_is_replaced_by_a_shorter_one_is_not_mixed_with_it(folder: Folder) -> None:
    folder.write_bytes("file", content(5_000))
    with folder.join("file").open_file() as opened:
        folder.write_bytes("file", content(100))
        with pytest.raises(CutShort):
            opened.read(5_000)


def test_long_files_are_read_in_few_requests(store: FailingStore, folder: Folder) -> None:
    data = content(PIECE_BYTES + 1)
    folder.write_bytes("file", data)
    store.forget()
    assert folder.read_bytes("file") == data
    assert len(store.requests) == 3


def test_no_folders_are_written_for_a_file(store: FailingStore, s3: Folder) -> None:
    folder = Folder.at(store.uri(s3.uri)).join("a", "b")
    folder.write_bytes("file", b"content")
    store.forget()
    folder.join("c").write_bytes("file", b"content")
    assert [line.split("=")[0].split("?")[-1] for line in store.requests] == [
        "uploads",
        "partNumber",
        "uploadId",
    ]
    assert folder.join("c").read_bytes("file") == b"content"
    assert folder.folders() == ["c"]


@pytest.mark.parametrize("container", ["folder", "zip", "tar"])
def test_no_image_is_left_out_or_damaged_by_short_answers(
    store: FailingStore, folder: Folder, container: str
) -> None:
    images = {f"{number}.png": content(1_000 + number) for number in range(40)}
    packed = io.BytesIO()
    if container == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            for name, data in images.items():
                archive.writestr(name, data)
    elif container == "tar":
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, data in images.items():
                about = tarfile.TarInfo(name)
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    else:
        for name, data in images.items():
            folder.join("images").write_bytes(name, data)
    if container != "folder":
        folder.write_bytes("images", packed.getvalue())
    with mock.patch.object(Folder, "at", return_value=folder.join("images")):
        found = Files.open("s3://bucket/images", "--images").patient(60)
    store.share, store.failures, store.fails = 0.3, (SHORT, "503"), "^GET.*/images"
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(found.read, range(len(images))))
    assert read == [images[name] for name in found.paths]
    assert store.failed[SHORT]


def test_no_row_of_a_shard_is_damaged_by_short_answers(
    store: FailingStore, folder: Folder, tmp_path: Path
) -> None:
    manifest, pixels = write_dataset(tmp_path, [15, 10])
    for name in Folder.at(tmp_path).names():
        folder.write_bytes(name, (tmp_path / name).read_bytes())
    store.share, store.failures, store.fails = 0.3, (SHORT, "cut inside"), "^GET.*parquet"
    reader = ShardReader(folder, manifest, TRAIN)
    for _ in range(5):
        assert np.array_equal(reader.images(np.arange(25)), pixels[TRAIN])
        assert reader.ids() == [f"train{row}" for row in range(25)]
    assert verify(folder, manifest) == []
    assert store.failed[SHORT]
