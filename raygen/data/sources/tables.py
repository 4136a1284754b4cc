"""Reads CelebA's tables, as in its release (.txt) and its mirrors (.csv), and similar tables.

`list_attr_celeba` has a row of 1, -1 or 0 (unknown) for each image; `list_eval_partition` has 0, 1
or 2 for each image: training, validation, test. In the .txt files spaces separate the fields; the
table of attributes begins with the number of images, and the partition has no header. Files saved
by other programs use commas, semicolons or tabs, and other words for yes and no.
"""

import codecs
import csv
import io
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raygen.core.errors import UserError, reason_of
from raygen.core.printable import printable
from raygen.core.storage import Folder
from raygen.data.file_types import HEAD_BYTES, unread_type
from raygen.data.sources.files import plain_path
from raygen.data.splits import SPLITS, TEST, TRAIN, VALIDATION

SHOWN = 5
"""How many of a table's problems a message lists at most."""
UNKNOWN, ZERO, WRONG = 2, 3, 4
"""Codes of cells that are neither 1 nor -1: an empty one; a 0, whose meaning depends on its column;
and one that is not understood."""
CELLS = {
    **dict.fromkeys(("1", "+1", "1.0", "true", "t", "yes", "y"), 1),
    **dict.fromkeys(("-1", "-1.0", "false", "f", "no", "n"), -1),
    **dict.fromkeys(("0", "0.0", "-0", "-0.0"), ZERO),
    **dict.fromkeys(("", "nan", "na", "n/a", "none", "null", "?", "unknown"), UNKNOWN),
}
"""The code of each text that a cell of an attribute may have, in lower case."""
PARTS = {"0": 0, "1": 1, "2": 2, "0.0": 0, "1.0": 1, "2.0": 2} | {
    word: (TRAIN, VALIDATION, TEST).index(split) for word, split in SPLITS.items()
}
"""The number of each text that a cell of a partition may have, in lower case."""
IMAGE_COLUMNS = re.compile(
    r"((image|img|photo|picture|file)s?)?(id|name|file|path)?s?|fname|photo|picture"
)
"""Matches headers, reduced to lower-case letters, of the column that names the images."""
PART_COLUMNS = frozenset(("partition", "split", "set", "part"))
UNDERSTOOD = 0.1
"""A column counts as an attribute if at least this share of its cells is understood."""
DELIMITERS = ",;\t"
Row = tuple[int, list[str]]
"""A line's number, and its fields."""


