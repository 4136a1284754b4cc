"""Search spaces of sweeps: a range or a choice of values for each option."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raygen.config.fields import read_json_object
from raygen.core.checked import shown
from raygen.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Value = str | bool | int | float
Values = dict[str, Value]
"""Values of the searched options in one trial, by name."""

GRID_POINTS = 3
"""How many values represent a range in a grid search."""
HELP = (
    "loguniform(1e-5,1e-3), uniform(0,0.3), randint(32,256), choice(1:1,two-phase), or fixed to "
    "keep it as the options say"
)
_TRIAL_VALUES = 7
"""Part of the seed that keeps a sweep's random numbers apart from a run's."""
MOST_ATTEMPTS = 100
SURE_TRIALS = 100
"""Number of random trials whose values are drawn before a sweep starts, to see that it can."""
MOST_WHOLE = 2**53
"""Largest integer in a range: ranges are kept as floats, which are exact only up to here."""
LONG_WORD = 60
"""Length from which on errors truncate a value, in characters."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes: log: sample uniformly in the logarithm; whole: integers only.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> float | int:
        """The value at a fraction in [0, 1] of the way from low to high."""
        value = (
            math.exp(math.log(self.low) + share * math.log(self.high / self.low))
            if self.log
            else self.low + share * (self.high - self.low)
        )
        return self.clip(value)

    def share(self, value: Any) -> float:
        """The fraction of the way from low to high at which a value lies; inverse of `at`."""
        if self.log:
            # On a logarithmic scale, a default of 0 is infinitely far below the range.
            value = max(float(value), self.low / 1e3)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def clip(self, value: float) -> float | int:
        value = min(max(value, self.low), self.high)
        # Round, so that files and tables show numbers that a person could have written.
        return round(value) if self.whole else float(f"{value:.4g}")

    def sample(self, random: "np.random.Generator") -> float | int:
        if self.whole and not self.log:
            return int(random.integers(int(self.low), int(self.high) + 1))
        return self.at(random.random())

    def points(self) -> list[float | int]:
        """A few values that represent the domain in a grid search."""
        last = GRID_POINTS - 1
        return sorted({self.at(k / last) for k in range(GRID_POINTS)})

    @property
    def extremes(self) -> list[float | int]:
        return [self.clip(self.low), self.clip(self.high)]

    def __str__(self) -> str:
        kind = "loguniform" if self.log else "randint" if self.whole else "uniform"
        return f"{kind}({self.low:g},{self.high:g})"


@dataclass(frozen=True)
class Choice:
    """One of several values, ordered so that neighbours mean similar things."""

    values: tuple[Value, ...]

    def share(self, value: Any) -> float:
        """The relative position of a value in the order, in [0, 1]."""
        last = max(1, len(self.values) - 1)
        return self.values.index(value) / last if value in self.values else -0.1

    def sample(self, random: "np.random.Generator") -> Value:
        return self.values[int(random.integers(len(self.values)))]

    def points(self) -> list[Value]:
        return list(self.values)

    @property
    def extremes(self) -> list[Value]:
        return list(self.values)

    def __str__(self) -> str:
        return f"choice({','.join(map(str, self.values))})"


Domain = Range | Choice
Space = dict[str, Domain]


def decades_around(value: float) -> Range:
    """A logarithmic range of two decades, centred on a value."""
    return Range(value / 10, value * 10, log=True)


def read_space(
    default: Space, file: str, settings: Sequence[str], known: Mapping[str, Value]
) -> Space:
    """Build the search space that a user asks for.

    Args:
        default: the space to start from.
        file: JSON file that replaces the default: an object of options, each with a text as in
            `settings` or a list of values; `none`: start from nothing; empty: the default.
        settings: `<option>=<domain>`, each of which adds an option or changes its domain.
        known: all options with their current values, whose types the domains must match.
    Raises: UserError.
    """
    space = dict(default)
    if file == "none":
        space = {}
    elif file:
        space = _read_file(file, known)
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not name:
            raise UserError(f"--set {setting}: must be an option and its domain, as lr_g={HELP}")
        if name in known and text.strip() == "fixed":
            space.pop(name, None)
        else:
            space[name] = parse_domain(name, text.strip(), known, f"--set {setting}")
    return space


def _read_file(path: str, known: Mapping[str, Value]) -> Space:
    space: Space = {}
    for name, domain in read_json_object("--space", path).items():
        where = f"--space {path}: {name}"
        if isinstance(domain, list):
            _require_known(name, known, where)
            space[name] = _choice([_word(value, where) for value in domain], known[name], where)
        elif isinstance(domain, str):
            space[name] = parse_domain(name, domain, known, where)
        else:
            raise UserError(
                f"{where} is {shown(domain)}; must be a list of values, or a text: {HELP}"
            )
    return space


