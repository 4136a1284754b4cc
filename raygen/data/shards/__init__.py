"""A dataset's files."""
