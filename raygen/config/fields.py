"""Helpers for all dataclasses of options: names, checks, and replacing values by name."""

import math
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

import tyro

from raygen.core.checked import MOST_BYTES, as_float, parse, shown
from raygen.core.errors import UserError, reason_of
from raygen.core.uris import check_all

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")

Value = TypeVar("Value")


class Policy(Enum):
    """When an option may change, declared beside the option; without a policy it never may."""

    RESUMABLE = "when a run is resumed: it does not change what was learnt so far"
    CHANGEABLE = (
        "in the middle of a run: the networks, and what the optimizers remember, are the same "
        "under any of its values"
    )
    NOT_SEARCHED = "never within a sweep, whose trials are comparable only while it is the same"


Resumable = Annotated[Value, Policy.RESUMABLE]
Changeable = Annotated[Value, Policy.CHANGEABLE]
NotSearched = Annotated[Value, Policy.NOT_SEARCHED]

RequiredText = Annotated[str, tyro.conf.arg(help_behavior_hint="")]
"""An option without which a job refuses to start. `--help` does not show its empty default."""
ConfigFile = Annotated[str, tyro.conf.arg(help="JSON file of options that replace the defaults.")]
"""The option `--config` of jobs that have no presets."""


def having(options: type, policy: Policy) -> frozenset[str]:
    """Names of a dataclass's options that have a policy."""
    hints = get_type_hints(options, include_extras=True)
    return frozenset(
        name for name, hint in hints.items() if policy in getattr(hint, "__metadata__", ())
    )


LARGEST = 2**64 - 1
"""Largest integer that an option accepts: a seed of 64 bits."""
MOST = 10**15
"""Upper limit of options that are counts."""
LONGEST = 10_000
"""Upper limit of the length of a text option, in characters."""
_MEANINGS = {
    bool: "true or false",
    float: "a finite number",
    int: "a whole number of at most 64 bits",
    str: "a text",
    tuple: "a list of texts",
}
_ADVICE = "name a JSON file of options"


def option(name: str) -> str:
    """The command-line spelling of an option: batch_size -> --batch-size."""
    return "--" + name.replace("_", "-")


def require(holds: bool, name: str, value: object, requirement: str) -> None:
    """Raises: UserError `<name> <value>: must <requirement>` unless it holds."""
    if not holds:
        raise UserError(f"{name} {value}: must {requirement}")


def require_at_least(
    options: "DataclassInstance", minimum: int, *names: str, most: int = MOST
) -> None:
    """Raises: UserError if one of these numbers is smaller than `minimum` or larger than `most`.

    The upper limit is checked here, because such a number would otherwise fail in the workers.
    """
    for name in names:
        value = getattr(options, name)
        wish = f"be at least {minimum}" if minimum else "be 0 or more"
        require(value >= minimum, option(name), value, wish)
        require(value <= most, option(name), value, f"be at most {most:,}")


def require_seed(options: "DataclassInstance") -> None:
    """Raises: UserError if random number generators do not accept the seed."""
    value = getattr(options, "seed")  # noqa: B009
    require(0 <= value <= LARGEST, "--seed", value, f"be from 0 to {LARGEST}")


def require_positive(options: "DataclassInstance", *names: str) -> None:
    """Raises: UserError if one of these numbers is not greater than 0, or not finite."""
    for name in names:
        value = getattr(options, name)
        require(value > 0, option(name), value, "be above 0")
        require(math.isfinite(value), option(name), value, "be finite")


def require_choice(options: "DataclassInstance", name: str, choices: Any) -> None:
    """Raises: UserError if a `Literal` type does not allow the value."""
    known = get_args(choices)
    value = getattr(options, name)
    require(value in known, option(name), value, f"be one of {', '.join(known)}")


def seconds_of(text: str, name: str) -> float:
    """Parse a duration such as 90s, 30m or 2h, in seconds. Raises: UserError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)(s|m|h)", text)
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    require(seconds > 0, name, text, "be a time, as 90s, 30m or 2h")
    return seconds


def seconds_or_never(text: str, name: str) -> float:
    """Parse a duration as `seconds_of` does; 0.0 for the text 0. Raises: UserError."""
    return 0.0 if text == "0" else seconds_of(text, name)


class Patience:
    """Of options with a `storage_timeout`: that time as a number."""

    storage_timeout: str

    @property
    def patience(self) -> float:
        """The storage's timeout in seconds. Raises: UserError."""
        return seconds_of(self.storage_timeout, "--storage-timeout")


def updated(options: Options, values: Mapping[str, Any], where: str, **others: Any) -> Options:
    """A copy of a dataclass of options with some replaced by name.

    Args:
        where: what to name in errors, e.g. the file the values came from.
        others: values to replace without conversion.
    Raises: UserError for an unknown option, or a value of the wrong type or out of range.
    """
    known = {f.name: getattr(options, f.name) for f in fields(options)}
    for name in values:
        if name not in known:
            raise UserError(f"{where}: unknown option {shown(name)}; known are {', '.join(known)}")
    fitting = {name: _fitting(known[name], v, f"{where}: {name}") for name, v in values.items()}
    try:
        return replace(options, **fitting, **others)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _fitting(known: Any, value: Any, where: str) -> Any:
    """Convert a JSON value to the type of the option's value that it replaces."""
    kind, fits = type(known), False
    if kind is float:
        number = as_float(value)
        fits = number is not None and math.isfinite(number)
        value = number if fits else value
    elif kind is tuple:
        # JSON has lists, another dataclass of options has tuples.
        fits = isinstance(value, list | tuple) and all(map(_is_text, value))
        value = tuple(value) if fits else value
    elif kind is str:
        fits = _is_text(value)
    elif kind is int:
        fits = type(value) is int and abs(value) <= LARGEST
    else:
        fits = type(value) is kind
    if not fits:
        meaning = _MEANINGS.get(kind, f"of type {kind.__name__}")
        raise UserError(f"{where} is {shown(value)}, but must be {meaning}")
    return value


def _is_text(value: Any) -> bool:
    # Neither paths nor any other option may contain NUL.
    return isinstance(value, str) and "\0" not in value and len(value) <= LONGEST


def read_json_object(name: str, path: str) -> dict[str, Any]:
    """Read the JSON object in a file or URI that an option names. Raises: UserError."""
    # Imported here so that importing the options does not import pyarrow.
    from raygen.core.storage import Folder

    file, said = Folder.at(path), f"{name} {path}"
    try:
        data = file.parent.read_bytes(file.name, MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{said}: cannot be read ({reason_of(error)}); {_ADVICE}") from error
    if len(data) > MOST_BYTES:
        raise UserError(f"{said}: has more than {MOST_BYTES:,} bytes; {_ADVICE}")
    values: Any = parse(data, said, advice=_ADVICE).value
    if not isinstance(values, dict):
        raise UserError(f"{said}: must hold one JSON object of options")
    check_all(values, f"{said}: ")
    return values
