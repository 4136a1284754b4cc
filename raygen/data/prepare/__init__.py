"""From a source to datasets."""
