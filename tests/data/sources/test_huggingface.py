"""Datasets as Hugging Face's `datasets` saves them, written here with pyarrow alone."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import load_image
from saved_datasets import IMAGE, png, write_arrow, write_saved, write_table

from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.data.images import BadImage
from raygen.data.sources.huggingface import HuggingFace, huggingface
from raygen.data.splits import TEST, TRAIN, VALIDATION


def shade(source: HuggingFace, position: int) -> int:
    return int(np.asarray(load_image(source, position)[0])[0, 0, 0])


def check_values(source: HuggingFace) -> None:
    for position in range(len(source.ids)):
        s = shade(source, position)
        values = dict(zip(source.attributes, load_image(source, position)[1], strict=True))
        assert values["smiling"] == (0 if s % 5 == 0 else 1 if s % 2 == 0 else -1)
        # Class -1 is none that is known.
        assert values["cat"] == {0: 0, 1: 1, 2: -1}[s % 3]
        assert values["dog"] == {0: 0, 1: -1, 2: 1}[s % 3]
        assert values["hat"] == (1 if s % 2 else -1)
        assert values["glasses"] == s % 3 - 1


def test_a_saved_dataset_is_read_with_its_attributes(tmp_path: Path) -> None:
    place = write_saved(tmp_path / "saved", [range(7), range(7, 20)])
    source = huggingface(str(place))
    assert source.attributes == ("smiling", "cat", "dog", "hat", "glasses")
    assert source.ignored == ["caption"]
    assert source.splits() == {TRAIN: range(18), VALIDATION: range(19, 20), TEST: range(18, 19)}
    assert sorted(shade(source, k) for k in range(20)) == list(range(20))
    # Those held out are not the last, as rows are often sorted by class.
    assert [shade(source, k) for k in range(18)] == sorted(shade(source, k) for k in range(18))
    assert 0 < shade(source, 19) < 19
    assert 0 < shade(source, 18) < 19
    assert source.ids == huggingface(str(place)).ids
    for position, name in enumerate(source.ids):
        assert name == f"train/{shade(source, position):07d}"
    check_values(source)


def test_a_dictionary_of_splits_keeps_them(tmp_path: Path) -> None:
    parts = {"train": range(12), "valid": range(12, 15), "test": range(15, 20)}
    for name, shades in parts.items():
        write_saved(tmp_path / name, [shades])
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    source = huggingface(str(tmp_path))
    ranges = source.splits()
    assert list(ranges) == [TRAIN, VALIDATION, TEST]
    for split, shades in zip(ranges, parts.values(), strict=True):
        assert [shade(source, k) for k in ranges[split]] == list(shades)
    check_values(source)
    assert source.without_test() is None
    assert source.ids == huggingface(str(tmp_path), test_share=0.1).ids
    # Without a split for validation, the one for tests serves.
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["test", "train"]}))
    source = huggingface(str(tmp_path))
    assert {split: len(r) for split, r in source.splits().items()} == {TRAIN: 12, VALIDATION: 5}
    assert "--test-share takes a test split out of the latter" in source.notes[-1]
    # A part of it tests if that is asked for: rows in order, from all over it.
    source = huggingface(str(tmp_path), test_share=0.2)
    ranges = source.splits()
    assert {s: len(r) for s, r in ranges.items()} == {TRAIN: 12, VALIDATION: 2, TEST: 3}
    found = {split: [shade(source, k) for k in r] for split, r in ranges.items()}
    assert found[TRAIN] == list(range(12))
    assert sorted(found[VALIDATION] + found[TEST]) == list(range(15, 20))
    assert all(part == sorted(part) for part in found.values())
    check_values(source)
    with pytest.raises(UserError, match=r"--test-share 0.3: must be less than 0.294, because test"):
        huggingface(str(tmp_path), test_share=0.3)


def test_splits_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    for name in ("train", "validation", "dev"):
        write_saved(tmp_path / name, [range(5)])
    names = json.dumps({"splits": ["train", "validation", "dev"]})
    (tmp_path / "dataset_dict.json").write_text(names)
    with pytest.raises(UserError, match="the split 'dev' means the same as another"):
        huggingface(str(tmp_path))


def test_the_cache_tells_splits_by_the_names_of_files(tmp_path: Path) -> None:
    for name, shades in (("train-00000-of-00002", range(5)), ("train-00001-of-00002", range(5, 9))):
        write_arrow(tmp_path / f"faces-{name}.arrow", shades)
    write_arrow(tmp_path / "faces-test.arrow", range(20, 24))
    source = huggingface(str(tmp_path))
    assert source.splits() == {TRAIN: range(9), VALIDATION: range(9, 13)}
    assert [shade(source, k) for k in range(13)] == [*range(9), *range(20, 24)]
    write_arrow(tmp_path / "faces.arrow", range(30, 34))
    with pytest.raises(UserError, match="the split '' is not known"):
        huggingface(str(tmp_path))


def test_classes_of_the_same_names_are_told_apart(tmp_path: Path) -> None:
    classes = {"_type": "ClassLabel", "names": ["no", "yes"]}
    info = json.dumps({"info": {"features": {"hat": classes, "tie": classes}}})
    rows = [{"bytes": png(k), "path": None} for k in range(4)]
    columns = {"image": pa.array(rows, IMAGE), "hat": [0, 0, 1, 1], "tie": [0, 1, 0, 1]}
    table = pa.table(columns).replace_schema_metadata({"huggingface": info})
    write_table(tmp_path / "a.arrow", table)
    source = huggingface(str(tmp_path))
    assert source.attributes == ("no", "yes", "tie=no", "tie=yes")
    for position in range(4):
        k = shade(source, position)
        hat, tie = (1 if k >= 2 else -1), (1 if k % 2 else -1)
        assert load_image(source, position)[1] == [-hat, hat, -tie, tie]


def test_files_of_the_cache_are_read_too(tmp_path: Path) -> None:
    write_arrow(tmp_path / "faces-train.arrow", range(5), marked=False)
    write_arrow(tmp_path / "cache-0123.arrow", range(50, 60))
    source = huggingface(str(tmp_path))
    assert sorted(shade(source, k) for k in range(5)) == list(range(5))
    # Nobody says what the numbers of the classes mean: they are -1, 0 and 1.
    assert source.attributes == ("smiling", "kind", "hat", "glasses")


def test_a_description_follows_the_content(tmp_path: Path) -> None:
    first = huggingface(str(write_saved(tmp_path / "a" / "set", [range(9)]))).description()
    same = huggingface(str(write_saved(tmp_path / "b" / "set", [range(9)]))).description()
    other = huggingface(str(write_saved(tmp_path / "c" / "set", [range(1, 10)]))).description()
    assert first == same != other


def test_what_is_no_dataset_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--images .*nowhere: holds no dataset of Hugging Face's"):
        huggingface(str(tmp_path / "nowhere"))
    place = write_saved(tmp_path / "damaged", [range(9)])
    file = place / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="data-00000-of-00001.arrow: cannot be read"):
        huggingface(str(place))
    (place / "state.json").write_text('{"_data_files": [{"filename": "../secret.arrow"}]}')
    with pytest.raises(UserError, match="names files in other folders"):
        huggingface(str(place))
    (tmp_path / "text").mkdir()
    table = pa.table({"text": ["a", "b"]})
    write_table(tmp_path / "text/a.arrow", table)
    with pytest.raises(UserError, match="must have one column of images; found none among text"):
        huggingface(str(tmp_path / "text"))
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict/dataset_dict.json").write_text('{"splits": ["train", "extra"]}')
    with pytest.raises(UserError, match="the split 'extra' is not known"):
        huggingface(str(tmp_path / "dict"))


def test_a_row_without_bytes_is_a_bad_image(tmp_path: Path) -> None:
    rows = [{"bytes": png(1), "path": None}, {"bytes": None, "path": "/etc/passwd"}]
    table = pa.table({"image": pa.array(rows, IMAGE)})
    write_table(tmp_path / "a.arrow", table)
    source = huggingface(str(tmp_path))
    bad = source.ids.index("train/0000001")
    with pytest.raises(BadImage, match="holds no bytes"):
        load_image(source, bad)
    assert shade(source, 1 - bad) == 1


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    place = tmp_path / "train.parquet"
    place.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="--images .*train.parquet: is a file; name the folder"):
        huggingface(str(place))


def write_classes(path: Path, classes: dict[str, int], flags: int = 0) -> str:
    """Four rows with columns of so many classes, and so many columns of truth values."""
    features = {
        name: {"_type": "ClassLabel", "names": [f"{name}{k}" for k in range(count)]}
        for name, count in classes.items()
    }
    rows = [{"bytes": png(k), "path": None} for k in range(4)]
    columns: dict[str, Any] = {"image": pa.array(rows, IMAGE)}
    columns |= {name: [0, 1, 2, 1] for name in classes}
    columns |= {f"flag{k}": [True, False, None, True] for k in range(flags)}
    table = pa.table(columns)
    info = json.dumps({"info": {"features": features}})
    write_table(path / "a.arrow", table.replace_schema_metadata({"huggingface": info}))
    return str(path)


def test_too_many_classes_are_left_out_with_a_sentence(tmp_path: Path) -> None:
    place = write_classes(tmp_path, {"fine": 300, "coarse": 20}, flags=2)
    source = huggingface(place)
    assert source.attributes == (*(f"coarse{k}" for k in range(20)), "flag0", "flag1")
    assert source.ignored == ["fine"]
    [note] = source.notes
    assert note.startswith("column fine is left out: with its 300 classes")
    assert "--keep-attributes" in note
    # Those of several columns together, the largest first.
    (tmp_path / "two").mkdir()
    source = huggingface(write_classes(tmp_path / "two", {"a": 100, "b": 150, "c": 90}))
    assert source.ignored == ["b"]


def test_attributes_can_be_chosen(tmp_path: Path) -> None:
    place = write_classes(tmp_path, {"fine": 300, "coarse": 20}, flags=2)
    source = huggingface(place, chosen=["flag1", "fine1"])
    assert source.attributes == ("fine1", "flag1")
    assert (source.ignored, source.notes) == (["coarse", "flag0"], [])
    values = {shade(source, k): load_image(source, k)[1] for k in range(4)}
    assert values == {0: [-1, 1], 1: [1, -1], 2: [-1, 0], 3: [1, 1]}
    with pytest.raises(UserError, match="--keep-attributes hat: .* no attribute of that name"):
        huggingface(place, chosen=["hat"])


def test_too_many_truth_values_are_refused_with_a_way_on(tmp_path: Path) -> None:
    place = write_classes(tmp_path, {}, flags=257)
    with pytest.raises(
        UserError, match="has 257 attributes, .* choose some with --keep-attributes"
    ):
        huggingface(place)
    assert huggingface(place, chosen=["flag200"]).attributes == ("flag200",)


def write_described(path: Path, columns: dict[str, Any], features: Any) -> str:
    """A dataset of four images with other columns. Args: features: what the library says."""
    path.mkdir()
    rows = [{"bytes": png(k), "path": None} for k in range(4)]
    table = pa.table({"image": pa.array(rows, IMAGE)} | columns)
    text = features if isinstance(features, str) else json.dumps(features)
    write_table(path / "a.arrow", table.replace_schema_metadata({"huggingface": text}))
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset_dict.json", "[1]", "must be an object"),
        ("dataset_dict.json", "{}", "splits is missing"),
        ("dataset_dict.json", '{"splits": "train"}', "splits is 'train', but must be a list"),
        ("dataset_dict.json", '{"splits": [["train"]]}', r"splits\[0\] is a list"),
        ("dataset_dict.json", "[" * 100_000, "levels deep"),
        ("state.json", '{"_data_files": {}}', "_data_files is an object"),
        ("state.json", '{"_data_files": ["a"]}', r"_data_files\[0\] is 'a'"),
        ("state.json", '{"_data_files": [{"filename": 3}]}', "filename is 3"),
        ("state.json", '{"_data_files": [{"filename": ".."}]}', "files in other folders"),
        ("state.json", '{"_data_files": [{"filename": "a\\\\b"}]}', "files in other folders"),
    ],
)
def test_damaged_descriptions_are_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        huggingface(str(tmp_path))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("{", "the description of the columns: not valid JSON"),
        ({"info": [1]}, "info is a list"),
        ({"info": {"features": [1]}}, "info.features is a list"),
        ({"info": {"features": {"kind": {"names": [1]}}}}, r"kind.names\[0\] is 1"),
        ({"info": {"features": {"kind": {"_type": "Image"}}}}, "is of int64, not of bytes"),
    ],
)
def test_damaged_descriptions_of_columns_are_refused(
    tmp_path: Path, features: Any, message: str
) -> None:
    place = write_described(tmp_path / "a", {"kind": [0, 1, 0, 1]}, features)
    with pytest.raises(UserError, match=message):
        huggingface(place)


def test_integers_of_any_kind_are_classes(tmp_path: Path) -> None:
    kinds = {"a": pa.uint8(), "b": pa.uint64(), "c": pa.int16()}
    largest = {"a": 255, "b": 2**64 - 1, "c": -1}
    columns = {name: pa.array([0, 1, largest[name], None], kind) for name, kind in kinds.items()}
    features: dict[str, Any] = {name: {"names": [f"{name}0", f"{name}1"]} for name in kinds}
    # A structure with an entry of this name is no column of classes.
    columns["names"] = pa.array([{"names": k} for k in range(4)])
    features["names"] = {"names": {"dtype": "int64"}}
    source = huggingface(write_described(tmp_path / "a", columns, {"info": {"features": features}}))
    assert source.attributes == ("a0", "a1", "b0", "b1", "c0", "c1")
    by_row = {shade(source, k): load_image(source, k)[1] for k in range(4)}
    # 255 is a class that has no name.
    assert by_row[0] == [1, -1] * 3
    assert by_row[2] == [-1, -1, 0, 0, 0, 0]
    assert by_row[3] == [0] * 6


def test_batches_whose_values_lie_outside_their_memory_are_refused(tmp_path: Path) -> None:
    path = write_saved(tmp_path / "a", [range(9)]) / "data-00000-of-00001.arrow"
    whole = path.read_bytes()
    # Where the first picture's bytes end: far beyond all of them.
    first = len(png(0)).to_bytes(4, "little")
    at = whole.index(b"\0\0\0\0" + first) + 4
    path.write_bytes(whole[:at] + (2**31 - 1).to_bytes(4, "little") + whole[at + 4 :])
    with pytest.raises(UserError, match="data-00000-of-00001.arrow: cannot be read"):
        huggingface(str(tmp_path / "a"))


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write_saved(tmp_path / "a", [range(12)]) / "data-00000-of-00001.arrow"
    source = huggingface(str(tmp_path / "a"))
    assert shade(source, 0) in range(12)
    os.truncate(path, 1000)
    with pytest.raises(UserError, match="data-00000-of-00001.arrow: cannot be read"):
        list(map(source.read, range(12)))
    path.unlink()
    with pytest.raises(UserError, match="data-00000-of-00001.arrow: cannot be read"):
        load_image(source, 11)


def test_a_file_that_begins_with_something_else_is_refused(tmp_path: Path) -> None:
    path = write_saved(tmp_path / "a", [range(9)]) / "data-00000-of-00001.arrow"
    whole = path.read_bytes()
    # The kind of the first message, 1 for a schema, behind its version of 2 bytes, 4.
    at = whole.index(b"\1\4\0")
    path.write_bytes(whole[:at] + b"\0" + whole[at + 1 :])
    with pytest.raises(UserError, match="type unknown in place of a schema"):
        huggingface(str(tmp_path / "a"))


def test_columns_that_share_values_are_refused(tmp_path: Path) -> None:
    words = pa.array(["a", "b", "a", "b"]).dictionary_encode()
    with pytest.raises(UserError, match="type dictionary in place of a record batch"):
        huggingface(write_described(tmp_path / "a", {"word": words}, {}))


def test_a_dataset_in_an_object_store_is_read_batch_by_batch(tmp_path: Path, s3: Folder) -> None:
    path = write_saved(tmp_path / "a", [range(9)])
    for file in path.iterdir():
        s3.write_bytes(file.name, file.read_bytes())
    source = huggingface(s3.uri)
    assert [batch.rows for batch in source.files[0].batches] == [3, 3, 3]
    assert sorted(shade(source, k) for k in range(9)) == list(range(9))
    patient = source.patient(60)
    assert patient.files[0].file.patience == 60
    assert shade(patient, 0) == shade(source, 0)
