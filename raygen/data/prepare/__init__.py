"""Preparing datasets from a source."""
