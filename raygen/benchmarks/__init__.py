"""The measurements of `jobs/bench.py`: ratios of figures that are measured in the same run."""
