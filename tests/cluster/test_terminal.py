"""What Ray tells a job of its own accord is kept off the terminal."""

import os
from typing import Any

import pytest
from ray._private import worker

from raygen.cluster.terminal import silent_stderr, without_raylets

DIED = "A worker died or was killed while executing a task by an unexpected system error.\nTo see"
MEMORY = "2 Workers (tasks / actors) killed due to memory pressure (OOM),\n 0 Workers crashed"


def tell(text: str, pid: str = "raylet") -> None:
    """As Ray does with each message that reaches it."""
    worker.print_to_stdstream({"lines": [text], "pid": pid, "is_err": False}, ignore_prefix=False)


def test_of_raylets_messages_only_those_of_memory_are_left_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    def told_to(data: dict[str, Any], ignore_prefix: bool) -> None:
        told.extend(data["lines"])

    monkeypatch.setattr(worker, "print_to_stdstream", told_to)
    with without_raylets():
        tell(DIED)
        tell(MEMORY)
        tell("a line of a worker", pid="123")
    tell(DIED)
    [memory, *others] = told
    assert "due to memory pressure (OOM), 0 Workers crashed" in memory
    assert "\n" not in memory
    assert others == ["a line of a worker", DIED]


def test_what_is_written_to_stderr_meanwhile_is_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    with silent_stderr():
        os.write(2, b"hidden\n")
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"
