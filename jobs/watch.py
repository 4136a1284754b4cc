"""Show all runs and sweeps of a storage in TensorBoard, wherever the storage is.

python jobs/watch.py
python jobs/watch.py --storage s3://bucket/runs
"""

import sys
from collections.abc import Sequence

from raygen.cli import parse_options, run_job
from raygen.tensorboard.options import WatchOptions


def main(argv: Sequence[str]) -> None:
    options = parse_options(WatchOptions, argv, "Show runs and sweeps in TensorBoard.")
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    from raygen.jobs.watch import watch

    watch(options)


if __name__ == "__main__":
    sys.exit(run_job(main))
