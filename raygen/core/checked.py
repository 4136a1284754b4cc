"""JSON that may be damaged, or made by a stranger: each value is checked before it is used.

`parse` bounds what a file may hold at all. The values that come out are `Checked`: each knows where
it stands and is asked for what is expected there, `manifest.entry("rows").integer(at_least=1)`, so
that whatever else is found ends in one line with the file, the entry, and both.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from raygen.core.errors import UserError
from raygen.core.uris import without_keys

MOST_BYTES = 16 * 2**20
"""Largest file that is parsed, in bytes, unless its reader says otherwise."""
MOST_VALUES = 4_000_000
"""Most values in one file: each takes about a hundred times its size on disk in memory."""
MOST_DEPTH = 50
"""Deepest nesting of objects and lists that is parsed. Python fails at several hundred."""
INT64 = 2**63 - 1
DAMAGED = "restore the file"
_SHOWN = 60
"""Length to which an error truncates a wrong value, in characters."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A JSON value, and what to raise if it is not what is expected.

    Attributes:
        value: as `json` returns it.
        file: where it was read.
        path: where in the file it stands, as `splits.train[0].rows`; empty: the whole file.
        error: the kind of error to raise.
        advice: what a user can do about a damaged file; the end of each message.
    """

    value: Any
    file: str
    path: str = ""
    error: type[UserError] = UserError
    advice: str = DAMAGED

    def fail(self, expected: str) -> NoReturn:
        """Reject the value. Raises: UserError saying what was expected here."""
        what = f"{self.path} is" if self.path else "holds"
        self.refuse(f"{what} {shown(self.value)}, but must be {expected}")

    def refuse(self, problem: str) -> NoReturn:
        """Reject the file. Raises: UserError saying what is wrong with it."""
        raise self.error(f"{self.file}: damaged ({problem}); {self.advice}")

    def entries(self) -> dict[str, "Checked"]:
        """The entries of an object. Raises: UserError if the value is not an object."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        pairs = self.value.items()
        return {name: self._inside(value, _joined(self.path, name)) for name, value in pairs}

    def entry(self, name: str) -> "Checked":
        """An entry of an object. Raises: UserError if there is no object or no such entry."""
        found = self.optional(name)
        if found is None:
            self.refuse(f"{_joined(self.path, name)} is missing")
        return found

    def optional(self, name: str) -> "Checked | None":
        """An entry of an object, or None. Raises: UserError if the value is not an object."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        if name not in self.value:
            return None
        return self._inside(self.value[name], _joined(self.path, name))

    def items(self) -> list["Checked"]:
        """The values of a list. Raises: UserError if the value is not a list."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return [self._inside(v, f"{self.path}[{k}]") for k, v in enumerate(self.value)]

    def pair(self) -> list["Checked"]:
        """The values of a list of two. Raises: UserError if the value is anything else."""
        values = self.items()
        if len(values) != 2:
            self.fail("a list of two")
        return values

    def integer(self, at_least: int = 0, at_most: int = INT64) -> int:
        """An integer in [at_least, at_most]. Raises: UserError."""
        # Python counts True as an int, but a user does not mean a number by it.
        if type(self.value) is not int or not at_least <= self.value <= at_most:
            limit = f" to {at_most:,}" if at_most != INT64 else " or more"
            self.fail(f"a whole number, {at_least:,}{limit}")
        return self.value

    def number(
        self, at_least: float = -math.inf, below: float = math.inf, finite: bool = True
    ) -> float:
        """A number in [at_least, below).

        Args: finite: whether to refuse NaN and infinities; otherwise they pass all bounds.
        Raises: UserError.
        """
        number = as_float(self.value)
        if number is None or (finite and not math.isfinite(number)):
            self.fail("a finite number" if finite else "a number")
        if math.isfinite(number) and not at_least <= number < below:
            bounds = [f"{at_least:g} or more"] if at_least > -math.inf else []
            bounds += [f"below {below:g}"] if below < math.inf else []
            self.fail(f"a number, {' and '.join(bounds)}")
        return number

    def number_or_nan(self, finite: bool = True) -> float:
        """A number; null is read as NaN.

        Args: finite: whether to refuse literal NaN and infinities, which JSON does not have.
        Raises: UserError.
        """
        if self.value is None:
            return math.nan
        number = as_float(self.value)
        if number is None or (finite and not math.isfinite(number)):
            self.fail("a finite number, or null" if finite else "a number, or null")
        return number

    def flag(self) -> bool:
        """True or false. Raises: UserError."""
        if not isinstance(self.value, bool):
            self.fail("true or false")
        return self.value

    def text(self, pattern: str = "", meaning: str = "a text") -> str:
        """A text.

        Args: pattern: must match the whole text; meaning: the pattern in words, for errors.
        Raises: UserError.
        """
        if not isinstance(self.value, str) or (pattern and not re.fullmatch(pattern, self.value)):
            self.fail(meaning)
        return self.value

    def texts(self) -> tuple[str, ...]:
        """A list of texts. Raises: UserError."""
        # There may be millions of names, so a place is built only for a wrong one.
        if isinstance(self.value, list) and all(isinstance(item, str) for item in self.value):
            return tuple(self.value)
        return tuple(item.text() for item in self.items())

    def choice(self, known: Collection[str]) -> str:
        """One of a few texts. Raises: UserError."""
        if not isinstance(self.value, str) or self.value not in known:
            self.fail(f"one of {', '.join(known)}")
        return self.value

    def only(self, known: Collection[str]) -> None:
        """Raises: UserError if the value is not an object or has unknown entries."""
        for name in self.entries():
            if name not in known:
                self.refuse(f"{_joined(self.path, name)} is unknown")

    def _inside(self, value: Any, path: str) -> "Checked":
        return Checked(value, self.file, path, self.error, self.advice)


