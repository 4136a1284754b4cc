"""Figures and their targets, and helpers that all measurements need."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from raygen.cluster import connection as cluster
from raygen.core.errors import RunError


@dataclass(frozen=True)
class Figure:
    """A measured ratio.

    Attributes:
        bar: the target; None: there is none.
        at_least: whether the target is a lower limit; otherwise it is an upper one.
        note: the measured values behind the ratio.
    """

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


def local_ray(num_cpus: int | None = None, **options: Any) -> AbstractContextManager[None]:
    """Start a Ray on this machine. Args: options: as for `ray.init`."""
    return cluster.connected(address="local", num_cpus=num_cpus, **options)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def seconds_for(work: Callable[[], object]) -> float:
    """How long a function takes, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run_job_script(script: Path, *arguments: str) -> str:
    """Run a job in a process of its own, on the Ray that this process is connected to.

    Returns: its standard output.
    Raises: RunError if it fails.
    """
    command = [sys.executable, str(script), *arguments]
    environment = os.environ | {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        # A private Ray takes this machine's address to be 127.0.0.1, and so must who joins it.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RunError(f"{script.name} {' '.join(arguments)} failed: {done.stderr or done.stdout}")
    return done.stdout
