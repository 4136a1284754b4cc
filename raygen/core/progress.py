"""A single terminal line that shows the progress of a long operation."""

import io
import shutil
import sys
import time
from typing import TextIO


class ProgressLine:
    """Rewrites one line on a terminal; in a log file, writes a new line every few seconds."""

    def __init__(self, stream: TextIO | None = None, log_interval: float = 10.0) -> None:
        """Args: log_interval: seconds between lines where the stream is no terminal."""
        self._stream = sys.stdout if stream is None else stream
        self._rewrites = self._stream.isatty()
        self._log_interval = log_interval
        self._written_at = float("-inf")
        self._shown = ""
        self._warning = ""
        self._text = ""

    def warn(self, text: str) -> None:
        """Show a warning before the line from now on; an empty text removes it."""
        is_news = text != self._warning
        self._warning = text
        if is_news:
            self.show(self._text)

    def show(self, text: str) -> None:
        self._text = text
        text = " - ".join(filter(None, (self._warning, text)))
        self._shown = text
        now = time.monotonic()
        if self._rewrites:
            # A line that wraps could not be rewritten. \x1b[K clears what is left of a longer one.
            columns = shutil.get_terminal_size().columns
            self._stream.write(f"\r{text[: columns - 1]}\x1b[K")
        elif now - self._written_at >= self._log_interval:
            self._stream.write(f"{text}\n")
        else:
            return
        self._stream.flush()
        self._written_at = now
        self._shown = ""

    def tell(self, text: str) -> None:
        """Write a line that stays, above the progress line."""
        self.close()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Show the last state and move to a new line."""
        if self._rewrites and self._written_at > float("-inf"):
            self._stream.write("\n")
        elif self._shown:
            self._stream.write(f"{self._shown}\n")
        self._stream.flush()
        self._shown = ""
        self._written_at = float("-inf")


class Silence(ProgressLine):
    """Shows nothing, for callers that report progress in another way."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())

    def show(self, text: str) -> None:
        pass

    def tell(self, text: str) -> None:
        pass


def describe(done: int, total: int, per_second: float, unit: str = "images") -> str:
    """Format progress like `1,280/4,000 images, 31% - 512 images/s, 0:05 left`."""
    percent = 100 * done // total if total else 100
    text = f"{done:,}/{total:,} {unit}, {percent}%"
    if per_second > 0:
        text += f" - {per_second:,.0f} {unit}/s, {duration((total - done) / per_second)} left"
    return text


def duration(seconds: float) -> str:
    """Format seconds as 0:05, 12:30 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
