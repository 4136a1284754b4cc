"""Evaluation of models: pictures and metrics."""