def _word(value: Any, where: str) -> str:
    """Format a value of a JSON file as it is written in a domain."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise UserError(f"{where}: {shown(value)} must be a text, a number, or true or false")
    return str(value)


def parse_domain(name: str, text: str, known: Mapping[str, Value], where: str) -> Domain:
    """Parse the domain that a user wrote for an option.

    Raises: UserError if the option is unknown, or the domain is malformed, empty, or has values of
        another type.
    """
    _require_known(name, known, where)
    match = re.fullmatch(r"(loguniform|uniform|randint|choice)\((.*)\)", text)
    if not match:
        raise UserError(f"{where}: {shown(text)} is no domain; write {HELP}")
    kind, words = match[1], [word.strip() for word in match[2].split(",") if word.strip()]
    example = known[name]
    if kind == "choice":
        return _choice(words, example, where)
    if isinstance(example, str | bool):
        raise UserError(f"{where}: {name} is no number; write choice(...)")
    if len(words) != 2:
        raise UserError(f"{where}: must have a lowest and a highest value, as {kind}(1,2)")
    low, high = (float(_convert(word, 0.0, where)) for word in words)
    if not low < high or not math.isfinite(high - low):
        raise UserError(f"{where}: is empty; the first number must be lower than the second")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"{where}: must be above 0, which has no logarithm")
    if kind == "loguniform" and not math.isfinite(high / low):
        raise UserError(f"{where}: spans more than 300 decades; narrow it")
    whole = kind == "randint" or isinstance(example, int)
    if whole and max(-low, high) > MOST_WHOLE:
        raise UserError(f"{where}: whole numbers must be from {-MOST_WHOLE:,} to {MOST_WHOLE:,}")
    return Range(low, high, log=kind == "loguniform", whole=whole)


def _require_known(name: str, known: Mapping[str, Value], where: str) -> None:
    if name not in known:
        names = ", ".join(sorted(known))
        raise UserError(f"{where}: unknown option {shown(name)}; known are {names}")


def _choice(words: Sequence[str], example: Value, where: str) -> Choice:
    values = tuple(_convert(word, example, where) for word in words)
    if len(set(values)) < 2:
        raise UserError(f"{where}: must offer at least two values that differ")
    return Choice(values)


def _convert(word: str, example: Value, where: str) -> Value:
    """Convert a word to the type of an example value."""
    said = word if len(word) < LONG_WORD else shown(word)
    if isinstance(example, bool):
        if word.lower() in ("true", "false"):
            return word.lower() == "true"
        raise UserError(f"{where}: {said} must be true or false")
    if isinstance(example, str):
        return word
    try:
        value = type(example)(word)
    except ValueError:
        kind = "a whole number" if isinstance(example, int) else "a number"
        raise UserError(f"{where}: {said} must be {kind}") from None
    if isinstance(value, float) and math.isnan(value):
        raise UserError(f"{where}: {said} is no value that can be tried")
    return value


def random_trials(
    space: Space, defaults: Values, seed: int, allowed: Callable[[Values], bool] = lambda _: True
) -> Iterator[Values]:
    """Yield the defaults as trial 0, then endless random values.

    A trial's values depend on the space and the seed alone. They repeat only if the space has few
    combinations.

    Args: allowed: tells whether values may be combined; forbidden ones are drawn again.
    Raises: UserError if no allowed values are found: early in a space that has hardly any.
    """
    # Imported here so that importing the options does not import numpy.
    import numpy as np

    yield defaults
    seen = {_key(defaults)}
    for number in itertools.count(1):
        random = np.random.default_rng((_TRIAL_VALUES, seed, number))
        fitting: Values = {}
        # A sweep that has begun must not end for the bad luck of one of its many trials.
        most = MOST_ATTEMPTS * (1 if number < SURE_TRIALS else 100)
        for attempt in range(most):
            values = {name: domain.sample(random) for name, domain in space.items()}
            if allowed(values):
                fitting = values
                if _key(values) not in seen:
                    break
            if fitting and attempt >= MOST_ATTEMPTS - 1:
                break
        if not fitting:
            raise nothing_fits(space)
        values = fitting
        seen.add(_key(values))
        yield values


def _key(values: Values) -> tuple[object, ...]:
    """What two settings of the same space have in common if they are equal."""
    return tuple(values[name] for name in sorted(values))


def grid_trials(space: Space, defaults: Values) -> Iterator[Values]:
    """Yield the defaults as trial 0, then all other combinations of the domains' values."""
    yield defaults
    for values in itertools.product(*(domain.points() for domain in space.values())):
        combination = dict(zip(space, values, strict=True))
        if combination != defaults:
            yield combination


def grid_size(space: Space, defaults: Values) -> int:
    """The number of trials that `grid_trials` yields."""
    points: dict[str, Sequence[Value]] = {name: d.points() for name, d in space.items()}
    defaults_among = math.prod(points[name].count(defaults[name]) for name in space)
    return 1 + math.prod(map(len, points.values())) - defaults_among


def random_combinations(space: Space) -> Iterator[Values]:
    """Yield endless random combinations of a grid, always the same ones."""
    import numpy as np

    random = np.random.default_rng(_TRIAL_VALUES)
    points = {name: domain.points() for name, domain in space.items()}
    while True:
        yield {name: values[int(random.integers(len(values)))] for name, values in points.items()}


def nothing_fits(space: Space) -> UserError:
    """The error for a space in which no combination of values is allowed."""
    domains = ", ".join(f"{name}={domain}" for name, domain in space.items())
    return UserError(
        f"--space {domains}: of {MOST_ATTEMPTS} settings drawn from it none can be trained; "
        "narrow it, with --set"
    )


def short(value: Any) -> str:
    """Format a value for tables: 2.1e-04, 0.5, two-phase."""
    if isinstance(value, float):
        return f"{value:.2g}" if value == 0 or abs(value) >= 0.01 else f"{value:.1e}"
    return str(value)
