"""A measured figure beside its bar, and what all measurements need."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from raygen.core.errors import RunError


@dataclass(frozen=True)
class Figure:
    """A measured ratio. Attributes: bar: what it should be at least, or at most, if anything."""

    name: str
    value: float
    bar: float | None
    at_least: bool
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        bar = f"{sign} {self.bar:g}" if self.bar is not None else ""
        met = {True: "yes", False: "MISSED", None: ""}[self.met]
        return f"{self.name:62} {self.value:8.3g}  {bar:7}  {met:6}  {self.note}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_job_script(script: Path, *arguments: str) -> str:
    """Run a job in a process of its own, as a user would. Returns: what it printed.

    Raises: RunError if it fails.
    """
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{script.name} {' '.join(arguments)} failed: {done.stderr or done.stdout}")
    return done.stdout
