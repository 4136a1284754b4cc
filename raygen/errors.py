"""The errors that jobs explain instead of showing a traceback."""


class UserError(Exception):
    """A mistake in the user's input: one line saying what, where, and what to do.

    Jobs print the line without a traceback and exit with code 2.
    """


class ShardError(UserError):
    """A dataset on disk that is missing, incomplete or damaged."""


class RunError(Exception):
    """A failure that is not the user's mistake: what happened, and what of the run is kept.

    Jobs print the text and exit with code 1.
    """


class CheckpointError(UserError):
    """A checkpoint that is missing, incomplete, damaged, or made by another model."""


class StorageError(RunError):
    """A place that cannot be read or written any more: what happens there happens on each retry."""
