"""The errors that a user can mend, told in one line."""


class UserError(Exception):
    """A mistake in the user's input: one line saying what, where, and what to do.

    Jobs print the line without a traceback and exit with code 2.
    """


class ShardError(UserError):
    """A dataset on disk that is missing, incomplete or damaged."""


class CheckpointError(UserError):
    """A checkpoint that is missing, incomplete, damaged, or made by another model."""
