"""Compare trained models side by side: figures, pictures, and how sure they are.

python jobs/compare.py runs/dcgan-celeba-0 runs/dcgan-celeba-1 runs/vae-0 runs/vae-1
"""

import sys
from collections.abc import Sequence

from raygen.cli import parse_options, run_job
from raygen.comparison.options import CompareOptions


def main(argv: Sequence[str]) -> None:
    options = parse_options(CompareOptions, argv, "Compare trained models side by side.")
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    from raygen.jobs.compare import compare

    compare(options)


if __name__ == "__main__":
    sys.exit(run_job(main))
