"""Datasets that Hugging Face's `datasets` wrote with `save_to_disk` or keeps in its cache.

They consist of files in Arrow's format, which pyarrow reads; `datasets` itself is not needed.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from raygen.core.checked import parse, shown
from raygen.core.errors import UserError
from raygen.core.printable import printable
from raygen.core.storage import Folder
from raygen.data.images import BadImage, open_image
from raygen.data.shares import TEST_SHARE, VALIDATION_SHARE
from raygen.data.sources.arrow_file import ArrowFile, scan
from raygen.data.sources.layout import MAX_LABELS, choose_attributes
from raygen.data.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    last_part_tests,
    last_parts_held_out,
    note_on_test,
    require_splits,
    share_of_validation,
    shuffled,
)

_SAVE_AGAIN = "save the dataset again"


@dataclass(frozen=True)
class HuggingFace:
    """Images of a saved dataset. Boolean columns and columns of classes become attributes.

    Attributes:
        files: the dataset's files, in the order of the rows.
        starts: (files + 1,) int64: the first row of each file, and the total number of rows.
        column: name of the column that holds the images.
        order: (images,) int64: the row of each of `ids`.
        values: (images, attributes) int8: 1 true, -1 false, 0 unknown.
        ranges: positions in `ids` of each split.
        ignored: names of columns that are not used.
        notes: sentences for users about the attributes and splits.
        had_no_test: whether versions that made no test split had the test images train.
    """

    place: Folder
    files: list[ArrowFile]
    starts: np.ndarray
    column: str
    ids: list[str]
    order: np.ndarray
    attributes: tuple[str, ...]
    values: np.ndarray
    ranges: dict[str, range]
    ignored: list[str]
    notes: list[str]
    had_no_test: bool = False

    def splits(self) -> dict[str, range]:
        return self.ranges

    def without_test(self) -> "HuggingFace | None":
        if not self.had_no_test:
            return None
        tested = np.r_[self.ranges[TRAIN], self.ranges[TEST]]
        trains = tested[np.argsort(self.order[tested])]
        moved = np.concatenate([trains, self.ranges[VALIDATION]])
        count = len(trains)
        return replace(
            self,
            ids=[self.ids[k] for k in moved],
            order=self.order[moved],
            values=self.values[moved],
            ranges={TRAIN: range(count), VALIDATION: range(count, len(moved))},
            had_no_test=False,
        )

    @property
    def is_remote(self) -> bool:
        # A whole batch of images is read in one request, so concurrent reads gain nothing.
        return False

    def patient(self, seconds: float) -> "HuggingFace":
        files = [file.patient(seconds) for file in self.files]
        return replace(self, place=self.place.patient(seconds), files=files)

    def size(self, position: int) -> int:
        return 0

    def read(self, position: int) -> bytes:
        row = int(self.order[position])
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        cell = self.files[file].cell(self.column, row - int(self.starts[file]))
        data = cell["bytes"] if isinstance(cell, dict) else cell
        if data is None:
            raise BadImage("the row holds no bytes; save the dataset with its images inside")
        return bytes(data)

    def open(self, position: int, data: bytes) -> tuple[Image.Image, list[int]]:
        return open_image(data), self.values[position].tolist()

    def description(self) -> dict[str, Any]:
        digest = hashlib.sha256(repr((self.attributes, self.ids)).encode() + self.values.tobytes())
        for file in (known.file for known in self.files):
            size = file.filesystem.get_file_info(file.path).size
            digest.update(f"{file.name} {size}\n".encode())
        return {
            "kind": "huggingface",
            "images": self.place.name,
            "count": len(self.ids),
            "files_sha256": digest.hexdigest(),
            "splits": {split: len(positions) for split, positions in self.ranges.items()},
        }


def huggingface(
    images: str,
    validation_share: float = VALIDATION_SHARE,
    chosen: Sequence[str] = (),
    test_share: float | None = None,
) -> HuggingFace:
    """Open a dataset, or a dictionary of splits, that `save_to_disk` wrote.

    Args:
        images: path or URI of its folder.
        validation_share: share of the images to validate on if the dataset has only one split.
        chosen: names of the attributes to keep; empty for all.
        test_share: share of the images to test on; None: 5 % if the dataset has only one split.
    Raises: UserError if there is no dataset, or it has no images.
    """
    said = f"--images {images}"
    place = Folder.at(images)
    splits = _list(place, said)
    files: list[ArrowFile] = []
    counts: dict[str, int] = {}
    starts, others = [0], []
    for split, part in splits.items():
        for place_of_file in part:
            # Leave the images out, because those of all files need not fit into memory.
            file, table = scan(place_of_file, lambda schema: _image_column(schema, said))
            files.append(file)
            if not file.schema.equals(files[0].schema):
                raise UserError(
                    f"{said}: {file.file.name} has other columns than {files[0].file.name}; save "
                    "it again as one dataset"
                )
            counts[split] = counts.get(split, 0) + file.rows
            starts.append(starts[-1] + file.rows)
            others.append(_with_plain_integers(table))
    if not files:
        raise UserError(f"{said}: holds no split; {_SAVE_AGAIN}")
    column = _image_column(files[0].schema, said)
    rows = [f"{split}/{row:07d}" for split, count in counts.items() for row in range(count)]
    if len(rows) < 2:
        raise UserError(f"{said}: holds {len(rows)} images; training and validation need one each")
    attributes, values, ignored, notes = _attributes(
        pa.concat_tables(others), len(rows), chosen, said
    )
    if len(splits) == 1:
        tests = TEST_SHARE if test_share is None else test_share
        ranges = last_parts_held_out(len(rows), validation_share, tests)
        order = _sorted_within(shuffled(rows), ranges)
    else:
        order = np.arange(len(rows))
        bounds = np.cumsum([0, *counts.values()]).tolist()
        ranges = {split: range(bounds[k], bounds[k + 1]) for k, split in enumerate(splits)}
        require_splits(ranges, said)
        notes += note_on_test(ranges, test_share)
        if test_share and TEST not in ranges:
            held_out = ranges[VALIDATION]
            mixed = shuffled(rows[held_out.start : held_out.stop]) + held_out.start
            order[held_out.start : held_out.stop] = mixed
            ranges = last_part_tests(ranges, share_of_validation(ranges, test_share, said))
            order = _sorted_within(order, ranges)
    return HuggingFace(
        place=place,
        files=files,
        starts=np.array(starts),
        column=column,
        ids=[rows[row] for row in order],
        order=order,
        attributes=attributes,
        values=values[order],
        ranges=ranges,
        ignored=ignored,
        notes=notes,
        had_no_test=len(splits) == 1 and test_share is None and TEST in ranges,
    )


def _sorted_within(order: np.ndarray, ranges: dict[str, range]) -> np.ndarray:
    """Sort the rows within each split, so that reading a range of them touches few files."""
    order = order.copy()
    for positions in ranges.values():
        order[positions.start : positions.stop].sort()
    return order


def _list(place: Folder, said: str) -> dict[str, list[Folder]]:
    """The Arrow files of each split. Raises: UserError."""
    if place.is_file():
        raise UserError(
            f"{said}: is a file; name the folder that save_to_disk wrote (a Parquet or CSV file is "
            "opened with datasets.load_dataset first)"
        )
    if place.exists("dataset_dict.json"):
        values = place.read_checked("dataset_dict.json", advice=_SAVE_AGAIN)
        names = values.entry("splits").texts()
        found = {split: _saved(place.join(name), said) for split, name in _splits(names, said)}
    else:
        named: dict[str, list[Folder]] = {}
        for file in _saved(place, said):
            # The cache's file names contain the split; those of save_to_disk do not.
            match = re.search(r"-([a-z]+)(-\d+-of-\d+)?\.arrow$", file.name)
            name = match[1] if match and match[1] in SPLITS else ""
            named.setdefault(name, []).append(file)
        if len(named) == 1:
            return {TRAIN: next(iter(named.values()))}
        found = {split: named[name] for split, name in _splits(list(named), said)}
    if VALIDATION not in found and TEST in found:
        found[VALIDATION] = found.pop(TEST)
    return {split: found[split] for split in (TRAIN, VALIDATION, TEST) if split in found}


def _splits(names: Sequence[str], said: str) -> list[tuple[str, str]]:
    """The split that each name stands for, and the name. Raises: UserError if that is unclear."""
    for number, name in enumerate(names):
        again = name in SPLITS and SPLITS[name] in [SPLITS[other] for other in names[:number]]
        if name not in SPLITS or again:
            problem = "means the same as another" if again else "is not known"
            raise UserError(
                f"{said}: the split {shown(name)} {problem} ({', '.join(SPLITS)} are known); name "
                "the folder of one split, or rename it"
            )
    return [(SPLITS[name], name) for name in names]


def _saved(place: Folder, said: str) -> list[Folder]:
    """The files of one dataset. Raises: UserError."""
    if place.exists("state.json"):
        values = place.read_checked("state.json", advice=_SAVE_AGAIN)
        names = [file.entry("filename").text() for file in values.entry("_data_files").items()]
    else:
        # The cache has no list of files; cache-*.arrow are results of transformations.
        names = [n for n in place.names() if n.endswith(".arrow") and not n.startswith("cache-")]
    if not names:
        raise UserError(
            f"{said}: holds no dataset of Hugging Face's; name a folder that save_to_disk wrote "
            "(with dataset_dict.json or state.json in it)"
        )
    if any(set(name) & set("/\\\0") or name in ("", ".", "..") for name in names):
        raise UserError(f"{said}: state.json names files in other folders; it is not read")
    return [place.join(name) for name in names]


def _with_plain_integers(table: pa.Table) -> pa.Table:
    """Cast all integer columns to int64."""
    for number, field in enumerate(table.schema):
        if pa.types.is_integer(field.type):
            # Values that do not fit become negative, which stands for no class.
            column = table.column(number).cast(pa.int64(), safe=False)
            table = table.set_column(number, field.with_type(pa.int64()), column)
    return table


def _features(schema: pa.Schema) -> dict[str, Any]:
    """The descriptions of columns in the schema's metadata, if any. Raises: UserError."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    values = parse(text, "the description of the columns", advice=_SAVE_AGAIN)
    info = values.optional("info")
    features = info.optional("features") if info else None
    if features is None or features.value is None:
        return {}
    known: dict[str, Any] = {}
    for name, feature in features.entries().items():
        if isinstance(feature.value, dict):
            # A struct may have a field that is called `names`.
            classes = feature.optional("names")
            names = classes.texts() if classes and isinstance(classes.value, list) else ()
            known[name] = feature.value | {"names": list(names)}
    return known


