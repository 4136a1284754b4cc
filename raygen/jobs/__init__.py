"""The work of the jobs, after their options are parsed.

The scripts in `jobs/` import these modules only then: torch and Ray take seconds to import, which
neither `--help` nor a mistake in an option should have to wait for.
"""
