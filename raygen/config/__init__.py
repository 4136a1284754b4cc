"""The options of runs, their checks, and the search spaces of sweeps."""
