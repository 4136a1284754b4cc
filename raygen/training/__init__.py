"""Training: the loop, its checkpoints and logs, and the Ray Train workers it runs in."""
