"""Trying again while an object store does not answer."""

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from pyarrow import fs

from raygen.core import retry
from raygen.core.errors import StorageError
from raygen.core.retry import OUTAGES, CutShort, Retries, is_refusal, patiently
from raygen.core.storage import Folder

AWAY = OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only while something sleeps."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    return now


def away_for(seconds: float, clock: list[float]) -> Callable[[], str]:
    def operation() -> str:
        if clock[0] < seconds:
            raise AWAY
        return "answer"

    return operation


def test_an_outage_is_waited_for_and_told(clock: list[float]) -> None:
    told: list[str] = []
    with OUTAGES.told_to(told.append):
        assert patiently(away_for(60, clock), 600, "s3://bucket/run") == "answer"
    assert 60 <= clock[0] < 60 + retry.LONGEST_DELAY
    assert told[0].startswith("s3://bucket/run has not answered for 0:0")
    assert told[0].endswith("trying until 10:00")
    assert told[-1] == ""
    assert "" not in told[:-1]


def test_what_is_repeated_is_counted(clock: list[float]) -> None:
    before = OUTAGES.retries
    patiently(away_for(0, clock), 600, "s3://bucket/run")
    assert OUTAGES.retries.since(before) == Retries()
    patiently(away_for(60, clock), 600, "s3://bucket/run")
    counted = OUTAGES.retries.since(before)
    assert counted.requests > 1
    assert counted.seconds == pytest.approx(clock[0])
    OUTAGES.count(Retries(2, 1.5))
    assert OUTAGES.retries.since(before) == counted + Retries(2, 1.5)
    assert str(Retries(14, 41)) == "14 requests were repeated, 0:41 waited"
    assert str(Retries(1, 0.2)) == "1 request was repeated, 0:00 waited"


@pytest.mark.parametrize(
    "error",
    [
        CutShort("x"),
        OSError("AWS Error UNKNOWN: XML_ERROR_PARSING"),
        OSError("AWS Error INTERNAL_FAILURE: Failed to flush response stream (eof: 0, bad: 1)"),
    ],
)
@pytest.mark.parametrize("patience", [0, 600])
def test_half_an_answer_is_asked_for_again_by_the_impatient_too(
    clock: list[float], error: OSError, patience: float
) -> None:
    operation = mock.Mock(side_effect=[error] * (retry.GARBLED_ATTEMPTS - 1) + ["answer"])
    assert patiently(operation, patience, "s3://bucket/run") == "answer"
    operation = mock.Mock(side_effect=error)
    with pytest.raises(OSError if not patience else StorageError):
        patiently(operation, patience, "s3://bucket/run")
    assert operation.call_count >= retry.GARBLED_ATTEMPTS


def test_a_store_that_stays_away_is_given_up(clock: list[float]) -> None:
    with pytest.raises(StorageError, match=r"has not answered for 9:\d\d .*curlCode: 7"):
        patiently(away_for(1e9, clock), 600, "s3://bucket/run")
    assert 600 - retry.LONGEST_DELAY <= clock[0] <= 600


@pytest.mark.parametrize(
    "text",
    [
        "AWS Error ACCESS_DENIED during HeadObject operation: No response body.",
        "AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: gone",
        "AWS Error UNKNOWN (HTTP status 403) during HeadObject operation",
        "AWS Error UNKNOWN (HTTP status 400): The provided token has expired.",
    ],
)
def test_a_refusal_is_not_repeated(clock: list[float], text: str) -> None:
    operation = mock.Mock(side_effect=OSError(text))
    with pytest.raises(StorageError, match="s3://bucket/run: refused .*check the credentials"):
        patiently(operation, 600, "s3://bucket/run")
    operation.assert_called_once()


@pytest.mark.parametrize("key", ["runs/tokenizer/config.json", "missing_faces/x", "signature"])
def test_the_names_of_buckets_and_keys_say_nothing(clock: list[float], key: str) -> None:
    during = f"When reading information for key '{key}' in bucket 'access_denied': AWS Error"

    def away() -> str:
        if clock[0] < 5:
            raise OSError(f"{during} NETWORK_CONNECTION during HeadObject operation: curlCode: 7")
        return "answer"

    assert patiently(away, 600, "s3://access_denied/x") == "answer"
    with pytest.raises(StorageError, match="refused"):
        patiently(
            mock.Mock(side_effect=OSError(f"{during} ACCESS_DENIED")), 600, "s3://access_denied/x"
        )


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_overloaded_store_does_not_refuse(status: int) -> None:
    assert not is_refusal(OSError(f"AWS Error UNKNOWN (HTTP status {status}) during GetObject"))


def test_a_missing_file_is_missing_at_once(clock: list[float]) -> None:
    for patience in (0, 600):
        with pytest.raises(FileNotFoundError):
            patiently(mock.Mock(side_effect=FileNotFoundError()), patience, "s3://bucket/run")
    assert clock[0] == 0


def test_what_is_no_outage_is_not_repeated(clock: list[float]) -> None:
    damaged = mock.Mock(side_effect=OSError("could not verify page integrity, CRC checksum failed"))
    with pytest.raises(OSError, match="page integrity"):
        patiently(damaged, 600, "s3://bucket/run")
    damaged.assert_called_once()


def test_without_patience_there_is_one_attempt(clock: list[float]) -> None:
    with pytest.raises(OSError, match="curlCode: 7"):
        patiently(away_for(1, clock), 0, "s3://bucket/run")


def test_a_patient_folder_and_what_is_in_it_outlast_an_outage(
    tmp_path: Path, clock: list[float]
) -> None:
    real = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())

    def flaky(name: str) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if chance.random() < 0.5:
                raise AWAY
            return getattr(real, name)(*arguments, **options)

        return call

    chance = random.Random(0)
    names: tuple[str, ...] = (
        "get_file_info",
        "open_input_file",
        "open_output_stream",
        "create_dir",
    )
    names += ("delete_dir", "delete_file")
    store = mock.Mock(**{name: mock.Mock(side_effect=flaky(name)) for name in names})
    folder = Folder("s3://bucket/run", store, "run").patient(600).join("checkpoints")
    folder.write_json("state.json", [1])
    assert folder.read_json("state.json") == [1]
    assert folder.names() == ["state.json"]
    assert list(folder.sizes()) == ["state.json"]
    assert folder.parent.exists("checkpoints")
    folder.delete_file("state.json")
    assert not folder.exists("state.json")
    folder.delete()
    assert not folder.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_told_with_the_place_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    folder = Folder.at(tmp_path)
    folder.write_bytes("file", b"before")
    full = mock.patch.object(os, "fsync", side_effect=OSError(number, os.strerror(number)))
    reason = os.strerror(number)
    with full, pytest.raises(StorageError, match=rf"{tmp_path}/file: cannot be written \({reason}"):
        folder.write_bytes("file", b"after")
    assert folder.read_bytes("file") == b"before"
    assert folder.names() == ["file"]
