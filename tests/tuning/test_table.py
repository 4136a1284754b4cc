"""What a user sees of a sweep while it runs."""

import io

import pytest

from raygen.config.domains import Choice, Range, Space
from raygen.core.status import Progress
from raygen.evaluation.objective import Objective
from raygen.tuning.records import Report, Trial, TrialStatus
from raygen.tuning.table import LiveTable, aligned, headline, seconds_left, trial_rows

SPACE: Space = {"lr_g": Range(1e-5, 1e-3, log=True), "schedule": Choice(("1:1", "5:1"))}
LOW = Objective("quality/swd")


def trial(number: int, status: TrialStatus, images: int, objective: float | None = None) -> Trial:
    reports = [] if objective is None else [Report(images, objective, 1, 1, {})]
    return Trial(number, {"lr_g": 1e-4, "schedule": "5:1"}, status, reports=reports)


TRIALS = [
    trial(0, "finished", 900, 34.0),
    trial(1, "stopped", 100, 80.0),
    trial(2, "running", 300, 21.5),
    trial(3, "failed", 0),
    trial(4, "finished", 900, 22.0),
    trial(5, "running", 0),
]
LIVE = {
    2: Progress(450, 900, 50.0, {}),
    5: Progress(90, 900, 25.0, {}),
    0: Progress(900, 900, 70.0, {}),
}


def test_rows_begin_with_what_runs_and_then_what_is_best() -> None:
    TRIALS[1].reason = "not among the best third"
    heading, *rows = trial_rows(TRIALS, LOW, SPACE, LIVE)
    assert heading == ["trial", "state", "images", "SWD", "lr_g", "schedule", "why"]
    assert [row[0] for row in rows] == ["2", "5", "4", "0", "1", "3"]
    assert rows[0] == ["2", "50%", "450", "21.5", "1.0e-04", "5:1", ""]
    assert rows[1][:4] == ["5", "10%", "90", ""]
    assert rows[4][1:] == ["stopped", "100", "80", "1.0e-04", "5:1", "not among the best third"]


def test_rows_say_how_often_each_network_was_updated() -> None:
    def updates(trial: Trial, images: int) -> dict[str, int]:
        # Of a trial whose values conflict, nothing is known.
        return {} if trial.number == 3 else {"generator": images // 50, "discriminator": images}

    heading, *rows = trial_rows(TRIALS, LOW, SPACE, LIVE, updates)
    assert heading[-2:] == ["generator/discriminator updates", "why"]
    assert {row[0]: row[-2] for row in rows} == {
        "0": "18/900",
        "1": "2/100",
        # A running trial's are those of its latest word.
        "2": "9/450",
        "3": "",
        "4": "18/900",
        "5": "1/90",
    }
    assert {len(row) for row in rows} == {len(heading)}


def test_columns_are_aligned() -> None:
    assert aligned([["a", "bb", "why"], ["100", "2", ""]]) == ["  a  bb  why", "100   2"]


def test_the_headline_names_the_best_among_the_furthest() -> None:
    assert headline(TRIALS, 16, LOW, LIVE, 61.0) == (
        "4 of 16 trials ended - 75 images/s - about 1:01 left - best SWD 22 after 900 images: "
        "trial 4"
    )
    assert headline([], 16, LOW, {}, None) == "0 of 16 trials ended"


def test_the_time_left_counts_what_runs_and_what_is_to_come() -> None:
    # All to the end: 450 + 810 images of those that run, and 900 of each of two more.
    assert seconds_left(TRIALS, 8, LIVE, 900, True) == pytest.approx((450 + 810 + 1800) / 75)
    # Others were stopped early: (900 + 100 + 900) / 3 images each. One that is past the last rung
    # runs to its end.
    mean = 1900 / 3
    expected = (900 - 450) + (mean - 90) + 2 * mean
    assert seconds_left(TRIALS, 8, LIVE, 900, False) == pytest.approx(expected / 75)
    assert seconds_left(TRIALS, 8, {}, 900, True) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_s_table_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    stream = Terminal()
    table = LiveTable(stream)
    assert table.is_due
    table.show("head", [["trial", "why"], ["0", "a" * 50], ["1", "never seen"]])
    assert not table.is_due
    # No line is longer than the terminal is wide, and no table higher.
    assert stream.getvalue() == "head\ntrial  why\n    0  aaaaaaaaaaaa\n"
    table.tell("in the table", in_table=True)
    table.tell("news")
    assert stream.getvalue().endswith("\x1b[3F\x1b[Jnews\n")
    table.show("head", [])
    table.close()
    table.tell("end")
    assert stream.getvalue().endswith("head\nend\n")
    table.show("head", [])
    table.clear()
    assert stream.getvalue().endswith("head\n\x1b[1F\x1b[J")


def test_a_log_has_lines_and_no_table() -> None:
    stream = io.StringIO()
    table = LiveTable(stream)
    table.show("first", [["trial", "why"]])
    table.show("second", [["trial", "why"]])
    table.tell("trial 3 stopped", in_table=True)
    table.close()
    assert stream.getvalue() == "first\ntrial 3 stopped\nsecond\n"