@dataclass(frozen=True)
class Table:
    """A table with a row of values for each image.

    Attributes:
        where: the option and the file that the table came from, for messages.
        columns: names of the values.
        values: each image's values, by the image's name.
        lines: the number of each image's line, by the image's name.
        notes: sentences for users about how the table was understood.
    """

    where: str
    columns: tuple[str, ...]
    values: dict[str, list[int]]
    lines: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def match(self, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Find the row of each image.

        If no row has an image's exact name, the match may differ in folders, case, suffix or
        leading zeros, provided that it is unambiguous.

        Returns: the row's name in the table for each image that has one; notes for users.
        """
        rows: dict[str, str] = {}
        for level in range(len(_forms(""))):
            waiting = [name for name in names if name not in rows]
            if not waiting:
                break
            used = set(rows.values())
            unused = [row for row in self.values if row not in used]
            by_form = _unambiguous(unused, level)
            own = _unambiguous(waiting, level)
            rows |= {name: by_form[form] for form, name in own.items() if form in by_form}
        notes = []
        other = next((n for n in names if n in rows and _forms(n)[0] != _forms(rows[n])[0]), None)
        if other is not None:
            notes.append(
                f"{self.where}: images have other names there, as {rows[other]} for {other}"
            )
        used = set(rows.values())
        without = next((row for row in self.values if row not in used), None)
        if without is not None:
            notes.append(
                f"{self.where}: {len(self.values) - len(rows):,} of {len(self.values):,} rows have "
                f"no image, as line {self.lines[without]} ({without}); they are not used"
            )
        return rows, notes

    def require_rows(self, missing: Sequence[str], images: str) -> None:
        """Raise a UserError if there are images without a row.

        Args: missing: names of those images; images: where the images are, for the message.
        """
        row = next(iter(self.values), "")
        hint = f"use the table that belongs to {images}; its rows are named as {row}"
        _raise_if_any(self.where, [f"no line for {name}" for name in missing], hint)


def _forms(name: str) -> tuple[str, ...]:
    """A name, and ever shorter forms of it without the parts that programs tend to change."""
    own = unicodedata.normalize("NFC", name)
    base = plain_path(own).rsplit("/", 1)[-1].casefold()
    stem = base.rpartition(".")[0] or base
    return own, base, stem, stem.lstrip("0") if stem.isdecimal() else stem


def _unambiguous(names: Sequence[str], level: int) -> dict[str, str]:
    """The names by form, for forms that only one of the names has. Args: level: see `_forms`."""
    forms = [_forms(name)[level] for name in names]
    counts = Counter(forms)
    return {form: name for form, name in zip(forms, names, strict=True) if counts[form] == 1}


def read_attributes(uri: str) -> Table:
    """CelebA's attribute table. Raises: UserError naming file and lines."""
    where = f"--attributes {uri}"
    rows = _rows(uri, where, "list_attr_celeba.csv or .txt")
    line, header = next(rows, (1, []))
    count = None
    if len(header) == 1 and header[0].isdecimal():
        count = int(header[0])
        line, header = next(rows, (2, []))
        if _image_column(header) != 0:
            header = ["image_id", *header]
    column = _image_column(header)
    if column is None or len(header) < 2:
        raise UserError(
            f"{where}: line {line} must be `image_id,` and the attributes' names, as in "
            "list_attr_celeba.csv, or the number of images, as in list_attr_celeba.txt; found "
            f"{','.join(header)[:60]!r}"
        )
    table = _attributes(where, header, column, rows)
    if count is not None and len(table.values) != count:
        raise UserError(
            f"{where}: line 1 says {count:,} images, but {len(table.values):,} rows "
            "follow; copy the file again"
        )
    return table


def read_partition(uri: str) -> Table:
    """CelebA's partition: 0, 1 or 2 for each image. Raises: UserError naming file and lines."""
    where = f"--partition {uri}"
    rows = _rows(uri, where, "list_eval_partition.txt or .csv")
    first: Row = next(rows, (1, []))
    line, header = first
    image: int | None = 0
    part: int | None = 1
    if len(header) == 2 and header[1].lower() in PARTS:
        rows = itertools.chain([first], rows)
    else:
        image = _image_column(header)
        part = next((k for k, name in enumerate(header) if name.lower() in PART_COLUMNS), None)
    if image is None or part is None:
        raise UserError(
            f"{where}: line {line} must be `image_id,partition`, as in list_eval_partition.csv, or "
            f"an image and its part; found {','.join(header)[:60]!r}"
        )
    values: dict[str, list[int]] = {}
    lines: dict[str, int] = {}
    problems = []
    for line, cells in rows:
        problem = _row_problem(cells, header, image, lines)
        if not problem and cells[part].lower() not in PARTS:
            problem = f"partition is {cells[part]!r}, but must be 0, 1 or 2, or train, val or test"
        if problem:
            problems.append(f"line {line}: {problem}")
        else:
            values[cells[image]] = [PARTS[cells[part].lower()]]
            lines[cells[image]] = line
    _raise_if_any(where, problems, MEND)
    return Table(where, ("partition",), values, lines)


MEND = "mend them, or copy the file again"


def _image_column(header: Sequence[str]) -> int | None:
    """The number of the column that names the images: by its header, or a first one without."""
    for number, name in enumerate(header):
        plain = re.sub(r"[^a-z]", "", name.lower())
        if plain and IMAGE_COLUMNS.fullmatch(plain):
            return number
    return 0 if header and not header[0] else None


def _rows(uri: str, where: str, example: str) -> Iterator[Row]:
    """Yield the number and fields of each line that is not empty. Raises: UserError."""
    text = _text(uri, where, example)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    if delimiter in first:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise UserError(f"{where}, line {reader.line_num}: is no CSV ({error})") from error
    else:
        lines = enumerate(text.splitlines(), start=1)
        yield from ((number, line.split()) for number, line in lines if line.strip())


def _text(uri: str, where: str, example: str) -> str:
    """Read and decode a table. Raises: UserError if it cannot be read or is no text."""
    file = Folder.at(uri)
    try:
        data = file.parent.read_bytes(file.name)
    except (OSError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise UserError(f"{where}: cannot be read ({reason}); name CelebA's {example}") from error
    found = unread_type(data[:HEAD_BYTES])
    if found:
        raise UserError(f"{where}: cannot be read ({found.name}); save the table as CSV")
    # Spreadsheet programs write a byte order mark, and sometimes UTF-16.
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{where}, line {line}: cannot be read (it is no text in UTF-8); save the table as CSV "
            f"in UTF-8, or name CelebA's {example}"
        ) from error


def _attributes(where: str, header: list[str], image: int, rows: Iterator[Row]) -> Table:
    """Make a table of attributes. Raises: UserError naming the lines that are wrong."""
    columns = [k for k in range(len(header)) if k != image]
    names: list[str] = []
    lines: dict[str, int] = {}
    codes = bytearray()
    problems: list[tuple[int, str]] = []
    # The cells of each column that are not understood, with their lines.
    wrong: dict[int, list[tuple[int, str]]] = {k: [] for k in columns}
    for line, cells in rows:
        problem = _row_problem(cells, header, image, lines)
        if problem:
            problems.append((line, problem))
            continue
        for k in columns:
            code = CELLS.get(cells[k].lower(), WRONG)
            codes.append(code % 256)
            if code == WRONG:
                wrong[k].append((line, cells[k]))
        names.append(cells[image])
        lines[cells[image]] = line
    found = np.frombuffer(bytes(codes), np.int8).reshape(len(names), len(columns)).copy()
    kept, left_out = [], []
    for number, k in enumerate(columns):
        said = len(names) - len(wrong[k])
        if _is_other_column(header[k]) or (wrong[k] and said < UNDERSTOOD * len(names)):
            if header[k]:
                left_out.append(header[k])
            continue
        kept.append(number)
        problems += [
            (line, f"{header[k]} is {cell!r}, but must be 1, 0 or -1, or yes or no")
            for line, cell in wrong[k]
        ]
    _raise_if_any(where, [f"line {line}: {text}" for line, text in sorted(problems)], MEND)
    notes = []
    if left_out:
        notes.append(f"{where}: columns left out, as they are no attributes: {', '.join(left_out)}")
    zeros = _settle_zeros(found)
    if zeros[kept].any():
        notes.append(f"{where}: 0 is taken for no, as there is no -1")
    values = dict(zip(names, found[:, kept].tolist(), strict=True))
    return Table(where, tuple(printable(header[columns[n]]) for n in kept), values, lines, notes)


def _is_other_column(name: str) -> bool:
    """Whether a column is a partition, or an index as some programs add it."""
    return not name or bool(re.match(r"Unnamed: \d+$", name)) or name.lower() in PART_COLUMNS


def _settle_zeros(found: np.ndarray) -> np.ndarray:
    """Replace the codes `ZERO` and `UNKNOWN` by values, in place.

    In a column that contains -1, a 0 means unknown; in one without, it means no.

    Returns: (columns,) bool: the columns in which 0 means no.
    """
    zero = found == ZERO
    means_no: np.ndarray = zero.any(axis=0) & ~(found == -1).any(axis=0)
    found[found == UNKNOWN] = 0
    found[zero] = 0
    found[zero & means_no] = -1
    return means_no


def _row_problem(cells: list[str], header: Sequence[str], image: int, lines: dict[str, int]) -> str:
    """Describe what is wrong with a row's length or name; empty if both are correct.

    Empty fields at the end of a row, which some programs write, are removed in place.
    """
    while len(cells) > len(header) and not cells[-1]:
        cells.pop()
    if len(cells) != len(header):
        return f"has {len(cells)} fields, not {len(header)}"
    name = cells[image]
    if not name:
        return "names no image"
    if name in lines:
        return f"{name} appears a second time, after line {lines[name]}"
    return ""


def _raise_if_any(where: str, problems: Sequence[str], hint: str) -> None:
    if problems:
        more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{where}: {'; '.join(problems[:SHOWN])}{more}. {hint[0].upper()}{hint[1:]}"
        )
