"""Libraries that do not retry read and write in an object store that fails."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from failing_store import FAILURES, SHORT, FailingStore
from pyarrow import fs

from raygen.core import retry
from raygen.core.errors import StorageError
from raygen.core.patient_filesystem import patient_filesystem
from raygen.core.storage import Folder


@pytest.fixture
def folder(store: FailingStore, s3: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(retry, "LONGEST_DELAY", 0.01)
    return Folder.at(store.uri(s3.uri)).patient(60)


def test_what_is_copied_there_and_back_is_whole(
    store: FailingStore, folder: Folder, tmp_path: Path
) -> None:
    # More files than pyarrow has threads, each of which would wait for another one.
    files = {f"{k:02d}": np.random.default_rng(k).bytes(2_000 * k) for k in range(20)}
    files["large"] = np.random.default_rng(0).bytes(12 * 2**20)
    (tmp_path / "there").mkdir()
    for name, content in files.items():
        (tmp_path / "there" / name).write_bytes(content)
    local, remote = fs.LocalFileSystem(), pickle.loads(pickle.dumps(patient_filesystem(folder)))
    store.share, store.failures = 0.5, (*FAILURES, SHORT)
    copied = folder.join("copied").path
    fs.copy_files(
        str(tmp_path / "there"), copied, source_filesystem=local, destination_filesystem=remote
    )
    (tmp_path / "back").mkdir()
    again = folder.join("again").path
    fs.copy_files(copied, again, source_filesystem=remote, destination_filesystem=remote)
    fs.copy_files(
        again, str(tmp_path / "back"), source_filesystem=remote, destination_filesystem=local
    )
    assert {file.name: file.read_bytes() for file in (tmp_path / "back").iterdir()} == files
    assert sum(store.failed.values()) > 20


def test_it_does_what_the_filesystem_does(store: FailingStore, folder: Folder) -> None:
    remote = patient_filesystem(folder)
    store.share, store.failures = 0.5, (*FAILURES, SHORT)
    path = folder.join("a").path
    remote.create_dir(path)
    with remote.open_output_stream(f"{path}/file") as stream:
        stream.write(b"con")
        stream.write(b"tent")
    assert remote.get_file_info(f"{path}/file").size == 7
    [info] = remote.get_file_info(fs.FileSelector(path))
    assert (info.path, info.type) == (f"{path}/file", fs.FileType.File)
    with remote.open_input_file(f"{path}/file") as file:
        file.seek(3)
        assert file.read() == b"tent"
    remote.copy_file(f"{path}/file", f"{path}/copy")
    remote.move(f"{path}/copy", f"{path}/moved")
    assert remote.open_input_stream(f"{path}/moved").read() == b"content"
    remote.delete_file(f"{path}/moved")
    remote.delete_dir_contents(path)
    assert not remote.get_file_info(fs.FileSelector(path))
    remote.delete_dir(path)
    with pytest.raises(FileNotFoundError):
        remote.open_input_file(f"{path}/file")
    with pytest.raises(PermissionError):
        remote.delete_dir_contents("", accept_root_dir=True)
    assert remote == patient_filesystem(folder)
    assert remote.type_name.endswith("s3")


def test_a_store_that_stays_away_is_given_up(store: FailingStore, folder: Folder) -> None:
    remote = patient_filesystem(folder.patient(0.2))
    store.share = 1.0
    with pytest.raises(StorageError, match="has not answered for"):
        remote.get_file_info(folder.path)
    stream = remote.open_output_stream(folder.join("file").path)
    stream.write(b"content")
    with pytest.raises(StorageError, match="has not answered for"):
        stream.close()


def test_of_a_disk_it_is_the_filesystem_itself(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    assert patient_filesystem(folder) is folder.filesystem
