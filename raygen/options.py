"""What all dataclasses of options share: names, checks, and replacing values by name."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from raygen.errors import UserError
from raygen.storage import Folder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def option(name: str) -> str:
    """The command-line spelling of an option: batch_size -> --batch-size."""
    return "--" + name.replace("_", "-")


def require(holds: bool, name: str, value: object, requirement: str) -> None:
    """Raises: UserError `<name> <value>: must <requirement>` unless it holds."""
    if not holds:
        raise UserError(f"{name} {value}: must {requirement}")


def require_at_least(options: "DataclassInstance", minimum: int, *names: str) -> None:
    """Raises: UserError if one of these numbers is smaller than `minimum`."""
    for name in names:
        value = getattr(options, name)
        wish = f"be at least {minimum}" if minimum else "be 0 or more"
        require(value >= minimum, option(name), value, wish)


def require_positive(options: "DataclassInstance", *names: str) -> None:
    """Raises: UserError if one of these numbers is not greater than 0."""
    for name in names:
        require(getattr(options, name) > 0, option(name), getattr(options, name), "be above 0")


def require_choice(options: "DataclassInstance", name: str, choices: Any) -> None:
    """Raises: UserError if a value is none of those that a `Literal` type allows."""
    known = get_args(choices)
    value = getattr(options, name)
    require(value in known, option(name), value, f"be one of {', '.join(known)}")


def seconds_of(text: str, name: str) -> float:
    """A time that a user wrote as 90s, 30m or 2h, in seconds. Raises: UserError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)(s|m|h)", text)
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    require(seconds > 0, name, text, "be a time, as 90s, 30m or 2h")
    return seconds


def updated(options: Options, values: Mapping[str, Any], where: str) -> Options:
    """A dataclass of options with some replaced by name.

    Args: where: what to name in errors, e.g. the file the values came from.
    Raises: UserError for an unknown option or a value of the wrong type.
    """
    known = {f.name: getattr(options, f.name) for f in fields(options)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: unknown option {name!r}; known are {', '.join(known)}")
        kind = type(known[name])
        # JSON writes 3.0 as 3; True is an int to Python but no number to a user.
        accepted = (int, float) if kind is float else (kind,)
        if kind is tuple and isinstance(value, list):
            values = {**values, name: tuple(value)}
        elif type(value) not in accepted:
            raise UserError(f"{where}: {name} is {value!r}, but must be of type {kind.__name__}")
    return replace(options, **values)


def read_json_object(name: str, path: str) -> dict[str, Any]:
    """What a file or URI that an option names holds: a JSON object. Raises: UserError."""
    file = Folder.at(path)
    try:
        values = json.loads(file.parent.read_bytes(file.name))
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise UserError(
            f"{name} {path}: cannot be read ({reason}); name a JSON file of options"
        ) from error
    except ValueError as error:
        raise UserError(f"{name} {path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{name} {path}: must hold one JSON object of options")
    return values
