"""Suites: contenders to train and compare, as JSON files.

    {"contenders": [
        {"name": "DCGAN 1:1", "preset": "dcgan-anime", "options": {"schedule": "1:1"},
         "set": ["lr_g=loguniform(1e-5,1e-3)"]},
        ...
     ],
     "published": [
        {"name": "DCGAN, published", "source": "where", "figures": {"diversity/ms_ssim": 0.29}}
    ]}

`options` are those of `jobs/train.py`; `set` and `space` are those of `jobs/tune.py`. `published`,
figures to show beside the contenders', may be left out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from raygen.comparison.page import Published
from raygen.config.run import PRESETS
from raygen.core.checked import Checked, parse
from raygen.core.errors import UserError
from raygen.core.storage import Folder

MOST_CONTENDERS = 100
MOST_BYTES = 2**20
ADVICE = "see docs/comparison.md for what a suite file holds"


@dataclass(frozen=True)
class Suite:
    """Contenders to train, and published figures to show beside theirs."""

    members: Sequence["Member"]
    published: Sequence[Published] = ()


@dataclass(frozen=True)
class Member:
    """A contender of a suite.

    Attributes:
        options: of its trainings, by name; set: what to search, as words of `jobs/tune.py`.
        space: what to search in place of the preset's own; `none`: only what `set` says.
    """

    name: str
    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    set: tuple[str, ...] = ()
    space: str = ""

    @property
    def folder(self) -> str:
        """The name of its sweep's folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "contender"


def known_suites() -> list[str]:
    """The names of the suites that raygen brings along."""
    files = resources.files("raygen.comparison").joinpath("suites").iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def read_suite(suite: str) -> Suite:
    """Read a suite. Args: suite: the name of one that raygen has, or a file or URI.

    Raises: UserError if there is no such suite, or the file is not one.
    """
    if suite in known_suites():
        text = resources.files("raygen.comparison").joinpath("suites", f"{suite}.json").read_bytes()
        return _suite(parse(text, suite, UserError, ADVICE))
    file = Folder.at(suite)
    try:
        found = file.parent.read_checked(file.name, UserError, ADVICE, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        names = ", ".join(known_suites())
        raise UserError(f"--suite {suite}: is neither a file nor one of {names}") from None
    return _suite(found)


def _suite(values: Checked) -> Suite:
    values.only(["contenders", "published"])
    known = values.entries()
    published = known["published"].items() if "published" in known else []
    return Suite(_members(values), [_published(entry) for entry in published])


def _published(values: Checked) -> Published:
    values.only(["name", "source", "figures"])
    figures = values.entry("figures").entries()
    return Published(
        values.entry("name").text(),
        values.entry("source").text(),
        {tag: figure.number() for tag, figure in figures.items()},
    )


def _members(values: Checked) -> list[Member]:
    members = [_member(entry) for entry in values.entry("contenders").items()]
    if not 1 <= len(members) <= MOST_CONTENDERS:
        values.refuse(f"has {len(members)} contenders, not 1 to {MOST_CONTENDERS}")
    for what in ("name", "folder"):
        names = [getattr(member, what) for member in members]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            values.refuse(f"two contenders are called {twice!r}, or nearly")
    return members


def _member(values: Checked) -> Member:
    values.only(["name", "preset", "options", "set", "space"])
    known = values.entries()
    options = known["options"].entries() if "options" in known else {}
    return Member(
        name=values.entry("name").text(),
        preset=str(values.entry("preset").choice(PRESETS)),
        options={name: option.value for name, option in options.items()},
        set=known["set"].texts() if "set" in known else (),
        space=known["space"].text() if "space" in known else "",
    )