def _image_column(schema: pa.Schema, said: str) -> str:
    """The name of the column of images. Raises: UserError if there is not exactly one."""
    features = _features(schema)
    marked = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    columns: list[str] = marked or [
        f.name
        for f in schema
        if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0
    ]
    if len(columns) != 1:
        found = ", ".join(columns) or f"none among {', '.join(schema.names)}"
        raise UserError(f"{said}: must have one column of images; found {found}")
    kind = schema.field(columns[0]).type
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        kind = kind.field(index).type if index >= 0 else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(
            f"{said}: the column of images, {columns[0]}, is of {kind}, not of bytes; save the "
            "dataset with its images inside"
        )
    return columns[0]


@dataclass(frozen=True)
class _Attribute:
    """An attribute that can be made from a column.

    Attributes: number: the class that the attribute stands for; None for a boolean column.
    """

    name: str
    column: str
    number: int | None = None


def _attributes(
    table: pa.Table, rows: int, chosen: Sequence[str], said: str
) -> tuple[tuple[str, ...], np.ndarray, list[str], list[str]]:
    """Make attributes of a table's columns.

    Args: chosen: names of the attributes to keep; empty for all.
    Returns: their names; values (rows, attributes) int8; names of columns that are not used;
        notes for users.
    Raises: UserError if there are too many attributes, or a chosen one does not exist.
    """
    columns, notes = _columns(table), []
    if not chosen:
        # Drop the columns with the most classes first, so that as many others as possible fit.
        largest = sorted(
            (name for name, found in columns.items() if found[0].number is not None),
            key=lambda name: -len(columns[name]),
        )
        while largest and sum(map(len, columns.values())) > MAX_LABELS:
            name = largest.pop(0)
            notes.append(
                f"column {name} is left out: with its {len(columns.pop(name))} classes there are "
                f"more than {MAX_LABELS} attributes; --keep-attributes chooses some of them"
            )
    candidates = [attribute for found in columns.values() for attribute in found]
    names = choose_attributes([a.name for a in candidates], chosen, said)
    if len(names) > MAX_LABELS:
        raise UserError(
            f"{said}: has {len(names)} attributes, but at most {MAX_LABELS} can be kept; choose "
            "some with --keep-attributes"
        )
    kept = [attribute for attribute in candidates if attribute.name in set(names)]
    values = np.empty((rows, len(kept)), np.int8)
    for number, attribute in enumerate(kept):
        values[:, number] = _values(table.column(attribute.column), attribute.number)
    used = {attribute.column for attribute in kept}
    return tuple(names), values, [name for name in table.column_names if name not in used], notes


