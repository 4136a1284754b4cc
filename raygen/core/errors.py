"""The errors that jobs explain instead of showing a traceback."""

import os

from raygen.core.printable import printable

_LONGEST, _END = 2_000, 400
"""Length to which a message is truncated, and how much of its end is kept, in characters."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Why something failed on this machine: what the system calls it, or what the error says."""
    number, said = getattr(error, "errno", None), getattr(error, "strerror", None)
    if not number:
        return one_line(error)
    # pyarrow repeats the path, which whoever tells the reason knows, and ends with a detail.
    return said if said and "Detail:" not in said else os.strerror(number)


class UserError(Exception):
    """A mistake in the user's input: one line saying what, where, and what to do.

    Jobs print the line without a traceback and exit with code 2. Whatever a file or a library puts
    into it, it stays one line that can be shown, and of a length that can be read.
    """

    def __init__(self, message: str) -> None:
        text = printable(" ".join(message.split()))
        if len(text) > _LONGEST:
            # The advice stands at the end.
            text = f"{text[: _LONGEST - _END]} ... {text[-_END:]}"
        super().__init__(text)


class ShardError(UserError):
    """The dataset on disk is missing, incomplete or damaged."""


class Unreadable(ShardError):
    """A file of a dataset cannot be read now, which does not mean that it is damaged."""


class RunError(Exception):
    """A failure that is not the user's mistake: what happened, and what of the run is kept.

    Jobs print the text and exit with code 1.
    """


class CheckpointError(UserError):
    """The checkpoint is missing, incomplete, damaged, or made by another model."""


class StorageError(RunError):
    """The storage can no longer be read or written; a retry would fail the same way."""


class Interrupted(Exception):
    """Ctrl-C was pressed and the job has put its work in order. The text says what was kept."""
