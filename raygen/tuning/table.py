"""A sweep's display while it runs: a table of its trials and a line of progress."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from raygen.config.domains import Space, short
from raygen.core.progress import ProgressLine, duration
from raygen.core.status import Progress
from raygen.evaluation.objective import Objective
from raygen.tuning.options import AS_MANY_AS_FIT
from raygen.tuning.records import ENDED, REDUCTION, Trial, TrialStatus, best_trial

REFRESH_SECONDS = 1.0
LOG_SECONDS = 30.0
_ORDER: tuple[TrialStatus, ...] = (
    "running",
    "waiting",
    "interrupted",
    "finished",
    "stopped",
    "failed",
)


def trial_rows(
    trials: Sequence[Trial],
    objective: Objective,
    space: Space,
    progress: Mapping[int, Progress],
    updates: Callable[[Trial, int], Mapping[str, int]] | None = None,
) -> list[list[str]]:
    """A heading and a row per trial: running trials first, the others from best to worst.

    Args: updates: counts the optimizer steps of each network that a trial has taken after so many
        images; None: without this column.
    """

    def place(trial: Trial) -> tuple[int, int, float]:
        value = objective.sign * trial.objective if trial.objective is not None else float("inf")
        return _ORDER.index(trial.status), -trial.images_seen, value

    rows = []
    counts = []
    for trial in sorted(trials, key=place):
        live = progress.get(trial.number)
        running = trial.status == "running" and live is not None
        seen = live.images_seen if running and live else trial.images_seen
        state = f"{100 * seen // live.total_images}%" if running and live else trial.status
        value = "" if trial.objective is None else f"{trial.objective:.4g}"
        values = [short(trial.values[name]) for name in space]
        counts.append(updates(trial, seen) if updates else {})
        rows.append([str(trial.number), state, f"{seen:,}", value, *values, trial.reason])
    heading = ["trial", "state", "images", objective.name, *space, "why"]
    if networks := next(filter(None, counts), None):
        heading.insert(-1, f"{'/'.join(networks)} updates")
        for row, count in zip(rows, counts, strict=True):
            row.insert(-1, "/".join(f"{number:,}" for number in count.values()))
    return [heading, *rows]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows of cells as lines of text, right-aligning all columns but the last."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines


def describe_values(trial: Trial) -> str:
    """Format a trial's values as `lr_g 2.1e-04, lr_d 6.0e-04, schedule 2:1`."""
    return ", ".join(f"{name} {short(value)}" for name, value in trial.values.items())


def seconds_left(
    trials: Sequence[Trial],
    count: int,
    progress: Mapping[int, Progress],
    total_images: int,
    all_to_the_end: bool,
) -> float | None:
    """Estimate the sweep's remaining time in seconds; None while there is no basis for it.

    Args:
        count: number of all trials, including those that have not begun.
        all_to_the_end: whether no trial is stopped early.
    """
    running = [trial for trial in trials if trial.status == "running"]
    live = [progress[trial.number] for trial in running if trial.number in progress]
    rate = sum(each.images_per_second for each in live)
    if not rate:
        return None
    ended = [trial.images_seen for trial in trials if trial.status in ("finished", "stopped")]
    # If trials are stopped early, assume that future ones last as long as those that ended.
    known = ended and not all_to_the_end
    expected = sum(ended) / len(ended) if known else total_images * (1 if all_to_the_end else 0.5)
    left = sum(max(expected, _next_rung(each)) - each.images_seen for each in live)
    left += expected * (count - len(running) - sum(trial.status in ENDED for trial in trials))
    return left / rate


def _next_rung(progress: Progress) -> float:
    """The next rung at which a trial may be stopped: it runs at least to there."""
    total = progress.total_images
    rungs = (total / REDUCTION**k for k in (2, 1))
    return next((rung for rung in rungs if progress.images_seen < rung), total)


def headline(
    trials: Sequence[Trial],
    count: int,
    objective: Objective,
    progress: Mapping[int, Progress],
    left: float | None,
    noun: str = "trial",
) -> str:
    """Format as `5 of 16 trials ended - 212 images/s - 12:31 left - best SWD 48.1: trial 5`."""
    ended = sum(trial.status in ENDED for trial in trials)
    running = [t.number for t in trials if t.status == "running" and t.number in progress]
    rate = sum(progress[number].images_per_second for number in running)
    of = f" of {count:,}" if count < AS_MANY_AS_FIT else ""
    parts = [f"{ended:,}{of} {noun}s ended"]
    if rate:
        parts.append(f"{rate:,.0f} images/s")
    if left is not None:
        parts.append(f"about {duration(left)} left")
    best = best_trial(trials, objective)
    if best:
        seen = f" after {best.images_seen:,} images"
        parts.append(f"best {objective.name} {best.objective:.4g}{seen}: {noun} {best.number}")
    return " - ".join(parts)


class LiveTable:
    """Redraws a table in place on a terminal; in a log, writes what happens and, at times, a line.

    What happens to trials is in the table, so a terminal shows only the rest of it.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._redraws = self._stream.isatty()
        self._line = ProgressLine(self._stream, LOG_SECONDS)
        self._drawn_lines = 0
        self._drawn_at = float("-inf")

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed to redraw."""
        return time.monotonic() - self._drawn_at >= REFRESH_SECONDS

    def show(self, line: str, rows: Sequence[Sequence[str]]) -> None:
        self._drawn_at = time.monotonic()
        if not self._redraws:
            self._line.show(line)
            return
        size = shutil.get_terminal_size()
        texts = [line, *aligned(rows)][: max(2, size.lines - 2)]
        self.clear()
        for text in texts:
            self._stream.write(f"{text[: size.columns - 1]}\n")
        self._stream.flush()
        self._drawn_lines = len(texts)

    def tell(self, text: str, in_table: bool = False) -> None:
        """Report an event. Args: in_table: whether the table shows it too."""
        if self._redraws and in_table:
            return
        self.clear()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Stop redrawing, and leave the table on the screen."""
        self._drawn_lines = 0
        self._line.close()

    def clear(self) -> None:
        """Erase the table."""
        if self._drawn_lines:
            # Move up to the first line of the table and erase everything below.
            self._stream.write(f"\x1b[{self._drawn_lines}F\x1b[J")
            self._drawn_lines = 0