def _columns(table: pa.Table) -> dict[str, list[_Attribute]]:
    """The possible attributes of each column that can become some."""
    features = _features(table.schema)
    columns: dict[str, list[_Attribute]] = {}
    known: set[str] = set()
    for field in table.schema:
        classes = features.get(field.name, {}).get("names")
        whole = pa.types.is_integer(field.type)
        if classes and whole:
            # Several columns may have classes of the same names, such as yes and no.
            own = [printable(str(c)) for c in classes]
            names = [f"{field.name}={name}" if name in known else name for name in own]
            found = [_Attribute(name, field.name, k) for k, name in enumerate(names)]
        elif pa.types.is_boolean(field.type) or (
            whole and set(table.column(field.name).unique().to_pylist()) <= {-1, 0, 1}
        ):
            found = [_Attribute(field.name, field.name)]
        else:
            continue
        columns[field.name] = found
        known |= {attribute.name for attribute in found}
    return columns


def _values(cells: pa.ChunkedArray, number: int | None) -> np.ndarray:
    """An attribute's values, (rows,): 1, -1 or 0. Args: number: see `_Attribute`."""
    if pa.types.is_boolean(cells.type):
        truth = cells.cast(pa.int8()).fill_null(-1).to_numpy()
        values: np.ndarray = np.array([0, -1, 1], np.int8)[truth + 1]
        return values
    if number is not None:
        classes = cells.fill_null(-1).to_numpy()
        return np.where(classes < 0, 0, np.where(classes == number, 1, -1))
    numbers: np.ndarray = cells.to_numpy().astype(np.int8)
    # In a column of 0 and 1, 0 means no; in one that also has -1, it means unknown.
    return numbers if numbers.min(initial=0) < 0 else 2 * numbers - 1
