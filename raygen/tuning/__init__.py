"""Sweeps: Ray Tune searches hyperparameters, one training run for each trial."""
