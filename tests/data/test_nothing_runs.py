"""Nothing in a stranger's dataset is run.

Ray Data registers a type of columns with Arrow whose values it unpickles when they are read, which
runs what whoever wrote them likes.
"""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
from helpers import fails, write_dataset
from ray.data.extensions import ArrowPythonObjectType

from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.data.shards.manifest import MANIFEST, Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.sources.huggingface import huggingface
from raygen.data.splits import TRAIN


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self._place = str(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._place,)


def column(place: Path, rows: int) -> pa.Array:
    """A column of values that do harm when they are read."""
    assert ray.data
    stored = pa.array([pickle.dumps(Harm(place))] * rows, pa.large_binary())
    return pa.ExtensionArray.from_storage(ArrowPythonObjectType(), stored)


def test_such_a_column_is_what_it_is_taken_for(tmp_path: Path) -> None:
    column(tmp_path / "harm", 1)[0].as_py()
    assert (tmp_path / "harm").is_dir()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("marked", [False, True])
def test_no_saved_dataset_runs_anything(tmp_path: Path, nested: bool, marked: bool) -> None:
    images = column(tmp_path / "harm", 30)
    if nested:
        images = pa.StructArray.from_arrays([images, pa.array([""] * 30)], ["bytes", "path"])
    table = pa.table({"image": images, "other": column(tmp_path / "harm", 30)})
    if marked:
        features = {"image": {"_type": "Image"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    saved = tmp_path / "saved"
    saved.mkdir()
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(saved / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(UserError, match="column"):
        huggingface(str(saved))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("harmful", ["id", "image"])
def test_no_prepared_dataset_runs_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harmful: str
) -> None:
    data = tmp_path / "data"
    write_dataset(data, [10], [10])
    for file in data.glob("*.parquet"):
        table = pq.read_table(file)
        number = table.column_names.index(harmful)
        table = table.set_column(number, harmful, column(tmp_path / "harm", 10))
        pq.write_table(table, file, row_group_size=5, compression="none", use_dictionary=False)
    # As whoever wrote the files would.
    values = json.loads((data / MANIFEST).read_text())
    for files in values["splits"].values():
        for entry in files:
            entry["bytes"] = (data / entry["name"]).stat().st_size
    (data / MANIFEST).write_text(json.dumps(values))
    place = Folder.at(data)
    reader = ShardReader(place, Manifest.load(place), TRAIN)
    with pytest.raises(UserError, match=f"its column {harmful} is of type"):
        reader.ids() if harmful == "id" else reader.group(0)
    assert "parquet" in fails(capsys, "prepare", "show", data, "--out", tmp_path / "sheet.png")
    assert not (tmp_path / "harm").exists()
