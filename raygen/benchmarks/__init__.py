"""What `jobs/bench.py` measures: ratios, each of timings of one run."""
