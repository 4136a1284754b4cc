"""Datasets as Hugging Face's `datasets` saves them, written with pyarrow alone."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

FEATURES = {
    "image": {"_type": "Image"},
    "smiling": {"_type": "Value", "dtype": "bool"},
    "kind": {"_type": "ClassLabel", "names": ["cat", "dog"]},
    "hat": {"_type": "Value", "dtype": "int64"},
    "glasses": {"_type": "Value", "dtype": "int64"},
    "caption": {"_type": "Value", "dtype": "string"},
}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_arrow(path: Path, shades: Sequence[int], per_batch: int = 3, marked: bool = True) -> None:
    """A file of rows; each row's values follow from the shade of its picture."""
    columns = {
        "image": pa.array([{"bytes": png(s), "path": f"{s}.png"} for s in shades], IMAGE),
        "smiling": pa.array([None if s % 5 == 0 else s % 2 == 0 for s in shades], pa.bool_()),
        "kind": pa.array([s % 3 - 1 for s in shades], pa.int64()),
        "hat": pa.array([s % 2 for s in shades], pa.int64()),
        "glasses": pa.array([s % 3 - 1 for s in shades], pa.int64()),
        "caption": pa.array([f"shade {s}" for s in shades]),
    }
    table = pa.table(columns)
    if marked:
        info = json.dumps({"info": {"features": FEATURES}})
        table = table.replace_schema_metadata({"huggingface": info})
    write_table(path, table, per_batch)


def write_table(path: Path, table: pa.Table, per_batch: int = 3) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, per_batch)


def write_saved(path: Path, files: Sequence[Sequence[int]], **options: Any) -> Path:
    path.mkdir(parents=True)
    names = [f"data-{k:05d}-of-{len(files):05d}.arrow" for k in range(len(files))]
    for name, shades in zip(names, files, strict=True):
        write_arrow(path / name, shades, **options)
    state = {"_data_files": [{"filename": name} for name in names]}
    (path / "state.json").write_text(json.dumps(state))
    return path
