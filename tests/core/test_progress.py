"""The line that says how far a long operation is."""

import io

import pytest

from raygen.core.progress import ProgressLine, describe, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (5.4, "0:05"), (61, "1:01"), (3725, "1:02:05"), (-3, "0:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_descriptions() -> None:
    assert describe(1280, 4000, 512) == "1,280/4,000 images, 32% - 512 images/s, 0:05 left"
    assert describe(0, 4000, 0) == "0/4,000 images, 0%"
    assert describe(0, 0, 0) == "0/0 images, 100%"


def test_a_terminal_sees_one_line_rewritten() -> None:
    terminal = Terminal()
    line = ProgressLine(terminal)
    for text in ("one", "two"):
        line.show(text)
    line.close()
    line.close()
    assert terminal.getvalue() == "\rone\x1b[K\rtwo\x1b[K\n"


def test_a_line_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    ProgressLine(terminal).show("x" * 50)
    assert terminal.getvalue() == "\r" + "x" * 19 + "\x1b[K"


def test_a_warning_stands_before_the_line_until_it_is_over() -> None:
    terminal = Terminal()
    line = ProgressLine(terminal)
    line.show("one")
    line.warn("waiting")
    line.warn("waiting")
    line.warn("")
    assert terminal.getvalue() == "\rone\x1b[K\rwaiting - one\x1b[K\rone\x1b[K"


def test_a_log_file_sees_a_line_now_and_then_and_always_the_last() -> None:
    log = io.StringIO()
    line = ProgressLine(log, log_interval=3600)
    for text in ("one", "two", "three"):
        line.show(text)
    assert log.getvalue() == "one\n"
    line.close()
    line.close()
    assert log.getvalue() == "one\nthree\n"
