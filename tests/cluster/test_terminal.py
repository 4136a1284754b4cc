"""What Ray tells a job of its own accord is kept off the terminal."""

import os

import pytest
from ray._private import worker

from raygen.cluster.terminal import silent_stderr, without_raylets

DIED = "A worker died or was killed while executing a task by an unexpected system error.\nTo see"
MEMORY = "2 Workers (tasks / actors) killed due to memory pressure (OOM),\n 0 Workers crashed"


def tell(text: str, pid: str = "raylet") -> None:
    """As Ray does with each message that reaches it."""
    worker.print_to_stdstream({"lines": [text], "pid": pid, "is_err": False}, ignore_prefix=False)


def test_of_raylets_messages_only_those_of_memory_are_left_in_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with without_raylets():
        tell(DIED)
        assert not capsys.readouterr().out
        tell(MEMORY)
        found = capsys.readouterr().out
        assert "due to memory pressure (OOM), 0 Workers crashed" in found
        assert found.count("\n") == 1
        tell("a line of a worker", pid="123")
        assert "a line of a worker" in capsys.readouterr().out
    tell(DIED)
    assert "unexpected system error" in capsys.readouterr().out


def test_what_is_written_to_stderr_meanwhile_is_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    with silent_stderr():
        os.write(2, b"hidden\n")
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"
