"""Judging models: pictures and metrics."""