def parse(
    data: bytes, file: str, error: type[UserError] = UserError, advice: str = DAMAGED
) -> Checked:
    """Parse the JSON of a file, including the NaN and infinities that `json` writes.

    Args: file: its name for errors; error, advice: see `Checked`.
    Raises: UserError if it is not JSON, names an entry twice, or is too large or deep.
    """
    try:
        if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        value = json.loads(data, object_pairs_hook=_without_repetition)
        if _is_deeper(value, MOST_DEPTH):
            raise RecursionError
    except RecursionError:
        problem = f"nested more than {MOST_DEPTH} levels deep"
        raise error(f"{file}: damaged ({problem}); {advice}") from None
    except ValueError as reason:
        # Covers text that is not UTF-8 or not JSON, and numbers of thousands of digits.
        raise error(f"{file}: not valid JSON ({reason}); {advice}") from reason
    return Checked(value, file, "", error, advice)


def as_float(value: Any) -> float | None:
    """A JSON number as a float; None for anything else and for numbers too large for a float."""
    # JSON writers may write 3.0 as 3, so integers are accepted too.
    if type(value) not in (int, float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def finite_or_none(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace NaN and infinities by None, because JSON can only write them as null."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def shown(value: Any) -> str:
    """Format a JSON value for a message: short, on one line, without a URI's keys and without
    terminal control characters."""
    if isinstance(value, Mapping):
        return f"an object of {len(value):,} entries"
    if isinstance(value, list | tuple):
        return f"a list of {len(value):,} values"
    if isinstance(value, str):
        value = without_keys(value)
        return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def bare(value: Any) -> str:
    """Format a JSON value as on a command line: texts without quotation marks."""
    return shown(value).strip("'")


def _joined(path: str, name: str) -> str:
    if not re.fullmatch(r"[\w-]{1,60}", name, re.ASCII):
        name = shown(name)
    return f"{path}.{name}" if path else name


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the entry {shown(name)} appears twice")
            seen.add(name)
    return entries


def _is_deeper(value: Any, levels: int) -> bool:
    inside = [value]
    for _ in range(levels + 1):
        inside = [
            inner
            for outer in inside
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not inside:
            return False
    return True
