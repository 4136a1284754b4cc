"""CelebA's tables, as its release (.txt) and its mirrors (.csv) have them.

`list_attr_celeba`: a row of 1, -1 or 0 (unknown) for each image. `list_eval_partition`: 0, 1 or 2
for each image: training, validation, test. The .txt files separate fields by spaces; the table of
attributes begins with a line that counts the images, and the partition has no header.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from raygen.errors import UserError
from raygen.storage import Folder

SHOWN = 5
"""Problems of a table that are spelled out."""


@dataclass(frozen=True)
class Table:
    """A table by image.

    Attributes:
        where: the option and file it came from, for messages.
        columns: names of the values.
        values: image name -> its values.
        lines: image name -> the line of its row.
    """

    where: str
    columns: tuple[str, ...]
    values: dict[str, list[int]]
    lines: dict[str, int]

    def match(self, names: list[str], images: str) -> None:
        """Check that there is a row for each image and an image for each row.

        Args: images: the option and place that the images came from, for messages.
        Raises: UserError naming the lines, and the images.
        """
        present = set(names)
        problems = [
            f"line {line}: {name} is not among the images"
            for name, line in self.lines.items()
            if name not in present
        ]
        problems += [f"no line for {name}" for name in names if name not in self.values]
        hint = f"use the table that belongs to {images}"
        _raise_if_any(self.where, problems, hint)


def read_attributes(uri: str) -> Table:
    """CelebA's attribute table. Raises: UserError naming file and lines."""
    where = f"--attributes {uri}"
    rows = _rows(uri, where, "list_attr_celeba.csv or .txt")
    if _is_csv(uri):
        header = next(rows, (1, []))[1]
        if len(header) < 2 or header[0] != "image_id":
            raise UserError(
                f"{where}: line 1 must be `image_id,` and the attributes' names, as in "
                f"list_attr_celeba.csv; found {','.join(header)[:60]!r}"
            )
        return _table(where, tuple(header[1:]), rows, ("-1", "0", "1"))
    count = next(rows, (1, []))[1]
    if len(count) != 1 or not count[0].isdecimal():
        raise UserError(
            f"{where}: line 1 must be the number of images, as in list_attr_celeba.txt; found "
            f"{' '.join(count)[:60]!r}"
        )
    table = _table(where, tuple(next(rows, (2, []))[1]), rows, ("-1", "0", "1"))
    if len(table.values) != int(count[0]):
        raise UserError(
            f"{where}: line 1 says {int(count[0]):,} images, but {len(table.values):,} rows "
            "follow; copy the file again"
        )
    return table


def read_partition(uri: str) -> Table:
    """CelebA's partition: 0, 1 or 2 for each image. Raises: UserError naming file and lines."""
    where = f"--partition {uri}"
    rows = _rows(uri, where, "list_eval_partition.txt or .csv")
    if _is_csv(uri):
        header = next(rows, (1, []))[1]
        if header != ["image_id", "partition"]:
            raise UserError(
                f"{where}: line 1 must be `image_id,partition`, as in list_eval_partition.csv; "
                f"found {','.join(header)[:60]!r}"
            )
    return _table(where, ("partition",), rows, ("0", "1", "2"))


def _is_csv(uri: str) -> bool:
    return uri.partition("?")[0].lower().endswith(".csv")


def _rows(uri: str, where: str, example: str) -> Iterator[tuple[int, list[str]]]:
    """Each line's number and fields, empty lines left out. Raises: UserError."""
    file = Folder.at(uri)
    try:
        text = file.parent.read_bytes(file.name).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{where}: cannot be read ({reason}); name CelebA's {example}") from error
    if _is_csv(uri):
        reader = csv.reader(io.StringIO(text))
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise UserError(f"{where}, line {reader.line_num}: is no CSV ({error})") from error
    else:
        lines = enumerate(text.splitlines(), start=1)
        yield from ((number, line.split()) for number, line in lines if line.strip())


def _table(
    where: str,
    columns: tuple[str, ...],
    rows: Iterator[tuple[int, list[str]]],
    allowed: tuple[str, ...],
) -> Table:
    """Raises: UserError naming the lines that are wrong."""
    values: dict[str, list[int]] = {}
    lines: dict[str, int] = {}
    problems = []
    for line, (name, *fields) in rows:
        wrong = [(c, f) for c, f in zip(columns, fields, strict=False) if f not in allowed]
        if len(fields) != len(columns):
            problems.append(f"line {line}: has {len(fields) + 1} fields, not {len(columns) + 1}")
        elif name in lines:
            problems.append(f"line {line}: {name} appears a second time, after line {lines[name]}")
        elif wrong:
            problems.append(
                f"line {line}: {wrong[0][0]} is {wrong[0][1]!r}, but must be one of "
                f"{', '.join(allowed)}"
            )
        else:
            values[name] = [int(field) for field in fields]
            lines[name] = line
    _raise_if_any(where, problems, "mend them, or copy the file again")
    return Table(where, columns, values, lines)


def _raise_if_any(where: str, problems: list[str], hint: str) -> None:
    if problems:
        more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{where}: {'; '.join(problems[:SHOWN])}{more}. {hint[0].upper()}{hint[1:]}"
        )
