"""Datasets on disk: complete or refused, with what is wrong."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import write_dataset

from raygen.config.run import PRESETS
from raygen.core.errors import ShardError, UserError
from raygen.core.storage import Folder
from raygen.data.shards import manifest as shards
from raygen.data.shards.manifest import Manifest


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
    # Originals have no manifest.json.
    assert {field.name for field in dataclasses.fields(manifest)} - set(values) == {"originals"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["splits", "train", 0, "rows"], 10**15, "rows is 1000000000000000, but must be the sum"),
        (["splits", "train", 0, "rows"], -5, "rows is -5"),
        (["splits", "train", 0, "row_groups"], [10**15], "rows is 5, but must be the sum"),
        (["splits", "train", 0, "row_groups"], [0, 5], r"row_groups\[0\] is 0"),
        (["splits", "train", 0, "row_groups"], {"a": 1}, "row_groups is an object"),
        (["splits", "train", 0, "bytes"], "5", "bytes is '5'"),
        (["splits", "train", 0, "bytes"], 100, "bytes is 100, but must be room for 5 images of 48"),
        (["splits", "train", 0, "sha256"], None, "sha256 is null"),
        (["splits", "train", 0, "name"], "../train-00000.parquet", "must be the name of a shard"),
        (["splits", "train", 0, "name"], "train-00001.parquet", "names a file twice"),
        (["splits", "train"], {}, "splits.train is an object"),
        (["splits"], [1], "splits is a list"),
        (["height"], 10**6, "height is 1000000, but must be a whole number, 1 to 65,536"),
        (["height"], 2.0, "height is 2.0"),
        (["width"], True, "width is true"),
        (["crop"], -1, "crop is -1"),
        (["attributes"], ["a", "a"], "attributes has a name twice"),
        (["attributes"], "abc", "attributes is 'abc'"),
        (["rejected"], [{"id": "a"}], r"rejected\[0\].split is missing"),
        (["ignored"], [3], r"ignored\[0\] is 3"),
        (["source"], {"count": "many"}, "source.count is 'many'"),
        (["source"], None, "source is null"),
        (["format_version"], [2], "format_version is a list"),
    ],
)
def test_numbers_that_cannot_be_are_refused_with_their_place(
    tmp_path: Path, path: list[str | int], value: Any, message: str
) -> None:
    write_dataset(tmp_path, (5, 5), (2,))
    values = json.loads((tmp_path / shards.MANIFEST).read_text())
    inside = values
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    (tmp_path / shards.MANIFEST).write_text(json.dumps(values))
    with pytest.raises(ShardError, match=message) as caught:
        Manifest.load(Folder.at(tmp_path))
    assert "manifest.json: damaged (" in str(caught.value)


def test_a_dataset_may_lack_a_split_but_no_run_is_without_images(tmp_path: Path) -> None:
    write_dataset(tmp_path, (), (3,))
    manifest = load_changed(tmp_path, splits={})
    assert manifest.rows("train") == manifest.rows("validation") == 0
    with pytest.raises(UserError, match="holds no training images"):
        PRESETS["dcgan-celeba"].total_steps(manifest.rows("train"))
