"""Datasets on disk: complete or refused, with what is wrong."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import write_dataset

from raygen.data import shards
from raygen.data.shards import Manifest
from raygen.errors import ShardError, UserError
from raygen.storage import Folder


def load_changed(path: Path, **changes: Any) -> Manifest:
    values = json.loads((path / shards.MANIFEST).read_text()) | changes
    (path / shards.MANIFEST).write_text(json.dumps(values))
    return Manifest.load(Folder.at(path))


def test_a_manifest_says_what_is_wrong_with_a_dataset(tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        write_dataset(tmp_path / name, (5, 5), (2,))
        return tmp_path / name

    (tmp_path / "several/32x32").mkdir(parents=True)
    (tmp_path / "several/32x32" / shards.MANIFEST).write_text("{}")
    with pytest.raises(ShardError, match=r"holds no .*; name one of the datasets in it: 32x32$"):
        Manifest.load(Folder.at(tmp_path / "several"))
    with pytest.raises(ShardError, match=r"--data .*nowhere: holds no manifest\.json"):
        Manifest.load(Folder.at(tmp_path / "nowhere"))
    with pytest.raises(ShardError, match="format version 99"):
        load_changed(fresh("version"), format_version=99)
    with pytest.raises(ShardError, match=r"splits\.train\[0\]\.name is 'x', but must be the name"):
        load_changed(fresh("splits"), splits={"train": [{"name": "x"}]})
    path = fresh("whole") / shards.MANIFEST
    with pytest.raises(ShardError, match=r"manifest\.json: is a file; name the folder of a data"):
        Manifest.load(Folder.at(path))
    path = fresh("junk")
    (path / shards.MANIFEST).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Manifest.load(Folder.at(path))
    path = fresh("missing")
    (path / "train-00001.parquet").unlink()
    with pytest.raises(ShardError, match=r"train-00001\.parquet: is missing"):
        Manifest.load(Folder.at(path))
    path = fresh("short")
    whole = (path / "train-00000.parquet").read_bytes()
    (path / "train-00000.parquet").write_bytes(whole[:-1])
    with pytest.raises(ShardError, match=r"train-00000\.parquet: has [\d,]+ bytes, the manifest"):
        Manifest.load(Folder.at(path))


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first, _ = write_dataset(tmp_path / "a", (5, 5))
    same, _ = write_dataset(tmp_path / "b", (5, 5))
    other, _ = write_dataset(tmp_path / "c", (5, 6))
    assert first.fingerprint == same.fingerprint != other.fingerprint


def test_the_manifest_survives_json(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, (5,), (2,))
    values = json.loads(json.dumps(manifest.to_json()))
    assert values["dtype"] == "uint8"
    assert values["channels"] == 3
    assert Manifest.load(Folder.at(tmp_path)) == manifest
    assert {field.name for field in dataclasses.fields(manifest)} <= set(values)
