"""Keeps off the terminal what Ray prints there of its own accord.

Jobs say themselves, in one line each, what happened and what to do.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import worker

MEMORY = "low on memory", "memory pressure"
"""Parts of messages that say more than a job knows: it sees that a process was killed, not why."""


def quiet_loggers() -> None:
    """Have Ray log nothing but errors, and of its trainings nothing at all."""
    for name in ("ray", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Jobs say why workers failed.
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Hide what Ray's C++ library writes to stderr, such as at each attempt to connect."""
    if sys.stderr:
        sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@contextmanager
def without_raylets() -> Iterator[None]:
    """Hide what raylets tell a job about dead processes, several lines for each.

    Of those that were killed for lack of memory, one line is left.
    """
    tell = worker.print_to_stdstream

    def told(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
        if data.get("pid") == "raylet":
            text = " ".join(data["lines"])
            if not any(part in text for part in MEMORY):
                return
            data = data | {"lines": [" ".join(text.split())]}
        tell(data, *arguments, **options)

    worker.print_to_stdstream = told
    try:
        yield
    finally:
        worker.print_to_stdstream = tell
