"""Compare trained models side by side: figures, pictures, and how sure they are.

python jobs/compare.py runs/dcgan-celeba-0 runs/dcgan-celeba-1 runs/vae-0 runs/vae-1
python jobs/compare.py --suite anime --data data/anime-64 --budget 2h --tune --width 0.25
python jobs/compare.py --storage runs
"""

import sys
from collections.abc import Sequence

from raygen.cli import named_options, parse_options, run_job, split_options
from raygen.comparison.options import CompareOptions


def main(argv: Sequence[str]) -> None:
    about = "Compare trained models side by side."
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    if "suite" in named_options(argv):
        own, of_trainings = split_options(CompareOptions, argv)
        options = parse_options(CompareOptions, own, about)
        from raygen.jobs.suite import run_suite

        run_suite(options, of_trainings)
        return
    options = parse_options(CompareOptions, argv, about)
    if options.storage:
        from raygen.jobs.index import index

        index(options)
    else:
        from raygen.jobs.compare import compare

        compare(options)


if __name__ == "__main__":
    sys.exit(run_job(main))
