"""Reading and writing a dataset's files."""
